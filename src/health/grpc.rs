//! gRPC checks: one call of `grpc.health.v1.Health/Check` over HTTP/2. SERVING passes. The two messages have one field
//! each, so their protobuf is written and read here by hand.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::rt::Executor;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::tls::{Tls, TlsError};
use super::{Attempt, http, tcp};
use crate::config::{CheckTarget, CheckTls};
use crate::model::Health;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// A health response is a handful of bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Flag of compression and length, before each message.
const PREFIX_BYTES: usize = 5;

/// Why there is no status to judge.
#[derive(Debug, thiserror::Error)]
enum GrpcError {
    #[error("{0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("not the answer of an HTTP/2 server ({0})")]
    Http(#[from] hyper::Error),
    #[error("the check cannot be asked for ({0})")]
    Request(#[from] hyper::http::Error),
    #[error("answered {0}, not as a gRPC server")]
    Status(StatusCode),
    #[error("{}", refusal(*.code, .message))]
    Refused { code: u32, message: String },
    #[error("the answer is no HealthCheckResponse")]
    Message,
}

/// The codes of gRPC that say something about the check itself.
fn refusal(code: u32, message: &str) -> String {
    match code {
        5 => format!("the server does not know this service ({message})"),
        12 => format!("the server does not implement grpc.health.v1.Health ({message})"),
        _ => format!("refused with gRPC status {code} ({message})"),
    }
}

/// One attempt.
pub(super) async fn attempt(target: &CheckTarget, service: &str, tls: Option<&CheckTls>, shared: &Tls) -> Attempt {
    let whom = if service.is_empty() { "the server".to_owned() } else { service.to_owned() };
    let title = format!("gRPC health of {whom} at {target}");
    match ask(target, service, tls, shared).await {
        Ok(ServingStatus::Serving) => Attempt::new(Health::Passing, format!("{title}: SERVING")),
        Ok(other) => Attempt::critical(format!("{title}: {}", other.as_str())),
        Err(error) => Attempt::critical(format!("{title}: {error}")),
    }
}

async fn ask(
    target: &CheckTarget,
    service: &str,
    tls: Option<&CheckTls>,
    shared: &Tls,
) -> Result<ServingStatus, GrpcError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{target}{METHOD}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, http::AGENT)
        .body(Full::new(request_message(service)))?;
    let stream = tcp::connect(target).await?;
    match tls {
        None => exchange(request, stream).await,
        Some(tls) => exchange(request, shared.handshake(tls, target, &[b"h2"], stream).await?).await,
    }
}

async fn exchange<S>(request: Request<Full<Bytes>>, stream: S) -> Result<ServingStatus, GrpcError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tasks = Tasks::default();
    let _ended_with_the_attempt = EndTasks(tasks.clone());
    let mut builder = http2::Builder::new(tasks);
    builder.max_header_list_size(HEADERS_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let drive = async {
        let _ended = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = async { read(sender.send_request(request).await?).await } => answer,
        never = drive => never,
    }
}

async fn read(response: Response<Incoming>) -> Result<ServingStatus, GrpcError> {
    let (head, mut incoming) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(GrpcError::Status(head.status));
    }
    // A refusal comes without a message, and so in the only headers there are.
    check_status(&head.headers)?;
    let mut message = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame?;
        if let Some(trailers) = frame.trailers_ref() {
            check_status(trailers)?;
        }
        let Ok(data) = frame.into_data() else { continue };
        if message.len() + data.len() > MESSAGE_BYTES_MAX {
            return Err(GrpcError::Message);
        }
        message.extend_from_slice(&data);
    }
    response_message(&message).ok_or(GrpcError::Message)
}

/// Nothing said is nothing refused: the status comes in the trailers then.
fn check_status(headers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Some(status) = text("grpc-status") else { return Ok(()) };
    match status.parse() {
        Ok(0) => Ok(()),
        Ok(code) => Err(GrpcError::Refused { code, message: text("grpc-message").unwrap_or_default() }),
        Err(_) => Err(GrpcError::Message),
    }
}

/// `HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServingStatus {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

impl ServingStatus {
    fn as_str(self) -> &'static str {
        match self {
            ServingStatus::Unknown => "UNKNOWN",
            ServingStatus::Serving => "SERVING",
            ServingStatus::NotServing => "NOT_SERVING",
            ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// `HealthCheckRequest { string service = 1; }` with its prefix.
fn request_message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a); // field 1, of a length
        let mut length = service.len();
        while length >= 0x80 {
            message.push(low_byte(length) | 0x80);
            length >>= 7;
        }
        message.push(low_byte(length));
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    // Its length is bounded by the configuration.
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend(message);
    framed.into()
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

/// `HealthCheckResponse { ServingStatus status = 1; }` behind its prefix. `None` if it is none.
fn response_message(framed: &[u8]) -> Option<ServingStatus> {
    let (prefix, message) = framed.split_at_checked(PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    // No compression was offered.
    if prefix.first() != Some(&0) || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let (key, after) = varint(rest)?;
        rest = match key & 7 {
            0 => {
                let (value, after) = varint(after)?;
                if key >> 3 == 1 {
                    status = value;
                }
                after
            }
            1 => after.get(8..)?,
            2 => {
                let (length, after) = varint(after)?;
                after.get(usize::try_from(length).ok()?..)?
            }
            5 => after.get(4..)?,
            _ => return None,
        };
    }
    Some(match status {
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        3 => ServingStatus::ServiceUnknown,
        _ => ServingStatus::Unknown,
    })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(7 * at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

/// hyper's HTTP/2 client spawns tasks of its own; they must not outlive the attempt.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(future);
    }
}

struct EndTasks(Tasks);

impl Drop for EndTasks {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::super::attempt::{Shared, attempt as attempt_with};
    use super::*;
    use crate::config::CheckKind;

    async fn attempt(port: u16, service: &str) -> Attempt {
        let target = CheckTarget { host: "127.0.0.1".into(), port };
        let kind = CheckKind::Grpc { target, service: service.into(), tls: None };
        attempt_with(&kind, Duration::from_secs(5), &Shared::default()).await
    }

    #[tokio::test]
    async fn a_real_health_service_is_asked_by_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("billing", tonic_health::ServingStatus::NotServing).await;
        let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut service = service.clone();
            async move { tonic::codegen::Service::call(&mut service, request).await }
        });
        let server = tokio::spawn(async move {
            loop {
                let stream = TokioIo::new(listener.accept().await.unwrap().0);
                let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                tokio::spawn(connection.serve_connection(stream, answer.clone()));
            }
        });
        let whole = attempt(port, "").await;
        assert_eq!((whole.health, whole.output.ends_with("SERVING")), (Health::Passing, true), "{}", whole.output);
        let one = attempt(port, "billing").await;
        assert_eq!((one.health, one.output.ends_with(": NOT_SERVING")), (Health::Critical, true), "{}", one.output);
        let none = attempt(port, "other").await;
        assert!(none.output.contains("does not know this service"), "{}", none.output);
        server.abort();
    }

    #[tokio::test]
    async fn what_is_not_grpc_fails_with_a_sentence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 No\r\n\r\n").await;
        });
        let made = attempt(port, "").await;
        assert_eq!(made.health, Health::Critical);
        assert!(made.output.contains("not the answer of an HTTP/2 server"), "{}", made.output);
    }

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        assert_eq!(&request_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request_message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(request_message(&"a".repeat(200))[5..8], [0x0a, 0xc8, 1]);
        for (framed, serving) in [
            (&[0, 0, 0, 0, 0][..], Some(ServingStatus::Unknown)),
            (&[0, 0, 0, 0, 2, 8, 1], Some(ServingStatus::Serving)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(ServingStatus::NotServing)),
            (&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 3], Some(ServingStatus::ServiceUnknown)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0], None),
        ] {
            assert_eq!(response_message(framed), serving, "{framed:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = response_message(&bytes);
            let mut framed = vec![0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()];
            framed.extend(&bytes);
            let _ = response_message(&framed);
        }
    }
}
