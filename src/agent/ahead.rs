//! Signatures of many records, checked side by side before the records are judged one by one: what a host learns when it joins
//! a fleet would otherwise wait for one core.
//!
//! Whether a signature is the origin's does not depend on what is believed at the moment: a node's id is the hash of its
//! record key. So what was found here stays true, in whatever order the records are judged. Their bytes are only hashed:
//! what a record says is read where `quarantine` watches.

use std::num::NonZero;
use std::thread;

use crate::identity::verify_record;
use crate::model::Record;

/// A check takes 50 µs, a thread about as long to start: fewer are checked where they are judged.
pub(super) const RECORDS_MIN: usize = 64;
/// A host has other work than this agent's.
const THREADS_MAX: usize = 4;

/// What is known of a record's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Unchecked,
    /// It is its origin's.
    Good,
    Bad,
}

impl Signature {
    /// The same, checked with the origin's record key if it was not yet.
    pub(super) fn is_good(self, key: &[u8; 32], record: &Record) -> bool {
        match self {
            Signature::Unchecked => verify_record(key, record),
            found => found == Signature::Good,
        }
    }
}

/// Checks each record with its origin's key; those without one stay unchecked.
pub(super) fn check(records: &[(Option<[u8; 32]>, &Record)]) -> Vec<Signature> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let mut found = vec![Signature::Unchecked; records.len()];
    let share = records.len().div_ceil(threads).max(1);
    let mut shares = records.chunks(share).zip(found.chunks_mut(share));
    // This thread does the first share. A thread that cannot be started or panics leaves its records unchecked.
    let first = shares.next();
    thread::scope(|scope| {
        let start = |(records, found)| {
            let thread = thread::Builder::new().name("weft-verify".to_owned());
            thread.spawn_scoped(scope, move || check_share(records, found)).ok()
        };
        let others: Vec<_> = shares.filter_map(start).collect();
        if let Some((records, found)) = first {
            check_share(records, found);
        }
        others.into_iter().for_each(|other| _ = other.join());
    });
    found
}

fn check_share(records: &[(Option<[u8; 32]>, &Record)], found: &mut [Signature]) {
    for ((key, record), found) in records.iter().zip(found) {
        *found = match key {
            Some(key) if verify_record(key, record) => Signature::Good,
            Some(_) => Signature::Bad,
            None => Signature::Unchecked,
        };
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::identity::RecordKey;
    use crate::model::{Header, RecordKind, Version};

    #[test]
    fn each_record_of_many_gets_its_own_answer() {
        let (key, other) = (RecordKey::generate().unwrap(), RecordKey::generate().unwrap());
        let record = |sequence| {
            let version = Version { epoch: 1, sequence };
            let (origin, kind) = (key.node_id(), RecordKind::SERVICE);
            let header = Header { origin, version, kind, format: 1, tombstone: true, key: Bytes::from_static(b"web") };
            // Every seventh is signed by another.
            let signer = if sequence % 7 == 0 { &other } else { &key };
            Record::sign(&header, b"", |bytes| signer.sign(bytes)).unwrap()
        };
        for count in [0, 1, 3, 101] {
            let records: Vec<Record> = (1..=count).map(record).collect();
            let keyed: Vec<_> = (1u64..)
                .zip(&records)
                .map(|(sequence, record)| ((sequence % 10 != 0).then(|| key.public()), record))
                .collect();
            let expected = (1..=count).map(|sequence| match sequence {
                _ if sequence % 10 == 0 => Signature::Unchecked,
                _ if sequence % 7 == 0 => Signature::Bad,
                _ => Signature::Good,
            });
            assert_eq!(check(&keyed), expected.collect::<Vec<_>>(), "{count}");
        }
    }
}
