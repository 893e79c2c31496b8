//! Records that peers have named and this host lacks: whom to ask for them, when, and how often.
//!
//! A named record is not asked for at once, for a copy may be under way. Whoever named it is asked first, then the others
//! that did. After a few tries it is left to the digests: a peer that names what it does not have costs little.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Catalog, Output};
use crate::model::{CatalogMessage, NodeId, Now, Record, RecordRef};

/// Named records waited for. What is over comes by digest.
const WANTED_MAX: usize = 4_096;
/// Of these, first named by one peer.
const WANTED_PER_PEER_MAX: usize = 1_024;
/// How often a record is asked for.
const TRIES_MAX: u8 = 6;
/// Peers remembered that named it.
const NAMERS_MAX: usize = 3;
/// Replaced versions remembered, so that they are not asked for when their name comes late.
const REPLACED_MAX: usize = 2_048;
/// Datagrams of requested records sent in one `gossip_interval`, whoever asks.
const ANSWERS_PER_INTERVAL_MAX: u32 = 64;

#[derive(Debug)]
struct Wanted {
    namers: Vec<NodeId>,
    due: Now,
    tries: u8,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    wanted: BTreeMap<RecordRef, Wanted>,
    /// How many of `wanted` each peer named first.
    by_namer: BTreeMap<NodeId, usize>,
    /// No entry is due before this; kept so that asking for it costs nothing.
    due: Option<Now>,
    replaced: BTreeSet<RecordRef>,
    replaced_order: VecDeque<RecordRef>,
    answers_since: Now,
    answers: u32,
}

impl Fetch {
    pub(super) fn due(&self) -> Option<Now> {
        self.due
    }

    /// The record is here. True if it was asked for.
    pub(super) fn arrived(&mut self, arrived: RecordRef) -> bool {
        self.remove(&arrived).is_some_and(|wanted| wanted.tries > 0)
    }

    /// A newer version took this one's place.
    pub(super) fn note_replaced(&mut self, replaced: RecordRef) {
        if !self.replaced.insert(replaced) {
            return;
        }
        self.replaced_order.push_back(replaced);
        if self.replaced_order.len() > REPLACED_MAX
            && let Some(oldest) = self.replaced_order.pop_front()
        {
            self.replaced.remove(&oldest);
        }
    }

    fn remove(&mut self, name: &RecordRef) -> Option<Wanted> {
        let wanted = self.wanted.remove(name)?;
        if let Some(first) = wanted.namers.first()
            && let Some(count) = self.by_namer.get_mut(first)
        {
            *count -= 1;
            if *count == 0 {
                self.by_namer.remove(first);
            }
        }
        if self.wanted.is_empty() {
            self.due = None;
        }
        Some(wanted)
    }

    fn want(&mut self, due: Now, from: NodeId, name: RecordRef) {
        if let Some(wanted) = self.wanted.get_mut(&name) {
            if wanted.namers.len() < NAMERS_MAX && !wanted.namers.contains(&from) {
                wanted.namers.push(from);
            }
            return;
        }
        if self.wanted.len() >= WANTED_MAX {
            return;
        }
        let count = self.by_namer.entry(from).or_default();
        if *count >= WANTED_PER_PEER_MAX {
            return;
        }
        *count += 1;
        self.wanted.insert(name, Wanted { namers: vec![from], due, tries: 0 });
        self.due = Some(self.due.map_or(due, |earliest| earliest.min(due)));
    }
}

impl Catalog {
    /// A peer holds these.
    pub(super) fn names_received(&mut self, now: Now, from: NodeId, names: &[RecordRef]) {
        for name in names {
            if !self.lacks(name) {
                self.broadcast.heard(name);
            } else if self.pace.is_within(now, name.origin, &self.config) {
                self.fetch.want(now + self.config.request_delay, from, *name);
            }
        }
    }

    /// True if this version may be new to this host.
    fn lacks(&self, name: &RecordRef) -> bool {
        if name.origin == self.local || self.is_forgotten(name.origin, name.version) {
            return false;
        }
        let held = self.origins.get(&name.origin).is_some_and(|origin| origin.knows(name.version));
        !held && !self.fetch.replaced.contains(name)
    }

    /// Asks for what is due.
    pub(super) fn tick_fetch(&mut self, now: Now) {
        if self.fetch.due.is_none_or(|due| now < due) {
            return;
        }
        let due: Vec<RecordRef> =
            self.fetch.wanted.iter().filter(|(_, wanted)| now >= wanted.due).map(|(name, _)| *name).collect();
        let mut requests: BTreeMap<NodeId, Vec<RecordRef>> = BTreeMap::new();
        for name in due {
            let spent = self.fetch.wanted.get(&name).is_none_or(|wanted| wanted.tries >= TRIES_MAX);
            if spent || !self.lacks(&name) {
                self.counters.fetches_failed += u64::from(spent);
                self.fetch.remove(&name);
                continue;
            }
            let Some(wanted) = self.fetch.wanted.get_mut(&name) else { continue };
            wanted.tries += 1;
            wanted.due = now + self.config.request_timeout * u32::from(wanted.tries);
            let turn = usize::from(wanted.tries - 1) % wanted.namers.len();
            requests.entry(wanted.namers[turn]).or_default().push(name);
        }
        self.fetch.due = self.fetch.wanted.values().map(|wanted| wanted.due).min();
        for (to, names) in requests {
            for part in names.chunks(self.config.names_per_datagram()) {
                self.counters.requests_sent += 1;
                self.outputs.push_back(Output::Send { to, message: CatalogMessage::Request(part.to_vec()) });
            }
        }
    }

    /// Sends a peer what it asks for, as far as it is held and fits datagrams.
    pub(super) fn requested(&mut self, now: Now, from: NodeId, names: &[RecordRef]) {
        let mut room = 0;
        let mut deltas: Vec<Vec<Record>> = Vec::new();
        for name in names {
            let Some(origin) = self.origins.get(&name.origin) else { continue };
            for record in origin.offered_at(name.version) {
                let size = super::broadcast::size(record);
                if size > self.config.delta_bytes_max() {
                    continue;
                }
                if size > room {
                    deltas.push(Vec::new());
                    room = self.config.delta_bytes_max();
                }
                room -= size;
                if let Some(delta) = deltas.last_mut() {
                    delta.push(record.clone());
                }
            }
        }
        if now >= self.fetch.answers_since + self.config.gossip_interval {
            (self.fetch.answers_since, self.fetch.answers) = (now, 0);
        }
        for records in deltas {
            if self.fetch.answers >= ANSWERS_PER_INTERVAL_MAX {
                self.counters.answers_withheld += 1;
                continue;
            }
            self.fetch.answers += 1;
            self.counters.deltas_sent += 1;
            self.outputs.push_back(Output::Send { to: from, message: CatalogMessage::Delta(records) });
        }
    }
}
