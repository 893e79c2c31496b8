//! One origin's records: which of them count, in the order of its log, and what they hash to.
//!
//! The state is a function of the *set* of records merged, never of their order:
//!
//! - the floor is the highest that any of the origin's floor records names; records with a lower version are void;
//! - of the floor records the one with the highest floor is kept (then by version): it is all that the floor needs;
//! - of the records that share kind and key, the one with the highest version is kept;
//! - two records of one version (an origin that went back in time) are ordered by their bytes, so that all hosts agree.
//!
//! Records from the store are held *unconfirmed*: readers see them, peers do not (they are neither hashed nor offered)
//! until a peer shows that it knows of them, or of all else that their start has said ([`Origin::confirm_current`]). No clock, no randomness, no messages here.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::{Merge, Refusal};
use crate::model::{NodeId, OriginSummary, Record, RecordId, RecordKind, Version};

/// What names a record within its origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) kind: RecordKind,
    pub(super) key: Bytes,
}

impl Slot {
    pub(super) fn of(record: &Record) -> Slot {
        Slot { kind: record.header().kind, key: record.header().key.clone() }
    }

    pub(super) fn of_id(id: &RecordId) -> Slot {
        Slot { kind: id.kind, key: id.key.clone() }
    }

    fn floor() -> Slot {
        Slot { kind: RecordKind::FLOOR, key: Bytes::new() }
    }
}

#[derive(Debug)]
struct Held {
    record: Record,
    hash: u64,
    confirmed: bool,
}

/// Room for one origin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Origin {
    records: BTreeMap<Slot, Held>,
    by_version: BTreeSet<(Version, Slot)>,
    floor: Version,
    bytes: usize,
    unconfirmed: usize,
    hash_offered: u64,
    hash_all: u64,
    /// Grows with every change that a pull could bring; never compared across hosts.
    changes: u64,
    agreed: Version,
    agreements_seen: u64,
}

impl Origin {
    /// Takes a record that a peer sent or that this host wrote.
    pub(super) fn merge(&mut self, record: Record, limits: Limits) -> Merge {
        if let Err(refusal) = check_floor(&record) {
            return Merge::Refused(refusal);
        }
        // Somebody knows this origin, so its floor is nobody's resurrection: it counts and may be offered.
        self.confirm(&Slot::floor());
        if record.version() < self.floor {
            return Merge::Void;
        }
        let slot = Slot::of(&record);
        if self.records.get(&slot).is_some_and(|held| !outranks(&record, &held.record)) {
            // The peer knows this record or an older version of it; the newer one is confirmed all the same.
            self.confirm(&slot);
            return Merge::Known;
        }
        if let Err(refusal) = self.check_room(&record, &slot, limits) {
            return Merge::Refused(refusal);
        }
        let (replaced, voided) = self.put(slot, record, true);
        Merge::Applied { replaced, voided }
    }

    /// Takes a record from the store; fills only what nobody has spoken of. False if it is not held afterwards.
    pub(super) fn restore(&mut self, record: Record, own: bool, limits: Limits) -> bool {
        let slot = Slot::of(&record);
        let settled = self.records.get(&slot).is_some_and(|held| held.confirmed || !outranks(&record, &held.record));
        let known = self.records.len() > self.unconfirmed;
        if settled
            || record.version() < self.floor
            || check_floor(&record).is_err()
            || self.check_room(&record, &slot, limits).is_err()
        {
            return false;
        }
        let confirmed = own || (known && slot.kind == RecordKind::FLOOR);
        self.put(slot, record, confirmed);
        true
    }

    /// True if the writer of all that is held here cannot have written this: it would take the place of something, or its
    /// version was given to something else.
    pub(super) fn never_wrote(&self, record: &Record) -> bool {
        let (version, slot) = (record.version(), Slot::of(record));
        if check_floor(record).is_err() || version < self.floor {
            return false;
        }
        let mut same_version =
            self.by_version.range((version, Slot::floor())..).take_while(|(held, _)| *held == version);
        let same_version = same_version.any(|(_, held)| *held != slot);
        let beside = |held: &Held| held.record.version() == version && held.record.encoded() != record.encoded();
        same_version || self.records.get(&slot).is_none_or(|held| outranks(record, &held.record) || beside(held))
    }

    fn check_room(&self, record: &Record, slot: &Slot, limits: Limits) -> Result<(), Refusal> {
        let origin = record.origin();
        let old_bytes = self.records.get(slot).map(|held| held.record.encoded().len());
        // A floor makes room: it must always get in.
        if slot.kind == RecordKind::FLOOR {
            return Ok(());
        }
        if old_bytes.is_none() && self.records.len() >= limits.records_max {
            return Err(Refusal::OriginFull { origin, records_max: limits.records_max });
        }
        if self.bytes - old_bytes.unwrap_or(0) + record.encoded().len() > limits.bytes_max {
            return Err(Refusal::OriginLarge { origin, bytes_max: limits.bytes_max });
        }
        Ok(())
    }

    fn put(&mut self, slot: Slot, record: Record, confirmed: bool) -> (Option<Record>, Vec<RecordId>) {
        let replaced = self.remove(&slot);
        let hash = record_hash(&record);
        let floor = record.floor();
        self.by_version.insert((record.version(), slot.clone()));
        self.bytes += record.encoded().len();
        self.hash_all = self.hash_all.wrapping_add(hash);
        if confirmed {
            self.hash_offered = self.hash_offered.wrapping_add(hash);
        } else {
            self.unconfirmed += 1;
        }
        self.records.insert(slot, Held { record, hash, confirmed });
        self.changes += 1;
        let voided = floor.map_or_else(Vec::new, |floor| self.raise_floor(floor));
        (replaced, voided)
    }

    fn raise_floor(&mut self, floor: Version) -> Vec<RecordId> {
        self.floor = self.floor.max(floor);
        let lowest_kept = (self.floor, Slot::floor());
        let void: Vec<Slot> = self.by_version.range(..lowest_kept).map(|(_, slot)| slot.clone()).collect();
        void.iter().filter_map(|slot| self.remove(slot)).map(|record| record.id()).collect()
    }

    // The entry goes with its key, so that the key's bytes do not keep the replaced record alive.
    fn remove(&mut self, slot: &Slot) -> Option<Record> {
        let (slot, held) = self.records.remove_entry(slot)?;
        self.by_version.remove(&(held.record.version(), slot));
        self.bytes -= held.record.encoded().len();
        self.hash_all = self.hash_all.wrapping_sub(held.hash);
        if held.confirmed {
            self.hash_offered = self.hash_offered.wrapping_sub(held.hash);
        } else {
            self.unconfirmed -= 1;
        }
        Some(held.record)
    }

    fn confirm(&mut self, slot: &Slot) {
        if self.unconfirmed == 0 {
            return;
        }
        if let Some(held) = self.records.get_mut(slot).filter(|held| !held.confirmed) {
            held.confirmed = true;
            self.hash_offered = self.hash_offered.wrapping_add(held.hash);
            self.unconfirmed -= 1;
            self.changes += 1;
        }
    }

    /// A peer's hash over all of the origin's records equals ours: it holds them all.
    pub(super) fn confirm_all(&mut self) {
        self.records.values_mut().for_each(|held| held.confirmed = true);
        self.unconfirmed = 0;
        self.hash_offered = self.hash_all;
        self.changes += 1;
    }

    /// A peer offers just what this host offers. What only the store has beside it, of the same start of the origin or a later
    /// one, was not let go: the floor that voids it would be among the rest. So either the peer has yet to hear of it, or the
    /// origin went back in time and has to meet it.
    pub(super) fn confirm_current(&mut self) {
        let Some(newest) = self.newest_offered().filter(|_| self.unconfirmed > 0) else { return };
        let start = (Version { sequence: 0, ..newest }, Slot::floor());
        let slots: Vec<Slot> = self.by_version.range(start..).map(|(_, slot)| slot.clone()).collect();
        slots.iter().for_each(|slot| self.confirm(slot));
    }

    pub(super) fn get(&self, slot: &Slot) -> Option<&Record> {
        self.records.get(slot).map(|held| &held.record)
    }

    pub(super) fn is_confirmed(&self, slot: &Slot) -> bool {
        self.records.get(slot).is_some_and(|held| held.confirmed)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(|held| &held.record)
    }

    /// What may be offered to peers and is newer than `after`, in the order of the log.
    pub(super) fn offered_after(&self, after: Version) -> impl Iterator<Item = &Record> {
        self.by_version
            .range((after, Slot::floor())..)
            .filter(move |(version, _)| *version > after)
            .filter_map(|(_, slot)| self.records.get(slot))
            .filter(|held| held.confirmed)
            .map(|held| &held.record)
    }

    /// True if a record of this version is held, or lies below the floor.
    pub(super) fn knows(&self, version: Version) -> bool {
        let held = self.by_version.range((version, Slot::floor())..).next().is_some_and(|(found, _)| *found == version);
        held || version < self.floor
    }

    /// What may be offered to peers of just this version: one record, unless the origin went back in time.
    pub(super) fn offered_at(&self, version: Version) -> impl Iterator<Item = &Record> {
        self.by_version
            .range((version, Slot::floor())..)
            .take_while(move |(found, _)| *found == version)
            .filter_map(|(_, slot)| self.records.get(slot))
            .filter(|held| held.confirmed)
            .map(|held| &held.record)
    }

    /// What peers are told; `None` while there is nothing that may be offered.
    pub(super) fn summary(&self, origin: NodeId) -> Option<OriginSummary> {
        let newest = self.newest_offered()?;
        Some(OriginSummary { origin, newest, hash: self.hash_offered })
    }

    pub(super) fn newest_offered(&self) -> Option<Version> {
        if self.unconfirmed == self.records.len() {
            return None;
        }
        let is_confirmed = |slot: &Slot| self.unconfirmed == 0 || self.is_confirmed(slot);
        self.by_version.iter().rev().find(|(_, slot)| is_confirmed(slot)).map(|(version, _)| *version)
    }

    /// The newest held, confirmed or not.
    pub(super) fn newest(&self) -> Version {
        self.by_version.last().map_or(Version::ZERO, |(version, _)| *version)
    }

    pub(super) fn hash_offered(&self) -> u64 {
        self.hash_offered
    }

    pub(super) fn hash_all(&self) -> u64 {
        self.hash_all
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// The newest version at which this host last held the same as some peer: what is missing now is likely above it.
    /// `agreements` is the bucket's count. The zero version: never, or a pull from there did not help.
    pub(super) fn agreed(&self, agreements: u64) -> Version {
        if self.agreements_seen == agreements {
            return self.agreed;
        }
        self.newest_offered().unwrap_or(Version::ZERO)
    }

    /// To be called before a change, so that an agreement of the whole bucket since the last one is not lost.
    pub(super) fn note_agreement(&mut self, agreements: u64) {
        self.set_agreed(agreements, self.agreed(agreements));
    }

    pub(super) fn set_agreed(&mut self, agreements: u64, agreed: Version) {
        self.agreed = agreed;
        self.agreements_seen = agreements;
    }
}

/// A floor names every record of the origin by one number; one without a key, not above itself, cannot void itself.
fn check_floor(record: &Record) -> Result<(), Refusal> {
    let origin = record.origin();
    match record.floor() {
        Some(_) if !record.header().key.is_empty() => Err(Refusal::FloorKey { origin }),
        Some(floor) if floor > record.version() => {
            Err(Refusal::FloorAboveItself { origin, floor, version: record.version() })
        }
        _ => Ok(()),
    }
}

/// True if `candidate` takes the place of `held`, which has the same slot.
fn outranks(candidate: &Record, held: &Record) -> bool {
    let rank = |record: &Record| (record.floor(), record.version());
    rank(candidate).cmp(&rank(held)).then_with(|| candidate.encoded().cmp(held.encoded())).is_gt()
}

/// The first 8 bytes of SHA-256 over what identifies a record. The signature covers all the rest. A cryptographic hash,
/// since hashes are added up and a host must not be able to choose records that cancel out.
fn record_hash(record: &Record) -> u64 {
    let header = record.header();
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(header.origin.as_bytes());
    context.update(&header.kind.0.to_be_bytes());
    context.update(&header.version.epoch.to_be_bytes());
    context.update(&header.version.sequence.to_be_bytes());
    context.update(record.signature());
    context.update(&header.key);
    let hash = context.finish();
    hash.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
