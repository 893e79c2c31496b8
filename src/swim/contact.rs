//! Whether this host is in touch with the others, and how far it trusts itself.
//!
//! Two doubts live here. *Local health* (Lifeguard): a host whose probes fail for reasons of its own probes more slowly and
//! waits longer. *The freeze*: a host that hears nobody, or lost more than half of its peers at once, cannot tell whether it
//! or they are cut off; it keeps its view, buries nobody and calls itself out of contact until that ends.

use std::time::Duration;

use super::Swim;
use super::config::HEALTH_SCORE_MAX;
use crate::model::{MemberState, Now};

/// With fewer peers, losing all of them is an everyday event (one host of two, two of three).
const FREEZE_PEERS_MIN: usize = 3;
/// Losses within this time count as one event.
const LOSS_WINDOW: Duration = Duration::from_secs(30);
/// A host that lost most peers but still talks to some accepts the loss after this time: whoever is left must be able to
/// go on without those that are really gone.
const LOSS_ACCEPTED_AFTER: Duration = Duration::from_secs(600);
/// Silence of all peers for so many probe intervals, with a probe, its helpers and its stream failed meanwhile, means that
/// this host is cut off. It must be shorter than an unconfirmed suspicion.
const SILENCE_INTERVALS: u32 = 4;

/// Members that rise within this time rise together.
const RISE_WINDOW: Duration = Duration::from_secs(10);
/// That many of them at least, and that part of the fleet, mean that a cut has healed.
const RISEN_MIN: usize = 3;
const RISEN_PART: usize = 20;

/// So long after first contact this host counts as a newcomer, whose exchanges tell it what others know already.
const NEWCOMER: Duration = Duration::from_secs(5);

/// Lifeguard's local health score: 0 is well.
#[derive(Debug, Default)]
pub(super) struct LocalHealth(u32);

impl LocalHealth {
    pub(super) fn better(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    pub(super) fn worse(&mut self, by: usize) {
        let by = u32::try_from(by).unwrap_or(HEALTH_SCORE_MAX);
        self.0 = self.0.saturating_add(by).min(HEALTH_SCORE_MAX);
    }

    pub(super) fn score(&self) -> u32 {
        self.0
    }

    pub(super) fn stretch(&self, time: Duration) -> Duration {
        time * (self.0 + 1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Nobody is heard.
    Silence,
    /// Most peers went at once.
    Loss,
}

#[derive(Debug, Default)]
pub(super) struct Contact {
    /// True once any peer was heard since the start.
    pub(super) met: bool,
    heard_at: Now,
    /// Probes that failed altogether since anybody was heard.
    failed_probes: u32,
    frozen: Option<(Doubt, Now)>,
    /// Failed members that came back since then.
    risen: (Now, usize),
}

impl Contact {
    pub(super) fn probe_failed(&mut self) {
        self.failed_probes = self.failed_probes.saturating_add(1);
    }

    /// True while nobody may be called failed by this host.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// True while nobody may even be suspected by this host: before first contact, and while it hears nobody.
    pub(super) fn is_silent(&self) -> bool {
        !self.met || matches!(self.frozen, Some((Doubt::Silence, _)))
    }

    /// The clock of silence starts anew: this host did not listen.
    pub(super) fn listen_from(&mut self, now: Now) {
        self.heard_at = now;
        self.failed_probes = 0;
    }
}

impl Swim {
    /// True after first contact with any peer since the start, and not cut off since.
    pub fn in_contact(&self) -> bool {
        let anybody = self.members.count(MemberState::Alive) + self.members.count(MemberState::Suspect) > 0;
        let somebody_lost = self.members.count(MemberState::Failed) + self.members.count(MemberState::Unknown) > 0;
        self.contact.met && !self.contact.is_frozen() && (anybody || !somebody_lost)
    }

    /// A peer was heard, by datagram or stream.
    pub(super) fn heard(&mut self, now: Now) {
        self.contact.listen_from(now);
        if !self.contact.met {
            self.contact.met = true;
            self.with_timers(|timers| timers.newcomer_until = Some(now + NEWCOMER));
            self.sync_soon(now);
        }
        if matches!(self.contact.frozen, Some((Doubt::Silence, _))) {
            self.judge_contact(now);
        }
    }

    /// A failed member is back. Where many are, a cut has healed, and what gossip may miss of so much news an exchange
    /// brings.
    pub(super) fn note_risen(&mut self, now: Now) {
        let (since, count) = &mut self.contact.risen;
        if now > *since + RISE_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count == RISEN_MIN.max(self.members.len() / RISEN_PART) {
            self.sync_soon(now);
        }
    }

    /// Freezes or thaws the view as things stand.
    pub(super) fn judge_contact(&mut self, now: Now) {
        match (self.contact.frozen, self.doubt(now)) {
            (None, None) => {}
            (Some((Doubt::Loss, since)), Some(Doubt::Loss)) if now >= since + LOSS_ACCEPTED_AFTER => {
                self.members.accept_losses();
                self.thaw(now);
            }
            (Some((before, since)), Some(doubt)) => {
                self.contact.frozen = Some((doubt, since));
                if before != doubt {
                    self.withdraw_accusations(now);
                }
            }
            (None, Some(doubt)) => {
                self.contact.frozen = Some((doubt, now));
                self.withdraw_accusations(now);
            }
            (Some(_), None) => self.thaw(now),
        }
    }

    fn doubt(&self, now: Now) -> Option<Doubt> {
        let peers = self.members.count(MemberState::Alive) + self.members.count(MemberState::Suspect);
        let silence = now.saturating_sub(self.contact.heard_at);
        if peers >= FREEZE_PEERS_MIN
            && self.contact.failed_probes > 0
            && silence >= self.config.probe_interval * SILENCE_INTERVALS
        {
            return Some(Doubt::Silence);
        }
        let kept = self.members.count(MemberState::Unknown) + self.members.count(MemberState::Alive);
        if self.members.lost() <= kept {
            return None;
        }
        let from = self.contact.frozen.map_or(now, |(_, since)| since).saturating_sub(LOSS_WINDOW);
        let lost = self.members.iter().filter(|member| member.lost_at().is_some_and(|at| at >= from)).count();
        (lost + kept >= FREEZE_PEERS_MIN && lost > kept).then_some(Doubt::Loss)
    }

    /// Being cut off proves nothing about anybody: what only this host suspects, it suspects no longer.
    fn withdraw_accusations(&mut self, now: Now) {
        if !self.contact.is_silent() {
            return;
        }
        for node in self.suspicions.only_by(self.me.node) {
            self.suspicions.remove(node);
            self.queue.drop_about(node);
            let Some(member) = self.members.get(node) else { continue };
            let mut claim = member.claim();
            claim.state = MemberState::Alive;
            claim.from = node;
            self.write(now, claim);
        }
    }

    /// The view moves again. Suspects get their time anew, because their refutations could not be heard.
    fn thaw(&mut self, now: Now) {
        self.contact.frozen = None;
        self.suspicions.restart_all(now);
        self.sync_soon(now);
    }

    /// Notes that this host stood still until `now`: nothing that it failed to hear meanwhile is held against anybody.
    pub(super) fn resume_after_stall(&mut self, now: Now, late: Duration) {
        /// Having missed that much, gossip included, is worth an exchange.
        const MISSED_NEWS: Duration = Duration::from_secs(2);
        self.prober.void();
        self.suspicions.restart_all(now);
        self.contact.listen_from(now);
        self.health.worse(1);
        if late >= MISSED_NEWS {
            self.sync_soon(now);
        }
    }
}
