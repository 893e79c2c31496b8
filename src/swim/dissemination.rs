//! What is still to be told: claims that wait to ride on datagrams, each a bounded number of times, the least told first.
//!
//! Claims come in as they are applied, and go out through [`Dissemination::fill`]. No timers, no addresses.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::{Claim, MemberState, NodeId};

/// An upper bound of a claim's encoded size, variable-length integers at their longest.
pub fn claim_bytes_max(claim: &Claim) -> usize {
    // Two ids, incarnation (9), state, the lengths of name and proof (1 and 3), address family and port (1 and 3).
    const FIXED: usize = 16 + 16 + 9 + 1 + 1 + 3 + 1 + 3;
    let ip = match claim.address {
        SocketAddr::V4(_) => 4,
        SocketAddr::V6(_) => 16,
    };
    FIXED + ip + claim.name.as_str().len() + claim.proof.len()
}

/// Least told first; of equals, the newest first.
type Turn = (u32, Reverse<u64>);

/// Of whom, by whom: accusations by different hosts travel side by side, as Lifeguard counts them.
type Topic = (NodeId, NodeId);

#[derive(Debug, Default)]
pub(super) struct Dissemination {
    turns: BTreeMap<Turn, Claim>,
    topics: BTreeMap<Topic, Turn>,
    pushed: u64,
}

impl Dissemination {
    /// Queues a claim. It replaces what waits about the same member, except accusations by others at the same incarnation.
    pub(super) fn push(&mut self, claim: Claim) {
        let about: Vec<(Topic, Turn)> =
            self.topics.range(all_about(claim.node)).map(|(topic, turn)| (*topic, *turn)).collect();
        for (topic, turn) in about {
            let beside = self.turns.get(&turn).is_some_and(|waiting| {
                waiting.state == MemberState::Suspect
                    && claim.state == MemberState::Suspect
                    && waiting.incarnation == claim.incarnation
                    && waiting.from != claim.from
            });
            if !beside {
                self.topics.remove(&topic);
                self.turns.remove(&turn);
            }
        }
        self.pushed += 1;
        self.insert((0, Reverse(self.pushed)), claim);
    }

    /// Drops what waits about a member.
    pub(super) fn drop_about(&mut self, node: NodeId) {
        let topics: Vec<Topic> = self.topics.range(all_about(node)).map(|(topic, _)| *topic).collect();
        for topic in topics {
            if let Some(turn) = self.topics.remove(&topic) {
                self.turns.remove(&turn);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many datagrams of `bytes_max` what waits would fill, between 1 and `most`.
    pub(super) fn backlog(&self, bytes_max: usize, most: u32) -> u32 {
        // Claims are of about one size, whether with proofs or, in simulations, without.
        let claim_bytes = self.turns.values().next().map_or(0, claim_bytes_max);
        let datagrams = (self.turns.len() * claim_bytes).div_ceil(bytes_max.max(1));
        u32::try_from(datagrams).unwrap_or(u32::MAX).clamp(1, most)
    }

    pub(super) fn waits_about(&self, node: NodeId) -> bool {
        self.topics.range(all_about(node)).next().is_some()
    }

    /// Adds to `claims` what fits into `bytes_max` with what is already there. Each claim taken counts as sent once; one that
    /// was sent `sends_max` times is dropped.
    pub(super) fn fill(&mut self, claims: &mut Vec<Claim>, bytes_max: usize, sends_max: u32) {
        /// No claim is smaller, so no use in looking on with less room.
        const CLAIM_BYTES_MIN: usize = 54;
        let mut room = bytes_max.saturating_sub(claims.iter().map(claim_bytes_max).sum());
        let mut taken = Vec::new();
        for (turn, claim) in &self.turns {
            if room < CLAIM_BYTES_MIN {
                break;
            }
            let size = claim_bytes_max(claim);
            if size <= room && !claims.contains(claim) {
                room -= size;
                claims.push(claim.clone());
                taken.push(*turn);
            }
        }
        for turn in taken {
            let Some(claim) = self.turns.remove(&turn) else { continue };
            self.topics.remove(&(claim.node, claim.from));
            if turn.0 + 1 < sends_max {
                self.insert((turn.0 + 1, turn.1), claim);
            }
        }
    }

    fn insert(&mut self, turn: Turn, claim: Claim) {
        self.topics.insert((claim.node, claim.from), turn);
        self.turns.insert(turn, claim);
    }
}

fn all_about(node: NodeId) -> std::ops::RangeInclusive<Topic> {
    (node, NodeId([0; 16]))..=(node, NodeId([0xff; 16]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeName;

    fn claim(node: u8, incarnation: u64, state: MemberState, from: u8) -> Claim {
        Claim {
            node: NodeId([node; 16]),
            name: NodeName::parse(&format!("n{node}")).unwrap(),
            address: SocketAddr::from(([10, 0, 0, node], 7946)),
            incarnation,
            state,
            from: NodeId([from; 16]),
            proof: Vec::new(),
        }
    }

    fn take(queue: &mut Dissemination, bytes_max: usize, sends_max: u32) -> Vec<Claim> {
        let mut claims = Vec::new();
        queue.fill(&mut claims, bytes_max, sends_max);
        claims
    }

    #[test]
    fn a_claim_is_sent_so_often_and_no_more() {
        let mut queue = Dissemination::default();
        queue.push(claim(1, 0, MemberState::Alive, 1));
        let sent = (0..10).filter(|_| !take(&mut queue, 1000, 4).is_empty()).count();
        assert_eq!(sent, 4);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_least_told_goes_first_and_a_datagram_is_never_overfilled() {
        let mut queue = Dissemination::default();
        (1..=40).for_each(|node| queue.push(claim(node, 0, MemberState::Alive, node)));
        let mut told = std::collections::BTreeMap::new();
        for _ in 0..20 {
            let claims = take(&mut queue, 300, 9);
            assert!(claims.iter().map(claim_bytes_max).sum::<usize>() <= 300);
            claims.iter().for_each(|claim| *told.entry(claim.node).or_insert(0) += 1);
        }
        let (least, most) = (told.values().min().unwrap(), told.values().max().unwrap());
        assert!(told.len() == 40 && most - least <= 1, "{told:?}");
    }

    #[test]
    fn news_about_a_member_replaces_older_news() {
        let mut queue = Dissemination::default();
        queue.push(claim(1, 0, MemberState::Suspect, 2));
        queue.push(claim(1, 0, MemberState::Suspect, 3));
        assert_eq!(take(&mut queue, 1000, 9).len(), 2, "two accusers travel side by side");
        queue.push(claim(1, 1, MemberState::Alive, 1));
        assert_eq!(take(&mut queue, 1000, 9), [claim(1, 1, MemberState::Alive, 1)]);
    }
}
