//! Outliers: which instances take no calls for a while, because they fail those that they get. Pure: times are arguments,
//! outcomes come in one by one, and what becomes of an instance is the return value.
//!
//! As Envoy's outlier detection has it: an instance is ejected after failures in a row, or when its share of successes is far
//! below that of the others; each ejection lasts twice as long as the one before. Two things are otherwise. When an ejection
//! is over, one real request probes the instance before it gets its share again (a circuit breaker's half-open state:
//! Nygard, *Release It!*, 2007), so a dead instance costs one request an ejection, not five. And a share of successes must be
//! below the mean by more than chance makes likely.

use std::time::Duration;

use crate::model::{Now, Outlier};

/// A probe of which nothing is heard for so long is over, and the next request may probe. As long as `proxy.request_timeout`
/// lets most requests take; a probe that reports later still counts.
pub const PROBE_MAX: Duration = Duration::from_secs(15);
/// However long its last ejection was, an instance that was in for so long begins anew at the shortest: the cause of then says
/// nothing of now.
const FORGIVEN_AFTER_MAX: Duration = Duration::from_secs(600);
/// With fewer instances their mean and deviation say nothing. Envoy's `success_rate_minimum_hosts`.
const INSTANCES_MIN: usize = 5;
/// An instance that is this close to the mean is let be. One of five that differ not at all otherwise is always two
/// deviations from the mean, were it one failure in thousands.
const LAG_MIN: f64 = 0.05;
/// Nor is one whose lag chance explains: so many standard errors of a share taken from as many requests.
const LAG_ERRORS: f64 = 3.0;

/// One instance, as one worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Track {
    state: State,
    /// Failures in a row.
    row: u16,
    /// Ejections in a row: since it was last in for long enough.
    ejections: u32,
    /// How long the last of them was.
    ejected_for: Duration,
    /// In this interval, while it was in.
    successes: u32,
    requests: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    In { since: Now },
    Out { until: Now },
    Probing { until: Now },
}

impl Default for State {
    fn default() -> State {
        State::In { since: Now::ZERO }
    }
}

/// Whether an instance takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    In,
    /// It does not.
    Ejected {
        /// Until then.
        until: Duration,
    },
    /// Its ejection is over: exactly one request may probe it, whoever calls [`Track::begin_probe`] first.
    Due,
    /// That request is under way; others go elsewhere.
    Probing,
}

impl Track {
    /// A call was answered. Ends a row of failures, and a probe: the instance is fully back in.
    pub fn succeeded(&mut self, now: Now) {
        self.row = 0;
        match self.state {
            State::In { .. } => {
                self.count(1);
                self.forgive(now);
            }
            State::Probing { .. } => self.state = State::In { since: now },
            // A call from before the ejection. The probe decides.
            State::Out { .. } => {}
        }
    }

    /// A call failed. True if the instance should be ejected now: it was one failure in a row too many, or the probe.
    pub fn failed(&mut self, _now: Now, outlier: &Outlier) -> bool {
        match self.state {
            State::In { .. } => {
                self.count(0);
                self.row = self.row.saturating_add(1);
                outlier.consecutive_failures > 0 && self.row >= outlier.consecutive_failures
            }
            State::Probing { .. } => true,
            State::Out { .. } => false,
        }
    }

    /// Takes it out, for twice as long as the last time. Without effect while it is out.
    pub fn eject(&mut self, now: Now, outlier: &Outlier) {
        if matches!(self.standing(now), Standing::Ejected { .. }) {
            return;
        }
        self.forgive(now);
        let times = 2_u32.checked_pow(self.ejections).unwrap_or(u32::MAX);
        self.ejected_for = outlier.ejection.saturating_mul(times).min(outlier.ejection_max);
        self.ejections = self.ejections.saturating_add(1);
        self.state = State::Out { until: now.saturating_add(self.ejected_for) };
        // It begins with a clean sheet when it comes back.
        (self.row, self.successes, self.requests) = (0, 0, 0);
    }

    /// Whether it takes calls.
    pub fn standing(&self, now: Now) -> Standing {
        match self.state {
            State::In { .. } => Standing::In,
            State::Out { until } if now < until => Standing::Ejected { until },
            State::Probing { until } if now < until => Standing::Probing,
            State::Out { .. } | State::Probing { .. } => Standing::Due,
        }
    }

    /// A request goes there as its probe. Without effect unless one is due.
    pub fn begin_probe(&mut self, now: Now) {
        if self.standing(now) == Standing::Due {
            self.state = State::Probing { until: now.saturating_add(PROBE_MAX) };
        }
    }

    /// Ejections in a row, none of which is forgotten yet.
    pub fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Successes and requests since this was last asked; begins a new interval.
    pub fn interval_counts(&mut self) -> (u32, u32) {
        (std::mem::take(&mut self.successes), std::mem::take(&mut self.requests))
    }

    fn count(&mut self, successes: u32) {
        self.successes = self.successes.saturating_add(successes);
        self.requests = self.requests.saturating_add(1);
    }

    /// Who was in for twice as long as it was out begins anew.
    fn forgive(&mut self, now: Now) {
        let needed = self.ejected_for.saturating_mul(2).min(FORGIVEN_AFTER_MAX);
        if matches!(self.state, State::In { since } if now.saturating_sub(since) >= needed) {
            self.ejections = 0;
        }
    }
}

/// True if one more of `total` instances may be ejected, of which `ejected` are: so many percent at most, but always one where
/// there is another to go to.
pub fn may_eject(total: usize, ejected: usize, outlier: &Outlier) -> bool {
    let share = ejected.saturating_add(1).saturating_mul(100);
    total >= 2 && (ejected == 0 || share <= total.saturating_mul(outlier.ejected_percent_max.into()))
}

/// True if so few of `total` instances are left that ejections say more of the network, or of this host, than of them: then
/// none of them counts, and calls go to all. Envoy's panic threshold; `panic_percent` zero: never.
pub fn panics(total: usize, left: usize, panic_percent: u8) -> bool {
    left.saturating_mul(100) < total.saturating_mul(panic_percent.into())
}

/// The instances whose share of successes is far below the others', the worst first, as indices into `counts` (successes and
/// requests of each in one interval).
///
/// Envoy's rule: below the mean by so many standard deviations of all that had enough requests, where those are enough. On
/// top, the lag must be worth an ejection, and more than chance.
pub fn laggards(counts: &[(u32, u32)], outlier: &Outlier) -> Vec<usize> {
    let requests_min = u32::from(outlier.success_rate_requests_min).max(1);
    let rate = |(successes, requests): (u32, u32)| f64::from(successes.min(requests)) / f64::from(requests);
    let judged = counts.iter().enumerate().filter(|(_, (_, requests))| *requests >= requests_min);
    let rates: Vec<(usize, f64, f64)> =
        judged.map(|(index, count)| (index, rate(*count), f64::from(count.1))).collect();
    if outlier.success_rate_stdev_tenths == 0 || rates.len() < INSTANCES_MIN {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate, _)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate, _)| (rate - mean).powi(2)).sum::<f64>() / count;
    let far = variance.sqrt() * f64::from(outlier.success_rate_stdev_tenths) / 10.0;
    let by_chance = |requests: f64| LAG_ERRORS * (mean * (1.0 - mean) / requests).sqrt();
    let lags = |(_, rate, requests): &(usize, f64, f64)| mean - rate > far.max(LAG_MIN).max(by_chance(*requests));
    let mut found: Vec<_> = rates.into_iter().filter(lags).collect();
    found.sort_by(|(_, one, _), (_, other, _)| one.total_cmp(other));
    found.into_iter().map(|(index, ..)| index).collect()
}
