//! How often requests may be tried again. Pure; one budget for each service and worker.
//!
//! Retries are a share of the requests, not a number for each: when all instances fail, three tries for each request are three
//! times the load on what is failing (*Site Reliability Engineering*, 2016, ch. 21 and 22; Finagle's `RetryBudget`). A budget
//! has two parts, so that it holds over every window of time, however short:
//!
//! - a share of the requests of the last ten seconds, counted in seconds. A retry is remembered for as long as the requests
//!   that it is paid from, or longer, so no request pays twice;
//! - a few a second, for services that are hardly called; what was not used is not saved up.

use std::time::Duration;

use rand::{Rng, RngExt};

use super::bucket::{Bucket, Refill};
use crate::model::{Now, Retries};

/// Requests are remembered in so many parts...
const PARTS: usize = 10;
/// ... of this many seconds.
const PART_S: u64 = 1;

/// One service's budget, as one worker keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryBudget {
    parts: [Part; PARTS],
    few: Bucket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Part {
    /// Counted from the zero of time.
    number: u64,
    requests: u32,
    /// Those paid from the share.
    retries: u32,
}

impl RetryBudget {
    /// A request came. Not to be told of its retries.
    pub fn request(&mut self, now: Now) {
        let part = self.part(now);
        part.requests = part.requests.saturating_add(1);
    }

    /// True if one retry may be made; then it has been counted. `workers`: among how many the retries a second are divided.
    pub fn try_take(&mut self, now: Now, retries: &Retries, workers: u32) -> bool {
        if few(retries, workers).is_some_and(|refill| self.few.take(now, refill).is_ok()) {
            return true;
        }
        let may = self.share_left(now, retries) > 0;
        if may {
            let part = self.part(now);
            part.retries = part.retries.saturating_add(1);
        }
        may
    }

    /// How many retries may be made now.
    pub fn left(&self, now: Now, retries: &Retries, workers: u32) -> u32 {
        let few = few(retries, workers).map_or(0, |refill| self.few.left(now, refill));
        self.share_left(now, retries).saturating_add(few)
    }

    fn share_left(&self, now: Now, retries: &Retries) -> u32 {
        let number = now.as_secs() / PART_S;
        let recent = self.parts.iter().filter(|part| number.saturating_sub(part.number) < PARTS as u64);
        let (requests, taken) = recent.fold((0_u64, 0_u64), |(requests, taken), part| {
            (requests + u64::from(part.requests), taken + u64::from(part.retries))
        });
        let share = requests * u64::from(retries.budget_percent) / 100;
        u32::try_from(share.saturating_sub(taken)).unwrap_or(u32::MAX)
    }

    fn part(&mut self, now: Now) -> &mut Part {
        let number = now.as_secs() / PART_S;
        // Below PARTS, so it fits.
        let place = usize::try_from(number % PARTS as u64).unwrap_or_default();
        let part = &mut self.parts[place];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part
    }
}

/// Saved up for a second at most, but one is there for every worker.
fn few(retries: &Retries, workers: u32) -> Option<Refill> {
    let per_second = u32::from(retries.budget_per_second);
    Refill::new(per_second, workers, per_second / workers.max(1))
}

/// How long to wait before a retry. `attempt`: how many retries of this request there were before, so zero for the first.
///
/// Full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): drawn from zero to a bound that
/// doubles, so that requests that failed together do not come again together.
pub fn backoff(attempt: u8, retries: &Retries, rng: &mut impl Rng) -> Duration {
    let times = 2_u32.checked_pow(attempt.into()).unwrap_or(u32::MAX);
    let bound = retries.backoff.saturating_mul(times).min(retries.backoff_max);
    bound.mul_f64(rng.random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn ms(ms: u64) -> Now {
        Duration::from_millis(ms)
    }

    /// How many retries are granted if all that is possible is taken at once.
    fn drain(budget: &mut RetryBudget, now: Now, retries: &Retries, workers: u32) -> usize {
        let most = usize::try_from(budget.left(now, retries, workers)).unwrap() + 10;
        (0..most).filter(|_| budget.try_take(now, retries, workers)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_of_ten_seconds_and_ten_a_second() {
        let (mut budget, retries) = (RetryBudget::default(), Retries::default());
        assert_eq!(drain(&mut budget, ms(0), &retries, 1), 10);
        (0..100).for_each(|_| budget.request(ms(0)));
        assert_eq!(drain(&mut budget, ms(0), &retries, 1), 20);
        assert_eq!(drain(&mut budget, ms(1_000), &retries, 1), 10);
        (0..100).for_each(|_| budget.request(ms(1_000)));
        assert_eq!(budget.left(ms(9_999), &retries, 1), 30);
        assert_eq!(budget.left(ms(11_000), &retries, 1), 10, "what was not used is lost");
    }

    #[test]
    fn workers_share_the_few_a_second_but_each_has_one() {
        let (mut budget, retries) = (RetryBudget::default(), Retries::default());
        let granted = (0..1_000).filter(|tenth| budget.try_take(ms(tenth * 100), &retries, 4)).count();
        assert!((249..=252).contains(&granted), "{granted} in 100 s");
        let mut budget = RetryBudget::default();
        let granted = (0..1_000).filter(|tenth| budget.try_take(ms(tenth * 100), &retries, 100)).count();
        assert!((9..=11).contains(&granted), "{granted} in 100 s");
    }

    #[test]
    fn when_everything_fails_attempts_are_a_fifth_more_than_requests_and_ten_a_second() {
        let (mut budget, retries) = (RetryBudget::default(), Retries::default());
        let mut granted = 0;
        for request in 0..60_000 {
            budget.request(ms(request));
            granted += (0..retries.max).filter(|_| budget.try_take(ms(request), &retries, 1)).count();
        }
        assert!((12_000 + 590..=12_000 + 610).contains(&granted), "{granted}");
    }

    #[test]
    fn where_the_policy_has_none_there_are_none() {
        let none = Retries { budget_percent: 0, budget_per_second: 0, ..Retries::default() };
        let mut budget = RetryBudget::default();
        (0..1_000).for_each(|_| budget.request(ms(0)));
        assert!(!budget.try_take(ms(0), &none, 1) && budget.left(ms(0), &none, 0) == 0);
    }

    #[test]
    fn pauses_are_drawn_from_a_bound_that_doubles_and_ends() {
        let (mut rng, retries) = (ChaCha8Rng::seed_from_u64(1), Retries::default());
        for (attempt, bound_ms) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (255, 250)] {
            let draws: Vec<Duration> = (0..1_000).map(|_| backoff(attempt, &retries, &mut rng)).collect();
            let (most, mean) = (draws.iter().max().unwrap(), draws.iter().sum::<Duration>() / 1_000);
            assert!(*most <= ms(bound_ms) && *most > ms(bound_ms * 9 / 10), "{most:?} of {bound_ms} ms");
            assert!(mean > ms(bound_ms) * 9 / 20 && mean < ms(bound_ms) * 11 / 20, "{mean:?} of {bound_ms} ms");
        }
        let none = Retries { backoff: Duration::ZERO, ..retries };
        assert_eq!(backoff(3, &none, &mut rng), Duration::ZERO);
    }

    proptest! {
        /// In any window: no more than the share of the requests in it and in the ten seconds before, and so many a second.
        #[test]
        fn the_budget_is_never_exceeded_over_any_window(
            steps in prop::collection::vec((0_u64..2_000, 0_u32..40, 0_u32..20), 1..60),
            budget_percent in 0_u16..150,
            budget_per_second in 0_u16..30,
            workers in 1_u32..20,
        ) {
            let retries = Retries { budget_percent, budget_per_second, ..Retries::default() };
            let (mut budget, mut now) = (RetryBudget::default(), Now::ZERO);
            // When, how many requests, how many retries.
            let mut history: Vec<(Now, u32, u32)> = Vec::new();
            for (pause_ms, requests, wanted) in steps {
                now += ms(pause_ms);
                (0..requests).for_each(|_| budget.request(now));
                let left = budget.left(now, &retries, workers);
                let granted = (0..wanted).filter(|_| budget.try_take(now, &retries, workers)).count();
                let granted = u32::try_from(granted).unwrap();
                prop_assert_eq!(granted, wanted.min(left));
                history.push((now, requests, granted));
            }
            let few_at_once = (u32::from(budget_per_second) / workers).max(u32::from(budget_per_second > 0));
            for (end, (until, ..)) in history.iter().enumerate() {
                for (from, ..) in &history[..=end] {
                    let granted: u32 = history[..=end].iter().filter(|(at, ..)| at >= from).map(|(.., granted)| granted).sum();
                    let paying = history[..=end].iter().filter(|(at, ..)| *at + ms(10_000) >= *from);
                    let requests: u32 = paying.map(|(_, requests, _)| requests).sum();
                    let share = f64::from(requests) * f64::from(budget_percent) / 100.0;
                    let few = (*until - *from).as_secs_f64() * f64::from(budget_per_second) / f64::from(workers);
                    prop_assert!(f64::from(granted) <= share + few + f64::from(few_at_once) + 1e-6);
                }
            }
        }
    }
}
