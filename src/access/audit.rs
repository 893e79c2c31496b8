//! The audit log: `DATA_DIR/audit.log`, one JSON object a line, appended to by the agent and by `weft acl`.
//!
//! Nobody waits for it, and it is bounded, as every [`Logbook`]. So that nobody can wash the log away with requests that
//! change nothing, only so many of those are written; the rest is counted in the next line.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::logbook::{Allowance, Logbook, Writer, timestamp};

/// In the data directory.
pub const AUDIT_FILE: &str = "audit.log";
/// Some 30,000 lines in each of the two files.
const BOOK: Logbook =
    Logbook { what: "the audit log", file: AUDIT_FILE, older: "audit.log.1", file_bytes_max: 8 * 1024 * 1024 };
/// Lines that wait for the disk; more than the API answers in the time of a slow write.
const QUEUE: usize = 1024;
/// Lines in a row of writes that were not done, and then one each [`UNDONE_EVERY`]: at most 2 MiB a day, of which the
/// reasons are most.
const UNDONE_MAX: u32 = 100;
const UNDONE_EVERY: Duration = Duration::from_secs(30);

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
    timestamp(SystemTime::now())
}

/// Appends a line at once, for a verb.
pub fn append(data_dir: &Path, entry: Entry) -> io::Result<()> {
    BOOK.append(data_dir, &Entry { time: now(), ..entry })
}

/// The lines that are kept, the oldest first, and how many of them cannot be read.
pub fn read_audit(data_dir: &Path) -> io::Result<(Vec<Entry>, usize)> {
    BOOK.read(data_dir)
}

/// Where the agent's lines go.
#[derive(Debug)]
pub struct Audit {
    writer: Writer,
    undone: Mutex<Allowance>,
}

impl Audit {
    /// Starts the thread.
    pub fn start(data_dir: &Path) -> io::Result<Audit> {
        let writer = Writer::start(BOOK, data_dir, "weft-audit", QUEUE)?;
        Ok(Audit { writer, undone: Mutex::new(Allowance::new(UNDONE_MAX, UNDONE_EVERY, Instant::now())) })
    }

    /// Counts lines that could not be written.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.writer.lost()
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
        self.writer.record(&Entry { time: now(), ..entry });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, outcome: Outcome) -> Entry {
        Entry { via: "socket".into(), method: "PUT".into(), path: path.into(), outcome, ..Entry::default() }
    }

    #[test]
    fn what_the_agent_and_the_verbs_record_is_read_again_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::start(dir.path()).unwrap();
        (0..50).for_each(|at| audit.record(entry(&format!("/{at}"), Outcome::Done)));
        drop(audit);
        append(dir.path(), Entry { subject: "line\nbreak".into(), ..entry("/verb", Outcome::Failed) }).unwrap();
        let (entries, unreadable) = read_audit(dir.path()).unwrap();
        assert_eq!((entries.len(), unreadable), (51, 0));
        assert_eq!((entries[0].path.as_str(), entries[49].path.as_str()), ("/0", "/49"));
        assert_eq!(entries[50].subject, "line\nbreak");
    }

    #[test]
    fn what_was_not_done_does_not_wash_the_log_away() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::start(dir.path()).unwrap();
        let written = (0..1000).filter(|_| audit.admits(Outcome::Refused).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(audit.admits(Outcome::Done), Some(0), "what was done has a line always");
    }
}
