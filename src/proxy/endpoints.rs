//! The instances that calls can go to, with what this worker knows of each: calls under way, how fast it answers. The
//! list of a service is made anew when the directory's has changed. Belongs to one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::traffic::{Cells, Key, Registry};
use crate::model::{Direction, Directory, Instance, Node, NodeId, Service, ServiceId, ServiceName, Tag};
use crate::route::{self, PeakEwma};

/// What this worker knows of one instance.
pub(super) struct Stats {
    open: Cell<u64>,
    ewma: Cell<PeakEwma>,
    /// Until when it is spared calls, by [`Endpoints`]' time, because one has failed.
    avoided_until: Cell<Duration>,
    pub(super) cells: Arc<Cells>,
}

/// One instance and its host.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) node: Arc<Node>,
    pub(super) instance: Arc<Instance>,
    pub(super) stats: Rc<Stats>,
}

/// By what candidates are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Calls under way: a connection's length says nothing of its instance's speed.
    Open,
    /// Peak EWMA of latencies, times calls under way.
    Latency,
}

struct List {
    /// What it was made of.
    service: Arc<Service>,
    usable: Rc<[Endpoint]>,
    /// Healthy, but on hosts whose mesh port does not answer.
    unreached: Rc<[Endpoint]>,
}

type ListKey = (ServiceName, Option<Tag>);

pub(super) struct Endpoints {
    traffic: Arc<Registry>,
    /// The zero of EWMA times.
    started: Instant,
    stats: RefCell<HashMap<(NodeId, ServiceId), Rc<Stats>>>,
    lists: RefCell<HashMap<ListKey, List>>,
}

impl Endpoints {
    pub(super) fn new(traffic: Arc<Registry>) -> Endpoints {
        Endpoints { traffic, started: Instant::now(), stats: RefCell::default(), lists: RefCell::default() }
    }

    /// Chooses an instance of a service for one call, none of those that were tried. Where nobody answers, as far as this
    /// host knows, it is as well to ask.
    pub(super) fn choose(
        &self,
        directory: &Directory,
        service: &Arc<Service>,
        tag: Option<&Tag>,
        measure: Measure,
        tried: &[(NodeId, ServiceId)],
        rng: &mut impl rand::Rng,
    ) -> Option<Endpoint> {
        let (usable, unreached) = self.list(directory, service, tag);
        self.choose_of(&usable, measure, tried, rng).or_else(|| self.choose_of(&unreached, measure, tried, rng))
    }

    fn choose_of(
        &self,
        list: &Rc<[Endpoint]>,
        measure: Measure,
        tried: &[(NodeId, ServiceId)],
        rng: &mut impl rand::Rng,
    ) -> Option<Endpoint> {
        if tried.is_empty() {
            return self.index_of(list.len(), measure, |index| &list[index], rng).map(|index| list[index].clone());
        }
        let fresh = |endpoint: &&Endpoint| {
            !tried.iter().any(|(node, id)| *node == endpoint.node.id && *id == endpoint.instance.id)
        };
        let left: Vec<&Endpoint> = list.iter().filter(fresh).collect();
        self.index_of(left.len(), measure, |index| left[index], rng).map(|index| left[index].clone())
    }

    fn index_of<'a>(
        &self,
        count: usize,
        measure: Measure,
        at: impl Fn(usize) -> &'a Endpoint,
        rng: &mut impl rand::Rng,
    ) -> Option<usize> {
        if measure == Measure::Open {
            return route::choose(count, |index| at(index).stats.open.get(), rng);
        }
        let now = self.started.elapsed();
        let load = |index: usize| {
            let stats = &at(index).stats;
            if stats.avoided_until.get() > now { f64::INFINITY } else { stats.ewma.get().load(now, stats.open.get()) }
        };
        route::choose_by_estimate(count, load, rng)
    }

    fn list(
        &self,
        directory: &Directory,
        service: &Arc<Service>,
        tag: Option<&Tag>,
    ) -> (Rc<[Endpoint]>, Rc<[Endpoint]>) {
        let key = (service.name.clone(), tag.cloned());
        let mut lists = self.lists.borrow_mut();
        // The directory keeps what has not changed in place.
        if let Some(list) = lists.get(&key).filter(|list| Arc::ptr_eq(&list.service, service)) {
            return (list.usable.clone(), list.unreached.clone());
        }
        let caller = directory.nodes.get(&directory.local).map_or("", |node| node.facts.name.as_str());
        let endpoint = |node: &Arc<Node>, instance: &Arc<Instance>| Endpoint {
            node: node.clone(),
            instance: instance.clone(),
            stats: self.stats_of(caller, service, node, instance),
        };
        // Calls of what counts as `tcp` are bytes that nobody reads on the way. An instance that speaks HTTP is sent none,
        // whatever other hosts say of its service: it believes what requests say of who calls.
        let is_fit = |instance: &Instance| service.protocol.is_http() || !instance.protocol.is_http();
        let usable = service.candidates(tag).filter(|(_, instance)| is_fit(instance));
        let usable: Rc<[Endpoint]> = usable.map(|(node, instance)| endpoint(node, instance)).collect();
        let unreached = service.healthy(tag).filter(|(node, instance)| !node.is_candidate() && is_fit(instance));
        let unreached: Rc<[Endpoint]> = unreached.map(|(node, instance)| endpoint(node, instance)).collect();
        lists.insert(key, List { service: service.clone(), usable: usable.clone(), unreached: unreached.clone() });
        (usable, unreached)
    }

    fn stats_of(&self, caller: &str, service: &Service, node: &Node, instance: &Instance) -> Rc<Stats> {
        let mut stats = self.stats.borrow_mut();
        let make = || {
            let key = Key {
                direction: Direction::Out,
                caller: caller.to_owned(),
                caller_service: String::new(),
                node: node.facts.name.to_string(),
                service: service.name.to_string(),
                instance: instance.id.to_string(),
                protocol: service.protocol,
            };
            Rc::new(Stats {
                open: Cell::new(0),
                ewma: Cell::default(),
                avoided_until: Cell::default(),
                cells: self.traffic.cells(key),
            })
        };
        stats.entry((node.id, instance.id.clone())).or_insert_with(make).clone()
    }

    /// Takes down how long an instance took to answer.
    pub(super) fn observe(&self, endpoint: &Endpoint, latency: Duration) {
        let mut ewma = endpoint.stats.ewma.get();
        ewma.observe(self.started.elapsed(), latency);
        endpoint.stats.ewma.set(ewma);
        endpoint.stats.cells.set_ewma(ewma.value_us(self.started.elapsed()));
    }

    /// Spares an instance calls for a moment, because one has failed.
    pub(super) fn avoid(&self, endpoint: &Endpoint) {
        endpoint.stats.avoided_until.set(self.started.elapsed() + route::AVOIDANCE);
    }

    /// Lets go of services and instances that are no more.
    pub(super) fn prune(&self, directory: &Directory) {
        self.lists.borrow_mut().retain(|(name, _), list| {
            directory.services.get(name).is_some_and(|service| Arc::ptr_eq(service, &list.service))
        });
        // One is the map's own; a list or a call under way holds another.
        self.stats.borrow_mut().retain(|_, stats| Rc::strong_count(stats) > 1);
    }
}

impl Endpoint {
    /// Counts a call as under way until the guard is dropped.
    pub(super) fn enter(&self) -> OpenGuard {
        self.stats.open.set(self.stats.open.get() + 1);
        OpenGuard(self.stats.clone())
    }

    /// What tells it from others.
    pub(super) fn key(&self) -> (NodeId, ServiceId) {
        (self.node.id, self.instance.id.clone())
    }
}

pub(super) struct OpenGuard(Rc<Stats>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
