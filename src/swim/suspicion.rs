//! How long a suspect has to refute: long while one host accuses it, shorter with every independent accuser (Lifeguard,
//! arXiv:1707.00788 §IV-B). Pure arithmetic on times that are passed in; `claims.rs` starts and ends suspicions.

use std::time::Duration;

use super::Config;
use crate::model::{NodeId, Now};

#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    started: Now,
    /// The first accuser and those that confirmed, at most K + 1.
    accusers: Vec<NodeId>,
    /// K: confirmations that shorten the time all the way.
    needed: usize,
    min: Duration,
    max: Duration,
}

impl Suspicion {
    /// `hosts` counts the whole fleet with the suspect: the accuser and the suspect cannot confirm.
    pub(super) fn new(now: Now, config: &Config, hosts: usize, accuser: NodeId) -> Suspicion {
        Suspicion {
            started: now,
            accusers: vec![accuser],
            needed: config.confirmations.min(hosts.saturating_sub(2)),
            min: config.suspicion_min_for(hosts),
            max: config.suspicion_max_for(hosts),
        }
    }

    /// Counts one more accuser. True if it was news and more can still shorten the time: then it is worth telling on.
    pub(super) fn confirm(&mut self, accuser: NodeId) -> bool {
        let news = self.accusers.len() <= self.needed && !self.accusers.contains(&accuser);
        if news {
            self.accusers.push(accuser);
        }
        news
    }

    /// True if `node` is the only accuser.
    pub(super) fn is_only_by(&self, node: NodeId) -> bool {
        self.accusers == [node]
    }

    /// The accuser that nobody has confirmed, where somebody could have: one host's word buries nobody. A host that
    /// nobody else misses is most likely there, and its accuser cut off or lying.
    pub(super) fn unconfirmed(&self) -> Option<NodeId> {
        /// With three hosts or fewer there may be only one left to tell.
        const NEEDED_MIN: usize = 2;
        match self.accusers[..] {
            [accuser] if self.needed >= NEEDED_MIN => Some(accuser),
            _ => None,
        }
    }

    /// When the suspect is called failed unless it refutes.
    pub(super) fn deadline(&self) -> Now {
        let confirmed = self.accusers.len() - 1;
        let share = if self.needed == 0 {
            1.0
        } else {
            let logarithm = |count: usize| f64::from(u32::try_from(count + 1).unwrap_or(u32::MAX)).ln();
            logarithm(confirmed) / logarithm(self.needed)
        };
        let shortened = self.max.saturating_sub((self.max.saturating_sub(self.min)).mul_f64(share));
        self.started + shortened.max(self.min)
    }

    /// Gives the suspect its time again, from `now` on: this host could not have heard a refutation.
    pub(super) fn restart(&mut self, now: Now) {
        self.started = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u8) -> NodeId {
        NodeId([id; 16])
    }

    #[test]
    fn every_independent_accuser_shortens_the_time_down_to_the_minimum() {
        let config = Config::default();
        let mut suspicion = Suspicion::new(Duration::ZERO, &config, 100, node(1));
        let mut deadlines = vec![suspicion.deadline()];
        for accuser in 2..=4 {
            assert!(suspicion.confirm(node(accuser)));
            deadlines.push(suspicion.deadline());
        }
        assert_eq!(deadlines.first(), Some(&config.suspicion_max_for(100)));
        assert_eq!(deadlines.last(), Some(&config.suspicion_min_for(100)));
        assert!(deadlines.is_sorted_by(|a, b| a > b), "{deadlines:?}");
        assert!(!suspicion.confirm(node(5)), "more than K confirmations change nothing");
    }

    #[test]
    fn one_accuser_counts_once() {
        let mut suspicion = Suspicion::new(Duration::ZERO, &Config::default(), 100, node(1));
        assert!(!suspicion.confirm(node(1)));
        assert!(suspicion.is_only_by(node(1)));
    }

    #[test]
    fn where_nobody_could_confirm_the_minimum_holds_at_once() {
        let config = Config::default();
        let suspicion = Suspicion::new(Duration::ZERO, &config, 2, node(1));
        assert_eq!(suspicion.deadline(), config.suspicion_min_for(2));
    }
}
