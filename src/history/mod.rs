//! What has happened, as this host saw it: members, health of instances, policies, ejections, certificates, and the agent
//! itself. `DATA_DIR/history.log`, a [`Logbook`] that `weft history` reads without an agent.
//!
//! The owner notes what happens ([`History::note`]); a thread of its own writes. A subject that changes all the time cannot
//! wash the rest away: it has so many lines, then one now and then, which says how many were left out (`bounds`). What an
//! event is, and its words, is `event`'s.

mod bounds;
mod event;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime};

use crate::logbook::{Logbook, Writer, timestamp};

pub use event::{Event, Kind};

use bounds::Bounds;

/// In the data directory.
pub const HISTORY_FILE: &str = "history.log";
/// Some 15,000 lines in each of the two files: weeks of a quiet fleet, and days of one in which much goes wrong.
const BOOK: Logbook =
    Logbook { what: "the history", file: HISTORY_FILE, older: "history.log.1", file_bytes_max: 4 * 1024 * 1024 };
/// Lines that wait for the disk: a fleet of thousands that comes back at once.
const QUEUE: usize = 4096;

/// Where an agent's events go.
#[derive(Debug)]
pub struct History {
    writer: Writer,
    bounds: Bounds,
}

impl History {
    /// Starts the thread.
    pub fn start(data_dir: &Path) -> io::Result<History> {
        Ok(History { writer: Writer::start(BOOK, data_dir, "weft-history", QUEUE)?, bounds: Bounds::default() })
    }

    /// Counts lines that could not be written.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.writer.lost()
    }

    /// Has an event written that happens now; never waits.
    pub fn note(&mut self, event: Event) {
        let event = Event { time: timestamp(SystemTime::now()), ..event };
        if let Some(event) = self.bounds.admit(Instant::now(), event) {
            self.writer.record(&event);
        }
    }

    /// Has the latest of what was left out written, where that may have a line by now. To be called now and then.
    pub fn keep(&mut self) {
        self.bounds.due(Instant::now()).iter().for_each(|event| self.writer.record(event));
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // How things stand at the end is in the file.
        self.bounds.rest().iter().for_each(|event| self.writer.record(event));
    }
}

/// The events that are kept, in the order in which they happened, and how many lines cannot be read.
pub fn read_history(data_dir: &Path) -> io::Result<(Vec<Event>, usize)> {
    let (mut events, mut unreadable) = BOOK.read::<Event>(data_dir)?;
    let read = events.len();
    events.retain(|event| event.at().is_some());
    unreadable += read - events.len();
    // What was held back was written later than what came after it. Of the same time the file's order stands.
    events.sort_by_key(Event::at);
    Ok((events, unreadable))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn event(service: &str, what: &str) -> Event {
        Event { service: service.into(), words: what.into(), ..Event::new(Kind::Health, "critical") }
    }

    fn words(dir: &Path) -> Vec<(String, u64)> {
        let (events, unreadable) = read_history(dir).unwrap();
        assert_eq!(unreadable, 0);
        events.into_iter().map(|event| (event.words, event.omitted)).collect()
    }

    #[test]
    fn what_was_noted_is_read_without_an_agent_and_the_last_word_is_the_truth() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::start(dir.path()).unwrap();
        (0..1000).for_each(|number| history.note(event("flaps", &number.to_string())));
        history.note(event("calm", "once"));
        drop(history);
        let words = words(dir.path());
        assert_eq!(words.len(), usize::try_from(bounds::SUBJECT_MAX).unwrap() + 2);
        let (last, omitted) = words.iter().rfind(|(words, _)| words != "once").unwrap();
        assert_eq!((last.as_str(), *omitted), ("999", 999 - u64::from(bounds::SUBJECT_MAX)));
        assert!(words.contains(&("once".to_owned(), 0)));
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::start(&dir.path().join("gone")).unwrap();
        let lost = history.lost();
        history.note(event("web", "x"));
        drop(history);
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn events_are_told_in_the_order_of_their_times_and_those_without_one_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for time in ["2026-01-02T00:00:00.000Z", "soon", "2026-01-01T00:00:00.000Z"] {
            BOOK.append(dir.path(), &Event { time: time.into(), ..event("web", time) }).unwrap();
        }
        let (events, unreadable) = read_history(dir.path()).unwrap();
        let times: Vec<&str> = events.iter().map(|event| &event.time[..10]).collect();
        assert_eq!((times, unreadable), (vec!["2026-01-01", "2026-01-02"], 1));
    }

    proptest! {
        #[test]
        fn reading_never_fails_on_bytes(garbage: Vec<u8>, cut in 0..200usize) {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes = serde_json::to_vec(&Event { time: timestamp(SystemTime::now()), ..event("web", "x") }).unwrap();
            bytes.truncate(cut);
            bytes.extend(garbage);
            std::fs::File::create(dir.path().join(HISTORY_FILE)).unwrap().write_all(&bytes).unwrap();
            BOOK.append(dir.path(), &Event { time: timestamp(SystemTime::now()), ..event("web", "after") }).unwrap();
            let (events, _) = read_history(dir.path()).unwrap();
            prop_assert!(events.iter().any(|event| event.words == "after"));
        }
    }
}
