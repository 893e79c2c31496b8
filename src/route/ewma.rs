//! How slow an instance is, as callers feel it: a moving average of latencies that jumps up at once and comes down slowly.
//! Pure: times are arguments.
//!
//! Peak EWMA, as Finagle and Linkerd have it: a latency above the average replaces it, one below is mixed in with a
//! weight that depends on the time since the last one, so that an instance that turns slow loses calls at once and wins
//! them back over `DECAY`. The load of an instance is its average times the calls under way there and the one to come.

use std::time::Duration;

/// Time after which an old average weighs e^-1 against a new latency. Finagle's default.
const DECAY: Duration = Duration::from_secs(10);
/// What an instance that was never called is held to be: an unknown instance shall be tried, though not by everybody at
/// once.
const UNKNOWN_US: f64 = 1_000.0;
/// How long an instance that failed a call is spared others, while there are any that did not. Short: a failed connect
/// costs a request one more try, and the check says soon enough what is dead.
pub const AVOIDANCE: Duration = Duration::from_secs(1);

/// A failure counts as a latency of at least this, or an instance that refuses all calls at once would look like the fastest
/// of them and draw them all. Slower than what most services answer in.
const PENALTY_MIN: Duration = Duration::from_millis(100);
/// ... and of at least this many times the average, so that it counts among slow instances too.
const PENALTY_FACTOR: f64 = 2.0;
/// Failures in a row make it no slower than this: it shall be tried again within a few [`DECAY`]s. By then it was ejected.
const PENALTY_MAX: Duration = Duration::from_secs(10);

/// The average of one instance, as one caller measures it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakEwma {
    value_us: f64,
    at: Duration,
    is_known: bool,
}

impl Default for PeakEwma {
    fn default() -> PeakEwma {
        PeakEwma { value_us: UNKNOWN_US, at: Duration::ZERO, is_known: false }
    }
}

impl PeakEwma {
    /// Takes a latency measured at `now`, the time since any fixed moment.
    pub fn observe(&mut self, now: Duration, latency: Duration) {
        let latency_us = latency.as_secs_f64() * 1e6;
        if !self.is_known || latency_us > self.value_us {
            self.value_us = latency_us;
        } else {
            let weight = self.weight(now);
            self.value_us = self.value_us * weight + latency_us * (1.0 - weight);
        }
        self.at = now;
        self.is_known = true;
    }

    /// Takes a call that was answered with a failure (5xx, 429) after `latency`: counts it as one that was slow.
    pub fn penalize(&mut self, now: Duration, latency: Duration) {
        let doubled = self.value_us(now) * PENALTY_FACTOR / 1e6;
        let penalty = Duration::try_from_secs_f64(doubled).unwrap_or(PENALTY_MAX).clamp(PENALTY_MIN, PENALTY_MAX);
        self.observe(now, penalty.max(latency));
    }

    /// The average in microseconds. Without calls it comes down to nothing, so that a slow instance is tried again.
    pub fn value_us(&self, now: Duration) -> f64 {
        if self.is_known { self.value_us * self.weight(now) } else { self.value_us }
    }

    /// What is compared: the average times the calls under way and the one to come.
    pub fn load(&self, now: Duration, open: u64) -> f64 {
        // Below 2^52 calls the conversion is exact.
        self.value_us(now).max(1.0) * (open + 1) as f64
    }

    fn weight(&self, now: Duration) -> f64 {
        let idle = now.saturating_sub(self.at);
        (-idle.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let mut ewma = PeakEwma::default();
        ewma.observe(Duration::ZERO, MS);
        ewma.observe(Duration::ZERO, 100 * MS);
        assert_eq!(ewma.value_us(Duration::ZERO), 100_000.0);
        // Calls of 1 ms every 100 ms: after two decays about e^-2 of the peak is left.
        let mut now = Duration::ZERO;
        while now < 2 * DECAY {
            now += 100 * MS;
            ewma.observe(now, MS);
        }
        let value = ewma.value_us(now);
        assert!((10_000.0..20_000.0).contains(&value), "{value}");
    }

    #[test]
    fn an_instance_that_nobody_calls_is_worth_a_try_again() {
        let mut ewma = PeakEwma::default();
        ewma.observe(Duration::ZERO, Duration::from_secs(5));
        assert!(ewma.value_us(10 * DECAY) < 1_000.0);
    }

    #[test]
    fn failures_answered_at_once_look_slow_not_fast() {
        let (mut failing, mut slow) = (PeakEwma::default(), PeakEwma::default());
        failing.penalize(Duration::ZERO, MS);
        assert_eq!(failing.value_us(Duration::ZERO), 100_000.0);
        slow.observe(Duration::ZERO, 167 * MS);
        slow.penalize(Duration::ZERO, MS);
        assert_eq!(slow.value_us(Duration::ZERO), 334_000.0);
        slow.penalize(Duration::ZERO, Duration::from_secs(1));
        assert_eq!(slow.value_us(Duration::ZERO), 1_000_000.0, "one that was slower than that counts as it was");
    }

    #[test]
    fn however_often_it_fails_it_is_worth_a_try_again_within_two_minutes() {
        let mut ewma = PeakEwma::default();
        (0..10_000).for_each(|_| ewma.penalize(Duration::ZERO, MS));
        assert_eq!(ewma.value_us(Duration::ZERO), 10_000_000.0);
        assert!(ewma.value_us(12 * DECAY) < 100.0);
    }

    #[test]
    fn open_calls_weigh_as_much_as_slowness() {
        let mut fast = PeakEwma::default();
        let mut slow = PeakEwma::default();
        fast.observe(Duration::ZERO, MS);
        slow.observe(Duration::ZERO, 2 * MS);
        assert!(fast.load(Duration::ZERO, 0) < slow.load(Duration::ZERO, 0));
        assert!(fast.load(Duration::ZERO, 2) > slow.load(Duration::ZERO, 0));
    }
}
