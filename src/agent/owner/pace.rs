//! How often this host may speak of one of its services: one whose checks flap is published with its state of the moment
//! and not with every one in between. Others would leave what is more unread (`catalog::Config::origin_rate`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Owner;
use crate::model::ServiceId;

/// Changes published at once after a service was calm.
const BURST: u32 = 10;
/// And then one in this time.
const REFILL: Duration = Duration::from_millis(200);
/// All services together: half of what other hosts take of one in the long run.
const TOTAL_BURST: u32 = 250;
const TOTAL_REFILL: Duration = Duration::from_millis(40);
/// Services spoken of lately; with more the calm ones are looked for.
const SPENT_MAX: usize = 1_024;

/// Tokens gone from a full bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    spent: u32,
    since: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Bucket {
        Bucket { spent: 0, since: now }
    }

    fn refill(&mut self, now: Instant, refill: Duration) {
        while self.spent > 0 && now >= self.since + refill {
            self.spent -= 1;
            self.since += refill;
        }
        if self.spent == 0 {
            self.since = now;
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Pace {
    services: BTreeMap<ServiceId, Bucket>,
    total: Bucket,
    /// To be published when there is room again.
    held: BTreeSet<ServiceId>,
    pub(super) coalesced: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { services: BTreeMap::new(), total: Bucket::new(now), held: BTreeSet::new(), coalesced: 0 }
    }

    /// True if the service's change may be published now; else it is held, to be asked for again when due.
    fn may_publish(&mut self, id: &ServiceId, now: Instant) -> bool {
        if self.services.len() >= SPENT_MAX {
            self.services.values_mut().for_each(|bucket| bucket.refill(now, REFILL));
            self.services.retain(|_, bucket| bucket.spent > 0);
        }
        self.total.refill(now, TOTAL_REFILL);
        let bucket = self.services.entry(id.clone()).or_insert_with(|| Bucket::new(now));
        bucket.refill(now, REFILL);
        if bucket.spent >= BURST || self.total.spent >= TOTAL_BURST {
            self.coalesced += 1;
            self.held.insert(id.clone());
            return false;
        }
        bucket.spent += 1;
        self.total.spent += 1;
        self.held.remove(id);
        true
    }
}

impl Owner {
    /// True if a change of the service may be told now. Its first word and its last are never held up.
    pub(super) fn may_publish(&mut self, id: &ServiceId, was_announced: bool) -> bool {
        !was_announced || self.pace.may_publish(id, Instant::now())
    }

    /// Publishes held changes that there is room for.
    pub(super) fn keep_pace(&mut self) {
        if self.pace_due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let held = std::mem::take(&mut self.pace.held);
        held.iter().for_each(|id| self.refresh(id));
    }

    /// When there may be room for a held change.
    pub(super) fn pace_due(&self) -> Option<Instant> {
        let bucket_of = |id: &ServiceId| self.pace.services.get(id).map(|bucket| bucket.since + REFILL);
        let earliest = self.pace.held.iter().filter_map(bucket_of).min()?;
        let total = self.pace.total;
        Some(if total.spent >= TOTAL_BURST { earliest.max(total.since + TOTAL_REFILL) } else { earliest })
    }
}
