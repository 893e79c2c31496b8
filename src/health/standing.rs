//! Where one check stands: attempts and reports come in, and what changed goes out as events and into the shared view.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::attempt::{Attempt, capped};
use super::damping::{CHANGES_MAX, Damping, QUIET, WINDOW};
use super::{Counters, Thresholds};
use crate::config::CheckDefinition;
use crate::model::{Health, Now, ServiceId};

/// News of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its verdict changed.
    Verdict {
        /// Whose check; `None` is the host's.
        service: Option<ServiceId>,
        /// Which one.
        check: String,
        /// What it is now.
        health: Health,
        /// What the deciding attempt said; stays on this host.
        output: String,
    },
    /// It has been critical for `deregister_critical_service_after`. Told again each time that it has been for as long
    /// once more.
    Overdue {
        /// Whose check.
        service: ServiceId,
        /// Which one.
        check: String,
    },
}

/// Where a check stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The verdict.
    pub health: Health,
    /// What the last attempt said, whether or not it changed the verdict; empty before the first.
    pub output: String,
}

/// The latest of every check, by id, for whoever shows it. Holds one entry a check and no more.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    latest: Arc<Mutex<HashMap<String, Latest>>>,
    counters: Arc<Counters>,
}

impl Verdicts {
    /// Where the check stands; `None` if there is no such check.
    pub fn get(&self, check: &str) -> Option<Latest> {
        self.lock().get(check).cloned()
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Begins a check at `initial`, unless it stands somewhere already. Returns where.
    pub(super) fn begin(&self, check: &str, initial: Health) -> Health {
        let mut latest = self.lock();
        if let Some(known) = latest.get(check) {
            return known.health;
        }
        self.counters.came(initial);
        latest.insert(check.to_owned(), Latest { health: initial, output: String::new() });
        initial
    }

    pub(super) fn end(&self, check: &str) {
        if let Some(gone) = self.lock().remove(check) {
            self.counters.went(gone.health);
        }
    }

    fn set(&self, check: &str, latest: Latest) {
        if let Some(entry) = self.lock().get_mut(check) {
            self.counters.went(entry.health);
            self.counters.came(latest.health);
            *entry = latest;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody listens for events any more.
#[derive(Debug)]
pub(super) struct Unheard;

/// One check at work.
#[derive(Debug)]
pub(super) struct Standing {
    service: Option<ServiceId>,
    check: String,
    thresholds: Thresholds,
    damping: Damping,
    began: Instant,
    /// Of the service, if that is to be told of.
    overdue: Option<Overdue>,
    events: mpsc::Sender<Event>,
    verdicts: Verdicts,
}

#[derive(Debug)]
struct Overdue {
    service: ServiceId,
    after: Duration,
    at: Option<Instant>,
}

impl Standing {
    /// A check that begins at `verdict`.
    pub(super) fn new(
        service: Option<ServiceId>,
        definition: &CheckDefinition,
        verdict: Health,
        events: mpsc::Sender<Event>,
        verdicts: Verdicts,
    ) -> Standing {
        let began = Instant::now();
        let overdue = match (&service, definition.deregister_after) {
            (Some(service), Some(after)) => Some(Overdue { service: service.clone(), after, at: None }),
            _ => None,
        };
        let mut standing = Standing {
            service,
            check: definition.id.clone(),
            thresholds: Thresholds::new(definition, verdict),
            damping: Damping::new(verdict),
            began,
            overdue,
            events,
            verdicts,
        };
        standing.keep_overdue(verdict);
        standing
    }

    /// The id of the check.
    pub(super) fn check(&self) -> &str {
        &self.check
    }

    /// An attempt was made: it takes the definition's number of them in a row to change the verdict.
    pub(super) async fn tried(&mut self, made: Attempt) -> Result<(), Unheard> {
        self.thresholds.observe(made.health);
        self.settle(self.thresholds.verdict(), made.output).await
    }

    /// It was told how it stands: that is the verdict.
    pub(super) async fn told(&mut self, health: Health, output: String) -> Result<(), Unheard> {
        self.settle(health, output).await
    }

    /// When [`on_due`](Standing::on_due) is to be called, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        let overdue = self.overdue.as_ref().and_then(|overdue| overdue.at);
        let released = self.damping.due().map(|due| self.began + due);
        [overdue, released].into_iter().flatten().min()
    }

    /// What was waited for has come.
    pub(super) async fn on_due(&mut self) -> Result<(), Unheard> {
        let now = Instant::now();
        if let Some(overdue) = self.overdue.as_mut().filter(|overdue| overdue.at.is_some_and(|at| at <= now)) {
            // Nothing may have come of it: the owner could not store it, say.
            overdue.at = Some(now + overdue.after);
            let event = Event::Overdue { service: overdue.service.clone(), check: self.check.clone() };
            self.events.send(event).await.map_err(|_| Unheard)?;
        }
        if let Some(health) = self.damping.tick(self.now()) {
            let output = format!("it has not changed for {} and is believed again", humantime::format_duration(QUIET));
            self.send(health, output.clone()).await?;
            self.verdicts.set(&self.check, Latest { health, output });
        }
        Ok(())
    }

    async fn settle(&mut self, verdict: Health, output: String) -> Result<(), Unheard> {
        self.verdicts.counters.attempt();
        self.keep_overdue(verdict);
        let changed = self.damping.observe(self.now(), verdict);
        let output = capped(match self.damping.held_back() {
            None => output,
            Some(actual) => format!("{} {output}", self.held(actual)),
        });
        if let Some(health) = changed {
            self.send(health, output.clone()).await?;
        }
        // Only now: had the task been replaced while it waited above, its successor would take a verdict as known that
        // the owner never heard of.
        self.verdicts.set(&self.check, Latest { health: self.damping.shown(), output });
        Ok(())
    }

    fn held(&self, actual: Health) -> String {
        let (window, quiet) = (humantime::format_duration(WINDOW), humantime::format_duration(QUIET));
        format!(
            "(flapping: more than {CHANGES_MAX} changes in {window}, so it stays {} until there was none for {quiet}; now \
             {actual})",
            self.damping.shown()
        )
    }

    async fn send(&self, health: Health, output: String) -> Result<(), Unheard> {
        self.verdicts.counters.transition();
        let event = Event::Verdict { service: self.service.clone(), check: self.check.clone(), health, output };
        self.events.send(event).await.map_err(|_| Unheard)
    }

    /// The time of being critical begins when it became so, and ends when it is so no more.
    fn keep_overdue(&mut self, verdict: Health) {
        let Some(overdue) = &mut self.overdue else { return };
        overdue.at = match (verdict, overdue.at) {
            (Health::Critical, None) => Some(Instant::now() + overdue.after),
            (Health::Critical, at) => at,
            _ => None,
        };
    }

    fn now(&self) -> Now {
        self.began.elapsed()
    }
}

/// Waits for the time, or for ever.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
