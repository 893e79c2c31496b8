//! How many calls one host has under way at one service, at most. Pure; one for each service and host (or worker).
//!
//! A caller whose calls hang holds a thread, a connection and memory for each, until it has none left for anything else. So
//! where calls time out, or are refused as too many, the host goes down to fewer by itself, and up again as calls succeed. It is
//! TCP's congestion control (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988) with calls for packets, an idea that
//! Netflix's `concurrency-limits` (2018) made known:
//!
//! - while half of the last calls are in trouble, the limit goes to half of what is under way with each burst of them. TCP halves
//!   at the first loss; but a single timeout is one instance's, which ejection looks after, and to halve then would refuse
//!   hundreds of calls for it;
//! - from there it doubles each round of calls (one more for each success) up to half of the size at which it broke;
//! - from half of that size up to it, it grows by one each round;
//! - what carries that size without trouble is not what it was then: it doubles again, up to the limit that operators set, and
//!   the trouble is forgotten. TCP would go on by ones, and need millions of calls to come back from one to four thousand.

use std::time::Duration;

use crate::model::Now;

/// Troubles within this time are of the same burst: calls that were begun together time out together, and are one reason to
/// halve, not eight. Shorter than timeouts are, so that the next round counts.
const BURST: Duration = Duration::from_millis(100);
/// Every call moves the share of those in trouble by this part of the way: six in a row after none make it a half, so eight
/// calls that hang are noticed in their first round, and one instance of eleven that answers nothing is not.
const MEMORY: u32 = 8;
/// All of the last calls, on the scale on which their share is counted.
const ALL: u32 = 1 << 16;

/// The calls from one host to one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InFlight {
    under_way: u32,
    /// The share of the last calls that were in trouble, of [`ALL`].
    trouble: u32,
    burst: Option<Burst>,
    /// `None`: no trouble that is not over.
    narrowed: Option<Narrowed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Burst {
    began: Now,
    /// Calls that were under way then.
    under_way: u32,
    /// The limit was halved for it.
    is_cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Narrowed {
    limit: u32,
    /// Calls that were under way when trouble began.
    broke_at: u32,
    /// Successes on the way to the next place, where it grows by ones.
    earned: u32,
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
        self.trouble -= self.trouble / MEMORY;
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
        self.trouble += (ALL - self.trouble) / MEMORY;
        let fresh = Burst { began: now, under_way: self.under_way, is_cut: false };
        let burst = self.burst.filter(|burst| now.saturating_sub(burst.began) < BURST).unwrap_or(fresh);
        let cuts = !burst.is_cut && self.trouble >= ALL / 2;
        self.burst = Some(Burst { is_cut: burst.is_cut || cuts, ..burst });
        if !cuts {
            return;
        }
        let before = self.narrowed;
        let limit = (burst.under_way / 2).max(1).min(before.map_or(u32::MAX, |narrowed| narrowed.limit));
        let falling = before.filter(|narrowed| narrowed.is_falling);
        let broke_at = falling.map_or(burst.under_way, |narrowed| narrowed.broke_at);
        self.narrowed = Some(Narrowed { limit, broke_at, earned: 0, is_falling: true });
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u32 = 4_096;

    fn ms(ms: u64) -> Now {
        Duration::from_millis(ms)
    }

    /// As many calls as may be, up to `wanted`, hang and time out together; returns how many there were.
    fn hang(calls: &mut InFlight, wanted: u32, now: Now) -> u32 {
        let entered = (0..wanted).filter(|_| calls.try_enter(MAX)).count();
        for _ in 0..entered {
            calls.overloaded(now);
            calls.leave();
        }
        u32::try_from(entered).unwrap()
    }

    fn succeed(calls: &mut InFlight, times: u32) {
        (0..times).for_each(|_| calls.succeeded(MAX));
    }

    #[test]
    fn without_trouble_the_operators_limit_holds() {
        let mut calls = InFlight::default();
        assert_eq!((0..5_000).filter(|_| calls.try_enter(MAX)).count(), 4_096);
        calls.leave();
        assert!(calls.try_enter(MAX) && !calls.try_enter(MAX));
        assert_eq!((calls.under_way(), calls.limit(10), calls.limit(0)), (4_096, 10, 1));
    }

    #[test]
    fn eight_calls_that_hang_are_one_after_three_rounds() {
        let mut calls = InFlight::default();
        let rounds: Vec<u32> = (1..=5).map(|round| hang(&mut calls, 8, ms(1_000 * round))).collect();
        assert_eq!(rounds, [8, 4, 2, 1, 1]);
    }

    #[test]
    fn so_they_are_if_each_leaves_before_its_timeout_is_told() {
        let mut calls = InFlight::default();
        let mut limits = Vec::new();
        for round in 1..=3 {
            let entered = (0..8).filter(|_| calls.try_enter(MAX)).count();
            for _ in 0..entered {
                calls.leave();
                calls.overloaded(ms(1_000 * round));
            }
            limits.push(calls.limit(MAX));
        }
        assert_eq!(limits, [3, 1, 1]);
    }

    #[test]
    fn one_burst_of_timeouts_halves_once() {
        let mut calls = InFlight::default();
        (0..100).for_each(|_| _ = calls.try_enter(MAX));
        for late in 0..100 {
            calls.overloaded(ms(1_000) + ms(late) / 2);
            calls.leave();
        }
        assert_eq!(calls.limit(MAX), 50);
    }

    #[test]
    fn a_few_calls_that_hang_time_after_time_are_noticed_too() {
        let mut calls = InFlight::default();
        let rounds: Vec<u32> = (1..=5).map(|round| hang(&mut calls, 2, ms(1_000 * round))).collect();
        assert_eq!(rounds, [2, 2, 2, 1, 1]);
    }

    #[test]
    fn one_instance_of_eleven_that_answers_nothing_narrows_nothing() {
        let mut calls = InFlight::default();
        (0..167).for_each(|_| _ = calls.try_enter(MAX));
        for call in 0..100_000 {
            if call % 11 == 0 {
                calls.overloaded(ms(call));
            } else {
                calls.succeeded(MAX);
            }
            assert_eq!(calls.limit(MAX), MAX);
        }
    }

    #[test]
    fn calls_that_are_left_over_from_before_raise_no_limit() {
        let mut calls = InFlight { trouble: ALL, under_way: 10, ..InFlight::default() };
        calls.overloaded(ms(1_000));
        assert_eq!(calls.limit(MAX), 5);
        calls.under_way = 100;
        calls.overloaded(ms(2_000));
        assert_eq!(calls.limit(MAX), 5);
    }

    #[test]
    fn it_doubles_each_round_up_to_half_of_where_it_broke_then_grows_by_one_then_doubles_again() {
        let mut calls = InFlight::default();
        (1..=6).for_each(|round| _ = hang(&mut calls, 20, ms(1_000 * round)));
        assert_eq!(calls.limit(MAX), 1);
        for limit in 1..1_000 {
            // One success for each place is a doubling in a round, so many as there are places are one more in a round.
            let needed = if (10..20).contains(&limit) { limit } else { 1 };
            succeed(&mut calls, needed - 1);
            assert_eq!(calls.limit(MAX), limit);
            succeed(&mut calls, 1);
            assert_eq!(calls.limit(MAX), limit + 1);
        }
    }

    #[test]
    fn from_one_it_is_back_at_the_whole_after_so_many_successes_as_that() {
        let mut calls = InFlight::default();
        (1..=3).for_each(|round| _ = hang(&mut calls, 8, ms(1_000 * round)));
        let successes = (1..).find(|_| {
            succeed(&mut calls, 1);
            calls.limit(MAX) == MAX
        });
        assert_eq!(successes, Some(4_113));
        assert_eq!(calls.narrowed, None, "and the trouble is forgotten");
    }

    #[test]
    fn a_service_that_refuses_what_is_too_many_is_kept_busy_and_not_flooded() {
        // It holds 60 calls of 20 ms and refuses the rest; 200 wait to come in.
        let (mut calls, mut carried, mut refused) = (InFlight::default(), 0, 0);
        let rounds = 1_000;
        for round in 0..rounds {
            let entered = (0..200).filter(|_| calls.try_enter(MAX)).count();
            for call in (0..entered).rev() {
                if call < 60 {
                    calls.succeeded(MAX);
                    carried += 1;
                } else {
                    calls.overloaded(ms(20 * round));
                    refused += 1;
                }
                calls.leave();
            }
        }
        assert!(carried >= 60 * rounds * 9 / 10, "{carried} of {}", 60 * rounds);
        assert!(refused <= carried / 2, "{refused} beside {carried}");
    }

    proptest! {
        #[test]
        fn the_limit_is_never_below_one_nor_above_what_operators_say_and_is_kept(
            steps in prop::collection::vec((0_u8..4, 0_u64..300), 1..300),
            max in 1_u32..50,
        ) {
            let (mut calls, mut now) = (InFlight::default(), Now::ZERO);
            for (step, pause_ms) in steps {
                now += ms(pause_ms);
                let (before, limit) = (calls.under_way(), calls.limit(max));
                match step {
                    0 => prop_assert_eq!(calls.try_enter(max), before < limit),
                    1 => calls.leave(),
                    2 => calls.succeeded(max),
                    _ => calls.overloaded(now),
                }
                prop_assert!((1..=max).contains(&calls.limit(max)));
                prop_assert!(calls.under_way() <= max);
                prop_assert!(step == 2 || calls.limit(max) <= limit);
            }
        }
    }
}
