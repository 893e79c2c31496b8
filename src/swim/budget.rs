//! How many hosts this one may accuse by itself. A host that suspects many is more likely cut off than right: one whose
//! packets go out but whose answers are lost, or the reverse, fails every probe it makes. So accusations are counted:
//! an accusation that another host confirms costs nothing, one that nobody confirms is paid off only by time.
//!
//! Lifeguard's local health slows such a host down; the budget stops it. Times come in, nothing else is known here.

use std::time::Duration;

use crate::model::Now;

/// Unconfirmed accusations that a host may have made at once. A confirmation takes one to two seconds and a probe is made
/// every half second: a host that is right about a whole rack is not held up.
const ACCUSATIONS_MAX: u32 = 5;
/// One unconfirmed accusation is forgiven in this time. Heavy loss (a fifth of all packets) makes a healthy host accuse
/// somebody wrongly every ten seconds.
const FORGIVEN_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    /// From when on the next one is being forgiven.
    since: Now,
    /// Accusations that were not made, since the start.
    withheld: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { left: ACCUSATIONS_MAX, since: Now::ZERO, withheld: 0 }
    }
}

impl Budget {
    /// True if one more host may be accused; then it has been counted.
    pub(super) fn take(&mut self, now: Now) -> bool {
        while self.left < ACCUSATIONS_MAX && now >= self.since + FORGIVEN_AFTER {
            self.left += 1;
            self.since += FORGIVEN_AFTER;
        }
        if self.left == ACCUSATIONS_MAX {
            self.since = now;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        self.withheld += u64::from(!may);
        may
    }

    /// An accusation was borne out by another host.
    pub(super) fn give_back(&mut self) {
        self.left = (self.left + 1).min(ACCUSATIONS_MAX);
    }

    pub(super) fn withheld(&self) -> u64 {
        self.withheld
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &mut Budget, from_s: u64, to_s: u64) -> usize {
        (from_s * 2..to_s * 2).filter(|half| budget.take(Now::from_millis(half * 500))).count()
    }

    #[test]
    fn a_host_that_is_never_borne_out_accuses_a_few_and_then_one_in_five_seconds() {
        let mut budget = Budget::default();
        assert_eq!(taken(&mut budget, 0, 3), 5);
        let minute = taken(&mut budget, 3, 63);
        assert!((11..=13).contains(&minute), "{minute} in the minute after");
        assert!(budget.withheld() > 100);
    }

    #[test]
    fn a_host_that_is_borne_out_is_not_held_up() {
        let mut budget = Budget::default();
        for half in 0..1000 {
            assert!(budget.take(Now::from_millis(half * 500)));
            budget.give_back();
        }
        assert_eq!(budget.withheld(), 0);
    }

    #[test]
    fn quiet_times_are_not_saved_up() {
        let mut budget = Budget::default();
        assert_eq!(taken(&mut budget, 0, 3), 5);
        assert_eq!(taken(&mut budget, 3600, 3602), 4, "as many as at the start");
        assert_eq!(taken(&mut budget, 3602, 3603), 1);
        assert_eq!(taken(&mut budget, 3603, 3604), 0);
    }
}
