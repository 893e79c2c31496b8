//! HTTP checks: one request over HTTP/1.1, on a connection of its own, over TLS where the URL says https. Connections are
//! not kept: that the service still accepts one is part of what is checked.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::tls::{Tls, TlsError};
use super::{Attempt, OUTPUT_BYTES_MAX, tcp};
use crate::config::{CheckTarget, CheckTls};
use crate::model::Health;

/// The head of a health endpoint's response is small; hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
pub(super) const AGENT: &str = concat!("weft-health/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer to judge.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("not the answer of an HTTP/1.1 server ({0})")]
    Http(#[from] hyper::Error),
    #[error("the check cannot be asked for ({0})")]
    Request(#[from] hyper::http::Error),
}

/// What is asked, in the words of the check's definition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) url: &'a str,
    pub(super) target: &'a CheckTarget,
    pub(super) path: &'a str,
    pub(super) method: &'a str,
    pub(super) headers: &'a [(String, String)],
    pub(super) body: &'a str,
    pub(super) tls: Option<&'a CheckTls>,
}

impl Ask<'_> {
    /// What is tried, for people.
    pub(super) fn title(&self) -> String {
        format!("HTTP {} {}", self.method, self.url)
    }

    /// One attempt.
    pub(super) async fn attempt(&self, shared: &Tls) -> Attempt {
        match self.answer(shared).await {
            Ok(answer) => answer.judge(&self.title()),
            Err(error) => Attempt::critical(format!("{}: {error}", self.title())),
        }
    }

    async fn answer(&self, shared: &Tls) -> Result<Answer, HttpError> {
        let request = self.request()?;
        let stream = tcp::connect(self.target).await?;
        match self.tls {
            None => exchange(request, stream).await,
            Some(tls) => exchange(request, shared.handshake(tls, self.target, &[b"http/1.1"], stream).await?).await,
        }
    }

    /// What the definition gives goes before what is sent otherwise.
    fn request(&self) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        let host = self.host();
        for (name, value) in [(HOST, host.as_str()), (USER_AGENT, AGENT), (ACCEPT, "text/plain, text/*, */*")] {
            if !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_str(value)?);
            }
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let body = Full::new(Bytes::copy_from_slice(self.body.as_bytes()));
        let mut request = Request::builder().method(self.method).uri(self.path).body(body)?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The port is named where it is not the scheme's (RFC 9110 §4.2.1).
    fn host(&self) -> String {
        let whole = self.target.to_string();
        let usual = if self.tls.is_some() { ":443" } else { ":80" };
        whole.strip_suffix(usual).map(str::to_owned).unwrap_or(whole)
    }
}

async fn exchange<S>(request: Request<Full<Bytes>>, stream: S) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TokioIo::new(stream);
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(stream).await?;
    // The connection's end is not the exchange's: what it had read by then is still to be taken from it.
    let drive = async {
        let _ended = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = async { read(sender.send_request(request).await?).await } => answer,
        never = drive => never,
    }
}

struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    /// 2xx passes, 429 warns, all else fails: Consul's rule. Redirects are not followed: where they lead may not be this
    /// instance.
    fn judge(&self, title: &str) -> Attempt {
        let health = match self.status {
            status if status.is_success() => Health::Passing,
            StatusCode::TOO_MANY_REQUESTS => Health::Warning,
            _ => Health::Critical,
        };
        let advice = match &self.location {
            Some(location) if self.status.is_redirection() => {
                format!(" to {location}, which is not followed; give the check the final path.")
            }
            _ => String::new(),
        };
        let body = String::from_utf8_lossy(&self.body);
        Attempt::new(health, format!("{title}: {}{advice} Output: {body}", self.status))
    }
}

/// Takes the head and at most [`OUTPUT_BYTES_MAX`] of the body; what is beyond is never read.
async fn read(response: Response<Incoming>) -> Result<Answer, HttpError> {
    let (head, mut incoming) = response.into_parts();
    let location = head.headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut body = Vec::new();
    while body.len() < OUTPUT_BYTES_MAX {
        let Some(frame) = incoming.frame().await else { break };
        let Ok(data) = frame?.into_data() else { continue };
        let room = OUTPUT_BYTES_MAX - body.len();
        body.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok(Answer { status: head.status, location, body })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::attempt::{Shared, attempt as attempt_with};
    use super::*;
    use crate::config::CheckKind;

    async fn attempt(kind: &CheckKind, timeout: Duration) -> Attempt {
        attempt_with(kind, timeout, &Shared::default()).await
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A server that reads one request, answers with `answer` and closes; the request comes back.
    async fn serve(answer: &'static [u8]) -> (CheckTarget, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CheckTarget { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let byte = stream.read_u8().await.unwrap();
                request.push(byte);
            }
            let _ = stream.write_all(answer).await;
            String::from_utf8(request).unwrap()
        });
        (target, server)
    }

    fn http(target: &CheckTarget) -> CheckKind {
        CheckKind::Http {
            url: format!("http://{target}/health"),
            target: target.clone(),
            path: "/health".into(),
            method: "GET".into(),
            headers: Vec::new(),
            body: String::new(),
            tls: None,
        }
    }

    async fn tried(answer: &'static [u8]) -> Attempt {
        let (target, _server) = serve(answer).await;
        attempt(&http(&target), PATIENCE).await
    }

    #[tokio::test]
    async fn a_2xx_passes_and_its_body_is_the_output() {
        let (target, server) = serve(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(attempt(&http(&target), PATIENCE).await.health, Health::Passing);
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {target}\r\n")), "{request}");

        let answer = tried(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nall ok\n").await;
        assert_eq!(answer.health, Health::Passing);
        assert!(answer.output.ends_with("200 OK Output: all ok\n"), "{}", answer.output);
    }

    #[tokio::test]
    async fn a_429_warns_and_every_other_status_fails() {
        assert_eq!(tried(b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n").await.health, Health::Warning);
        assert_eq!(tried(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await.health, Health::Critical);
        assert_eq!(tried(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").await.health, Health::Critical);
    }

    #[tokio::test]
    async fn a_redirect_fails_and_says_where_it_led() {
        let answer = tried(b"HTTP/1.1 301 Moved\r\nlocation: /healthz\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(answer.health, Health::Critical);
        assert!(answer.output.contains("to /healthz, which is not followed"), "{}", answer.output);
    }

    #[tokio::test]
    async fn what_is_not_http_fails_with_a_sentence() {
        let answer = tried(b"-ERR unknown command 'GET'\r\n").await;
        assert_eq!(answer.health, Health::Critical);
        assert!(answer.output.contains("not the answer of an HTTP/1.1 server"), "{}", answer.output);
    }

    #[tokio::test]
    async fn an_endless_body_is_cut_at_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CheckTarget { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while stream.write_all(b"8\r\nxxxxxxxx\r\n").await.is_ok() {}
        });
        let answer = attempt(&http(&target), PATIENCE).await;
        assert_eq!(answer.health, Health::Passing);
        assert_eq!(answer.output.len(), OUTPUT_BYTES_MAX);
        assert!(answer.output.ends_with("xxx"));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_fails_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CheckTarget { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let answer = attempt(&http(&target), Duration::from_millis(50)).await;
        assert_eq!(answer.health, Health::Critical);
        assert!(answer.output.ends_with("no answer within 50ms"), "{}", answer.output);
    }

    #[tokio::test]
    async fn method_headers_and_body_are_the_definition_s() {
        let (target, server) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let CheckKind::Http { url, target, path, .. } = http(&target) else { unreachable!() };
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![header("Host", "billing"), header("X-Part", "a"), header("X-Part", "b")];
        let kind =
            CheckKind::Http { url, target, path, method: "POST".into(), headers, body: "ping".into(), tls: None };
        let made = attempt(&kind, PATIENCE).await;
        assert!(made.output.starts_with("HTTP POST http://127.0.0.1:"), "{}", made.output);
        let request = server.await.unwrap();
        assert!(request.starts_with("POST /health HTTP/1.1\r\n"), "{request}");
        for line in ["host: billing", "x-part: a", "x-part: b", "content-length: 4", "connection: close"] {
            assert_eq!(request.matches(&format!("{line}\r\n")).count(), 1, "{line}: {request}");
        }
        assert_eq!(request.matches("host:").count(), 1, "{request}");
    }
}
