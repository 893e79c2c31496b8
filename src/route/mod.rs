//! Choosing: which instance takes a call. Pure: loads and randomness are arguments, the choice is the return value.
//!
//! Power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001):
//! of two instances drawn at random the one with less load. It is nearly as even as looking at all of them, and does
//! not herd when loads are a moment old.

mod ewma;

use rand::{Rng, RngExt};

pub use ewma::{FAILURE, PeakEwma};

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
