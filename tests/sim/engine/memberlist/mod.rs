//! hashicorp/memberlist with Serf's way to join, and plain SWIM: what Weft is compared with, in the same simulator.
//!
//! Written from the papers (SWIM: Das, Gupta, Motivala 2002; Lifeguard: Dadgar, Phillips, Currey, arXiv 1707.00788) and from what
//! the public source does (memberlist 0.5: state.go, suspicion.go, awareness.go, queue.go, net.go, config.go; serf 0.9); the files
//! are named at each rule. `parameters` says what is set to what, `claims` what is believed, `probe` who is asked, `queue` what is
//! told, `members` and `suspicion` keep, `events` are Serf's user events, `message` counts bytes. This file is the face and the
//! clock.
//!
//! What the model leaves out, because it moves no figure here: compression and encryption of packets, Serf's join intents (they
//! only fill what packets have left), network coordinates (their bytes are counted), conflicts of names.

mod claims;
mod events;
mod members;
mod message;
mod parameters;
mod probe;
mod queue;
mod suspicion;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

pub(crate) use message::{Message, Stream};
pub(crate) use parameters::Parameters;

use super::driven::{Core, Effect, End, Kind, Now, State};
use events::Events;
use members::Members;
use message::{Held, News, Probe};
use probe::Prober;
use queue::{COMPOUND_OVERHEAD, Queue};
use suspicion::Suspicions;

/// The low byte of a stream's token.
const TOKEN_PROBE: u64 = 0;
const TOKEN_PUSH_PULL: u64 = 1;
const TOKEN_JOIN: u64 = 2;
/// net.go: what a compound takes besides its parts, and the checksum before gossip.
const COMPOUND_HEADER: usize = 2;
const CHECKSUM: usize = 5;
/// memberlist.go, `Leave`: a goodbye is told for so long at most (Serf's `BroadcastTimeout`).
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// One agent.
#[derive(Debug)]
pub(crate) struct Memberlist {
    parameters: Arc<Parameters>,
    me: u32,
    incarnation: u32,
    rng: ChaCha8Rng,
    members: Members,
    suspicions: Suspicions,
    prober: Prober,
    /// Membership is told before user events, which take what room is left.
    news: Queue,
    user_news: Queue,
    events: Events,
    /// Serf's list of those to reach again.
    failed: Vec<u32>,
    seeds: Vec<u32>,
    join_at: Option<Now>,
    join_tries: usize,
    push_pull_at: Now,
    reconnect_at: Option<Now>,
    last_gossip: Now,
    leaving: bool,
    leave_by: Option<Now>,
    effects: VecDeque<Effect<Message, Stream>>,
}

impl Memberlist {
    /// An agent that knows itself, and joins by `seeds`.
    pub(crate) fn new(parameters: Arc<Parameters>, me: u32, seeds: Vec<u32>, mut rng: ChaCha8Rng) -> Memberlist {
        let mut members = Members::default();
        members.add(me, &mut rng);
        members.set(Now::ZERO, me, 1, Held::Alive);
        let stagger = parameters.push_pull_interval.mul_f64(rng.random_range(0.0..1.0));
        let joins = seeds.iter().any(|seed| *seed != me);
        Memberlist {
            me,
            incarnation: 1,
            members,
            suspicions: Suspicions::default(),
            prober: Prober::new(probe::first_tick(parameters.probe_interval)),
            news: Queue::default(),
            user_news: Queue::default(),
            events: Events::default(),
            failed: Vec::new(),
            seeds: seeds.into_iter().filter(|seed| *seed != me).collect(),
            join_at: joins.then_some(Now::ZERO),
            join_tries: 0,
            push_pull_at: stagger + parameters.push_pull_interval,
            reconnect_at: parameters.reconnect_interval,
            last_gossip: Now::ZERO,
            leaving: false,
            leave_by: None,
            effects: VecDeque::new(),
            parameters,
            rng,
        }
    }

    /// An agent of a fleet of `hosts` that all know each other already.
    pub(crate) fn knowing_all(parameters: Arc<Parameters>, me: u32, hosts: u32, rng: ChaCha8Rng) -> Memberlist {
        let mut agent = Memberlist::new(parameters, me, Vec::new(), rng);
        agent.members.fill(hosts, &mut agent.rng);
        // As if it had run for a while: tickers keep the phase of the start.
        let whole = agent.parameters.push_pull_pause(hosts as usize);
        agent.push_pull_at = whole.mul_f64(agent.rng.random_range(0.0..1.0));
        let phase = agent.rng.random_range(0.0..1.0);
        agent.prober.tick_at = agent.parameters.probe_interval.mul_f64(phase);
        agent.reconnect_at = agent.parameters.reconnect_interval.map(|pause| pause.mul_f64(phase));
        agent
    }

    /// Spreads a payload of this host: a Serf user event.
    pub(crate) fn publish(&mut self, now: Now, item: u64, bytes: usize) {
        self.align_gossip(now);
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let event = self.events.begin(item, bytes, self.parameters.event_buffer);
        self.effects.push_back(Effect::Got { item, fresh: true });
        self.tell(News::Event(event));
    }

    /// True if this payload has come, as far as Serf remembers.
    pub(crate) fn has(&self, item: u64) -> bool {
        self.events.has(item)
    }

    /// Says goodbye.
    pub(crate) fn leave(&mut self, now: Now) {
        self.align_gossip(now);
        self.leaving = true;
        self.leave_by = Some(now + LEAVE_MAX);
        self.tell(News::Dead { host: self.me, incarnation: self.incarnation, from: self.me });
    }

    fn tell(&mut self, news: News) {
        let bytes = news.bytes(self.parameters.name_bytes);
        let queue = if news.about().is_some() { &mut self.news } else { &mut self.user_news };
        queue.push(news, bytes);
    }

    /// memberlist.go, `getBroadcasts`: what waits and fits, membership first.
    fn take_news(&mut self, free: usize) -> (Vec<News>, usize) {
        let mut told = Vec::new();
        let tellings = self.parameters.retransmissions(self.members.len());
        let mut used = self.news.take(free, tellings, &mut told);
        if !self.user_news.is_empty() && free > used {
            used += self.user_news.take(free - used, tellings, &mut told);
        }
        (told, used)
    }

    /// net.go, `sendMsg`: every message takes along what news fits.
    fn send(&mut self, to: u32, probe: Probe) {
        let payload = if matches!(probe, Probe::Ack { .. }) { self.parameters.ack_payload_bytes } else { 0 };
        let own = probe.bytes(self.parameters.name_bytes, payload);
        let (news, used) = self.take_news(self.parameters.udp_buffer.saturating_sub(own + COMPOUND_HEADER));
        let compound = if news.is_empty() { 0 } else { COMPOUND_HEADER + COMPOUND_OVERHEAD };
        self.put(to, probe, news, own + compound + used);
    }

    /// A question with just this news.
    fn send_only(&mut self, to: u32, probe: Probe, news: Vec<News>) {
        let name = self.parameters.name_bytes;
        let told: usize = news.iter().map(|news| news.bytes(name) + COMPOUND_OVERHEAD).sum();
        let bytes = probe.bytes(name, 0) + COMPOUND_HEADER + COMPOUND_OVERHEAD + told;
        self.put(to, probe, news, bytes);
    }

    fn put(&mut self, to: u32, probe: Probe, news: Vec<News>, bytes: usize) {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.effects.push_back(Effect::Send { to, message: Message { probe, news, bytes } });
    }

    /// The next tick of the gossip ticker after the last one, if there is anything to tell.
    fn gossip_at(&self) -> Option<Now> {
        let waits = !self.news.is_empty() || !self.user_news.is_empty();
        waits.then(|| self.last_gossip + self.parameters.gossip_interval)
    }

    /// The ticker's phase is that of the probes: both start with the process. Idle ticks are not simulated one by one.
    fn gossip(&mut self, now: Now) {
        let (me, to_the_dead) = (self.me, self.parameters.gossip_to_the_dead);
        let members = &self.members;
        let fits = |host: u32| host != me && members.hears_gossip(now, host, to_the_dead);
        for to in members.sample(self.parameters.gossip_nodes, &mut self.rng, fits) {
            let (news, used) = self.take_news(self.parameters.udp_buffer - COMPOUND_HEADER);
            if news.is_empty() {
                break;
            }
            let compound = if news.len() > 1 { COMPOUND_HEADER + used } else { used - COMPOUND_OVERHEAD };
            self.put(to, Probe::Gossip, news, compound + CHECKSUM);
        }
    }

    /// To be called before anything is told: the next round comes at the ticker's next tick, however long nothing was told.
    fn align_gossip(&mut self, now: Now) {
        if self.gossip_at().is_none() {
            self.last_gossip = self.last_gossip_tick(now);
        }
    }

    fn last_gossip_tick(&self, now: Now) -> Now {
        let interval = self.parameters.gossip_interval.as_nanos();
        let phase = self.prober.tick_at.as_nanos() % interval;
        let past = (now.as_nanos() + interval - phase) % interval;
        now.saturating_sub(Duration::from_nanos(u64::try_from(past).unwrap_or(0)))
    }

    fn push_pull(&mut self, to: u32, kind: u64) {
        let request = Stream::PushPull(self.whole());
        self.effects.push_back(Effect::Stream { to, token: u64::from(to) << 8 | kind, fresh: true, request });
    }

    fn tick_push_pulls(&mut self, now: Now) {
        if self.join_at.is_some_and(|at| at <= now) {
            self.join_at = None;
            let seed = self.seeds[self.join_tries % self.seeds.len()];
            self.join_tries += 1;
            self.push_pull(seed, TOKEN_JOIN);
        }
        if self.push_pull_at <= now {
            self.push_pull_at = now + self.parameters.push_pull_pause(self.members.len());
            let (me, members) = (self.me, &self.members);
            let partner = members.sample(1, &mut self.rng, |host| host != me && members.is(host, Held::Alive));
            partner.into_iter().for_each(|to| self.push_pull(to, TOKEN_PUSH_PULL));
        }
        if self.reconnect_at.is_some_and(|at| at <= now) {
            self.reconnect_at = self.parameters.reconnect_interval.map(|pause| now + pause);
            self.reconnect();
        }
    }

    /// serf.go, `reconnect`: together the living try each failed member about once an interval.
    fn reconnect(&mut self) {
        if self.failed.is_empty() {
            return;
        }
        let living = self.members.len().saturating_sub(self.failed.len()).max(1);
        let share = self.failed.len() as f64 / living as f64;
        if self.rng.random_range(0.0..1.0) <= share {
            let to = self.failed[self.rng.random_range(0..self.failed.len())];
            self.push_pull(to, TOKEN_PUSH_PULL);
        }
    }
}

impl Core for Memberlist {
    type Message = Message;
    type Stream = Stream;

    fn receive(&mut self, now: Now, from: u32, message: Message) {
        self.align_gossip(now);
        match message.probe {
            Probe::Gossip => {}
            Probe::Ping { number, target } => self.take_ping(from, number, target),
            Probe::IndirectPing { number, target } => self.ping_for(now, from, number, target),
            Probe::Ack { number } => self.take_ack(now, number),
            Probe::Nack { number } => self.take_nack(number),
        }
        message.news.into_iter().for_each(|news| self.hear(now, news));
    }

    fn stream(&mut self, now: Now, _from: u32, request: Stream) -> Option<Stream> {
        match request {
            Stream::Ping => Some(Stream::Ping),
            Stream::PushPull(theirs) => {
                self.align_gossip(now);
                // net.go, `handleConn`: what is held before the merge is sent back.
                let mine = self.whole();
                self.merge(now, &theirs);
                Some(Stream::PushPull(mine))
            }
        }
    }

    fn stream_done(&mut self, now: Now, _to: u32, token: u64, reply: Option<Stream>) {
        match (token & 0xff, reply) {
            (TOKEN_PROBE, Some(_)) => self.take_tcp_answer(u32::try_from(token >> 8).unwrap_or(u32::MAX)),
            (TOKEN_JOIN, None) => self.join_at = Some(now + self.parameters.retry_join),
            (_, Some(Stream::PushPull(whole))) => {
                self.align_gossip(now);
                self.merge(now, &whole);
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Now) {
        self.align_gossip(now);
        if self.leaving {
            let over = !self.news.tells_of(self.me) || self.leave_by.is_some_and(|by| by <= now);
            if over {
                self.effects.push_back(Effect::End(End::Left));
                return;
            }
        } else {
            self.tick_push_pulls(now);
            self.tick_probes(now);
            self.bury_overdue(now);
        }
        if self.gossip_at().is_some_and(|at| at <= now) {
            self.last_gossip = self.last_gossip_tick(now);
            self.gossip(now);
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        let gossip = self.gossip_at();
        if self.leaving {
            return [gossip, self.leave_by].into_iter().flatten().min();
        }
        let others = [gossip, self.join_at, self.reconnect_at, self.suspicions.next()];
        let always = self.prober.next().min(self.push_pull_at);
        Some(others.into_iter().flatten().fold(always, Now::min))
    }

    fn poll(&mut self) -> Option<Effect<Message, Stream>> {
        self.effects.pop_front()
    }

    fn view(&self, host: u32, _generation: u32) -> Option<State> {
        self.members.get(host).map(|(_, held)| match held {
            Held::Alive => State::Alive,
            Held::Suspect => State::Suspect,
            Held::Dead => State::Failed,
            Held::Left => State::Left,
        })
    }

    fn bytes(message: &Message) -> usize {
        usize::from(message.bytes)
    }

    fn kind(message: &Message) -> Kind {
        match message.probe {
            Probe::Gossip if message.news.iter().all(|news| news.about().is_none()) => Kind::Delta,
            Probe::Gossip => Kind::Gossip,
            _ => Kind::Probe,
        }
    }

    fn stream_bytes(stream: &Stream) -> usize {
        match stream {
            Stream::PushPull(whole) => whole.bytes,
            Stream::Ping => 100,
        }
    }
}
