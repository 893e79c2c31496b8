//! The data plane: connections to service VIPs in, framed streams over mutual TLS between hosts, local services out.
//!
//! ```text
//! application → VIP → caller ─┬─ deliver → local service
//!                             └─ link ══ mTLS, 7947 ══ serving → deliver → local service
//! ```
//!
//! That is how bytes are carried; services that speak HTTP have it request by request, see `http`.
//!
//! Workers (`worker`) own all of it, one thread each; they read the published [`Directory`] and tell the owner only
//! whether hosts' mesh ports answer. Nothing here changes the directory, and nothing here waits for the control plane.

mod admission;
mod attest;
mod authorize;
mod caller;
mod capture;
mod counters;
mod deliver;
mod endpoints;
mod http;
mod link;
mod pool;
mod pressure;
mod reach;
mod relay;
mod scratch;
mod serving;
mod tap;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use ipnet::Ipv4Net;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub use capture::{Mode, VipAsked};
pub use counters::{Counter, Counters};
pub use tap::{Listening, TAPS_MAX, Taps};
pub use traffic::Registry;

pub use crate::config::{AccessLog, Capture};
use crate::identity::{Groups, TlsContexts};
use crate::lobby::{self, Lobby, Place};
use crate::model::{Callers, Directory, NodeId, ServiceId, ServiceName};
use worker::{Listener, Parts};

/// Connections to the mesh port without a request yet. A host of a large fleet that returns is called by hundreds at once,
/// and one host that begins a thousand calls at once opens a thousand connections. A silent one holds about 6 KiB, one in its
/// handshake up to 40.
const MESH_WAITING: lobby::Limits = lobby::Limits { total: 2048, each: 1024 };
/// Enrolments without a request yet; a host needs one, but hundreds may be behind one address.
const ENROLMENTS_WAITING: lobby::Limits = lobby::Limits { total: 256, each: 64 };
/// Connections of programs on which nothing has moved yet, counted by the service address that they called: all programs
/// come from this host.
const CALLS_WAITING: lobby::Limits = lobby::Limits { total: 2048, each: 1024 };
/// What a round trip to another agent asks for. It is refused whatever services there are, and counted as nothing.
const PROBE_NAME: &str = "weft-probe";
/// Questions of the DNS shim that wait for the binder.
const ASKED_QUEUE: usize = 256;

/// What the data plane is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This host.
    pub local: NodeId,
    /// The cluster's name; peers of another are refused.
    pub cluster: String,
    /// Threads; at least one.
    pub workers: usize,
    /// The mesh port.
    pub mesh_listen: SocketAddr,
    /// Where the redirect rule sends VIP connections.
    pub capture_listen: SocketAddr,
    /// How VIPs are captured.
    pub capture: Capture,
    /// Where VIPs come from.
    pub vip_range: Ipv4Net,
    /// For a TCP connect to another host.
    pub connect_timeout: Duration,
    /// For the far side's ACCEPT, its own connect to the service included.
    pub accept_timeout: Duration,
    /// For a stream on which nothing moves.
    pub idle_timeout: Duration,
    /// For calls still open when the agent stops.
    pub drain_timeout: Duration,
    /// For a connect to a service of this host.
    pub delivery_timeout: Duration,
    /// For the beginning of a response, where its service does not say.
    pub request_timeout: Duration,
    /// For an application to send the head of its next request, from the end of the last response or the beginning of the
    /// connection.
    pub head_timeout: Duration,
    /// Whether and how requests are logged.
    pub access_log: AccessLog,
}

/// What the data plane tells the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A host's mesh port does not answer.
    MeshUnreachable(NodeId),
    /// It answers again.
    MeshReachable(NodeId),
    /// An instance gets no calls for a while, because those that it got failed. For the history, so it may be lost: send it
    /// without waiting. Each worker may say so for itself.
    Ejected {
        /// Its host.
        node: NodeId,
        /// Its service.
        service: ServiceName,
        /// Its id.
        instance: ServiceId,
        /// By this host's clock, for people.
        until: SystemTime,
        /// In a few words: what it did.
        why: String,
    },
    /// It gets calls again.
    Returned {
        /// Its host.
        node: NodeId,
        /// Its service.
        service: ServiceName,
        /// Its id.
        instance: ServiceId,
    },
}

/// Where the data plane's connections wait until they have proven themselves.
#[derive(Debug, Clone)]
pub struct Lobbies {
    /// Connections to the mesh port without a request yet.
    pub mesh: Lobby,
    /// Enrolments without a request yet.
    pub enroll: Lobby,
    /// Programs' connections on which nothing has moved yet.
    pub calls: Lobby,
}

impl Default for Lobbies {
    fn default() -> Lobbies {
        Lobbies {
            mesh: Lobby::new(MESH_WAITING),
            enroll: Lobby::new(ENROLMENTS_WAITING),
            calls: Lobby::new(CALLS_WAITING),
        }
    }
}

/// A connection to the mesh port that wants to enrol: handed to the control plane with the bytes already read.
#[derive(Debug)]
pub struct EnrollConnection {
    /// The connection.
    pub tcp: std::net::TcpStream,
    /// Its ClientHello.
    pub received: Vec<u8>,
    /// Its place among the enrolments that have asked for nothing yet.
    pub place: Place,
}

/// What the data plane reads and writes.
pub struct Wires {
    /// The published snapshot.
    pub directory: Arc<ArcSwap<Directory>>,
    /// Changes with every publication.
    pub changes: watch::Receiver<u64>,
    /// Which programs of this host are which of its services.
    pub callers: Arc<ArcSwap<Callers>>,
    /// The control groups of this host.
    pub groups: Groups,
    /// The TLS configurations; a renewal shows in them.
    pub tls: TlsContexts,
    /// News for the owner.
    pub events: mpsc::Sender<Event>,
    /// Enrolments for the control plane.
    pub enroll: mpsc::Sender<EnrollConnection>,
    /// True once the agent stops.
    pub shutdown: watch::Receiver<bool>,
}

/// Why the data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A port is not to be had.
    #[error("cannot listen on {address} ({what}): {error}; see `ss -ltnp` for who does, or change `{key}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// The configuration key.
        key: &'static str,
        /// The system's words.
        error: io::Error,
    },
    /// No randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// No thread.
    #[error("cannot start a proxy worker: {0}")]
    Thread(io::Error),
}

/// The running data plane.
pub struct Proxy {
    counters: Arc<Counters>,
    lobbies: Lobbies,
    traffic: Arc<Registry>,
    taps: Arc<Taps>,
    log_lines_lost: Option<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
    workers: Vec<mpsc::UnboundedSender<Listener>>,
    settings: Arc<Settings>,
    directory: Arc<ArcSwap<Directory>>,
    changes: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
    captured: bool,
}

/// Binds the ports and starts the workers.
pub fn start(settings: Settings, wires: Wires) -> Result<Proxy, ProxyError> {
    let count = settings.workers.max(1);
    let listen = |address, what, key| {
        capture::bind_all(address, count).map_err(|error| ProxyError::Listen { address, what, key, error })
    };
    let mesh = listen(settings.mesh_listen, "mesh", "mesh.listen")?;
    let listen_captured = || {
        let (address, what, key) = (settings.capture_listen, "capture, and the port after it", "proxy.capture_listen");
        capture::bind_captured(address, count).map_err(|error| ProxyError::Listen { address, what, key, error })
    };
    let captured = match settings.capture {
        Capture::Bind => None,
        Capture::Redirect => Some(listen_captured()?),
        Capture::Auto => {
            listen_captured().inspect_err(|error| warn!(%error, "VIPs will be bound one by one instead")).ok()
        }
    };
    let settings = Arc::new(settings);
    let counters = Arc::new(Counters::default());
    let lobbies = Lobbies::default();
    let traffic = Arc::new(Registry::default());
    let taps = Arc::new(Taps::default());
    let access_log = http::AccessLogger::start(settings.access_log).map_err(ProxyError::Thread)?;
    let attest = attest::Shared::new(wires.callers, wires.groups);
    let admission = Arc::new(admission::Admission::default());
    let (mut threads, mut workers) = (Vec::new(), Vec::new());
    let has_captured = captured.is_some();
    let mut captured = captured.into_iter().flatten();
    let mut seeds =
        ChaCha8Rng::try_from_rng(&mut rand::rngs::SysRng).map_err(|error| ProxyError::Random(error.to_string()))?;
    for (index, mesh) in mesh.into_iter().enumerate() {
        let (sender, listeners) = mpsc::unbounded_channel();
        let captured = captured.next().into_iter().flatten().map(Listener::Captured);
        for listener in std::iter::once(Listener::Mesh(mesh)).chain(captured) {
            // The receiver is in hand, so this cannot fail.
            let _ = sender.send(listener);
        }
        let parts = Parts {
            index,
            settings: settings.clone(),
            directory: wires.directory.clone(),
            changes: wires.changes.clone(),
            tls: wires.tls.clone(),
            counters: counters.clone(),
            lobbies: lobbies.clone(),
            traffic: traffic.clone(),
            taps: taps.clone(),
            access_log: access_log.clone(),
            attest: attest.clone(),
            admission: admission.clone(),
            events: wires.events.clone(),
            enroll: wires.enroll.clone(),
            listeners,
            shutdown: wires.shutdown.clone(),
            rng: ChaCha8Rng::seed_from_u64(seeds.next_u64()),
        };
        let thread = std::thread::Builder::new().name(format!("weft-proxy-{index}"));
        threads.push(thread.spawn(move || worker::run(parts)).map_err(ProxyError::Thread)?);
        workers.push(sender);
    }
    Ok(Proxy {
        counters,
        lobbies,
        traffic,
        taps,
        log_lines_lost: access_log.map(|log| log.lost()),
        threads,
        workers,
        settings,
        directory: wires.directory,
        changes: wires.changes,
        shutdown: wires.shutdown,
        captured: has_captured,
    })
}

impl Proxy {
    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Where connections wait until they have proven themselves.
    pub fn lobbies(&self) -> Lobbies {
        self.lobbies.clone()
    }

    /// What it carried, edge by edge.
    pub fn traffic(&self) -> Arc<Registry> {
        self.traffic.clone()
    }

    /// Who looks at its calls.
    pub fn taps(&self) -> Arc<Taps> {
        self.taps.clone()
    }

    /// Lines of the access log that were lost; `None` where there is no such log.
    pub fn log_lines_lost(&self) -> Option<Arc<AtomicU64>> {
        self.log_lines_lost.clone()
    }

    /// Finds out how VIPs are captured and answers the DNS shim's questions from then on, in a task of its own.
    pub async fn capture(&self) -> (Mode, mpsc::Sender<VipAsked>) {
        let proved = self.captured && capture::prove_redirect(self.settings.vip_range).await;
        let mode = match (self.settings.capture, proved) {
            (Capture::Bind, _) | (Capture::Auto, false) => Mode::Bind,
            (Capture::Redirect, false) => {
                warn!("the redirect rule does not work: start weft-redirect.service; until then no VIP answers");
                Mode::Redirect
            }
            (_, true) => Mode::Redirect,
        };
        match mode {
            Mode::Redirect => {
                info!(range = %self.settings.vip_range, "service addresses are captured by the redirect rule");
            }
            Mode::Bind => info!(range = %self.settings.vip_range, "service addresses are bound as they are asked for"),
        }
        let (ask, asked) = mpsc::channel(ASKED_QUEUE);
        let binder = capture::Binder {
            directory: self.directory.clone(),
            changes: self.changes.clone(),
            workers: self.workers.clone(),
            asked,
        };
        tokio::spawn(binder.run(mode, self.shutdown.clone()));
        (mode, ask)
    }

    /// Waits for the workers to drain, after shutdown was signalled. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a proxy worker had panicked");
            }
        }
    }
}
