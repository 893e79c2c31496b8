//! Choosing: which instance takes a call, whether one is tried again, and when there are too many. Pure: times, loads and
//! randomness are arguments, the choice is the return value. What operators say of it is in `model/resilience.rs`.
//!
//! Which: routes (`matching`), shares (`split`), zones, then an instance of those that are not ejected (`outlier`), by load
//! (here, `ewma`), weight (`pick`, `slow_start`) or key (`ring`). Whether again: `budget`. Too many: `adaptive` at the caller,
//! `rate` at the called.
//!
//! Power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001):
//! of two instances drawn at random the one with less load. It is nearly as even as looking at all of them, and does
//! not herd when loads are a moment old.

mod adaptive;
mod bucket;
mod budget;
mod ewma;
#[cfg(test)]
mod histories_tests;
mod matching;
mod outlier;
mod pick;
mod rate;
mod ring;
mod slow_start;
mod split;
mod zones;

use rand::{Rng, RngExt};

pub use adaptive::InFlight;
pub use budget::{RetryBudget, backoff};
pub use ewma::{AVOIDANCE, PeakEwma};
pub use matching::route_for;
pub use outlier::{PROBE_MAX, Standing, Track, laggards, may_eject, panics};
pub use pick::{RoundRobin, pick_weighted};
pub use rate::{CALLERS_MAX, Rates};
pub use ring::{Ring, hash};
pub use slow_start::ramp;
pub use split::share;
pub use zones::local_share;

/// Chooses one of `count` candidates. `load` tells that of the candidate at an index: open calls, or
/// [`PeakEwma::load`]. `None` if there is none.
pub fn choose<L: PartialOrd>(count: usize, mut load: impl FnMut(usize) -> L, rng: &mut impl Rng) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        _ => {
            let first = rng.random_range(0..count);
            // Drawn from the rest, so that the two always differ.
            let second = (first + rng.random_range(1..count)) % count;
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

/// Chooses one of `count` candidates by loads that are estimates, [`PeakEwma::load`]: of two drawn at random, the one with
/// less load the likelier, the more it differs.
///
/// To take the lesser always would send all calls of a quiet caller to one of two instances that differ by nothing but
/// chance, for as long as its estimate stays below the other's, which nobody calls and so nobody measures.
pub fn choose_by_estimate(count: usize, mut load: impl FnMut(usize) -> f64, rng: &mut impl Rng) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        _ => {
            let first = rng.random_range(0..count);
            let second = (first + rng.random_range(1..count)) % count;
            let wins = chance(load(first), load(second));
            Some(if rng.random_bool(wins) { first } else { second })
        }
    }
}

/// How likely [`choose_by_estimate`] takes the first of two, by the squares of their loads: evenly where they are alike, 4
/// of 5 times where the other has twice as much, 399 of 400 times where it has twenty times as much.
pub fn chance(load: f64, other: f64) -> f64 {
    let ratio = load / other;
    // Both without measure, or both out of use: no reason to prefer either.
    if !ratio.is_finite() {
        return if load > other { 0.0 } else { 0.5 };
    }
    1.0 / (1.0 + ratio * ratio)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(choose(0, |_| 0, &mut ChaCha8Rng::seed_from_u64(1)), None);
    }

    #[test]
    fn of_two_the_less_loaded_is_chosen_always() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let loads = [7, 3];
        assert!((0..100).all(|_| choose(2, |i| loads[i], &mut rng) == Some(1)));
    }

    #[test]
    fn estimates_that_are_alike_share_and_one_that_is_far_worse_is_hardly_called() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut share =
            |loads: [f64; 2]| (0..1_000).filter(|_| choose_by_estimate(2, |i| loads[i], &mut rng) == Some(0)).count();
        assert!((450..550).contains(&share([1.0, 1.0])));
        assert!((760..840).contains(&share([1.0, 2.0])));
        assert!(share([1.0, 50.0]) > 990);
        assert_eq!(share([f64::INFINITY, 1.0]), 0);
        assert!((450..550).contains(&share([f64::INFINITY, f64::INFINITY])));
    }

    #[test]
    fn ten_thousand_calls_over_ten_equal_instances_stay_close_together() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut open = [0u64; 10];
        for _ in 0..10_000 {
            let chosen = choose(open.len(), |i| open[i], &mut rng).unwrap();
            open[chosen] += 1;
        }
        let (least, most) = (open.iter().min().unwrap(), open.iter().max().unwrap());
        assert!(most - least <= 8, "{open:?}");
    }
}
