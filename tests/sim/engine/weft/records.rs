//! Records as they come, as in the agent's `owner/records.rs` and `admit.rs`: judged, merged, told on, let go.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use weft::catalog::{Catalog, Merge, Relay, Screen};
use weft::model::{NodeId, Record, RecordId, RecordKind, SIGNATURE_BYTES, Version};

use super::super::driven::{Effect, End, Now};
use super::{Packet, Weft};

/// Stands for a signature that is right, but for its first bytes.
const SIGNED: [u8; SIGNATURE_BYTES - 8] = [0x5e; SIGNATURE_BYTES - 8];
/// Records whose origin has not been proven yet are kept up to this many bytes.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Records of one peer that may prove false at once before its delta is dropped.
const OFFENCES_MAX: usize = 50;
/// A pull that brought at most this many records is news to be spread.
const NEWS_RECORDS_MAX: usize = 256;
/// Records of a host that membership does not know are kept this long.
const STRANGER_LIFETIME: Duration = Duration::from_secs(3600);
/// As in `owner/past.rs`.
const RISES_MAX: u64 = 4;
const RISES_HERE_MAX: u32 = 4;

/// As `wire::replay`.
const WINDOW: u64 = 1024;

/// What was opened of a sender's latest start.
#[derive(Debug, Default)]
pub(super) struct Window {
    epoch: u64,
    highest: u64,
    seen: HashSet<u64>,
}

/// A pull under way.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    records: Vec<Record>,
    is_bulk: bool,
}

/// In place of a signature: as with a real one, other contents have another. FNV-1a by words.
pub(super) fn sign(content: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in content.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        hash = (hash ^ u64::from_be_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    let mut signature = [0; SIGNATURE_BYTES];
    signature[..8].copy_from_slice(&hash.to_be_bytes());
    signature[8..].copy_from_slice(&SIGNED);
    signature
}

/// Contents are not compared: nobody forges any here.
fn is_signed(record: &Record) -> bool {
    record.signature()[8..] == SIGNED
}

/// Names a version of a record, for the observer.
pub(crate) fn item_of(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.origin(), record.version(), record.header().kind, &record.header().key).hash(&mut hasher);
    hasher.finish()
}

fn is_node(record: &Record) -> bool {
    record.header().kind == RecordKind::NODE && !record.header().tombstone
}

impl Weft {
    /// False for packets of a start that is over, and for those that have come before, as in `wire::seal`. First starts are not
    /// kept: there only the network repeats packets, which the cores bear, and large fleets would have no room.
    pub(super) fn opens(&mut self, packet: &Packet) -> bool {
        let known = self.windows.get(&packet.sender).map_or(0, |window| window.epoch);
        if packet.epoch < known || packet.first {
            return packet.epoch >= known;
        }
        let window = self.windows.entry(packet.sender).or_default();
        if packet.epoch > window.epoch {
            *window = Window { epoch: packet.epoch, ..Window::default() };
        }
        window.highest = window.highest.max(packet.counter);
        let oldest = window.highest.saturating_sub(WINDOW);
        if window.seen.len() as u64 > 2 * WINDOW {
            window.seen.retain(|counter| *counter > oldest);
        }
        packet.counter > oldest && window.seen.insert(packet.counter)
    }

    pub(super) fn take_deltas(&mut self, now: Now, sender: NodeId, records: Vec<Record>) {
        let before = self.refused;
        for record in records {
            let Some(catalog) = &mut self.catalog else { return };
            if self.refused - before >= OFFENCES_MAX as u64 {
                continue;
            }
            match catalog.screen(now, &record) {
                Screen::Take => self.take_record(now, record, Relay::Delta(sender)),
                Screen::Known => self.effects.push_back(Effect::Got { item: item_of(&record), fresh: false }),
                Screen::OverRate { .. } => {}
            }
        }
    }

    /// Small pulls are news and are told on; large ones are repair. Which it is shows at the end.
    pub(super) fn on_pulled(&mut self, now: Now, from: NodeId, records: Vec<Record>, done: bool) {
        let mut pull = self.pulled.remove(&from).unwrap_or_default();
        pull.records.extend(records);
        pull.is_bulk |= pull.records.len() > NEWS_RECORDS_MAX;
        let relay = if pull.is_bulk { Relay::Quiet } else { Relay::Eager };
        let held = if done || pull.is_bulk { std::mem::take(&mut pull.records) } else { Vec::new() };
        if !done {
            self.pulled.insert(from, pull);
        }
        self.take_records(now, held, relay);
        if done {
            self.with_catalog(|catalog| catalog.pulled(now, from));
        }
    }

    pub(super) fn on_pull_failed(&mut self, now: Now, from: NodeId) {
        let so_far = self.pulled.remove(&from).unwrap_or_default().records;
        self.take_records(now, so_far, Relay::Quiet);
        self.with_catalog(|catalog| catalog.pull_failed(now, from));
    }

    pub(super) fn take_records(&mut self, now: Now, records: Vec<Record>, relay: Relay) {
        for record in records {
            self.take_record(now, record, relay);
        }
    }

    fn take_record(&mut self, now: Now, record: Record, relay: Relay) {
        let origin = record.origin();
        if origin == self.node {
            return self.meet_own_past(now, &record);
        }
        let Some(catalog) = &mut self.catalog else { return };
        if let Some(held) = catalog.get(&record.id())
            && held.version() >= record.version()
        {
            self.effects.push_back(Effect::Got { item: item_of(&record), fresh: false });
            // Nothing new. The same bytes from a peer confirm what came from the store.
            if held.encoded() == record.encoded() {
                catalog.merge(now, record, relay);
                return;
            }
            // So does an older version, once judged: else a host that was set back never meets its own future. Other bytes of
            // the same version are judged as well.
            if held.version() > record.version() && catalog.is_confirmed(&record.id()) {
                return;
            }
        }
        if !is_signed(&record) {
            self.refused += 1;
            return;
        }
        if !is_node(&record) && self.setup.node_bytes.is_some() && !self.proven.contains(&origin) {
            return self.wait(record);
        }
        let proves = is_node(&record);
        self.merge(now, record, relay);
        if proves {
            let released = self.waiting.remove(&origin).unwrap_or_default();
            self.waiting_bytes -= released.iter().map(|record| record.encoded().len()).sum::<usize>();
            self.take_records(now, released, relay);
        }
    }

    fn wait(&mut self, record: Record) {
        self.waiting_bytes += record.encoded().len();
        self.waiting.entry(record.origin()).or_default().push(record);
        if self.waiting_bytes > WAITING_BYTES_MAX {
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
    }

    pub(super) fn merge(&mut self, now: Now, record: Record, relay: Relay) {
        let Some(catalog) = &mut self.catalog else { return };
        let (item, proves, origin) = (item_of(&record), is_node(&record), record.origin());
        let applied = matches!(catalog.merge(now, record, relay), Merge::Applied { .. });
        if applied && proves {
            self.proven.insert(origin);
        }
        self.effects.push_back(Effect::Got { item, fresh: applied });
    }

    /// What the store kept: shown, offered to nobody. This host's own are published anew.
    pub(super) fn restore_records(&mut self) {
        let records = std::mem::take(&mut self.disk.records);
        let Some(catalog) = &mut self.catalog else { return };
        let (nodes, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_node);
        for record in nodes.into_iter().chain(others) {
            if record.origin() == self.node {
                continue;
            }
            if is_node(&record) {
                self.proven.insert(record.origin());
            }
            catalog.restore(record);
        }
    }

    pub(super) fn forget_origin(&mut self, node: NodeId) {
        self.forgets += 1;
        self.with_catalog(|catalog| catalog.forget_origin(node));
        self.proven.remove(&node);
        let released = self.waiting.remove(&node).unwrap_or_default();
        self.waiting_bytes -= released.iter().map(|record| record.encoded().len()).sum::<usize>();
        self.pulled.remove(&node);
    }

    /// Lets go of hosts that left records behind but that membership has not known for long.
    pub(super) fn forget_strangers(&mut self, now: Now) {
        let Some(catalog) = &self.catalog else { return };
        if !self.swim.in_contact() {
            return self.strangers.clear();
        }
        let swim = &self.swim;
        self.strangers.retain(|node, _| swim.whereabouts(*node).is_none());
        let held: BTreeSet<NodeId> = catalog.records().filter(|record| is_node(record)).map(Record::origin).collect();
        for node in held.into_iter().filter(|node| swim.whereabouts(*node).is_none()) {
            self.strangers.entry(node).or_insert(now);
        }
        let gone: Vec<NodeId> = self
            .strangers
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) > STRANGER_LIFETIME)
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            self.strangers.remove(&node);
            self.forget_origin(node);
        }
    }

    /// A record of this host that a peer holds: is it newer than its own, or one of this start that it has not written?
    fn meet_own_past(&mut self, now: Now, record: &Record) {
        let version = record.version();
        let unwritten = self.catalog.as_ref().is_some_and(|catalog| catalog.is_unwritten(record));
        let is_past = version > self.version || (version.epoch == self.version.epoch && unwritten);
        if !is_past || self.rises_here >= RISES_HERE_MAX || !is_signed(record) {
            return;
        }
        let seen = record.version().epoch;
        if self.disk.rises < RISES_MAX {
            self.disk.rises += 1;
            self.disk.epoch = self.disk.epoch.max(seen);
            self.effects.push_back(Effect::End(End::OwnPast));
            return;
        }
        self.rises_here += 1;
        let epoch = seen.saturating_add(1);
        self.disk.epoch = self.disk.epoch.max(epoch);
        self.version = Version { epoch, sequence: 0 };
        self.republish(now, Version { epoch, sequence: 0 });
    }

    /// The revision of a service that this host holds of another; `None` if it holds none, or a tombstone.
    pub(crate) fn revision_of(&self, origin: NodeId, service: u32) -> Option<u64> {
        let id = RecordId { origin, kind: RecordKind::SERVICE, key: service_key(service) };
        let record = self.catalog.as_ref()?.get(&id).filter(|record| !record.header().tombstone)?;
        record.body().first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// All that the catalog holds and that others may be told.
    pub(crate) fn confirmed(&self) -> impl Iterator<Item = &Record> {
        self.held().filter(|record| self.is_confirmed(record))
    }

    /// False for what only this host's store speaks for.
    pub(crate) fn is_confirmed(&self, record: &Record) -> bool {
        self.catalog.as_ref().is_some_and(|catalog| catalog.is_confirmed(&record.id()))
    }

    /// All that the catalog holds, tombstones included.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Record> {
        self.catalog.iter().flat_map(Catalog::held)
    }
}

pub(super) fn service_key(service: u32) -> Bytes {
    Bytes::from(format!("s{service}"))
}
