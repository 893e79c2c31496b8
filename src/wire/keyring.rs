//! The gossip keyring: which keys open packets, which one seals them, which were removed, and how the keyrings of two
//! hosts become one.
//!
//! Every key has an entry (held or removed) and one key is the primary. Each entry, and the choice of the primary, is a
//! register whose latest stamp (counter, writer) wins, so that merging is commutative, associative and idempotent: in
//! whatever order hosts meet, they end with the same keyring, and a key that was removed does not come back from a host
//! that was away. Pure: changes and other hosts' keyrings come in, a keyring goes out. docs/adr/0009 has the reasons.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::seal::GossipKey;
use crate::model::NodeId;

/// Keys held at once: a rotation needs two, and each costs the opener a key derivation for every packet that none opens.
pub const KEYS_MAX: usize = 8;
/// Keys tried on a packet. Installs on two sides of a cut may go beyond [`KEYS_MAX`] together.
const KEYS_TRIED_MAX: usize = 2 * KEYS_MAX;
/// Removed keys remembered one by one; older ones are below the floor.
const REMOVED_MAX: usize = 64;
/// What another host's keyring may have. Changes made on two sides of a cut add up, but never to this.
const ENTRIES_MAX: usize = 256;
/// A full keyring takes some 20 KiB.
const KEYRING_BYTES_MAX: usize = 32 * 1024;
/// A counter so far beyond ours was not reached by anybody's changes; taking it over would bring the end of counting near.
const COUNTER_JUMP_MAX: u64 = 1 << 32;

const FINGERPRINT_LABEL: &[u8] = b"weft gossip key fingerprint 1\0";
const DIGEST_LABEL: &[u8] = b"weft keyring 1\0";

/// What a key is called: 16 hex digits, from which the key cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a key.
    pub fn of(key: &GossipKey) -> Fingerprint {
        let hash = digest(&SHA256, &[FINGERPRINT_LABEL, &key.0].concat());
        Fingerprint(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 16 hex digits")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Fingerprint, FingerprintError> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| FingerprintError)?;
        bytes.try_into().map(Fingerprint).map_err(|_| FingerprintError)
    }
}

/// When something was said and by whom; the later wins. The counter is Lamport's: one above all that its writer had seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
struct Stamp {
    counter: u64,
    writer: Writer,
}

/// A node id that has a lowest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Writer(NodeId);

impl Default for Writer {
    fn default() -> Writer {
        Writer(NodeId([0; 16]))
    }
}

/// The key that the cluster was made with, and its being the primary: the same on every host, older than any change.
const FIRST: Stamp = Stamp { counter: 1, writer: Writer(NodeId([0; 16])) };

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    stamp: Stamp,
    removed: bool,
    /// `None` once removed, except for the primary, which stays in force until another key takes its place.
    key: Option<GossipKey>,
}

impl Entry {
    /// What is compared; equal stamps come only from a host that was set back, and then all must choose the same.
    fn rank(&self) -> (Stamp, bool) {
        (self.stamp, self.removed)
    }
}

/// The keyring of one host. It always holds its primary. Printed without the keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Told", into = "Told")]
pub struct Keyring {
    entries: BTreeMap<Fingerprint, Entry>,
    /// What was said at or before this stamp is forgotten, and its key counts as removed.
    floor: Stamp,
    primary: Fingerprint,
    chosen: Stamp,
}

/// Why a keyring does not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There is no such key.
    #[error("no key {0} is in the keyring; `weft keyring list` shows those that are")]
    Unknown(Fingerprint),
    /// It seals packets.
    #[error("{0} is the primary key; make another key the primary first: weft keyring use FINGERPRINT")]
    Primary(Fingerprint),
    /// More would make every strange packet expensive.
    #[error("the keyring holds {KEYS_MAX} keys already; remove one first: weft keyring remove FINGERPRINT")]
    Full,
    /// Another host's keyring is beyond a limit, or does not make sense.
    #[error("a keyring that cannot be taken over: {0}")]
    Invalid(&'static str),
}

/// What a host says of its keyring when it is asked, without the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyringStatus {
    /// The keys that open packets, the primary first, then the latest first.
    pub keys: Vec<Fingerprint>,
}

impl KeyringStatus {
    /// False for more keys than any host can hold.
    pub fn is_plausible(&self) -> bool {
        (1..=KEYS_TRIED_MAX).contains(&self.keys.len())
    }

    /// The key that seals packets.
    pub fn primary(&self) -> Option<Fingerprint> {
        self.keys.first().copied()
    }

    /// True if packets of this key are opened.
    pub fn holds(&self, key: Fingerprint) -> bool {
        self.keys.contains(&key)
    }
}

impl Keyring {
    /// The keyring of a cluster that has never changed it.
    pub fn new(key: GossipKey) -> Keyring {
        let primary = Fingerprint::of(&key);
        let entry = Entry { stamp: FIRST, removed: false, key: Some(key) };
        Keyring { entries: BTreeMap::from([(primary, entry)]), floor: Stamp::default(), primary, chosen: FIRST }
    }

    /// The key that seals packets.
    pub fn primary(&self) -> Fingerprint {
        self.primary
    }

    /// The same key itself. A keyring always holds it: that is checked where one is read, and kept by every change.
    pub fn primary_key(&self) -> &GossipKey {
        let entry = self.entries.get(&self.primary);
        entry.and_then(|entry| entry.key.as_ref()).expect("a keyring holds its primary")
    }

    /// The keys that open packets: the primary, then the latest first.
    pub fn keys(&self) -> Vec<GossipKey> {
        self.held().into_iter().filter_map(|(_, entry)| entry.key.clone()).collect()
    }

    /// What this host tells others of its keyring.
    pub fn status(&self) -> KeyringStatus {
        KeyringStatus { keys: self.held().into_iter().map(|(fingerprint, _)| fingerprint).collect() }
    }

    /// True if packets of this key are opened.
    pub fn holds(&self, key: Fingerprint) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.key.is_some())
    }

    /// True for a key that was installed after the primary was chosen: a rotation that has begun.
    pub fn awaits_use(&self, key: Fingerprint) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.key.is_some() && entry.stamp > self.chosen)
    }

    fn held(&self) -> Vec<(Fingerprint, &Entry)> {
        let mut held: Vec<(Fingerprint, &Entry)> =
            self.entries.iter().filter(|(_, entry)| entry.key.is_some()).map(|(key, entry)| (*key, entry)).collect();
        held.sort_by_key(|(key, entry)| (*key != self.primary, std::cmp::Reverse(entry.stamp)));
        held.truncate(KEYS_TRIED_MAX);
        held
    }

    // Changes.

    /// The same with one key more. A key that is held already changes nothing.
    pub fn install(&self, key: GossipKey, writer: NodeId) -> Result<Keyring, KeyringError> {
        let fingerprint = Fingerprint::of(&key);
        if self.entries.get(&fingerprint).is_some_and(|entry| !entry.removed) {
            return Ok(self.clone());
        }
        if !self.holds(fingerprint) && self.entries.values().filter(|entry| entry.key.is_some()).count() >= KEYS_MAX {
            return Err(KeyringError::Full);
        }
        let entry = Entry { stamp: self.next_stamp(writer)?, removed: false, key: Some(key) };
        let mut next = self.clone();
        next.entries.insert(fingerprint, entry);
        Ok(next)
    }

    /// The same with another primary, which must be held.
    pub fn choose(&self, key: Fingerprint, writer: NodeId) -> Result<Keyring, KeyringError> {
        if !self.holds(key) {
            return Err(KeyringError::Unknown(key));
        }
        if key == self.primary {
            return Ok(self.clone());
        }
        let chosen = self.next_stamp(writer)?;
        Ok(Keyring { primary: key, chosen, ..self.clone() }.settled())
    }

    /// The same without a key, which must not be the primary: so the last one stays.
    pub fn remove(&self, key: Fingerprint, writer: NodeId) -> Result<Keyring, KeyringError> {
        if key == self.primary {
            return Err(KeyringError::Primary(key));
        }
        if !self.holds(key) {
            return Err(KeyringError::Unknown(key));
        }
        let entry = Entry { stamp: self.next_stamp(writer)?, removed: true, key: None };
        let mut next = self.clone();
        next.entries.insert(key, entry);
        next.forget_oldest();
        Ok(next.settled())
    }

    fn next_stamp(&self, writer: NodeId) -> Result<Stamp, KeyringError> {
        let counter =
            self.latest().checked_add(1).ok_or(KeyringError::Invalid("its count of changes is at its end"))?;
        Ok(Stamp { counter, writer: Writer(writer) })
    }

    fn latest(&self) -> u64 {
        let entries = self.entries.values().map(|entry| entry.stamp.counter);
        entries.chain([self.floor.counter, self.chosen.counter]).max().unwrap_or(0)
    }

    /// Raises the floor over the oldest removals, as far as no key that is held is older: those it would remove too.
    fn forget_oldest(&mut self) {
        let held = self.entries.values().filter(|entry| !entry.removed).map(|entry| entry.stamp).min();
        let mut removed: Vec<Stamp> =
            self.entries.values().filter(|entry| entry.removed).map(|entry| entry.stamp).collect();
        removed.sort_unstable();
        let too_many = removed.len().saturating_sub(REMOVED_MAX);
        let fits = |stamp: &&Stamp| held.is_none_or(|held| **stamp < held);
        if let Some(floor) = removed.iter().take(too_many).rfind(fits) {
            self.floor = self.floor.max(*floor);
        }
    }

    // Merging.

    /// What two hosts hold once they have met. Refuses a keyring that no lawful host can have; nothing has changed then.
    pub fn merge(&self, other: &Keyring) -> Result<Keyring, KeyringError> {
        if other.latest() > self.latest().saturating_add(COUNTER_JUMP_MAX) {
            return Err(KeyringError::Invalid("its count of changes is far beyond any that was made"));
        }
        let mut merged = self.clone();
        merged.floor = merged.floor.max(other.floor);
        if (other.chosen, other.primary) > (merged.chosen, merged.primary) {
            (merged.chosen, merged.primary) = (other.chosen, other.primary);
        }
        for (fingerprint, entry) in &other.entries {
            match merged.entries.entry(*fingerprint) {
                Slot::Vacant(slot) => drop(slot.insert(entry.clone())),
                Slot::Occupied(mut slot) => {
                    let ours = slot.get_mut();
                    let key = ours.key.take().or_else(|| entry.key.clone());
                    if entry.rank() > ours.rank() {
                        *ours = entry.clone();
                    }
                    // `settled` drops it again if it is not to be held.
                    ours.key = key;
                }
            }
        }
        let merged = merged.settled();
        if merged.entries.len() > ENTRIES_MAX {
            return Err(KeyringError::Invalid("together with this host's it has too many keys"));
        }
        Ok(merged)
    }

    /// Brings every entry to the one form that follows from the registers: what is at or below the floor is gone, removed
    /// keys are dropped, and the primary is held whatever else is said of it, so that no host is ever without a key. A host
    /// that names a primary holds it, so the key is always there to be kept.
    fn settled(mut self) -> Keyring {
        let (primary, floor) = (self.primary, self.floor);
        self.entries.retain(|fingerprint, entry| *fingerprint == primary || entry.stamp > floor);
        for (fingerprint, entry) in &mut self.entries {
            if entry.stamp <= floor {
                (entry.stamp, entry.removed) = (floor, true);
            }
            if entry.removed && *fingerprint != primary {
                entry.key = None;
            }
        }
        self
    }

    // Bytes.

    /// Equal exactly for equal keyrings; tells nothing of the keys.
    pub fn digest(&self) -> [u8; 16] {
        let mut bytes = DIGEST_LABEL.to_vec();
        let mut add = |stamp: Stamp, key: &[u8]| {
            bytes.extend_from_slice(&stamp.counter.to_be_bytes());
            bytes.extend_from_slice(stamp.writer.0.as_bytes());
            bytes.extend_from_slice(key);
        };
        add(self.floor, &[]);
        add(self.chosen, &self.primary.0);
        for (fingerprint, entry) in &self.entries {
            add(entry.stamp, &fingerprint.0);
            add(Stamp::default(), &[u8::from(entry.removed)]);
        }
        digest(&SHA256, &bytes).as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The bytes that are kept on disk and handed to a new host. They hold the keys.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self, KEYRING_BYTES_MAX)
    }

    /// Reads what [`Keyring::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Keyring, CodecError> {
        codec::decode(bytes, KEYRING_BYTES_MAX)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let removed = self.entries.iter().filter(|(_, entry)| entry.removed).map(|(fingerprint, _)| fingerprint);
        f.debug_struct("Keyring")
            .field("primary", &self.primary)
            .field("keys", &self.status().keys)
            .field("removed", &removed.collect::<Vec<_>>())
            .field("changes", &self.latest())
            .finish()
    }
}

/// A keyring as it travels and lies on disk, not yet checked.
#[derive(Serialize, Deserialize)]
struct Told {
    floor: Stamp,
    primary: Fingerprint,
    chosen: Stamp,
    entries: Vec<ToldEntry>,
}

#[derive(Serialize, Deserialize)]
struct ToldEntry {
    fingerprint: Fingerprint,
    stamp: Stamp,
    removed: bool,
    key: Option<[u8; 32]>,
}

impl From<Keyring> for Told {
    fn from(keyring: Keyring) -> Told {
        let Keyring { entries, floor, primary, chosen } = keyring;
        let entries = entries.into_iter().map(|(fingerprint, Entry { stamp, removed, key })| ToldEntry {
            fingerprint,
            stamp,
            removed,
            key: key.map(|key| key.0),
        });
        Told { floor, primary, chosen, entries: entries.collect() }
    }
}

impl TryFrom<Told> for Keyring {
    type Error = KeyringError;

    fn try_from(told: Told) -> Result<Keyring, KeyringError> {
        let Told { floor, primary, chosen, entries: list } = told;
        if list.len() > ENTRIES_MAX {
            return Err(KeyringError::Invalid("it has too many keys"));
        }
        let mut entries = BTreeMap::new();
        for ToldEntry { fingerprint, stamp, removed, key } in list {
            let key = key.map(GossipKey);
            if key.as_ref().is_some_and(|key| Fingerprint::of(key) != fingerprint) {
                return Err(KeyringError::Invalid("one of its keys goes by the name of another"));
            }
            if key.is_none() && (!removed || fingerprint == primary) {
                return Err(KeyringError::Invalid("it lacks a key that it says is held"));
            }
            if entries.insert(fingerprint, Entry { stamp, removed, key }).is_some() {
                return Err(KeyringError::Invalid("it names a key twice"));
            }
        }
        if !entries.contains_key(&primary) {
            return Err(KeyringError::Invalid("it does not hold its primary"));
        }
        Ok(Keyring { entries, floor, primary, chosen }.settled())
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
