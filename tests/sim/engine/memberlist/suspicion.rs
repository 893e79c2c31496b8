//! How long a suspect has (suspicion.go; Lifeguard, section IV-B): from the longest time towards the shortest, as the logarithm
//! of the number of independent accusers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// So many accusers are told apart; the confirmations asked for are fewer.
const ACCUSERS_MAX: usize = 8;

#[derive(Debug)]
struct Suspicion {
    started: Duration,
    shortest: Duration,
    longest: Duration,
    wanted: u32,
    accusers: Vec<u32>,
}

impl Suspicion {
    fn deadline(&self) -> Duration {
        let confirmations = self.accusers.len() as f64 - 1.0;
        let share = if self.wanted == 0 { 0.0 } else { (confirmations + 1.0).ln() / f64::from(self.wanted + 1).ln() };
        let seconds = self.longest.as_secs_f64() - share * (self.longest - self.shortest).as_secs_f64();
        let rounded = Duration::from_secs_f64((seconds * 1000.0).floor().max(0.0) / 1000.0);
        self.started + rounded.max(self.shortest)
    }
}

/// All suspicions that run.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    running: BTreeMap<u32, Suspicion>,
    /// Deadlines, some of them void by now.
    due: BinaryHeap<Reverse<(Duration, u32)>>,
}

impl Suspicions {
    /// `wanted` confirmations shorten it from `longest` to `shortest`; with none wanted it lasts `shortest`.
    pub(super) fn start(&mut self, now: Duration, host: u32, from: u32, wanted: u32, times: (Duration, Duration)) {
        let (shortest, longest) = times;
        let longest = if wanted == 0 { shortest } else { longest };
        let suspicion = Suspicion { started: now, shortest, longest, wanted, accusers: vec![from] };
        self.due.push(Reverse((suspicion.deadline(), host)));
        self.running.insert(host, suspicion);
    }

    pub(super) fn runs(&self, host: u32) -> bool {
        self.running.contains_key(&host)
    }

    /// True if that is news: it is to be told on.
    pub(super) fn confirm(&mut self, host: u32, from: u32) -> bool {
        let Some(suspicion) = self.running.get_mut(&host) else { return false };
        let enough = suspicion.accusers.len() > (suspicion.wanted as usize).min(ACCUSERS_MAX);
        if enough || suspicion.accusers.contains(&from) {
            return false;
        }
        suspicion.accusers.push(from);
        self.due.push(Reverse((suspicion.deadline(), host)));
        true
    }

    pub(super) fn end(&mut self, host: u32) {
        self.running.remove(&host);
        if self.running.is_empty() {
            self.due.clear();
        }
    }

    /// Not later than the next one ends.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// One that has ended by `now`.
    pub(super) fn overdue(&mut self, now: Duration) -> Option<u32> {
        while let Some(Reverse((at, host))) = self.due.peek().copied() {
            if at > now {
                return None;
            }
            self.due.pop();
            if self.running.get(&host).is_some_and(|suspicion| suspicion.deadline() <= now) {
                return Some(host);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_accusers_shorten_a_suspicion() {
        let seconds = Duration::from_secs;
        let mut suspicions = Suspicions::default();
        suspicions.start(seconds(10), 7, 1, 2, (seconds(4), seconds(24)));
        assert_eq!(suspicions.next(), Some(seconds(34)));
        assert!(!suspicions.confirm(7, 1), "the same accuser");
        assert!(suspicions.confirm(7, 2) && suspicions.confirm(7, 3) && !suspicions.confirm(7, 4));
        assert_eq!(suspicions.overdue(Duration::from_millis(13_999)), None);
        assert_eq!(suspicions.overdue(seconds(14)), Some(7));
    }

    #[test]
    fn without_confirmations_all_last_the_shortest_time() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Duration::ZERO, 7, 1, 0, (Duration::from_secs(4), Duration::from_secs(24)));
        assert_eq!(suspicions.next(), Some(Duration::from_secs(4)));
    }
}
