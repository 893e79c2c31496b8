//! The audit log: `DATA_DIR/audit.log`, one JSON object a line, appended to by the agent and by `weft acl`.
//!
//! Nobody waits for it: lines go through a bounded queue to a thread of their own, and what the queue or the disk does not
//! take is counted, told in the agent's log, and lost. The file is bounded: at its limit it becomes `audit.log.1`, in place
//! of the one before. So that nobody can wash the log away with requests that change nothing, only so many of those are
//! written; the rest is counted in the next line.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::file;

/// In the data directory.
pub const AUDIT_FILE: &str = "audit.log";
const OLDER: &str = "audit.log.1";
const MODE: u32 = 0o640;
/// Some 30,000 lines. One older file is kept.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Lines that wait for the disk; more than the API answers in the time of a slow write.
const QUEUE: usize = 1024;
/// Lines in a row of writes that were not done, and then one each [`UNDONE_EVERY`]: at most 2 MiB a day, of which the
/// reasons are most.
const UNDONE_MAX: u32 = 100;
const UNDONE_EVERY: Duration = Duration::from_secs(30);
/// How often a disk that takes nothing is told of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    #[default]
    Done,
    /// Who asked may not.
    Refused,
    /// Who asked may; it was wrong, or could not be done.
    Failed,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// RFC 3339, UTC.
    pub time: String,
    /// `socket`, `http`, `https`, or `command` for what a verb did to the files.
    pub via: String,
    /// Of `http` and `https`: where the connection came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// By the kernel's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// By the kernel's word; of the socket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// By the kernel's word; of the socket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// What the process calls itself, where that can be seen; it proves nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The control group, of which the last part is the systemd unit; by the kernel's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The name of the token that was shown and is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The request's; `weft` for a verb.
    pub method: String,
    /// Without its query.
    pub path: String,
    /// What it was about, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it was refused, or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Writes before this line that were not done, and have no line of their own.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn write(data_dir: &Path, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    let path = data_dir.join(AUDIT_FILE);
    let mut file = file::open_to_append(&path, MODE)?;
    if file.metadata()?.len().saturating_add(line.len() as u64) > FILE_BYTES_MAX {
        std::fs::rename(&path, data_dir.join(OLDER))?;
        file = file::open_to_append(&path, MODE)?;
    }
    // One write of a whole line, so that those of two processes do not mix (O_APPEND).
    file.write_all(&line)
}

/// Appends a line at once, for a verb.
pub fn append(data_dir: &Path, entry: Entry) -> io::Result<()> {
    write(data_dir, &Entry { time: now(), ..entry })
}

/// The lines that are kept, the oldest first, and how many of them cannot be read.
pub fn read_audit(data_dir: &Path) -> io::Result<(Vec<Entry>, usize)> {
    let (mut entries, mut unreadable) = (Vec::new(), 0);
    for name in [OLDER, AUDIT_FILE] {
        // What a verb appends is not held against the limit.
        let bytes = file::read_bounded(&data_dir.join(name), FILE_BYTES_MAX * 2)?.unwrap_or_default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push(entry),
                Err(_) => unreadable += 1,
            }
        }
    }
    Ok((entries, unreadable))
}

/// How many writes that were not done may still have a line.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
    omitted: u64,
}

impl Allowance {
    fn new(now: Instant) -> Allowance {
        Allowance { left: UNDONE_MAX, since: now, omitted: 0 }
    }

    /// Whether one more may be written; if so, how many before it were not.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_secs() / UNDONE_EVERY.as_secs()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(UNDONE_MAX);
            self.since = now;
        }
        if self.left == 0 {
            self.omitted += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

/// Where the agent's lines go.
#[derive(Debug)]
pub struct Audit {
    sender: Option<SyncSender<Entry>>,
    writer: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
    undone: Mutex<Allowance>,
}

impl Audit {
    /// Starts the thread.
    pub fn start(data_dir: &Path) -> io::Result<Audit> {
        let (sender, entries) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let (home, losing) = (data_dir.to_path_buf(), lost.clone());
        let writer = std::thread::Builder::new().name("weft-audit".to_owned());
        let writer = writer.spawn(move || write_all(&home, &entries, &losing))?;
        let undone = Mutex::new(Allowance::new(Instant::now()));
        Ok(Audit { sender: Some(sender), writer: Some(writer), lost, undone })
    }

    /// Counts lines that could not be written.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    /// Whether a write that ended so may have a line; if so, how many before it had none.
    pub fn admits(&self, outcome: Outcome) -> Option<u64> {
        match outcome {
            Outcome::Done => Some(0),
            Outcome::Refused | Outcome::Failed => {
                self.undone.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
            }
        }
    }

    /// Has a line written; never waits.
    pub fn record(&self, entry: Entry) {
        let entry = Entry { time: now(), ..entry };
        if self.sender.as_ref().is_none_or(|sender| sender.try_send(entry).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            // It wrote what it could.
            let _panicked = writer.join();
        }
    }
}

fn write_all(data_dir: &Path, entries: &Receiver<Entry>, lost: &AtomicU64) {
    let mut complained: Option<Instant> = None;
    while let Ok(entry) = entries.recv() {
        let Err(error) = write(data_dir, &entry) else { continue };
        let lost = lost.fetch_add(1, Ordering::Relaxed) + 1;
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            complained = Some(Instant::now());
            let path = data_dir.join(AUDIT_FILE);
            tracing::error!(%error, lost, path = %path.display(), "the audit log cannot be written; the API goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(path: &str, outcome: Outcome) -> Entry {
        Entry { via: "socket".into(), method: "PUT".into(), path: path.into(), outcome, ..Entry::default() }
    }

    #[test]
    fn what_is_recorded_is_read_again_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::start(dir.path()).unwrap();
        for at in 0..50 {
            audit.record(entry(&format!("/{at}"), Outcome::Done));
        }
        drop(audit);
        append(dir.path(), Entry { subject: "line\nbreak".into(), ..entry("/verb", Outcome::Failed) }).unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join(AUDIT_FILE))
            .unwrap()
            .write_all(b"half a li")
            .unwrap();
        let (entries, unreadable) = read_audit(dir.path()).unwrap();
        assert_eq!((entries.len(), unreadable), (51, 1));
        assert_eq!((entries[0].path.as_str(), entries[49].path.as_str()), ("/0", "/49"));
        assert_eq!(entries[50].subject, "line\nbreak");
        let mode = std::fs::metadata(dir.path().join(AUDIT_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn the_file_is_bounded_and_one_older_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let filler = vec![b'\n'; usize::try_from(FILE_BYTES_MAX).unwrap() - 10];
        for name in ["first", "second"] {
            append(dir.path(), entry(name, Outcome::Done)).unwrap();
            let mut file = file::open_to_append(&dir.path().join(AUDIT_FILE), MODE).unwrap();
            file.write_all(&filler).unwrap();
        }
        append(dir.path(), entry("third", Outcome::Done)).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let (entries, _) = read_audit(dir.path()).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["second", "third"]);
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::start(&dir.path().join("gone")).unwrap();
        let lost = audit.lost();
        (0..3).for_each(|_| audit.record(entry("/x", Outcome::Done)));
        drop(audit);
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_was_not_done_does_not_wash_the_log_away() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let written = (0..1000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(allowance.take(start + UNDONE_EVERY), Some(900), "they are told of later");
        assert_eq!(allowance.take(start + UNDONE_EVERY), None);
        let later = start + Duration::from_secs(86_400);
        assert_eq!((0..1000).filter(|_| allowance.take(later).is_some()).count(), 100);
    }
}
