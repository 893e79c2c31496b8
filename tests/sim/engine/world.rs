//! The simulated world: one queue of events in virtual microseconds, one generator, all hosts. Same seed, same run.
//!
//! It gives each event to its host's core, then does what the core puts out: datagrams and streams go through the network and
//! come back as events. A host that stands still, or whose processor is slow, keeps what arrives in its sockets.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::driven::{Core, Effect, End, Kind, Now, State};
use super::host::{Call, Clock, Host, SOCKET_DATAGRAMS_MAX};
use super::network::{Latency, Network};
use super::observe::{Observer, Sighting};
use super::queue::{Next, Queue};

/// The driver's deadline for a connection that does not come about.
const CONNECT_DEADLINE_US: u64 = 5_000_000;
/// And for an answer over one that did.
const ANSWER_DEADLINE_US: u64 = 10_000_000;

/// More events within one microsecond mean that a timer never moves on.
const EVENTS_AT_ONCE_MAX: u32 = 1_000_000;

/// What happens.
pub(crate) enum Event<M, S> {
    Datagram {
        to: u32,
        from: u32,
        message: M,
    },
    /// A request over a stream is there.
    Request {
        to: u32,
        from: u32,
        life: u32,
        token: u64,
        part: u32,
        request: S,
    },
    /// Its answer; `None`: refused.
    Reply {
        to: u32,
        from: u32,
        life: u32,
        token: u64,
        part: u32,
        reply: Option<S>,
    },
    /// It should have been answered.
    Deadline {
        to: u32,
        from: u32,
        life: u32,
        token: u64,
        part: u32,
    },
    /// A host that was busy goes on.
    Wake {
        host: u32,
    },
}

impl<M, S> Event<M, S> {
    /// Whom it happens to.
    fn host(&self) -> u32 {
        match self {
            Event::Datagram { to, .. }
            | Event::Request { to, .. }
            | Event::Reply { to, .. }
            | Event::Deadline { to, .. } => *to,
            Event::Wake { host } => *host,
        }
    }
}

type Happening<C> = Event<<C as Core>::Message, <C as Core>::Stream>;

pub(crate) struct World<C: Core> {
    pub(crate) seed: u64,
    now_us: u64,
    pub(crate) network: Network,
    hosts: Vec<Host<C, Happening<C>>>,
    pub(crate) observer: Observer,
    pub(crate) rng: ChaCha8Rng,
    queue: Queue<Happening<C>>,
    /// Hosts whose process has ended by itself and that nobody has looked at.
    ended: Vec<u32>,
    /// Events of the current microsecond.
    events_now: u32,
    /// A hash of what happened so far, when, and to whom: equal for equal runs.
    pub(crate) trace: u64,
    /// Time spent in the cores, if it is to be measured.
    pub(crate) core_time: Option<Duration>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("584,000 years suffice")
}

impl<C: Core> World<C> {
    /// `count` hosts without processes, on a calm network.
    pub(crate) fn new(seed: u64, count: u32) -> World<C> {
        World {
            seed,
            now_us: 0,
            network: Network::new(Latency::CALM),
            hosts: (0..count).map(|_| Host::new()).collect(),
            observer: Observer::default(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: Queue::default(),
            ended: Vec::new(),
            events_now: 0,
            trace: 0,
            core_time: None,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Duration::from_micros(self.now_us)
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.hosts.len()).expect("hosts are numbered by u32")
    }

    pub(crate) fn host(&self, host: u32) -> &Host<C, Happening<C>> {
        &self.hosts[host as usize]
    }

    pub(crate) fn host_mut(&mut self, host: u32) -> &mut Host<C, Happening<C>> {
        &mut self.hosts[host as usize]
    }

    /// The core of a running process.
    pub(crate) fn core(&self, host: u32) -> Option<&C> {
        self.host(host).core.as_ref()
    }

    pub(crate) fn runs(&self, host: u32) -> bool {
        self.host(host).core.is_some()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = u32> {
        (0..self.count()).filter(|host| self.runs(*host))
    }

    /// A generator for a core, drawn from the world's.
    pub(crate) fn draw_rng(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.rng.random())
    }

    // What is done to hosts from outside.

    /// A process starts.
    pub(crate) fn boot(&mut self, host: u32, core: C) {
        let now_us = self.now_us;
        let machine = self.host_mut(host);
        machine.stop();
        machine.ended = None;
        machine.life += 1;
        machine.clock = Clock::started(now_us, machine.drift_ppm);
        machine.busy_until = now_us;
        machine.wakes_at = None;
        machine.core = Some(core);
        self.settle(host);
    }

    /// The process ends without a word; what is left of it is handed out.
    pub(crate) fn crash(&mut self, host: u32) -> Option<C> {
        self.host_mut(host).stop()
    }

    /// The process stands still, and what arrives meanwhile waits.
    pub(crate) fn stall(&mut self, host: u32, time: Duration) {
        self.busy(host, self.now_us + micros(time), true);
    }

    /// The machine stands still, and what arrives meanwhile is lost.
    pub(crate) fn suspend(&mut self, host: u32, time: Duration) {
        self.busy(host, self.now_us + micros(time), false);
    }

    /// The process's timers run on, but its messages wait before they are sent and after they are received: a starved network
    /// thread, and the anomaly of Lifeguard's experiments (section V).
    pub(crate) fn hold_messages(&mut self, host: u32, time: Duration) {
        let until_us = self.now_us + micros(time);
        let machine = self.host_mut(host);
        machine.messages_held_until = machine.messages_held_until.max(until_us);
        self.wake_later(host);
    }

    /// Whatever the process stood still for is over.
    pub(crate) fn resume(&mut self, host: u32) {
        let now_us = self.now_us;
        let machine = self.host_mut(host);
        machine.busy_until = machine.busy_until.min(now_us);
        machine.messages_held_until = machine.messages_held_until.min(now_us);
        machine.wakes_at = Some(now_us);
        self.queue.push(now_us, Event::Wake { host });
    }

    /// Every event costs the host's process so much from now on.
    pub(crate) fn slow(&mut self, host: u32, event_cost: Duration) {
        self.host_mut(host).event_cost_us = micros(event_cost);
    }

    /// The host's clock jumps ahead.
    pub(crate) fn jump_clock(&mut self, host: u32, by: Duration) {
        let now_us = self.now_us;
        let machine = self.host_mut(host);
        machine.clock.jump(now_us, by);
        machine.tick_at = None;
        self.schedule_tick(host);
    }

    /// A datagram out of nowhere, but authentic.
    pub(crate) fn inject(&mut self, to: u32, from: u32, message: C::Message) {
        self.queue.push(self.now_us, Event::Datagram { to, from, message });
    }

    /// Does something to a running core from outside, as its operator would, then what it puts out.
    pub(crate) fn act<T>(&mut self, host: u32, action: impl FnOnce(&mut C, Now) -> T) -> Option<T> {
        let now_us = self.now_us;
        let machine = self.host_mut(host);
        let now = machine.clock.local(now_us);
        let result = action(machine.core.as_mut()?, now);
        self.settle(host);
        Some(result)
    }

    /// A host whose process has ended by itself.
    pub(crate) fn take_ended(&mut self) -> Option<(u32, End, C)> {
        let host = self.ended.pop()?;
        let (end, core) = self.host_mut(host).ended.take()?;
        Some((host, end, core))
    }

    // Time.

    /// Runs for `time`.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end_us = self.now_us + micros(time);
        while self.step(end_us) {}
        self.now_us = end_us;
    }

    /// Runs up to that time, or until a process has ended by itself; false in the latter case.
    pub(crate) fn run_to(&mut self, end: Now) -> bool {
        let end_us = micros(end);
        while self.ended.is_empty() {
            if !self.step(end_us) {
                self.now_us = self.now_us.max(end_us);
                return true;
            }
        }
        false
    }

    // What is held.

    /// What `viewer` holds of `subject` as it is installed now.
    pub(crate) fn view(&self, viewer: u32, subject: u32) -> Option<State> {
        self.core(viewer)?.view(subject, self.host(subject).generation)
    }

    /// True if every running host but `subject` itself holds it so.
    pub(crate) fn all_see(&self, subject: u32, state: State) -> bool {
        self.running().filter(|viewer| *viewer != subject).all(|viewer| self.view(viewer, subject) == Some(state))
    }

    /// True if every running host holds every running host as alive.
    pub(crate) fn all_alive(&self) -> bool {
        self.running().all(|host| self.all_see(host, State::Alive))
    }

    /// For failure messages: what everybody holds of everybody, one line a viewer.
    pub(crate) fn picture(&self) -> String {
        let letter = |state| match state {
            None => '.',
            Some(State::Unknown) => 'U',
            Some(State::Alive) => 'a',
            Some(State::Suspect) => 'S',
            Some(State::Failed) => 'F',
            Some(State::Left) => 'L',
        };
        let line = |viewer| {
            let views = (0..self.count()).map(|subject| letter(self.view(viewer, subject)));
            format!("{viewer:4} {}\n", views.collect::<String>())
        };
        self.running().map(line).collect()
    }

    // The machinery.

    fn busy(&mut self, host: u32, until_us: u64, sockets_keep: bool) {
        let machine = self.host_mut(host);
        machine.busy_until = machine.busy_until.max(until_us);
        machine.sockets_keep = sockets_keep;
        self.wake_later(host);
    }

    fn wake_later(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        let until = machine.busy_until.max(machine.messages_held_until);
        if machine.wakes_at.is_none_or(|at| at < until) {
            machine.wakes_at = Some(until);
            self.queue.push(until, Event::Wake { host });
        }
    }

    /// Handles the next event that is due by `end_us`.
    fn step(&mut self, end_us: u64) -> bool {
        let Some((at_us, next)) = self.queue.pop(end_us) else { return false };
        self.observer.events += 1;
        self.events_now = if at_us == self.now_us { self.events_now + 1 } else { 0 };
        assert!(self.events_now < EVENTS_AT_ONCE_MAX, "seed {}: time stands still at {at_us} µs", self.seed);
        self.now_us = at_us;
        let host = match &next {
            Next::Tick(host) => *host,
            Next::Event(event) => event.host(),
        };
        self.trace = (self.trace.rotate_left(7) ^ at_us ^ u64::from(host) << 40).wrapping_mul(0x0100_0000_01b3);
        match next {
            Next::Tick(host) => self.tick(host),
            Next::Event(event) => self.take(event),
        }
        true
    }

    fn tick(&mut self, host: u32) {
        let now_us = self.now_us;
        let machine = self.host_mut(host);
        if machine.tick_at != Some(now_us) {
            return;
        }
        machine.tick_at = None;
        if machine.busy_until > now_us {
            machine.tick_waits = true;
            return self.wake_later(host);
        }
        self.tick_now(host);
    }

    fn tick_now(&mut self, host: u32) {
        self.run_core(host, Core::tick);
        self.pay(host);
    }

    fn take(&mut self, event: Happening<C>) {
        let host = event.host();
        if matches!(event, Event::Wake { .. }) {
            return self.wake(host);
        }
        let now_us = self.now_us;
        let machine = &mut self.hosts[host as usize];
        if machine.core.is_none() {
            return self.refuse(&event);
        }
        if let Event::Datagram { message, .. } = &event {
            machine.traffic.datagrams_received += 1;
            machine.traffic.receive(now_us, C::kind(message), C::bytes(message));
        }
        let is_free = machine.busy_until <= now_us && machine.messages_held_until <= now_us;
        if is_free && machine.inbox.is_empty() {
            return self.handle(event);
        }
        if matches!(event, Event::Datagram { .. }) {
            let full = machine.inbox_datagrams >= SOCKET_DATAGRAMS_MAX;
            if full || !machine.sockets_keep {
                self.observer.overflows += u64::from(full);
                return;
            }
            machine.inbox_datagrams += 1;
        }
        machine.inbox.push_back(event);
        machine.inbox_longest = machine.inbox_longest.max(machine.inbox.len());
        self.wake_later(host);
    }

    /// A host's process goes on: with its timers first or with its sockets, as luck will have it.
    fn wake(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        if machine.wakes_at != Some(self.now_us) {
            return;
        }
        machine.wakes_at = None;
        if machine.busy_until > self.now_us || machine.messages_held_until > self.now_us {
            return self.wake_later(host);
        }
        machine.sockets_keep = true;
        if machine.tick_waits && self.rng.random_bool(0.5) {
            self.late_tick(host);
        }
        while self.hosts[host as usize].busy_until <= self.now_us {
            let machine = &mut self.hosts[host as usize];
            let Some(event) = machine.inbox.pop_front() else { break };
            machine.inbox_datagrams -= usize::from(matches!(event, Event::Datagram { .. }));
            self.handle(event);
        }
        let machine = &self.hosts[host as usize];
        if machine.busy_until > self.now_us {
            return self.wake_later(host);
        }
        if machine.tick_waits {
            self.late_tick(host);
        }
    }

    fn late_tick(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        machine.tick_waits = false;
        if machine.core.is_some() {
            self.tick_now(host);
        }
    }

    /// What an event costs the host's process.
    fn pay(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        if machine.event_cost_us > 0 {
            machine.busy_until = self.now_us + machine.event_cost_us;
        }
    }

    fn handle(&mut self, event: Happening<C>) {
        match event {
            Event::Datagram { to, from, message } => {
                self.run_core(to, |core, now| core.receive(now, from, message));
                self.pay(to);
            }
            Event::Request { to, from, life, token, part, request } => {
                let now_us = self.now_us;
                let machine = &mut self.hosts[to as usize];
                machine.traffic.receive(now_us, Kind::Stream, C::stream_bytes(&request));
                let reply = self.run_core(to, |core, now| core.stream(now, from, request)).flatten();
                self.pay(to);
                self.answer(to, from, (life, token, part), reply);
            }
            Event::Reply { to, from, life, token, part, reply } => {
                if self.end_call(to, life, token, part) {
                    if let Some(reply) = &reply {
                        let bytes = C::stream_bytes(reply);
                        let now_us = self.now_us;
                        self.hosts[to as usize].traffic.receive(now_us, Kind::Stream, bytes);
                    }
                    self.run_core(to, |core, now| core.stream_done(now, from, token, reply));
                    self.pay(to);
                }
            }
            Event::Deadline { to, from, life, token, part } => {
                if self.end_call(to, life, token, part) {
                    self.run_core(to, |core, now| core.stream_done(now, from, token, None));
                }
            }
            Event::Wake { .. } => {}
        }
    }

    /// True if the call was under way.
    fn end_call(&mut self, host: u32, life: u32, token: u64, part: u32) -> bool {
        let machine = &mut self.hosts[host as usize];
        if machine.life != life {
            return false;
        }
        let found = machine.calls.iter().position(|call| call.token == token && call.part == part);
        found.is_some_and(|at| {
            machine.calls.swap_remove(at);
            true
        })
    }

    fn answer(&mut self, from: u32, to: u32, call: (u32, u64, u32), reply: Option<C::Stream>) {
        let (life, token, part) = call;
        let bytes = reply.as_ref().map_or(0, C::stream_bytes);
        let Some(time) = self.network.stream(&mut self.rng, from, to, bytes, false) else { return };
        self.hosts[from as usize].traffic.send(self.now_us, Kind::Stream, bytes);
        self.queue.push(self.now_us + time, Event::Reply { to, from, life, token, part, reply });
    }

    /// Nobody listens there: the kernel refuses streams and drops datagrams.
    fn refuse(&mut self, event: &Happening<C>) {
        if let Event::Request { to, from, life, token, part, .. } = *event {
            self.answer(to, from, (life, token, part), None);
        }
    }

    /// Gives a host's core an input, then does what it puts out.
    fn run_core<T>(&mut self, host: u32, input: impl FnOnce(&mut C, Now) -> T) -> Option<T> {
        let machine = &mut self.hosts[host as usize];
        let now = machine.clock.local(self.now_us);
        let core = machine.core.as_mut()?;
        let result = match &mut self.core_time {
            None => input(core, now),
            Some(time) => {
                let begun = Instant::now();
                let result = input(core, now);
                *time += begun.elapsed();
                result
            }
        };
        self.settle(host);
        Some(result)
    }

    fn settle(&mut self, host: u32) {
        while let Some(effect) = self.hosts[host as usize].core.as_mut().and_then(Core::poll) {
            self.carry_out(host, effect);
        }
        self.schedule_tick(host);
    }

    fn schedule_tick(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        let Some(next) = machine.core.as_ref().and_then(Core::next_timeout) else { return };
        // As a driver does: a timer that is due fires no earlier than now.
        let at_us = machine.clock.world(next).max(self.now_us);
        if machine.tick_at.is_none_or(|tick| at_us < tick) {
            machine.tick_at = Some(at_us);
            self.queue.push_tick(at_us, host);
        }
    }

    fn carry_out(&mut self, host: u32, effect: Effect<C::Message, C::Stream>) {
        match effect {
            Effect::Send { to, message } => self.send(host, to, message),
            Effect::Stream { to, token, fresh, request } => self.open(host, to, token, fresh, request),
            Effect::Saw { host: subject, generation, state } => {
                let sighting = Sighting { at: self.now(), viewer: host, host: subject, generation, state };
                let runs = self.hosts.get(subject as usize);
                let runs = runs.is_some_and(|subject| subject.core.is_some() && subject.generation == generation);
                self.observer.saw(sighting, runs);
            }
            Effect::Got { item, fresh } => {
                let machine = &mut self.hosts[host as usize];
                machine.traffic.copies += 1;
                machine.traffic.fresh += u64::from(fresh);
                self.observer.got(Duration::from_micros(self.now_us), host, item, fresh);
            }
            Effect::End(end) => {
                if let Some(core) = self.hosts[host as usize].stop() {
                    self.hosts[host as usize].ended = Some((end, core));
                    self.ended.push(host);
                }
            }
        }
    }

    fn send(&mut self, from: u32, to: u32, message: C::Message) {
        let traffic = &mut self.hosts[from as usize].traffic;
        traffic.datagrams_sent += 1;
        traffic.send(self.now_us, C::kind(&message), C::bytes(&message));
        if self.network.latency.is_far(from, to) {
            traffic.far[C::kind(&message) as usize] += C::bytes(&message) as u64;
        }
        self.observer.datagrams += 1;
        if to as usize >= self.hosts.len() {
            return;
        }
        let sent_us = self.now_us.max(self.hosts[from as usize].messages_held_until);
        if self.network.duplicates(&mut self.rng)
            && let Some(time) = self.network.datagram(&mut self.rng, from, to)
        {
            self.queue.push(sent_us + time, Event::Datagram { to, from, message: message.clone() });
        }
        if let Some(time) = self.network.datagram(&mut self.rng, from, to) {
            self.queue.push(sent_us + time, Event::Datagram { to, from, message });
        }
    }

    fn open(&mut self, from: u32, to: u32, token: u64, fresh: bool, request: C::Stream) {
        let now_us = self.now_us;
        let machine = &mut self.hosts[from as usize];
        let life = machine.life;
        let part = u32::try_from(self.observer.events & u64::from(u32::MAX)).unwrap_or(0);
        machine.calls.push(Call { token, part });
        let bytes = C::stream_bytes(&request);
        let exists = (to as usize) < self.hosts.len();
        let time = if exists { self.network.stream(&mut self.rng, from, to, bytes, fresh) } else { None };
        let held = self.hosts[from as usize].messages_held_until.saturating_sub(now_us);
        let time = time.map(|time| time + held);
        let deadline = match time {
            Some(time) if time < CONNECT_DEADLINE_US => {
                self.hosts[from as usize].traffic.send(now_us, Kind::Stream, bytes);
                self.queue.push(now_us + time, Event::Request { to, from, life, token, part, request });
                time + ANSWER_DEADLINE_US
            }
            _ => CONNECT_DEADLINE_US,
        };
        self.queue.push(now_us + deadline, Event::Deadline { to: from, from: to, life, token, part });
    }

    /// Events that wait, and the most that ever did.
    pub(crate) fn queue_lengths(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.longest)
    }
}
