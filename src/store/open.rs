//! Opening: the lock, then the cache on a thread of its own with a deadline. A cache that is broken, or too slow, costs a
//! refill by gossip and never a start.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::model::{Claim, Record};

use super::cache::{Cache, Contents, is_held};
use super::lock::Lock;
use super::{Store, StoreError, file_error};

const CATALOG: &str = "catalog";
const NEXT: &str = "catalog.next";
/// Written when a running agent found its cache broken.
pub(super) const BROKEN_MARK: &str = "catalog.broken";
/// Broken caches are kept for whoever wants to know why, but not for ever.
const ASIDE_KEPT_MAX: usize = 2;

/// An open store and what the cache held.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Every record of the cache, tombstones and floors included, own and foreign.
    pub records: Vec<Record>,
    /// Every member of the cache, in the state that was last kept.
    pub members: Vec<Claim>,
    /// The cache that was not used, to be named in the log.
    pub moved_aside: Option<MovedAside>,
}

/// A cache that was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedAside {
    /// Where it is now.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// How an attempt to open a cache failed.
enum Failure {
    /// The disk or its permissions: a new cache would fare no better.
    Disk(io::Error),
    Corrupt(String),
    Late,
}

impl Failure {
    /// A new cache that does not open either is an error.
    fn of_a_new_cache(self, directory: &Path, path: &Path) -> StoreError {
        match self {
            Failure::Disk(error) => file_error(path, "opened", error),
            Failure::Corrupt(reason) => StoreError::Cache(reason),
            Failure::Late => StoreError::Deadline { directory: directory.to_path_buf() },
        }
    }
}

impl Store {
    /// Opens `directory`, made if it is not there, for this agent alone. Blocks for at most about twice `deadline`.
    pub fn open(directory: &Path, deadline: Duration) -> Result<Opened, StoreError> {
        Store::open_by(directory, deadline, Cache::open)
    }

    /// The same with a given way to open a cache, so that tests can have a slow disk.
    pub(super) fn open_by<O>(directory: &Path, deadline: Duration, open_cache: O) -> Result<Opened, StoreError>
    where
        O: Fn(&Path) -> Result<Contents, sled::Error> + Clone + Send + 'static,
    {
        let open_within = |path: &Path| open_within(path, deadline, open_cache.clone());
        let open_new = |path: &Path| open_within(path).map_err(|failure| failure.of_a_new_cache(directory, path));
        let lock = Lock::take(directory)?;
        take_next_into_use(directory)?;
        let mut moved_aside = move_marked_aside(directory)?;
        let path = directory.join(CATALOG);
        let contents = match open_within(&path) {
            Ok(contents) => contents,
            Err(Failure::Disk(error)) => return Err(file_error(&path, "opened", error)),
            Err(Failure::Corrupt(reason)) => {
                moved_aside = Some(MovedAside { path: move_aside(directory, &path, "corrupt")?, reason });
                open_new(&path)?
            }
            Err(Failure::Late) => {
                // The late thread still writes under the old path: it keeps that until the process ends.
                let reason = format!("it did not open within {deadline:?}");
                moved_aside = Some(MovedAside { path, reason });
                open_new(&directory.join(NEXT))?
            }
        };
        let Contents { cache, records, members } = contents;
        let store = Store { directory: directory.to_path_buf(), cache, _lock: lock };
        Ok(Opened { store, records, members, moved_aside })
    }
}

/// Opens on another thread: sled has no deadline of its own, and panics on some kinds of damage.
fn open_within<O>(path: &Path, deadline: Duration, open_cache: O) -> Result<Contents, Failure>
where
    O: FnOnce(&Path) -> Result<Contents, sled::Error> + Send + 'static,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    let owned = path.to_path_buf();
    let open = move || {
        let opened = catch_unwind(AssertUnwindSafe(|| open_cache(&owned)));
        // Nobody listens any more if this is late; the cache then closes here.
        let _ = sender.send(opened);
    };
    thread::Builder::new().name("weft-store-open".into()).spawn(open).map_err(Failure::Disk)?;
    match receiver.recv_timeout(deadline) {
        Ok(Ok(Ok(contents))) => Ok(contents),
        Ok(Ok(Err(sled::Error::Io(error)))) if is_about_the_disk(&error) => Err(Failure::Disk(error)),
        Ok(Ok(Err(error))) if is_held(&error) => Err(Failure::Late),
        Ok(Ok(Err(error))) => Err(Failure::Corrupt(error.to_string())),
        Ok(Err(_)) => Err(Failure::Corrupt("the database library panicked on it".into())),
        Err(_) => Err(Failure::Late),
    }
}

fn is_about_the_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), PermissionDenied | StorageFull | ReadOnlyFilesystem | QuotaExceeded)
}

/// The cache that was begun because the other was late becomes the cache. Whatever happens in between is made good by
/// the next start.
fn take_next_into_use(directory: &Path) -> Result<(), StoreError> {
    let (path, next) = (directory.join(CATALOG), directory.join(NEXT));
    if !exists(&next)? {
        return Ok(());
    }
    if exists(&path)? {
        move_aside(directory, &path, "slow")?;
    }
    fs::rename(&next, &path).map_err(|error| file_error(&next, "renamed", error))
}

fn move_marked_aside(directory: &Path) -> Result<Option<MovedAside>, StoreError> {
    let (path, mark) = (directory.join(CATALOG), directory.join(BROKEN_MARK));
    if !exists(&mark)? {
        return Ok(None);
    }
    let moved = match exists(&path)? {
        true => Some(MovedAside { path: move_aside(directory, &path, "corrupt")?, reason: "it failed in use".into() }),
        false => None,
    };
    fs::remove_file(&mark).map_err(|error| file_error(&mark, "removed", error))?;
    Ok(moved)
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|error| file_error(path, "read", error))
}

/// Renames `path` to `catalog.WHY-N`, N counting on, and removes all but the last ones.
fn move_aside(directory: &Path, path: &Path, why: &str) -> Result<PathBuf, StoreError> {
    let mut earlier = moved_earlier(directory).map_err(|error| file_error(directory, "read", error))?;
    let number = earlier.last().map_or(1, |(number, _)| number.saturating_add(1));
    let aside = directory.join(format!("{CATALOG}.{why}-{number}"));
    fs::rename(path, &aside).map_err(|error| file_error(path, "moved aside", error))?;
    earlier.truncate((earlier.len() + 1).saturating_sub(ASIDE_KEPT_MAX));
    for (_, old) in earlier {
        if let Err(error) = fs::remove_dir_all(&old) {
            tracing::warn!(path = %old.display(), %error, "an old catalog cache that was moved aside could not be removed");
        }
    }
    Ok(aside)
}

/// Caches moved aside before, oldest first.
fn moved_earlier(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix("catalog."));
        let number = rest.and_then(|rest| rest.strip_prefix("corrupt-").or_else(|| rest.strip_prefix("slow-")));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
