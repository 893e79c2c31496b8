//! Which version of the protocol each host speaks, by what it last said itself: datagrams tell it, and so does the
//! handshake of every stream.
//!
//! What was heard comes in from the tasks of this driver; the version to write in goes out to them, and to people by
//! [`Peers::versions`]. A host is a new one after each start: it may have been upgraded, or put back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::model::{NodeId, ProtocolVersions};
use crate::wire::protocol::{PROTOCOL_MAX, PROTOCOL_MIN};

/// Hosts remembered at once: as many as `wire::seal` remembers. Only who holds the gossip key can add one.
const PEERS_MAX: usize = 16_384;
/// How many are forgotten when the table is full, so that the search for them is paid rarely.
const PEERS_FORGOTTEN: usize = PEERS_MAX / 16;
/// A host that has not shown that it knows this host's version is told again after this long.
const HELLO_PAUSE: Duration = Duration::from_secs(60);

/// The versions of all hosts that were heard or written to.
pub struct Peers {
    local: NodeId,
    highest: u8,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    peers: HashMap<NodeId, Peer>,
    /// Grows with each use of a peer: the clock of who is forgotten first.
    used: u64,
}

#[derive(Default)]
struct Peer {
    /// Its start, as its packets tell it.
    epoch: Option<u64>,
    /// The highest version that it reads, if it has told.
    highest: Option<u8>,
    hello_at: Option<Instant>,
    warned: bool,
    used: u64,
}

/// How a datagram is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) version: u8,
    /// The receiver may not know how far this host reads: it is to be told.
    pub(super) hello: bool,
}

impl Peers {
    /// `highest` is the highest version that this host speaks.
    pub(super) fn new(local: NodeId, highest: u8) -> Peers {
        Peers { local, highest: highest.clamp(PROTOCOL_MIN, PROTOCOL_MAX), table: Mutex::default() }
    }

    /// The highest version that this host speaks.
    pub fn highest(&self) -> u8 {
        self.highest
    }

    /// What is spoken between this host and another; `None` of one that has not told yet.
    pub fn versions(&self, node: NodeId) -> Option<ProtocolVersions> {
        if node == self.local {
            return Some(ProtocolVersions { current: self.highest, highest: self.highest });
        }
        let highest = self.table().peers.get(&node)?.highest?;
        Some(ProtocolVersions { current: highest.min(self.highest), highest })
    }

    /// A datagram came from `node` in its start `epoch`.
    pub(super) fn heard(&self, node: NodeId, epoch: u64, version: u8, highest: Option<u8>) {
        let mut table = self.table();
        let peer = table.peer(node);
        if peer.epoch.is_some_and(|known| known != epoch) {
            *peer = Peer { used: peer.used, ..Peer::default() };
        }
        peer.epoch = Some(epoch);
        // Version 1 does not tell: its sender may read more, and not know yet that this host does.
        peer.highest = highest.or(peer.highest);
        if version > self.highest && !std::mem::replace(&mut peer.warned, true) {
            warn!(
                %node, version, reads = self.highest,
                "a host speaks a newer protocol than this agent reads; upgrade this agent"
            );
        }
    }

    /// Both sides of a stream's handshake agreed on `version`.
    pub(super) fn agreed(&self, node: NodeId, version: u8) {
        let mut table = self.table();
        let peer = table.peer(node);
        // Less than this host offers is all that the other has; as much may be less than it has.
        peer.highest = Some(if version < self.highest { version } else { peer.highest.unwrap_or(0).max(version) });
    }

    /// How to write to `node` now. Nobody in particular is written to as to a stranger.
    pub(super) fn manner(&self, node: Option<NodeId>, now: Instant) -> Manner {
        let stranger = Manner { version: PROTOCOL_MIN, hello: false };
        let Some(node) = node.filter(|_| self.highest > PROTOCOL_MIN) else { return stranger };
        let mut table = self.table();
        let peer = table.peer(node);
        if let Some(highest) = peer.highest {
            return Manner { version: highest.min(self.highest), hello: false };
        }
        let hello = peer.hello_at.is_none_or(|at| now.saturating_duration_since(at) >= HELLO_PAUSE);
        if hello {
            peer.hello_at = Some(now);
        }
        Manner { hello, ..stranger }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that is done under the lock panics half way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn peer(&mut self, node: NodeId) -> &mut Peer {
        self.used += 1;
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&node) {
            self.forget_unused();
        }
        let peer = self.peers.entry(node).or_default();
        peer.used = self.used;
        peer
    }

    fn forget_unused(&mut self) {
        let mut used: Vec<u64> = self.peers.values().map(|peer| peer.used).collect();
        if used.len() <= PEERS_FORGOTTEN {
            return;
        }
        let (_, &mut limit, _) = used.select_nth_unstable(PEERS_FORGOTTEN);
        self.peers.retain(|_, peer| peer.used >= limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: NodeId = NodeId([1; 16]);
    const PEER: NodeId = NodeId([2; 16]);

    fn version(peers: &Peers) -> u8 {
        peers.manner(Some(PEER), Instant::now()).version
    }

    #[test]
    fn a_stranger_is_written_to_in_the_lowest_version_and_told_the_highest_now_and_then() {
        let (peers, start) = (Peers::new(LOCAL, 2), Instant::now());
        let manner = |after| peers.manner(Some(PEER), start + after);
        assert_eq!(manner(Duration::ZERO), Manner { version: 1, hello: true });
        assert_eq!(manner(Duration::from_secs(59)), Manner { version: 1, hello: false });
        assert_eq!(manner(Duration::from_secs(60)), Manner { version: 1, hello: true });
        assert_eq!(peers.versions(PEER), None);
        assert_eq!(peers.manner(None, start), Manner { version: 1, hello: false });
    }

    #[test]
    fn two_hosts_speak_the_lower_of_their_highest_versions() {
        for (own, theirs, spoken) in [(2, 2, 2), (2, 9, 2), (1, 2, 1)] {
            let peers = Peers::new(LOCAL, own);
            peers.heard(PEER, 1, theirs.min(2), Some(theirs));
            assert_eq!(version(&peers), spoken);
            assert_eq!(peers.versions(PEER), Some(ProtocolVersions { current: spoken, highest: theirs }));
        }
    }

    #[test]
    fn what_a_host_told_holds_for_its_start() {
        let peers = Peers::new(LOCAL, 2);
        peers.heard(PEER, 1, 2, Some(2));
        peers.heard(PEER, 1, 1, None);
        assert_eq!(version(&peers), 2, "an old datagram that was overtaken takes nothing back");
        peers.heard(PEER, 2, 1, None);
        assert_eq!(
            peers.manner(Some(PEER), Instant::now()),
            Manner { version: 1, hello: true },
            "it may be another version"
        );
    }

    #[test]
    fn a_handshake_tells_what_the_other_has_also_of_one_that_was_put_back() {
        let peers = Peers::new(LOCAL, 2);
        peers.heard(PEER, 1, 2, Some(3));
        peers.agreed(PEER, 2);
        assert_eq!(peers.versions(PEER), Some(ProtocolVersions { current: 2, highest: 3 }));
        peers.agreed(PEER, 1);
        assert_eq!(peers.manner(Some(PEER), Instant::now()), Manner { version: 1, hello: false });
        peers.agreed(PEER, 2);
        assert_eq!(version(&peers), 2);
    }

    #[test]
    fn memory_for_hosts_is_bounded_and_those_in_use_stay() {
        let peers = Peers::new(LOCAL, 2);
        let node = |number: usize| NodeId(*(number as u128).to_be_bytes().first_chunk().unwrap());
        for number in 0..PEERS_MAX + 10 {
            peers.heard(PEER, 1, 2, Some(2));
            peers.heard(node(number), 1, 2, Some(2));
        }
        assert!(peers.table().peers.len() <= PEERS_MAX);
        assert!(peers.versions(PEER).is_some() && peers.versions(node(0)).is_none());
    }
}
