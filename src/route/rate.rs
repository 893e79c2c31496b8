//! How many requests a second each caller may make. Pure; one for each instance, at the called host.
//!
//! A caller has a token bucket under its name from its first request on. Names are many and memory is not, so a bucket that is
//! full again is let go when place is needed: a new one is as full. Where all places are taken by callers that are using
//! them, newcomers share one more bucket between them; whoever makes up names gains nothing by it.

use std::collections::HashMap;
use std::time::Duration;

use super::bucket::{Bucket, Refill};
use crate::model::Now;

/// Callers with a bucket of their own. A service that a thousand others call at once is yet to be met; 64 KiB or so.
pub const CALLERS_MAX: usize = 1_024;
/// When to come again where no rate lets anything pass: somebody may have set another by then.
const WAIT_WITHOUT_RATE: Duration = Duration::from_secs(60);

/// The callers of one instance.
#[derive(Debug, Default)]
pub struct Rates {
    callers: HashMap<String, Bucket>,
    others: Bucket,
    /// No bucket is full before, so there is no use in looking for one.
    full_from: Now,
}

impl Rates {
    /// Counts a request, or says in how long the caller may come again. In any time of `t` seconds no more than
    /// `burst + per_second * t` pass; a burst of zero counts as one.
    pub fn take(&mut self, caller: &str, now: Now, per_second: u32, burst: u32) -> Result<(), Duration> {
        let Some(refill) = Refill::new(per_second, 1, burst) else { return Err(WAIT_WITHOUT_RATE) };
        if let Some(bucket) = self.callers.get_mut(caller) {
            return bucket.take(now, refill);
        }
        if self.callers.len() >= CALLERS_MAX {
            self.make_room(now);
        }
        if self.callers.len() >= CALLERS_MAX {
            return self.others.take(now, refill);
        }
        let mut bucket = Bucket::default();
        let taken = bucket.take(now, refill);
        self.full_from = self.full_from.min(bucket.full_at);
        self.callers.insert(caller.to_owned(), bucket);
        taken
    }

    fn make_room(&mut self, now: Now) {
        if now < self.full_from {
            return;
        }
        self.callers.retain(|_, bucket| !bucket.is_full(now));
        self.full_from = self.callers.values().map(|bucket| bucket.full_at).min().unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Now {
        Duration::from_millis(ms)
    }

    fn passed(rates: &mut Rates, caller: &str, now: Now, tries: usize) -> usize {
        (0..tries).filter(|_| rates.take(caller, now, 10, 5).is_ok()).count()
    }

    #[test]
    fn a_caller_may_come_in_a_burst_and_then_at_its_rate() {
        let mut rates = Rates::default();
        assert_eq!(passed(&mut rates, "web", ms(0), 20), 5);
        assert_eq!(passed(&mut rates, "web", ms(99), 20), 0);
        assert_eq!(passed(&mut rates, "web", ms(1_000), 20), 5, "no more than a burst is saved up");
        assert_eq!(passed(&mut rates, "web", ms(1_200), 20), 2);
    }

    #[test]
    fn who_comes_too_early_is_told_when_to_come() {
        let mut rates = Rates::default();
        passed(&mut rates, "web", ms(0), 5);
        assert_eq!(rates.take("web", ms(30), 10, 5), Err(ms(70)));
        assert_eq!(rates.take("web", ms(99), 10, 5), Err(ms(1)));
        assert_eq!(rates.take("web", ms(100), 10, 5), Ok(()));
    }

    #[test]
    fn callers_do_not_pay_for_each_other() {
        let mut rates = Rates::default();
        assert_eq!(passed(&mut rates, "web", ms(0), 20), 5);
        assert_eq!(passed(&mut rates, "batch", ms(0), 20), 5);
    }

    #[test]
    fn a_burst_of_none_is_one_and_a_rate_of_none_lets_nothing_pass() {
        let mut rates = Rates::default();
        assert_eq!(rates.take("web", ms(0), 10, 0), Ok(()));
        assert_eq!(rates.take("web", ms(0), 10, 0), Err(ms(100)));
        assert_eq!(rates.take("batch", ms(0), 0, 10), Err(WAIT_WITHOUT_RATE));
    }

    #[test]
    fn a_new_rate_holds_from_the_next_request_on() {
        let mut rates = Rates::default();
        assert_eq!(passed(&mut rates, "web", ms(0), 20), 5);
        assert_eq!((0..1_000).filter(|_| rates.take("web", ms(0), 1_000, 600).is_ok()).count(), 100);
        assert_eq!(rates.take("web", ms(0), 10, 5), Err(ms(200)));
    }

    #[test]
    fn where_all_places_are_in_use_newcomers_share_one_bucket() {
        let mut rates = Rates::default();
        for caller in 0..CALLERS_MAX {
            assert_eq!(passed(&mut rates, &caller.to_string(), ms(0), 2), 2);
        }
        let newcomers = (0..100).map(|caller| passed(&mut rates, &format!("new-{caller}"), ms(10), 1)).sum::<usize>();
        assert_eq!((newcomers, rates.callers.len()), (5, CALLERS_MAX));
        assert_eq!(passed(&mut rates, "7", ms(10), 9), 3, "who has a bucket keeps it");
    }

    #[test]
    fn buckets_that_are_full_again_make_room() {
        let mut rates = Rates::default();
        for caller in 0..CALLERS_MAX {
            // Half of them have used one token, which is there again after 100 ms, and half all five.
            passed(&mut rates, &caller.to_string(), ms(0), 1 + 4 * (caller % 2));
        }
        assert_eq!(passed(&mut rates, "new-1", ms(99), 9), 5, "of the shared one");
        assert_eq!(rates.callers.len(), CALLERS_MAX);
        assert_eq!(passed(&mut rates, "new-2", ms(100), 9), 5);
        assert_eq!(rates.callers.len(), CALLERS_MAX / 2 + 1);
        assert_eq!(passed(&mut rates, "1", ms(100), 9), 1, "who is using its bucket keeps it");
        assert_eq!(passed(&mut rates, "2", ms(100), 9), 5, "who was let go has lost nothing");
    }

    proptest! {
        #[test]
        fn in_any_time_no_more_pass_than_a_burst_and_the_rate(
            steps in prop::collection::vec((0_u64..400_000, 0_usize..30), 1..60),
            per_second in 1_u32..2_000,
            burst in 1_u32..50,
        ) {
            let (mut rates, mut now) = (Rates::default(), Now::ZERO);
            let mut history: Vec<(Now, f64)> = Vec::new();
            for (pause_us, tries) in steps {
                now += Duration::from_micros(pause_us);
                let passed = (0..tries).filter(|_| rates.take("web", now, per_second, burst).is_ok()).count();
                history.push((now, passed as f64));
            }
            for (end, (until, _)) in history.iter().enumerate() {
                for (begin, (from, _)) in history[..=end].iter().enumerate() {
                    let passed: f64 = history[begin..=end].iter().map(|(_, passed)| passed).sum();
                    let allowed = f64::from(burst) + f64::from(per_second) * (*until - *from).as_secs_f64();
                    prop_assert!(passed <= allowed + 1e-6, "{} of {}", passed, allowed);
                }
            }
        }

        #[test]
        fn who_comes_when_told_to_passes_and_a_moment_before_does_not(
            per_second in 1_u32..100_000,
            burst in 1_u32..50,
            begin_us in 0_u64..10_000_000,
        ) {
            let (mut rates, now) = (Rates::default(), Duration::from_micros(begin_us));
            let wait = (0..=burst).find_map(|_| rates.take("web", now, per_second, burst).err()).unwrap();
            prop_assert!(rates.take("web", now + wait - Duration::from_nanos(1), per_second, burst).is_err());
            prop_assert!(rates.take("web", now + wait, per_second, burst).is_ok());
        }
    }
}
