//! A host that meets its own past: others hold records of it from a later start than this one, or of this start that it has
//! not written. Its disk was set back, or the memory of its machine, or somebody cloned it.
//!
//! Its packets are then sealed under keys that an earlier run has used, with nonces that repeat. So it raises the number
//! of its start on disk and ends, to be started again with keys that were never used. Two clones would do that to each other
//! for ever: after a few times in a row it stays, goes on with records above those it met, and says what is wrong.
//!
//! This is what is left to do where the clock could not keep the number from going back (`own::least_epoch`). How a host gets
//! to see its past: whoever exchanges members with it tells it what is held of it (`Catalog::tell_of`); what is newer it
//! pulls, and what stays different for a while it looks at (`catalog/repair.rs`).

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::super::admit::Refusal;
use super::super::own::OwnLog;
use super::Owner;
use super::records::Taken;
use crate::model::{Now, Record, Version};

/// A host whose disk was set back meets its own past once, at most twice. One that meets it again and again has a twin.
const RISES_MAX: u64 = 4;
/// Times that it goes on above what it met within one start; after that a twin's records are left standing.
const RISES_HERE_MAX: u32 = 4;
/// A host that ran for so long without meeting its past has none.
const CALM: Duration = Duration::from_secs(3600);

/// What is known of a later past.
#[derive(Debug)]
pub(super) struct Past {
    /// How often in a row this host ended because of it; on disk.
    rises: u64,
    rises_here: u32,
    clear_at: Option<Instant>,
    /// The epoch that was met: the agent is to end.
    fatal: Option<u64>,
}

impl Past {
    pub(super) fn new(rises: u64) -> Past {
        let clear_at = (rises > 0).then(|| Instant::now() + CALM);
        Past { rises, rises_here: 0, clear_at, fatal: None }
    }
}

impl Owner {
    /// The epoch for which this agent must end and start again, if it must.
    pub(in crate::agent) fn must_end(&self) -> Option<u64> {
        self.past.fatal
    }

    /// A record of this host that a peer holds: is it newer than its own, or one of this start that it has not written? False if
    /// it is none of this host's.
    pub(super) fn meet_own_past(&mut self, now: Now, record: &Record) -> Taken {
        let (version, own) = (record.version(), self.own.version());
        let is_past = version > own || (version.epoch == own.epoch && self.catalog.is_unwritten(record));
        if !is_past || self.past.fatal.is_some() {
            return Taken::Fairly;
        }
        if self.past.rises_here >= RISES_HERE_MAX {
            self.past.clear_at = Some(Instant::now() + CALM);
            return Taken::Fairly;
        }
        if !crate::identity::verify_record(&self.identity.record_key.public(), record) {
            self.gate.refuse(self.local, Refusal::OwnName);
            return Taken::False;
        }
        self.past.clear_at = Some(Instant::now() + CALM);
        let seen = record.version().epoch;
        if self.past.rises < RISES_MAX {
            error!(
                version = %record.version(),
                "other hosts hold records of this host that it has not written: was its disk restored? the number of its \
                 start is raised and the agent ends, so that its next start seals packets under keys that were never used"
            );
            self.past.rises += 1;
            self.out.store.raise_epoch(seen);
            self.out.store.set_rises(self.past.rises);
            self.past.fatal = Some(seen);
            return Taken::Fairly;
        }
        self.past.rises_here += 1;
        error!(
            version = %record.version(),
            "another host runs with this host's identity (was its disk cloned?): packets of the two repeat nonces under one \
             key; stop one of them and enrol it anew, with an empty data directory"
        );
        self.go_on_above(now, seen.saturating_add(1));
        Taken::Fairly
    }

    fn go_on_above(&mut self, now: Now, epoch: u64) {
        warn!(epoch, "this host's records go on beyond those that others hold");
        self.own = OwnLog::new(self.local, epoch);
        self.out.store.raise_epoch(epoch);
        if let Err(error) = self.republish(now, Version { epoch, sequence: 0 }) {
            error!(%error, "this host's records could not be published again");
        }
    }

    /// Forgets a past that has not shown itself for long.
    pub(super) fn keep_past(&mut self) {
        if self.past.clear_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.past.rises = 0;
            self.past.rises_here = 0;
            self.out.store.set_rises(0);
        }
    }
}
