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
