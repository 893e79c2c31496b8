//! How much of its share an instance gets that has just appeared. Pure.

use std::time::Duration;

/// What it gets at first. Of nothing it would never become warm. Envoy's `min_weight_percent`.
const SHARE_MIN: f64 = 0.1;

/// What the weight of an instance is multiplied by when it has been there for `age`: from 0.1 up in a straight line, 1 from
/// `slow_start` on.
pub fn ramp(age: Duration, slow_start: Duration) -> f64 {
    if age >= slow_start {
        return 1.0;
    }
    (age.as_secs_f64() / slow_start.as_secs_f64()).clamp(SHARE_MIN, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_gets_a_tenth_at_first_and_all_when_its_time_is_over() {
        let slow_start = Duration::from_secs(30);
        for (age_s, expected) in [(0, 0.1), (3, 0.1), (15, 0.5), (30, 1.0), (3_000, 1.0)] {
            assert_eq!(ramp(Duration::from_secs(age_s), slow_start), expected, "after {age_s} s");
        }
    }

    #[test]
    fn without_slow_start_it_gets_all_at_once() {
        assert_eq!(ramp(Duration::ZERO, Duration::ZERO), 1.0);
    }
}
