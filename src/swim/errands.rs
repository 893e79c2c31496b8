//! What is done now and then: rounds of gossip, contact with seeds and stored members, push-pull exchanges, knocking at failed
//! members, forgetting. `mod.rs` calls it by the clock; all it does leaves as outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use super::members::Member;
use super::probe::probe_number;
use super::{GREETING_PAUSE, Output, Swim};
use crate::model::{MemberState, NodeId, NodeName, Now, Probe};

/// A failed member still gets gossip for so long: it may be alive and then must hear of it.
const GOSSIP_TO_FAILED: Duration = Duration::from_secs(30);
/// Extra exchanges after this host met somebody, stood still or thawed; each pause is twice the one before.
const EXTRA_SYNCS: u32 = 3;
/// The pause before the first of them.
const EXTRA_SYNC_AFTER: Duration = Duration::from_millis(500);
/// With that much more news than a round carries, rounds come so many times as often: a healed cut makes every host's
/// refutation news at once.
const GOSSIP_HURRY_MAX: u32 = 8;
/// How often the departed are forgotten and names compared.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Two living hosts with one name are reported after this time: a reimaged host's ghost is dead by then.
const NAME_CONFLICT_AFTER: Duration = Duration::from_secs(30);
/// After the table's last change names are compared for so long: until a conflict would have shown.
pub(super) const NAMES_COMPARED: Duration = Duration::from_secs(60);

impl Swim {
    /// Looks what is due. Called once a pulse.
    pub(super) fn pulse(&mut self, now: Now) {
        let interval = self.config.probe_interval;
        self.with_timers(|timers| timers.pulse_at = now + timers.first_pause.take().unwrap_or(interval));
        if self.leaving.is_some() {
            return;
        }
        self.judge_contact(now);
        self.reach_out(now);
        // News that nobody was there to hear.
        if !self.queue.is_empty() && self.members.count(MemberState::Alive) > 0 {
            self.with_timers(|timers| _ = timers.gossip_at.get_or_insert(now));
        }
        let Some(timers) = &self.timers else { return };
        let (sync, reconnect, sweep) = (timers.sync_at <= now, timers.reconnect_at <= now, timers.sweep_at <= now);
        if sync {
            self.sync_with_random(now);
        }
        if reconnect {
            let next = now + self.config.reconnect_interval;
            self.with_timers(|timers| timers.reconnect_at = next);
            self.reconnect();
        }
        if sweep {
            self.with_timers(|timers| timers.sweep_at = now + SWEEP_INTERVAL);
            self.sweep(now);
        }
    }

    /// Contacts seeds that are due, and while nobody is alive, members from the store.
    fn reach_out(&mut self, now: Now) {
        /// More would be a stampede when a whole fleet starts from its stores.
        const STORED_AT_ONCE: usize = 2;
        let members = &self.members;
        let is_alive = |address| members.is_alive_at(address);
        for to in self.seeds.due(now, &mut self.rng, self.me.address, is_alive) {
            self.outputs.push_back(Output::Sync { to, node: None });
        }
        if self.members.count(MemberState::Alive) > 0 {
            self.stored.reset(now);
        } else if self.members.len() > 0 && self.stored.is_due(now, &mut self.rng) {
            let gone = |member: &Member| member.state() != MemberState::Left;
            for (node, to) in self.members.pick(&mut self.rng, STORED_AT_ONCE, gone) {
                self.outputs.push_back(Output::Sync { to, node: Some(node) });
            }
        }
    }

    /// Asks for a few exchanges soon: there may be news.
    pub(super) fn sync_soon(&mut self, now: Now) {
        self.with_timers(|timers| {
            timers.extra_syncs = EXTRA_SYNCS;
            timers.sync_at = timers.sync_at.min(now + EXTRA_SYNC_AFTER);
        });
    }

    /// An exchange told of hosts that gossip had not: there may be more.
    pub(super) fn sync_again(&mut self, now: Now) {
        self.with_timers(|timers| timers.sync_at = timers.sync_at.min(now + GREETING_PAUSE));
    }

    fn sync_with_random(&mut self, now: Now) {
        let alive = |member: &Member| member.state() == MemberState::Alive;
        if let Some((node, to)) = self.members.pick(&mut self.rng, 1, alive).first().copied() {
            self.outputs.push_back(Output::Sync { to, node: Some(node) });
        }
        let regular = self.config.sync_pause(self.hosts()).mul_f64(self.rng.random_range(0.75..1.25));
        self.with_timers(|timers| {
            timers.extra_syncs = timers.extra_syncs.saturating_sub(1);
            let extra = EXTRA_SYNC_AFTER * (1 << (EXTRA_SYNCS - timers.extra_syncs));
            timers.sync_at = now + if timers.extra_syncs > 0 { extra } else { regular };
        });
    }

    /// Knocks at a failed member now and then, all hosts together about once an interval for each that failed: what was cut
    /// off comes back by itself. It hears what is held against it, refutes, and [`Swim::recognise`] does the rest.
    fn reconnect(&mut self) {
        let failed = self.members.count(MemberState::Failed);
        let knockers = self.members.count(MemberState::Alive) + 1;
        if failed == 0 || self.rng.random_range(0..knockers) >= failed.saturating_mul(2) {
            return;
        }
        let is_failed = |member: &Member| member.state() == MemberState::Failed;
        for (node, to) in self.members.pick(&mut self.rng, 1, is_failed) {
            let number = probe_number(&mut self.rng);
            let against = self.held_against(node);
            self.send(to, Some(node), Probe::Ping { number, target: node }, against);
        }
    }

    /// The sender of a datagram is there, whatever is held of it.
    pub(super) fn recognise(&mut self, now: Now, sender: NodeId, from: SocketAddr) {
        let held = self.members.get(sender);
        match held.map(Member::state) {
            Some(MemberState::Alive | MemberState::Suspect | MemberState::Left) => {}
            Some(MemberState::Unknown) => {
                if let Some(mut claim) = held.map(Member::claim) {
                    claim.state = MemberState::Alive;
                    claim.from = sender;
                    self.write(now, claim);
                }
            }
            // A stranger, or somebody from beyond a cut: it knows more than a datagram holds.
            None | Some(MemberState::Failed) => {
                let to = held.map_or(from, Member::address);
                let greet = self.leaving.is_none() && self.timers.as_ref().is_some_and(|timers| timers.greet_at <= now);
                if greet {
                    self.with_timers(|timers| timers.greet_at = now + GREETING_PAUSE);
                    self.outputs.push_back(Output::Sync { to, node: Some(sender) });
                }
            }
        }
    }

    /// Forgets the departed after their time and, while the table is fresh, compares names.
    fn sweep(&mut self, now: Now) {
        if self.members.count(MemberState::Failed) + self.members.count(MemberState::Left) > 0 {
            let is_departed = |state| matches!(state, MemberState::Failed | MemberState::Left);
            let lifetime = self.config.departed_lifetime;
            let is_past = |member: &&Member| is_departed(member.state()) && now >= member.since() + lifetime;
            let past: Vec<NodeId> = self.members.iter().filter(is_past).map(Member::node).collect();
            past.into_iter().for_each(|node| self.forget(node));
        }
        if now < self.names_until {
            self.compare_names(now);
        }
    }

    /// Forgets the ghosts of reimaged hosts, and reports names that two hosts use.
    fn compare_names(&mut self, now: Now) {
        if !self.names_may_collide() {
            return self.conflicts.clear();
        }
        let mut names: BTreeMap<&NodeName, Vec<(NodeId, Now)>> = BTreeMap::new();
        names.entry(&self.me.name).or_default().push((self.me.node, Now::ZERO));
        for member in self.members.iter().filter(|member| member.state() == MemberState::Alive) {
            names.entry(member.name()).or_default().push((member.node(), member.since()));
        }
        let is_departed = |state| matches!(state, MemberState::Failed | MemberState::Left);
        let departed = self.members.iter().filter(|member| is_departed(member.state()));
        let ghosts = departed.filter(|member| names.contains_key(member.name()));
        let ghosts: Vec<NodeId> = ghosts.map(Member::node).collect();
        let mut conflicts = BTreeSet::new();
        let mut reports = Vec::new();
        for (name, holders) in names.iter().filter(|(_, holders)| holders.len() > 1) {
            let settled = holders.iter().filter(|(_, since)| now >= *since + NAME_CONFLICT_AFTER);
            let mut settled: Vec<NodeId> = settled.map(|(node, _)| *node).collect();
            settled.sort_unstable();
            for pair in settled.windows(2) {
                let &[node, other] = pair else { continue };
                conflicts.insert((node, other));
                if !self.conflicts.contains(&(node, other)) {
                    reports.push(Output::NameConflict { name: (*name).clone(), node, other });
                }
            }
        }
        self.conflicts = conflicts;
        self.outputs.extend(reports);
        ghosts.into_iter().for_each(|node| self.forget(node));
    }

    /// False if no name is used twice. By hashes: of thousands of names hardly ever is one.
    fn names_may_collide(&self) -> bool {
        let hash = |name: &NodeName| {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        };
        let (mut alive, mut departed) = (vec![hash(&self.me.name)], Vec::new());
        for member in self.members.iter() {
            match member.state() {
                MemberState::Alive => alive.push(hash(member.name())),
                MemberState::Failed | MemberState::Left => departed.push(hash(member.name())),
                MemberState::Unknown | MemberState::Suspect => {}
            }
        }
        alive.sort_unstable();
        alive.windows(2).any(|pair| pair[0] == pair[1])
            || departed.iter().any(|departed| alive.binary_search(departed).is_ok())
    }

    fn forget(&mut self, node: NodeId) {
        self.members.remove(node);
        self.queue.drop_about(node);
        self.outputs.push_back(Output::Forgotten { node });
    }

    /// Whom a round of gossip goes to. In a fleet of several zones one of them is beyond this host's own.
    fn partners(&mut self, wanted: impl Fn(&Member) -> bool) -> Vec<(NodeId, SocketAddr)> {
        /// In a smaller zone choosing within it would mean choosing the same few.
        const ZONE_HOSTS_MIN: usize = 12;
        let (fanout, near) = (self.config.gossip_fanout, self.members.near());
        if near < ZONE_HOSTS_MIN || near == self.members.len() || fanout < 2 {
            return self.members.pick(&mut self.rng, fanout, wanted);
        }
        let is_near = |member: &Member| member.is_near() && wanted(member);
        let mut partners = self.members.pick(&mut self.rng, fanout - 1, is_near);
        let is_far = |member: &Member| !member.is_near() && wanted(member);
        partners.extend(self.members.pick(&mut self.rng, 1, is_far));
        partners
    }

    /// One round of gossip.
    pub(super) fn gossip(&mut self, now: Now) {
        let partner = |member: &Member| match member.state() {
            MemberState::Alive | MemberState::Suspect => true,
            MemberState::Failed => now.saturating_sub(member.since()) < GOSSIP_TO_FAILED,
            MemberState::Unknown | MemberState::Left => false,
        };
        let partners = self.partners(partner);
        let alone = partners.is_empty();
        for (node, to) in partners {
            if self.queue.is_empty() {
                break;
            }
            self.send(to, Some(node), Probe::Gossip, Vec::new());
        }
        let pause = self.config.gossip_interval / self.queue.backlog(self.config.claims_bytes_max, GOSSIP_HURRY_MAX);
        let next = (!alone && !self.queue.is_empty()).then_some(now + pause);
        self.with_timers(|timers| {
            timers.gossiped_at = Some(now);
            timers.gossip_at = next;
        });
    }
}
