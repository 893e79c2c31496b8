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
//! - it grows with each round of calls by half of the way to the size at which it broke, but doubles at most; so it is back near
//!   that size within a few rounds, and slow where it may break again. TCP's ones would leave a quarter of the service idle
//!   (Xu, Harfoush and Rhee, "Binary Increase Congestion Control", INFOCOM 2004, search in the same way);
//! - what carries that size without trouble is not what it was then: beyond it grows by one, two, four... a round, up to the limit
//!   that operators set, and the trouble is forgotten.

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
    /// What successes have earned of the next place, which costs `limit`.
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
        let limit = narrowed.limit;
        let way = (narrowed.broke_at.saturating_sub(limit) / 2).max(limit.saturating_sub(narrowed.broke_at));
        // A round is as many successes as there are places; each brings its part of what the round does.
        narrowed.earned += way.clamp(1, limit);
        if narrowed.earned >= limit {
            narrowed.earned -= limit;
            narrowed.limit = limit.saturating_add(1);
        }
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
    fn it_doubles_at_first_slows_where_it_broke_and_leaves_that_behind_as_it_came() {
        let mut calls = InFlight::default();
        (1..=8).for_each(|round| _ = hang(&mut calls, 100, ms(1_000 * round)));
        assert_eq!(calls.limit(MAX), 1);
        let mut limits = Vec::new();
        while calls.limit(MAX) < MAX {
            let limit = calls.limit(MAX);
            succeed(&mut calls, limit);
            limits.push(calls.limit(MAX));
        }
        let beyond = [101, 102, 105, 113, 134, 181, 280, 484, 895, 1_719, 3_367, MAX];
        assert_eq!(limits, [[2, 4, 8, 16, 32, 53, 69, 80, 88, 92, 95, 97, 98, 99, 100].as_slice(), &beyond].concat());
    }

    #[test]
    fn from_one_it_is_back_at_the_whole_and_the_trouble_is_forgotten() {
        let mut calls = InFlight::default();
        (1..=3).for_each(|round| _ = hang(&mut calls, 8, ms(1_000 * round)));
        let successes = (1..).find(|_| {
            succeed(&mut calls, 1);
            calls.limit(MAX) == MAX
        });
        assert_eq!((successes, calls.narrowed), (Some(4_193), None));
    }

    /// A minute at a service that holds 60 calls of 15 to 25 ms and refuses the rest within one; there is always another that
    /// waits to come in. How many it carried and refused.
    fn overload(max: u32) -> (u32, u32) {
        let (mut calls, mut carried, mut refused) = (InFlight::default(), 0, 0);
        // When each is over, and whether it is carried.
        let mut under_way: Vec<(u64, bool)> = Vec::new();
        for (entered, now_ms) in (0..60_000).enumerate() {
            under_way.retain(|(over_ms, is_carried)| {
                if *over_ms <= now_ms {
                    if *is_carried {
                        calls.succeeded(max);
                    } else {
                        calls.overloaded(ms(now_ms));
                    }
                    calls.leave();
                    carried += u32::from(*is_carried);
                    refused += u32::from(!is_carried);
                }
                *over_ms > now_ms
            });
            while calls.try_enter(max) {
                let is_carried = under_way.iter().filter(|(_, is_carried)| *is_carried).count() < 60;
                let takes_ms = if is_carried { 15 + (entered + under_way.len()) as u64 * 7 % 11 } else { 1 };
                under_way.push((now_ms + takes_ms, is_carried));
            }
        }
        (carried, refused)
    }

    #[test]
    fn a_service_that_refuses_what_is_too_many_is_kept_busy_and_not_flooded() {
        let (best, _) = overload(60);
        let (carried, refused) = overload(200);
        assert!(carried >= best * 85 / 100, "{carried} of {best}");
        assert!(refused <= carried / 4, "{refused} beside {carried}");
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
