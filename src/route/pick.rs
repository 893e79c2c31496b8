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
