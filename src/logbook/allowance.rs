//! How many lines somebody may have written: some in a row, then one now and then; the rest is counted. Time is an argument.

use std::time::{Duration, Instant};

/// What is left of an allowance.
#[derive(Debug, Clone)]
pub struct Allowance {
    max: u32,
    every: Duration,
    left: u32,
    since: Instant,
    omitted: u64,
}

impl Allowance {
    /// `max` lines in a row, and then one each `every`.
    pub fn new(max: u32, every: Duration, now: Instant) -> Allowance {
        Allowance { max, every, left: max, since: now, omitted: 0 }
    }

    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_secs() / self.every.as_secs().max(1)).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.max);
            self.since = now;
        }
    }

    /// True if one more may be written.
    pub fn has(&mut self, now: Instant) -> bool {
        self.earn(now);
        self.left > 0
    }

    /// True if as many may be written as ever, and none is to be told of.
    pub fn is_whole(&mut self, now: Instant) -> bool {
        self.earn(now);
        self.left == self.max && self.omitted == 0
    }

    /// Counts one that is not written.
    pub fn omit(&mut self) {
        self.omitted += 1;
    }

    /// Whether one more may be written; if so, how many before it were not.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if !self.has(now) {
            self.omit();
            return None;
        }
        self.left -= 1;
        Some(self.told())
    }

    /// How many were not written, which is being told now.
    pub fn told(&mut self) -> u64 {
        std::mem::take(&mut self.omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_in_a_row_are_written_then_one_now_and_then_and_the_rest_is_told_of() {
        let (start, every) = (Instant::now(), Duration::from_secs(30));
        let mut allowance = Allowance::new(100, every, start);
        let written = (0..1000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(allowance.take(start + every), Some(900), "they are told of later");
        assert_eq!(allowance.take(start + every), None);
        let later = start + Duration::from_secs(86_400);
        assert!(!allowance.is_whole(later), "one is still to be told of");
        assert_eq!((0..1000).filter(|_| allowance.take(later).is_some()).count(), 100);
    }
}
