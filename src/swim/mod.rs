//! Membership: which hosts are there, decided by the hosts together. The SWIM state machine with Lifeguard's extensions. Pure.
//!
//! **Use.** The owner passes in what happens, with the time: a datagram ([`Swim::receive`]), the end of a push-pull exchange
//! ([`Swim::synced`], [`Swim::sync_failed`]), the end of a stream probe ([`Swim::stream_probe_result`]), and time itself
//! ([`Swim::tick`] at [`Swim::next_timeout`]). After each it drains [`Swim::poll_output`] and does what the outputs say. No
//! socket, clock or file is touched here, and the random generator is passed in, so the same seed gives the same run.
//!
//! **The parts.** `probe` asks "are you there?"; `claims` decides what is believed and what follows; `suspicion` says how long a
//! suspect has; `dissemination` holds what is still to be told; `members` is the table; `seeds` says whom to contact when
//! nobody is known; `contact` knows whether this host can trust its own ears; `budget` says how many hosts this one may accuse, `pace` how long
//! answers take; `errands` is what is done now and then;
//! this file is the face and the clock.
//!
//! **What always holds.**
//! - Claims come in checked: `Alive` and `Left` are signed by the host they speak of, accusations carry its signed `Alive`, so name,
//!   address and incarnation are always its own words. What is left to lie about is suspicion, and time to refute goes with it.
//! - Nobody is called failed or gone on another's word: each host lets its own suspicion run.
//! - A host never accepts anything but "alive" about itself, except its own goodbye; only it raises its incarnation.
//! - Claims about a member are totally ordered, so all that hear the same end with the same.
//! - A host that has not met anybody since its start, that hears nobody, or that stood still, accuses nobody.
//! - Nobody is called failed while most peers are lost at once, nor on one host's word where others could confirm it.
//! - All that grows by what others say is bounded: members, claims waiting, probes made for others.

mod budget;
mod claims;
mod config;
mod contact;
mod dissemination;
mod errands;
mod members;
mod pace;
mod probe;
mod seeds;
mod suspicion;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::model::{Claim, MemberState, NodeId, NodeName, Now, Probe, SwimMessage};

pub use config::{Config, HEALTH_SCORE_MAX, SYNC_PEERS_FLAT};
pub use dissemination::claim_bytes_max;

use budget::Budget;
use claims::Via;
use contact::{Contact, LocalHealth};
use dissemination::Dissemination;
use errands::SWEEP_INTERVAL;
use members::{Member, Members};
use pace::Pace;
use probe::Prober;
use seeds::{Retry, Seeds};
use suspicion::Suspicions;

/// News that comes within this time of the first shares a round of gossip.
const GOSSIP_COALESCE: Duration = Duration::from_millis(10);
/// Strangers and risen members are answered with an exchange, but no more often than this.
const GREETING_PAUSE: Duration = Duration::from_secs(2);
/// Once all outputs are taken, room is kept for so many.
const OUTPUTS_KEPT: usize = 64;
/// A goodbye is spread for so long at most.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// What the owner is to do, or to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Where.
        to: SocketAddr,
        /// Who is expected there.
        node: Option<NodeId>,
        /// What.
        message: SwimMessage,
    },
    /// Open a stream for a push-pull exchange: send [`Swim::snapshot`], pass the answer to [`Swim::synced`], or a failure to
    /// [`Swim::sync_failed`].
    Sync {
        /// Where.
        to: SocketAddr,
        /// Who is expected there; nobody in particular at a seed's address.
        node: Option<NodeId>,
    },
    /// Ping `target` over a stream and report by [`Swim::stream_probe_result`], at best within `Config::probe_interval`.
    StreamProbe {
        /// Whom.
        target: NodeId,
        /// Where.
        to: SocketAddr,
        /// To be given back with the result.
        number: u64,
    },
    /// What is held of another host has changed.
    Changed {
        /// Whom it is about.
        node: NodeId,
        /// Its name.
        name: NodeName,
        /// Its state from now on.
        state: MemberState,
        /// Its gossip address.
        address: SocketAddr,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A departed member is no longer kept, or its reimaged host has taken its place.
    Forgotten {
        /// Who was forgotten.
        node: NodeId,
    },
    /// This host's incarnation has grown; to be kept on disk.
    IncarnationRaised(u64),
    /// Two living hosts use one name. Said once, and again if it ends and recurs.
    NameConflict {
        /// The name.
        name: NodeName,
        /// The lower of the two ids.
        node: NodeId,
        /// The other one.
        other: NodeId,
    },
    /// The goodbye was spread as well as can be; the agent may end.
    LeaveDone,
}

/// Why a host was not sent away; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForceLeaveError {
    /// Membership does not know it.
    #[error("membership knows no such host")]
    Unknown,
    /// Only what has failed is sent away: a living host would refute it, and leaves by itself.
    #[error("it is {0}; only a failed host is sent away, a living one leaves by `weft leave`")]
    NotFailed(MemberState),
}

/// Makes the proof of a claim that this host makes: about itself, or that it sends another away, whose own proof the claim carries.
pub type Sign = Arc<dyn Fn(&Claim) -> Vec<u8> + Send + Sync>;

/// Nothing is signed until [`Swim::sign_with`].
#[derive(Clone, Default)]
struct Signer(Option<Sign>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Signer" } else { "Signer(none)" })
    }
}

impl Signer {
    fn sign(&self, claim: &mut Claim) {
        if let Some(sign) = &self.0 {
            claim.proof = sign(claim);
        }
    }
}

/// Set by the first call that tells the time.
#[derive(Debug)]
struct Timers {
    /// Steady, whatever else happens: by its lateness a stall is noticed. Slow errands are looked at on it.
    pulse_at: Now,
    /// From the first pulse to the second: hosts that start together must not exchange together.
    first_pause: Option<Duration>,
    probe_at: Now,
    /// The last round of gossip.
    gossiped_at: Option<Now>,
    /// The next one, if there is news.
    gossip_at: Option<Now>,
    sync_at: Now,
    extra_syncs: u32,
    reconnect_at: Now,
    greet_at: Now,
    sweep_at: Now,
    /// Until then this host counts as a newcomer; set by first contact.
    newcomer_until: Option<Now>,
}

/// One host's view of the membership. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Swim {
    config: Config,
    /// What this host says of itself, signed.
    me: Claim,
    signer: Signer,
    rng: ChaCha8Rng,
    members: Members,
    suspicions: Suspicions,
    queue: Dissemination,
    prober: Prober,
    health: LocalHealth,
    contact: Contact,
    budget: Budget,
    pace: Pace,
    seeds: Seeds,
    /// For members from the store, while nobody is alive.
    stored: Retry,
    timers: Option<Timers>,
    /// When the goodbye ends, once this host leaves.
    leaving: Option<Now>,
    left: bool,
    conflicts: BTreeSet<(NodeId, NodeId)>,
    /// Until then names are compared again: the table has changed.
    names_until: Now,
    outputs: VecDeque<Output>,
}

impl Swim {
    /// A host that knows nobody. `incarnation` is the one on its disk, 0 on the first start.
    pub fn new(
        config: Config,
        local: NodeId,
        name: NodeName,
        address: SocketAddr,
        incarnation: u64,
        mut rng: ChaCha8Rng,
    ) -> Swim {
        let me = Claim {
            node: local,
            name,
            address,
            incarnation,
            state: MemberState::Alive,
            from: local,
            proof: Vec::new(),
        };
        let members = Members::new(&mut rng);
        Swim {
            config,
            me,
            signer: Signer::default(),
            rng,
            members,
            suspicions: Suspicions::default(),
            queue: Dissemination::default(),
            prober: Prober::new(),
            health: LocalHealth::default(),
            contact: Contact::default(),
            budget: Budget::default(),
            pace: Pace::default(),
            seeds: Seeds::default(),
            stored: Retry::default(),
            timers: None,
            leaving: None,
            left: false,
            conflicts: BTreeSet::new(),
            names_until: Now::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// Signs with `sign` what this host says from now on; to be called before anything else.
    pub fn sign_with(&mut self, sign: Sign) {
        self.signer = Signer(Some(sign));
        self.signer.sign(&mut self.me);
    }

    /// Takes the members of an earlier run. The living are `Unknown` until somebody vouches for them; the departed stay
    /// departed. A claim about this host only counts for its incarnation.
    pub fn restore(&mut self, now: Now, members: Vec<Claim>) {
        for mut claim in members {
            if claim.node == self.me.node {
                self.me.incarnation = self.me.incarnation.max(claim.incarnation);
            } else if self.members.get(claim.node).is_none() && self.members.len() < self.config.members_max {
                if claim.state.is_usable() {
                    claim.state = MemberState::Unknown;
                }
                self.write(now, claim);
            }
        }
        self.signer.sign(&mut self.me);
    }

    /// The addresses to contact, for ever, while none of them is a living member; rarely after that.
    pub fn set_seeds(&mut self, seeds: Vec<SocketAddr>) {
        self.members.watch(&seeds);
        self.seeds.set(seeds);
    }

    /// A datagram that was proven to come from `sender`, a member or a stranger who holds the cluster's key. Its claims have been
    /// checked (`identity::claim`).
    pub fn receive(&mut self, now: Now, sender: NodeId, from: SocketAddr, message: SwimMessage) {
        if sender == self.me.node {
            return;
        }
        self.wake(now);
        self.heard(now);
        let mut corrections = Vec::new();
        for claim in message.claims {
            let mut claim = self.tame(claim);
            // Who tells of a failure holds it itself, whoever was first: its word counts, also where that was this host.
            if claim.state == MemberState::Failed {
                claim.from = sender;
            }
            corrections.extend(self.hear(now, claim, Via::Datagram));
        }
        self.recognise(now, sender, from);
        match message.probe {
            Probe::Ping { number, target } if target == self.me.node => {
                corrections.extend(self.held_against(sender));
                self.send(from, Some(sender), Probe::Ack { number }, corrections);
                return;
            }
            Probe::Ping { .. } | Probe::Gossip => {}
            Probe::Ack { number } => {
                self.take_ack(now, sender, number);
                corrections.extend(self.held_against(sender));
            }
            Probe::PingRequest { number, target, address } => {
                self.relay_ping(now, (sender, from), number, (target, address));
            }
            Probe::Nack { number } => self.take_nack(now, sender, number),
        }
        if !corrections.is_empty() {
            self.tell(from, sender, corrections);
        }
    }

    /// The claims of the other side of a push-pull exchange, whoever opened it; they have been checked.
    pub fn synced(&mut self, now: Now, claims: Vec<Claim>) {
        self.wake(now);
        let said = claims.iter().filter(|claim| claim.state != MemberState::Unknown);
        let (own, others): (Vec<&Claim>, Vec<&Claim>) = said.partition(|claim| claim.node == self.me.node);
        if others.is_empty() {
            return;
        }
        let newcomer = self.timers.as_ref().and_then(|timers| timers.newcomer_until).is_none_or(|until| now < until);
        let knows_more = own.len() + others.len() > self.members.len() + 1;
        let via = if newcomer && knows_more { Via::FirstSync } else { Via::Sync };
        let others_count = others.len();
        self.heard(now);
        let known = self.members.len();
        if knows_more {
            self.members.expect(others_count.min(self.config.members_max));
        }
        for claim in claims {
            self.hear(now, claim, via);
        }
        if self.members.len() > known {
            self.sync_again(now);
        }
    }

    /// A stream probe (see [`Output::StreamProbe`]) has ended.
    pub fn stream_probe_result(&mut self, now: Now, target: NodeId, number: u64, alive: bool) {
        self.wake(now);
        self.take_stream_result(now, target, number, alive);
    }

    /// An exchange failed. Seeds have their own backoff; for the rest another member is tried soon.
    pub fn sync_failed(&mut self, now: Now, address: SocketAddr) {
        self.wake(now);
        if self.members.is_alive_at(address)
            && let Some(timers) = &mut self.timers
        {
            timers.sync_at = timers.sync_at.min(now + GREETING_PAUSE);
        }
    }

    /// Says goodbye. [`Output::LeaveDone`] follows.
    pub fn leave(&mut self, now: Now) {
        self.wake(now);
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(now + LEAVE_MAX);
        self.me.state = MemberState::Left;
        self.signer.sign(&mut self.me);
        self.prober.void();
        self.suspicions.clear();
        self.spread(now, self.me.clone());
        if self.members.count(MemberState::Alive) + self.members.count(MemberState::Suspect) == 0 {
            self.finish_leaving();
        }
    }

    /// A failed host will not come back: it counts as one that left, and everybody is told. With `prune` this host forgets
    /// it as well, at once; the others do after the time of the departed. Should it live after all, it refutes.
    pub fn force_leave(&mut self, now: Now, node: NodeId, prune: bool) -> Result<(), ForceLeaveError> {
        self.wake(now);
        let held = self.members.get(node).map(Member::claim).ok_or(ForceLeaveError::Unknown)?;
        match held.state {
            MemberState::Failed => {
                let mut claim = Claim { state: MemberState::Left, from: self.me.node, ..held };
                self.signer.sign(&mut claim);
                self.adopt(now, claim, Via::Datagram);
            }
            MemberState::Left => {}
            state => return Err(ForceLeaveError::NotFailed(state)),
        }
        if prune {
            self.members.remove(node);
            self.outputs.push_back(Output::Forgotten { node });
        }
        Ok(())
    }

    /// A host that is not believed any more: it counts as one that left, alive or not. What it says against that must not reach
    /// [`Swim::receive`].
    pub fn expel(&mut self, now: Now, node: NodeId) {
        self.wake(now);
        let held = self.members.get(node).map(Member::claim).filter(|held| held.state != MemberState::Left);
        if let Some(held) = held.filter(|held| held.node != self.me.node) {
            let mut claim = Claim { state: MemberState::Left, from: self.me.node, ..held };
            self.signer.sign(&mut claim);
            // Not spread: others believe it of those who have failed only, and they all hear why.
            self.suspicions.remove(node);
            self.write(now, claim);
        }
    }

    /// Does whatever is due.
    pub fn tick(&mut self, now: Now) {
        self.wake(now);
        if self.timers.as_ref().is_some_and(|timers| timers.pulse_at <= now) {
            self.pulse(now);
        }
        if self.leaving.is_none() {
            self.expire_probes(now);
            if self.timers.as_ref().is_some_and(|timers| timers.probe_at <= now) {
                self.probe_next(now);
                let next = now + self.health.stretch(self.config.probe_interval);
                self.with_timers(|timers| timers.probe_at = next);
            }
            self.bury_overdue(now);
        }
        if self.timers.as_ref().and_then(|timers| timers.gossip_at).is_some_and(|at| at <= now) {
            self.gossip(now);
        }
        let over = self.leaving.is_some_and(|until| until <= now || !self.queue.waits_about(self.me.node));
        if over {
            self.finish_leaving();
        }
    }

    /// When [`Swim::tick`] is to be called next; at once before the first.
    pub fn next_timeout(&self) -> Option<Now> {
        let Some(timers) = &self.timers else { return Some(Now::ZERO) };
        if self.left {
            return None;
        }
        let probing = [Some(timers.probe_at), self.prober.next_deadline()];
        let probing = probing.into_iter().flatten().filter(|_| self.leaving.is_none());
        // Who leaves, or doubts itself, buries nobody: a deadline that passes then must not be waited for.
        let burial = self.suspicions.next_deadline().filter(|_| !self.contact.is_frozen() && self.leaving.is_none());
        let always = [Some(timers.pulse_at), timers.gossip_at, self.leaving, burial];
        always.into_iter().flatten().chain(probing).min()
    }

    /// The next thing to do; nothing once all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && self.outputs.capacity() > OUTPUTS_KEPT {
            // A large exchange changed every member at once; room for as much again would outweigh the members.
            self.outputs.shrink_to(OUTPUTS_KEPT);
        }
        output
    }

    /// All that is held, of this host too: for push-pull exchanges and for the store.
    pub fn snapshot(&self) -> Vec<Claim> {
        self.members().collect()
    }

    /// What is held of a host, this one included.
    pub fn member(&self, node: NodeId) -> Option<Claim> {
        if node == self.me.node {
            return Some(self.me.clone());
        }
        self.members.get(node).map(Member::claim)
    }

    /// A host's state and gossip address, this one's included.
    pub fn whereabouts(&self, node: NodeId) -> Option<(MemberState, SocketAddr)> {
        if node == self.me.node {
            return Some((self.me.state, self.me.address));
        }
        self.members.get(node).map(|member| (member.state(), member.address()))
    }

    /// This host, then the others in no order that means anything.
    pub fn members(&self) -> impl Iterator<Item = Claim> {
        std::iter::once(self.me.clone()).chain(self.members.iter().map(Member::claim))
    }

    /// The other hosts that are alive or suspected, with their addresses: partners for gossip.
    pub fn alive(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        self.members.iter().filter(|member| member.state().is_living()).map(|member| (member.node(), member.address()))
    }

    /// Tells whether a member is in this host's zone: gossip goes there more often than beyond.
    pub fn set_near(&mut self, node: NodeId, near: bool) {
        self.members.set_near(node, near);
    }

    /// Lifeguard's local health score: 0 is well, [`HEALTH_SCORE_MAX`] the worst.
    pub fn health_score(&self) -> u32 {
        self.health.score()
    }

    /// Accusations that this host did not make because too many of its own were confirmed by nobody, since the start.
    pub fn accusations_withheld(&self) -> u64 {
        self.budget.withheld()
    }

    /// This host's incarnation.
    pub fn incarnation(&self) -> u64 {
        self.me.incarnation
    }

    /// How many times longer than configured this host waits for answers: 1 on a calm network.
    pub fn patience_factor(&self) -> f64 {
        self.pace.factor(self.config.probe_timeout)
    }

    /// How long to wait for an answer that usually comes within `time`: longer where answers come late, and while this host
    /// doubts itself.
    fn patience(&self, time: Duration) -> Duration {
        let late = time.mul_f64(self.patience_factor());
        late.max(self.health.stretch(time))
    }

    /// The size of the fleet, this host included.
    fn hosts(&self) -> usize {
        self.members.usable() + 1
    }

    fn with_timers(&mut self, set: impl FnOnce(&mut Timers)) {
        if let Some(timers) = &mut self.timers {
            set(timers);
        }
    }

    /// Every input starts here: the first sets the timers, and one that comes long after the pulse was due is a stall.
    fn wake(&mut self, now: Now) {
        let Some(timers) = &mut self.timers else { return self.start(now) };
        let late = now.saturating_sub(timers.pulse_at);
        if late > self.config.stall_after {
            timers.pulse_at = now;
            timers.probe_at = timers.probe_at.max(now);
            self.resume_after_stall(now, late);
        }
    }

    fn start(&mut self, now: Now) {
        // Hosts that start together must not probe together.
        let phase = |rng: &mut ChaCha8Rng, interval: Duration| now + interval.mul_f64(rng.random_range(0.0..1.0));
        self.timers = Some(Timers {
            pulse_at: now,
            first_pause: Some(self.config.probe_interval.mul_f64(self.rng.random_range(0.0..1.0))),
            probe_at: phase(&mut self.rng, self.config.probe_interval),
            gossiped_at: None,
            gossip_at: None,
            sync_at: phase(&mut self.rng, self.config.sync_interval),
            extra_syncs: 0,
            reconnect_at: phase(&mut self.rng, self.config.reconnect_interval),
            greet_at: now,
            sweep_at: phase(&mut self.rng, SWEEP_INTERVAL),
            newcomer_until: None,
        });
        self.contact.listen_from(now);
        self.spread(now, self.me.clone());
    }

    /// Queues a claim for gossip, and makes sure that a round comes.
    fn spread(&mut self, now: Now, claim: Claim) {
        self.queue.push(claim);
        let interval = self.config.gossip_interval;
        self.with_timers(|timers| {
            let earliest = timers.gossiped_at.map_or(now, |at| at + interval);
            timers.gossip_at.get_or_insert(earliest.max(now + GOSSIP_COALESCE));
        });
    }

    /// Sends claims at once, to one host, asking nothing.
    fn tell(&mut self, to: SocketAddr, node: NodeId, claims: Vec<Claim>) {
        self.send(to, Some(node), Probe::Gossip, claims);
    }

    /// Sends a datagram: `claims` first, then as much news as fits.
    fn send(&mut self, to: SocketAddr, node: Option<NodeId>, probe: Probe, mut claims: Vec<Claim>) {
        let mut room = self.config.claims_bytes_max;
        claims.retain(|claim| {
            let size = claim_bytes_max(claim);
            let fits = size <= room;
            room -= if fits { size } else { 0 };
            fits
        });
        let sends_max = self.config.retransmissions(self.hosts());
        self.queue.fill(&mut claims, self.config.claims_bytes_max, sends_max);
        self.outputs.push_back(Output::Send { to, node, message: SwimMessage { probe, claims } });
    }

    fn finish_leaving(&mut self) {
        if !self.left {
            self.left = true;
            self.outputs.push_back(Output::LeaveDone);
        }
    }
}
