//! This host's own tombstones and when they have stayed long enough. Only their writer may end them, by raising its floor;
//! nobody lets a tombstone go by a clock of his own.

use std::collections::BTreeMap;

use super::Config;
use crate::model::{Now, Record, RecordId};

/// Asked for a compaction that has not come, ask again after this part of the tombstones' lifetime.
const ASK_AGAIN_PART: u32 = 4;
/// Tombstones may take this part of an origin's records before compaction no longer waits for their lifetime.
const CROWDED_PART: usize = 4;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct OwnTombstones {
    since: BTreeMap<RecordId, Now>,
    due: Option<Now>,
}

impl OwnTombstones {
    /// An own record was applied.
    pub(super) fn note(&mut self, now: Now, record: &Record, config: &Config) {
        if record.header().tombstone {
            self.since.insert(record.id(), now);
            let lifetime_end = now + config.tombstone_lifetime;
            let due = self.due.get_or_insert(lifetime_end);
            if self.since.len() == config.origin_records_max / CROWDED_PART {
                *due = now;
            }
        } else {
            self.since.remove(&record.id());
        }
    }

    /// When [`OwnTombstones::tick`] has something to say.
    pub(super) fn due(&self) -> Option<Now> {
        self.due
    }

    /// True if it is time to compact. `is_held` tells which tombstones still are: a floor may have ended some.
    pub(super) fn tick(&mut self, now: Now, config: &Config, is_held: impl Fn(&RecordId) -> bool) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.since.retain(|id, _| is_held(id));
        let crowded = self.since.len() >= config.origin_records_max / CROWDED_PART;
        let oldest_end = self.since.values().min().map(|since| *since + config.tombstone_lifetime);
        let compact = crowded || oldest_end.is_some_and(|end| now >= end);
        let ask_again = now + config.tombstone_lifetime / ASK_AGAIN_PART;
        self.due = if compact { Some(ask_again) } else { oldest_end };
        compact
    }
}
