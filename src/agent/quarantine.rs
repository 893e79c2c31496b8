//! Records that this agent does not touch, because it died of them, panicked or took too long: one poisoned update must not
//! walk through the fleet, nor end one agent again and again.
//!
//! Before a record of another host is read its name goes into the store's journal, and out of it when what it says has been
//! published. A start that finds names there knows what the last one had in hand when it ended. One such end proves
//! nothing: `kill -9`, the kernel's memory killer and a power cut hit an agent with something in hand as well. So a record
//! is quarantined when two starts in a row ended with it in hand ([`DEATHS_MAX`]). A panic while it is judged, or
//! [`HANDLING_MAX`] of CPU time spent on that, is proof: it is quarantined at once and the agent goes on.
//!
//! A quarantined record is not read, merged, relayed or offered, by its hash: the next version of it is another record. What
//! this version of the agent could not handle another may: the list is bound to it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

use crate::model::Quarantined;
use crate::model::{Record, Version};
use crate::store::{self, InHand, Journal, StoreWriter};

/// Starts in a row that may end with a record in hand before it is quarantined.
const DEATHS_MAX: u32 = 2;
/// CPU time that judging one record may take: ten thousand times what it does. Not time on the clock, in which a host may
/// have been asleep.
const HANDLING_MAX: Duration = Duration::from_secs(1);
/// Records kept, suspected ones included. A host that has more of them has another problem.
const RECORDS_MAX: usize = 8_192;
/// Of these, named in the metrics and by the API: each is a series for whoever collects them. All are in the file.
const TOLD_MAX: usize = 32;

type Hash = [u8; 16];

/// See the module's text.
pub(super) struct Quarantine {
    journal: Option<Journal>,
    records: BTreeMap<Hash, Quarantined>,
    handling_max: Duration,
    /// To be written.
    changed: bool,
    /// How often a quarantined record was left alone.
    pub(super) refused: u64,
}

impl Quarantine {
    /// None kept, nothing written: where there is no journal.
    pub(super) fn without_journal() -> Quarantine {
        let records = BTreeMap::new();
        Quarantine { journal: None, records, handling_max: HANDLING_MAX, changed: false, refused: 0 }
    }

    /// Draws the conclusions from how the last run ended, and keeps them: a start that ends as the last one did must know.
    pub(super) fn load(store: &store::Store, agent: &str) -> Quarantine {
        let mut quarantine = Quarantine::without_journal();
        let (journal, in_hand) = match store.journal() {
            Ok(opened) => opened,
            Err(error) => {
                warn!(%error, "what the agent has in hand is not noted in this run");
                return quarantine;
            }
        };
        quarantine.journal = Some(journal);
        let kept = store.quarantine().unwrap_or_else(|error| {
            warn!(%error, "which records were quarantined is not known");
            store::Quarantine::default()
        });
        if kept.agent == agent {
            for record in kept.records.into_iter().take(RECORDS_MAX) {
                if let Some(hash) = hash_from(&record.hash) {
                    quarantine.records.insert(hash, record);
                }
            }
        } else if !kept.records.is_empty() {
            info!(
                records = kept.records.len(),
                before = kept.agent,
                "another version of the agent tries quarantined records again"
            );
            quarantine.changed = true;
        }
        quarantine.suspect(&in_hand);
        if quarantine.changed {
            quarantine.changed = false;
            if let Err(error) = store.save_quarantine(&quarantine.to_be_kept(agent)) {
                error!(%error, "the list of quarantined records could not be written");
            }
        }
        quarantine.records.values().filter(|record| is_proven(record)).for_each(|record| {
            error!(
                hash = record.hash, origin = record.origin, version = record.version, reason = record.reason,
                "this record is in quarantine: it is neither read nor passed on until its host publishes another version, \
                 or this agent is upgraded"
            );
        });
        quarantine
    }

    fn suspect(&mut self, in_hand: &[InHand]) {
        let before = self.records.len();
        self.records.retain(|hash, record| is_proven(record) || in_hand.iter().any(|suspect| suspect.hash == *hash));
        self.changed |= self.records.len() != before;
        for suspect in in_hand {
            if self.records.len() >= RECORDS_MAX && !self.records.contains_key(&suspect.hash) {
                continue;
            }
            let record = self.records.entry(suspect.hash).or_insert_with(|| {
                named(
                    &suspect.hash,
                    suspect.origin.to_string(),
                    suspect.version,
                    "the agent ended while it had it in hand",
                )
            });
            record.deaths = record.deaths.saturating_add(1);
            self.changed = true;
            if !is_proven(record) {
                warn!(
                    hash = record.hash,
                    origin = record.origin,
                    version = record.version,
                    "the last run ended while it had this record in hand; if this one does too, it is quarantined"
                );
            }
        }
    }

    /// True if the record is to be left alone.
    pub(super) fn holds(&mut self, record: &Record) -> bool {
        let held = !self.records.is_empty() && self.records.get(&hash_of(record)).is_some_and(is_proven);
        self.refused += u64::from(held);
        held
    }

    /// How many are.
    pub(super) fn count(&self) -> u64 {
        self.records.values().filter(|record| is_proven(record)).count() as u64
    }

    /// The first of them, for people.
    pub(super) fn told(&self) -> Vec<Quarantined> {
        self.records.values().filter(|record| is_proven(record)).take(TOLD_MAX).cloned().collect()
    }

    /// Notes the record and judges it. `None`: that ended in a panic or took too long, and the record is quarantined now.
    ///
    /// `judge` must leave what it borrows usable wherever it may panic.
    pub(super) fn watch<T>(&mut self, record: &Record, judge: impl FnOnce() -> T) -> Option<T> {
        self.note(record);
        let begun = cpu_time();
        let judged = catch_unwind(AssertUnwindSafe(judge));
        let took = cpu_time().saturating_sub(begun);
        match judged {
            Ok(judged) if took <= self.handling_max => Some(judged),
            Ok(_) => {
                self.condemn(record, &format!("it took {} ms to judge", took.as_millis()));
                None
            }
            Err(_) => {
                self.condemn(record, "judging it ended in a panic");
                None
            }
        }
    }

    fn note(&mut self, record: &Record) {
        let in_hand = InHand { hash: hash_of(record), origin: record.origin(), version: record.version() };
        self.write(|journal| journal.note(&in_hand));
    }

    /// All that was noted has been merged.
    pub(super) fn settle(&mut self) {
        self.write(Journal::settle);
    }

    /// What was merged has been published, or the agent ends in order.
    pub(super) fn clear(&mut self) {
        self.write(Journal::clear);
    }

    fn write(&mut self, write: impl FnOnce(&mut Journal) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.journal.as_mut().map(write) {
            // A disk that takes no writes has been named by the store; records must be taken all the same.
            warn!(%error, "what the agent has in hand is not noted any more in this run");
            self.journal = None;
        }
    }

    fn condemn(&mut self, record: &Record, reason: &str) {
        let (hash, origin, version) = (hash_of(record), record.origin(), record.version());
        error!(
            hash = HEXLOWER.encode(&hash), %origin, %version, kind = record.header().kind.0, reason,
            "a record is quarantined: it is neither read nor passed on; please report it"
        );
        if self.records.len() < RECORDS_MAX {
            let named = named(&hash, origin.to_string(), version, reason);
            self.records.insert(hash, Quarantined { deaths: DEATHS_MAX, ..named });
            self.changed = true;
        }
    }

    /// Has it written if it changed.
    pub(super) fn keep(&mut self, store: &StoreWriter) {
        if std::mem::take(&mut self.changed) {
            store.save_quarantine(self.to_be_kept(env!("CARGO_PKG_VERSION")));
        }
    }

    fn to_be_kept(&self, agent: &str) -> store::Quarantine {
        store::Quarantine { agent: agent.to_owned(), records: self.records.values().cloned().collect() }
    }

    /// Nothing is fast enough any more.
    #[cfg(test)]
    pub(super) fn lose_patience(&mut self) {
        self.handling_max = Duration::ZERO;
    }
}

fn is_proven(record: &Quarantined) -> bool {
    record.deaths >= DEATHS_MAX
}

fn named(hash: &Hash, origin: String, version: Version, reason: &str) -> Quarantined {
    let (hash, version) = (HEXLOWER.encode(hash), version.to_string());
    Quarantined { hash, origin, version, reason: reason.to_owned(), deaths: 0 }
}

fn hash_from(text: &str) -> Option<Hash> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Of all its bytes: whoever has no part in a record cannot make another one share its name.
fn hash_of(record: &Record) -> Hash {
    let hash = digest::digest(&digest::SHA256, record.encoded());
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Records that tests make this agent fail on, by their key.
#[cfg(test)]
pub(super) fn strike(record: &Record, key: &str) {
    assert!(record.header().key != key.as_bytes(), "the poison works");
}
