//! The one task that changes membership and catalog. Events of all drivers come in, the cores are mutated, what they
//! want done goes out as gossip commands, and the view that results is published.
//!
//! Nothing here waits: disk goes to the store's writer, the network to the gossip driver's queue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::admit::{Admitted, Gate, Refusal, Verdict};
use super::directory::{Membership, Sources, build};
use super::own::{OwnError, OwnLog};
use super::vips::Vips;
use crate::catalog::{self, Catalog, Merge, Relay};
use crate::config::ServiceDefinition;
use crate::gossip;
use crate::health;
use crate::identity::Identity;
use crate::model::{
    CatalogMessage, CheckStatus, Directory, Freshness, Instance, MemberState, NodeFacts, NodeId, Now, Record, RecordId,
    RecordKind, ServiceId, Version,
};
use crate::proxy;
use crate::store::StoreWriter;
use crate::swim::{self, Swim};
use crate::wire::packet::Datagram;
use crate::wire::stream::PULL_CHUNK_BYTES_MAX;

/// Changes that come together are published together; building the view of 10,000 instances takes a few milliseconds.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(2);
/// The view is rebuilt whole: at most a tenth of the owner's time may go into that.
const PUBLISH_COST_FACTOR: u32 = 10;
/// Members and VIPs are saved together with others that change within this time.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// What waits for a slow disk when the agent stops is only a cache.
const STORE_CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// A pull that brought at most this many records is news to be spread; more is bulk repair, which spreads by digests.
const NEWS_RECORDS_MAX: usize = 256;

/// What the owner counts beside what the gate does.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Records refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Datagrams dropped because the gossip driver's queue was full.
    pub dropped_commands: u64,
    /// Live records held.
    pub records: u64,
    /// Views published.
    pub published: u64,
}

/// Where the owner's work goes.
pub(super) struct Outlets {
    pub directory: Arc<ArcSwap<Directory>>,
    pub changes: watch::Sender<u64>,
    pub tally: watch::Sender<Tally>,
    pub gossip: mpsc::Sender<gossip::Command>,
    pub store: StoreWriter,
}

/// What the owner starts with.
pub(super) struct Beginning {
    pub identity: Arc<Identity>,
    pub facts: NodeFacts,
    pub epoch: u64,
    pub swim: Swim,
    pub catalog: Catalog,
    pub vips: Vips,
    pub has_seeds: bool,
}

pub(super) struct Owner {
    started: Instant,
    identity: Arc<Identity>,
    local: NodeId,
    own_facts: NodeFacts,
    swim: Swim,
    catalog: Catalog,
    gate: Gate,
    own: OwnLog,
    facts: HashMap<NodeId, Arc<NodeFacts>>,
    instances: BTreeMap<(NodeId, String), Arc<Instance>>,
    unreachable: HashSet<NodeId>,
    vips: Vips,
    services: BTreeMap<ServiceId, ServiceDefinition>,
    out: Outlets,
    index: u64,
    dirty: bool,
    publish_at: Instant,
    save_at: Option<Instant>,
    tally: Tally,
    pulled: HashMap<NodeId, Vec<Record>>,
    alone_is_live: bool,
    left: bool,
}

impl Owner {
    pub(super) fn new(begin: Beginning, out: Outlets) -> Owner {
        let Beginning { identity, facts, epoch, swim, catalog, vips, has_seeds } = begin;
        let local = identity.node;
        let mut gate = Gate::default();
        gate.know_self(&identity);
        let started = Instant::now();
        Owner {
            started,
            local,
            own: OwnLog::new(local, epoch),
            identity,
            own_facts: facts,
            swim,
            catalog,
            gate,
            facts: HashMap::new(),
            instances: BTreeMap::new(),
            unreachable: HashSet::new(),
            vips,
            services: BTreeMap::new(),
            out,
            // Grows over restarts as well: blocking queries compare indexes of before and after.
            index: epoch << 24,
            dirty: true,
            publish_at: started,
            save_at: None,
            tally: Tally::default(),
            pulled: HashMap::new(),
            alone_is_live: !has_seeds,
            left: false,
        }
    }

    /// The duration since the start, which is the cores' time.
    pub(super) fn now(&self) -> Now {
        self.started.elapsed()
    }

    /// Takes the catalog of the last run: shown at once, offered to nobody, verified before it was stored.
    pub(super) fn restore(&mut self, records: Vec<Record>) {
        self.alone_is_live &= records.iter().all(|record| record.origin() == self.local);
        let (nodes, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.header().kind == RecordKind::NODE);
        for record in nodes.into_iter().chain(others) {
            // This host's own are published anew, from its files.
            if record.origin() == self.local {
                continue;
            }
            if let Some(admitted) = self.gate.recall(&record)
                && self.catalog.restore(record.clone())
            {
                self.note(&record, &admitted);
            }
        }
    }

    /// Publishes this host and its services, and voids what its earlier starts said.
    pub(super) fn introduce(&mut self, services: Vec<ServiceDefinition>) -> Result<(), OwnError> {
        let now = self.now();
        for definition in services {
            self.services.insert(definition.instance.id.clone(), with_initial_checks(definition));
        }
        let floor = Version { epoch: self.own.version().epoch, sequence: 0 };
        self.republish(now, floor)
    }

    /// Publishes everything anew and voids all below `floor`.
    fn republish(&mut self, now: Now, floor: Version) -> Result<(), OwnError> {
        let key = &self.identity.record_key;
        let mut records = vec![self.own.node(key, &self.own_facts)?];
        for definition in self.services.values() {
            records.push(self.own.service(key, &definition.instance)?);
        }
        records.push(self.own.floor(key, floor)?);
        records.into_iter().for_each(|record| self.take_own(now, record));
        Ok(())
    }

    /// A renewed certificate: from now on this host proves itself by it.
    pub(super) fn renew(&mut self, identity: Arc<Identity>) -> Result<(), OwnError> {
        self.own_facts.certificates.clone_from(&identity.certificates);
        self.identity = identity;
        self.gate.know_self(&self.identity);
        let record = self.own.node(&self.identity.record_key, &self.own_facts)?;
        let now = self.now();
        self.take_own(now, record);
        Ok(())
    }

    /// Replaces the host's services; what has not changed is not published again. Returns how many changed.
    pub(super) fn replace_services(&mut self, definitions: Vec<ServiceDefinition>) -> Result<usize, OwnError> {
        let now = self.now();
        let wanted: HashSet<ServiceId> = definitions.iter().map(|d| d.instance.id.clone()).collect();
        let gone: Vec<ServiceId> = self.services.keys().filter(|id| !wanted.contains(*id)).cloned().collect();
        let mut changed = gone.len();
        for id in gone {
            let record = self.own.withdrawn(&self.identity.record_key, id.as_str())?;
            self.services.remove(&id);
            self.take_own(now, record);
        }
        for definition in definitions {
            let definition = match self.services.get(&definition.instance.id) {
                Some(old) => with_checks_of(definition, old),
                None => with_initial_checks(definition),
            };
            let id = definition.instance.id.clone();
            let same = self.services.get(&id).is_some_and(|old| old.instance == definition.instance);
            if !same {
                let record = self.own.service(&self.identity.record_key, &definition.instance)?;
                self.take_own(now, record);
                changed += 1;
            }
            self.services.insert(id, definition);
        }
        Ok(changed)
    }

    /// The host's zone and metadata, from a reload.
    pub(super) fn set_place(&mut self, zone: &str, meta: &BTreeMap<String, String>) -> Result<(), OwnError> {
        if self.own_facts.zone == zone && self.own_facts.meta == *meta {
            return Ok(());
        }
        zone.clone_into(&mut self.own_facts.zone);
        self.own_facts.meta.clone_from(meta);
        let record = self.own.node(&self.identity.record_key, &self.own_facts)?;
        let now = self.now();
        self.take_own(now, record);
        Ok(())
    }

    /// A check's verdict has changed.
    pub(super) fn on_health(&mut self, event: &health::Event) {
        let Some(definition) = self.services.get_mut(&event.service) else { return };
        let Some(check) = definition.instance.checks.iter_mut().find(|check| check.id == event.check) else { return };
        if check.health == event.health {
            return;
        }
        info!(service = %event.service, check = %event.check, from = %check.health, to = %event.health, output = %event.output, "health changed");
        check.health = event.health;
        match self.own.service(&self.identity.record_key, &definition.instance) {
            Ok(record) => {
                let now = self.now();
                self.take_own(now, record);
            }
            Err(error) => error!(%error, "a health change could not be published"),
        }
    }

    pub(super) fn on_proxy(&mut self, event: proxy::Event) {
        self.dirty |= match event {
            proxy::Event::MeshUnreachable(node) => self.unreachable.insert(node),
            proxy::Event::MeshReachable(node) => self.unreachable.remove(&node),
        };
    }

    pub(super) fn on_gossip(&mut self, event: gossip::Event) {
        let now = self.now();
        match event {
            gossip::Event::Swim { sender, from, message } => self.swim.receive(now, sender, from, message),
            gossip::Event::Catalog { sender: _, message: CatalogMessage::Delta(records) } => {
                records.into_iter().for_each(|record| self.take_record(now, record, Relay::Eager));
            }
            gossip::Event::Catalog { sender, message } => self.catalog.receive(now, sender, message),
            gossip::Event::Synced { peer, claims } => {
                self.swim.synced(now, claims);
                self.after_swim(now);
                self.catalog.start_sync(now, peer);
            }
            gossip::Event::SyncFailed { to, error } => {
                debug!(%to, error, "push-pull failed");
                self.swim.sync_failed(now, to);
            }
            gossip::Event::SyncRequest { peer: _, claims, reply } => {
                // The asker may be gone; its claims are worth having all the same.
                let _ = reply.send(self.swim.snapshot());
                self.swim.synced(now, claims);
            }
            gossip::Event::PullRequest { peer: _, wants, reply } => {
                let _ = reply.send(self.catalog.answer(&wants, PULL_CHUNK_BYTES_MAX));
            }
            gossip::Event::Pulled { from, records, done } => self.on_pulled(now, from, records, done),
            gossip::Event::PullFailed { from, error } => {
                debug!(%from, error, "pull failed");
                let so_far = self.pulled.remove(&from).unwrap_or_default();
                so_far.into_iter().for_each(|record| self.take_record(now, record, Relay::Quiet));
                self.catalog.pull_failed(now, from);
            }
            gossip::Event::StreamProbe { target, number, alive } => {
                self.swim.stream_probe_result(now, target, number, alive);
            }
        }
    }

    /// Small pulls are news and are told on; large ones are repair. Which it is shows at the end.
    fn on_pulled(&mut self, now: Now, from: NodeId, records: Vec<Record>, done: bool) {
        let mut held = self.pulled.remove(&from).unwrap_or_default();
        held.extend(records);
        let bulk = held.len() > NEWS_RECORDS_MAX;
        if !done && !bulk {
            self.pulled.insert(from, held);
            return;
        }
        let relay = if bulk { Relay::Quiet } else { Relay::Eager };
        held.into_iter().for_each(|record| self.take_record(now, record, relay));
        if done {
            self.catalog.pulled(now, from);
        }
    }

    fn take_own(&mut self, now: Now, record: Record) {
        let admitted = self.gate.recall(&record).unwrap_or(Admitted::Opaque);
        self.merge(now, record, &admitted, Relay::Eager);
    }

    fn take_record(&mut self, now: Now, record: Record, relay: Relay) {
        if record.origin() == self.local {
            return self.meet_own_past(now, &record);
        }
        if let Some(held) = self.catalog.get(&record.id())
            && held.version() >= record.version()
        {
            // Nothing new. The same bytes from a peer confirm what came from the store.
            if held.encoded() == record.encoded() {
                self.catalog.merge(now, record, relay);
            }
            return;
        }
        match self.gate.judge(&self.identity, &record, SystemTime::now()) {
            Verdict::Admitted(admitted) => {
                let origin = record.origin();
                let is_node = matches!(admitted, Admitted::Node(_));
                self.merge(now, record, &admitted, relay);
                if is_node {
                    self.gate.release(origin).into_iter().for_each(|record| self.take_record(now, record, relay));
                }
            }
            Verdict::Waiting => {}
            Verdict::Refused(refusal) => debug!(?record, ?refusal, "record refused"),
        }
    }

    /// Others hold records of this host that are newer than its own: its disk went back in time. It speaks again from
    /// beyond them.
    fn meet_own_past(&mut self, now: Now, record: &Record) {
        if record.version() <= self.own.version() {
            return;
        }
        if !crate::identity::verify_record(&self.identity.record_key.public(), record) {
            return self.gate.refuse(self.local, Refusal::OwnName);
        }
        let epoch = record.version().epoch.saturating_add(1);
        warn!(
            version = %record.version(), epoch,
            "other hosts hold records of this host from a later start: was its disk restored? it goes on beyond them"
        );
        self.own = OwnLog::new(self.local, epoch);
        self.out.store.raise_epoch(epoch);
        if let Err(error) = self.republish(now, Version { epoch, sequence: 0 }) {
            error!(%error, "this host's records could not be published again");
        }
    }

    fn merge(&mut self, now: Now, record: Record, admitted: &Admitted, relay: Relay) {
        match self.catalog.merge(now, record.clone(), relay) {
            Merge::Applied { voided, .. } => {
                for id in &voided {
                    self.forget_record(id);
                }
                voided.into_iter().for_each(|id| self.out.store.remove_record(id));
                self.note(&record, admitted);
                self.out.store.save_record(record);
            }
            Merge::Known | Merge::Void => {}
            Merge::Refused(reason) => warn!(?record, ?reason, "the catalog refused a record"),
        }
    }

    /// Keeps what a record says at hand.
    fn note(&mut self, record: &Record, admitted: &Admitted) {
        let key = || (record.origin(), String::from_utf8_lossy(&record.header().key).into_owned());
        match admitted {
            Admitted::Node(facts) => {
                self.facts.insert(record.origin(), facts.clone());
            }
            Admitted::Service(instance) => {
                self.instances.insert(key(), instance.clone());
            }
            Admitted::Opaque if record.header().kind == RecordKind::SERVICE => {
                self.instances.remove(&key());
            }
            Admitted::Opaque => {}
        }
        self.dirty = true;
    }

    fn forget_record(&mut self, id: &RecordId) {
        if id.kind == RecordKind::SERVICE {
            self.instances.remove(&(id.origin, String::from_utf8_lossy(&id.key).into_owned()));
        } else if id.kind == RecordKind::NODE {
            self.facts.remove(&id.origin);
        }
        self.dirty = true;
    }

    /// Runs the cores' timers and sends what they want sent.
    pub(super) fn turn(&mut self) {
        let now = self.now();
        if self.swim.next_timeout().is_some_and(|due| due <= now) {
            self.swim.tick(now);
        }
        self.after_swim(now);
        if self.catalog.next_timeout().is_some_and(|due| due <= now) {
            self.catalog.tick(now);
        }
        self.after_catalog(now);
        self.publish();
        self.save();
    }

    fn after_swim(&mut self, now: Now) {
        let mut changed = false;
        while let Some(output) = self.swim.poll_output() {
            match output {
                swim::Output::Send { to, message, .. } => {
                    self.command(gossip::Command::Send { to, datagram: Datagram::Swim(message) });
                }
                swim::Output::Sync { to, node } => {
                    let claims = self.swim.snapshot();
                    self.command(gossip::Command::Sync { to, expect: node, claims });
                }
                swim::Output::StreamProbe { target, to, number } => {
                    self.command(gossip::Command::StreamProbe { target, to, number });
                }
                swim::Output::Changed { node, name, state, address, incarnation } => {
                    changed = true;
                    self.on_member(now, node, state);
                    info!(node = %name, id = %node, %address, %state, incarnation, "member changed");
                }
                swim::Output::IncarnationRaised(incarnation) => self.out.store.set_incarnation(incarnation),
                swim::Output::NameConflict { name, .. } => {
                    error!(%name, "two hosts are alive under one name: rename one of them and enrol it again");
                }
                swim::Output::Forgotten { node } => {
                    self.forget_origin(node);
                    changed = true;
                }
                swim::Output::LeaveDone => self.left = true,
            }
        }
        if changed {
            self.catalog.set_peers(self.swim.alive().map(|(node, _)| node).collect());
            self.save_at.get_or_insert(Instant::now() + SAVE_INTERVAL);
            self.dirty = true;
        }
    }

    fn on_member(&mut self, now: Now, node: NodeId, state: MemberState) {
        if state == MemberState::Alive && node != self.local {
            // It may answer again; the data plane looks.
            self.unreachable.remove(&node);
            self.catalog.set_peers(self.swim.alive().map(|(node, _)| node).collect());
            self.catalog.start_sync(now, node);
        }
    }

    fn forget_origin(&mut self, node: NodeId) {
        let ids: Vec<RecordId> = self.catalog.records_of(node).map(Record::id).collect();
        self.catalog.forget_origin(node);
        ids.iter().for_each(|id| self.forget_record(id));
        ids.into_iter().for_each(|id| self.out.store.remove_record(id));
        self.gate.forget(node);
        self.unreachable.remove(&node);
    }

    fn after_catalog(&mut self, now: Now) {
        while let Some(output) = self.catalog.poll_output() {
            match output {
                catalog::Output::Send { to, message } => {
                    if let Some(address) = self.swim.member(to).map(|member| member.address) {
                        self.command(gossip::Command::Send { to: address, datagram: Datagram::Catalog(message) });
                    }
                }
                catalog::Output::Pull { from, wants } => match self.swim.member(from).map(|member| member.address) {
                    Some(to) => self.command(gossip::Command::Pull { from, to, wants }),
                    None => self.catalog.pull_failed(now, from),
                },
                catalog::Output::Compact => {
                    let floor = Version { sequence: self.own.version().sequence + 1, ..self.own.version() };
                    if let Err(error) = self.republish(now, floor) {
                        error!(%error, "old tombstones could not be let go");
                    }
                }
            }
        }
    }

    fn command(&mut self, command: gossip::Command) {
        // The driver is behind: what is dropped here is sent again by the cores' own timers.
        if self.out.gossip.try_send(command).is_err() {
            self.tally.dropped_commands += 1;
        }
    }

    fn publish(&mut self) {
        let freshness = self.freshness();
        self.dirty |= freshness != self.out.directory.load().freshness;
        let begun = Instant::now();
        if !self.dirty || begun < self.publish_at {
            return;
        }
        self.dirty = false;
        self.index += 1;
        let members = self
            .swim
            .members()
            .map(|member| (member.node, Membership { state: member.state, incarnation: member.incarnation }));
        let sources = Sources {
            local: self.local,
            index: self.index,
            freshness,
            facts: &self.facts,
            members: &members.collect(),
            unreachable: &self.unreachable,
            instances: &self.instances,
        };
        let directory = build(&sources, &mut self.vips);
        self.out.directory.store(Arc::new(directory));
        self.out.changes.send_replace(self.index);
        self.tally.published += 1;
        self.tally.refused = self.gate.refusals();
        self.tally.records = self.catalog.records().count() as u64;
        self.out.tally.send_replace(self.tally.clone());
        if let Some(vips) = self.vips.take_changes() {
            self.out.store.save_vips(vips);
        }
        self.publish_at = Instant::now() + PUBLISH_INTERVAL.max(begun.elapsed() * PUBLISH_COST_FACTOR);
    }

    fn freshness(&self) -> Freshness {
        let others = self.swim.members().any(|member| member.node != self.local);
        let live = self.swim.in_contact() || (self.alone_is_live && !others);
        if live { Freshness::Live } else { Freshness::Stale }
    }

    fn save(&mut self) {
        if self.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save_at = None;
            self.out.store.save_members(self.swim.snapshot());
        }
    }

    /// When [`Owner::turn`] has something to do at the latest.
    pub(super) fn next_turn(&self) -> Instant {
        let cores = [self.swim.next_timeout(), self.catalog.next_timeout()].into_iter().flatten().min();
        let publish = self.dirty.then_some(self.publish_at);
        let later = Instant::now() + Duration::from_secs(1);
        let cores = cores.map(|due| self.started + due);
        [cores, publish, self.save_at].into_iter().flatten().fold(later, Instant::min)
    }

    pub(super) fn set_seeds(&mut self, seeds: Vec<std::net::SocketAddr>) {
        self.swim.set_seeds(seeds);
    }

    /// Says goodbye; [`Owner::has_left`] tells when it has been said.
    pub(super) fn leave(&mut self) {
        let now = self.now();
        self.swim.leave(now);
    }

    pub(super) fn has_left(&self) -> bool {
        self.left
    }

    /// What a person would want to know at a glance.
    pub(super) fn summary(&self) -> String {
        let directory = self.out.directory.load();
        let alive = directory.nodes.values().filter(|node| node.state == MemberState::Alive).count();
        let freshness = match directory.freshness {
            Freshness::Live => "in contact",
            Freshness::Stale => "no contact with other hosts, showing what was last known",
        };
        format!("{alive} of {} hosts alive, {} services, {freshness}", directory.nodes.len(), directory.services.len())
    }

    /// The last word to the store.
    pub(super) fn close(self) {
        self.out.store.save_members(self.swim.snapshot());
        if !self.out.store.close(STORE_CLOSE_DEADLINE) {
            warn!("the catalog cache was not written out in time; gossip refills it");
        }
    }
}

fn with_initial_checks(mut definition: ServiceDefinition) -> ServiceDefinition {
    definition.instance.checks = statuses(&definition, None);
    definition
}

fn with_checks_of(mut definition: ServiceDefinition, old: &ServiceDefinition) -> ServiceDefinition {
    definition.instance.checks = statuses(&definition, Some(old));
    definition
}

/// The statuses of a definition's checks: kept where the check is the same, else as at its start.
fn statuses(definition: &ServiceDefinition, old: Option<&ServiceDefinition>) -> Vec<CheckStatus> {
    let kept = |id: &str| {
        let old = old?;
        let same =
            old.checks.iter().find(|check| check.id == id) == definition.checks.iter().find(|check| check.id == id);
        let status = old.instance.checks.iter().find(|status| status.id == id)?;
        same.then_some(status.health)
    };
    let status = |check: &crate::config::CheckDefinition| CheckStatus {
        id: check.id.clone(),
        name: check.name.clone(),
        kind: check.kind.as_str().to_owned(),
        health: kept(&check.id).unwrap_or(check.initial),
    };
    definition.checks.iter().map(status).collect()
}
