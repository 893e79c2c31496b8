//! How many false records that came by datagram are looked at. Who sends one is not proven: the key that seals datagrams is every
//! host's, and may be stolen. So nobody is ignored by name; what all of them may cost together is bounded.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Record, RecordKind};

/// Checks of false records within a second. One costs 50 µs, so all cost a tenth of a processor, which is the owner's. True
/// records cost nothing here: each host's are bounded by the catalog. What is not looked at comes by digest, over mutual TLS.
pub(super) const CHECKS_MAX: u32 = 2_000;
/// Not more than a second's worth is saved up.
const SAVED_MAX: Duration = Duration::from_secs(1);
/// A chain of certificates has three signatures more.
const CHAIN_CHECKS: u32 = 4;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Patience {
    /// When all that was spent will have been made up for.
    even_at: Instant,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Patience {
        Patience { even_at: now }
    }

    /// True if another record is looked at.
    pub(super) fn lasts(&self, now: Instant) -> bool {
        self.even_at + SAVED_MAX / CHECKS_MAX <= now + SAVED_MAX
    }

    /// This one was looked at, and false.
    pub(super) fn spend(&mut self, now: Instant, record: &Record) {
        let checks = match record.header().kind {
            RecordKind::NODE | RecordKind::POLICY => CHAIN_CHECKS,
            _ => 1,
        };
        self.even_at = self.even_at.max(now) + SAVED_MAX / CHECKS_MAX * checks;
    }
}
