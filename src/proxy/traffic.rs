//! What was carried, edge by edge: from one host to one instance of a service. Workers write with relaxed atomics through
//! cells that they keep at hand; `/metrics` and the API read [`Registry::snapshot`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::authorize::Denials;
use super::pressure::{Ejections, Pressures};
use crate::model::{BUCKET_BOUNDS_US, Direction, Edge, Protocol, Traffic};

/// Edges kept at most. Beyond it those that nobody holds any more are let go, and if none is, calls of new edges are
/// counted together, without caller and instance.
const EDGES_MAX: usize = 10_000;
const BUCKETS: usize = BUCKET_BOUNDS_US.len() + 1;

/// Which edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub direction: Direction,
    pub caller: String,
    /// The service that calls, of calls of other hosts.
    pub caller_service: String,
    pub node: String,
    pub service: String,
    pub instance: String,
    pub protocol: Protocol,
}

/// The counts of one edge.
#[derive(Debug, Default)]
pub(super) struct Cells {
    codes: [AtomicU64; 6],
    started: AtomicU64,
    ended: AtomicU64,
    retries: AtomicU64,
    latency: [AtomicU64; BUCKETS],
    latency_sum_us: AtomicU64,
    ewma_us: AtomicU64,
    /// Milliseconds of the registry's clock.
    ejected_until_ms: AtomicU64,
}

fn bump(cell: &AtomicU64) {
    cell.fetch_add(1, Ordering::Relaxed);
}

impl Cells {
    /// A call begins.
    pub(super) fn begin(&self) {
        bump(&self.started);
    }

    /// A call has ended: by a response of that class (1 to 5), or without one (0).
    pub(super) fn end(&self, class: u16) {
        bump(&self.codes[usize::from(class).min(5)]);
        bump(&self.ended);
    }

    /// The call goes elsewhere; here it neither failed nor succeeded.
    pub(super) fn retry(&self) {
        bump(&self.retries);
        bump(&self.ended);
    }

    /// The response's head has come, or the connection was accepted.
    pub(super) fn answered(&self, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_BOUNDS_US.partition_point(|bound| *bound < latency_us);
        bump(&self.latency[bucket]);
        self.latency_sum_us.fetch_add(latency_us, Ordering::Relaxed);
    }

    /// The average by which this worker chooses; the last worker's word stands.
    pub(super) fn set_ewma(&self, ewma_us: f64) {
        // Averages are below 10^9 and never negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.ewma_us.store(ewma_us as u64, Ordering::Relaxed);
    }
}

/// Every edge since the agent's start.
#[derive(Debug)]
pub struct Registry {
    pub(super) pressures: Pressures,
    pub(super) ejections: Ejections,
    edges: Mutex<HashMap<Key, Arc<Cells>>>,
    failures: Mutex<HashMap<(String, &'static str), u64>>,
    pub(super) denials: Denials,
    since: Instant,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            pressures: Pressures::default(),
            ejections: Ejections::default(),
            edges: Mutex::default(),
            failures: Mutex::default(),
            denials: Denials::default(),
            since: Instant::now(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Calls that intentions did not let through here: caller, service and how many.
    pub fn denied(&self) -> Vec<(String, String, u64)> {
        self.denials.all()
    }

    /// The cells of an edge. To be kept, not asked for with each call.
    pub(super) fn cells(&self, key: Key) -> Arc<Cells> {
        let mut edges = lock(&self.edges);
        if let Some(cells) = edges.get(&key) {
            return cells.clone();
        }
        if edges.len() >= EDGES_MAX {
            edges.retain(|_, cells| Arc::strong_count(cells) > 1);
        }
        let key = if edges.len() >= EDGES_MAX {
            Key {
                caller: String::new(),
                caller_service: String::new(),
                node: String::new(),
                instance: String::new(),
                ..key
            }
        } else {
            key
        };
        edges.entry(key).or_default().clone()
    }

    /// A request was answered by Weft itself. Rare, so it may take a lock.
    pub(super) fn failed(&self, service: &str, reason: &'static str) {
        let mut failures = lock(&self.failures);
        if failures.len() < EDGES_MAX {
            *failures.entry((service.to_owned(), reason)).or_default() += 1;
        }
    }

    /// Requests that Weft answered itself, by service and reason.
    pub fn failures(&self) -> Vec<((String, &'static str), u64)> {
        let mut failures: Vec<_> = lock(&self.failures).iter().map(|(key, count)| (key.clone(), *count)).collect();
        failures.sort();
        failures
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The instance of these cells is ejected for so long; for no time: it is back.
    pub(super) fn ejected(&self, cells: &Cells, ejected_for: Duration) {
        let ejected_for_ms = u64::try_from(ejected_for.as_millis()).unwrap_or(u64::MAX);
        let until_ms = if ejected_for_ms == 0 { 0 } else { self.now_ms().saturating_add(ejected_for_ms) };
        cells.ejected_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// All of it, in the order of callers, services and instances.
    pub fn snapshot(&self) -> Traffic {
        let mut edges: Vec<(Key, Arc<Cells>)> =
            lock(&self.edges).iter().map(|(key, cells)| (key.clone(), cells.clone())).collect();
        edges.sort_by(|a, b| a.0.cmp(&b.0));
        let now_ms = self.now_ms();
        let edges = edges.into_iter().map(|(key, cells)| edge(key, &cells, now_ms)).collect();
        let (ejections, returns) = self.ejections.counts();
        let seconds = self.since.elapsed().as_secs_f64();
        Traffic { seconds, edges, pressures: self.pressures.all(), ejections, returns }
    }
}

fn edge(key: Key, cells: &Cells, now_ms: u64) -> Edge {
    let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let ended = read(&cells.ended);
    Edge {
        direction: key.direction,
        caller: key.caller,
        caller_service: key.caller_service,
        node: key.node,
        service: key.service,
        instance: key.instance,
        protocol: key.protocol.as_str().to_owned(),
        codes: std::array::from_fn(|class| read(&cells.codes[class])),
        in_flight: read(&cells.started).saturating_sub(ended),
        retries: read(&cells.retries),
        latency: std::array::from_fn(|bucket| read(&cells.latency[bucket])),
        latency_sum_us: read(&cells.latency_sum_us),
        ewma_us: read(&cells.ewma_us),
        ejected_for_ms: read(&cells.ejected_until_ms).saturating_sub(now_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(instance: &str) -> Key {
        Key {
            direction: Direction::Out,
            caller: "a".into(),
            caller_service: String::new(),
            node: "b".into(),
            service: "web".into(),
            instance: instance.into(),
            protocol: Protocol::Http,
        }
    }

    #[test]
    fn a_call_is_in_flight_until_it_ends_and_counts_once() {
        let registry = Registry::default();
        let cells = registry.cells(key("web"));
        cells.begin();
        assert_eq!(registry.snapshot().edges[0].in_flight, 1);
        cells.answered(Duration::from_micros(300));
        cells.end(2);
        let edge = registry.snapshot().edges.remove(0);
        assert_eq!((edge.in_flight, edge.codes[2], edge.latency[1]), (0, 1, 1));
    }

    #[test]
    fn the_number_of_edges_is_bounded_and_no_call_goes_uncounted() {
        let registry = Registry::default();
        let held: Vec<_> = (0..EDGES_MAX).map(|number| registry.cells(key(&number.to_string()))).collect();
        let beyond = registry.cells(key("beyond"));
        beyond.begin();
        beyond.end(5);
        let counted = registry.snapshot().edges.iter().map(|edge| edge.codes[5]).sum::<u64>();
        assert_eq!((counted, registry.snapshot().edges.len()), (1, EDGES_MAX + 1));
        drop((held, beyond));
        registry.cells(key("new"));
        assert_eq!(registry.snapshot().edges.len(), 1, "edges that nobody holds make room");
    }
}
