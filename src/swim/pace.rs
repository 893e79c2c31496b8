//! How fast answers come, and so how long to wait for one: a smoothed round trip of the direct probes and its variation, as
//! TCP keeps them (RFC 6298). On a calm network the configured times hold. Where every host is starved of CPU, or packets
//! queue for long, answers come late but come: then this host waits longer before it doubts anybody, up to
//! [`FACTOR_MAX`] times as long.
//!
//! Lifeguard's local health asks "is it me?" after a probe has failed; this asks "how long do answers take?" before one does.

use std::time::Duration;

/// A peer that delays its answers on purpose must not put off detection for good.
const FACTOR_MAX: f64 = 4.0;
/// One round trip counts for so much at most; beyond it the factor is at its limit anyway.
const SAMPLE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Pace {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Pace {
    /// A ping was answered by its target after `round_trip`, in time or not.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        let round_trip = round_trip.min(SAMPLE_MAX);
        match &mut self.smoothed {
            None => {
                self.smoothed = Some(round_trip);
                self.variation = round_trip / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(round_trip)) / 4;
                *smoothed = (*smoothed * 7 + round_trip) / 8;
            }
        }
    }

    /// How many times longer than `usual` to wait, from 1 to [`FACTOR_MAX`].
    pub(super) fn factor(&self, usual: Duration) -> f64 {
        let needed = self.smoothed.unwrap_or_default() + self.variation * 4;
        (needed.as_secs_f64() / usual.as_secs_f64().max(f64::EPSILON)).clamp(1.0, FACTOR_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_millis(250);

    fn after(round_trips_ms: &[u64]) -> f64 {
        let mut pace = Pace::default();
        round_trips_ms.iter().for_each(|ms| pace.sample(Duration::from_millis(*ms)));
        pace.factor(USUAL)
    }

    #[test]
    fn on_a_calm_network_of_any_size_the_usual_time_holds() {
        let factors =
            [after(&[]), after(&[1; 20]), after(&[1, 2, 1, 30, 2, 1]), after(&[150, 151, 149, 152].repeat(5))];
        assert_eq!(factors, [1.0; 4]);
    }

    #[test]
    fn late_answers_make_it_patient_within_limits_and_early_ones_bring_it_back() {
        assert!(after(&[1, 1, 400, 300, 600]) > 2.0);
        assert!((after(&[9000; 30]) - FACTOR_MAX).abs() < f64::EPSILON);
        let calm_again = [vec![600; 10], vec![2; 40]].concat();
        assert!((after(&calm_again) - 1.0).abs() < f64::EPSILON);
    }
}
