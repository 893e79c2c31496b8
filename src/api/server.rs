//! The API's sockets: accepts, bounds and serves connections, and does what `router` only names (metrics, commands).
//! Directories and rendered metrics come in; [`Command`]s go out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::answer::Answer;
use super::blocking::settle;
use super::consul::{View, index};
use super::guard::{Via, admit};
use super::own::freshness;
use super::request::Asked;
use super::router::{Outcome, route};
use super::socket::Socket;
use super::write_deadline::WriteDeadline;
use super::{ApiError, CheckOutput, Command, Counters, Local, Metrics, Settings, Traffic, TrafficSource};
use crate::model::Directory;

/// Clients send small bodies along with requests that take none; a large one is a mistake or worse.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// hyper's buffer for a request's head; beyond it the answer is 431. Twice what clients send in practice.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pending accepts fail together when file descriptors run out; to try again at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers under way at shutdown may take this long.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// A goodbye spreads in a few gossip rounds.
const LEAVE_MAX: Duration = Duration::from_secs(20);

const CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const CONSUL_KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const CONSUL_LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const WEFT_FRESHNESS: HeaderName = HeaderName::from_static("x-weft-freshness");

/// Binds the API's listeners. Nothing is answered before [`Bound::run`].
pub async fn bind(settings: Settings) -> Result<Bound, ApiError> {
    let failed = |error| ApiError::Listen { listen: settings.listen, error };
    let tcp = TcpListener::bind(settings.listen).await.map_err(failed)?;
    let local = tcp.local_addr().map_err(failed)?;
    let unix = settings.socket.as_deref().map(Socket::bind).transpose()?;
    let check_output: CheckOutput = Arc::new(|_, _| None);
    let traffic: TrafficSource = Arc::new(Traffic::default);
    let own = Arc::new(ArcSwap::from_pointee(Local::default()));
    Ok(Bound { settings, tcp, local, unix, check_output, own, traffic, counters: Arc::default() })
}

/// Listeners that do not answer yet.
pub struct Bound {
    settings: Settings,
    tcp: TcpListener,
    local: SocketAddr,
    unix: Option<Socket>,
    check_output: CheckOutput,
    own: Arc<ArcSwap<Local>>,
    traffic: TrafficSource,
    counters: Arc<Counters>,
}

/// What every connection needs.
struct Shared {
    settings: Settings,
    directory: Arc<ArcSwap<Directory>>,
    metrics: Metrics,
    check_output: CheckOutput,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
}

impl Bound {
    /// The TCP address, with the port that was chosen where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What is counted, for `/metrics`.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Shows the outputs of local checks in `/v1/health/service/:name`.
    pub fn with_check_output(mut self, check_output: CheckOutput) -> Bound {
        self.check_output = check_output;
        self
    }

    /// Shows what this host registered in `/v1/agent/services` and `/v1/agent/checks`.
    pub fn with_local(mut self, own: Arc<ArcSwap<Local>>) -> Bound {
        self.own = own;
        self
    }

    /// Shows what the data plane carried in `/v1/weft/traffic`.
    pub fn with_traffic(mut self, traffic: TrafficSource) -> Bound {
        self.traffic = traffic;
        self
    }

    /// Serves until `shutdown` turns true or its sender is gone; answers under way are finished.
    pub async fn run(
        self,
        directory: Arc<ArcSwap<Directory>>,
        changes: watch::Receiver<u64>,
        metrics: Metrics,
        commands: mpsc::Sender<Command>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let Bound { settings, tcp, unix, check_output, counters, .. } = self;
        let _ = changes;
        let limit = || Arc::new(Semaphore::new(settings.limits.connections_max));
        let (tcp_slots, unix_slots) = (limit(), limit());
        let shared = Arc::new(Shared { settings, directory, metrics, check_output, commands, counters });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = tcp.accept() => match accepted {
                    Ok((stream, _)) => if let Some(slot) = shared.slot(&tcp_slots) {
                        let via = Via::Tcp(stream.local_addr().map_or(shared.settings.listen.ip(), |local| local.ip()));
                        let stream = WriteDeadline::new(stream, shared.settings.limits.write_timeout);
                        connections.spawn(serve(stream, via, shared.clone(), shutdown.clone(), slot));
                    },
                    Err(error) => pause(&error).await,
                },
                accepted = accept_unix(unix.as_ref()) => match accepted {
                    Ok(stream) => if let Some(slot) = shared.slot(&unix_slots) {
                        let stream = WriteDeadline::new(stream, shared.settings.limits.write_timeout);
                        connections.spawn(serve(stream, Via::Unix, shared.clone(), shutdown.clone(), slot));
                    },
                    Err(error) => pause(&error).await,
                },
                Some(_) = connections.join_next() => {}
                () = stopped(&mut shutdown) => break,
            }
        }
        drop((tcp, unix));
        let drained = async { while connections.join_next().await.is_some() {} };
        // What is not done by then is aborted with the set.
        let _late = tokio::time::timeout(DRAIN_MAX, drained).await;
    }
}

async fn accept_unix(socket: Option<&Socket>) -> std::io::Result<tokio::net::UnixStream> {
    match socket {
        Some(socket) => socket.listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn pause(error: &std::io::Error) {
    warn!(%error, "the API cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the agent is gone: as good as the word.
    let _gone = shutdown.wait_for(|stop| *stop).await;
}

impl Shared {
    /// A place among the connections; without one the connection is dropped.
    fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        Counters::add(&self.counters.connections);
        let slot = slots.clone().try_acquire_owned().ok();
        if slot.is_none() {
            Counters::add(&self.counters.connections_refused);
        }
        slot
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    via: Via,
    shared: Arc<Shared>,
    mut shutdown: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    let answering = shared.clone();
    let stopping = shutdown.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, stopping) = (answering.clone(), stopping.clone());
        async move { Ok::<_, Infallible>(shared.answer(via, request, stopping).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(shared.settings.limits.head_timeout).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        shared.count(&error);
        debug!(%error, ?via, "an API connection ended");
    }
}

impl Shared {
    fn count(&self, error: &hyper::Error) {
        let timed_out = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut);
        if error.is_parse() || error.is_parse_too_large() {
            Counters::add(&self.counters.malformed);
        } else if error.is_timeout() || timed_out {
            Counters::add(&self.counters.timed_out);
        }
    }

    /// Answers one request. Bodies are not read: nothing that is served takes one.
    async fn answer(
        &self,
        via: Via,
        request: Request<Incoming>,
        mut stopping: watch::Receiver<bool>,
    ) -> Response<Full<Bytes>> {
        Counters::add(&self.counters.requests);
        let (head, body) = request.into_parts();
        if let Err(refusal) = admit(via, head.uri.authority(), &head.headers) {
            Counters::add(&self.counters.requests_refused);
            return self.response(&self.directory.load(), Answer::error(StatusCode::FORBIDDEN, &refusal.to_string()));
        }
        if body.size_hint().lower() > BODY_BYTES_MAX {
            let refusal = format!("a body of more than {BODY_BYTES_MAX} bytes; nothing that is served here takes one");
            return self.response(&self.directory.load(), Answer::error(StatusCode::PAYLOAD_TOO_LARGE, &refusal));
        }
        let asked = Asked::new(head.method, head.uri.path(), head.uri.query().unwrap_or(""));
        tokio::select! {
            () = settle(&asked, &self.directory, self.settings.limits.wait_max) => {}
            () = stopped(&mut stopping) => {}
        }
        let directory = self.directory.load_full();
        let outcome = {
            let view = View { directory: &directory, settings: &self.settings, output: &*self.check_output };
            route(&asked, &view)
        };
        let answer = match outcome {
            Outcome::Answer(answer) => answer,
            Outcome::Metrics => {
                let mut text = String::new();
                (self.metrics)(&mut text);
                Answer::metrics(text)
            }
            Outcome::Leave => self.leave().await,
        };
        self.response(&directory, answer)
    }

    async fn leave(&self) -> Answer {
        let (reply, left) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Leave { reply }).await.ok()?;
            left.await.ok()
        };
        match tokio::time::timeout(LEAVE_MAX, asked).await {
            Ok(Some(())) => Answer::json(&serde_json::json!({ "left": true }), false),
            Ok(None) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping already"),
            Err(_) => {
                Answer::error(StatusCode::GATEWAY_TIMEOUT, "the goodbye has not spread in 20 s; see the agent's log")
            }
        }
    }

    fn response(&self, directory: &Directory, answer: Answer) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(answer.body)));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONSUL_INDEX, HeaderValue::from(index(directory)));
        headers.insert(CONSUL_KNOWN_LEADER, HeaderValue::from_static("true"));
        headers.insert(CONSUL_LAST_CONTACT, HeaderValue::from_static("0"));
        headers.insert(WEFT_FRESHNESS, HeaderValue::from_static(freshness(directory)));
        if let Some(allow) = answer.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
