//! Whom to contact when nobody is known or nobody answers: the configured seeds, for ever, and what the store remembers.
//! It only says when an address is due; `mod.rs` asks it on every pulse.

use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::model::Now;

/// The first pause after a contact that did not help; it doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause while no seed is a living member. A first host that comes up late is found within it.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Pause while some seed is alive. The others are still contacted, so that two fleets that were set up or cut apart find
/// each other without help.
const RARE: Duration = Duration::from_secs(300);

/// Backoff with jitter.
#[derive(Debug, Clone, Default)]
pub(super) struct Retry {
    tries: u32,
    next_at: Now,
}

impl Retry {
    /// True if it is time; then the next time is later.
    pub(super) fn is_due(&mut self, now: Now, rng: &mut ChaCha8Rng) -> bool {
        let due = now >= self.next_at;
        if due {
            let pause = RETRY_MIN.saturating_mul(1 << self.tries.min(10)).min(RETRY_MAX);
            self.tries += 1;
            self.next_at = now + jittered(pause, rng);
        }
        due
    }

    /// From now on it is due at `at` and then with the shortest pause.
    pub(super) fn reset(&mut self, at: Now) {
        *self = Retry { tries: 0, next_at: at };
    }
}

/// Between three and five quarters of `pause`, so that hosts that start together do not come together for ever.
fn jittered(pause: Duration, rng: &mut ChaCha8Rng) -> Duration {
    pause.mul_f64(rng.random_range(0.75..1.25))
}

#[derive(Debug, Default)]
pub(super) struct Seeds {
    seeds: Vec<(SocketAddr, Retry)>,
    /// True while some seed is a living member.
    settled: bool,
}

impl Seeds {
    /// Replaces the list. What stays on it keeps its backoff.
    pub(super) fn set(&mut self, addresses: Vec<SocketAddr>) {
        let old = std::mem::take(&mut self.seeds);
        for address in addresses {
            if self.seeds.iter().all(|(seed, _)| *seed != address) {
                let known = old.iter().find(|(seed, _)| *seed == address);
                let retry = known.map(|(_, retry)| retry.clone()).unwrap_or_default();
                self.seeds.push((address, retry));
            }
        }
    }

    /// The seeds to contact now. `local` is never one of them; `is_alive` says whether a living member has that address.
    pub(super) fn due(
        &mut self,
        now: Now,
        rng: &mut ChaCha8Rng,
        local: SocketAddr,
        is_alive: impl Fn(SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let settled = self.seeds.iter().any(|(seed, _)| is_alive(*seed));
        if settled != self.settled {
            self.settled = settled;
            for (_, retry) in &mut self.seeds {
                retry.reset(now + jittered(if settled { RARE } else { RETRY_MIN }, rng));
            }
        }
        let mut due = Vec::new();
        for (seed, retry) in &mut self.seeds {
            if *seed != local && !is_alive(*seed) && retry.is_due(now, rng) {
                due.push(*seed);
                if settled {
                    retry.reset(now + jittered(RARE, rng));
                }
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn contacts(seeds: &mut Seeds, from_secs: u64, to_secs: u64, alive: bool) -> usize {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let local = SocketAddr::from(([10, 0, 0, 1], 7946));
        let times = (from_secs * 10..to_secs * 10).map(|tenth| Now::from_millis(tenth * 100));
        times.map(|now| seeds.due(now, &mut rng, local, |seed| alive && seed.port() == 1).len()).sum()
    }

    #[test]
    fn a_silent_seed_is_contacted_for_ever_with_growing_pauses() {
        let mut seeds = Seeds::default();
        seeds.set(vec![SocketAddr::from(([10, 0, 0, 2], 7946))]);
        let early = contacts(&mut seeds, 0, 10, false);
        assert!((3..=5).contains(&early), "{early}");
        let late = contacts(&mut seeds, 3600, 7200, false);
        assert!((95..=160).contains(&late), "{late} an hour");
    }

    #[test]
    fn this_host_is_not_its_own_seed() {
        let mut seeds = Seeds::default();
        seeds.set(vec![SocketAddr::from(([10, 0, 0, 1], 7946))]);
        assert_eq!(contacts(&mut seeds, 0, 60, false), 0);
    }

    #[test]
    fn with_one_seed_alive_the_others_are_contacted_rarely() {
        let mut seeds = Seeds::default();
        seeds.set(vec![SocketAddr::from(([10, 0, 0, 2], 1)), SocketAddr::from(([10, 0, 0, 3], 2))]);
        let hour = contacts(&mut seeds, 0, 3600, true);
        assert!((9..=16).contains(&hour), "{hour} an hour");
        let lost = contacts(&mut seeds, 3600, 3610, false);
        assert!(lost >= 4, "once none is alive both are contacted soon: {lost}");
    }
}
