//! The table of the other hosts: what is held of each, the order in which they are probed, and picks at random. It applies
//! what it is told; which claim wins is said by [`supersedes`], and what follows from a change is decided in `claims.rs`.
//!
//! A fleet of N hosts holds N² entries, and most say the same: alive, by its own word. So an entry is 72 bytes in a vector,
//! found by a table of 32-bit places, and what only the accused and the signed have lies in a box beside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hashbrown::HashTable;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::model::{Claim, MemberState, NodeId, NodeName, Now};

/// True if a claim of incarnation and state `new` is to replace `old`: a higher incarnation, or the same and worse. A total
/// order on claims, so every host that hears the same claims ends with the same one, whatever the order. `Unknown` gives way
/// to whatever is said.
pub(super) fn supersedes(new: (u64, MemberState), old: (u64, MemberState)) -> bool {
    (new.0, rank(new.1)) > (old.0, rank(old.1))
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

/// Tenths of a second since the start: fine enough for ages of seconds to days, and half the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tenths(u32);

impl Tenths {
    fn of(now: Now) -> Tenths {
        Tenths(u32::try_from(now.as_millis() / 100).unwrap_or(u32::MAX))
    }

    fn time(self) -> Now {
        Duration::from_millis(u64::from(self.0) * 100)
    }
}

/// What is held of one host.
#[derive(Debug, Clone)]
pub(super) struct Member {
    node: NodeId,
    name: NodeName,
    /// IPv4 as IPv6 maps it.
    ip: [u8; 16],
    incarnation: u64,
    more: Option<Box<More>>,
    since: Tenths,
    port: u16,
    state: MemberState,
    /// In this host's zone.
    near: bool,
}

/// What few members have.
#[derive(Debug, Clone)]
struct More {
    from: NodeId,
    lost_at: Option<Now>,
    proof: Vec<u8>,
}

impl Member {
    fn new(claim: Claim, since: Tenths, lost_at: Option<Now>, near: bool) -> Member {
        let ip = match claim.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let plain = claim.from == claim.node && claim.proof.is_empty() && lost_at.is_none();
        let more = (!plain).then(|| Box::new(More { from: claim.from, lost_at, proof: claim.proof }));
        Member {
            node: claim.node,
            name: claim.name,
            ip: ip.octets(),
            incarnation: claim.incarnation,
            more,
            since,
            port: claim.address.port(),
            state: claim.state,
            near,
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.name
    }

    pub(super) fn state(&self) -> MemberState {
        self.state
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn address(&self) -> SocketAddr {
        let ip = Ipv6Addr::from(self.ip);
        SocketAddr::new(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4), self.port)
    }

    /// What is held, as it is passed on.
    pub(super) fn claim(&self) -> Claim {
        Claim {
            node: self.node,
            name: self.name.clone(),
            address: self.address(),
            incarnation: self.incarnation,
            state: self.state,
            from: self.more.as_ref().map_or(self.node, |more| more.from),
            proof: self.more.as_ref().map_or_else(Vec::new, |more| more.proof.clone()),
        }
    }

    /// When it came into its state, to a tenth of a second.
    pub(super) fn since(&self) -> Now {
        self.since.time()
    }

    /// When it was lost (suspected or called failed), if it was and has not come back.
    pub(super) fn lost_at(&self) -> Option<Now> {
        self.more.as_ref().and_then(|more| more.lost_at)
    }

    /// True if it is in this host's zone.
    pub(super) fn is_near(&self) -> bool {
        self.near
    }
}

#[derive(Debug)]
pub(super) struct Members {
    entries: Vec<Member>,
    /// Places in `entries`, by the id's hash.
    places: HashTable<u32>,
    /// Of the hash: ids are chosen by others, who must not be able to make them collide.
    secret: (u64, u64),
    /// Who claimed one of these addresses last.
    watched: BTreeMap<SocketAddr, Option<NodeId>>,
    /// Every member's place once, shuffled; probes go round it, so each is probed once a round (SWIM §4.3).
    order: Vec<u32>,
    /// Where the round is.
    next: usize,
    counts: [usize; 5],
    lost: usize,
    near: usize,
}

impl Members {
    pub(super) fn new(rng: &mut ChaCha8Rng) -> Members {
        Members {
            entries: Vec::new(),
            places: HashTable::new(),
            secret: (rng.random(), rng.random()),
            watched: BTreeMap::new(),
            order: Vec::new(),
            next: 0,
            counts: [0; 5],
            lost: 0,
            near: 0,
        }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Member> {
        self.entries.get(self.place(node)?)
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        let is_it = |place: &u32| self.entries.get(index(*place)).is_some_and(|member| member.node == node);
        self.places.find(hash(self.secret, node), is_it).map(|place| index(*place))
    }

    /// In no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
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

    /// Members in this host's zone.
    pub(super) fn near(&self) -> usize {
        self.near
    }

    /// From now on [`Members::is_alive_at`] knows these addresses without a search.
    pub(super) fn watch(&mut self, addresses: &[SocketAddr]) {
        self.watched = addresses.iter().map(|address| (*address, None)).collect();
        for member in &self.entries {
            if let Some(holder) = self.watched.get_mut(&member.address()) {
                *holder = Some(member.node);
            }
        }
    }

    /// True if a living member claims that address.
    pub(super) fn is_alive_at(&self, address: SocketAddr) -> bool {
        match self.watched.get(&address) {
            Some(holder) => {
                let member = holder.and_then(|node| self.get(node));
                member.is_some_and(|member| member.state == MemberState::Alive)
            }
            None => {
                let living = self.entries.iter().filter(|member| member.state == MemberState::Alive);
                living.map(Member::address).any(|held| held == address)
            }
        }
    }

    /// Writes down what is held of a member from now on.
    pub(super) fn set(&mut self, now: Now, rng: &mut ChaCha8Rng, claim: Claim) {
        let (node, address) = (claim.node, claim.address);
        let place = self.place(node);
        let old = place.and_then(|place| self.entries.get(place));
        let lost_at = match claim.state {
            MemberState::Suspect | MemberState::Failed => match old {
                // From suspect to failed is the same loss, also where it was accepted meanwhile.
                Some(old) if matches!(old.state, MemberState::Suspect | MemberState::Failed) => old.lost_at(),
                _ => Some(now),
            },
            MemberState::Unknown | MemberState::Alive | MemberState::Left => None,
        };
        let since = old.filter(|old| old.state == claim.state).map_or(Tenths::of(now), |old| old.since);
        let near = old.is_some_and(|old| old.near);
        self.counts[usize::from(rank(claim.state))] += 1;
        self.lost += usize::from(lost_at.is_some());
        let member = Member::new(claim, since, lost_at, near);
        if let Some(old) = place.and_then(|place| self.entries.get_mut(place)) {
            let old = std::mem::replace(old, member);
            self.counts[usize::from(rank(old.state))] -= 1;
            self.lost -= usize::from(old.lost_at().is_some());
            if old.address() != address
                && let Some(holder) = self.watched.get_mut(&old.address()).filter(|holder| **holder == Some(node))
            {
                *holder = None;
            }
        } else {
            self.insert(rng, member);
        }
        if let Some(holder) = self.watched.get_mut(&address) {
            *holder = Some(node);
        }
    }

    /// Makes room for so many in all, in one step.
    pub(super) fn expect(&mut self, members: usize) {
        let more = members.saturating_sub(self.entries.len());
        self.entries.reserve_exact(more);
        self.order.reserve_exact(more);
        let (entries, secret) = (&self.entries, self.secret);
        let hash_at = |place: &u32| entries.get(index(*place)).map_or(0, |member| hash(secret, member.node));
        self.places.reserve(more, hash_at);
    }

    fn insert(&mut self, rng: &mut ChaCha8Rng, member: Member) {
        let Ok(place) = u32::try_from(self.entries.len()) else { return };
        grow(&mut self.entries);
        grow(&mut self.order);
        let (entries, secret) = (&self.entries, self.secret);
        let hash_at = |place: &u32| entries.get(index(*place)).map_or(0, |member| hash(secret, member.node));
        self.places.insert_unique(hash(secret, member.node), place, hash_at);
        self.entries.push(member);
        // Anywhere in the round: hosts that learn of a newcomer together must not all probe it together. Who stood there goes
        // to the round's end instead of everybody moving on by one: hosts come by the thousand.
        let drawn = rng.random_range(0..=self.order.len());
        let at = drawn.max(self.next);
        self.next += usize::from(drawn < self.next);
        self.order.push(place);
        let last = self.order.len() - 1;
        self.order.swap(at, last);
    }

    /// Tells whether a member is in this host's zone.
    pub(super) fn set_near(&mut self, node: NodeId, near: bool) {
        let Some(place) = self.place(node) else { return };
        let Some(member) = self.entries.get_mut(place) else { return };
        self.near = self.near + usize::from(near) - usize::from(member.near);
        member.near = near;
    }

    /// What was lost is accepted as lost; it no longer counts as a sudden loss.
    pub(super) fn accept_losses(&mut self) {
        self.entries.iter_mut().filter_map(|member| member.more.as_mut()).for_each(|more| more.lost_at = None);
        self.lost = 0;
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        let Some(place) = self.place(node) else { return };
        let last = self.entries.len() - 1;
        if let Ok(entry) = self.places.find_entry(hash(self.secret, node), |held| index(*held) == place) {
            entry.remove();
        }
        let moved = self.entries[last].node;
        if let Some(held) = self.places.find_mut(hash(self.secret, moved), |held| index(*held) == last) {
            *held = u32::try_from(place).unwrap_or(u32::MAX);
        }
        let member = self.entries.swap_remove(place);
        if let Some(at) = self.order.iter().position(|held| index(*held) == place) {
            self.order.remove(at);
            self.next -= usize::from(at < self.next);
        }
        if let Some(held) = self.order.iter_mut().find(|held| index(**held) == last) {
            *held = u32::try_from(place).unwrap_or(u32::MAX);
        }
        self.counts[usize::from(rank(member.state))] -= 1;
        self.lost -= usize::from(member.lost_at().is_some());
        self.near -= usize::from(member.near);
        if let Some(holder) = self.watched.get_mut(&member.address()).filter(|holder| **holder == Some(node)) {
            *holder = None;
        }
    }

    /// The next in the round that is worth probing.
    pub(super) fn next_to_probe(&mut self, rng: &mut ChaCha8Rng) -> Option<NodeId> {
        for _ in 0..self.order.len() {
            if self.next >= self.order.len() {
                self.order.shuffle(rng);
                self.next = 0;
            }
            let member = self.order.get(self.next).and_then(|place| self.entries.get(index(*place)));
            self.next += 1;
            if let Some(member) = member.filter(|member| member.state.is_usable()) {
                return Some(member.node);
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
        if self.entries.len() > SCAN_MEMBERS_MAX {
            for _ in 0..count * 4 {
                let member = self.entries.get(rng.random_range(0..self.entries.len()));
                let member = member.filter(|member| wanted(member));
                let new = member.filter(|member| picked.iter().all(|(node, _)| *node != member.node));
                picked.extend(new.map(|member| (member.node, member.address())));
                if picked.len() == count {
                    return picked;
                }
            }
        }
        let all = self.entries.iter().filter(|member| wanted(member));
        let mut all: Vec<_> = all.map(|member| (member.node, member.address())).collect();
        let (chosen, _) = all.partial_shuffle(rng, count);
        chosen.to_vec()
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// Makes room for one more, an eighth at a time: doubling would waste a third of a large table on average.
fn grow<T>(entries: &mut Vec<T>) {
    /// The least that is added.
    const STEP_MIN: usize = 8;
    if entries.len() == entries.capacity() {
        entries.reserve_exact((entries.len() / 8).max(STEP_MIN));
    }
}

/// A keyed product of both halves, folded.
fn hash(secret: (u64, u64), node: NodeId) -> u64 {
    let (high, low) = halves(node.0);
    let product = u128::from((high ^ secret.0) | 1) * u128::from(low ^ secret.1);
    let (high, low) = halves(product.to_be_bytes());
    high ^ low
}

fn halves(bytes: [u8; 16]) -> (u64, u64) {
    let number = |half: &[u8]| half.first_chunk().map_or(0, |half| u64::from_be_bytes(*half));
    (number(&bytes[..8]), number(&bytes[8..]))
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
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut members = Members::new(&mut rng);
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
                let picked = members.pick(&mut rng, 3, |member| member.node != NodeId([1; 16]));
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
            assert!(supersedes((3, worse), (3, better)));
            assert!(!supersedes((3, better), (3, worse)));
            assert!(supersedes((4, better), (3, worse)));
        }
    }

    #[test]
    fn losses_are_counted_until_the_member_is_back() {
        let (mut members, mut rng) = filled(3);
        members.set(Now::from_secs(1), &mut rng, claim(1, 0, MemberState::Suspect));
        members.set(Now::from_secs(2), &mut rng, claim(1, 0, MemberState::Failed));
        assert_eq!((members.lost(), members.get(NodeId([1; 16])).unwrap().lost_at()), (1, Some(Now::from_secs(1))));
        members.set(Now::from_secs(3), &mut rng, claim(1, 1, MemberState::Alive));
        assert_eq!((members.lost(), members.usable()), (0, 3));
        members.remove(NodeId([1; 16]));
        assert_eq!((members.len(), members.usable()), (2, 2));
    }

    #[test]
    fn an_entry_is_small_and_a_claim_comes_out_as_it_went_in() {
        assert!(size_of::<Member>() <= 72, "{}", size_of::<Member>());
        let (mut members, mut rng) = filled(3);
        let mut accused = claim(2, 7, MemberState::Suspect);
        accused.from = NodeId([3; 16]);
        accused.proof = vec![1, 2, 3];
        accused.address = "[2001:db8::1]:17946".parse().unwrap();
        members.set(Now::from_secs(1), &mut rng, accused.clone());
        assert_eq!(members.get(NodeId([2; 16])).unwrap().claim(), accused);
        assert_eq!(members.get(NodeId([3; 16])).unwrap().claim(), claim(3, 0, MemberState::Alive));
    }

    #[test]
    fn members_come_and_go_and_each_is_still_found_and_probed() {
        let (mut members, mut rng) = filled(200);
        for gone in (1..=200).step_by(3) {
            members.remove(NodeId([gone; 16]));
            members.remove(NodeId([gone; 16]));
        }
        let kept: BTreeSet<NodeId> = (1..=200).filter(|id| id % 3 != 1).map(|id| NodeId([id; 16])).collect();
        assert!(kept.iter().all(|node| members.get(*node).is_some_and(|member| member.node() == *node)));
        assert_eq!((members.len(), members.iter().count()), (kept.len(), kept.len()));
        members.next = members.order.len();
        let round: BTreeSet<_> = kept.iter().filter_map(|_| members.next_to_probe(&mut rng)).collect();
        assert_eq!(round, kept);
    }

    #[test]
    fn a_watched_address_belongs_to_whom_claimed_it_last() {
        let (mut members, mut rng) = filled(3);
        let address = claim(2, 0, MemberState::Alive).address;
        let elsewhere = SocketAddr::from(([10, 0, 0, 99], 7946));
        for watched in [vec![], vec![address, elsewhere]] {
            members.watch(&watched);
            assert!(members.is_alive_at(address) && !members.is_alive_at(elsewhere));
        }
        let mut moved = claim(2, 1, MemberState::Alive);
        moved.address = elsewhere;
        members.set(Now::ZERO, &mut rng, moved.clone());
        assert!(!members.is_alive_at(address) && members.is_alive_at(elsewhere));
        moved.state = MemberState::Failed;
        members.set(Now::ZERO, &mut rng, moved);
        assert!(!members.is_alive_at(elsewhere));
        members.remove(NodeId([2; 16]));
        assert!(!members.is_alive_at(elsewhere));
    }
}
