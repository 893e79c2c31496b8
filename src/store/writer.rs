//! The store on a thread of its own, so that the owner never waits for a disk. What is to be kept is handed over by id: a
//! newer version takes the place of one that was not written yet, so a slow disk costs freshness of the cache and never
//! more memory than the catalog has records.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::model::{Claim, Record, RecordId};

use super::{FileChange, Quarantine, Store, StoreError};

/// An fsync costs a disk more than the rest together; a cache may lose this much to a power cut.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Tells that files were changed, or why they were not.
pub type FilesDone = oneshot::Receiver<Result<(), StoreError>>;

/// Files to be changed together, and who waits for it.
type FileWork = (Vec<FileChange>, oneshot::Sender<Result<(), StoreError>>);

#[derive(Debug, Default)]
struct Pending {
    /// Never merged: each has somebody who waits.
    files: Vec<FileWork>,
    records: HashMap<RecordId, Option<Record>>,
    members: Option<Vec<Claim>>,
    vips: Option<BTreeMap<String, Ipv4Addr>>,
    incarnation: Option<u64>,
    epoch_seen: Option<u64>,
    rises: Option<u64>,
    quarantine: Option<Quarantine>,
    closing: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        let Pending { files, records, members, vips, incarnation, epoch_seen, rises, quarantine, closing: _ } = self;
        let numbers = [incarnation, epoch_seen, rises].into_iter().all(Option::is_none);
        files.is_empty() && records.is_empty() && members.is_none() && vips.is_none() && quarantine.is_none() && numbers
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
    failures: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while it holds the lock, and a half-made change would be a change all the same.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }
}

/// The owner's end. No call blocks on the disk but [`StoreWriter::close`].
#[derive(Debug)]
pub struct StoreWriter {
    shared: Arc<Shared>,
    done: mpsc::Receiver<()>,
}

impl StoreWriter {
    pub(super) fn start(store: Store) -> io::Result<StoreWriter> {
        let shared = Arc::new(Shared::default());
        let (sender, done) = mpsc::sync_channel(1);
        let theirs = shared.clone();
        let run = move || {
            run(&store, &theirs);
            drop(store); // closes the cache and releases the lock before anybody hears of it
            let _ = sender.send(());
        };
        thread::Builder::new().name("weft-store".into()).spawn(run)?;
        Ok(StoreWriter { shared, done })
    }

    /// Keeps a record in the place of an older one of the same id.
    pub fn save_record(&self, record: Record) {
        self.shared.change(|pending| drop(pending.records.insert(record.id(), Some(record))));
    }

    /// Drops a record.
    pub fn remove_record(&self, id: RecordId) {
        self.shared.change(|pending| drop(pending.records.insert(id, None)));
    }

    /// Keeps exactly these members.
    pub fn save_members(&self, members: Vec<Claim>) {
        self.shared.change(|pending| pending.members = Some(members));
    }

    /// Keeps the addresses given to services.
    pub fn save_vips(&self, vips: BTreeMap<String, Ipv4Addr>) {
        self.shared.change(|pending| pending.vips = Some(vips));
    }

    /// Keeps the incarnation.
    pub fn set_incarnation(&self, incarnation: u64) {
        self.shared.change(|pending| pending.incarnation = Some(incarnation));
    }

    /// See [`Store::raise_epoch`].
    pub fn raise_epoch(&self, seen: u64) {
        self.shared.change(|pending| pending.epoch_seen = pending.epoch_seen.max(Some(seen)));
    }

    /// See [`Store::change_files`]. The answer comes when it is done.
    pub fn change_files(&self, changes: Vec<FileChange>) -> FilesDone {
        let (done, wait) = oneshot::channel();
        self.shared.change(|pending| pending.files.push((changes, done)));
        wait
    }

    /// Keeps how often in a row this host met its own later past.
    pub fn set_rises(&self, rises: u64) {
        self.shared.change(|pending| pending.rises = Some(rises));
    }

    /// Keeps exactly these records in quarantine.
    pub fn save_quarantine(&self, quarantine: Quarantine) {
        self.shared.change(|pending| pending.quarantine = Some(quarantine));
    }

    /// Writes that failed since the start; the log has each of them.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// Writes what is pending, flushes and closes. False if that took longer than `deadline`; it then goes on while the
    /// process lives.
    pub fn close(self, deadline: Duration) -> bool {
        self.shared.change(|pending| pending.closing = true);
        self.done.recv_timeout(deadline).is_ok()
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.shared.change(|pending| pending.closing = true);
    }
}

fn run(store: &Store, shared: &Shared) {
    let mut flush_due: Option<Instant> = None;
    loop {
        let batch = next(shared, flush_due);
        let closing = batch.closing;
        let cached = !batch.records.is_empty() || batch.members.is_some();
        write(store, shared, batch);
        if cached && flush_due.is_none() {
            flush_due = Some(Instant::now() + FLUSH_INTERVAL);
        }
        if closing || flush_due.is_some_and(|due| due <= Instant::now()) {
            count(shared, store.flush());
            flush_due = None;
        }
        if closing {
            return;
        }
    }
}

/// Waits for something to write, for the next flush, or for the end.
fn next(shared: &Shared, flush_due: Option<Instant>) -> Pending {
    let mut pending = shared.lock();
    while pending.is_empty() && !pending.closing {
        pending = match flush_due {
            None => shared.changed.wait(pending).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                shared.changed.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    std::mem::take(&mut *pending)
}

fn write(store: &Store, shared: &Shared, batch: Pending) {
    let Pending { files, records, members, vips, incarnation, epoch_seen, rises, quarantine, closing: _ } = batch;
    // First: somebody waits for these.
    for (changes, done) in files {
        let changed = store.change_files(&changes);
        if let Err(error) = &changed {
            shared.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "not kept");
        }
        // Who asked may have given up.
        let _ = done.send(changed);
    }
    if let Some(quarantine) = quarantine {
        count(shared, store.save_quarantine(&quarantine));
    }
    if let Some(rises) = rises {
        count(shared, store.set_rises(rises));
    }
    if let Some(incarnation) = incarnation {
        count(shared, store.set_incarnation(incarnation));
    }
    if let Some(seen) = epoch_seen {
        count(shared, store.raise_epoch(seen));
    }
    if let Some(vips) = vips {
        count(shared, store.save_vips(&vips));
    }
    if !records.is_empty() {
        let changed = store.cache.change_records(records.into_iter());
        count(shared, changed.map_err(|error| store.cache_failed(&error)));
    }
    if let Some(members) = members {
        count(shared, store.save_members(&members));
    }
}

fn count(shared: &Shared, result: Result<(), StoreError>) {
    if let Err(error) = result {
        shared.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%error, "not kept");
    }
}
