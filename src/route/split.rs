//! How calls are shared between subsets. Pure.

use rand::{Rng, RngExt};

/// Draws one of the subsets by weight: each gets its part of the sum. `None` if nobody has any.
///
/// Drawn anew for each call: hosts that took turns would all begin with the same one.
pub fn share(weights: &[u32], rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.random_range(0..total);
    weights.iter().position(|weight| {
        let is_in = at < u64::from(*weight);
        at = at.saturating_sub(u64::from(*weight));
        is_in
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn drawn(weights: &[u32], seed: u64, draws: u32) -> Vec<u32> {
        let (mut rng, mut drawn) = (ChaCha8Rng::seed_from_u64(seed), vec![0; weights.len()]);
        (0..draws).filter_map(|_| share(weights, &mut rng)).for_each(|chosen| drawn[chosen] += 1);
        drawn
    }

    #[test]
    fn a_tenth_is_a_tenth_within_one_of_a_hundred_over_ten_thousand_calls() {
        for seed in 0..50 {
            let tenth = drawn(&[90, 10], seed, 10_000)[1];
            assert!((900..=1_100).contains(&tenth), "{tenth} with seed {seed}");
        }
    }

    #[test]
    fn who_weighs_nothing_gets_nothing_and_where_nobody_does_there_is_nobody() {
        assert_eq!(drawn(&[0, 3, 0], 1, 1_000), [0, 1_000, 0]);
        assert_eq!(share(&[0, 0], &mut ChaCha8Rng::seed_from_u64(1)), None);
        assert_eq!(share(&[], &mut ChaCha8Rng::seed_from_u64(1)), None);
        assert!(share(&[u32::MAX; 3], &mut ChaCha8Rng::seed_from_u64(1)).is_some());
    }

    proptest! {
        /// Six standard deviations: by chance once in half a thousand million draws.
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(0_u32..1_000, 1..6), seed in any::<u64>()) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            for (drawn, weight) in drawn(&weights, seed, 5_000).into_iter().zip(weights) {
                let part = f64::from(weight) / f64::from(total);
                let off = (f64::from(drawn) - 5_000.0 * part).abs();
                prop_assert!(off <= 6.0 * (5_000.0 * part * (1.0 - part)).sqrt() + 1.0, "{} of {}", drawn, part);
            }
        }
    }
}
