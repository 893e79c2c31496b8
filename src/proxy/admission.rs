//! How many calls an instance of this host may have at once, and how many each caller may make a second, as operators say.
//! Shared by the workers: an instance has one limit, however its calls come.
//!
//! Calls beyond the limit wait in a queue, in their order, while they can expect to be taken in time; the others are refused
//! at once, because who is refused late has lost both the time and the answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::model::{Limits, ServiceId, ServiceName};
use crate::route::Rates;

/// Instances with a limit. More than a host has.
const GATES_MAX: usize = 10_000;
/// How much the last departure weighs in the average time between two.
const PACE_WEIGHT: f64 = 0.1;
/// Who is let into the queue expects to wait no longer than this part of what it may: service times scatter, and whoever
/// waited in vain is refused late.
const QUEUE_SHARE: f64 = 0.5;
/// What callers of whom nothing is known are counted under; no service can be called so.
const ANONYMOUS: &str = "";

/// Why a call is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The instance has as many as it may, and the queue is full or too slow.
    Overloaded,
    /// The caller makes more a second than it may.
    RateLimited,
}

/// Every instance of this host that has a limit.
#[derive(Debug)]
pub(super) struct Admission {
    gates: Mutex<HashMap<ServiceId, Arc<Gate>>>,
    started: Instant,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission { gates: Mutex::default(), started: Instant::now() }
    }
}

/// One instance.
#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    started: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// Requests under way.
    running: u32,
    /// Connections of bytes under way.
    connections: u32,
    waiting: VecDeque<oneshot::Sender<Permit>>,
    /// Average time between two departures while others wait, in seconds.
    pace_s: f64,
    departed_at: Option<Duration>,
    rates: Rates,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// Lets a request to an instance in, at once or when its turn comes. Without limits it costs nothing.
    pub(super) async fn request(
        &self,
        instance: &ServiceId,
        caller: Option<&ServiceName>,
        limits: &Limits,
    ) -> Result<Option<Permit>, Refused> {
        if limits.instance_concurrency.is_none() && limits.caller_rate_per_second.is_none() {
            return Ok(None);
        }
        let gate = self.gate(instance);
        gate.check_rate(caller, limits)?;
        match limits.instance_concurrency {
            Some(calls_max) => gate.enter(calls_max, limits).await.map(Some),
            None => Ok(None),
        }
    }

    /// Lets a connection of bytes in. Connections last, so that nobody waits for one to end.
    pub(super) fn connection(
        &self,
        instance: &ServiceId,
        caller: Option<&ServiceName>,
        limits: &Limits,
    ) -> Result<Option<Permit>, Refused> {
        if limits.connections.is_none() && limits.caller_rate_per_second.is_none() {
            return Ok(None);
        }
        let gate = self.gate(instance);
        gate.check_rate(caller, limits)?;
        let Some(connections_max) = limits.connections else { return Ok(None) };
        let mut state = lock(&gate.state);
        if state.connections >= connections_max {
            return Err(Refused::Overloaded);
        }
        state.connections += 1;
        drop(state);
        Ok(Some(Permit { gate: Some(gate), kind: Kind::Connection }))
    }

    fn gate(&self, instance: &ServiceId) -> Arc<Gate> {
        let mut gates = lock(&self.gates);
        if let Some(gate) = gates.get(instance) {
            return gate.clone();
        }
        if gates.len() >= GATES_MAX {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        let gate = Arc::new(Gate { state: Mutex::default(), started: self.started });
        gates.insert(instance.clone(), gate.clone());
        gate
    }
}

impl Gate {
    fn check_rate(&self, caller: Option<&ServiceName>, limits: &Limits) -> Result<(), Refused> {
        let Some(per_second) = limits.caller_rate_per_second else { return Ok(()) };
        let caller = caller.map_or(ANONYMOUS, ServiceName::as_str);
        let now = self.started.elapsed();
        lock(&self.state).rates.take(caller, now, per_second, limits.caller_burst).map_err(|_| Refused::RateLimited)
    }

    async fn enter(self: &Arc<Self>, calls_max: u32, limits: &Limits) -> Result<Permit, Refused> {
        let turn = {
            let mut state = lock(&self.state);
            if state.running < calls_max {
                state.running += 1;
                return Ok(Permit { gate: Some(self.clone()), kind: Kind::Request });
            }
            let before = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
            let expected_s = state.pace_s * f64::from(before.saturating_add(1));
            if before >= limits.queue || expected_s > limits.queue_wait.as_secs_f64() * QUEUE_SHARE {
                return Err(Refused::Overloaded);
            }
            let (sender, turn) = oneshot::channel();
            state.waiting.push_back(sender);
            turn
        };
        // Who stops waiting drops the receiver, and is passed over.
        match timeout(limits.queue_wait, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Refused::Overloaded),
        }
    }

    /// A request has ended: the first who still waits has its place.
    fn leave(self: &Arc<Self>) {
        let now = self.started.elapsed();
        let mut state = lock(&self.state);
        if let Some(departed_at) = state.departed_at.replace(now)
            && !state.waiting.is_empty()
        {
            let gap_s = now.saturating_sub(departed_at).as_secs_f64();
            state.pace_s =
                if state.pace_s == 0.0 { gap_s } else { state.pace_s + (gap_s - state.pace_s) * PACE_WEIGHT };
        }
        while let Some(next) = state.waiting.pop_front() {
            match next.send(Permit { gate: Some(self.clone()), kind: Kind::Request }) {
                Ok(()) => return,
                Err(mut unclaimed) => unclaimed.gate = None,
            }
        }
        state.running -= 1;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Connection,
}

/// A place at an instance, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    /// `None` once the place is somebody else's.
    gate: Option<Arc<Gate>>,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        match (self.gate.take(), self.kind) {
            (Some(gate), Kind::Request) => gate.leave(),
            (Some(gate), Kind::Connection) => lock(&gate.state).connections -= 1,
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(calls: u32, queue: u32) -> Limits {
        Limits { instance_concurrency: Some(calls), queue, queue_wait: Duration::from_millis(100), ..Limits::default() }
    }

    fn id() -> ServiceId {
        ServiceId::parse("web").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_beyond_the_limit_waits_for_a_place_and_who_is_beyond_the_queue_is_refused_at_once() {
        let (admission, limits) = (Admission::default(), limits(1, 1));
        let id = id();
        let first = admission.request(&id, None, &limits).await.unwrap();
        let mut second = Box::pin(admission.request(&id, None, &limits));
        assert!(futures_poll(&mut second).await.is_none(), "it waits");
        assert_eq!(admission.request(&id, None, &limits).await.unwrap_err(), Refused::Overloaded);
        drop(first);
        assert!(second.await.unwrap().is_some());
        assert!(admission.request(&id, None, &limits).await.unwrap().is_some(), "all places are free again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_no_place_with_it() {
        let (admission, limits) = (Admission::default(), limits(1, 8));
        let id = id();
        let first = admission.request(&id, None, &limits).await.unwrap();
        let mut gone = Box::pin(admission.request(&id, None, &limits));
        assert!(futures_poll(&mut gone).await.is_none());
        drop(gone);
        assert_eq!(
            admission.request(&id, None, &limits).await.unwrap_err(),
            Refused::Overloaded,
            "in vain, for 100 ms"
        );
        drop(first);
        let again = admission.request(&id, None, &limits).await.unwrap();
        assert!(again.is_some());
    }

    #[test]
    fn connections_are_counted_apart_and_never_wait() {
        let admission = Admission::default();
        let limits = Limits { connections: Some(2), ..Limits::default() };
        let held: Vec<_> = (0..2).map(|_| admission.connection(&id(), None, &limits).unwrap()).collect();
        assert_eq!(admission.connection(&id(), None, &limits).unwrap_err(), Refused::Overloaded);
        drop(held);
        assert!(admission.connection(&id(), None, &limits).is_ok());
    }

    #[test]
    fn one_caller_that_calls_too_often_leaves_the_others_alone() {
        let admission = Admission::default();
        let limits = Limits { caller_rate_per_second: Some(1), caller_burst: 2, ..Limits::default() };
        let (web, api) = (ServiceName::parse("web").unwrap(), ServiceName::parse("api").unwrap());
        let call = |caller: &ServiceName| admission.connection(&id(), Some(caller), &limits).err();
        let refused = (0..10).filter(|_| call(&web) == Some(Refused::RateLimited)).count();
        assert!((7..=8).contains(&refused), "{refused}");
        assert_eq!(call(&api), None);
    }

    /// What the future says when it is polled once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
