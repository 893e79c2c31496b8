//! The agent's API as the verbs use it: typed, blocking, one connection a request, over the unix socket or TCP.
//!
//! Knows where an agent may be and how errors are to be told; knows nothing of what verbs print.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use super::output::{Api, CliError, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_USAGE};
use crate::access::TOKEN_CHARS_MAX;

const SOCKET_DEFAULT: &str = "/run/weft/weft.sock";
const TCP_DEFAULT: &str = "127.0.0.1:8500";
/// An agent on this host connects in microseconds or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For a whole answer. Leaving is the slowest: the agent gives itself 20 s.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// 100,000 instances at some 500 bytes each, with room.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Of an answer that goes on; a call's path is shown up to 2,048 characters.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Of a blocking query: the most that the agent may wait for a change. Consul's default.
const WATCH_WAIT: Duration = Duration::from_secs(300);
/// Sentences of answers that are no JSON are shown up to here.
const SENTENCE_CHARS_MAX: usize = 500;
const AGENT: &str = concat!("weft/", env!("CARGO_PKG_VERSION"));

/// Where an agent's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Address {
    fn parse(text: &str) -> Result<Address, CliError> {
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        if let Some(path) = path.or_else(|| text.starts_with(['/', '.']).then_some(text)) {
            return Ok(Address::Unix(path.into()));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let port = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match port {
            Some((host, _)) if !host.is_empty() && !authority.contains('/') => Ok(Address::Tcp(authority.to_owned())),
            _ => Err(CliError::failed(
                format!("{text:?} is no address of an API"),
                "give --api (or WEFT_API) a socket's path, HOST:PORT or http://HOST:PORT",
            )
            .exiting(EXIT_USAGE)),
        }
    }

    /// Nobody but this host sees what goes there.
    fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(authority) => {
                let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
                let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    fn host(&self) -> &str {
        match self {
            Address::Unix(_) => "localhost",
            Address::Tcp(authority) => authority,
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let connect = async {
            Ok::<Box<dyn Stream>, io::Error>(match self {
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Tcp(authority) => Box::new(TcpStream::connect(authority).await?),
            })
        };
        tokio::time::timeout(CONNECT_MAX, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(authority) => f.write_str(authority),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A value that the agent answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetched<T> {
    /// The answer.
    pub value: T,
    /// True if the agent has no contact with other hosts.
    pub stale: bool,
}

impl<T> Fetched<T> {
    /// The word for JSON output.
    pub(super) fn freshness(&self) -> &'static str {
        if self.stale { "stale" } else { "live" }
    }
}

/// A value and the index that a blocking query waits at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexed<T> {
    /// The answer.
    pub value: T,
    /// Never 0.
    pub index: u64,
    /// True if the agent has no contact with other hosts.
    pub stale: bool,
}

fn is_stale(headers: &HeaderMap) -> bool {
    headers.get("x-weft-freshness").is_some_and(|value| value == "stale")
}

/// An agent that answered.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    address: Address,
    token: Option<HeaderValue>,
}

impl Client {
    /// Finds the agent: at `api`, else at `$WEFT_API`, else at the default socket, else at 127.0.0.1:8500.
    pub(super) fn connect(api: Api) -> Result<Client, CliError> {
        let token = token(api.token_file.as_deref())?;
        let given = api.address.or_else(|| std::env::var("WEFT_API").ok().filter(|text| !text.is_empty()));
        let candidates = match given {
            Some(text) => vec![Address::parse(&text)?],
            None => vec![Address::Unix(SOCKET_DEFAULT.into()), Address::Tcp(TCP_DEFAULT.into())],
        };
        if let (Some(_), Some(address)) = (&token, candidates.iter().find(|address| !address.is_local())) {
            let message = format!("the token would go to {address} in the clear, where others can read it");
            let advice = "run this on that host; or unset WEFT_API_TOKEN, or --api-token";
            return Err(CliError::failed(message, advice).exiting(EXIT_USAGE));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CliError::failed(format!("cannot start a runtime: {error}"), ""))?;
        let mut tried = Vec::new();
        for address in candidates {
            match runtime.block_on(address.connect()) {
                Ok(_) => return Ok(Client { runtime, address, token }),
                Err(error) => tried.push(format!("{address} ({error})")),
            }
        }
        Err(unreachable(&tried.join(" or ")))
    }

    /// GET. `path` begins with `/`; whatever in it comes from a user must be [`encode`]d.
    pub(super) fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Fetched<T>, CliError> {
        let (headers, body) = self.block_on(self.ask(Method::GET, path, None, ANSWER_MAX))?;
        Ok(Fetched { value: self.read(path, &body)?, stale: is_stale(&headers) })
    }

    /// GET of text.
    pub(super) fn get_text(&self, path: &str) -> Result<String, CliError> {
        let (_, body) = self.block_on(self.ask(Method::GET, path, None, ANSWER_MAX))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// PUT without a body; the answer's body is not looked at.
    pub(super) fn put(&self, path: &str) -> Result<(), CliError> {
        self.block_on(self.ask(Method::PUT, path, None, ANSWER_MAX)).map(|_| ())
    }

    /// PUT of a JSON body; the answer's body is not looked at.
    pub(super) fn put_json(&self, path: &str, body: &Value) -> Result<(), CliError> {
        self.block_on(self.ask(Method::PUT, path, Some(body), ANSWER_MAX)).map(|_| ())
    }

    /// A write whose answer is read, also that of a refusal: what it tells of how things stand comes beside the error.
    pub(super) fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(Value, Option<CliError>), CliError> {
        let (status, _, body) = self.block_on(self.answer(method, path, Some(body), ANSWER_MAX))?;
        let error = (!status.is_success()).then(|| refused(status, path, &body));
        Ok((serde_json::from_slice(&body).unwrap_or_default(), error))
    }

    /// A blocking query (Consul's): answered when what is asked for is no longer at `index`, or after five minutes; at
    /// once with `index` 0. `path` has a query already.
    pub(super) async fn get_changed<T: DeserializeOwned>(
        &self,
        path: &str,
        index: u64,
    ) -> Result<Indexed<T>, CliError> {
        let wait = WATCH_WAIT.as_secs();
        let waiting = if index == 0 { path.to_owned() } else { format!("{path}&index={index}&wait={wait}s") };
        // Consul adds up to a sixteenth of the wait, so that many watchers do not come back together.
        let longest = if index == 0 { ANSWER_MAX } else { WATCH_WAIT + WATCH_WAIT / 16 + ANSWER_MAX };
        let (headers, body) = self.ask(Method::GET, &waiting, None, longest).await?;
        let told = headers.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        Ok(Indexed { value: self.read(path, &body)?, index: told.unwrap_or(1).max(1), stale: is_stale(&headers) })
    }

    /// GET of an answer that goes on: each line goes to `take`, until that says false or the agent ends it.
    pub(super) async fn lines(
        &self,
        path: &str,
        mut take: impl FnMut(&str) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        let begun = tokio::time::timeout(ANSWER_MAX, self.begin(Method::GET, path, None)).await;
        let begun = begun.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let (head, mut body) = begun.map_err(|error| self.broken(path, &error))?;
        if !head.status.is_success() {
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(ExchangeError::Body);
            let body = body.map_err(|error| self.broken(path, &error))?;
            return Err(refused(head.status, path, &body.to_bytes()));
        }
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(path, &error.into()))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !take(String::from_utf8_lossy(&line).trim_end())? {
                    return Ok(());
                }
            }
            if rest.len() > LINE_BYTES_MAX {
                let sentence = format!("a line of {path} is longer than {LINE_BYTES_MAX} bytes");
                return Err(CliError::failed(sentence, "the agent is of another version, or no weft at all"));
            }
        }
        Ok(())
    }

    /// Runs what waits, on the client's runtime.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    fn read<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, CliError> {
        serde_json::from_slice(body).map_err(|error| {
            let message = format!("{} answered {path} in a form that this weft does not read: {error}", self.address);
            CliError::failed(message, "the agent is of another version, or no weft at all; compare `weft --version`")
        })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        longest: Duration,
    ) -> Result<(HeaderMap, Bytes), CliError> {
        let (status, headers, body) = self.answer(method, path, body, longest).await?;
        if status.is_success() { Ok((headers, body)) } else { Err(refused(status, path, &body)) }
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        longest: Duration,
    ) -> Result<(StatusCode, HeaderMap, Bytes), CliError> {
        match tokio::time::timeout(longest, self.exchange(method, path, body)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.broken(path, &error)),
            Err(_) => {
                let message = format!("the agent at {} has not answered {path} within {longest:?}", self.address);
                Err(CliError::failed(message, "see its log: journalctl -u weft").exiting(EXIT_UNREACHABLE))
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ExchangeError> {
        let (head, body) = self.begin(method, path, body).await?;
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(ExchangeError::Body)?;
        Ok((head.status, head.headers, body.to_bytes()))
    }

    /// Sends a request, and waits for the head of its answer.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Parts, Incoming), ExchangeError> {
        let stream = TokioIo::new(self.address.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header(HOST, self.address.host()).header(USER_AGENT, AGENT);
        let request = match &self.token {
            Some(token) => request.header("x-consul-token", token),
            None => request,
        };
        let request: Request<Full<Bytes>> = match body {
            Some(value) => request.header(CONTENT_TYPE, "application/json").body(Full::from(value.to_string()))?,
            None => request.body(Full::default())?,
        };
        Ok(sender.send_request(request).await?.into_parts())
    }

    fn broken(&self, path: &str, error: &ExchangeError) -> CliError {
        match error {
            ExchangeError::Connect(error) => unreachable(&format!("{} ({error})", self.address)),
            error => CliError::failed(
                format!("the agent at {} did not finish its answer to {path}: {error}", self.address),
                "see its log: journalctl -u weft",
            )
            .exiting(EXIT_UNREACHABLE),
        }
    }
}

/// The token to show: of the file, else of `$WEFT_API_TOKEN`.
fn token(file: Option<&Path>) -> Result<Option<HeaderValue>, CliError> {
    let (text, of) = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let message = format!("cannot read the token in {}: {error}", path.display());
                CliError::failed(message, "name a file that holds what `weft acl create` printed").exiting(EXIT_USAGE)
            })?;
            (text, format!("the token in {}", path.display()))
        }
        None => (std::env::var("WEFT_API_TOKEN").unwrap_or_default(), "WEFT_API_TOKEN".to_owned()),
    };
    let text = text.trim();
    if text.is_empty() && file.is_none() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(text).ok().filter(|_| !text.is_empty() && text.len() <= TOKEN_CHARS_MAX);
    let Some(mut value) = value else {
        let advice = "it is one line, as `weft acl create` printed it";
        return Err(CliError::failed(format!("{of} is no token"), advice).exiting(EXIT_USAGE));
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error(transparent)]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error("{}", body_error(.0.as_ref()))]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

fn body_error(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => format!("it is larger than {ANSWER_BYTES_MAX} bytes"),
        None => error.to_string(),
    }
}

fn unreachable(tried: &str) -> CliError {
    CliError::failed(
        format!("no agent answers at {tried}"),
        "start it (systemctl start weft, or weft dev), or say where it is with --api or WEFT_API",
    )
    .exiting(EXIT_UNREACHABLE)
}

/// The API's own sentence, which says what to do.
fn refused(status: StatusCode, path: &str, body: &[u8]) -> CliError {
    #[derive(Deserialize)]
    struct Sentence {
        error: String,
    }
    let message = match serde_json::from_slice::<Sentence>(body) {
        Ok(body) => body.error,
        Err(_) => {
            // Consul's own form: a line of text.
            let text: String = String::from_utf8_lossy(body).trim().chars().take(SENTENCE_CHARS_MAX).collect();
            let is_sentence = !text.is_empty() && !text.starts_with(['<', '{', '[']);
            if is_sentence { text } else { format!("the agent answered {path} with {status}") }
        }
    };
    let error = CliError::failed(message, "");
    match status {
        StatusCode::NOT_FOUND => error.exiting(EXIT_NOT_FOUND),
        StatusCode::BAD_REQUEST => error.exiting(EXIT_USAGE),
        _ => error,
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters, for a path segment or a query value.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
