//! What survives a restart, under one data directory that one agent owns at a time:
//!
//! ```text
//! lock              flock, held by the agent
//! epoch             the number of this host's latest start; raised and fsynced before it is used
//! incarnation       SWIM's, so that a restarted host outbids what was said of it
//! vips.json         the addresses given to services
//! rises             how often in a row this host met records of its own from a later start
//! in-hand           which foreign records are being handled (see `journal`)
//! quarantine.json   records that are not touched any more (see `quarantined`)
//! registrations/, maintenance.json    what came by the API (see `registrations`)
//! policies.json, policy-history/      what operators decided (see `registrations`)
//! catalog/          sled: records and members, a cache that gossip can refill
//! catalog.next/     the same, begun because `catalog/` did not open in time; takes its place at the next start
//! catalog.corrupt-N, catalog.slow-N   caches that were moved aside, the last two of them
//! ```
//!
//! Small files are replaced whole and fsynced; only the cache may be lost. Nothing here decides what is true: records and
//! claims come in from the owner and go out as they were.

mod cache;
mod file;
mod journal;
mod lock;
mod open;
mod quarantined;
mod registrations;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::model::{Claim, Record, RecordId};

pub use file::write_atomically;
pub use journal::{InHand, Journal};
pub use open::{MovedAside, Opened};
pub use quarantined::Quarantine;
pub use registrations::{FileChange, Kept, REGISTRATION_BYTES_MAX, Registration, Registrations, set_aside};
pub use writer::{FilesDone, StoreWriter};

use cache::Cache;
use file::{SMALL_FILE_BYTES_MAX, read_bounded};
use lock::Lock;

/// The VIP file's limit: 100,000 names of 128 bytes with their addresses.
const VIPS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent owns the directory.
    #[error(
        "{} is in use by another weft agent{}; stop that one first, or give this one a --data-dir of its own",
        directory.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// Who owns it, where the lock file tells.
        pid: Option<u32>,
    },
    /// A file or directory could not be read or written.
    #[error("{} could not be {what}: {error}; the agent's user must own it and the disk must have room", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// "read", "written", ...
        what: &'static str,
        /// The system's reason.
        error: io::Error,
    },
    /// A counter's file holds something else. Guessing could repeat an epoch, and an epoch must never repeat.
    #[error(
        "{} should hold one number and does not; restore it, or write a number into it that is larger than any it ever \
         held (`weft members` on another host shows what is known there)", path.display()
    )]
    Counter {
        /// The file.
        path: PathBuf,
    },
    /// The cache failed while in use.
    #[error("the catalog cache failed: {0}; it is only a cache: it is moved aside at the next start and refilled")]
    Cache(String),
    /// Neither the cache nor a new one opened within the deadline.
    #[error("no catalog cache opened under {} in time; look at that disk", directory.display())]
    Deadline {
        /// The data directory.
        directory: PathBuf,
    },
}

/// The open store. Calls block on the disk: an owner that must not block hands it to [`Store::writer`].
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    cache: Cache,
    /// Released when the store is dropped.
    _lock: Lock,
}

impl Store {
    /// Raises the epoch, fsyncs it and gives the new one: one above the last, or `least` if that is more. Call it once a start,
    /// before anything is signed or sealed.
    pub fn next_epoch(&self, least: u64) -> Result<u64, StoreError> {
        let epoch = self.counter("epoch")?.saturating_add(1).max(least);
        self.set_counter("epoch", epoch)?;
        Ok(epoch)
    }

    /// Makes the next epoch larger than `seen`: for a host whose disk was set back, when it meets its own later records.
    pub fn raise_epoch(&self, seen: u64) -> Result<(), StoreError> {
        if self.counter("epoch")? < seen { self.set_counter("epoch", seen) } else { Ok(()) }
    }

    /// How often in a row this host ended because it met records of its own from a later start.
    pub fn rises(&self) -> Result<u64, StoreError> {
        self.counter("rises")
    }

    /// Keeps that count.
    pub fn set_rises(&self, rises: u64) -> Result<(), StoreError> {
        self.set_counter("rises", rises)
    }

    /// The incarnation that was last kept; 0 at the first start.
    pub fn incarnation(&self) -> Result<u64, StoreError> {
        self.counter("incarnation")
    }

    /// Keeps the incarnation.
    pub fn set_incarnation(&self, incarnation: u64) -> Result<(), StoreError> {
        self.set_counter("incarnation", incarnation)
    }

    /// Keeps records, each in the place of an older one of the same id.
    pub fn save_records(&self, records: &[Record]) -> Result<(), StoreError> {
        let changes = records.iter().map(|record| (record.id(), Some(record.clone())));
        self.cache.change_records(changes).map_err(|error| self.cache_failed(&error))
    }

    /// Drops records.
    pub fn remove_records(&self, ids: &[RecordId]) -> Result<(), StoreError> {
        let changes = ids.iter().map(|id| (id.clone(), None));
        self.cache.change_records(changes).map_err(|error| self.cache_failed(&error))
    }

    /// Keeps exactly these members.
    pub fn save_members(&self, members: &[Claim]) -> Result<(), StoreError> {
        self.cache.replace_members(members).map_err(|error| self.cache_failed(&error))
    }

    /// The addresses given to services and `TAG.SERVICE`s. A file that cannot be understood is moved aside: services get
    /// new addresses then.
    pub fn load_vips(&self) -> Result<BTreeMap<String, Ipv4Addr>, StoreError> {
        let path = self.vips_path();
        let Some(bytes) = read_bounded(&path, VIPS_BYTES_MAX).map_err(|error| file_error(&path, "read", error))? else {
            return Ok(BTreeMap::new());
        };
        if let Ok(vips) = serde_json::from_slice(&bytes) {
            return Ok(vips);
        }
        let aside = path.with_extension("json.corrupt");
        tracing::warn!(path = %path.display(), aside = %aside.display(), "VIP file is corrupt: services get new addresses");
        std::fs::rename(&path, &aside).map_err(|error| file_error(&path, "moved aside", error))?;
        Ok(BTreeMap::new())
    }

    /// Keeps the addresses given to services.
    pub fn save_vips(&self, vips: &BTreeMap<String, Ipv4Addr>) -> Result<(), StoreError> {
        let path = self.vips_path();
        let json = serde_json::to_vec_pretty(vips).map_err(|error| file_error(&path, "written", error.into()))?;
        write_atomically(&path, &json, 0o600).map_err(|error| file_error(&path, "written", error))
    }

    /// Everything kept so far is on disk when this returns.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.cache.flush().map_err(|error| self.cache_failed(&error))
    }

    /// Gives the store a thread of its own.
    pub fn writer(self) -> io::Result<StoreWriter> {
        StoreWriter::start(self)
    }

    fn vips_path(&self) -> PathBuf {
        self.directory.join("vips.json")
    }

    fn counter(&self, name: &str) -> Result<u64, StoreError> {
        let path = self.directory.join(name);
        match read_bounded(&path, SMALL_FILE_BYTES_MAX) {
            Ok(None) => Ok(0),
            Ok(Some(bytes)) => {
                let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
                number.ok_or(StoreError::Counter { path })
            }
            Err(error) => Err(file_error(&path, "read", error)),
        }
    }

    fn set_counter(&self, name: &str, value: u64) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        let text = format!("{value}\n");
        write_atomically(&path, text.as_bytes(), 0o600).map_err(|error| file_error(&path, "written", error))
    }

    /// A cache that turned out to be broken is marked, so that the next start moves it aside instead of trusting it.
    fn cache_failed(&self, error: &sled::Error) -> StoreError {
        if !matches!(error, sled::Error::Io(_)) {
            let marked = write_atomically(&self.directory.join(open::BROKEN_MARK), b"", 0o600);
            if let Err(error) = marked {
                tracing::warn!(%error, "the broken catalog cache could not be marked for the next start");
            }
        }
        StoreError::Cache(error.to_string())
    }
}

fn file_error(path: &Path, what: &'static str, error: io::Error) -> StoreError {
    StoreError::File { path: path.to_path_buf(), what, error }
}
