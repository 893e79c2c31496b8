//! What is believed of others (state.go: `aliveNode`, `suspectNode`, `deadNode`, `mergeState`), and what is answered to claims
//! about this host itself.

use super::Memberlist;
use super::message::{Entry, Event, Held, News, Whole};
use super::{Effect, Now, State};

impl Memberlist {
    pub(super) fn hear(&mut self, now: Now, news: News) {
        match news {
            News::Alive { host, incarnation } => self.alive(now, host, incarnation),
            News::Suspect { host, incarnation, from } => self.suspect(now, host, incarnation, from),
            News::Dead { host, incarnation, from } => self.dead(now, host, incarnation, from),
            News::Event(event) => self.hear_event(event),
        }
    }

    fn alive(&mut self, now: Now, host: u32, incarnation: u32) {
        if host == self.me {
            // What a process before this one said.
            if incarnation > self.incarnation {
                self.refute(incarnation);
            }
            return;
        }
        let before = self.members.get(host);
        if before.is_some_and(|(held, _)| incarnation <= held) {
            return;
        }
        self.suspicions.end(host);
        if before.is_none() {
            self.members.add(host, &mut self.rng);
        }
        self.failed.retain(|failed| *failed != host);
        self.members.set(now, host, incarnation, Held::Alive);
        self.tell(News::Alive { host, incarnation });
        if before.is_none_or(|(_, held)| held != Held::Alive) {
            self.saw(host, State::Alive);
        }
    }

    pub(super) fn suspect(&mut self, now: Now, host: u32, incarnation: u32, from: u32) {
        if host == self.me {
            if incarnation >= self.incarnation {
                self.refute(incarnation);
            }
            return;
        }
        let Some((held_incarnation, held)) = self.members.get(host) else { return };
        if incarnation < held_incarnation {
            return;
        }
        if self.suspicions.runs(host) {
            if self.suspicions.confirm(host, from) {
                self.tell(News::Suspect { host, incarnation, from });
            }
            return;
        }
        if held != Held::Alive {
            return;
        }
        self.tell(News::Suspect { host, incarnation, from });
        self.members.set(now, host, incarnation, Held::Suspect);
        let hosts = self.members.len();
        // Without enough hosts to confirm, none are waited for. Plain SWIM never waits for any.
        let enough = hosts.saturating_sub(2) >= self.parameters.confirmations as usize;
        let wanted = if enough { self.parameters.confirmations } else { 0 };
        let shortest = self.parameters.suspicion_min(hosts);
        let longest = shortest * self.parameters.suspicion_max_timeout_mult;
        self.suspicions.start(now, host, from, wanted, (shortest, longest));
        self.saw(host, State::Suspect);
    }

    pub(super) fn bury_overdue(&mut self, now: Now) {
        while let Some(host) = self.suspicions.overdue(now) {
            self.suspicions.end(host);
            if let Some((incarnation, Held::Suspect)) = self.members.get(host) {
                self.dead(now, host, incarnation, self.me);
            }
        }
    }

    fn dead(&mut self, now: Now, host: u32, incarnation: u32, from: u32) {
        if host == self.me {
            if incarnation >= self.incarnation && !self.leaving {
                self.refute(incarnation);
            }
            return;
        }
        let Some((held_incarnation, held)) = self.members.get(host) else { return };
        if incarnation < held_incarnation {
            return;
        }
        self.suspicions.end(host);
        if matches!(held, Held::Dead | Held::Left) {
            return;
        }
        self.tell(News::Dead { host, incarnation, from });
        let (held, state) = if from == host { (Held::Left, State::Left) } else { (Held::Dead, State::Failed) };
        self.members.set(now, host, incarnation, held);
        if held == Held::Dead {
            self.failed.push(host);
        }
        self.saw(host, state);
    }

    /// Says louder that this host lives. To be asked to is a sign of poor health (Lifeguard).
    fn refute(&mut self, accused: u32) {
        self.incarnation = accused.max(self.incarnation) + 1;
        self.judge_own_health(1);
        self.members.set(Now::ZERO, self.me, self.incarnation, Held::Alive);
        self.tell(News::Alive { host: self.me, incarnation: self.incarnation });
    }

    fn hear_event(&mut self, event: Event) {
        let fresh = self.events.take(event, self.parameters.event_buffer);
        self.effects.push_back(Effect::Got { item: event.item, fresh });
        if fresh {
            self.tell(News::Event(event));
        }
    }

    /// What push-pulls carry.
    pub(super) fn whole(&self) -> Whole {
        let entry = |(host, incarnation, held)| Entry { host, incarnation, held };
        let members = self.members.known().map(entry).collect();
        Whole::new(members, self.events.recent(), self.parameters.name_bytes)
    }

    /// The dead of others are only suspected: they may know better.
    pub(super) fn merge(&mut self, now: Now, whole: &Whole) {
        for entry in whole.members.iter().copied() {
            let Entry { host, incarnation, held } = entry;
            match held {
                Held::Alive => self.alive(now, host, incarnation),
                Held::Suspect | Held::Dead => self.suspect(now, host, incarnation, self.me),
                Held::Left => self.dead(now, host, incarnation, host),
            }
        }
        whole.events.iter().for_each(|event| self.hear_event(*event));
    }

    fn saw(&mut self, host: u32, state: State) {
        self.effects.push_back(Effect::Saw { host, generation: 0, state });
    }
}
