//! Whom to talk to: every live member, near ones (of the same zone) told from far ones, and all of them as a ring over
//! their sorted ids.
//!
//! Copies go by preference to near peers and always to a few far ones. The ring makes certain what chance makes likely:
//! whoever holds something names it to its neighbours on the ring, so that no host is left out while its neighbour knows.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::model::NodeId;

/// A live member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// True if it is in this host's zone: copies to it are cheap.
    pub near: bool,
}

impl From<NodeId> for Peer {
    /// Of no particular zone.
    fn from(node: NodeId) -> Peer {
        Peer { node, near: true }
    }
}

/// With fewer near peers than this they get no preference: the same few would get every copy.
const NEAR_MIN: usize = 8;
/// Of the second copies, this many in a hundred go far on purpose.
const FAR_PERCENT: u32 = 34;
/// Draws for one place before it stays empty: among few peers the same ones come up again and again.
const DRAWS_MAX: usize = 8;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Sorted and distinct, without this host.
    all: Vec<NodeId>,
    /// Places in `all`; both empty where no preference is to be had.
    near: Vec<u32>,
    far: Vec<u32>,
    /// The place in `all` of this host's successor.
    successor: usize,
}

impl Peers {
    pub(super) fn new(local: NodeId, mut peers: Vec<Peer>) -> Peers {
        peers.retain(|peer| peer.node != local);
        // As numbers: this is done anew with every host that comes or goes. Bytes in this order compare the same.
        peers.sort_unstable_by_key(|peer| (u128::from_be_bytes(peer.node.0), peer.near));
        peers.dedup_by_key(|peer| peer.node);
        let successor = peers.partition_point(|peer| peer.node < local);
        let places = |near: bool| {
            let places = peers.iter().enumerate().filter(move |(_, peer)| peer.near == near);
            places.filter_map(|(place, _)| u32::try_from(place).ok()).collect::<Vec<u32>>()
        };
        let (near, far) = (places(true), places(false));
        let zoned = near.len() >= NEAR_MIN && !far.is_empty();
        let (near, far) = if zoned { (near, far) } else { (Vec::new(), Vec::new()) };
        Peers { successor, near, far, all: peers.into_iter().map(|peer| peer.node).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.all.binary_search(&node).is_ok()
    }

    pub(super) fn any(&self, rng: &mut ChaCha8Rng) -> Option<NodeId> {
        self.all.choose(rng).copied()
    }

    /// `count` distinct peers for copies: the first near, the second sometimes far (`far_second`: always), the others
    /// anywhere.
    pub(super) fn for_copies(&self, rng: &mut ChaCha8Rng, count: usize, far_second: bool) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(count);
        for place in 0..count {
            let pool = match place {
                _ if self.near.is_empty() => &[][..],
                0 => &self.near,
                1 if far_second || rng.random_ratio(FAR_PERCENT, 100) => &self.far,
                1 => &self.near,
                _ => &[],
            };
            self.draw(rng, pool, &mut chosen);
        }
        chosen
    }

    /// The neighbours on the ring and `random` others, all distinct.
    pub(super) fn for_names(&self, rng: &mut ChaCha8Rng, random: usize) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(random + 2);
        let count = self.all.len();
        if count > 0 {
            chosen.push(self.all[self.successor % count]);
            let predecessor = self.all[(self.successor + count - 1) % count];
            if !chosen.contains(&predecessor) {
                chosen.push(predecessor);
            }
        }
        for _ in 0..random {
            self.draw(rng, &[], &mut chosen);
        }
        chosen
    }

    /// One more peer of `pool`, or of all where that is empty.
    fn draw(&self, rng: &mut ChaCha8Rng, pool: &[u32], chosen: &mut Vec<NodeId>) {
        for _ in 0..DRAWS_MAX {
            let drawn = if pool.is_empty() {
                self.all.choose(rng)
            } else {
                pool.choose(rng).and_then(|place| self.all.get(*place as usize))
            };
            let Some(drawn) = drawn else { return };
            if !chosen.contains(drawn) {
                return chosen.push(*drawn);
            }
        }
    }
}
