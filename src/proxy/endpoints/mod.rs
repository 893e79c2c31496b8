//! The instances that calls can go to, with what this worker knows of each. Belongs to one worker: workers see different
//! calls and judge by what they see.

mod instance;
mod list;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info};

use super::Event;
use super::traffic::{Key, Registry};
use crate::model::{
    Algorithm, Direction, Directory, Instance, Node, NodeId, Service, ServiceId, ServiceName, Subset, Tag,
    TrafficPolicy,
};
use crate::route::{self, Ring, RoundRobin, Standing};
use instance::Stats;
pub(super) use instance::{Endpoint, OpenGuard};
use list::List;

/// An application that leaves earlier says nothing of the instance.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// Nor does one that leaves before the instance has taken so many times what others take at their peaks.
const PATIENCE_TIMES: f64 = 2.0;

/// By what candidates are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Calls under way: a connection's length says nothing of its instance's speed.
    Open,
    /// Peak EWMA of latencies, times calls under way.
    Latency,
}

/// Which part of a service's instances, as its policy has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    All,
    /// That of a share of the split.
    Share(usize),
    /// That of a route.
    Route(usize),
}

/// What an instance is chosen for.
pub(super) struct Wanted<'a> {
    pub(super) service: &'a Arc<Service>,
    pub(super) policy: &'a Arc<TrafficPolicy>,
    pub(super) tag: Option<&'a Tag>,
    /// The policy that `part` counts in: that of the service that was called, which a route may have left.
    pub(super) parts_of: &'a Arc<TrafficPolicy>,
    pub(super) part: Part,
    pub(super) measure: Measure,
    /// What the call is known by, where like goes to like.
    pub(super) hash: Option<u64>,
}

impl Wanted<'_> {
    fn subset(&self) -> Option<&Subset> {
        match self.part {
            Part::All => None,
            Part::Share(index) => self.parts_of.split.get(index).map(|share| &share.subset),
            Part::Route(index) => self.parts_of.routes.get(index)?.subset.as_ref(),
        }
    }
}

/// The number tells policies with parts apart: where they are in memory, which their lists keep them.
type ListKey = (ServiceName, Option<Tag>, usize, Part);

/// What this worker knows of a service as a whole.
struct Group {
    policy: Arc<TrafficPolicy>,
    members: Vec<Endpoint>,
    /// Some may be ejected.
    has_ejected: Cell<bool>,
    judged_at: Duration,
}

impl Group {
    /// How long the median of the other instances takes; `None` if there is no other.
    fn usual_us(&self, endpoint: &Endpoint, now: Duration) -> Option<f64> {
        let others = self.members.iter().filter(|each| !Rc::ptr_eq(&each.stats, &endpoint.stats));
        let mut all: Vec<f64> = others.map(|each| each.stats.average_us(now)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }
}

pub(super) struct Endpoints {
    traffic: Arc<Registry>,
    events: mpsc::Sender<Event>,
    /// The zero of times.
    started: Instant,
    stats: RefCell<HashMap<(NodeId, ServiceId), Rc<Stats>>>,
    lists: RefCell<HashMap<ListKey, Rc<List>>>,
    groups: RefCell<HashMap<ServiceName, Group>>,
}

impl Endpoints {
    pub(super) fn new(traffic: Arc<Registry>, events: mpsc::Sender<Event>) -> Endpoints {
        Endpoints {
            traffic,
            events,
            started: Instant::now(),
            stats: RefCell::default(),
            lists: RefCell::default(),
            groups: RefCell::default(),
        }
    }

    /// Chooses an instance for one call, none of those that were tried. A part of which nobody takes calls is stood in for by
    /// the whole service.
    pub(super) fn choose(
        &self,
        directory: &Directory,
        wanted: &Wanted<'_>,
        tried: &[(NodeId, ServiceId)],
        rng: &mut impl rand::Rng,
    ) -> Option<Endpoint> {
        let now = self.started.elapsed();
        let list = self.list(directory, wanted);
        let has_ejected = self.groups.borrow().get(&wanted.service.name).is_some_and(|group| group.has_ejected.get());
        let endpoint = match list.pick(wanted, (tried, has_ejected), now, rng) {
            Some(endpoint) => endpoint.clone(),
            None if wanted.part != Part::All => {
                return self.choose(directory, &Wanted { part: Part::All, ..*wanted }, tried, rng);
            }
            None => return None,
        };
        if has_ejected && endpoint.stats.begin_probe_if_due(now) {
            debug!(service = %wanted.service.name, instance = %endpoint.instance.id, "an ejected instance is tried");
        }
        Some(endpoint)
    }

    fn list(&self, directory: &Directory, wanted: &Wanted<'_>) -> Rc<List> {
        let service = wanted.service;
        let parts_of = if wanted.part == Part::All { 0 } else { Arc::as_ptr(wanted.parts_of).addr() };
        let key = (service.name.clone(), wanted.tag.cloned(), parts_of, wanted.part);
        // The directory keeps what has not changed in place.
        let is_current = |list: &List| Arc::ptr_eq(&list.service, service) && Arc::ptr_eq(&list.policy, wanted.policy);
        if let Some(list) = self.lists.borrow().get(&key).filter(|list| is_current(list)) {
            return list.clone();
        }
        self.note_group(directory, service, wanted.policy);
        let list = Rc::new(self.make_list(directory, wanted));
        self.lists.borrow_mut().insert(key, list.clone());
        list
    }

    fn make_list(&self, directory: &Directory, wanted: &Wanted<'_>) -> List {
        let (service, policy, tag) = (wanted.service, wanted.policy, wanted.tag);
        let local = directory.nodes.get(&directory.local);
        let zone = local.map_or("", |node| node.facts.zone.as_str());
        let is_zoned = policy.balance.zone_first && !zone.is_empty();
        let is_part = |node: &Node, instance: &Instance| {
            // Bytes are not carried to what reads requests: it would believe whatever they say of the caller.
            let is_carried = service.protocol.is_http() || !instance.protocol.is_http();
            is_carried && wanted.subset().is_none_or(|subset| subset.has(&node.facts, instance))
        };
        let is_near = |node: &Node| !is_zoned || node.facts.zone == zone;
        let endpoint =
            |(node, instance): &(Arc<Node>, Arc<Instance>)| self.endpoint(directory, service, node, instance);
        let candidates = service.candidates(tag).filter(|(node, instance)| is_part(node, instance));
        let mut usable: Vec<(Endpoint, u16)> = candidates
            .map(|placed| (endpoint(placed), placed.1.weights.at(Service::health(&placed.0, &placed.1))))
            .collect();
        // Who is given no weight gets calls only where nobody is given any.
        if usable.iter().any(|(_, weight)| *weight > 0) {
            usable.retain(|(_, weight)| *weight > 0);
        } else {
            usable.iter_mut().for_each(|(_, weight)| *weight = 1);
        }
        usable.sort_by_key(|(endpoint, _)| !is_near(&endpoint.node));
        let near = usable.iter().filter(|(endpoint, _)| is_near(&endpoint.node)).count();
        let has_tag = |instance: &Instance| tag.is_none_or(|tag| instance.tags.contains(tag));
        let of_zone = service.instances.iter().filter(|(node, instance)| {
            is_near(node) && instance.port != 0 && has_tag(instance) && is_part(node, instance)
        });
        let unreached = service.healthy(tag).filter(|(node, instance)| !node.is_candidate() && is_part(node, instance));
        let (usable, weights): (Vec<Endpoint>, Vec<u16>) = usable.into_iter().unzip();
        let ring = matches!(policy.balance.algorithm, Algorithm::RingHash(_)).then(|| {
            let members: Vec<(String, u32)> = usable
                .iter()
                .zip(&weights)
                .map(|(endpoint, weight)| {
                    (format!("{}/{}", endpoint.node.id, endpoint.instance.id), u32::from(*weight))
                })
                .collect();
            Ring::new(&members)
        });
        List {
            service: service.clone(),
            policy: policy.clone(),
            _parts_of: wanted.parts_of.clone(),
            near,
            near_total: of_zone.count(),
            unreached: unreached.map(endpoint).collect(),
            usable,
            is_even: weights.windows(2).all(|pair| pair[0] == pair[1]),
            weights,
            ring,
            turns: RefCell::new(RoundRobin::default()),
        }
    }

    /// The service or its policy is another: who can be ejected, and by which rules.
    fn note_group(&self, directory: &Directory, service: &Arc<Service>, policy: &Arc<TrafficPolicy>) {
        let members =
            service.candidates(None).map(|(node, instance)| self.endpoint(directory, service, node, instance));
        let members: Vec<Endpoint> = members.collect();
        let mut groups = self.groups.borrow_mut();
        let now = self.started.elapsed();
        let group = groups.entry(service.name.clone()).or_insert_with(|| Group {
            policy: policy.clone(),
            members: Vec::new(),
            has_ejected: Cell::new(false),
            judged_at: now,
        });
        group.policy = policy.clone();
        group.members = members;
    }

    fn endpoint(
        &self,
        directory: &Directory,
        service: &Service,
        node: &Arc<Node>,
        instance: &Arc<Instance>,
    ) -> Endpoint {
        let make = || {
            let caller = directory.nodes.get(&directory.local).map_or("", |node| node.facts.name.as_str());
            let key = Key {
                direction: Direction::Out,
                caller: caller.to_owned(),
                caller_service: String::new(),
                node: node.facts.name.to_string(),
                service: service.name.to_string(),
                instance: instance.id.to_string(),
                protocol: service.protocol,
            };
            Stats::new(self.started.elapsed(), self.traffic.cells(key))
        };
        let stats = self.stats.borrow_mut().entry((node.id, instance.id.clone())).or_insert_with(make).clone();
        Endpoint { node: node.clone(), instance: instance.clone(), stats }
    }

    /// An instance answered, and well.
    pub(super) fn succeeded(&self, endpoint: &Endpoint, latency: Duration) {
        if endpoint.stats.succeeded(self.started.elapsed(), latency) {
            info!(
                service = %endpoint.instance.service, node = %endpoint.node.facts.name, instance = %endpoint.instance.id,
                "an ejected instance answers again and is back"
            );
            self.traffic.ejected(&endpoint.stats.cells, Duration::ZERO);
            self.traffic.ejections.returned();
            self.tell(
                |node, instance| Event::Returned { node, instance, service: endpoint.instance.service.clone() },
                endpoint,
            );
        }
    }

    /// An instance failed a call: it broke off, did not answer in time, or answered with an error of its own (`answered`: after
    /// how long). After some in a row it is ejected.
    pub(super) fn failed(&self, endpoint: &Endpoint, policy: &TrafficPolicy, answered: Option<Duration>) {
        let now = self.started.elapsed();
        match answered {
            Some(latency) => endpoint.stats.penalize(now, latency),
            None => endpoint.stats.avoid(now),
        }
        if endpoint.stats.failed(now, &policy.outlier) {
            self.eject(endpoint, now, "it failed several calls in a row");
        }
    }

    /// An instance could not take a call, which says nothing of its health.
    pub(super) fn avoid(&self, endpoint: &Endpoint) {
        endpoint.stats.avoid(self.started.elapsed());
    }

    /// An instance asked for fewer calls.
    pub(super) fn penalize(&self, endpoint: &Endpoint, latency: Duration) {
        endpoint.stats.penalize(self.started.elapsed(), latency);
    }

    /// The application did not wait for the answer any longer. Where it waited much longer than the other instances take, that
    /// counts as a failure: an instance that has turned so slow that callers leave never answers any of them.
    pub(super) fn given_up(&self, endpoint: &Endpoint, waited: Duration) {
        let now = self.started.elapsed();
        endpoint.stats.given_up_after(now, waited);
        let is_to_go = {
            let groups = self.groups.borrow();
            let Some(group) = groups.get(&endpoint.instance.service) else { return };
            let usual_us = group.usual_us(endpoint, now);
            let is_patient = usual_us.is_some_and(|usual_us| waited.as_secs_f64() * 1e6 > PATIENCE_TIMES * usual_us);
            waited >= PATIENCE_MIN && is_patient && endpoint.stats.failed(now, &group.policy.outlier)
        };
        if is_to_go {
            self.eject(endpoint, now, "callers gave up waiting for it several times in a row");
        }
    }

    /// True if an instance has taken longer for a call than it takes on average.
    pub(super) fn is_slow_for(&self, endpoint: &Endpoint, waited: Duration) -> bool {
        endpoint.stats.is_slow_for(self.started.elapsed(), waited)
    }

    fn eject(&self, endpoint: &Endpoint, now: Duration, why: &'static str) {
        let groups = self.groups.borrow();
        let Some(group) = groups.get(&endpoint.instance.service) else { return };
        let outlier = &group.policy.outlier;
        let is_out = |each: &&Endpoint| {
            !Rc::ptr_eq(&each.stats, &endpoint.stats) && !matches!(each.stats.standing(now), Standing::In)
        };
        let out = group.members.iter().filter(is_out).count();
        // Who fails on probation is out already.
        let is_new = matches!(endpoint.stats.standing(now), Standing::In);
        if is_new && !route::may_eject(group.members.len(), out, outlier) {
            debug!(instance = %endpoint.instance.id, "not ejected: too many are already");
            return;
        }
        let ejected_for = endpoint.stats.eject(now, outlier);
        group.has_ejected.set(true);
        info!(
            service = %endpoint.instance.service, node = %endpoint.node.facts.name, instance = %endpoint.instance.id,
            seconds = ejected_for.as_secs(), why, "an instance is ejected: it gets no calls of this worker for a while"
        );
        self.traffic.ejected(&endpoint.stats.cells, ejected_for);
        self.traffic.ejections.ejected();
        let service = endpoint.instance.service.clone();
        let until = SystemTime::now() + ejected_for;
        self.tell(|node, instance| Event::Ejected { node, service, instance, until, why: why.to_owned() }, endpoint);
    }

    fn tell(&self, event: impl FnOnce(NodeId, ServiceId) -> Event, endpoint: &Endpoint) {
        // A full queue holds other news; what is lost here is only told later or not at all, never acted on.
        let _ = self.events.try_send(event(endpoint.node.id, endpoint.instance.id.clone()));
    }

    /// Ejects who succeeds much less often than the others, and forgets about ejections that are over.
    pub(super) fn judge(&self) {
        let now = self.started.elapsed();
        let mut to_go = Vec::new();
        for group in self.groups.borrow_mut().values_mut() {
            if group.has_ejected.get() {
                let all_in = group.members.iter().all(|each| matches!(each.stats.standing(now), Standing::In));
                group.has_ejected.set(!all_in);
            }
            if now.saturating_sub(group.judged_at) < group.policy.outlier.interval {
                continue;
            }
            group.judged_at = now;
            let counts: Vec<(u32, u32)> = group.members.iter().map(|each| each.stats.interval_counts()).collect();
            let laggards = route::laggards(&counts, &group.policy.outlier);
            to_go.extend(laggards.into_iter().filter_map(|index| group.members.get(index)).cloned());
        }
        for endpoint in to_go {
            if matches!(endpoint.stats.standing(now), Standing::In) {
                self.eject(&endpoint, now, "it succeeds much less often than the others");
            }
        }
    }

    /// Lets go of services and instances that are no more.
    pub(super) fn prune(&self, directory: &Directory) {
        self.lists.borrow_mut().retain(|(name, ..), list| {
            let is_service = directory.services.get(name).is_some_and(|service| Arc::ptr_eq(service, &list.service));
            is_service && Arc::ptr_eq(directory.traffic.of(name), &list.policy)
        });
        self.groups.borrow_mut().retain(|name, _| directory.services.contains_key(name));
        // One is the map's own; a list, a group or a call under way holds another.
        self.stats.borrow_mut().retain(|_, stats| Rc::strong_count(stats) > 1);
    }
}
