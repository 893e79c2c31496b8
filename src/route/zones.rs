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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_calls_stay_until_too_few_are_left_and_then_the_rest_goes() {
        for (usable, expected) in [(10, 1.0), (7, 1.0), (6, 6.0 / 7.0), (1, 1.0 / 7.0), (0, 0.0)] {
            let share = local_share(usable, 10, 70);
            assert!((share - expected).abs() < 1e-9, "{usable} of 10: {share}");
        }
    }

    #[test]
    fn the_ends_of_the_scale_are_sound() {
        assert_eq!(local_share(0, 0, 70), 0.0);
        assert_eq!((local_share(1, 10, 0), local_share(0, 10, 0)), (1.0, 0.0));
        assert_eq!((local_share(9, 10, 100), local_share(9, 10, 255)), (0.9, 0.9));
        assert_eq!(local_share(11, 10, 70), 1.0);
    }

    proptest! {
        #[test]
        fn with_each_instance_more_the_share_grows_by_no_more_than_its_part(total in 1_usize..200, spill in 1_u8..=100) {
            let shares: Vec<f64> = (0..=total).map(|usable| local_share(usable, total, spill)).collect();
            let step_max = 100.0 / f64::from(spill) / total as f64;
            for pair in shares.windows(2) {
                prop_assert!(pair[1] >= pair[0] && pair[1] - pair[0] <= step_max + 1e-9, "{:?}", pair);
            }
            prop_assert_eq!((shares[0], shares[total]), (0.0, 1.0));
        }

        /// No instance of a zone that spills gets more than one of a whole zone would at the threshold.
        #[test]
        fn those_that_are_left_are_never_asked_for_more_than_at_the_threshold(total in 1_usize..200, spill in 1_u8..=100) {
            for usable in 1..=total {
                let each = local_share(usable, total, spill) * total as f64 / usable as f64;
                prop_assert!(each <= 100.0 / f64::from(spill) + 1e-9);
            }
        }
    }
}
