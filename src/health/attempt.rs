//! One attempt of one check: a connect, or a GET over plain HTTP/1.1. Keeps nothing, decides nothing beyond the result
//! of this one attempt, and always ends within its timeout.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::{CheckKind, CheckTarget};
use crate::model::Health;

/// How much of a body is read and kept: enough for a sentence of the service's own, as Consul keeps 4 KiB.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// The head of a health endpoint's response is small; hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const AGENT: &str = concat!("weft-health/", env!("CARGO_PKG_VERSION"));

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The result: a passing or warning answer, or critical for every failure.
    pub health: Health,
    /// For people: what was tried and what came back, at most [`OUTPUT_BYTES_MAX`] and a line.
    pub output: String,
}

/// Makes one attempt. Ends within `timeout`, which counts as critical.
pub async fn attempt(kind: &CheckKind, timeout: Duration) -> Attempt {
    match kind {
        CheckKind::Http { url, target, path, .. } => within(timeout, get(target, path), |result| match result {
            Ok(answer) => answer.judge(url),
            Err(error) => critical(format!("GET {url}: {error}")),
        })
        .await
        .unwrap_or_else(|| critical(format!("GET {url}: no answer within {timeout:?}"))),
        CheckKind::Tcp { target, .. } => within(timeout, connect(target), |result| match result {
            Ok(_) => Attempt { health: Health::Passing, output: format!("TCP connect {target}: success") },
            Err(error) => critical(format!("TCP connect {target}: {error}")),
        })
        .await
        .unwrap_or_else(|| critical(format!("TCP connect {target}: no answer within {timeout:?}"))),
        other => critical(format!("{} checks are not run", other.as_str())),
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = T>, judge: impl Fn(T) -> Attempt) -> Option<Attempt> {
    tokio::time::timeout(timeout, work).await.ok().map(judge)
}

fn critical(output: String) -> Attempt {
    Attempt { health: Health::Critical, output }
}

/// Why there is no answer to judge.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("not the answer of an HTTP/1.1 server ({0})")]
    Http(#[from] hyper::Error),
    #[error("the check cannot be asked for ({0})")]
    Request(#[from] hyper::http::Error),
}

async fn connect(target: &CheckTarget) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    // Where nobody listens on a port of the ephemeral range, a connect over loopback may pick that very port as its
    // source and meet itself (TCP's simultaneous open). That is no service.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    /// 2xx passes, 429 warns, all else fails: Consul's rule. Redirects are not followed: where they lead may not be this
    /// instance.
    fn judge(&self, url: &str) -> Attempt {
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
        Attempt { health, output: format!("HTTP GET {url}: {}{advice} Output: {body}", self.status) }
    }
}

async fn get(target: &CheckTarget, path: &str) -> Result<Answer, AttemptError> {
    let request = Request::get(path)
        .header(HOST, target.to_string())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "text/plain, text/*, */*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let stream = TokioIo::new(connect(target).await?);
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

/// Takes the head and at most [`OUTPUT_BYTES_MAX`] of the body; what is beyond is never read.
async fn read(response: Response<Incoming>) -> Result<Answer, AttemptError> {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

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
        assert_eq!(answer.output.matches('x').count(), OUTPUT_BYTES_MAX);
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
    async fn a_tcp_check_passes_while_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CheckTarget { host: "localhost".into(), port: listener.local_addr().unwrap().port() };
        let kind = CheckKind::Tcp { target, tls: None };
        assert_eq!(attempt(&kind, PATIENCE).await.health, Health::Passing);
        drop(listener);
        let answer = attempt(&kind, PATIENCE).await;
        assert_eq!(answer.health, Health::Critical);
        assert!(answer.output.contains("refused"), "{}", answer.output);
    }
}
