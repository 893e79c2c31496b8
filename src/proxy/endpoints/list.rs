//! The instances of a service, or of a part of it, that calls can go to, and which of them takes the next one. A list is made
//! anew when the directory's view of the service, or what operators say of it, has changed.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::instance::Endpoint;
use super::{Measure, Wanted};
use crate::model::{Algorithm, NodeId, Service, ServiceId, TrafficPolicy};
use crate::route::{self, Ring, RoundRobin, Standing};

pub(super) struct List {
    /// What it was made of.
    pub(super) service: Arc<Service>,
    pub(super) policy: Arc<TrafficPolicy>,
    /// Keeps it where it is in memory.
    pub(super) _parts_of: Arc<TrafficPolicy>,
    /// Those of the caller's zone first.
    pub(super) usable: Vec<Endpoint>,
    /// How many of them are of the caller's zone; all, where zones do not count.
    pub(super) near: usize,
    /// How many instances that zone has, whether calls can go there or not.
    pub(super) near_total: usize,
    /// Healthy, but on hosts whose mesh port does not answer.
    pub(super) unreached: Vec<Endpoint>,
    /// By the weights that instances have, in the order of `usable`.
    pub(super) weights: Vec<u16>,
    /// All weights are alike.
    pub(super) is_even: bool,
    pub(super) ring: Option<Ring>,
    pub(super) turns: RefCell<RoundRobin>,
}

/// Who may be picked, by their places in [`List::usable`].
enum Candidates {
    All(usize),
    Some(Vec<usize>),
}

impl Candidates {
    fn len(&self) -> usize {
        match self {
            Candidates::All(count) => *count,
            Candidates::Some(places) => places.len(),
        }
    }

    fn at(&self, index: usize) -> usize {
        match self {
            Candidates::All(_) => index,
            Candidates::Some(places) => places.get(index).copied().unwrap_or_default(),
        }
    }

    /// How many come before that place.
    fn before(&self, place: usize) -> usize {
        match self {
            Candidates::All(count) => place.min(*count),
            Candidates::Some(places) => places.partition_point(|each| *each < place),
        }
    }

    fn has(&self, place: usize) -> bool {
        match self {
            Candidates::All(count) => place < *count,
            Candidates::Some(places) => places.binary_search(&place).is_ok(),
        }
    }
}

impl List {
    /// Picks one, none of those that were tried. `has_ejected`: some of them may be ejected.
    ///
    /// Ejected ones are called when nobody else is left: what they answered may have been wrong only for some. Then those on
    /// hosts that do not answer, as far as this host knows: it is as well to ask.
    pub(super) fn pick(
        &self,
        wanted: &Wanted<'_>,
        (tried, has_ejected): (&[(NodeId, ServiceId)], bool),
        now: Duration,
        rng: &mut impl Rng,
    ) -> Option<&Endpoint> {
        let candidates = if tried.is_empty() && !has_ejected {
            Candidates::All(self.usable.len())
        } else {
            self.candidates(tried, now)
        };
        // Who is due has one call to show that it is back. Left to chance it would wait long: it was slow, or failed, when it was
        // last called.
        if has_ejected && tried.is_empty() {
            let due = self.usable.iter().find(|endpoint| matches!(endpoint.stats.standing(now), Standing::Due));
            if due.is_some() {
                return due;
            }
        }
        if candidates.len() > 0 {
            return self.pick_of(&candidates, wanted, now, rng).and_then(|place| self.usable.get(place));
        }
        let left: Vec<&Endpoint> = self.unreached.iter().filter(|endpoint| !endpoint.is_among(tried)).collect();
        let index = route::choose(left.len(), |index| left[index].stats.open.get(), rng)?;
        left.get(index).copied()
    }

    fn candidates(&self, tried: &[(NodeId, ServiceId)], now: Duration) -> Candidates {
        let places = |is_wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<usize> {
            let fresh = self.usable.iter().enumerate().filter(|(_, endpoint)| !endpoint.is_among(tried));
            fresh.filter(|(_, endpoint)| is_wanted(endpoint)).map(|(place, _)| place).collect()
        };
        let is_in = |endpoint: &Endpoint| matches!(endpoint.stats.standing(now), Standing::In | Standing::Due);
        let standing = self.usable.iter().filter(|endpoint| is_in(endpoint)).count();
        let is_panic = standing * 100 < self.usable.len() * usize::from(self.policy.balance.panic_percent);
        let in_service = if is_panic { Vec::new() } else { places(&is_in) };
        Candidates::Some(if in_service.is_empty() { places(&|_| true) } else { in_service })
    }

    fn pick_of(
        &self,
        candidates: &Candidates,
        wanted: &Wanted<'_>,
        now: Duration,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let balance = &self.policy.balance;
        if let (Algorithm::RingHash(_), Some(hash), Some(ring)) = (&balance.algorithm, wanted.hash, &self.ring)
            && let Some(place) = ring.walk(hash).find(|place| candidates.has(*place))
        {
            return Some(place);
        }
        let (first, count) = self.zone(candidates, rng);
        let endpoint = |index: usize| &self.usable[candidates.at(first + index)];
        let weight = |index: usize| {
            let place = candidates.at(first + index);
            f64::from(self.weights[place]) * self.usable[place].stats.ramp(now, balance.slow_start)
        };
        let by_latency = |index: usize| endpoint(index).stats.latency_load(now);
        let by_open = |index: usize| endpoint(index).stats.open_load(now);
        let is_even = balance.slow_start.is_zero() && self.is_even;
        let is_by_latency = wanted.measure == Measure::Latency
            && matches!(balance.algorithm, Algorithm::PeakEwma | Algorithm::RingHash(_));
        let index = match (&balance.algorithm, is_by_latency, is_even) {
            (Algorithm::RoundRobin, ..) => self.turns.borrow_mut().next(count, weight),
            (_, true, true) => route::choose_by_estimate(count, by_latency, rng),
            (_, true, false) => route::pick_weighted(count, weight, by_latency, true, rng),
            (_, false, true) => route::choose(count, by_open, rng),
            (_, false, false) => route::pick_weighted(count, weight, by_open, false, rng),
        };
        index.map(|index| candidates.at(first + index))
    }

    /// The part of the candidates that this call goes to, by the caller's zone: where it begins, and how many they are.
    fn zone(&self, candidates: &Candidates, rng: &mut impl Rng) -> (usize, usize) {
        let (near, all) = (candidates.before(self.near), candidates.len());
        if near == 0 || near == all {
            return (0, all);
        }
        let share = route::local_share(near, self.near_total, self.policy.balance.zone_spill_percent);
        if share >= 1.0 || rng.random_bool(share.clamp(0.0, 1.0)) { (0, near) } else { (near, all - near) }
    }
}
