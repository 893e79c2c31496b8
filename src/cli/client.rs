//! The agent's API as the verbs use it: typed, blocking, one connection a request, over the unix socket or TCP.
//!
//! Knows where an agent may be and how errors are to be told; knows nothing of what verbs print.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use super::output::{CliError, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_USAGE};

const SOCKET_DEFAULT: &str = "/run/weft/weft.sock";
const TCP_DEFAULT: &str = "127.0.0.1:8500";
/// An agent on this host connects in microseconds or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For a whole answer. Leaving is the slowest: the agent gives itself 20 s.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// 100,000 instances at some 500 bytes each, with room.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
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

/// An agent that answered.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    address: Address,
}

impl Client {
    /// Finds the agent: at `api`, else at `$WEFT_API`, else at the default socket, else at 127.0.0.1:8500.
    pub(super) fn connect(api: Option<String>) -> Result<Client, CliError> {
        let given = api.or_else(|| std::env::var("WEFT_API").ok().filter(|text| !text.is_empty()));
        let candidates = match given {
            Some(text) => vec![Address::parse(&text)?],
            None => vec![Address::Unix(SOCKET_DEFAULT.into()), Address::Tcp(TCP_DEFAULT.into())],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CliError::failed(format!("cannot start a runtime: {error}"), ""))?;
        let mut tried = Vec::new();
        for address in candidates {
            match runtime.block_on(address.connect()) {
                Ok(_) => return Ok(Client { runtime, address }),
                Err(error) => tried.push(format!("{address} ({error})")),
            }
        }
        Err(unreachable(&tried.join(" or ")))
    }

    /// GET. `path` begins with `/`; whatever in it comes from a user must be [`encode`]d.
    pub(super) fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Fetched<T>, CliError> {
        let (headers, body) = self.ask(Method::GET, path)?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            let message = format!("{} answered {path} in a form that this weft does not read: {error}", self.address);
            CliError::failed(message, "the agent is of another version, or no weft at all; compare `weft --version`")
        })?;
        Ok(Fetched { value, stale: headers.get("x-weft-freshness").is_some_and(|value| value == "stale") })
    }

    /// PUT without a body; the answer's body is not looked at.
    pub(super) fn put(&self, path: &str) -> Result<(), CliError> {
        self.ask(Method::PUT, path).map(|_| ())
    }

    fn ask(&self, method: Method, path: &str) -> Result<(HeaderMap, Bytes), CliError> {
        // The timer must be made on the runtime, so the block is not as redundant as it looks.
        let answered = self.runtime.block_on(async {
            let exchange = self.exchange(method, path);
            tokio::time::timeout(ANSWER_MAX, exchange).await
        });
        let (status, headers, body) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken(path, &error)),
            Err(_) => {
                let message = format!("the agent at {} has not answered {path} within {ANSWER_MAX:?}", self.address);
                return Err(CliError::failed(message, "see its log: journalctl -u weft").exiting(EXIT_UNREACHABLE));
            }
        };
        if status.is_success() { Ok((headers, body)) } else { Err(refused(status, path, &body)) }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, HeaderMap, Bytes), ExchangeError> {
        let stream = TokioIo::new(self.address.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.host())
            .header(USER_AGENT, AGENT)
            .body(Empty::<Bytes>::new())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(ExchangeError::Body)?;
        Ok((head.status, head.headers, body.to_bytes()))
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
    let sentence = serde_json::from_slice::<Sentence>(body).map(|body| body.error);
    let message = sentence.unwrap_or_else(|_| format!("the agent answered {path} with {status}"));
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
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::cli::output::EXIT_FAILED;

    /// Answers one connect that only looks, and then each request with `answer`.
    fn serve(listener: TcpListener, answer: &'static str) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        })
    }

    fn client(answer: &'static str) -> (Client, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = serve(listener, answer);
        (Client::connect(Some(address)).unwrap(), server)
    }

    #[test]
    fn an_answer_comes_with_its_freshness() {
        let answer = "HTTP/1.1 200 OK\r\nX-Weft-Freshness: stale\r\nContent-Length: 5\r\n\r\n[1,2]";
        let (client, server) = client(answer);
        let fetched: Fetched<Vec<u8>> = client.get_json("/v1/x").unwrap();
        assert_eq!((fetched.freshness(), fetched.value), ("stale", vec![1, 2]));
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /v1/x HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
    }

    #[test]
    fn the_apis_sentence_is_the_error_and_404_has_its_own_exit_code() {
        let (client, _server) = client("HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{\"error\":\"nope\"}");
        let error = client.put("/v1/x").unwrap_err();
        assert_eq!((error.message.as_str(), error.exit_code), ("nope", EXIT_NOT_FOUND));
    }

    #[test]
    fn an_answer_that_is_not_the_agents_is_an_error_not_a_panic() {
        let (client, _server) = client("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
        assert_eq!(client.get_json::<Vec<u8>>("/v1/x").unwrap_err().exit_code, EXIT_FAILED);
    }

    #[test]
    fn nobody_there_is_exit_code_three_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        let error = Client::connect(Some(path.display().to_string())).unwrap_err();
        assert_eq!(error.exit_code, EXIT_UNREACHABLE);
        assert!(error.message.contains("weft.sock") && error.advice.contains("systemctl start weft"), "{error}");
    }

    #[test]
    fn a_socket_is_reached_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue").unwrap();
        });
        let client = Client::connect(Some(format!("unix:{}", path.display()))).unwrap();
        assert!(client.get_json::<bool>("/").unwrap().value);
        server.join().unwrap();
    }

    /// The verbs read what the API writes: both ends of each shape, together.
    #[test]
    fn every_verb_reads_what_the_api_tells() {
        use std::sync::Arc;

        use crate::api::{self, Command, specimen};

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bound = runtime.block_on(api::bind(specimen::settings())).unwrap();
        let address = bound.local_addr().to_string();
        let directory = Arc::new(arc_swap::ArcSwap::from_pointee(specimen::directory()));
        let (commands, mut asked) = tokio::sync::mpsc::channel(1);
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        std::thread::spawn(move || {
            runtime.spawn(async move {
                while let Some(Command::Leave { reply }) = asked.recv().await {
                    let _gone = reply.send(());
                }
            });
            runtime.block_on(bound.run(
                directory,
                tokio::sync::watch::channel(0).1,
                Arc::new(|_: &mut String| {}),
                commands,
                stopped,
            ));
        });
        let run = |words: &[&str]| verb(words, &address);
        for words in [&["members"][..], &["services"], &["services", "billing"], &["resolve", "v2.billing"], &["leave"]]
        {
            assert_eq!(run(words), Ok(()), "{words:?}");
        }
        assert_eq!(run(&["resolve", "web-02.node"]), Ok(()));
        assert_eq!(run(&["services", "nothing"]).unwrap_err().exit_code, EXIT_NOT_FOUND);
        assert_eq!(run(&["resolve", "nothing"]).unwrap_err().exit_code, EXIT_NOT_FOUND);
        assert_eq!(run(&["resolve", "a.b.c.d"]).unwrap_err().exit_code, EXIT_USAGE);
    }

    /// Parses and runs a verb as `weft` does, as a table and as JSON.
    fn verb(words: &[&str], api: &str) -> Result<(), CliError> {
        use crate::cli::{leave, members, output::Globals, resolve, services};
        use clap::Parser;

        #[derive(Parser)]
        struct Weft {
            #[command(flatten)]
            globals: Globals,
            #[command(subcommand)]
            verb: Verb,
        }

        #[derive(clap::Subcommand)]
        enum Verb {
            Leave(leave::Args),
            Members(members::Args),
            Resolve(resolve::Args),
            Services(services::Args),
        }

        let run = |extra: &[&str]| {
            let all = [&["weft", "--api", api], words, extra].concat();
            let Weft { globals, verb } = Weft::parse_from(all);
            match verb {
                Verb::Leave(args) => leave::run(args, &globals),
                Verb::Members(args) => members::run(args, &globals),
                Verb::Resolve(args) => resolve::run(args, &globals),
                Verb::Services(args) => services::run(args, &globals),
            }
        };
        run(&[]).and_then(|()| run(&["--json"]))
    }

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        assert_eq!(Address::parse("127.0.0.2:8500").unwrap(), tcp("127.0.0.2:8500"));
        assert_eq!(Address::parse("http://[::1]:8500/").unwrap(), tcp("[::1]:8500"));
        assert_eq!(Address::parse("/run/x.sock").unwrap(), Address::Unix("/run/x.sock".into()));
        for wrong in ["", "localhost", "https://localhost:8500", "localhost:http", ":8500", "http://h:1/x"] {
            assert_eq!(Address::parse(wrong).unwrap_err().exit_code, EXIT_USAGE, "{wrong}");
        }
    }

    #[test]
    fn what_users_type_is_encoded_for_the_path() {
        assert_eq!(encode("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    }
}
