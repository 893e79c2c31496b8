//! Choosing by weight: of two instances drawn at random the one with less load, or one after another. Pure.

use rand::{Rng, RngExt};

use super::chance;

/// Chooses one of `count` candidates, whose shares follow their weights where their loads are alike. `None` if none has any
/// weight. `estimate`: loads are such, and the lesser wins by [`chance`] ([`super::choose_by_estimate`]); else it wins always.
///
/// Two are drawn by weight, and the one with less load wins. An instance is drawn against itself only for what it weighs above
/// the mean: never where all weigh the same, so that a bad one never takes a call unopposed; and where one weighs nine times
/// as much as the other, often enough that it keeps most of the calls though it has more of them under way.
///
/// Looks at every weight. Where all are alike, [`super::choose`] and [`super::choose_by_estimate`] do the same at once.
pub fn pick_weighted(
    count: usize,
    weight: impl Fn(usize) -> f64,
    mut load: impl FnMut(usize) -> f64,
    estimate: bool,
    rng: &mut impl Rng,
) -> Option<usize> {
    let weight = |index: usize| sound(weight(index));
    let total: f64 = (0..count).map(weight).sum();
    let first = draw(count, weight, total, rng)?;
    // What the first does not stand against. Below 2^52 candidates the conversion is exact.
    let mean = total / count as f64;
    let set_aside = |index: usize| weight(index).min(mean);
    let against = |index: usize| if index == first { weight(index) - set_aside(index) } else { weight(index) };
    let Some(second) = draw(count, against, total - set_aside(first), rng).filter(|second| *second != first) else {
        return Some(first);
    };
    let (load_first, load_second) = (load(first), load(second));
    if !estimate {
        return Some(if load_second < load_first { second } else { first });
    }
    // How likely, of the times that these two meet, this one was drawn first; to go by that keeps to the weights.
    let was_first = (total - set_aside(second)) / (2.0 * total - set_aside(first) - set_aside(second));
    let wins = chance(load_first, load_second) * was_first;
    let loses = (1.0 - chance(load_first, load_second)) * (1.0 - was_first);
    Some(if rng.random_bool((wins / (wins + loses)).clamp(0.0, 1.0)) { first } else { second })
}

/// Draws one by weight.
fn draw(count: usize, weight: impl Fn(usize) -> f64, total: f64, rng: &mut impl Rng) -> Option<usize> {
    let mut at = total * rng.random::<f64>();
    let mut last = None;
    for index in 0..count {
        let weight = weight(index);
        if weight > 0.0 {
            if at < weight {
                return Some(index);
            }
            at -= weight;
            // Rounding may leave a little at the end.
            last = Some(index);
        }
    }
    last
}

/// What is no weight weighs nothing.
fn sound(weight: f64) -> f64 {
    if weight.is_finite() { weight.max(0.0) } else { 0.0 }
}

/// One after another, each as often as it weighs, and the heavy ones not in a row: NGINX's smooth weighted round robin. At each
/// turn every candidate gains its weight; the one with most takes the call and pays the sum of all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoundRobin {
    gained: Vec<f64>,
}

impl RoundRobin {
    /// Whose turn it is, of `count` candidates; `None` if none has any weight. When there are more or fewer than the last time
    /// they begin anew.
    pub fn next(&mut self, count: usize, weight: impl Fn(usize) -> f64) -> Option<usize> {
        if self.gained.len() != count {
            self.gained.clear();
            self.gained.resize(count, 0.0);
        }
        let mut total = 0.0;
        let mut most: Option<(usize, f64)> = None;
        for (index, gained) in self.gained.iter_mut().enumerate() {
            let weight = sound(weight(index));
            if weight > 0.0 {
                total += weight;
                *gained += weight;
                if most.is_none_or(|(_, most)| *gained > most) {
                    most = Some((index, *gained));
                }
            }
        }
        let (chosen, _) = most?;
        self.gained[chosen] -= total;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const DRAWS: u32 = 5_000;

    fn picked(weights: &[f64], loads: &[f64], estimate: bool, seed: u64) -> Vec<u32> {
        let (mut rng, mut picked) = (ChaCha8Rng::seed_from_u64(seed), vec![0; weights.len()]);
        for _ in 0..DRAWS {
            let chosen = pick_weighted(weights.len(), |at| weights[at], |at| loads[at], estimate, &mut rng);
            chosen.into_iter().for_each(|chosen| picked[chosen] += 1);
        }
        picked
    }

    #[test]
    fn where_all_weigh_the_same_a_bad_one_never_takes_a_call_unopposed() {
        let mut loads = [1.0; 11];
        loads[4] = 1_000.0;
        assert_eq!(picked(&[1.0; 11], &loads, false, 1)[4], 0);
        assert!(picked(&[1.0; 11], &loads, true, 1)[4] <= 1);
        assert_eq!(picked(&[3.0; 2], &[1.0, 2.0], false, 1), [DRAWS, 0]);
    }

    #[test]
    fn one_that_weighs_nine_times_as_much_keeps_most_calls_though_it_has_more_under_way() {
        for estimate in [false, true] {
            let heavy = picked(&[9.0, 1.0], &[9.0, 1.0], estimate, 1)[0];
            assert!(heavy > DRAWS * 7 / 10, "{heavy} of {DRAWS}");
        }
    }

    #[test]
    fn a_newcomer_in_slow_start_gets_at_most_twice_its_weight_however_fast_it_looks() {
        let (mut weights, mut loads) = ([1.0; 11], [167.0; 11]);
        (weights[0], loads[0]) = (0.1, 1.0);
        let newcomer = picked(&weights, &loads, true, 1)[0];
        assert!((50..=130).contains(&newcomer), "{newcomer} of {DRAWS}");
    }

    #[test]
    fn what_has_no_sound_weight_is_never_picked() {
        let picked = picked(&[0.0, 1.0, f64::NAN, -1.0, f64::INFINITY], &[0.0; 5], false, 1);
        assert_eq!(picked, [0, DRAWS, 0, 0, 0]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(pick_weighted(0, |_| 1.0, |_| 1.0, true, &mut rng), None);
        assert_eq!(pick_weighted(3, |_| 0.0, |_| 1.0, true, &mut rng), None);
        assert_eq!(pick_weighted(1, |_| 0.5, |_| f64::INFINITY, true, &mut rng), Some(0));
        assert!(pick_weighted(3, |_| 1.0, |_| f64::NAN, true, &mut rng).is_some());
    }

    #[test]
    fn turns_are_taken_by_weight_and_the_heavy_one_does_not_take_them_in_a_row() {
        let mut turns = RoundRobin::default();
        let taken: Vec<usize> = (0..14).filter_map(|_| turns.next(3, |at| [5.0, 1.0, 1.0][at])).collect();
        // The example of NGINX's own description.
        assert_eq!(taken, [[0, 0, 1, 0, 2, 0, 0]; 2].concat());
    }

    #[test]
    fn turns_begin_anew_when_the_list_is_another() {
        let mut turns = RoundRobin::default();
        let mut take = |count, weight: f64| turns.next(count, |_| weight);
        assert_eq!([take(3, 1.0), take(3, 1.0), take(2, 1.0), take(2, 1.0)], [Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!([take(0, 1.0), take(2, 0.0), take(2, 1.0)], [None, None, Some(0)]);
    }

    proptest! {
        /// Six standard deviations: by chance once in half a thousand million draws.
        #[test]
        fn with_loads_alike_shares_follow_weights(
            weights in prop::collection::vec(0.0..10.0_f64, 1..8),
            load in 0.0..10.0_f64,
            estimate in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let total: f64 = weights.iter().sum();
            prop_assume!(total > 0.0);
            let loads = vec![load; weights.len()];
            for (picked, weight) in picked(&weights, &loads, estimate, seed).into_iter().zip(weights) {
                let part = weight / total;
                let off = (f64::from(picked) - f64::from(DRAWS) * part).abs();
                prop_assert!(off <= 6.0 * (f64::from(DRAWS) * part * (1.0 - part)).sqrt() + 1.0, "{} of {}", picked, part);
            }
        }

        #[test]
        fn in_a_whole_round_each_has_exactly_its_turns(weights in prop::collection::vec(0_u8..20, 1..8)) {
            let round: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let (mut turns, mut taken) = (RoundRobin::default(), vec![0_u8; weights.len()]);
            for _ in 0..round {
                let chosen = turns.next(weights.len(), |at| f64::from(weights[at])).unwrap();
                taken[chosen] += 1;
            }
            prop_assert_eq!(taken, weights);
        }
    }
}
