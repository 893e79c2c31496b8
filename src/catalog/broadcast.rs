//! Fresh records on their way to everybody: which are still to be sent, how often each was, and what fills the next
//! datagrams. A bounded queue of names; the records themselves stay in the catalog and are looked up when sent, so that
//! a newer version takes the older one's place by itself.
//!
//! A record's first copies leave at once (`fresh_interval`), the others every `gossip_interval`: the first wave reaches
//! nearly everybody at network speed, the later ones those whom loss left out. What does not fit a datagram, or comes in
//! bulk, is announced by its origin's summary and pulled by stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::config::RECORD_OVERHEAD_BYTES;
use super::origin::Slot;
use super::{Config, Origins};
use crate::model::{CatalogMessage, NodeId, Now, Record, RecordId, RecordKind, Version};

/// Records of one origin in the queue; more are cheaper to pull by stream than to repeat in datagrams.
const ORIGIN_RECORDS_MAX: usize = 48;
/// Records in the queue. Bounds both memory and the work of a round.
const RECORDS_MAX: usize = 1_024;
/// Announced origins in the queue. Who misses one is told by digest.
const ANNOUNCES_MAX: usize = 4_096;
/// Delta datagrams to one peer in one round: a round stays below 20 kB.
const DELTAS_PER_PEER: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Copies {
    sent: u32,
    /// Place in the order of arrival: a host's node record goes before its services.
    arrival: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Broadcast {
    records: BTreeMap<RecordId, (Version, Copies)>,
    announces: BTreeMap<NodeId, Copies>,
    arrivals: u64,
    has_fresh: bool,
    last_round: Option<Now>,
    last_full_round: Option<Now>,
}

impl Broadcast {
    /// Spreads a record; by announcement where it cannot ride in a datagram.
    pub(super) fn push(&mut self, record: &Record, config: &Config) {
        let id = record.id();
        let origin = id.origin;
        if size(record) > config.delta_bytes_max() {
            self.announce(origin);
            return;
        }
        let known = self.records.contains_key(&id);
        if !known && (self.records.len() >= RECORDS_MAX || self.queued_of(origin) >= ORIGIN_RECORDS_MAX) {
            self.records.retain(|id, _| id.origin != origin);
            self.announce(origin);
            return;
        }
        let copies = self.fresh();
        self.records.insert(id, (record.version(), copies));
    }

    /// Tells that this host holds something newer of `origin`, to be pulled.
    pub(super) fn announce(&mut self, origin: NodeId) {
        if self.announces.len() >= ANNOUNCES_MAX && !self.announces.contains_key(&origin) {
            return;
        }
        let copies = self.fresh();
        self.announces.insert(origin, copies);
    }

    fn fresh(&mut self) -> Copies {
        self.has_fresh = true;
        self.arrivals += 1;
        Copies { sent: 0, arrival: self.arrivals }
    }

    fn queued_of(&self, origin: NodeId) -> usize {
        let first = RecordId { origin, kind: RecordKind(0), key: Bytes::new() };
        self.records.range(first..).take_while(|(id, _)| id.origin == origin).count()
    }

    /// True if copies of that origin's records, or of their announcement, are still to be sent.
    pub(super) fn tells_of(&self, origin: NodeId) -> bool {
        self.announces.contains_key(&origin) || self.queued_of(origin) > 0
    }

    /// When the next round is due, given that there are peers.
    pub(super) fn due(&self, config: &Config) -> Option<Now> {
        if self.records.is_empty() && self.announces.is_empty() {
            return None;
        }
        let full = self.last_full_round.map_or(Now::ZERO, |last| last + config.gossip_interval);
        let fresh = self.last_round.map_or(Now::ZERO, |last| last + config.fresh_interval);
        Some(if self.has_fresh { fresh.min(full) } else { full })
    }

    /// One round: up to `fanout` random peers, each with what was sent least. Call when due.
    pub(super) fn round(
        &mut self,
        now: Now,
        peers: &[NodeId],
        config: &Config,
        rng: &mut ChaCha8Rng,
        origins: &Origins,
    ) -> Vec<(NodeId, CatalogMessage)> {
        let full = self.last_full_round.is_none_or(|last| now >= last + config.gossip_interval);
        self.records.retain(|id, (version, _)| held(origins, id).is_some_and(|record| record.version() == *version));
        let mut candidates: Vec<RecordId> =
            self.records.iter().filter(|(_, (_, copies))| full || copies.sent == 0).map(|(id, _)| id.clone()).collect();
        let announced: Vec<NodeId> =
            self.announces.iter().filter(|(_, copies)| full || copies.sent == 0).map(|(origin, _)| *origin).collect();

        let mut messages = Vec::new();
        for &peer in peers.sample(rng, config.fanout) {
            messages.extend(self.announces_for(&announced, config, origins).map(|message| (peer, message)));
            let deltas = self.deltas_for(&mut candidates, config, origins);
            messages.extend(deltas.into_iter().map(|records| (peer, CatalogMessage::Delta(records))));
        }
        self.retire(copies_max(peers.len(), config));
        self.last_round = Some(now);
        if full {
            self.last_full_round = Some(now);
        }
        self.has_fresh = self.records.values().any(|(_, copies)| copies.sent == 0)
            || self.announces.values().any(|copies| copies.sent == 0);
        messages
    }

    fn announces_for(&mut self, announced: &[NodeId], config: &Config, origins: &Origins) -> Option<CatalogMessage> {
        let mut least_sent: Vec<(NodeId, Copies)> =
            announced.iter().filter_map(|origin| Some((*origin, *self.announces.get(origin)?))).collect();
        least_sent.sort_by_key(|(_, copies)| (copies.sent, copies.arrival));
        let mut summaries = Vec::new();
        for (origin, _) in least_sent.into_iter().take(config.summaries_per_datagram()) {
            match (origins.get(&origin).and_then(|held| held.summary(origin)), self.announces.get_mut(&origin)) {
                (Some(summary), Some(copies)) => {
                    copies.sent += 1;
                    summaries.push(summary);
                }
                _ => drop(self.announces.remove(&origin)),
            }
        }
        (!summaries.is_empty()).then_some(CatalogMessage::Announce(summaries))
    }

    fn deltas_for(&mut self, candidates: &mut [RecordId], config: &Config, origins: &Origins) -> Vec<Vec<Record>> {
        candidates.sort_by_key(|id| self.records.get(id).map(|(_, copies)| (copies.sent, copies.arrival)));
        let mut deltas = vec![Vec::new()];
        let mut room = config.delta_bytes_max();
        for id in candidates.iter() {
            let (Some(record), Some((_, copies))) = (held(origins, id), self.records.get_mut(id)) else { continue };
            if size(record) > room {
                if deltas.len() == DELTAS_PER_PEER {
                    break;
                }
                deltas.push(Vec::new());
                room = config.delta_bytes_max();
            }
            room = room.saturating_sub(size(record));
            copies.sent += 1;
            if let Some(delta) = deltas.last_mut() {
                delta.push(record.clone());
            }
        }
        deltas.retain(|records| !records.is_empty());
        deltas
    }

    fn retire(&mut self, copies_max: u32) {
        self.records.retain(|_, (_, copies)| copies.sent < copies_max);
        self.announces.retain(|_, copies| copies.sent < copies_max);
    }

    /// Forgets what is queued of an origin.
    pub(super) fn forget(&mut self, origin: NodeId) {
        self.records.retain(|id, _| id.origin != origin);
        self.announces.remove(&origin);
    }
}

/// The record held under an id.
pub(super) fn held<'a>(origins: &'a Origins, id: &RecordId) -> Option<&'a Record> {
    origins.get(&id.origin)?.get(&Slot::of_id(id))
}

/// What a record takes in a delta, at most.
fn size(record: &Record) -> usize {
    record.encoded().len() + RECORD_OVERHEAD_BYTES
}

/// ⌈log10(N + 1)⌉ times the configured multiple, N being all hosts.
fn copies_max(peers: usize, config: &Config) -> u32 {
    config.retransmit_mult * ((peers + 1).ilog10() + 1)
}
