//! Outliers: which instances take no calls for a while, because they fail those that they get. Pure: times are arguments,
//! outcomes come in one by one, and what becomes of an instance is the return value.
//!
//! As Envoy's outlier detection has it: an instance is ejected after failures in a row, or when its share of successes is far
//! below that of the others; each ejection lasts twice as long as the one before. Two things are otherwise. When an ejection
//! is over, one real request probes the instance before it gets its share again (a circuit breaker's half-open state:
//! Nygard, *Release It!*, 2007), so a dead instance costs one request an ejection, not five. And a share of successes must be
//! below the mean by more than chance makes likely.

use std::time::Duration;

use crate::model::{Now, Outlier};

/// A probe of which nothing is heard for so long keeps nobody waiting: the next request may probe. What it reports later still
/// counts. Longer than all but a few requests take, and shorter than `proxy.request_timeout`, which a hung probe would last.
pub const PROBE_MAX: Duration = Duration::from_secs(15);
/// However long its last ejection was, an instance that was in for so long begins anew at the shortest: the cause of then says
/// nothing of now.
const FORGIVEN_AFTER_MAX: Duration = Duration::from_secs(600);
/// With fewer instances their mean and deviation say nothing. Envoy's `success_rate_minimum_hosts`.
const INSTANCES_MIN: usize = 5;
/// An instance that is this close to the mean is let be. One of five that differ not at all otherwise is always two
/// deviations from the mean, were it one failure in thousands.
const LAG_MIN: f64 = 0.05;
/// Nor is one whose lag chance explains: so many standard errors of a share taken from as many requests.
const LAG_ERRORS: f64 = 3.0;

/// One instance, as one worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Track {
    state: State,
    /// Failures in a row.
    row: u16,
    /// Ejections in a row: since it was last in for long enough.
    ejections: u32,
    /// How long the last of them was.
    ejected_for: Duration,
    /// In this interval, while it was in.
    successes: u32,
    requests: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    In { since: Now },
    Out { until: Now },
    Probing { until: Now },
}

impl Default for State {
    fn default() -> State {
        State::In { since: Now::ZERO }
    }
}

/// Whether an instance takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    In,
    /// It does not.
    Ejected {
        /// Until then.
        until: Duration,
    },
    /// Its ejection is over: exactly one request may probe it, whoever calls [`Track::begin_probe`] first.
    Due,
    /// That request is under way; others go elsewhere.
    Probing,
}

impl Track {
    /// A call was answered. Ends a row of failures, and a probe: the instance is fully back in.
    pub fn succeeded(&mut self, now: Now) {
        self.row = 0;
        match self.state {
            State::In { .. } => {
                self.count(1);
                self.forgive(now);
            }
            State::Probing { .. } => self.state = State::In { since: now },
            // A call from before the ejection. The probe decides.
            State::Out { .. } => {}
        }
    }

    /// A call failed. True if the instance should be ejected now: it was one failure in a row too many, or the probe.
    pub fn failed(&mut self, _now: Now, outlier: &Outlier) -> bool {
        match self.state {
            State::In { .. } => {
                self.count(0);
                self.row = self.row.saturating_add(1);
                outlier.consecutive_failures > 0 && self.row >= outlier.consecutive_failures
            }
            State::Probing { .. } => true,
            State::Out { .. } => false,
        }
    }

    /// Takes it out, for twice as long as the last time. Without effect while it is out.
    pub fn eject(&mut self, now: Now, outlier: &Outlier) {
        if matches!(self.standing(now), Standing::Ejected { .. }) {
            return;
        }
        self.forgive(now);
        let times = 2_u32.checked_pow(self.ejections).unwrap_or(u32::MAX);
        self.ejected_for = outlier.ejection.saturating_mul(times).min(outlier.ejection_max);
        self.ejections = self.ejections.saturating_add(1);
        self.state = State::Out { until: now.saturating_add(self.ejected_for) };
        // It begins with a clean sheet when it comes back.
        (self.row, self.successes, self.requests) = (0, 0, 0);
    }

    /// Whether it takes calls.
    pub fn standing(&self, now: Now) -> Standing {
        match self.state {
            State::In { .. } => Standing::In,
            State::Out { until } if now < until => Standing::Ejected { until },
            State::Probing { until } if now < until => Standing::Probing,
            State::Out { .. } | State::Probing { .. } => Standing::Due,
        }
    }

    /// A request goes there as its probe. Without effect unless one is due.
    pub fn begin_probe(&mut self, now: Now) {
        if self.standing(now) == Standing::Due {
            self.state = State::Probing { until: now.saturating_add(PROBE_MAX) };
        }
    }

    /// Ejections in a row, none of which is forgotten yet.
    pub fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Successes and requests since this was last asked; begins a new interval.
    pub fn interval_counts(&mut self) -> (u32, u32) {
        (std::mem::take(&mut self.successes), std::mem::take(&mut self.requests))
    }

    fn count(&mut self, successes: u32) {
        self.successes = self.successes.saturating_add(successes);
        self.requests = self.requests.saturating_add(1);
    }

    /// Who was in for twice as long as it was out begins anew.
    fn forgive(&mut self, now: Now) {
        let needed = self.ejected_for.saturating_mul(2).min(FORGIVEN_AFTER_MAX);
        if matches!(self.state, State::In { since } if now.saturating_sub(since) >= needed) {
            self.ejections = 0;
        }
    }
}

/// True if one more of `total` instances may be ejected, of which `ejected` are: so many percent at most, but always one where
/// there is another to go to.
pub fn may_eject(total: usize, ejected: usize, outlier: &Outlier) -> bool {
    let share = ejected.saturating_add(1).saturating_mul(100);
    total >= 2 && (ejected == 0 || share <= total.saturating_mul(outlier.ejected_percent_max.into()))
}

/// True if so few of `total` instances are left that ejections say more of the network, or of this host, than of them: then
/// none of them counts, and calls go to all. Envoy's panic threshold; `panic_percent` zero: never.
pub fn panics(total: usize, left: usize, panic_percent: u8) -> bool {
    left.saturating_mul(100) < total.saturating_mul(panic_percent.into())
}

/// The instances whose share of successes is far below the others', the worst first, as indices into `counts` (successes and
/// requests of each in one interval).
///
/// Envoy's rule: below the mean by so many standard deviations of all that had enough requests, where those are enough. On
/// top, the lag must be worth an ejection, and more than chance.
pub fn laggards(counts: &[(u32, u32)], outlier: &Outlier) -> Vec<usize> {
    let requests_min = u32::from(outlier.success_rate_requests_min).max(1);
    let rate = |(successes, requests): (u32, u32)| f64::from(successes.min(requests)) / f64::from(requests);
    let judged = counts.iter().enumerate().filter(|(_, (_, requests))| *requests >= requests_min);
    let rates: Vec<(usize, f64, f64)> =
        judged.map(|(index, count)| (index, rate(*count), f64::from(count.1))).collect();
    if outlier.success_rate_stdev_tenths == 0 || rates.len() < INSTANCES_MIN {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate, _)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate, _)| (rate - mean).powi(2)).sum::<f64>() / count;
    let far = variance.sqrt() * f64::from(outlier.success_rate_stdev_tenths) / 10.0;
    let by_chance = |requests: f64| LAG_ERRORS * (mean * (1.0 - mean) / requests).sqrt();
    let lags = |(_, rate, requests): &(usize, f64, f64)| mean - rate > far.max(LAG_MIN).max(by_chance(*requests));
    let mut found: Vec<_> = rates.into_iter().filter(lags).collect();
    found.sort_by(|(_, one, _), (_, other, _)| one.total_cmp(other));
    found.into_iter().map(|(index, ..)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTLIER: Outlier = Outlier {
        consecutive_failures: 5,
        success_rate_stdev_tenths: 19,
        success_rate_requests_min: 100,
        interval: Duration::from_secs(10),
        ejection: Duration::from_secs(5),
        ejection_max: Duration::from_secs(300),
        ejected_percent_max: 50,
    };

    fn at(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    fn ejected(until_s: u64) -> Standing {
        Standing::Ejected { until: at(until_s) }
    }

    /// Out at second 0 for the first time.
    fn out() -> Track {
        let mut track = Track::default();
        track.eject(at(0), &OUTLIER);
        track
    }

    /// Probes the moment that is possible, fails, and is out again; returns when.
    fn fail_probe(track: &mut Track) -> Now {
        let Standing::Ejected { until } = track.standing(at(0)) else { panic!("{track:?}") };
        track.begin_probe(until);
        assert!(track.failed(until, &OUTLIER));
        track.eject(until, &OUTLIER);
        until
    }

    #[test]
    fn the_policy_of_these_tests_is_the_default() {
        assert_eq!(OUTLIER, Outlier::default());
    }

    #[test]
    fn five_failures_in_a_row_are_one_too_many_and_a_success_ends_the_row() {
        let mut track = Track::default();
        assert!((0..4).all(|_| !track.failed(at(0), &OUTLIER)));
        track.succeeded(at(0));
        assert!((0..4).all(|_| !track.failed(at(0), &OUTLIER)));
        assert!(track.failed(at(0), &OUTLIER));
        assert!(track.failed(at(0), &OUTLIER), "said again, if it could not be ejected then");
    }

    #[test]
    fn where_failures_in_a_row_do_not_count_none_ejects() {
        let never = Outlier { consecutive_failures: 0, ..OUTLIER };
        let mut track = Track::default();
        assert!((0..100_000).all(|_| !track.failed(at(0), &never)));
    }

    #[test]
    fn after_its_ejection_one_request_probes_and_a_success_brings_it_back() {
        let mut track = out();
        assert_eq!(track.standing(at(4)), ejected(5));
        track.begin_probe(at(4));
        assert_eq!(track.standing(at(4)), ejected(5), "not before it is due");
        assert_eq!(track.standing(at(5)), Standing::Due);
        track.begin_probe(at(5));
        assert_eq!(track.standing(at(5)), Standing::Probing);
        track.succeeded(at(6));
        assert_eq!(track.standing(at(6)), Standing::In);
        assert!((0..4).all(|_| !track.failed(at(6), &OUTLIER)), "fully");
    }

    #[test]
    fn each_ejection_lasts_twice_as_long_up_to_the_longest() {
        let mut track = out();
        let mut since = at(0);
        for expected_s in [5, 10, 20, 40, 80, 160, 300, 300, 300] {
            let until = fail_probe(&mut track);
            assert_eq!(until - since, at(expected_s));
            since = until;
        }
        assert_eq!(track.ejections(), 10);
        track.ejections = u32::MAX;
        track.state = State::In { since };
        track.eject(since, &OUTLIER);
        assert_eq!(track.standing(since), Standing::Ejected { until: since + at(300) });
    }

    #[test]
    fn who_stays_in_for_twice_as_long_begins_anew_and_who_does_not_goes_on() {
        for (stayed_s, again_s) in [(19, 20), (20, 5)] {
            let mut track = out();
            fail_probe(&mut track);
            track.begin_probe(at(15));
            track.succeeded(at(15));
            track.eject(at(15 + stayed_s), &OUTLIER);
            assert_eq!(track.standing(at(15 + stayed_s)), ejected(15 + stayed_s + again_s), "after {stayed_s} s");
        }
        let mut track = out();
        track.begin_probe(at(5));
        track.succeeded(at(5));
        assert_eq!(track.ejections(), 1);
        track.succeeded(at(15));
        assert_eq!(track.ejections(), 0);
    }

    #[test]
    fn however_long_it_was_out_ten_minutes_are_enough() {
        let long = Outlier { ejection: at(3_600), ejection_max: at(86_400), ..OUTLIER };
        let mut track = Track::default();
        track.eject(at(0), &long);
        track.begin_probe(at(3_600));
        track.succeeded(at(3_600));
        track.eject(at(3_600 + 600), &long);
        assert_eq!(track.standing(at(4_200)), ejected(4_200 + 3_600));
    }

    #[test]
    fn calls_from_before_the_ejection_neither_lengthen_nor_end_it() {
        let mut track = out();
        assert!((0..10).all(|_| !track.failed(at(1), &OUTLIER)));
        track.succeeded(at(2));
        track.eject(at(3), &OUTLIER);
        assert_eq!((track.standing(at(3)), track.ejections()), (ejected(5), 1));
        track.succeeded(at(6));
        assert_eq!(track.standing(at(6)), Standing::Due, "the probe decides");
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_makes_room_for_the_next_and_counts_when_it_reports() {
        let mut track = out();
        track.begin_probe(at(5));
        assert_eq!(track.standing(at(5) + PROBE_MAX - Duration::from_nanos(1)), Standing::Probing);
        assert_eq!(track.standing(at(5) + PROBE_MAX), Standing::Due);
        let mut failing = track;
        assert!(failing.failed(at(30), &OUTLIER));
        failing.eject(at(30), &OUTLIER);
        assert_eq!(failing.standing(at(30)), ejected(40));
        track.succeeded(at(30));
        assert_eq!(track.standing(at(30)), Standing::In);
    }

    #[test]
    fn an_interval_counts_what_came_while_it_was_in() {
        let mut track = Track::default();
        track.succeeded(at(0));
        track.failed(at(0), &OUTLIER);
        assert_eq!(track.interval_counts(), (1, 2));
        assert_eq!(track.interval_counts(), (0, 0));
        track.succeeded(at(0));
        track.eject(at(0), &OUTLIER);
        track.failed(at(0), &OUTLIER);
        assert_eq!(track.interval_counts(), (0, 0));
    }

    #[test]
    fn half_are_ejected_at_most_but_always_one_of_two() {
        let ejected_max = |total: usize, percent| {
            let outlier = Outlier { ejected_percent_max: percent, ..OUTLIER };
            (0..=total).find(|ejected| *ejected == total || !may_eject(total, *ejected, &outlier))
        };
        for (total, percent, expected) in [
            (0, 50, 0),
            (1, 100, 0),
            (2, 50, 1),
            (3, 50, 1),
            (4, 50, 2),
            (11, 50, 5),
            (11, 10, 1),
            (3, 0, 1),
            (4, 100, 4),
        ] {
            assert_eq!(ejected_max(total, percent), Some(expected), "{percent} % of {total}");
        }
    }

    #[test]
    fn ejections_stop_counting_where_less_than_half_is_left() {
        assert!(panics(11, 5, 50) && !panics(11, 6, 50) && !panics(2, 1, 50) && panics(2, 0, 50));
        assert!(!panics(11, 0, 0) && !panics(0, 0, 50));
    }

    #[test]
    fn who_succeeds_far_less_often_than_the_others_lags() {
        let fleet = |bad: (u32, u32)| [[(100, 100); 9].as_slice(), &[bad]].concat();
        assert_eq!(laggards(&fleet((90, 100)), &OUTLIER), [9]);
        assert_eq!(laggards(&fleet((96, 100)), &OUTLIER), [] as [usize; 0], "too little to matter");
        assert_eq!(laggards(&fleet((0, 99)), &OUTLIER), [] as [usize; 0], "too few to tell");
        let blind = Outlier { success_rate_stdev_tenths: 0, ..OUTLIER };
        assert_eq!(laggards(&fleet((0, 100)), &blind), [] as [usize; 0], "not looked at");
        assert_eq!(laggards(&fleet((0, 100))[6..], &OUTLIER), [] as [usize; 0], "four say nothing of each other");
    }

    #[test]
    fn of_several_that_lag_the_worst_comes_first() {
        let mut counts = vec![(1_000, 1_000); 20];
        (counts[3], counts[7]) = ((500, 1_000), (400, 1_000));
        assert_eq!(laggards(&counts, &OUTLIER), [7, 3]);
    }

    #[test]
    fn where_all_fail_alike_chance_ejects_nobody() {
        // Half of the requests fail everywhere; of 11 shares from 100 requests some are always ten in a hundred below.
        let counts = [50, 52, 41, 55, 48, 60, 39, 51, 47, 56, 50].map(|successes| (successes, 100));
        assert_eq!(laggards(&counts, &OUTLIER), [] as [usize; 0]);
    }

    #[test]
    fn counts_that_make_no_sense_do_no_harm() {
        let none = Outlier { success_rate_requests_min: 0, ..OUTLIER };
        assert_eq!(laggards(&[(0, 0); 10], &none), [] as [usize; 0]);
        assert_eq!(laggards(&[(u32::MAX, 1); 10], &none), [] as [usize; 0]);
        assert_eq!(laggards(&[], &none), [] as [usize; 0]);
    }
}
