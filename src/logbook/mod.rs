//! Logbooks: JSON lines in the data directory, one object a line, in two files that turn over, and the thread that writes
//! them.
//!
//! Nobody waits for a logbook: lines go through a bounded queue to a thread of their own, and what the queue or the disk
//! does not take is counted, told in the agent's log, and lost. A logbook is bounded: at its limit the file takes the place
//! of the older one. Readers need no agent; a line that was torn by a crash or a full disk costs itself only.
//!
//! What a line says is its owner's: `access` (who changed what) and `history` (what has happened).

mod allowance;
mod file;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use allowance::Allowance;
pub use file::{give_away, open_to_append, read_bounded};

/// The agent's user and its group read it; it names programs and paths.
pub const MODE: u32 = 0o640;
/// How often a disk that takes nothing is told of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// A disk that hangs holds the agent's end up for this long at most.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Which files, and how large.
#[derive(Debug, Clone, Copy)]
pub struct Logbook {
    /// What it is, in the agent's log.
    pub what: &'static str,
    /// The file that is written, in the data directory.
    pub file: &'static str,
    /// The one before it.
    pub older: &'static str,
    /// Of each of the two.
    pub file_bytes_max: u64,
}

/// The present time as lines have it: RFC 3339, UTC.
pub fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

impl Logbook {
    /// Appends a line at once.
    pub fn append(&self, data_dir: &Path, line: &impl Serialize) -> io::Result<()> {
        self.write(data_dir, serde_json::to_vec(line)?)
    }

    fn write(&self, data_dir: &Path, mut line: Vec<u8>) -> io::Result<()> {
        line.push(b'\n');
        let path = data_dir.join(self.file);
        let mut file = open_to_append(&path, MODE)?;
        let length = file.metadata()?.len();
        if length.saturating_add(line.len() as u64) > self.file_bytes_max {
            std::fs::rename(&path, data_dir.join(self.older))?;
            file = open_to_append(&path, MODE)?;
        } else if file::is_torn(&file, length)? {
            // What was cut off in the middle must not take this line with it.
            line.insert(0, b'\n');
        }
        // One write of a whole line, so that those of two processes do not mix (O_APPEND).
        file.write_all(&line)
    }

    /// The lines that are kept, the oldest first, and how many of them cannot be read.
    pub fn read<T: DeserializeOwned>(&self, data_dir: &Path) -> io::Result<(Vec<T>, usize)> {
        let (mut lines, mut unreadable) = (Vec::new(), 0);
        for name in [self.older, self.file] {
            // What is appended at once is not held against the limit.
            let bytes = read_bounded(&data_dir.join(name), self.file_bytes_max * 2)?.unwrap_or_default();
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(line) => lines.push(line),
                    Err(_) => unreadable += 1,
                }
            }
        }
        Ok((lines, unreadable))
    }
}

/// Where an agent's lines go.
#[derive(Debug)]
pub struct Writer {
    lines: Option<SyncSender<Vec<u8>>>,
    /// Ends with the thread.
    ended: Mutex<Receiver<()>>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread; `queue` lines may wait for the disk.
    pub fn start(book: Logbook, data_dir: &Path, thread: &str, queue: usize) -> io::Result<Writer> {
        let (sender, lines) = sync_channel(queue);
        let (ends, ended) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let (home, losing) = (data_dir.to_path_buf(), lost.clone());
        let run = move || {
            write_all(book, &home, &lines, &losing);
            drop(ends);
        };
        std::thread::Builder::new().name(thread.to_owned()).spawn(run)?;
        Ok(Writer { lines: Some(sender), ended: Mutex::new(ended), lost })
    }

    /// Counts lines that could not be written.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    /// Has a line written; never waits.
    pub fn record(&self, line: &impl Serialize) {
        let taken = serde_json::to_vec(line)
            .is_ok_and(|line| self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok()));
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        // It writes what it can; nothing is ever sent, so this ends with the thread or in time.
        let _ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(CLOSE_MAX);
    }
}

fn write_all(book: Logbook, data_dir: &Path, lines: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    let mut complained: Option<Instant> = None;
    while let Ok(line) = lines.recv() {
        let Err(error) = book.write(data_dir, line) else { continue };
        let lost = lost.fetch_add(1, Ordering::Relaxed) + 1;
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            complained = Some(Instant::now());
            let path: PathBuf = data_dir.join(book.file);
            tracing::error!(%error, lost, path = %path.display(), "{} cannot be written; the agent goes on", book.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const BOOK: Logbook = Logbook { what: "the test's", file: "a.log", older: "a.log.1", file_bytes_max: 1000 };

    fn raw(dir: &Path, bytes: &[u8]) {
        let file = OpenOptions::new().append(true).create(true).open(dir.join(BOOK.file));
        file.unwrap().write_all(bytes).unwrap();
    }

    fn read(dir: &Path) -> (Vec<u32>, usize) {
        BOOK.read(dir).unwrap()
    }

    #[test]
    fn what_is_recorded_is_read_again_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(BOOK, dir.path(), "weft-test", 64).unwrap();
        (0..50).for_each(|number| writer.record(&number));
        drop(writer);
        assert_eq!(read(dir.path()), ((0..50).collect(), 0));
        let mode = std::fs::metadata(dir.path().join(BOOK.file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn a_torn_line_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        BOOK.append(dir.path(), &1).unwrap();
        raw(dir.path(), b"{\"half\": ");
        BOOK.append(dir.path(), &2).unwrap();
        raw(dir.path(), b"\xff\0");
        assert_eq!(read(dir.path()), (vec![1, 2], 2));
    }

    #[test]
    fn the_file_is_bounded_and_one_older_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        (0..1_000).for_each(|number| BOOK.append(dir.path(), &number).unwrap());
        let (kept, unreadable) = read(dir.path());
        let first = kept[0];
        assert_eq!((kept, unreadable), ((first..1_000).collect(), 0));
        let sizes: Vec<u64> =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= BOOK.file_bytes_max), "{sizes:?}");
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(BOOK, &dir.path().join("gone"), "weft-test", 64).unwrap();
        let lost = writer.lost();
        (0..3).for_each(|number| writer.record(&number));
        drop(writer);
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }

    proptest! {
        #[test]
        fn no_bytes_keep_the_reader_from_the_lines_around_them(garbage: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            raw(dir.path(), &garbage[..garbage.len().min(800)]);
            BOOK.append(dir.path(), &"after").unwrap();
            let (lines, _) = BOOK.read::<Value>(dir.path()).unwrap();
            prop_assert_eq!(lines.last(), Some(&Value::from("after")));
        }
    }
}
