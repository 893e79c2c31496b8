//! The sled database: records under `1 ‖ origin ‖ kind ‖ key`, members under `2 ‖ node id`. Values are a record's own
//! envelope, and a format byte with a bincode claim. What cannot be read back is left out and named in the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::Bytes;

use crate::model::{Claim, NodeId, Record, RecordId, RecordKind};

const RECORD: u8 = 1;
const MEMBER: u8 = 2;
/// The version of a member's encoding.
const MEMBER_FORMAT: u8 = 1;
/// A claim is a name, an address, two ids and up to two signatures with their keys: 400 bytes at most.
const MEMBER_BYTES_MAX: usize = 1024;
/// sled's page cache. Everything is read once, at the start; after that the cache only serves writes, and an idle agent
/// must stay within 20 MB.
const CACHE_BYTES: u64 = 1024 * 1024;
/// A batch holds what it changes in memory until it is applied.
const BATCH_LEN_MAX: usize = 256;

/// sled's threads let go of a database a moment after its last handle. That nobody else has it, the store's lock says.
const HELD_MAX: Duration = Duration::from_secs(2);
const HELD_PAUSE: Duration = Duration::from_millis(10);

type Format = Configuration<LittleEndian, Fixint, Limit<MEMBER_BYTES_MAX>>;

fn format() -> Format {
    bincode::config::standard().with_fixed_int_encoding().with_limit()
}

fn open_database(path: &Path) -> Result<sled::Db, sled::Error> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(error) if is_held(&error) && begun.elapsed() < HELD_MAX => thread::sleep(HELD_PAUSE),
            opened => return opened,
        }
    }
}

/// True if somebody still has the database open: it is not damaged. sled tells that by its words alone.
pub(super) fn is_held(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

/// The open database.
#[derive(Debug)]
pub(super) struct Cache {
    db: sled::Db,
}

/// A cache and all that it holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) cache: Cache,
    pub(super) records: Vec<Record>,
    pub(super) members: Vec<Claim>,
}

impl Cache {
    /// Opens and reads the whole database: damage shows when a page is read, so a cache counts as sound only after that.
    pub(super) fn open(path: &Path) -> Result<Contents, sled::Error> {
        let db = open_database(path)?;
        let mut contents = Contents { cache: Cache { db }, records: Vec::new(), members: Vec::new() };
        let mut unreadable = 0_u64;
        for entry in contents.cache.db.iter() {
            let (key, value) = entry?;
            match read_entry(&key, &value) {
                Some(Entry::Record(record)) => contents.records.push(record),
                Some(Entry::Member(claim)) => contents.members.push(claim),
                None => unreadable += 1,
            }
        }
        if unreadable > 0 {
            tracing::warn!(unreadable, "entries of the catalog cache were not understood and are left out");
        }
        Ok(contents)
    }

    /// Keeps or drops records.
    pub(super) fn change_records(
        &self,
        changes: impl Iterator<Item = (RecordId, Option<Record>)>,
    ) -> Result<(), sled::Error> {
        self.apply(changes.map(|(id, record)| (record_key(&id), record.map(|record| record.encoded().to_vec()))))
    }

    /// Keeps exactly these members; those that are already there as they are cost nothing.
    pub(super) fn replace_members(&self, members: &[Claim]) -> Result<(), sled::Error> {
        let mut wanted: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for claim in members {
            wanted.insert(member_key(claim.node), encode_member(claim)?);
        }
        let mut gone = Vec::new();
        for entry in self.db.scan_prefix([MEMBER]) {
            let (key, value) = entry?;
            match wanted.get(key.as_ref()) {
                Some(same) if *same == value.as_ref() => drop(wanted.remove(key.as_ref())),
                Some(_) => {}
                None => gone.push(key.to_vec()),
            }
        }
        let set = wanted.into_iter().map(|(key, value)| (key, Some(value)));
        self.apply(set.chain(gone.into_iter().map(|key| (key, None))))
    }

    /// Waits until all of it is on disk.
    pub(super) fn flush(&self) -> Result<(), sled::Error> {
        self.db.flush().map(drop)
    }

    fn apply(&self, changes: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), sled::Error> {
        let mut changes = changes.peekable();
        while changes.peek().is_some() {
            let mut batch = sled::Batch::default();
            for (key, value) in changes.by_ref().take(BATCH_LEN_MAX) {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            self.db.apply_batch(batch)?;
        }
        Ok(())
    }
}

enum Entry {
    Record(Record),
    Member(Claim),
}

fn read_entry(key: &[u8], value: &[u8]) -> Option<Entry> {
    match *key.first()? {
        RECORD => {
            let record = Record::decode(Bytes::copy_from_slice(value)).ok()?;
            (record_key(&record.id()) == key).then_some(Entry::Record(record))
        }
        MEMBER => {
            let (&format_byte, body) = value.split_first()?;
            let decoded = (format_byte == MEMBER_FORMAT).then(|| bincode::serde::decode_from_slice(body, format()))?;
            let (claim, used): (Claim, usize) = decoded.ok()?;
            (used == body.len() && member_key(claim.node) == key).then_some(Entry::Member(claim))
        }
        _ => None,
    }
}

fn record_key(id: &RecordId) -> Vec<u8> {
    let RecordId { origin, kind: RecordKind(kind), key } = id;
    [&[RECORD][..], origin.as_bytes(), &kind.to_be_bytes(), key].concat()
}

fn member_key(node: NodeId) -> Vec<u8> {
    [&[MEMBER][..], node.as_bytes()].concat()
}

fn encode_member(claim: &Claim) -> Result<Vec<u8>, sled::Error> {
    let body = bincode::serde::encode_to_vec(claim, format());
    let body =
        body.map_err(|error| sled::Error::Unsupported(format!("member {} does not encode: {error}", claim.node)))?;
    Ok([&[MEMBER_FORMAT][..], &body].concat())
}
