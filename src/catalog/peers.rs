//! Whom to talk to: every live member, near ones (of the same zone) told from far ones, and all of them as a ring over
//! their sorted ids.
//!
//! Copies go by preference to near peers and always to a few far ones. The ring makes certain what chance makes likely:
//! whoever holds something names it to its neighbours on the ring, so that no host is left out while its neighbour knows.

use std::collections::BTreeMap;

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

/// So many changes at once are merged in one pass; fewer are put in their places one by one.
const BULK: usize = 32;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Peers {
    local: NodeId,
    /// Sorted and distinct, without this host; no id is in both.
    near: Vec<NodeId>,
    far: Vec<NodeId>,
}

impl Peers {
    /// None yet.
    pub(super) fn new(local: NodeId) -> Peers {
        Peers { local, near: Vec::new(), far: Vec::new() }
    }

    /// These and no others.
    pub(super) fn set(&mut self, peers: Vec<Peer>) {
        self.near.clear();
        self.far.clear();
        self.extend(peers);
    }

    /// Takes members in (true) or out; of several changes of one member the last counts.
    pub(super) fn change(&mut self, changes: &[(Peer, bool)]) {
        if changes.len() < BULK {
            return changes.iter().for_each(|(peer, lives)| self.change_one(*peer, *lives));
        }
        let changes: BTreeMap<NodeId, (Peer, bool)> = changes.iter().map(|change| (change.0.node, *change)).collect();
        self.near.retain(|node| !changes.contains_key(node));
        self.far.retain(|node| !changes.contains_key(node));
        self.extend(changes.into_values().filter(|(_, lives)| *lives).map(|(peer, _)| peer).collect());
    }

    fn change_one(&mut self, peer: Peer, lives: bool) {
        for (side, belongs) in [(&mut self.near, lives && peer.near), (&mut self.far, lives && !peer.near)] {
            match (side.binary_search(&peer.node), belongs && peer.node != self.local) {
                (Ok(place), false) => drop(side.remove(place)),
                (Err(place), true) => side.insert(place, peer.node),
                (Ok(_), true) | (Err(_), false) => {}
            }
        }
    }

    /// Adds members that are on neither side yet.
    fn extend(&mut self, peers: Vec<Peer>) {
        let near = peers.iter().filter(|peer| peer.near).count();
        self.near.reserve_exact(near);
        self.far.reserve_exact(peers.len() - near);
        for peer in peers.into_iter().filter(|peer| peer.node != self.local) {
            if peer.near { &mut self.near } else { &mut self.far }.push(peer.node);
        }
        for side in [&mut self.near, &mut self.far] {
            // As numbers: this is done with a whole fleet at once. Bytes in this order compare the same.
            side.sort_unstable_by_key(|node| u128::from_be_bytes(node.0));
            side.dedup();
        }
        let far = &self.far;
        self.near.retain(|node| far.binary_search(node).is_err());
    }

    pub(super) fn len(&self) -> usize {
        self.near.len() + self.far.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty()
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.near.binary_search(&node).is_ok() || self.far.binary_search(&node).is_ok()
    }

    pub(super) fn any(&self, rng: &mut ChaCha8Rng) -> Option<NodeId> {
        if self.is_empty() {
            return None;
        }
        let place = rng.random_range(0..self.len());
        self.near.get(place).or_else(|| self.far.get(place - self.near.len())).copied()
    }

    /// Whether near peers are preferred.
    fn is_zoned(&self) -> bool {
        self.near.len() >= NEAR_MIN && !self.far.is_empty()
    }

    /// `count` distinct peers for copies: the first near, the second sometimes far (`far_second`: always), the others
    /// anywhere.
    pub(super) fn for_copies(&self, rng: &mut ChaCha8Rng, count: usize, far_second: bool) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(count);
        let zoned = self.is_zoned();
        for place in 0..count {
            let pool = match place {
                _ if !zoned => None,
                0 => Some(&self.near),
                1 if far_second || rng.random_ratio(FAR_PERCENT, 100) => Some(&self.far),
                1 => Some(&self.near),
                _ => None,
            };
            self.draw(rng, pool.map(Vec::as_slice), &mut chosen);
        }
        chosen
    }

    /// The neighbours on the ring, [`Peers::neighbours`] of them, then `random` others, all distinct.
    pub(super) fn for_names(&self, rng: &mut ChaCha8Rng, random: usize) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(random + 2);
        chosen.extend(self.successor());
        chosen.extend(self.predecessor().filter(|node| !chosen.contains(node)));
        for _ in 0..random {
            self.draw(rng, None, &mut chosen);
        }
        chosen
    }

    /// How many neighbours this host has on the ring.
    pub(super) fn neighbours(&self) -> usize {
        self.len().min(2)
    }

    fn successor(&self) -> Option<NodeId> {
        let above = |side: &[NodeId]| side.get(side.partition_point(|node| *node < self.local)).copied();
        let sides = [&self.near, &self.far];
        let next = sides.iter().filter_map(|side| above(side)).min();
        next.or_else(|| sides.iter().filter_map(|side| side.first().copied()).min())
    }

    fn predecessor(&self) -> Option<NodeId> {
        let below = |side: &[NodeId]| side[..side.partition_point(|node| *node < self.local)].last().copied();
        let sides = [&self.near, &self.far];
        let next = sides.iter().filter_map(|side| below(side)).max();
        next.or_else(|| sides.iter().filter_map(|side| side.last().copied()).max())
    }

    /// One more peer of `pool`, or of all.
    fn draw(&self, rng: &mut ChaCha8Rng, pool: Option<&[NodeId]>, chosen: &mut Vec<NodeId>) {
        for _ in 0..DRAWS_MAX {
            let drawn = match pool {
                Some(pool) => pool.choose(rng).copied(),
                None => self.any(rng),
            };
            let Some(drawn) = drawn else { return };
            if !chosen.contains(&drawn) {
                return chosen.push(drawn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    #[test]
    fn the_ring_closes_over_both_sides() {
        let mut peers = Peers::new(node(5));
        assert_eq!((peers.successor(), peers.predecessor()), (None, None));
        peers.change(&[(Peer { node: node(3), near: true }, true), (Peer { node: node(4), near: false }, true)]);
        assert_eq!((peers.successor(), peers.predecessor()), (Some(node(3)), Some(node(4))));
        peers.change(&[(Peer { node: node(9), near: false }, true)]);
        assert_eq!(peers.successor(), Some(node(9)));
    }

    proptest! {
        #[test]
        fn few_changes_and_many_lead_to_the_same_peers(
            before in proptest::collection::vec((0_u8..40, any::<bool>()), 0..40),
            changes in proptest::collection::vec((0_u8..40, any::<bool>(), any::<bool>()), 0..80),
        ) {
            let peer = |number, near| Peer { node: node(number), near };
            let before: BTreeMap<u8, bool> = before.into_iter().collect();
            let changes: Vec<(Peer, bool)> =
                changes.into_iter().map(|(number, near, lives)| (peer(number, near), lives)).collect();
            let start = || {
                let mut peers = Peers::new(node(7));
                peers.set(before.iter().map(|(number, near)| peer(*number, *near)).collect());
                peers
            };
            let (mut at_once, mut one_by_one) = (start(), start());
            at_once.change(&changes);
            changes.iter().for_each(|change| one_by_one.change(std::slice::from_ref(change)));
            prop_assert_eq!(&at_once.near, &one_by_one.near);
            prop_assert_eq!(&at_once.far, &one_by_one.far);
            prop_assert!(!at_once.contains(node(7)));
            prop_assert!(at_once.near.is_sorted() && at_once.far.is_sorted());
        }
    }
}
