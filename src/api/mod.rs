//! The HTTP API: Consul's catalog and health endpoints in Consul's shapes, Weft's own under `/v1/weft/`, and `/metrics`.
//!
//! Requests come in over `[api] listen` and the unix socket; everything shown is read from the published `Directory` and
//! from what this host registered ([`Local`]). The only way from here into the agent is [`Command`]. The API is not a
//! way in: what changes something takes the socket or a token (`rights`) and is told to the audit log (`audited`);
//! requests whose `Host` or `Origin` belongs to somebody else are refused, and so are writes of pages (`guard`);
//! heads, bodies, connections and times are bounded (`server`).
//!
//! `router` decides, purely, what a read is answered with, `writes` which command a write is; `consul`, `own`, `explain`
//! and `telemetry` build the bodies, `filter` narrows them; `watch` is where blocking queries wait; `tap` is the one answer
//! that goes on; `server` owns the sockets. KV, sessions, transactions and prepared queries answer 501: 404 would tell a KV client "no such key".

mod answer;
mod audited;
mod connect;
mod consul;
mod durations;
mod explain;
mod filter;
#[cfg(test)]
mod fixtures_tests;
#[doc(hidden)]
pub mod fuzzed;
mod guard;
mod keyring;
mod local;
mod own;
mod parameters;
mod report;
mod request;
mod resolve;
mod responder;
mod rights;
mod router;
mod server;
mod socket;
#[cfg(test)]
pub(crate) mod specimen;
mod tap;
mod telemetry;
mod tls;
mod traffic_policies;
mod trust;
mod watch;
mod whoami;
mod write_deadline;
mod writes;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use bytes::Bytes;

use crate::config::{CheckRegistration, ServiceDefinition};
use crate::model::{Health, NodeId, NodeName, ProtocolVersions, ServiceId};

pub use crate::model::{BUCKET_BOUNDS_US, Direction, Edge, Traffic};
pub use keyring::{
    KeyState, KeyringAnswer, KeyringOrder, KeyringRefused, KeyringReply, KeyringReport, Refusal as KeyringRefusal,
    Silent,
};
pub use local::{Local, LocalCheck, LocalService};
pub use server::{Bound, bind};
pub use tap::{TapSource, Tapped};
pub use tls::TlsFiles;
pub use whoami::WhoAsks;

/// What the API is told at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[api] listen`.
    pub listen: SocketAddr,
    /// `[api] socket`.
    pub socket: Option<PathBuf>,
    /// The cluster's name, which is Consul's datacenter here.
    pub cluster: String,
    /// This host's name.
    pub node: NodeName,
    /// The DNS domain, for `/v1/weft/resolve`.
    pub domain: String,
    /// This agent's version.
    pub version: String,
    /// `[api] tls_cert` and `tls_key`. Without it only loopback is listened on.
    pub tls: Option<TlsFiles>,
    /// Any program of this host may change things over TCP, without a token.
    pub writes_over_tcp: bool,
    /// Where tokens are, and where the audit log goes. Without it there are neither.
    pub data_dir: Option<PathBuf>,
    /// How calls to VIPs are taken, `redirect` or `bind`, for `/v1/weft/explain`; `None` if that is not known.
    pub capture: Option<String>,
    /// Roots, DER, that this host believed when it started; later ones are in the directory.
    pub roots: Vec<Vec<u8>>,
    /// Bounds on clients.
    pub limits: Limits,
}

/// Bounds on clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once over TCP, and as many again over the unix socket, so that nobody who may only reach TCP can
    /// shut out the operator. Each program that watches holds one or a few.
    pub connections_max: usize,
    /// Of those, connections without a request under way: beyond it the one that has been idle for longest is closed, which
    /// a client must be ready for (RFC 9112 §9.5). Each holds about 6 KiB.
    pub waiting_max: usize,
    /// Of those, from one address, where others than this host may ask.
    pub waiting_each_max: usize,
    /// Bodies being read at once, each of at most 256 KiB.
    pub bodies_max: usize,
    /// From the start of a connection, or the end of an answer, to the end of the next request's head.
    pub head_timeout: Duration,
    /// From the end of a head to the end of its body.
    pub body_timeout: Duration,
    /// How long a client may take none of an answer that it asked for.
    pub write_timeout: Duration,
    /// What one `?wait=` may ask for at most; Consul's limit.
    pub wait_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            waiting_max: 1024,
            waiting_each_max: 128,
            bodies_max: 64,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            wait_max: Duration::from_secs(600),
        }
    }
}

/// What a request may ask of the agent.
#[derive(Debug)]
pub enum Command {
    /// Leave the cluster gracefully, then answer.
    Leave {
        /// Answered when the goodbye has spread.
        reply: oneshot::Sender<()>,
    },
    /// Register a service, or replace the one of that id that came by the API.
    Register {
        /// The service; its checks are part of it.
        definition: Box<ServiceDefinition>,
        /// The body, as it came: it is what is kept on disk.
        body: Bytes,
        /// Checks registered for it apart from it go, unless they are in `definition`.
        replace_checks: bool,
        /// The outcome.
        reply: Reply,
    },
    /// Let go of a service that came by the API.
    Deregister {
        /// Its id.
        id: ServiceId,
        /// The outcome.
        reply: Reply,
    },
    /// Add a check to a service, or to the host.
    RegisterCheck {
        /// The check.
        registration: Box<CheckRegistration>,
        /// The body, as it came.
        body: Bytes,
        /// The outcome.
        reply: Reply,
    },
    /// Let go of a check that came by the API.
    DeregisterCheck {
        /// Its id.
        id: String,
        /// The outcome.
        reply: Reply,
    },
    /// A report for a TTL check.
    UpdateCheck {
        /// Its id.
        id: String,
        /// What is reported.
        health: Health,
        /// For people; at most 4 KiB.
        output: String,
        /// The outcome.
        reply: Reply,
    },
    /// Maintenance of a service, or of the whole host.
    Maintain {
        /// Which service; `None` is the host.
        service: Option<ServiceId>,
        /// On, with its reason, or off.
        reason: Option<String>,
        /// The outcome.
        reply: Reply,
    },
    /// Ask a host for the mesh, as if it were a seed.
    Join {
        /// `HOST:PORT`.
        address: String,
        /// The outcome.
        reply: Reply,
    },
    /// A failed host will not come back: it has left.
    ForceLeave {
        /// Its name.
        node: NodeName,
        /// It is forgotten at once.
        prune: bool,
        /// The outcome.
        reply: Reply,
    },
    /// Read the files again.
    Reload {
        /// The outcome.
        reply: Reply,
    },
    /// What an operator has decided and signed.
    Decide {
        /// The body of a policy record.
        policy: Vec<u8>,
        /// The outcome.
        reply: Reply,
    },
    /// Look at, or change, the gossip keys of every host.
    Keyring {
        /// What is to be done.
        order: KeyringOrder,
        /// The outcome.
        reply: KeyringReply,
    },
}

/// Where the outcome of a command goes.
pub type Reply = oneshot::Sender<Result<(), Refused>>;

/// Why a command was refused; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such thing: 404.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done as asked: 400.
    #[error("{0}")]
    Invalid(String),
    /// This host's certificate does not grant it: 403.
    #[error("{0}")]
    NotGranted(String),
    /// It should have worked: 500.
    #[error("{0}")]
    Failed(String),
}

/// Renders `/metrics`: OpenMetrics text, appended.
pub type Metrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// The last output of a local check, by its id; it never leaves its host.
pub type CheckOutput = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What the data plane has carried.
pub type TrafficSource = Arc<dyn Fn() -> Traffic + Send + Sync>;
/// Says which versions of the gossip protocol are spoken with a host; `None` of one that has not told.
pub type VersionsSource = Arc<dyn Fn(NodeId) -> Option<ProtocolVersions> + Send + Sync>;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The TCP address cannot be bound.
    #[error("cannot listen on {listen} for the API: {error}; stop what listens there, or set another `[api] listen`")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Beyond loopback, without what that takes.
    #[error("`[api] listen` = {listen} lets others than this host in, and {lacking}")]
    Exposed {
        /// The address.
        listen: SocketAddr,
        /// What there is not, and what to do.
        lacking: &'static str,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use {} for the API: {why}; `[api] tls_cert` and `tls_key` name a certificate and its key, in PEM", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No thread for the audit log.
    #[error("the system refuses a thread for the audit log: {0}")]
    Audit(io::Error),
    /// The unix socket cannot be bound.
    #[error("cannot make the socket {}: {error}; {advice}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
        /// What to do.
        advice: &'static str,
    },
}

/// What the API counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections closed at once because too many were open.
    pub connections_refused: AtomicU64,
    /// Requests answered, whatever the answer.
    pub requests: AtomicU64,
    /// Requests refused for their `Host`, `Origin` or `Sec-Fetch-Site`, writes of pages among them.
    pub requests_refused: AtomicU64,
    /// Requests refused for want of a token, or of its role.
    pub denied: AtomicU64,
    /// Lines of the audit log that were lost.
    pub audit_lost: Arc<AtomicU64>,
    /// Connections closed over bytes that are not HTTP, or over a head beyond its limits.
    pub malformed: AtomicU64,
    /// Connections closed because a head, or the reading of an answer, took too long.
    pub timed_out: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Every counter as (name, what it counts, value), for `/metrics`.
    pub fn values(&self) -> [(&'static str, &'static str, u64); 8] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("connections", "Connections accepted", value(&self.connections)),
            ("connections_refused", "Connections closed because too many were open", value(&self.connections_refused)),
            ("requests", "Requests answered", value(&self.requests)),
            ("requests_refused", "Requests refused for their Host or Origin", value(&self.requests_refused)),
            ("denied", "Requests refused for want of a token or of its role", value(&self.denied)),
            ("audit_lost", "Lines of the audit log that were lost", value(&self.audit_lost)),
            ("malformed", "Connections closed over bytes that are not HTTP", value(&self.malformed)),
            ("timed_out", "Connections closed because the client was too slow", value(&self.timed_out)),
        ]
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Leave { .. } => f.write_str("leave"),
            Command::Register { definition, .. } => write!(f, "register {}", definition.instance.id),
            Command::Deregister { id, .. } => write!(f, "deregister {id}"),
            Command::RegisterCheck { registration, .. } => write!(f, "register check {}", registration.check.id),
            Command::DeregisterCheck { id, .. } => write!(f, "deregister check {id}"),
            Command::UpdateCheck { id, health, .. } => write!(f, "check {id} is {health}"),
            Command::Maintain { service: Some(service), .. } => write!(f, "maintenance of {service}"),
            Command::Maintain { service: None, .. } => f.write_str("maintenance of this host"),
            Command::Join { address, .. } => write!(f, "join {address}"),
            Command::ForceLeave { node, .. } => write!(f, "force-leave {node}"),
            Command::Reload { .. } => f.write_str("reload"),
            Command::Decide { .. } => f.write_str("decide"),
            Command::Keyring { order, .. } => write!(f, "keyring {order}"),
        }
    }
}
