//! Sockets that drive membership and catalog: sealed datagrams and mutual TLS streams on the gossip port (7946).
//!
//! [`Command`]s of the owner come in and go out as packets and streams; what other hosts send goes to the owner as
//! [`Event`]s. Nothing is decided here: this driver opens, authenticates, bounds, counts and passes on. A slow owner
//! costs datagrams (counted, as the network might lose them too) and makes streams wait; it never blocks the sockets.

mod call;
mod claims;
mod counters;
mod driver;
mod keyring;
mod message;
mod peers;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::oneshot;

pub use claims::CheckClaim;
pub use counters::{Counter, Counters};
pub use driver::{Bound, bind};
pub use keyring::{KeyringAsk, KeyringCall, KeyringLink, KeyringTold};
pub use peers::Peers;

use crate::model::{CatalogMessage, Claim, NodeId, Record, SwimMessage, Want};
use crate::wire::packet::Datagram;
use crate::wire::protocol::PROTOCOL_MAX;

/// The application protocols (RFC 7301) of gossip streams, one for each version of the messages on them, the first version
/// first. The driver offers those that it speaks, whatever the TLS configurations that it is given say.
pub const ALPN: [&[u8]; PROTOCOL_MAX as usize] = [b"weft-gossip", b"weft-gossip/2"];

/// What other hosts said, and how the owner's commands ended.
#[derive(Debug)]
pub enum Event {
    /// An authentic datagram for `swim`, without the claims that prove nothing.
    Swim {
        /// Who sealed it.
        sender: NodeId,
        /// Where it came from.
        from: SocketAddr,
        /// What it says.
        message: SwimMessage,
    },
    /// An authentic datagram for `catalog`.
    Catalog {
        /// Who sealed it.
        sender: NodeId,
        /// What it says.
        message: CatalogMessage,
    },
    /// A [`Command::Sync`] ended well.
    Synced {
        /// The command's address.
        to: SocketAddr,
        /// Who answered.
        peer: NodeId,
        /// What it holds of the members, as far as it is proven.
        claims: Vec<Claim>,
    },
    /// A [`Command::Sync`] failed.
    SyncFailed {
        /// The command's address.
        to: SocketAddr,
        /// For people.
        error: String,
    },
    /// Another host synchronises members with this one.
    SyncRequest {
        /// Which.
        peer: NodeId,
        /// What it holds of the members, as far as it is proven.
        claims: Vec<Claim>,
        /// Takes what this host holds. Dropped: the stream is closed without an answer.
        reply: oneshot::Sender<Vec<Claim>>,
    },
    /// Another host asks for records. It comes again with what was left, as long as something is.
    PullRequest {
        /// Which.
        peer: NodeId,
        /// What it asks for.
        wants: Vec<Want>,
        /// Takes records of about `wire::stream::PULL_CHUNK_BYTES_MAX` bytes, and what is left to be asked for.
        reply: oneshot::Sender<(Vec<Record>, Vec<Want>)>,
    },
    /// Records that a [`Command::Pull`] brought. Their signatures are not checked.
    Pulled {
        /// Who sent them.
        from: NodeId,
        /// One part of them.
        records: Vec<Record>,
        /// True if it is the last part.
        done: bool,
    },
    /// A [`Command::Pull`] failed; parts may have come before.
    PullFailed {
        /// The command's host.
        from: NodeId,
        /// For people.
        error: String,
    },
    /// A [`Command::StreamProbe`] ended.
    StreamProbe {
        /// The command's target.
        target: NodeId,
        /// The command's number.
        number: u64,
        /// True if the target itself answered.
        alive: bool,
    },
}

/// What the owner wants sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A datagram; it may be lost.
    Send {
        /// Where.
        to: SocketAddr,
        /// Who is expected there: decides the version that it is written in.
        node: Option<NodeId>,
        /// What.
        datagram: Datagram,
    },
    /// Exchange members over a stream. Ends in one `Synced` or `SyncFailed`.
    Sync {
        /// Where.
        to: SocketAddr,
        /// Who must answer, if that is known.
        expect: Option<NodeId>,
        /// What this host holds.
        claims: Vec<Claim>,
    },
    /// Ask for records over a stream. Ends in one `Pulled` with `done` or one `PullFailed`.
    Pull {
        /// Who must answer.
        from: NodeId,
        /// Where.
        to: SocketAddr,
        /// What.
        wants: Vec<Want>,
    },
    /// Probe over a stream. Ends in one `StreamProbe`.
    StreamProbe {
        /// Who must answer.
        target: NodeId,
        /// Where.
        to: SocketAddr,
        /// Returned with the answer.
        number: u64,
    },
}

/// How long the parts of a stream may take. The whole of a part is meant: dripping bytes win nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From connecting, or from being connected to, to the end of the TLS handshake.
    pub handshake: Duration,
    /// One message, read or written. Longer than `owner`, for the other host's owner takes its time too.
    pub message: Duration,
    /// This host's owner, asked for one answer.
    pub owner: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { handshake: Duration::from_secs(5), message: Duration::from_secs(10), owner: Duration::from_secs(5) }
    }
}

/// Says whose certificate (leaf first) a verified chain is; `None` if it is no node's.
pub type Identify = Arc<dyn Fn(&[CertificateDer<'_>]) -> Option<NodeId> + Send + Sync>;

/// What the driver needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Where to listen, UDP and TCP. `[::]` takes IPv4 too, and is `0.0.0.0` on hosts without IPv6.
    pub listen: SocketAddr,
    /// The cluster's name.
    pub cluster: String,
    /// This host.
    pub local: NodeId,
    /// This start of the agent: never used before (see `wire::seal`).
    pub epoch: u64,
    /// The cluster's gossip keys, which may change at any time.
    pub keyring: KeyringLink,
    /// For streams to other hosts; presents this host's certificate.
    pub client_tls: Arc<rustls::ClientConfig>,
    /// For streams from other hosts; demands their certificate.
    pub server_tls: Arc<rustls::ServerConfig>,
    /// The DNS name that every node's certificate carries.
    pub server_name: ServerName<'static>,
    /// Reads the node id from a verified certificate.
    pub identify: Identify,
    /// Checks claims of membership.
    pub check_claim: CheckClaim,
    /// Time limits of streams.
    pub deadlines: Deadlines,
    /// The highest version of the protocol to speak; [`PROTOCOL_MAX`] but for tests of older ones.
    pub protocol_max: u8,
}

/// Why the driver did not start.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The port could not be had.
    #[error("cannot listen for gossip on {listen}: {error}; is another agent running, or is `gossip.listen` wrong?")]
    Bind {
        /// The setting.
        listen: SocketAddr,
        /// The system's word.
        error: std::io::Error,
    },
}
