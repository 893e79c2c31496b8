//! How hard this host presses on each service: calls under way, and how many more tries its retry budget allows. Shared by the
//! workers, so that a limit is one limit and a budget one budget.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::{Pressure, ServiceName, TrafficPolicy};
use crate::route::{InFlight, RetryBudget};

/// Services that are called from this host. Beyond it those that nobody calls are let go.
const SERVICES_MAX: usize = 10_000;

/// All services.
#[derive(Debug)]
pub(super) struct Pressures {
    services: Mutex<HashMap<ServiceName, Arc<OnService>>>,
    started: Instant,
}

impl Default for Pressures {
    fn default() -> Pressures {
        Pressures { services: Mutex::default(), started: Instant::now() }
    }
}

/// One service.
#[derive(Debug)]
pub(super) struct OnService {
    state: Mutex<State>,
    /// The zero of times.
    started: Instant,
    refused: AtomicU64,
    retries: AtomicU64,
    retries_refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    in_flight: InFlight,
    under_way: u32,
    budget: RetryBudget,
    /// By which the last call was made.
    policy: Arc<TrafficPolicy>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pressures {
    /// What is known of a service. To be kept, not asked for with each call.
    pub(super) fn on(&self, service: &ServiceName) -> Arc<OnService> {
        let mut services = lock(&self.services);
        if services.len() >= SERVICES_MAX {
            services.retain(|_, on| Arc::strong_count(on) > 1);
        }
        let make = || {
            Arc::new(OnService {
                state: Mutex::default(),
                started: self.started,
                refused: AtomicU64::default(),
                retries: AtomicU64::default(),
                retries_refused: AtomicU64::default(),
            })
        };
        services.entry(service.clone()).or_insert_with(make).clone()
    }

    /// Every service that was called, for people.
    pub(super) fn all(&self) -> Vec<Pressure> {
        let services: Vec<_> = lock(&self.services).iter().map(|(name, on)| (name.clone(), on.clone())).collect();
        let mut all: Vec<Pressure> = services.iter().map(|(service, on)| on.shown(service)).collect();
        all.sort_by(|one, other| one.service.cmp(&other.service));
        all
    }
}

impl OnService {
    /// Takes a place for one call; `None` if there are as many as there may be.
    pub(super) fn enter(self: &Arc<Self>, policy: &Arc<TrafficPolicy>) -> Option<UnderWay> {
        let now = self.started.elapsed();
        let mut state = lock(&self.state);
        if !Arc::ptr_eq(&state.policy, policy) {
            state.policy = policy.clone();
        }
        state.budget.request(now);
        if !state.in_flight.try_enter(policy.limits.service_concurrency) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        state.under_way += 1;
        Some(UnderWay(self.clone()))
    }

    /// True if a call may be tried once more; the try is taken from the budget.
    pub(super) fn may_retry(&self) -> bool {
        let mut state = lock(&self.state);
        let policy = state.policy.clone();
        let taken = state.budget.try_take(self.started.elapsed(), &policy.retries, 1);
        let counter = if taken { &self.retries } else { &self.retries_refused };
        counter.fetch_add(1, Ordering::Relaxed);
        taken
    }

    /// A call was answered.
    pub(super) fn succeeded(&self) {
        let mut state = lock(&self.state);
        let calls_max = state.policy.limits.service_concurrency;
        state.in_flight.succeeded(calls_max);
    }

    /// A call was not answered in time, or refused as one too many.
    pub(super) fn overloaded(&self) {
        lock(&self.state).in_flight.overloaded(self.started.elapsed());
    }

    fn shown(&self, service: &ServiceName) -> Pressure {
        let state = lock(&self.state);
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Pressure {
            service: service.to_string(),
            under_way: state.under_way,
            limit: state.in_flight.limit(state.policy.limits.service_concurrency),
            retries_left: state.budget.left(self.started.elapsed(), &state.policy.retries, 1),
            refused: read(&self.refused),
            retries: read(&self.retries),
            retries_refused: read(&self.retries_refused),
        }
    }
}

/// A call's place, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<OnService>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.under_way = state.under_way.saturating_sub(1);
        state.in_flight.leave();
    }
}

/// Ejections since the start, of all workers.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Ejections {
    pub(super) fn ejected(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn returned(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// How many began, and how many ended with a call that was answered.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limits;

    fn policy(calls_max: u32) -> Arc<TrafficPolicy> {
        let limits = Limits { service_concurrency: calls_max, ..Limits::default() };
        Arc::new(TrafficPolicy { limits, ..TrafficPolicy::default() })
    }

    #[test]
    fn a_limit_is_one_for_all_who_hold_it_and_a_place_comes_back() {
        let pressures = Pressures::default();
        let name = ServiceName::parse("web").unwrap();
        let (one, other, three) = (pressures.on(&name), pressures.on(&name), policy(3));
        let held: Vec<_> = (0..3).filter_map(|_| one.enter(&three)).collect();
        assert!(held.len() == 3 && other.enter(&three).is_none());
        drop(held);
        assert!(other.enter(&three).is_some());
        let shown = pressures.all().remove(0);
        assert_eq!((shown.service.as_str(), shown.under_way, shown.limit, shown.refused), ("web", 0, 3, 1));
    }

    #[test]
    fn retries_end_where_the_budget_does() {
        let pressures = Pressures::default();
        let on = pressures.on(&ServiceName::parse("web").unwrap());
        let held: Vec<_> = (0..100).filter_map(|_| on.enter(&policy(1_000))).collect();
        let taken = (0..1_000).filter(|_| on.may_retry()).count();
        // A fifth of the calls, and ten for the second that has begun.
        assert!((20..=40).contains(&taken), "{taken}");
        let shown = pressures.all().remove(0);
        assert_eq!((shown.under_way, shown.retries + shown.retries_refused), (100, 1_000));
        drop(held);
    }
}
