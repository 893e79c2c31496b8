//! The one task that changes membership and catalog. Events of all drivers come in, the cores are mutated, what they
//! want done goes out as gossip commands, and the view that results is published.
//!
//! Nothing here waits: disk goes to the store's writer, the network to the gossip driver's queue.
//!
//! This file drives the cores. `records` takes what other hosts say; `registry` holds what this host registered, `changes`
//! and `registrations` change it, `services` and `checks` publish it; `view` is what readers see, `history` what is told
//! of the past.

mod changes;
mod checks;
mod history;
mod keyring;
mod membership;
mod pace;
mod past;
mod patience;
mod policies;
mod records;
mod registrations;
mod registry;
mod services;
mod start;
#[cfg(test)]
mod tests;
mod traffic;
mod view;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

pub(super) use self::changes::{Ask, Files};
pub(super) use self::registry::Maintenance;

use self::changes::Queue;
use self::history::Chronicle;
use self::membership::Join;
use self::pace::Pace;
use self::past::Past;
use self::patience::Patience;
use self::policies::Desk;
use self::records::Pulled;
use self::registry::Registry;
use self::services::Floor;
use self::traffic::Clock;
use super::admit::Gate;
use super::own::OwnLog;
use super::quarantine::Quarantine;
use super::threads::CheckRequest;
use super::vips::Vips;
use crate::api;
use crate::catalog::{self, Catalog, Relay};
use crate::gossip;
use crate::history::History;
use crate::identity::{Identity, Voucher};
use crate::model::Quarantined;
use crate::model::{Callers, CatalogMessage, Directory, Instance, MemberState, NodeFacts, NodeId, Now, Version};
use crate::proxy;
use crate::store::StoreWriter;
use crate::swim::{self, Swim};
use crate::wire::packet::Datagram;
use crate::wire::stream::PULL_CHUNK_BYTES_MAX;

/// Members and VIPs are saved together with others that change within this time.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// A change that waits for the checks' thread is tried again after this long.
const HELD_UP_PAUSE: Duration = Duration::from_millis(10);
/// What waits for a slow disk when the agent stops is only a cache.
const STORE_CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What the owner counts beside what the gate does.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Records refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Datagrams dropped because the gossip driver's queue was full.
    pub dropped_commands: u64,
    /// Views published.
    pub published: u64,
    /// Lifeguard's local health score.
    pub health_score: u32,
    /// How many times longer than usual it waits for answers.
    pub patience: f64,
    /// Accusations that were not made, over the budget.
    pub accusations_withheld: u64,
    /// What the catalog counts.
    pub catalog: catalog::Counters,
    /// Writes to the store that failed.
    pub store_failures: u64,
    /// How many records are in quarantine, and how often one was left alone.
    pub quarantined: (u64, u64),
    /// The first of them.
    pub quarantine: Vec<Quarantined>,
    /// Changes of this host's services that were published together with later ones.
    pub coalesced: u64,
}

/// Where the owner's work goes.
pub(super) struct Outlets {
    pub directory: Arc<ArcSwap<Directory>>,
    /// What this host registered.
    pub local: Arc<ArcSwap<api::Local>>,
    /// Which programs are which of its services.
    pub callers: Arc<ArcSwap<Callers>>,
    /// Told of each publication of any.
    pub changes: watch::Sender<u64>,
    pub tally: watch::Sender<Tally>,
    pub gossip: mpsc::Sender<gossip::Command>,
    pub checks: mpsc::Sender<CheckRequest>,
    pub store: StoreWriter,
    pub history: History,
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
    /// How often in a row this host met its own later past; on disk.
    pub rises: u64,
    pub quarantine: Quarantine,
    /// On an issuer's host.
    pub voucher: Option<Voucher>,
    /// Says what time it is for people, by which trials of policies end.
    pub clock: Clock,
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
    policies: Desk,
    chronicle: Chronicle,
    clock: Clock,
    registry: Registry,
    queue: Queue,
    /// Checks of the host that wait for their first verdict, and until when.
    pending_checks: BTreeMap<String, Instant>,
    known_host_checks: HashSet<String>,
    joins: Vec<Join>,
    out: Outlets,
    index: u64,
    dirty: bool,
    local_dirty: bool,
    publish_at: Instant,
    tell_counts_at: Instant,
    save_at: Option<Instant>,
    tally: Tally,
    pulled: HashMap<NodeId, Pulled>,
    floor: Option<Floor>,
    /// Nobody else was ever heard of, and there is nobody to ask.
    alone_is_live: bool,
    has_foreign_records: bool,
    /// Records of other hosts were merged and are not in the directory yet.
    foreign_unpublished: bool,
    past: Past,
    quarantine: Quarantine,
    pace: Pace,
    /// A host has moved to another zone: the catalog is to know.
    zones_changed: bool,
    /// With false records that came by datagram.
    patience: Patience,
    /// Hosts that passed on false records, each named in the log once.
    liars: HashSet<NodeId>,
    /// Hosts in whose names datagrams brought false records, likewise.
    slandered: HashSet<NodeId>,
    /// Hosts of which there are records but that membership does not know, and since when.
    strangers: HashMap<NodeId, Instant>,
    /// Nothing is announced any more.
    leaving: bool,
    left: bool,
}

impl Owner {
    pub(super) fn new(begin: Beginning, out: Outlets) -> Owner {
        let Beginning { identity, facts, epoch, swim, catalog, vips, has_seeds, rises, quarantine, voucher, clock } =
            begin;
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
            policies: Desk::new(voucher),
            chronicle: Chronicle::default(),
            clock,
            registry: Registry::default(),
            queue: Queue::default(),
            pending_checks: BTreeMap::new(),
            known_host_checks: HashSet::new(),
            joins: Vec::new(),
            out,
            // Grows over restarts as well: blocking queries compare indexes of before and after.
            // Starts are a second apart at least, in which there are never a million directories; below 2^53 for a long time,
            // which is all that some readers of JSON can count to.
            index: epoch << 20,
            dirty: true,
            local_dirty: true,
            publish_at: started,
            tell_counts_at: started,
            save_at: None,
            tally: Tally::default(),
            pulled: HashMap::new(),
            floor: None,
            alone_is_live: !has_seeds,
            has_foreign_records: false,
            foreign_unpublished: false,
            past: Past::new(rises),
            quarantine,
            pace: Pace::new(started),
            zones_changed: false,
            patience: Patience::new(started),
            liars: HashSet::new(),
            slandered: HashSet::new(),
            strangers: HashMap::new(),
            leaving: false,
            left: false,
        }
    }

    /// The duration since the start, which is the cores' time.
    pub(super) fn now(&self) -> Now {
        self.started.elapsed()
    }

    pub(super) fn on_proxy(&mut self, event: &proxy::Event) {
        self.dirty |= match event {
            proxy::Event::MeshUnreachable(node) => self.unreachable.insert(*node),
            proxy::Event::MeshReachable(node) => self.unreachable.remove(node),
            // What one host's calls meet is its own affair: it is told here, and nobody else.
            proxy::Event::Ejected { .. } | proxy::Event::Returned { .. } => {
                self.note_ejection(event);
                false
            }
        };
    }

    pub(super) fn on_gossip(&mut self, event: gossip::Event) {
        let now = self.now();
        match event {
            gossip::Event::Swim { sender, from, message } => self.swim.receive(now, sender, from, message),
            gossip::Event::Catalog { sender, message: CatalogMessage::Delta(records) } => {
                self.take_delta(now, sender, records);
            }
            gossip::Event::Catalog { sender, message } => self.catalog.receive(now, sender, message),
            gossip::Event::Synced { to, peer, claims } => {
                self.swim.synced(now, claims);
                self.after_swim(now);
                self.catalog.start_sync(now, peer);
                self.on_exchange(to, Ok(()));
            }
            gossip::Event::SyncFailed { to, error } => {
                debug!(%to, error, "push-pull failed");
                self.swim.sync_failed(now, to);
                self.on_exchange(to, Err(&error));
            }
            gossip::Event::SyncRequest { peer, claims, reply } => {
                // The asker may be gone; its claims are worth having all the same.
                let _ = reply.send(self.swim.snapshot());
                self.swim.synced(now, claims);
                self.catalog.tell_of(peer);
            }
            gossip::Event::PullRequest { peer: _, wants, reply } => {
                let _ = reply.send(self.catalog.answer(&wants, PULL_CHUNK_BYTES_MAX));
            }
            gossip::Event::Pulled { from, records, done } => self.on_pulled(now, from, records, done),
            gossip::Event::PullFailed { from, error } => {
                debug!(%from, error, "pull failed");
                let so_far = self.pulled.remove(&from).unwrap_or_default().records;
                self.take_records(now, so_far, Relay::Quiet);
                self.catalog.pull_failed(now, from);
            }
            gossip::Event::StreamProbe { target, number, alive } => {
                self.swim.stream_probe_result(now, target, number, alive);
            }
        }
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
        self.quarantine.settle();
        self.keep_zones();
        self.keep_past();
        self.keep_pace();
        self.keep_pending();
        self.keep_joins();
        self.keep_floor(now);
        self.keep_policies(now);
        self.keep_traffic();
        self.advance();
        // What ends this agent when it is published must not have been passed on by then.
        self.publish();
        if !self.awaits_publication() {
            self.after_catalog(now);
        }
        self.keep_history();
        self.save();
    }

    fn after_swim(&mut self, now: Now) {
        let (mut changed, mut met, mut peers) = (false, Vec::new(), Vec::new());
        while let Some(output) = self.swim.poll_output() {
            match output {
                swim::Output::Send { to, node, message } => {
                    self.command(gossip::Command::Send { to, node, datagram: Datagram::Swim(message) });
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
                    if state == MemberState::Alive && node != self.local {
                        met.push(node);
                    }
                    peers.push((node, state.is_living()));
                    info!(node = %name, id = %node, %address, %state, incarnation, "member changed");
                    self.note_member(node, &name, state, address);
                }
                swim::Output::IncarnationRaised(incarnation) => self.out.store.set_incarnation(incarnation),
                swim::Output::NameConflict { name, .. } => {
                    error!(%name, "two hosts are alive under one name: rename one of them and enrol it again");
                }
                swim::Output::Forgotten { node } => {
                    self.forget_origin(node);
                    self.forget_member(node);
                    peers.push((node, false));
                    changed = true;
                }
                swim::Output::LeaveDone => self.left = true,
            }
        }
        if changed {
            self.change_peers(&peers);
            for node in met {
                // It may answer again; the data plane looks.
                self.unreachable.remove(&node);
                self.catalog.met(now, node);
            }
            self.save_at.get_or_insert(Instant::now() + SAVE_INTERVAL);
            self.dirty = true;
        }
    }

    fn after_catalog(&mut self, now: Now) {
        while let Some(output) = self.catalog.poll_output() {
            match output {
                catalog::Output::Send { to, message } => {
                    if let Some(address) = self.swim.whereabouts(to).map(|(_, address)| address) {
                        let datagram = Datagram::Catalog(message);
                        self.command(gossip::Command::Send { to: address, node: Some(to), datagram });
                    }
                }
                catalog::Output::Pull { from, wants } => {
                    match self.swim.whereabouts(from).map(|(_, address)| address) {
                        Some(to) => {
                            if !self.command(gossip::Command::Pull { from, to, wants }) {
                                self.catalog.pull_failed(now, from);
                            }
                        }
                        None => self.catalog.pull_failed(now, from),
                    }
                }
                catalog::Output::Compact => {
                    let floor = Version { sequence: self.own.version().sequence + 1, ..self.own.version() };
                    if let Err(error) = self.republish(now, floor) {
                        error!(%error, "old tombstones could not be let go");
                    }
                }
            }
        }
    }

    /// False if the driver is behind and the command was dropped; the cores' own timers send again.
    fn command(&mut self, command: gossip::Command) -> bool {
        let taken = self.out.gossip.try_send(command).is_ok();
        self.tally.dropped_commands += u64::from(!taken);
        taken
    }

    fn save(&mut self) {
        if self.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save_at = None;
            self.forget_strangers();
            self.out.store.save_members(self.swim.snapshot());
        }
    }

    /// When [`Owner::turn`] has something to do at the latest.
    pub(super) fn next_turn(&self) -> Instant {
        let cores = [self.swim.next_timeout(), self.catalog.next_timeout()].into_iter().flatten().min();
        let answers = !self.queue.answers.is_empty();
        let publish = (self.dirty || self.local_dirty || answers).then_some(self.publish_at);
        let held_up = self.is_held_up().then(|| Instant::now() + HELD_UP_PAUSE);
        let pending = self.pending_checks.values().min().copied();
        let later = Instant::now() + Duration::from_secs(1);
        let cores = cores.map(|due| self.started + due);
        let others =
            [self.save_at, self.floor_due(), held_up, pending, self.joins_due(), self.pace_due(), self.trial_due()];
        [cores, publish].into_iter().chain(others).flatten().fold(later, Instant::min)
    }

    /// Whom to ask for the mesh. The fleet may share one list: a host is no seed of its own.
    pub(super) fn set_seeds(&mut self, mut seeds: Vec<SocketAddr>) {
        seeds.retain(|seed| *seed != self.own_facts.gossip);
        self.alone_is_live = seeds.is_empty();
        self.swim.set_seeds(seeds);
    }

    /// Says goodbye, once withdrawn; [`Owner::has_left`] tells when it has been said.
    pub(super) fn leave(&mut self) {
        let now = self.now();
        self.swim.leave(now);
    }

    pub(super) fn has_left(&self) -> bool {
        self.left
    }

    /// The last word to the store.
    pub(super) fn close(mut self) {
        self.refuse_waiting();
        self.tell_answers();
        self.quarantine.clear();
        self.out.store.save_members(self.swim.snapshot());
        self.end_history();
        drop(self.out.history);
        if !self.out.store.close(STORE_CLOSE_DEADLINE) {
            warn!("the catalog cache was not written out in time; gossip refills it");
        }
    }
}
