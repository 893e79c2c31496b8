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
