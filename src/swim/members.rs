//! The table of the other hosts: what is held of each, the order in which they are probed, and picks at random. It applies
//! what it is told; which claim wins is said by [`supersedes`], and what follows from a change is decided in `claims.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::model::{Claim, MemberState, NodeId, Now};

/// True if `new` is to replace `old`: a higher incarnation, or the same and worse. A total order on claims, so every host
/// that hears the same claims ends with the same one, whatever the order. `Unknown` gives way to whatever is said.
pub(super) fn supersedes(new: &Claim, old: &Claim) -> bool {
    (new.incarnation, rank(new.state)) > (old.incarnation, rank(old.state))
}

fn rank(state: MemberState) -> u8 {
    match state {
        MemberState::Unknown => 0,
        MemberState::Alive => 1,
        MemberState::Suspect => 2,
        MemberState::Failed => 3,
        // Said by the host itself, so it knows better than those who accuse it.
        MemberState::Left => 4,
    }
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) claim: Claim,
    /// When it came into its state.
    pub(super) since: Now,
    /// When it was lost (suspected or called failed), if it was and has not come back.
    pub(super) lost_at: Option<Now>,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<NodeId, Member>,
    /// Who claimed an address last.
    by_address: BTreeMap<SocketAddr, NodeId>,
    /// Every member once, shuffled; probes go round it, so each is probed once a round (SWIM §4.3).
    order: Vec<NodeId>,
    /// Where the round is.
    next: usize,
    counts: [usize; 5],
    lost: usize,
}

impl Members {
    pub(super) fn get(&self, node: NodeId) -> Option<&Member> {
        self.by_id.get(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn count(&self, state: MemberState) -> usize {
        self.counts[usize::from(rank(state))]
    }

    /// Members that calls may go to.
    pub(super) fn usable(&self) -> usize {
        self.count(MemberState::Unknown) + self.count(MemberState::Alive) + self.count(MemberState::Suspect)
    }

    /// Members that were lost, at whatever time, and have not come back.
    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    /// True if a living member claims that address.
    pub(super) fn is_alive_at(&self, address: SocketAddr) -> bool {
        let member = self.by_address.get(&address).and_then(|node| self.by_id.get(node));
        member.is_some_and(|member| member.claim.state == MemberState::Alive)
    }

    /// Writes down what is held of a member from now on.
    pub(super) fn set(&mut self, now: Now, rng: &mut ChaCha8Rng, claim: Claim) {
        let old = self.by_id.get(&claim.node);
        let lost_at = match claim.state {
            MemberState::Suspect | MemberState::Failed => match old {
                // From suspect to failed is the same loss, also where it was accepted meanwhile.
                Some(old) if matches!(old.claim.state, MemberState::Suspect | MemberState::Failed) => old.lost_at,
                _ => Some(now),
            },
            MemberState::Unknown | MemberState::Alive | MemberState::Left => None,
        };
        let since = old.filter(|old| old.claim.state == claim.state).map_or(now, |old| old.since);
        if let Some(old) = old {
            self.counts[usize::from(rank(old.claim.state))] -= 1;
            self.lost -= usize::from(old.lost_at.is_some());
            if old.claim.address != claim.address {
                self.by_address.remove(&old.claim.address);
            }
        } else {
            // Anywhere in the round: hosts that learn of a newcomer together must not all probe it together.
            let at = rng.random_range(0..=self.order.len());
            self.order.insert(at, claim.node);
        }
        self.counts[usize::from(rank(claim.state))] += 1;
        self.lost += usize::from(lost_at.is_some());
        self.by_address.insert(claim.address, claim.node);
        self.by_id.insert(claim.node, Member { claim, since, lost_at });
    }

    /// What was lost is accepted as lost; it no longer counts as a sudden loss.
    pub(super) fn accept_losses(&mut self) {
        self.by_id.values_mut().for_each(|member| member.lost_at = None);
        self.lost = 0;
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        let Some(member) = self.by_id.remove(&node) else { return };
        self.counts[usize::from(rank(member.claim.state))] -= 1;
        self.lost -= usize::from(member.lost_at.is_some());
        if self.by_address.get(&member.claim.address) == Some(&node) {
            self.by_address.remove(&member.claim.address);
        }
        self.order.retain(|other| *other != node);
    }

    /// The next in the round that is worth probing.
    pub(super) fn next_to_probe(&mut self, rng: &mut ChaCha8Rng) -> Option<NodeId> {
        for _ in 0..self.order.len() {
            if self.next >= self.order.len() {
                self.order.shuffle(rng);
                self.next = 0;
            }
            let node = self.order.get(self.next).copied();
            self.next += 1;
            let usable = |node: &NodeId| self.by_id.get(node).is_some_and(|member| member.claim.state.is_usable());
            if let Some(node) = node.filter(usable) {
                return Some(node);
            }
        }
        None
    }

    /// Up to `count` members at random, each with its address.
    pub(super) fn pick(
        &self,
        rng: &mut ChaCha8Rng,
        count: usize,
        wanted: impl Fn(&Member) -> bool,
    ) -> Vec<(NodeId, SocketAddr)> {
        /// Below this, a scan costs no more than luck does.
        const SCAN_MEMBERS_MAX: usize = 64;
        let mut picked: Vec<(NodeId, SocketAddr)> = Vec::with_capacity(count);
        if self.order.len() > SCAN_MEMBERS_MAX {
            for _ in 0..count * 4 {
                let node = self.order.get(rng.random_range(0..self.order.len()));
                let member = node.and_then(|node| self.by_id.get(node)).filter(|member| wanted(member));
                let new = member.filter(|member| picked.iter().all(|(node, _)| *node != member.claim.node));
                picked.extend(new.map(|member| (member.claim.node, member.claim.address)));
                if picked.len() == count {
                    return picked;
                }
            }
        }
        let all = self.by_id.values().filter(|member| wanted(member));
        let mut all: Vec<_> = all.map(|member| (member.claim.node, member.claim.address)).collect();
        let (chosen, _) = all.partial_shuffle(rng, count);
        chosen.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::model::NodeName;

    fn claim(node: u8, incarnation: u64, state: MemberState) -> Claim {
        Claim {
            node: NodeId([node; 16]),
            name: NodeName::parse(&format!("n{node}")).unwrap(),
            address: SocketAddr::from(([10, 0, 0, node], 7946)),
            incarnation,
            state,
            from: NodeId([node; 16]),
            proof: Vec::new(),
        }
    }

    fn filled(count: u8) -> (Members, ChaCha8Rng) {
        let (mut members, mut rng) = (Members::default(), ChaCha8Rng::seed_from_u64(1));
        (1..=count).for_each(|node| members.set(Now::ZERO, &mut rng, claim(node, 0, MemberState::Alive)));
        (members, rng)
    }

    #[test]
    fn each_round_probes_every_usable_member_once() {
        let (mut members, mut rng) = filled(9);
        members.set(Now::ZERO, &mut rng, claim(4, 0, MemberState::Failed));
        members.next = members.order.len();
        for _ in 0..3 {
            let round: BTreeSet<_> = (0..8).filter_map(|_| members.next_to_probe(&mut rng)).collect();
            assert_eq!(round.len(), 8);
            assert!(!round.contains(&NodeId([4; 16])));
            members.next = members.order.len();
        }
    }

    #[test]
    fn picks_are_distinct_and_as_wanted_in_small_and_large_fleets() {
        for count in [5, 200] {
            let (members, mut rng) = filled(count);
            for _ in 0..50 {
                let picked = members.pick(&mut rng, 3, |member| member.claim.node != NodeId([1; 16]));
                let distinct: BTreeSet<_> = picked.iter().collect();
                assert_eq!(distinct.len(), 3);
                assert!(picked.iter().all(|(node, _)| *node != NodeId([1; 16])));
            }
        }
    }

    #[test]
    fn the_later_incarnation_wins_and_of_one_incarnation_the_worse_state() {
        use MemberState::{Alive, Failed, Left, Suspect, Unknown};
        for (better, worse) in [(Unknown, Alive), (Alive, Suspect), (Suspect, Failed), (Failed, Left)] {
            assert!(supersedes(&claim(1, 3, worse), &claim(1, 3, better)));
            assert!(!supersedes(&claim(1, 3, better), &claim(1, 3, worse)));
            assert!(supersedes(&claim(1, 4, better), &claim(1, 3, worse)));
        }
    }

    #[test]
    fn losses_are_counted_until_the_member_is_back() {
        let (mut members, mut rng) = filled(3);
        members.set(Now::from_secs(1), &mut rng, claim(1, 0, MemberState::Suspect));
        members.set(Now::from_secs(2), &mut rng, claim(1, 0, MemberState::Failed));
        assert_eq!((members.lost(), members.get(NodeId([1; 16])).unwrap().lost_at), (1, Some(Now::from_secs(1))));
        members.set(Now::from_secs(3), &mut rng, claim(1, 1, MemberState::Alive));
        assert_eq!((members.lost(), members.usable()), (0, 3));
        members.remove(NodeId([1; 16]));
        assert_eq!((members.len(), members.usable()), (2, 2));
    }
}
