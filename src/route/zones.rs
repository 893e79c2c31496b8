//! How much of the calls stays in the caller's zone. Pure.

/// The share of calls that goes to instances of the caller's zone, from 0 to 1, where `usable` of its `total` instances take
/// calls.
///
/// All, while at least `spill_percent` of them do; below that in proportion, none where there is none. As Envoy spills between
/// priorities, whose overprovisioning factor of 1.4 is a `spill_percent` of 71. There is no step in it: one instance more or less
/// moves no more than its part, so zones do not push load back and forth.
pub fn local_share(usable: usize, total: usize, spill_percent: u8) -> f64 {
    if usable == 0 || total == 0 {
        return 0.0;
    }
    // Below 2^52 instances the conversion is exact.
    let healthy = usable as f64 / total as f64;
    let spill = f64::from(spill_percent.min(100)) / 100.0;
    if healthy >= spill { 1.0 } else { healthy / spill }
}
