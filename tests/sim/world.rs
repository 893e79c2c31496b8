//! The simulated world: one queue of events in virtual microseconds, one generator, all hosts. Same seed, same run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft::model::{Claim, MemberState, NodeId, Now, Probe, SwimMessage};
use weft::swim::{Output, Swim};

use crate::host::{Change, Datagram, Host};
use crate::network::{HostIndex, Network};

/// A kernel's socket buffer holds about this many small datagrams for a process that does not read.
const SOCKET_DATAGRAMS_MAX: usize = 256;
/// The driver's deadline for streams that do not come about.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// The driver's deadline for a stream probe.
const STREAM_PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// What happens to one host.
enum Event {
    Tick,
    Datagram {
        sender: NodeId,
        from: SocketAddr,
        datagram: Datagram,
    },
    /// A push-pull stream was opened here; the answer goes back to `peer`.
    SyncRequest {
        peer: HostIndex,
        peer_start: u64,
        claims: Vec<Claim>,
    },
    SyncReply {
        claims: Vec<Claim>,
    },
    SyncFailed {
        to: SocketAddr,
    },
    StreamPing {
        peer: HostIndex,
        peer_start: u64,
        target: NodeId,
        number: u64,
    },
    StreamProbe {
        target: NodeId,
        number: u64,
        alive: bool,
    },
}

struct Queued {
    host: HostIndex,
    /// The agent's start that the event is for; others drop it. None: whoever runs there.
    start: Option<u64>,
    event: Event,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) network: Network,
    pub(crate) hosts: Vec<Host>,
    /// Everything that every host's membership ever said.
    pub(crate) history: Vec<Change>,
    pub(crate) seed: u64,
    rng: ChaCha8Rng,
    /// By microsecond; the sequence number keeps events of the same one in order.
    queue: BTreeMap<(u64, u64), Queued>,
    sequence: u64,
    addresses: BTreeMap<SocketAddr, HostIndex>,
    waiting: BTreeMap<HostIndex, usize>,
}

impl World {
    /// `count` hosts that are not started yet. All have the first as their seed.
    pub(crate) fn new(seed: u64, count: usize) -> World {
        let mut hosts: Vec<Host> = (0..count).map(Host::new).collect();
        let first = hosts[0].address;
        hosts.iter_mut().for_each(|host| host.seeds = vec![first]);
        World {
            now: Duration::ZERO,
            network: Network::calm(),
            addresses: hosts.iter().enumerate().map(|(index, host)| (host.address, index)).collect(),
            hosts,
            history: Vec::new(),
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            sequence: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// `count` hosts, started together, that know each other.
    pub(crate) fn joined(seed: u64, count: usize) -> World {
        let mut world = World::new(seed, count);
        (0..count).for_each(|host| world.start(host));
        world.run_until_all_see_all_alive(Duration::from_secs(30));
        world.run_for(Duration::from_secs(10));
        world.history.clear();
        world
    }

    pub(crate) fn start(&mut self, host: HostIndex) {
        let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
        self.hosts[host].start(self.now, rng);
        self.settle(host);
    }

    /// The process ends without a word. What was saved stays on the disk.
    pub(crate) fn crash(&mut self, host: HostIndex) {
        self.hosts[host].agent = None;
    }

    /// The process stands still, and what arrives meanwhile waits.
    pub(crate) fn stall(&mut self, host: HostIndex, time: Duration) {
        self.hosts[host].stalled_until = self.now + time;
        self.hosts[host].sockets_keep = true;
    }

    /// The machine stands still, and what arrives meanwhile is lost.
    pub(crate) fn suspend(&mut self, host: HostIndex, time: Duration) {
        self.hosts[host].stalled_until = self.now + time;
        self.hosts[host].sockets_keep = false;
    }

    pub(crate) fn leave(&mut self, host: HostIndex) {
        let now = self.now;
        self.act(host, |swim| swim.leave(now));
    }

    /// An operator says that a failed host will not come back.
    pub(crate) fn force_leave(&mut self, host: HostIndex, gone: HostIndex) {
        let (now, gone) = (self.now, self.hosts[gone].node);
        self.act(host, |swim| swim.force_leave(now, gone, false).expect("it has failed"));
    }

    /// A datagram with claims, out of nowhere, but with a valid seal.
    pub(crate) fn inject(&mut self, to: HostIndex, sender: HostIndex, claims: Vec<Claim>) {
        let (node, from) = (self.hosts[sender].node, self.hosts[sender].address);
        let message = SwimMessage { probe: Probe::Gossip, claims };
        let event = Event::Datagram { sender: node, from, datagram: Datagram::Swim(message) };
        self.schedule(self.now, to, None, event);
    }

    /// Runs for `time`.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`, looked at every 10 ms, and says how long it took; fails after `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&World) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now < start + limit, "seed {}: not within {limit:?}: {what}\n{}", self.seed, self.picture());
            self.run_for(Duration::from_millis(10));
        }
        self.now - start
    }

    pub(crate) fn run_until_all_see_all_alive(&mut self, limit: Duration) -> Duration {
        self.run_until(limit, "all see all alive", |world| {
            world.running().all(|host| world.all_see(host, MemberState::Alive))
        })
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = HostIndex> {
        (0..self.hosts.len()).filter(|host| self.hosts[*host].agent.is_some())
    }

    /// What `viewer` holds of `subject`.
    pub(crate) fn view(&self, viewer: HostIndex, subject: HostIndex) -> Option<MemberState> {
        let agent = self.hosts[viewer].agent.as_ref()?;
        agent.swim.member(self.hosts[subject].node).map(|claim| claim.state)
    }

    /// True if every running host but `subject` itself holds it so.
    pub(crate) fn all_see(&self, subject: HostIndex, state: MemberState) -> bool {
        self.running().filter(|viewer| *viewer != subject).all(|viewer| self.view(viewer, subject) == Some(state))
    }

    pub(crate) fn swim(&self, host: HostIndex) -> &Swim {
        &self.hosts[host].agent.as_ref().expect("a running host").swim
    }

    /// Times at which somebody changed its mind about a host to `state`.
    pub(crate) fn times_seen(&self, subject: HostIndex, state: MemberState) -> usize {
        let node = self.hosts[subject].node;
        self.history.iter().filter(|change| change.node == node && change.state == state).count()
    }

    /// Fails if anybody ever held anybody so since the history was cleared.
    pub(crate) fn assert_never(&self, state: MemberState) {
        let seen = self.history.iter().find(|change| change.state == state);
        assert_eq!(seen, None, "seed {}", self.seed);
    }

    /// For failure messages: what everybody holds of everybody, one line a viewer.
    fn picture(&self) -> String {
        let letter = |state| match state {
            None => '.',
            Some(MemberState::Unknown) => 'U',
            Some(MemberState::Alive) => 'a',
            Some(MemberState::Suspect) => 'S',
            Some(MemberState::Failed) => 'F',
            Some(MemberState::Left) => 'L',
        };
        let line = |viewer| {
            let views = (0..self.hosts.len()).map(|subject| letter(self.view(viewer, subject)));
            format!("{viewer:4} {}\n", views.collect::<String>())
        };
        self.running().map(line).collect()
    }

    // The machinery.

    /// Handles the next event before `end`.
    fn step(&mut self, end: Now) -> bool {
        let Some(next) = self.queue.first_entry() else { return false };
        let at = Duration::from_micros(next.key().0);
        if at > end {
            return false;
        }
        let queued = next.remove();
        self.now = at;
        let until = self.hosts[queued.host].stalled_until;
        if until > self.now {
            self.hold(until, queued);
        } else {
            self.handle(queued);
        }
        true
    }

    /// Keeps an event for a host that stands still until it moves, as far as its sockets hold.
    fn hold(&mut self, until: Now, queued: Queued) {
        if matches!(queued.event, Event::Datagram { .. }) {
            let waiting = self.waiting.entry(queued.host).or_default();
            if *waiting >= SOCKET_DATAGRAMS_MAX || !self.hosts[queued.host].sockets_keep {
                return;
            }
            *waiting += 1;
        }
        self.schedule(until, queued.host, queued.start, queued.event);
    }

    fn handle(&mut self, queued: Queued) {
        let Queued { host, start, event } = queued;
        let now = self.now;
        self.waiting.remove(&host);
        let Some(agent) = &mut self.hosts[host].agent else { return self.refuse(host, &event) };
        if start.is_some_and(|start| start != agent.start) {
            return;
        }
        match event {
            Event::Tick => {
                if agent.tick_at.is_none_or(|at| at > now) {
                    return;
                }
                agent.tick_at = None;
                self.act(host, |swim| swim.tick(now));
            }
            Event::Datagram { sender, from, datagram: Datagram::Swim(message) } => {
                self.act(host, |swim| swim.receive(now, sender, from, message));
            }
            Event::SyncRequest { peer, peer_start, claims: theirs } => {
                let claims = agent.swim.snapshot();
                self.act(host, |swim| swim.synced(now, theirs));
                let back = now + self.network.one_way(&mut self.rng);
                self.schedule(back, peer, Some(peer_start), Event::SyncReply { claims });
            }
            Event::SyncReply { claims } => self.act(host, |swim| swim.synced(now, claims)),
            Event::SyncFailed { to } => self.act(host, |swim| swim.sync_failed(now, to)),
            Event::StreamPing { peer, peer_start, target, number } => {
                let alive = self.hosts[host].node == target;
                let back = now + self.network.one_way(&mut self.rng);
                self.schedule(back, peer, Some(peer_start), Event::StreamProbe { target, number, alive });
            }
            Event::StreamProbe { target, number, alive } => {
                self.act(host, |swim| swim.stream_probe_result(now, target, number, alive));
            }
        }
    }

    /// Nobody listens there: the kernel refuses streams and drops datagrams.
    fn refuse(&mut self, host: HostIndex, event: &Event) {
        let back = self.now + self.network.one_way(&mut self.rng);
        match *event {
            Event::SyncRequest { peer, peer_start, .. } => {
                let to = self.hosts[host].address;
                self.schedule(back, peer, Some(peer_start), Event::SyncFailed { to });
            }
            Event::StreamPing { peer, peer_start, target, number } => {
                let failed = Event::StreamProbe { target, number, alive: false };
                self.schedule(back, peer, Some(peer_start), failed);
            }
            Event::Tick
            | Event::Datagram { .. }
            | Event::SyncReply { .. }
            | Event::SyncFailed { .. }
            | Event::StreamProbe { .. } => {}
        }
    }

    /// Gives a host's core an input, then does what it puts out.
    fn act(&mut self, host: HostIndex, input: impl FnOnce(&mut Swim)) {
        if let Some(agent) = &mut self.hosts[host].agent {
            input(&mut agent.swim);
        }
        self.settle(host);
    }

    fn settle(&mut self, host: HostIndex) {
        while let Some(output) = self.hosts[host].agent.as_mut().and_then(|agent| agent.swim.poll_output()) {
            self.carry_out(host, output);
        }
        let (now, Some(agent)) = (self.now, &mut self.hosts[host].agent) else { return };
        let start = agent.start;
        // As a driver does: a timer that is due fires no earlier than now.
        let next = agent.swim.next_timeout().map(|at| at.max(now));
        if let Some(at) = next.filter(|at| agent.tick_at.is_none_or(|tick| *at < tick)) {
            agent.tick_at = Some(at);
            self.schedule(at, host, Some(start), Event::Tick);
        }
    }

    fn carry_out(&mut self, host: HostIndex, output: Output) {
        match output {
            Output::Send { to, message, .. } => self.send(host, to, Datagram::Swim(message)),
            Output::Sync { to, .. } => self.open_sync(host, to),
            Output::StreamProbe { target, to, number } => self.open_stream_probe(host, to, target, number),
            Output::Changed { node, state, .. } => {
                self.history.push(Change { at: self.now, viewer: host, node, state });
            }
            Output::IncarnationRaised(incarnation) => self.hosts[host].disk.incarnation = incarnation,
            Output::LeaveDone => {
                self.hosts[host].left = true;
                self.crash(host);
            }
            Output::Forgotten { .. } | Output::NameConflict { .. } => {}
        }
    }

    fn send(&mut self, host: HostIndex, to: SocketAddr, datagram: Datagram) {
        let Datagram::Swim(message) = &datagram;
        self.hosts[host].datagrams_sent += 1;
        self.hosts[host].claims_sent += message.claims.len() as u64;
        let Some(peer) = self.addresses.get(&to).copied() else { return };
        if let Some(time) = self.network.datagram(&mut self.rng, host, peer) {
            let (sender, from) = (self.hosts[host].node, self.hosts[host].address);
            self.schedule(self.now + time, peer, None, Event::Datagram { sender, from, datagram });
        }
    }

    fn open_sync(&mut self, host: HostIndex, to: SocketAddr) {
        let Some((start, claims)) = self.hosts[host].agent.as_ref().map(|agent| (agent.start, agent.swim.snapshot()))
        else {
            return;
        };
        match self.reach(host, to) {
            Some((peer, time)) => {
                let event = Event::SyncRequest { peer: host, peer_start: start, claims };
                self.schedule(self.now + time, peer, None, event);
            }
            None => self.schedule(self.now + STREAM_TIMEOUT, host, Some(start), Event::SyncFailed { to }),
        }
    }

    fn open_stream_probe(&mut self, host: HostIndex, to: SocketAddr, target: NodeId, number: u64) {
        let Some(start) = self.hosts[host].agent.as_ref().map(|agent| agent.start) else { return };
        match self.reach(host, to) {
            Some((peer, time)) => {
                let event = Event::StreamPing { peer: host, peer_start: start, target, number };
                self.schedule(self.now + time, peer, None, event);
            }
            None => {
                let failed = Event::StreamProbe { target, number, alive: false };
                self.schedule(self.now + STREAM_PROBE_TIMEOUT, host, Some(start), failed);
            }
        }
    }

    fn reach(&mut self, host: HostIndex, to: SocketAddr) -> Option<(HostIndex, Duration)> {
        let peer = self.addresses.get(&to).copied()?;
        let time = self.network.stream(&mut self.rng, host, peer)?;
        Some((peer, time))
    }

    fn schedule(&mut self, at: Now, host: HostIndex, start: Option<u64>, event: Event) {
        let at_us = u64::try_from(at.as_nanos().div_ceil(1000)).expect("584,000 years suffice");
        let key = (at_us, self.sequence);
        self.sequence += 1;
        self.queue.insert(key, Queued { host, start, event });
    }
}
