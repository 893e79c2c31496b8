//! How long a suspect has to refute: long while one host accuses it, shorter with every independent accuser (Lifeguard,
//! arXiv:1707.00788 §IV-B). Pure arithmetic on times that are passed in; `claims.rs` starts and ends suspicions.

use std::collections::{BTreeMap, BTreeSet};
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
    /// From `started` to the end, as things stand.
    time: Duration,
    /// Others call the suspect failed: their time is over.
    hurried: bool,
}

impl Suspicion {
    /// `hosts` counts the whole fleet with the suspect: the accuser and the suspect cannot confirm.
    /// Where answers take `pace` times as long as usual, so do refutations.
    pub(super) fn new(now: Now, config: &Config, hosts: usize, accuser: NodeId, pace: f64) -> Suspicion {
        let mut suspicion = Suspicion {
            started: now,
            accusers: vec![accuser],
            needed: config.confirmations.min(hosts.saturating_sub(2)),
            min: config.suspicion_min_for(hosts).mul_f64(pace),
            max: config.suspicion_max_for(hosts).mul_f64(pace),
            time: Duration::ZERO,
            hurried: false,
        };
        suspicion.time = suspicion.time();
        suspicion
    }

    /// Counts one more accuser. True if it was news and more can still shorten the time: then it is worth telling on.
    pub(super) fn confirm(&mut self, accuser: NodeId) -> bool {
        let news = self.accusers.len() <= self.needed && !self.accusers.contains(&accuser);
        if news {
            self.accusers.push(accuser);
            self.time = self.time();
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
        self.started + self.time
    }

    fn time(&self) -> Duration {
        if self.hurried {
            return self.min;
        }
        let confirmed = self.accusers.len() - 1;
        let share = if self.needed == 0 {
            1.0
        } else {
            let logarithm = |count: usize| f64::from(u32::try_from(count + 1).unwrap_or(u32::MAX)).ln();
            logarithm(confirmed) / logarithm(self.needed)
        };
        let shortened = self.max.saturating_sub((self.max.saturating_sub(self.min)).mul_f64(share));
        shortened.max(self.min)
    }
}

/// All suspicions that this host holds, found by whom they are about and by when they end.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    by_node: BTreeMap<NodeId, Suspicion>,
    by_deadline: BTreeSet<(Now, NodeId)>,
}

impl Suspicions {
    pub(super) fn get(&self, node: NodeId) -> Option<&Suspicion> {
        self.by_node.get(&node)
    }

    pub(super) fn insert(&mut self, node: NodeId, suspicion: Suspicion) {
        self.remove(node);
        self.by_deadline.insert((suspicion.deadline(), node));
        self.by_node.insert(node, suspicion);
    }

    pub(super) fn remove(&mut self, node: NodeId) -> Option<Suspicion> {
        let suspicion = self.by_node.remove(&node)?;
        self.by_deadline.remove(&(suspicion.deadline(), node));
        Some(suspicion)
    }

    pub(super) fn clear(&mut self) {
        *self = Suspicions::default();
    }

    /// As [`Suspicion::confirm`].
    pub(super) fn confirm(&mut self, node: NodeId, accuser: NodeId) -> bool {
        let Some(suspicion) = self.by_node.get_mut(&node) else { return false };
        let before = suspicion.deadline();
        let news = suspicion.confirm(accuser);
        if news {
            self.by_deadline.remove(&(before, node));
            self.by_deadline.insert((suspicion.deadline(), node));
        }
        news
    }

    /// Others call the suspect failed already: it has no more time than where many accuse it, and no less.
    pub(super) fn hurry(&mut self, node: NodeId) {
        if let Some(mut suspicion) = self.remove(node) {
            suspicion.hurried = true;
            suspicion.time = suspicion.time();
            self.insert(node, suspicion);
        }
    }

    /// Gives one suspect its time again, from `now` on.
    pub(super) fn restart(&mut self, now: Now, node: NodeId) {
        if let Some(mut suspicion) = self.remove(node) {
            suspicion.started = now;
            self.insert(node, suspicion);
        }
    }

    /// Gives every suspect its time again, from `now` on: this host could not have heard their refutations.
    pub(super) fn restart_all(&mut self, now: Now) {
        self.by_node.values_mut().for_each(|suspicion| suspicion.started = now);
        self.by_deadline = self.by_node.iter().map(|(node, suspicion)| (suspicion.deadline(), *node)).collect();
    }

    /// When the next one ends.
    pub(super) fn next_deadline(&self) -> Option<Now> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn overdue(&self, now: Now) -> Vec<NodeId> {
        self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, node)| *node).collect()
    }

    /// The suspects that only `accuser` accuses.
    pub(super) fn only_by(&self, accuser: NodeId) -> Vec<NodeId> {
        let only = self.by_node.iter().filter(|(_, suspicion)| suspicion.is_only_by(accuser));
        only.map(|(node, _)| *node).collect()
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
        let mut suspicion = Suspicion::new(Duration::ZERO, &config, 100, node(1), 1.0);
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
        let mut suspicion = Suspicion::new(Duration::ZERO, &Config::default(), 100, node(1), 1.0);
        assert!(!suspicion.confirm(node(1)));
        assert!(suspicion.is_only_by(node(1)));
    }

    #[test]
    fn where_nobody_could_confirm_the_minimum_holds_at_once() {
        let config = Config::default();
        let suspicion = Suspicion::new(Duration::ZERO, &config, 2, node(1), 1.0);
        assert_eq!(suspicion.deadline(), config.suspicion_min_for(2));
    }
}
