//! From attempts to a verdict: how many successes or failures in a row it takes. Pure; one per check.

use crate::config::CheckDefinition;
use crate::model::Health;

/// The verdict of one check and the run of attempts that led to it.
///
/// The words are Consul's (`success_before_passing`, `failures_before_warning`, `failures_before_critical`), with two
/// differences: a failure never betters the verdict (in Consul a failing check can climb from critical to warning), and
/// a warning worsens a passing check at once, because `success_before_passing` guards the way up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    verdict: Health,
    successes: u32,
    failures: u32,
    success_before_passing: u32,
    failures_before_warning: u32,
    failures_before_critical: u32,
}

impl Thresholds {
    /// Starts at `verdict`: the definition's `initial`, or what an earlier form of the same check had come to.
    pub fn new(definition: &CheckDefinition, verdict: Health) -> Thresholds {
        Thresholds {
            verdict,
            successes: 0,
            failures: 0,
            success_before_passing: definition.success_before_passing,
            failures_before_warning: definition.failures_before_warning,
            failures_before_critical: definition.failures_before_critical,
        }
    }

    /// The verdict as it stands.
    pub fn verdict(&self) -> Health {
        self.verdict
    }

    /// Takes one attempt's result; returns the verdict if it changed.
    pub fn observe(&mut self, attempt: Health) -> Option<Health> {
        let before = self.verdict;
        match attempt {
            Health::Passing | Health::Warning => self.succeeded(attempt),
            Health::Critical => self.failed(),
        }
        (self.verdict != before).then_some(self.verdict)
    }

    fn succeeded(&mut self, attempt: Health) {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        if attempt > self.verdict || self.successes >= self.success_before_passing {
            self.verdict = attempt;
        }
    }

    fn failed(&mut self) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.failures_before_critical {
            self.verdict = Health::Critical;
        } else if self.failures >= self.failures_before_warning {
            self.verdict = self.verdict.max(Health::Warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{CheckKind, CheckTarget};
    use Health::{Critical, Passing, Warning};

    fn definition(success: u32, warning: u32, critical: u32) -> CheckDefinition {
        CheckDefinition {
            id: "service:web".into(),
            name: "web".into(),
            kind: CheckKind::Tcp { target: CheckTarget { host: "127.0.0.1".into(), port: 80 }, tls: None },
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            success_before_passing: success,
            failures_before_warning: warning,
            failures_before_critical: critical,
            initial: Critical,
            notes: String::new(),
            deregister_after: None,
        }
    }

    /// The verdict after each of `attempts`.
    fn verdicts(mut thresholds: Thresholds, attempts: &[Health]) -> Vec<Health> {
        let each = attempts.iter().map(|&attempt| {
            thresholds.observe(attempt);
            thresholds.verdict()
        });
        each.collect()
    }

    #[test]
    fn with_thresholds_of_one_every_attempt_is_the_verdict() {
        let thresholds = Thresholds::new(&definition(1, 1, 1), Critical);
        let attempts = [Passing, Critical, Warning, Passing, Critical, Warning];
        assert_eq!(verdicts(thresholds, &attempts), attempts);
    }

    #[test]
    fn only_a_change_of_the_verdict_is_reported() {
        let mut thresholds = Thresholds::new(&definition(1, 1, 1), Critical);
        assert_eq!(thresholds.observe(Critical), None);
        assert_eq!(thresholds.observe(Passing), Some(Passing));
        assert_eq!(thresholds.observe(Passing), None);
        assert_eq!(thresholds.observe(Critical), Some(Critical));
    }

    #[test]
    fn successes_must_be_in_a_row_before_a_critical_check_passes() {
        let thresholds = Thresholds::new(&definition(3, 1, 1), Critical);
        let attempts = [Passing, Passing, Critical, Passing, Passing, Passing];
        assert_eq!(verdicts(thresholds, &attempts), [Critical, Critical, Critical, Critical, Critical, Passing]);
    }

    #[test]
    fn failures_must_be_in_a_row_before_a_passing_check_warns_and_then_is_critical() {
        let thresholds = Thresholds::new(&definition(1, 2, 3), Passing);
        let attempts = [Critical, Passing, Critical, Critical, Critical];
        assert_eq!(verdicts(thresholds, &attempts), [Passing, Passing, Passing, Warning, Critical]);
    }

    #[test]
    fn without_a_threshold_of_its_own_there_is_no_warning_on_the_way_down() {
        let thresholds = Thresholds::new(&definition(1, 3, 3), Passing);
        assert_eq!(verdicts(thresholds, &[Critical, Critical, Critical]), [Passing, Passing, Critical]);
    }

    #[test]
    fn a_failure_never_betters_a_verdict() {
        let thresholds = Thresholds::new(&definition(3, 1, 5), Critical);
        assert_eq!(verdicts(thresholds, &[Passing, Critical, Critical]), [Critical, Critical, Critical]);
    }

    #[test]
    fn a_warning_worsens_a_passing_check_at_once_but_climbs_from_critical_only_by_threshold() {
        let thresholds = Thresholds::new(&definition(2, 1, 1), Passing);
        assert_eq!(verdicts(thresholds, &[Warning]), [Warning]);
        let thresholds = Thresholds::new(&definition(2, 1, 1), Critical);
        assert_eq!(verdicts(thresholds, &[Warning, Warning]), [Critical, Warning]);
    }

    #[test]
    fn counters_do_not_overflow() {
        let mut thresholds = Thresholds::new(&definition(1, 1, 1), Critical);
        thresholds.failures = u32::MAX;
        thresholds.observe(Critical);
        thresholds.successes = u32::MAX;
        assert_eq!(thresholds.observe(Passing), Some(Passing));
    }
}
