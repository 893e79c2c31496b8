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
