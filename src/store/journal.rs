//! What the owner has in hand, so that the next start knows what this one died of.
//!
//! Before a record of another host is read its name goes into a file of fixed size, by one `pwrite` into the page cache: that
//! outlives the process, which is all that is asked (a host that loses power has a better excuse than a record). Nothing is
//! fsynced, nothing is removed: a header counts generations, and a slot counts only if it is of the present one.
//!
//! ```text
//! 0   header  magic 16 │ generation 8 │ settled 4
//! 64  slots   generation 8 │ number 4, from 1 │ hash 16 │ origin 16 │ epoch 8 │ sequence 8      each 64 bytes long
//! ```
//!
//! `settled` slots were taken and are not published yet; the one after them was being read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::model::{NodeId, Version};

const MAGIC: &[u8; 16] = b"weft in hand 1\n\0";
const SLOT_BYTES: usize = 64;
/// Records taken between two publications that are remembered. With more, the last slot stands for all the others.
const SLOTS_MAX: u32 = 4_096;
const FILE: &str = "in-hand";

/// One record's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHand {
    /// Of all its bytes.
    pub hash: [u8; 16],
    /// Whose it is.
    pub origin: NodeId,
    /// Its place in the origin's log.
    pub version: Version,
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    generation: u64,
    noted: u32,
    settled: u32,
}

impl Journal {
    /// Opens the file of `directory`, and gives what the last run had in hand when it ended: one record that was being read,
    /// or else all that were not published yet. Empty if it ended with nothing in hand.
    pub fn open(directory: &Path) -> io::Result<(Journal, Vec<InHand>)> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(FILE))?;
        let mut bytes = vec![0; SLOT_BYTES * (SLOTS_MAX as usize + 1)];
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64)? {
                0 => break,
                read => length += read,
            }
        }
        bytes.truncate(length);
        let (generation, in_hand) = last_run(&bytes).unwrap_or_default();
        let mut journal = Journal { file, generation, noted: 0, settled: 0 };
        journal.begin_generation()?;
        Ok((journal, in_hand))
    }

    /// This record is about to be read.
    pub fn note(&mut self, record: &InHand) -> io::Result<()> {
        self.noted = self.noted.saturating_add(1);
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&self.generation.to_be_bytes());
        slot[8..12].copy_from_slice(&self.noted.to_be_bytes());
        slot[12..28].copy_from_slice(&record.hash);
        slot[28..44].copy_from_slice(record.origin.as_bytes());
        slot[44..52].copy_from_slice(&record.version.epoch.to_be_bytes());
        slot[52..60].copy_from_slice(&record.version.sequence.to_be_bytes());
        let place = u64::from(self.noted.min(SLOTS_MAX)) * SLOT_BYTES as u64;
        self.file.write_all_at(&slot, place)
    }

    /// All that were noted are read; they are to be published.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.settled == self.noted {
            return Ok(());
        }
        self.settled = self.noted;
        self.write_header()
    }

    /// Nothing is in hand any more.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.noted == 0 { Ok(()) } else { self.begin_generation() }
    }

    fn begin_generation(&mut self) -> io::Result<()> {
        self.generation += 1;
        (self.noted, self.settled) = (0, 0);
        self.write_header()
    }

    fn write_header(&self) -> io::Result<()> {
        let mut header = [0; SLOT_BYTES];
        header[..16].copy_from_slice(MAGIC);
        header[16..24].copy_from_slice(&self.generation.to_be_bytes());
        header[24..28].copy_from_slice(&self.settled.to_be_bytes());
        self.file.write_all_at(&header, 0)
    }
}

/// The last generation and what was in hand. `None` for a new file, or one that is none of ours.
fn last_run(bytes: &[u8]) -> Option<(u64, Vec<InHand>)> {
    let header = bytes.get(..SLOT_BYTES)?;
    if &header[..16] != MAGIC {
        return None;
    }
    let (generation, settled) = (u64_at(header, 16)?, u32_at(header, 24)?);
    let mut noted: Vec<(u32, InHand)> = Vec::new();
    for slot in bytes[SLOT_BYTES..].chunks_exact(SLOT_BYTES) {
        if u64_at(slot, 0)? != generation {
            break;
        }
        let id = |at: usize| slot.get(at..at + 16)?.try_into().ok();
        let version = Version { epoch: u64_at(slot, 44)?, sequence: u64_at(slot, 52)? };
        noted.push((u32_at(slot, 8)?, InHand { hash: id(12)?, origin: NodeId(id(28)?), version }));
    }
    let being_read = noted.last().filter(|(number, _)| *number > settled).map(|(_, record)| vec![*record]);
    Some((generation, being_read.unwrap_or_else(|| noted.into_iter().map(|(_, record)| record).collect())))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u8) -> InHand {
        let version = Version { epoch: 1, sequence: u64::from(number) };
        InHand { hash: [number; 16], origin: NodeId([7; 16]), version }
    }

    fn reopen(directory: &Path) -> Vec<InHand> {
        Journal::open(directory).unwrap().1
    }

    #[test]
    fn what_was_being_read_is_found_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, before) = Journal::open(directory.path()).unwrap();
        assert_eq!(before, []);
        journal.note(&record(1)).unwrap();
        journal.settle().unwrap();
        journal.note(&record(2)).unwrap();
        drop(journal);
        assert_eq!(reopen(directory.path()), [record(2)]);
        assert_eq!(reopen(directory.path()), []);
    }

    #[test]
    fn what_was_read_and_not_published_is_found_and_what_was_published_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        journal.note(&record(1)).unwrap();
        journal.settle().unwrap();
        journal.clear().unwrap();
        drop(journal);
        let (mut journal, before) = Journal::open(directory.path()).unwrap();
        assert_eq!(before, []);
        for number in 2..=4 {
            journal.note(&record(number)).unwrap();
        }
        journal.settle().unwrap();
        drop(journal);
        assert_eq!(reopen(directory.path()), [record(2), record(3), record(4)]);
    }

    #[test]
    fn any_number_fits_the_file_and_the_last_one_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        for _ in 0..SLOTS_MAX + 100 {
            journal.note(&record(1)).unwrap();
        }
        journal.settle().unwrap();
        journal.note(&record(2)).unwrap();
        drop(journal);
        let length = std::fs::metadata(directory.path().join(FILE)).unwrap().len();
        assert_eq!(length, SLOT_BYTES as u64 * (u64::from(SLOTS_MAX) + 1));
        assert_eq!(reopen(directory.path()), [record(2)]);
    }

    #[test]
    fn a_file_of_anything_else_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), [0xff; 300]).unwrap();
        assert_eq!(reopen(directory.path()), []);
        std::fs::write(directory.path().join(FILE), b"short").unwrap();
        assert_eq!(reopen(directory.path()), []);
    }
}
