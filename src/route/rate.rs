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
