//! A token bucket in one word: when it will be full again. Pure.
//!
//! The generic cell rate algorithm (ITU-T I.371, Annex A), which counts time instead of tokens: each token is worth the
//! interval in which it is refilled, so rate and size may change between two takes and nothing has to be converted, and no
//! rounding adds up. The interval is rounded up: what passes is never more than was said.

use std::time::Duration;

use crate::model::Now;

const SECOND_NS: u64 = 1_000_000_000;

/// A token bucket. New ones are full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bucket {
    pub(super) full_at: Now,
}

/// How fast a bucket fills.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refill {
    /// The time that one token takes.
    interval: Duration,
    /// Tokens when full.
    size: u32,
}

impl Refill {
    /// So many tokens `per_second` divided by `parts`; `None` if there are none. A bucket of less than one would never have one.
    pub(super) fn new(per_second: u32, parts: u32, size: u32) -> Option<Refill> {
        let second_ns = SECOND_NS * u64::from(parts.max(1));
        let interval_ns = (per_second > 0).then(|| second_ns.div_ceil(u64::from(per_second)))?;
        Some(Refill { interval: Duration::from_nanos(interval_ns), size: size.max(1) })
    }
}

impl Bucket {
    /// Takes a token, or says in how long there is one.
    pub(super) fn take(&mut self, now: Now, refill: Refill) -> Result<(), Duration> {
        let full_at = self.full_at.max(now);
        let missing_max = refill.interval.saturating_mul(refill.size - 1);
        let wait = full_at.saturating_sub(now.saturating_add(missing_max));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = full_at.saturating_add(refill.interval);
        Ok(())
    }

    /// Tokens that are there.
    pub(super) fn left(&self, now: Now, refill: Refill) -> u32 {
        let missing = self.full_at.saturating_sub(now).as_nanos().div_ceil(refill.interval.as_nanos().max(1));
        refill.size.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// True if there is no telling it from a new one.
    pub(super) fn is_full(&self, now: Now) -> bool {
        self.full_at <= now
    }
}
