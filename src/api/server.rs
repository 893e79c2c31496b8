//! The API's sockets: accepts, bounds and serves connections. What each request is answered with is `responder`'s.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::audited::Reports;
use super::guard::Via;
use super::responder::{Recent, Shared, stopped};
use super::rights::{Client, Openness, Peer};
use super::socket::Socket;
use super::tap::TapSource;
use super::tls::acceptor;
use super::watch::Hub;
use super::whoami::{Ends, WhoAsks};
use super::write_deadline::WriteDeadline;
use super::{
    ApiError, CheckOutput, Command, Counters, Limits, Local, Metrics, Settings, Traffic, TrafficSource, VersionsSource,
};
use crate::access::{Audit, Tokens};
use crate::lobby::{self, Lobby, Place, Source};
use crate::model::Directory;

/// hyper's buffer for a request's head; beyond it the answer is 431. Twice what clients send in practice.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pending accepts fail together when file descriptors run out; to try again at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A TLS handshake takes two round trips; a client slower than this is no client.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Answers under way at shutdown may take this long.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Binds the API's listeners. Nothing is answered before [`Bound::run`].
pub async fn bind(settings: Settings) -> Result<Bound, ApiError> {
    let listen = settings.listen;
    let failed = |error| ApiError::Listen { listen, error };
    let tokens = settings.data_dir.as_deref().map(Tokens::of);
    let tls = settings.tls.as_ref().map(acceptor).transpose()?;
    if !listen.ip().is_loopback() {
        let lacking = match (&tls, &tokens) {
            (None, _) => {
                "there is no TLS: set `tls_cert` and `tls_key` under [api], or listen on 127.0.0.1; the unix socket is \
                 for this host's operators either way"
            }
            (_, Some(tokens)) if tokens.any() => "",
            _ => {
                "there is no token: make one first (weft acl create NAME --role read|register|operator), or listen on \
                 127.0.0.1"
            }
        };
        if !lacking.is_empty() {
            return Err(ApiError::Exposed { listen, lacking });
        }
    }
    let audit = settings.data_dir.as_deref().map(Audit::start).transpose().map_err(ApiError::Audit)?;
    let audit_lost = audit.as_ref().map(Audit::lost).unwrap_or_default();
    let tcp = TcpListener::bind(settings.listen).await.map_err(failed)?;
    let local = tcp.local_addr().map_err(failed)?;
    let unix = settings.socket.as_deref().map(Socket::bind).transpose()?;
    let check_output: CheckOutput = Arc::new(|_| None);
    let traffic: TrafficSource = Arc::new(Traffic::default);
    let versions: VersionsSource = Arc::new(|_| None);
    let own = Arc::new(ArcSwap::from_pointee(Local::default()));
    let lobbies = Lobbies::new(local.ip(), &settings.limits);
    Ok(Bound {
        settings,
        tcp,
        tls,
        local,
        unix,
        tokens,
        audit,
        check_output,
        own,
        traffic,
        taps: None,
        versions,
        who_asks: None,
        counters: Arc::new(Counters { audit_lost, ..Counters::default() }),
        lobbies,
    })
}

/// Listeners that do not answer yet.
pub struct Bound {
    settings: Settings,
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    local: SocketAddr,
    unix: Option<Socket>,
    tokens: Option<Tokens>,
    audit: Option<Audit>,
    check_output: CheckOutput,
    own: Arc<ArcSwap<Local>>,
    traffic: TrafficSource,
    taps: Option<TapSource>,
    versions: VersionsSource,
    who_asks: Option<WhoAsks>,
    counters: Arc<Counters>,
    lobbies: Lobbies,
}

/// Connections without a request under way, those of the socket apart: who may only reach TCP cannot crowd out an operator.
#[derive(Debug, Clone)]
struct Lobbies {
    tcp: Lobby,
    socket: Lobby,
}

impl Lobbies {
    fn new(listen: IpAddr, limits: &Limits) -> Lobbies {
        let total = limits.waiting_max;
        // On loopback all programs share one address.
        let each = if listen.is_loopback() { total } else { limits.waiting_each_max.min(total) };
        let lobby = |each| Lobby::new(lobby::Limits { total, each });
        Lobbies { tcp: lobby(each), socket: lobby(total) }
    }
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

    /// Connections without a request under way: over TCP, and over the unix socket.
    pub fn lobbies(&self) -> [Lobby; 2] {
        [self.lobbies.tcp.clone(), self.lobbies.socket.clone()]
    }

    /// Shows the outputs of local checks wherever those are told.
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

    /// Shows calls as they end in `/v1/weft/tap`.
    pub fn with_taps(mut self, taps: TapSource) -> Bound {
        self.taps = Some(taps);
        self
    }

    /// Shows which versions of the gossip protocol are spoken with each host in `/v1/agent/members`.
    pub fn with_versions(mut self, versions: VersionsSource) -> Bound {
        self.versions = versions;
        self
    }

    /// Tells programs in `/v1/weft/whoami` which service they call as.
    pub fn with_who_asks(mut self, who_asks: WhoAsks) -> Bound {
        self.who_asks = Some(who_asks);
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
        let Bound {
            settings,
            tcp,
            tls,
            local: _,
            unix,
            tokens,
            audit,
            check_output,
            own,
            traffic,
            taps,
            versions,
            who_asks,
            counters,
            lobbies,
        } = self;
        let open = Openness { on_loopback: settings.listen.ip().is_loopback(), writes: settings.writes_over_tcp };
        let hub = Hub::new(directory.clone(), own.clone());
        let waking = tokio::spawn(hub.clone().run(changes));
        let limit = || Arc::new(Semaphore::new(settings.limits.connections_max));
        let (tcp_slots, unix_slots) = (limit(), limit());
        let bodies = Semaphore::new(settings.limits.bodies_max);
        let shared = Arc::new(Shared {
            settings,
            directory,
            own,
            hub,
            metrics,
            traffic,
            taps,
            versions,
            who_asks,
            check_output,
            open,
            tokens,
            audit,
            reports: Reports::default(),
            commands,
            bodies,
            recent: Recent::default(),
            counters,
        });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = tcp.accept() => match accepted {
                    Ok((stream, client)) => if let Some(slot) = shared.slot(&tcp_slots) {
                        let ends = stream.local_addr().ok().map(|remote| Ends { local: client, remote });
                        let ip = stream.local_addr().map_or(shared.settings.listen.ip(), |local| local.ip());
                        let stream = WriteDeadline::new(stream, shared.settings.limits.write_timeout);
                        let via = if tls.is_some() { Via::Tls } else { Via::Tcp(ip) };
                        let held = (slot, lobbies.tcp.enter(Source::of(client.ip())));
                        let client = Client { via, ends, peer: None };
                        let (shared, shutdown) = (shared.clone(), shutdown.clone());
                        match tls.clone() {
                            Some(tls) => connections.spawn(serve_tls(tls, stream, client, shared, shutdown, held)),
                            None => connections.spawn(serve(stream, client, shared, shutdown, held)),
                        };
                    },
                    Err(error) => pause(&error, &lobbies.tcp).await,
                },
                accepted = accept_unix(unix.as_ref()) => match accepted {
                    Ok(stream) => if let Some(slot) = shared.slot(&unix_slots) {
                        let peer = peer(&stream, shared.settings.socket.as_deref());
                        let client = Client { via: Via::Unix, ends: None, peer };
                        let stream = WriteDeadline::new(stream, shared.settings.limits.write_timeout);
                        let held = (slot, lobbies.socket.enter(Source::SOCKET));
                        connections.spawn(serve(stream, client, shared.clone(), shutdown.clone(), held));
                    },
                    Err(error) => pause(&error, &lobbies.socket).await,
                },
                Some(_) = connections.join_next() => {}
                () = stopped(&mut shutdown) => break,
            }
        }
        drop((tcp, unix));
        let drained = async { while connections.join_next().await.is_some() {} };
        // What is not done by then is aborted with the set.
        let _late = tokio::time::timeout(DRAIN_MAX, drained).await;
        waking.abort();
    }
}

async fn accept_unix(socket: Option<&Socket>) -> std::io::Result<tokio::net::UnixStream> {
    match socket {
        Some(socket) => socket.listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Who is at the other end, as the kernel has it. The socket's file lets in root, its owner and its group, however the
/// kernel knows them (supplementary groups too); if somebody has opened it to more, the rest count as any program does.
fn peer(stream: &tokio::net::UnixStream, path: Option<&Path>) -> Option<Peer> {
    let known = stream.peer_cred().ok()?;
    let (uid, gid) = (known.uid(), known.gid());
    let file = path.and_then(|path| std::fs::metadata(path).ok());
    let is_closed = file.as_ref().is_some_and(|file| file.mode() & 0o007 == 0);
    let is_member =
        uid == 0 || uid == rustix::process::geteuid().as_raw() || file.is_some_and(|file| file.gid() == gid);
    Some(Peer { uid, gid, pid: known.pid(), is_operator: is_closed || is_member })
}

async fn serve_tls<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    tls: TlsAcceptor,
    stream: S,
    client: Client,
    shared: Arc<Shared>,
    shutdown: watch::Receiver<bool>,
    held: (OwnedSemaphorePermit, Place),
) {
    let shaken = async {
        tokio::select! {
            shaken = tls.accept(stream) => shaken,
            // Others need its place.
            () = held.1.shown_out() => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    };
    match tokio::time::timeout(HANDSHAKE_MAX, shaken).await {
        Ok(Ok(stream)) => serve(stream, client, shared, shutdown, held).await,
        Ok(Err(error)) => {
            Counters::add(&shared.counters.malformed);
            debug!(%error, "a TLS handshake with the API failed");
        }
        Err(_) => Counters::add(&shared.counters.timed_out),
    }
}

async fn pause(error: &std::io::Error, lobby: &Lobby) {
    if lobby.accept_failed() {
        warn!(%error, "the API cannot accept a connection; if files ran out, raise LimitNOFILE");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
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
    client: Client,
    shared: Arc<Shared>,
    mut shutdown: watch::Receiver<bool>,
    (_slot, place): (OwnedSemaphorePermit, Place),
) {
    let answering = shared.clone();
    let stopping = shutdown.clone();
    let place = Arc::new(place);
    let waiting = place.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, stopping, place) = (answering.clone(), stopping.clone(), place.clone());
        async move {
            place.prove();
            let answer = shared.answer(client, request, stopping).await;
            // Idle again, once the answer is written; a client that does not take it is idle too. An answer that goes on is
            // in use to its end, which is the connection's.
            if !answer.body().goes_on() {
                place.wait();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(shared.settings.limits.head_timeout).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = waiting.shown_out() => return,
        () = stopped(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        shared.count(&error);
        debug!(%error, via = ?client.via, "an API connection ended");
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
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
