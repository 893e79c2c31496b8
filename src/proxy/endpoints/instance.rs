//! What one worker knows of one instance: calls under way, how fast it answers, whether it is ejected.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Instance, Node, NodeId, Outlier, ServiceId};
use crate::proxy::traffic::Cells;
use crate::route::{self, PeakEwma, Standing, Track};

/// Times are those of [`super::Endpoints`].
pub(in crate::proxy) struct Stats {
    pub(super) open: Cell<u64>,
    ewma: Cell<PeakEwma>,
    /// Until when it is spared calls, because one has failed.
    avoided_until: Cell<Duration>,
    track: Cell<Track>,
    /// Since when calls can go there, for a slow start.
    appeared_at: Duration,
    pub(in crate::proxy) cells: Arc<Cells>,
}

impl Stats {
    pub(super) fn new(now: Duration, cells: Arc<Cells>) -> Rc<Stats> {
        Rc::new(Stats {
            open: Cell::new(0),
            ewma: Cell::default(),
            avoided_until: Cell::default(),
            track: Cell::default(),
            appeared_at: now,
            cells,
        })
    }

    /// For choosing by calls under way.
    pub(super) fn open_load(&self, now: Duration) -> f64 {
        // Below 2^52 calls the conversion is exact.
        if self.is_avoided(now) { f64::INFINITY } else { self.open.get() as f64 }
    }

    /// For choosing by latency.
    pub(super) fn latency_load(&self, now: Duration) -> f64 {
        if self.is_avoided(now) { f64::INFINITY } else { self.ewma.get().load(now, self.open.get()) }
    }

    fn is_avoided(&self, now: Duration) -> bool {
        self.avoided_until.get() > now
    }

    /// How much of its share it gets, from 0 to 1.
    pub(super) fn ramp(&self, now: Duration, slow_start: Duration) -> f64 {
        route::ramp(now.saturating_sub(self.appeared_at), slow_start)
    }

    pub(super) fn standing(&self, now: Duration) -> Standing {
        self.track.get().standing(now)
    }

    /// True if the call that goes there now is the one that decides whether it is back.
    pub(super) fn begin_probe_if_due(&self, now: Duration) -> bool {
        let mut track = self.track.get();
        let is_due = matches!(track.standing(now), Standing::Due);
        if is_due {
            track.begin_probe(now);
            self.track.set(track);
        }
        is_due
    }

    /// It answered, and well. True if it was on probation, and is back.
    pub(super) fn succeeded(&self, now: Duration, latency: Duration) -> bool {
        self.observe(now, latency);
        let mut track = self.track.get();
        let was_out = !matches!(track.standing(now), Standing::In);
        track.succeeded(now);
        self.track.set(track);
        was_out && matches!(track.standing(now), Standing::In)
    }

    /// It failed a call. True if it is to be ejected, where there are enough others.
    pub(super) fn failed(&self, now: Duration, policy: &Outlier) -> bool {
        let mut track = self.track.get();
        let is_to_go = track.failed(now, policy);
        self.track.set(track);
        is_to_go
    }

    /// Takes it out. Returns how long for.
    pub(super) fn eject(&self, now: Duration, policy: &Outlier) -> Duration {
        let mut track = self.track.get();
        track.eject(now, policy);
        self.track.set(track);
        match track.standing(now) {
            Standing::Ejected { until } => until.saturating_sub(now),
            Standing::In | Standing::Due | Standing::Probing => Duration::ZERO,
        }
    }

    /// Successes and requests since the last time it was asked.
    pub(super) fn interval_counts(&self) -> (u32, u32) {
        let mut track = self.track.get();
        let counts = track.interval_counts();
        self.track.set(track);
        counts
    }

    /// Takes down how long it took to answer.
    pub(super) fn observe(&self, now: Duration, latency: Duration) {
        self.change_ewma(now, |ewma| ewma.observe(now, latency));
    }

    /// It answered that it cannot, which may be quick and is no speed.
    pub(super) fn penalize(&self, now: Duration, latency: Duration) {
        self.change_ewma(now, |ewma| ewma.penalize(now, latency));
    }

    /// Nobody waited for its answer any longer: it takes at least so long.
    pub(super) fn given_up_after(&self, now: Duration, waited: Duration) {
        if self.is_slow_for(now, waited) {
            self.observe(now, waited);
        }
    }

    pub(super) fn average_us(&self, now: Duration) -> f64 {
        self.ewma.get().value_us(now)
    }

    pub(super) fn is_slow_for(&self, now: Duration, waited: Duration) -> bool {
        waited.as_secs_f64() * 1e6 > self.ewma.get().value_us(now)
    }

    fn change_ewma(&self, now: Duration, change: impl FnOnce(&mut PeakEwma)) {
        let mut ewma = self.ewma.get();
        change(&mut ewma);
        self.ewma.set(ewma);
        self.cells.set_ewma(ewma.value_us(now));
    }

    /// Spares it calls for a moment, because one has failed.
    pub(super) fn avoid(&self, now: Duration) {
        self.avoided_until.set(now + route::AVOIDANCE);
    }
}

/// One instance and its host.
#[derive(Clone)]
pub(in crate::proxy) struct Endpoint {
    pub(in crate::proxy) node: Arc<Node>,
    pub(in crate::proxy) instance: Arc<Instance>,
    pub(in crate::proxy) stats: Rc<Stats>,
}

impl Endpoint {
    /// Counts a call as under way until the guard is dropped.
    pub(in crate::proxy) fn enter(&self) -> OpenGuard {
        self.stats.open.set(self.stats.open.get() + 1);
        OpenGuard(self.stats.clone())
    }

    /// What tells it from others.
    pub(in crate::proxy) fn key(&self) -> (NodeId, ServiceId) {
        (self.node.id, self.instance.id.clone())
    }

    /// True if it is one of these.
    pub(super) fn is_among(&self, tried: &[(NodeId, ServiceId)]) -> bool {
        tried.iter().any(|(node, id)| *node == self.node.id && *id == self.instance.id)
    }
}

pub(in crate::proxy) struct OpenGuard(Rc<Stats>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
