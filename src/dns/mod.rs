//! The DNS shim: answers the mesh domain from the directory, and passes foreign names to upstream servers.
//!
//! Queries come in over UDP and TCP; the directory is read, never changed. [`bind`] opens the listeners, [`Bound::run`]
//! serves until shutdown. `zone`, `query`, `reply` and `answer` are pure: they turn bytes into bytes.
//!
//! A listener on an unspecified address (`0.0.0.0`) answers UDP from the address that the kernel routes by, which strict
//! clients refuse if it is not the one they asked; list addresses one by one instead.

mod answer;
mod counters;
mod forwarder;
#[doc(hidden)]
pub mod fuzzed;
mod limits;
mod query;
mod reply;
mod resolv_conf;
mod server;
mod tcp;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::SeedableRng;
use rand::rngs::SysRng;
use rand_chacha::ChaCha8Rng;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lobby::Lobby;
use crate::model::Directory;
use answer::Answerer;
pub use counters::Counters;
use forwarder::Forwarder;
use limits::Limits;
use resolv_conf::OwnListeners;
pub use server::VipAsked;
use server::{Shared, UdpServer};
use zone::Zone;

/// Tries to get the same free port for UDP and TCP where port 0 is asked for, as tests do.
const FREE_PORT_TRIES: usize = 16;

/// Who is asked about foreign names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// The servers in resolv.conf, without this agent's listeners and resolved's stub; read again when it changes.
    System,
    /// These, in order. None: foreign names are refused.
    List(Vec<SocketAddr>),
}

/// What the shim is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The mesh domain, `mesh.internal`.
    pub domain: String,
    /// Whether the domain `consul` means the same.
    pub consul_alias: bool,
    /// Who is asked about the rest.
    pub upstreams: Upstreams,
}

/// Why the shim cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The domain is no name.
    #[error("dns.domain {domain:?} is not a domain name; use one such as \"mesh.internal\"")]
    Domain {
        /// What was configured.
        domain: String,
    },
    /// A listener could not be opened.
    #[error(
        "DNS cannot listen on {address}: {error}; see `ss -lnptu` for who does, or change dns.listen (ports below 1024 \
         take CAP_NET_BIND_SERVICE)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// An upstream is this agent itself.
    #[error("dns.upstreams names {address}, which is this agent's own DNS listener; remove it")]
    OwnUpstream {
        /// The address.
        address: SocketAddr,
    },
    /// The kernel gave no randomness.
    #[error("no randomness from the kernel for DNS: {0}; getrandom(2) must be allowed")]
    Randomness(String),
}

/// The shim with its listeners open.
pub struct Bound {
    sockets: Vec<(UdpSocket, TcpListener)>,
    zone: Zone,
    upstreams: Upstreams,
    own: OwnListeners,
    limits: Limits,
    counters: Arc<Counters>,
    lobby: Lobby,
}

/// Opens the listeners. Queries wait in them until [`Bound::run`].
pub async fn bind(settings: Settings) -> Result<Bound, DnsError> {
    let zone = Zone::new(&settings.domain, settings.consul_alias)?;
    // Fails here, with a message, if it ever fails.
    new_rng()?;
    let (mut sockets, mut own) = (Vec::new(), Vec::new());
    for address in settings.listen {
        let listen_error = |error| DnsError::Listen { address, error };
        let pair = bind_pair(address).await.map_err(listen_error)?;
        own.push(pair.0.local_addr().map_err(listen_error)?);
        sockets.push(pair);
    }
    let own = OwnListeners(own);
    if let Upstreams::List(servers) = &settings.upstreams
        && let Some(&address) = servers.iter().find(|server| own.contains(**server))
    {
        return Err(DnsError::OwnUpstream { address });
    }
    let (limits, counters) = (Limits::default(), Arc::default());
    let lobby = limits.lobby();
    Ok(Bound { sockets, zone, upstreams: settings.upstreams, own, limits, counters, lobby })
}

impl Bound {
    /// Where it listens, in the order of `Settings::listen`; ports that were 0 are real here.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.own.0
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// TCP connections without a query under way.
    pub fn lobby(&self) -> Lobby {
        self.lobby.clone()
    }

    /// Serves until `shutdown` is true; the ports are free again then. With `vip_asked`, every VIP in an answer is asked
    /// for before the answer is sent, so that it can be bound.
    pub async fn run(
        self,
        directory: Arc<ArcSwap<Directory>>,
        vip_asked: Option<VipAsked>,
        shutdown: watch::Receiver<bool>,
    ) {
        let Bound { sockets, zone, upstreams, own, limits, counters, lobby } = self;
        let forwards = upstreams != Upstreams::List(Vec::new());
        let forwarder = match upstreams {
            Upstreams::System => Forwarder::to_system(own, limits.clone(), counters.clone()),
            Upstreams::List(servers) => Forwarder::to(&servers, limits.clone(), counters.clone()),
        };
        let shared = Arc::new(Shared { directory, forwarder, vip_asked, counters, lobby, limits });
        let new_answerer = move || match new_rng() {
            Ok(rng) => Some(Answerer::new(zone.clone(), forwards, rng)),
            Err(error) => {
                tracing::error!(%error, "DNS queries cannot be answered");
                None
            }
        };
        let mut servers = JoinSet::new();
        for (udp, tcp) in sockets {
            if let Some(answerer) = new_answerer() {
                servers.spawn(UdpServer::new(udp, shared.clone(), answerer, shutdown.clone()).run());
            }
            servers.spawn(tcp::run(tcp, shared.clone(), new_answerer.clone(), shutdown.clone()));
        }
        while servers.join_next().await.is_some() {}
    }
}

fn new_rng() -> Result<ChaCha8Rng, DnsError> {
    ChaCha8Rng::try_from_rng(&mut SysRng).map_err(|error| DnsError::Randomness(error.to_string()))
}

/// Both listeners on one port.
async fn bind_pair(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        let tcp = TcpListener::bind(address).await?;
        tries -= 1;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}
