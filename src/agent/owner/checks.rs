//! Verdicts of this host's checks as they come, and what follows: a service is announced, changes its health, or is
//! deregistered because nobody mended it; the host itself is fit for calls or not.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Owner;
use super::changes::Ask;
use crate::health;
use crate::model::Health;

/// A check of the host that begins critical is not told before its first verdict, so that a restart does not take every
/// service of the host out of use for a moment; this long at most.
const FIRST_VERDICT_MAX: Duration = Duration::from_secs(30);
const OUTPUT_LOG_CHARS_MAX: usize = 200;

impl Owner {
    /// News of a check.
    pub(in crate::agent) fn on_health(&mut self, event: health::Event) {
        match event {
            health::Event::Verdict { service, check, health, output } => {
                let was_pending = self.pending_checks.remove(&check).is_some();
                let changed = self.registry.take_verdict(service.as_ref(), &check, health);
                if let Some(before) = changed {
                    let service = service.as_ref().map_or("this host", |id| id.as_str());
                    info!(service, check, from = %before, to = %health, output = first_line(&output), "health changed");
                }
                if changed.is_some() || was_pending {
                    self.refresh_of(service.as_ref());
                }
            }
            health::Event::Overdue { service, check } => self.ask(Ask::Overdue { service, check }, None),
        }
    }

    /// Checks of the host that are new wait for their first verdict; those that are gone do not.
    pub(super) fn settle_pending(&mut self) {
        let until = Instant::now() + FIRST_VERDICT_MAX;
        let mut former = std::mem::take(&mut self.pending_checks);
        let known = &self.known_host_checks;
        let fresh = self.registry.host_checks().filter(|check| check.initial == Health::Critical);
        let pending = fresh.filter_map(|check| match former.remove(&check.id) {
            Some(until) => Some((check.id.clone(), until)),
            None if known.contains(&check.id) => None,
            None => Some((check.id.clone(), until)),
        });
        self.pending_checks = pending.collect();
        self.known_host_checks = self.registry.host_checks().map(|check| check.id.clone()).collect();
    }

    /// Tells of checks that have waited long enough.
    pub(super) fn keep_pending(&mut self) {
        let now = Instant::now();
        let before = self.pending_checks.len();
        self.pending_checks.retain(|_, until| *until > now);
        if self.pending_checks.len() < before {
            self.refresh_host();
        }
    }
}

/// What a log line shows of a check's output: services write it, so it may neither forge lines nor fill the log.
fn first_line(output: &str) -> String {
    output.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(OUTPUT_LOG_CHARS_MAX).collect()
}
