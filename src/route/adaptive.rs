//! How many calls one host has under way at one service, at most. Pure; one for each service and host (or worker).
//!
//! A caller whose calls hang holds a thread, a connection and memory for each, until it has none left for anything else. So
//! where calls time out, or are refused as too many, the host goes down to fewer by itself, and up again as calls succeed. It is
//! TCP's congestion control (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988) with calls for packets, an idea that
//! Netflix's `concurrency-limits` (2018) made known:
//!
//! - on trouble the limit goes to half of what is under way;
//! - from there it doubles each round of calls (one more for each success) up to half of the size at which it broke;
//! - from half of that size up to it, it grows by one each round;
//! - what carries that size without trouble is not what it was then: it doubles again, up to the limit that operators set, and
//!   the trouble is forgotten. TCP would go on by ones, and need millions of calls to come back from one to four thousand.

use std::time::Duration;

use crate::model::Now;

/// Troubles within this time of a cut are of the same burst: calls that were begun together time out together, and are one
/// reason to halve, not eight. Shorter than timeouts are, so that the next round counts.
const CUT_INTERVAL: Duration = Duration::from_millis(100);

/// The calls from one host to one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InFlight {
    under_way: u32,
    /// `None`: no trouble that is not over.
    narrowed: Option<Narrowed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Narrowed {
    limit: u32,
    /// Calls that were under way when trouble began.
    broke_at: u32,
    /// Successes on the way to the next place, where it grows by ones.
    earned: u32,
    cut_at: Now,
    /// No call has succeeded since the last cut: the next is of the same trouble.
    is_falling: bool,
}

impl InFlight {
    /// Takes a place, if there is one; [`leave`](InFlight::leave) gives it back. `max`: what operators allow.
    pub fn try_enter(&mut self, max: u32) -> bool {
        let may = self.under_way < self.limit(max);
        self.under_way += u32::from(may);
        may
    }

    /// A call is over, whatever became of it.
    pub fn leave(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// A call succeeded.
    pub fn succeeded(&mut self, max: u32) {
        let Some(narrowed) = &mut self.narrowed else { return };
        narrowed.is_falling = false;
        if (narrowed.broke_at / 2..narrowed.broke_at).contains(&narrowed.limit) {
            narrowed.earned += 1;
            if narrowed.earned < narrowed.limit {
                return;
            }
        }
        narrowed.earned = 0;
        narrowed.limit = narrowed.limit.saturating_add(1);
        if narrowed.limit >= max {
            self.narrowed = None;
        }
    }

    /// A call timed out or was refused as too many. To be told before [`leave`](InFlight::leave): the call counts as under way.
    pub fn overloaded(&mut self, now: Now) {
        let before = self.narrowed;
        if before.is_some_and(|narrowed| now.saturating_sub(narrowed.cut_at) < CUT_INTERVAL) {
            return;
        }
        let limit = (self.under_way / 2).max(1).min(before.map_or(u32::MAX, |narrowed| narrowed.limit));
        let falling = before.filter(|narrowed| narrowed.is_falling);
        let broke_at = falling.map_or(self.under_way, |narrowed| narrowed.broke_at);
        self.narrowed = Some(Narrowed { limit, broke_at, earned: 0, cut_at: now, is_falling: true });
    }

    /// How many may be under way now: at least one, or nothing would find out that the trouble is over.
    pub fn limit(&self, max: u32) -> u32 {
        self.narrowed.map_or(max, |narrowed| narrowed.limit.min(max)).max(1)
    }

    /// How many are.
    pub fn under_way(&self) -> u32 {
        self.under_way
    }
}
