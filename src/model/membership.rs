//! What SWIM says: the claims that spread and the probes that carry them.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{NodeId, NodeName};

/// What this host holds of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Known from the store; not heard of since this agent started. Never accused of anything.
    Unknown,
    /// Answers, or somebody vouches for it.
    Alive,
    /// Somebody could not reach it; it has time to refute.
    Suspect,
    /// Did not refute in time.
    Failed,
    /// Said goodbye.
    Left,
}

impl MemberState {
    /// The word for people and for `/v1/agent/members`.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Unknown => "unknown",
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Failed => "failed",
            MemberState::Left => "left",
        }
    }

    /// True if calls may be sent there.
    pub fn is_usable(self) -> bool {
        matches!(self, MemberState::Unknown | MemberState::Alive | MemberState::Suspect)
    }

    /// True if gossip goes there: it was heard of, and not given up.
    pub fn is_living(self) -> bool {
        matches!(self, MemberState::Alive | MemberState::Suspect)
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One claim about one member, at one of its incarnations. It spreads by being carried on probes and gossip datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whom it speaks of.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Where its gossip port is reached.
    pub address: SocketAddr,
    /// Its incarnation. Only the member itself raises it, to refute.
    pub incarnation: u64,
    /// `Alive`, `Suspect`, `Failed` or `Left`; `Unknown` never travels.
    pub state: MemberState,
    /// Who makes the claim: the accuser of a `Suspect` (Lifeguard counts independent ones), else the member itself.
    pub from: NodeId,
    /// What the member itself added: its signature of its `Alive` or `Left`. Accusations carry that of the `Alive` that they speak of, so
    /// that name, address and incarnation are the member's own words. Every version keeps it and passes it on as it came; so this, and
    /// no new field, is where later versions put what they add. `identity::claim` has the layout. Empty: not signed.
    pub proof: Vec<u8>,
}

/// How far this host and another understand each other, for people: versions of the gossip protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersions {
    /// What is spoken to it.
    pub current: u8,
    /// The highest that it reads, as far as it has told.
    pub highest: u8,
}

/// The question part of a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// "Are you there?" Answered by an `Ack` with the same number. `target` guards against an address that changed hands.
    Ping {
        /// Chosen by the prober.
        number: u64,
        /// Who is expected to answer.
        target: NodeId,
    },
    /// "I am here."
    Ack {
        /// The ping's number.
        number: u64,
    },
    /// "Please ping `target` for me", answered by an `Ack` with this number if it answers, else by a `Nack`.
    PingRequest {
        /// Chosen by the requester.
        number: u64,
        /// Whom to probe.
        target: NodeId,
        /// Where.
        address: SocketAddr,
    },
    /// "I am here, but `target` did not answer me."
    Nack {
        /// The request's number.
        number: u64,
    },
    /// No question: the datagram only carries claims.
    Gossip,
}

/// One SWIM datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwimMessage {
    /// The question or answer.
    pub probe: Probe,
    /// Claims that ride along.
    pub claims: Vec<Claim>,
}
