//! One probe at a time (state.go, `probeNode`), and pings made for others (net.go, `handleIndirectPing`).

use std::time::Duration;

use super::Memberlist;
use super::message::{Held, News, Probe, Stream};
use super::{Effect, Now};

/// A probe under way.
#[derive(Debug)]
pub(super) struct Probing {
    target: u32,
    incarnation: u32,
    number: u32,
    began: Now,
    /// When helpers are asked; none: they were.
    helpers_at: Option<Now>,
    ends: Now,
    nacks_wanted: u32,
    nacks: u32,
    answered_by_tcp: bool,
}

impl Probing {
    fn next(&self) -> Now {
        self.helpers_at.unwrap_or(self.ends)
    }
}

/// A ping made for another host.
#[derive(Debug)]
struct Relay {
    own: u32,
    requester: u32,
    number: u32,
    ends: Now,
}

#[derive(Debug)]
pub(super) struct Prober {
    number: u32,
    pub(super) probing: Option<Probing>,
    relays: Vec<Relay>,
    /// Lifeguard's local health; 0 is well.
    score: u32,
    /// Go's ticker: its next tick.
    pub(super) tick_at: Now,
    /// A tick came while the last probe was under way: its channel holds one.
    tick_waits: bool,
}

impl Prober {
    pub(super) fn new(first_tick: Now) -> Prober {
        Prober { number: 0, probing: None, relays: Vec::new(), score: 0, tick_at: first_tick, tick_waits: false }
    }

    pub(super) fn next(&self) -> Now {
        let probing = self.probing.as_ref().map(Probing::next);
        let relay = self.relays.iter().map(|relay| relay.ends).min();
        [probing, relay].into_iter().flatten().fold(self.tick_at, Now::min)
    }

    fn number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }
}

impl Memberlist {
    /// awareness.go: the score stays from 0 to one below the maximum.
    pub(super) fn judge_own_health(&mut self, delta: i32) {
        let worst = self.parameters.awareness_max - 1;
        self.prober.score = self.prober.score.saturating_add_signed(delta).min(worst);
    }

    pub(super) fn tick_probes(&mut self, now: Now) {
        self.end_relays(now);
        if let Some(probing) = &self.prober.probing {
            if probing.helpers_at.is_some_and(|at| at <= now) {
                self.ask_helpers(now);
            }
            if self.prober.probing.as_ref().is_some_and(|probing| probing.ends <= now) {
                self.probe_failed(now);
            }
        }
        while self.prober.tick_at <= now {
            self.prober.tick_at += self.parameters.probe_interval;
            self.prober.tick_waits = true;
        }
        if self.prober.tick_waits && self.prober.probing.is_none() {
            self.prober.tick_waits = false;
            self.probe_next(now);
        }
    }

    fn probe_next(&mut self, now: Now) {
        let to_the_dead = self.parameters.gossip_to_the_dead;
        let Some(target) = self.members.next_probe(now, self.me, to_the_dead, &mut self.rng) else { return };
        let Some((incarnation, held)) = self.members.get(target) else { return };
        let number = self.prober.number();
        self.prober.probing = Some(Probing {
            target,
            incarnation,
            number,
            began: now,
            helpers_at: Some(now + self.parameters.probe_timeout),
            ends: now + self.parameters.probe_interval * (self.prober.score + 1),
            nacks_wanted: 0,
            nacks: 0,
            answered_by_tcp: false,
        });
        let ping = Probe::Ping { number, target };
        if self.parameters.buddy && held == Held::Suspect {
            self.send_only(target, ping, vec![News::Suspect { host: target, incarnation, from: self.me }]);
        } else {
            self.send(target, ping);
        }
    }

    fn ask_helpers(&mut self, now: Now) {
        let Some(probing) = &mut self.prober.probing else { return };
        probing.helpers_at = None;
        let (target, number, ends) = (probing.target, probing.number, probing.ends);
        let (me, members) = (self.me, &self.members);
        let fits = |host: u32| host != me && host != target && members.is(host, Held::Alive);
        let helpers = members.sample(self.parameters.indirect_checks, &mut self.rng, fits);
        if self.parameters.nacks {
            probing.nacks_wanted = u32::try_from(helpers.len()).unwrap_or(u32::MAX);
        }
        helpers.into_iter().for_each(|helper| self.send(helper, Probe::IndirectPing { number, target }));
        if self.parameters.tcp_fallback && ends > now {
            let token = u64::from(number) << 8 | super::TOKEN_PROBE;
            self.effects.push_back(Effect::Stream { to: target, token, fresh: true, request: Stream::Ping });
        }
    }

    fn probe_failed(&mut self, now: Now) {
        let Some(probing) = self.prober.probing.take() else { return };
        if probing.answered_by_tcp {
            return self.judge_own_health(-1);
        }
        let worse = match probing.nacks_wanted {
            0 => 1,
            wanted => wanted.saturating_sub(probing.nacks),
        };
        self.judge_own_health(i32::try_from(worse).unwrap_or(i32::MAX));
        self.suspect(now, probing.target, probing.incarnation, self.me);
    }

    pub(super) fn take_ping(&mut self, from: u32, number: u32, target: u32) {
        if target == self.me {
            self.send(from, Probe::Ack { number });
        }
    }

    pub(super) fn take_ack(&mut self, now: Now, number: u32) {
        if self.prober.probing.as_ref().is_some_and(|probing| probing.number == number && probing.began <= now) {
            self.prober.probing = None;
            self.judge_own_health(-1);
        } else if let Some(index) = self.prober.relays.iter().position(|relay| relay.own == number) {
            let relay = self.prober.relays.swap_remove(index);
            self.send(relay.requester, Probe::Ack { number: relay.number });
        }
    }

    pub(super) fn take_nack(&mut self, number: u32) {
        if let Some(probing) = self.prober.probing.as_mut().filter(|probing| probing.number == number) {
            probing.nacks += 1;
        }
    }

    pub(super) fn take_tcp_answer(&mut self, number: u32) {
        if let Some(probing) = self.prober.probing.as_mut().filter(|probing| probing.number == number) {
            probing.answered_by_tcp = true;
        }
    }

    pub(super) fn ping_for(&mut self, now: Now, requester: u32, number: u32, target: u32) {
        let own = self.prober.number();
        let ends = now + self.parameters.probe_timeout;
        self.prober.relays.push(Relay { own, requester, number, ends });
        self.send(target, Probe::Ping { number: own, target });
    }

    fn end_relays(&mut self, now: Now) {
        while let Some(index) = self.prober.relays.iter().position(|relay| relay.ends <= now) {
            let relay = self.prober.relays.swap_remove(index);
            if self.parameters.nacks {
                self.send(relay.requester, Probe::Nack { number: relay.number });
            }
        }
    }
}

/// The first tick of a Go ticker that starts with the process.
pub(super) fn first_tick(interval: Duration) -> Now {
    interval
}
