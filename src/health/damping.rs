//! Flap damping: what is told of a check that changes its mind all the time. Pure; one per check.
//!
//! Every change of a verdict travels to every host. A check that changed more than [`CHANGES_MAX`] times within [`WINDOW`]
//! is held at its worst verdict until it has not changed for [`QUIET`]. Up to then no change is delayed, so neither is a
//! check's first; and what becomes worse is told at once, held or not.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{Health, Now};

/// Five restarts of a service, each down and up, are no flapping.
pub const CHANGES_MAX: usize = 10;
/// What is older counts no more.
pub const WINDOW: Duration = Duration::from_secs(300);
/// Without a change for so long a held check is believed again.
pub const QUIET: Duration = Duration::from_secs(60);

/// What one check said, and what is told of it.
#[derive(Debug, Clone)]
pub struct Damping {
    /// What the check says.
    actual: Health,
    /// What is told.
    shown: Health,
    /// When it changed, the newest last; at most one more than [`CHANGES_MAX`].
    changes: VecDeque<(Now, Health)>,
    held: bool,
}

impl Damping {
    /// A check that stands at `verdict`.
    pub fn new(verdict: Health) -> Damping {
        Damping { actual: verdict, shown: verdict, changes: VecDeque::new(), held: false }
    }

    /// What is told.
    pub fn shown(&self) -> Health {
        self.shown
    }

    /// What the check says, if that is held back.
    pub fn held_back(&self) -> Option<Health> {
        (self.actual != self.shown).then_some(self.actual)
    }

    /// Takes the verdict as it is now, changed or not; returns what is to be told if that changed.
    pub fn observe(&mut self, now: Now, verdict: Health) -> Option<Health> {
        // A release that was due before this comes first, so that it does not take this change along.
        self.release(now);
        if verdict != self.actual {
            if self.changes.len() > CHANGES_MAX {
                self.changes.pop_front();
            }
            // What it changes from counts as well: it is the worst there was, if all that follow are better.
            self.changes.push_back((now, verdict.max(self.actual)));
            self.actual = verdict;
            let recent = self.changes.iter().filter(|(at, _)| now.saturating_sub(*at) < WINDOW).count();
            self.held = self.held || recent > CHANGES_MAX;
        }
        self.settle(now)
    }

    /// When to call [`tick`](Damping::tick), if nothing is observed before.
    pub fn due(&self) -> Option<Now> {
        if self.held { self.changes.back().map(|(at, _)| *at + QUIET) } else { None }
    }

    /// Ends a hold that is due; returns what is to be told if that changed.
    pub fn tick(&mut self, now: Now) -> Option<Health> {
        self.release(now);
        self.settle(now)
    }

    fn release(&mut self, now: Now) {
        if self.due().is_some_and(|due| due <= now) {
            self.held = false;
        }
    }

    fn settle(&mut self, now: Now) -> Option<Health> {
        let recent = self.changes.iter().filter(|(at, _)| now.saturating_sub(*at) < WINDOW);
        let worst = recent.map(|(_, health)| *health).max().unwrap_or(self.actual);
        let told = if self.held { worst.max(self.actual).max(self.shown) } else { self.actual };
        let before = std::mem::replace(&mut self.shown, told);
        (before != told).then_some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Health::{Critical, Passing, Warning};

    fn at(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    /// Changes between the two every second, `count` times, from second 1 on; returns what was told when.
    fn flap(damping: &mut Damping, between: [Health; 2], count: u64) -> Vec<(u64, Health)> {
        let observe = |second: u64| {
            let verdict = between[usize::try_from(second % 2).unwrap()];
            damping.observe(at(second), verdict).map(|told| (second, told))
        };
        (1..=count).filter_map(observe).collect()
    }

    #[test]
    fn changes_up_to_the_limit_are_told_at_once() {
        let mut damping = Damping::new(Critical);
        let told = flap(&mut damping, [Critical, Passing], 10);
        assert_eq!(told.len(), 10);
        assert_eq!((told[0], damping.due()), ((1, Passing), None));
    }

    #[test]
    fn a_flapping_check_is_held_at_its_worst_until_it_was_quiet() {
        let mut damping = Damping::new(Critical);
        let told = flap(&mut damping, [Critical, Passing], 99);
        assert_eq!(told.len(), 10, "{told:?}");
        assert_eq!((damping.shown(), damping.held_back()), (Critical, Some(Passing)));
        assert_eq!(damping.due(), Some(at(99) + QUIET));
        for second in 100..159 {
            assert_eq!(damping.observe(at(second), Passing), None);
        }
        assert_eq!(damping.tick(at(159)), Some(Passing));
        assert_eq!((damping.held_back(), damping.due()), (None, None));
    }

    #[test]
    fn worse_is_told_at_once_even_while_held() {
        let mut damping = Damping::new(Passing);
        flap(&mut damping, [Passing, Warning], 40);
        assert_eq!(damping.shown(), Warning);
        assert_eq!(damping.observe(at(41), Critical), Some(Critical));
        assert_eq!(damping.observe(at(42), Passing), None, "held at the worst, which is critical now");
    }

    #[test]
    fn after_its_release_going_critical_is_still_told_at_once_and_coming_back_is_held() {
        let mut damping = Damping::new(Critical);
        flap(&mut damping, [Critical, Passing], 99);
        assert_eq!(damping.tick(at(160)), Some(Passing));
        assert_eq!(damping.observe(at(170), Critical), Some(Critical));
        assert_eq!(damping.observe(at(171), Passing), None);
        assert_eq!(damping.tick(at(171) + QUIET), Some(Passing));
    }

    #[test]
    fn slow_changes_are_never_held() {
        let mut damping = Damping::new(Passing);
        for change in 1..1000_u64 {
            let verdict = if change % 2 == 0 { Passing } else { Critical };
            assert_eq!(damping.observe(at(change * 31), verdict), Some(verdict));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_told_is_never_better_than_what_is_and_is_the_same_when_quiet(
            steps in proptest::collection::vec((0_u64..40, 0_usize..3), 1..200),
        ) {
            let mut damping = Damping::new(Critical);
            let mut now = 0;
            for (pause, verdict) in steps {
                now += pause;
                let verdict = [Passing, Warning, Critical][verdict];
                damping.observe(at(now), verdict);
                proptest::prop_assert!(damping.shown() >= verdict);
                proptest::prop_assert!(damping.changes.len() <= CHANGES_MAX + 1);
            }
            damping.tick(at(now) + QUIET);
            proptest::prop_assert_eq!(damping.held_back(), None);
        }
    }
}
