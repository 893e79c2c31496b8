//! Fresh records on their way to everybody: which are still to be sent or named, and what fills the next datagrams. A
//! bounded queue of names; the records themselves stay in the catalog and are looked up when sent, so that a newer version
//! takes the older one's place by itself.
//!
//! A host passes a record on in two ways, each a bounded number of times:
//!
//! - **copies** leave at once (`fresh_interval`) to `fanout` peers. With two copies from each host a record is nearly
//!   everywhere after log₂(N) network delays, and costs every host two payloads;
//! - **names** (origin and version) follow a little later, in batches (`names_interval`), to the neighbours on the ring of
//!   sorted ids and to a few random peers, then once more to the neighbours. Who lacks a named record asks for it (`fetch`).
//!   Neighbours make certain that nobody is left out; the repetition (`names_rounds`) makes up for loss.
//!
//! This is lazy-push gossip with an eager first wave, as in plumtree (Leitão, Pereira, Rodrigues 2007), but without its
//! tree: there is no state between hosts that churn could break. A record that this host had to ask for comes at the end of the
//! wave, when most have it: it is named on, not copied. So is one that others have named or copied here several times
//! before its turn came. What does not fit a datagram, or comes in bulk, is announced by its origin's summary on the same
//! schedule and pulled by stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::config::RECORD_OVERHEAD_BYTES;
use super::origin::Slot;
use super::peers::Peers;
use super::{Config, Origins};
use crate::model::{CatalogMessage, NodeId, Now, Record, RecordId, RecordKind, RecordRef, Version};

/// Records of one origin in the queue; more are cheaper to pull by stream than to repeat in datagrams.
const ORIGIN_RECORDS_MAX: usize = 48;
/// Records in the queue. Bounds both memory and the work of a round.
const RECORDS_MAX: usize = 1_024;
/// Announced origins in the queue. Who misses one is told by digest.
const ANNOUNCES_MAX: usize = 4_096;
/// Delta datagrams to one peer in one round: a round stays below 20 kB.
const DELTAS_PER_PEER: usize = 4;
/// A record heard this often from others before its copies left needs none of ours.
const HEARD_ENOUGH: u8 = 2;
/// A round of names comes up to so many hundredths of `names_interval` late, by chance. Under load every host names in every
/// interval; in step, whichever comes first after most copies is asked by its neighbours each time, and sends a sixth more
/// than the mean.
const NAMES_LATE_PERCENT: u32 = 25;

/// Where a record came from, as far as passing it on goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This host wrote it.
    Own,
    /// A copy that this peer sent unasked.
    Copy(NodeId),
    /// Asked for, or pulled as news.
    Asked,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    /// Place in the order of arrival: a host's node record goes before its services.
    arrival: u64,
    source: Source,
    /// Peers that still get a copy in the next round.
    copies: usize,
    heard: u8,
    names_sent: u32,
    names_due: Now,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Broadcast {
    records: BTreeMap<RecordId, (Version, Item)>,
    announces: BTreeMap<NodeId, Item>,
    arrivals: u64,
    has_copies: bool,
    copies_at: Option<Now>,
    /// No round of names before this.
    names_next: Now,
    /// The earliest of the queue; later than true never, so that asking costs nothing.
    names_due: Option<Now>,
}

impl Broadcast {
    /// Spreads a record; by announcement where it cannot ride in a datagram.
    pub(super) fn push(&mut self, now: Now, record: &Record, source: Source, config: &Config) {
        let id = record.id();
        let origin = id.origin;
        if size(record) > config.delta_bytes_max() {
            return self.announce(now, origin, source, config);
        }
        let known = self.records.contains_key(&id);
        if !known && (self.records.len() >= RECORDS_MAX || self.queued_of(origin) >= ORIGIN_RECORDS_MAX) {
            self.records.retain(|id, _| id.origin != origin);
            return self.announce(now, origin, source, config);
        }
        let item = self.item(now, source, config);
        self.records.insert(id, (record.version(), item));
    }

    /// Tells that this host holds something newer of `origin`, to be pulled.
    pub(super) fn announce(&mut self, now: Now, origin: NodeId, source: Source, config: &Config) {
        if self.announces.len() >= ANNOUNCES_MAX && !self.announces.contains_key(&origin) {
            return;
        }
        // An announcement is small: copies of it are never spared.
        let source = if source == Source::Asked { Source::Copy(origin) } else { source };
        let item = self.item(now, source, config);
        self.announces.insert(origin, item);
    }

    fn item(&mut self, now: Now, source: Source, config: &Config) -> Item {
        self.arrivals += 1;
        let (copies, names_due) = match source {
            Source::Own => (config.fanout_own, now + config.names_delay),
            Source::Copy(_) => (config.fanout, now + config.names_delay),
            Source::Asked => (0, now),
        };
        self.has_copies |= copies > 0;
        self.names_due = Some(self.names_due.map_or(names_due, |due| due.min(names_due)));
        Item { arrival: self.arrivals, source, copies, heard: 0, names_sent: 0, names_due }
    }

    /// A peer holds it too.
    pub(super) fn heard(&mut self, name: &RecordRef) {
        let first = RecordId { origin: name.origin, kind: RecordKind(0), key: Bytes::new() };
        let queued = self.records.range_mut(first..).take_while(|(id, _)| id.origin == name.origin);
        for (version, item) in queued.map(|(_, queued)| queued) {
            if *version == name.version && item.source != Source::Own {
                item.heard = item.heard.saturating_add(1);
                if item.heard >= HEARD_ENOUGH {
                    item.copies = 0;
                }
            }
        }
    }

    fn queued_of(&self, origin: NodeId) -> usize {
        let first = RecordId { origin, kind: RecordKind(0), key: Bytes::new() };
        self.records.range(first..).take_while(|(id, _)| id.origin == origin).count()
    }

    /// True if that origin's records, or their announcement, are still to be told.
    pub(super) fn tells_of(&self, origin: NodeId) -> bool {
        self.announces.contains_key(&origin) || self.queued_of(origin) > 0
    }

    /// When the next round is due, given that there are peers.
    pub(super) fn due(&self, config: &Config) -> Option<Now> {
        [self.copies_due(config), self.names_round_due()].into_iter().flatten().min()
    }

    fn copies_due(&self, config: &Config) -> Option<Now> {
        self.has_copies.then(|| self.copies_at.map_or(Now::ZERO, |last| last + config.fresh_interval))
    }

    fn names_round_due(&self) -> Option<Now> {
        self.names_due.map(|due| due.max(self.names_next))
    }

    /// What is due, and to whom. Call when [`Broadcast::due`].
    pub(super) fn round(
        &mut self,
        now: Now,
        peers: &Peers,
        config: &Config,
        rng: &mut ChaCha8Rng,
        origins: &Origins,
    ) -> Vec<(NodeId, CatalogMessage)> {
        let mut messages = Vec::new();
        self.drop_outdated(now, config, origins);
        if self.copies_due(config).is_some_and(|due| now >= due) {
            self.copies_round(peers, config, rng, origins, &mut messages);
            self.copies_at = Some(now);
        }
        if self.names_round_due().is_some_and(|due| now >= due) {
            self.names_round(now, peers, config, rng, origins, &mut messages);
            let late = f64::from(rng.random_range(0..=NAMES_LATE_PERCENT)) / 100.0;
            self.names_next = now + config.names_interval.mul_f64(1.0 + late);
        }
        let is_done = |item: &Item| item.copies == 0 && item.names_sent >= config.names_rounds;
        self.records.retain(|_, (_, item)| !is_done(item));
        self.announces.retain(|_, item| !is_done(item));
        let items = || self.records.values().map(|(_, item)| item).chain(self.announces.values());
        self.has_copies = items().any(|item| item.copies > 0);
        let unnamed = items().filter(|item| item.names_sent < config.names_rounds);
        self.names_due = unnamed.map(|item| item.names_due).min();
        messages
    }

    /// Of what is due, drops the versions that are no longer held. What is not due yet waits with that for its turn: to look all
    /// of it up in every round would be most of a busy host's work.
    fn drop_outdated(&mut self, now: Now, config: &Config, origins: &Origins) {
        let is_due = |item: &Item| item.copies > 0 || (item.names_due <= now && item.names_sent < config.names_rounds);
        let is_held =
            |id: &RecordId, version: &Version| held(origins, id).is_some_and(|held| held.version() == *version);
        self.records.retain(|id, (version, item)| !is_due(item) || is_held(id, version));
    }

    fn copies_round(
        &mut self,
        peers: &Peers,
        config: &Config,
        rng: &mut ChaCha8Rng,
        origins: &Origins,
        messages: &mut Vec<(NodeId, CatalogMessage)>,
    ) {
        let mut records: Vec<(RecordId, Item)> = Vec::new();
        for (id, (_, item)) in self.records.iter().filter(|(_, (_, item))| item.copies > 0) {
            records.push((id.clone(), *item));
        }
        records.sort_by_key(|(_, item)| item.arrival);
        let mut announces: Vec<(NodeId, Item)> =
            self.announces.iter().filter(|(_, item)| item.copies > 0).map(|(origin, item)| (*origin, *item)).collect();
        announces.sort_by_key(|(_, item)| item.arrival);
        // What there is no room for stays for the next round.
        let (records, announces) = (fitting(records, config, origins), first_of(announces, config));
        let copies = records.iter().map(|(_, item)| item.copies).chain(announces.iter().map(|(_, item)| item.copies));
        let own = records.iter().any(|(_, item)| item.source == Source::Own);
        for (place, peer) in peers.for_copies(rng, copies.max().unwrap_or(0), own).into_iter().enumerate() {
            let wanted = |item: &Item| item.copies > place && item.source != Source::Copy(peer);
            let summaries: Vec<NodeId> =
                announces.iter().filter(|(_, item)| wanted(item)).map(|(origin, _)| *origin).collect();
            messages.extend(summarize(&summaries, config, origins).map(|message| (peer, message)));
            let ids = records.iter().filter(|(_, item)| wanted(item)).map(|(id, _)| id);
            messages.extend(deltas(ids, config, origins).into_iter().map(|delta| (peer, delta)));
        }
        for (id, _) in &records {
            if let Some((_, item)) = self.records.get_mut(id) {
                item.copies = 0;
            }
        }
        for (origin, _) in &announces {
            if let Some(item) = self.announces.get_mut(origin) {
                item.copies = 0;
            }
        }
    }

    fn names_round(
        &mut self,
        now: Now,
        peers: &Peers,
        config: &Config,
        rng: &mut ChaCha8Rng,
        origins: &Origins,
        messages: &mut Vec<(NodeId, CatalogMessage)>,
    ) {
        let is_due = |item: &Item| item.names_due <= now && item.names_sent < config.names_rounds;
        let named = |item: &mut Item| {
            item.names_sent += 1;
            item.names_due = now + config.names_again;
        };
        // Each with where it came from, and whether it is told for the first time.
        let mut names: Vec<(RecordRef, Source, bool)> = Vec::new();
        for (id, (version, item)) in self.records.iter_mut().filter(|(_, (_, item))| is_due(item)) {
            names.push((RecordRef { origin: id.origin, version: *version }, item.source, item.names_sent == 0));
            named(item);
        }
        let due = self.announces.iter().filter(|(_, item)| is_due(item)).map(|(origin, item)| (*origin, *item));
        let announces: Vec<NodeId> = first_of(due.collect(), config).into_iter().map(|(origin, _)| origin).collect();
        announces.iter().for_each(|origin| self.announces.get_mut(origin).into_iter().for_each(named));
        for (place, peer) in peers.for_names(rng, config.names_fanout).into_iter().enumerate() {
            let is_neighbour = place < peers.neighbours();
            let is_told = |source: Source, first: bool| (first || is_neighbour) && source != Source::Copy(peer);
            let told = names.iter().filter(|(_, source, first)| is_told(*source, *first));
            let told: Vec<RecordRef> = told.map(|(name, ..)| *name).collect();
            for part in told.chunks(config.names_per_datagram()) {
                messages.push((peer, CatalogMessage::Fresh(part.to_vec())));
            }
            messages.extend(summarize(&announces, config, origins).map(|message| (peer, message)));
        }
    }

    /// Forgets what is queued of an origin.
    pub(super) fn forget(&mut self, origin: NodeId) {
        self.records.retain(|id, _| id.origin != origin);
        self.announces.remove(&origin);
    }
}

/// The announcements that fit one datagram.
fn first_of(mut announces: Vec<(NodeId, Item)>, config: &Config) -> Vec<(NodeId, Item)> {
    announces.sort_by_key(|(_, item)| (item.names_sent, item.arrival));
    announces.truncate(config.summaries_per_datagram());
    announces
}

fn summarize(origins_told: &[NodeId], config: &Config, origins: &Origins) -> Option<CatalogMessage> {
    let summaries = origins_told.iter().filter_map(|origin| origins.get(origin)?.summary(*origin));
    let summaries: Vec<_> = summaries.take(config.summaries_per_datagram()).collect();
    (!summaries.is_empty()).then_some(CatalogMessage::Announce(summaries))
}

/// The first records that fit [`DELTAS_PER_PEER`] datagrams.
fn fitting(records: Vec<(RecordId, Item)>, config: &Config, origins: &Origins) -> Vec<(RecordId, Item)> {
    let (mut room, mut datagrams) = (0, 0);
    let fits = |(id, _): &(RecordId, Item)| {
        let bytes = held(origins, id).map_or(0, size);
        if bytes > room {
            datagrams += 1;
            room = config.delta_bytes_max();
        }
        room = room.saturating_sub(bytes);
        datagrams <= DELTAS_PER_PEER
    };
    records.into_iter().take_while(fits).collect()
}

fn deltas<'a>(ids: impl Iterator<Item = &'a RecordId>, config: &Config, origins: &Origins) -> Vec<CatalogMessage> {
    let mut deltas: Vec<Vec<Record>> = Vec::new();
    let mut room = 0;
    for record in ids.filter_map(|id| held(origins, id)) {
        if size(record) > room {
            deltas.push(Vec::new());
            room = config.delta_bytes_max();
        }
        room = room.saturating_sub(size(record));
        if let Some(delta) = deltas.last_mut() {
            delta.push(record.clone());
        }
    }
    deltas.into_iter().map(CatalogMessage::Delta).collect()
}

/// The record held under an id.
pub(super) fn held<'a>(origins: &'a Origins, id: &RecordId) -> Option<&'a Record> {
    origins.get(&id.origin)?.get(&Slot::of_id(id))
}

/// What a record takes in a delta, at most.
pub(super) fn size(record: &Record) -> usize {
    record.encoded().len() + RECORD_OVERHEAD_BYTES
}
