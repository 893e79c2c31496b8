//! Pulls: what this host asks others for, from whom, and what it answers when asked.
//!
//! At most one pull runs per peer and per origin, a few in all; what else is wanted waits, bounded, and is judged again
//! when its turn comes. A pull that brings nothing is not repeated for the same offer until a growing time has passed:
//! otherwise a record that this host must refuse would be carried over and over.
//!
//! Of its own records a host lacks none, so a peer that holds them otherwise is behind, and mends that itself. Unless the host
//! went back in time and writes versions anew that it has used before: then what others hold of it stays different for good.
//! So it looks at what a peer holds of it when nobody has agreed with it for a while ([`Doubt`]).

use std::collections::{BTreeMap, BTreeSet};

use super::broadcast::Source;
use super::digest::bucket_of;
use super::{Catalog, Output};
use crate::model::{NodeId, Now, OriginSummary, Record, RecordKind, Version, Want};

/// Pulls at once. Each is a stream of up to a mebibyte a chunk.
const PULLS_MAX: usize = 4;
/// Wants in one pull: about 40 kB of request.
const WANTS_PER_PULL_MAX: usize = 1_024;
/// Offers that wait for their pull; what is over is found again by the next digest.
const PENDING_MAX: usize = 16_384;
/// A pull whose end was never reported does not block its peer and origins for longer.
const PULL_TIME_MAX: Now = Now::from_secs(120);
/// After a failed pull a peer is left alone for this long: a digest interval.
const FAILED_PAUSE: Now = Now::from_secs(5);
/// The first pause after a pull that brought nothing, and the longest.
const FRUITLESS_PAUSE_MIN: Now = Now::from_secs(15);
const FRUITLESS_PAUSE_MAX: Now = Now::from_secs(600);
/// In this time a peer that lacks something has pulled it.
const PEER_REPAIR_TIME: Now = Now::from_secs(3);
/// An origin of which this host holds at most so many records is pulled whole as soon as a pull from the last agreement has
/// brought nothing, about 20 kB: hosts that lack the same record agree with each other too, and what they lack is then below.
const SMALL_ORIGIN_RECORDS: usize = 64;
/// A peer that holds this host's records otherwise for so long, while nobody holds them as it does, is looked at: two digest
/// intervals, in which a peer that was merely behind has caught up.
const DOUBT_TIME: Now = Now::from_secs(10);
/// Fruitless offers remembered.
const FRUITLESS_MAX: usize = 4_096;

/// A peer's offer that this host has use for.
#[derive(Debug, Clone, Copy)]
struct Offer {
    peer: NodeId,
    summary: OriginSummary,
    /// True if it came as an announcement, to be passed on once the records are here.
    announced: bool,
    /// Records in the middle are missing as well: a pull of the newest did not help.
    whole: bool,
}

#[derive(Debug)]
struct Pulling {
    offer: Offer,
    after: Version,
    /// `after` is where this host last held the same as some peer, and not a guess.
    from_agreement: bool,
    /// The origin's count of changes when the pull began.
    changes: u64,
}

#[derive(Debug)]
struct Pull {
    since: Now,
    origins: Vec<Pulling>,
}

#[derive(Debug, Clone, Copy)]
struct Fruitless {
    until: Now,
    pause: Now,
}

/// Whether others hold what this host has written, and nothing besides.
#[derive(Debug, Clone, Copy, Default)]
struct Doubt {
    /// When the first peer was met that holds it otherwise, since the last that agreed or was looked at.
    since: Option<Now>,
    /// The bucket's count of agreements then.
    agreements: u64,
    /// After a look the next one waits.
    not_before: Now,
    pause: Now,
}

impl Doubt {
    fn differs(&mut self, now: Now, agreements: u64) {
        if self.since.is_some() && self.agreements != agreements {
            self.agrees();
        }
        self.agreements = agreements;
        self.since.get_or_insert(now);
    }

    fn agrees(&mut self) {
        (self.since, self.pause) = (None, Now::ZERO);
    }

    fn is_due(&self, now: Now) -> bool {
        self.since.is_some_and(|since| now >= since + DOUBT_TIME) && now >= self.not_before
    }

    /// A look begins. What is different and yet harmless costs a pull in ten minutes.
    fn look(&mut self, now: Now) {
        self.pause = (self.pause * 2).clamp(FRUITLESS_PAUSE_MIN, FRUITLESS_PAUSE_MAX);
        (self.since, self.not_before) = (None, now + self.pause);
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Repair {
    doubt: Doubt,
    pending: BTreeMap<NodeId, Offer>,
    running: BTreeMap<NodeId, Pull>,
    /// By origin and the offer's hash: another offer may well help.
    fruitless: BTreeMap<(NodeId, u64), Fruitless>,
    paused: BTreeMap<NodeId, Now>,
}

impl Repair {
    /// When the oldest pull is given up.
    pub(super) fn due(&self) -> Option<Now> {
        self.running.values().map(|pull| pull.since + PULL_TIME_MAX).min()
    }

    pub(super) fn forget(&mut self, origin: NodeId) {
        self.pending.remove(&origin);
    }

    fn is_running(&self, origin: NodeId) -> bool {
        self.running.values().flat_map(|pull| &pull.origins).any(|pulling| pulling.offer.summary.origin == origin)
    }

    fn note_fruitless(&mut self, now: Now, summary: &OriginSummary, first: Now) {
        let key = (summary.origin, summary.hash);
        let pause = self.fruitless.get(&key).map_or(first, |before| (before.pause * 2).max(FRUITLESS_PAUSE_MIN));
        let pause = pause.min(FRUITLESS_PAUSE_MAX);
        if self.fruitless.len() >= FRUITLESS_MAX {
            self.fruitless.pop_first();
        }
        self.fruitless.insert(key, Fruitless { until: now + pause, pause });
    }
}

impl Catalog {
    /// Judges a peer's summary of one origin: confirms what it proves, notes what it offers.
    pub(super) fn consider(&mut self, from: NodeId, summary: OriginSummary, announced: bool) {
        self.confirm_by(&summary);
        self.compare_own(&summary);
        if self.want(&summary).is_none() {
            return;
        }
        if !self.pace.may_pull(self.now, summary.origin) {
            self.counters.pulls_over_rate += 1;
            return;
        }
        let pending = &mut self.repair.pending;
        let before = pending.get(&summary.origin).copied();
        let is_better = before.is_none_or(|before| summary.newest >= before.summary.newest);
        if is_better && (before.is_some() || pending.len() < PENDING_MAX) {
            let announced = announced || before.is_some_and(|before| before.announced);
            let whole = before.is_some_and(|before| before.whole);
            pending.insert(summary.origin, Offer { peer: from, summary, announced, whole });
        }
    }

    /// Equal hashes: the peer holds just what we hold, the records from our store included.
    fn confirm_by(&mut self, summary: &OriginSummary) {
        let agreements = self.buckets[bucket_of(summary.origin)].agreements;
        let Some(origin) = self.origins.get_mut(&summary.origin) else { return };
        if origin.unconfirmed() > 0 && origin.hash_all() == summary.hash {
            self.change(summary.origin, super::origin::Origin::confirm_all);
        } else if origin.hash_offered() == summary.hash {
            origin.set_agreed(agreements, summary.newest);
            if origin.unconfirmed() > 0 {
                self.change(summary.origin, super::origin::Origin::confirm_current);
            }
        }
    }

    /// What a peer holds of this host itself, that has nothing newer.
    fn compare_own(&mut self, summary: &OriginSummary) {
        let Some(origin) = self.origins.get(&summary.origin).filter(|_| summary.origin == self.local) else { return };
        if origin.hash_offered() == summary.hash {
            self.repair.doubt.agrees();
        } else if origin.newest() >= summary.newest {
            self.repair.doubt.differs(self.now, self.buckets[bucket_of(summary.origin)].agreements);
        }
    }

    /// From where on to pull an origin of which a peer holds `summary`, and whether that rests on an agreement; `None` if
    /// there is nothing to be had.
    fn want(&self, summary: &OriginSummary) -> Option<(Version, bool)> {
        if self.is_forgotten(summary.origin, summary.newest) {
            return None;
        }
        let fruitless = self.repair.fruitless.get(&(summary.origin, summary.hash));
        if fruitless.is_some_and(|fruitless| self.now < fruitless.until) {
            return None;
        }
        let Some(origin) = self.origins.get(&summary.origin) else {
            return (self.origins.len() < self.config.origins_max).then_some((Version::ZERO, false));
        };
        if origin.hash_offered() == summary.hash {
            return None;
        }
        let ours = origin.newest_offered().unwrap_or(Version::ZERO);
        if summary.origin == self.local && ours >= summary.newest {
            // What earlier starts said is void, or will be.
            let start = Version { sequence: 0, ..ours };
            return self.repair.doubt.is_due(self.now).then_some((start, false));
        }
        if ours > summary.newest {
            return None;
        }
        if fruitless.is_some() {
            return Some((Version::ZERO, false));
        }
        let agreed = origin.agreed(self.buckets[bucket_of(summary.origin)].agreements);
        if agreed > Version::ZERO {
            Some((agreed, true))
        } else if summary.newest > origin.newest() {
            Some((origin.newest(), false))
        } else {
            Some((Version::ZERO, false))
        }
    }

    /// True if a peer's summary can hold nothing newer of this host than it has written.
    fn is_own_look(&self, summary: &OriginSummary) -> bool {
        summary.origin == self.local && self.newest_of(self.local).is_some_and(|ours| ours >= summary.newest)
    }

    /// Starts as many of the waiting pulls as may run.
    pub(super) fn start_pulls(&mut self, now: Now) {
        let mut skipped = BTreeSet::new();
        while self.repair.running.len() < PULLS_MAX {
            let repair = &self.repair;
            let is_free = |peer: &NodeId| {
                !skipped.contains(peer)
                    && !repair.running.contains_key(peer)
                    && repair.paused.get(peer).is_none_or(|until| now >= *until)
            };
            let Some(peer) = repair.pending.values().map(|offer| offer.peer).find(is_free) else { return };
            skipped.insert(peer);
            self.start_pull(now, peer);
        }
    }

    fn start_pull(&mut self, now: Now, peer: NodeId) {
        let repair = &self.repair;
        let offers = repair.pending.values().filter(|offer| offer.peer == peer);
        let free = offers.filter(|offer| !repair.is_running(offer.summary.origin));
        let chosen: Vec<Offer> = free.take(WANTS_PER_PULL_MAX).copied().collect();
        let mut origins = Vec::with_capacity(chosen.len());
        for offer in chosen {
            self.repair.pending.remove(&offer.summary.origin);
            if let Some((after, from_agreement)) = self.want(&offer.summary) {
                if self.is_own_look(&offer.summary) {
                    self.repair.doubt.look(now);
                }
                let (after, from_agreement) =
                    if offer.whole { (Version::ZERO, false) } else { (after, from_agreement) };
                let changes = self.origins.get(&offer.summary.origin).map_or(0, |origin| origin.changes());
                origins.push(Pulling { offer, after, from_agreement, changes });
            }
        }
        if origins.is_empty() {
            return;
        }
        let wants = origins.iter().map(|pulling| Want { origin: pulling.offer.summary.origin, after: pulling.after });
        let wants = wants.collect();
        self.repair.running.insert(peer, Pull { since: now, origins });
        self.counters.pulls_started += 1;
        self.outputs.push_back(Output::Pull { from: peer, wants });
    }

    /// A pull is over and its records are merged.
    pub(super) fn pull_done(&mut self, now: Now, from: NodeId) {
        let Some(pull) = self.repair.running.remove(&from) else { return };
        let mut repaired = false;
        for pulling in pull.origins {
            let changed = self.judge(now, &pulling);
            if changed && pulling.offer.announced {
                let origin = pulling.offer.summary.origin;
                self.broadcast.announce(now, origin, Source::Copy(from), &self.config);
            }
            repaired |= changed && !pulling.offer.announced;
        }
        let more = self.repair.pending.values().any(|offer| offer.peer == from);
        if repaired {
            // Where one difference was there are more, and others who have not met theirs. It ends with the last one found.
            self.hurry(now);
        }
        if repaired && !more {
            // Whether all is equal now: it confirms what came from the store, and shows what no datagram had room for.
            self.send_digest(now, from);
        }
        self.start_pulls(now);
    }

    /// Draws the conclusions from one origin's pull; true if it changed anything.
    fn judge(&mut self, now: Now, pulling: &Pulling) -> bool {
        let Pulling { offer, after, from_agreement, changes } = pulling;
        let summary = &offer.summary;
        self.confirm_by(summary);
        if self.is_own_look(summary) {
            // What was found is the owner's to judge; the peer pulls what it lacks.
            return false;
        }
        let agreements = self.buckets[bucket_of(summary.origin)].agreements;
        let (mut changed, mut equal, mut newest, mut small) = (false, false, Version::ZERO, true);
        if let Some(origin) = self.origins.get_mut(&summary.origin) {
            small = origin.len() <= SMALL_ORIGIN_RECORDS;
            changed = origin.changes() != *changes;
            equal = origin.hash_offered() == summary.hash;
            newest = origin.newest();
            if !equal && newest <= summary.newest {
                origin.set_agreed(agreements, Version::ZERO);
            }
        }
        if *after == Version::ZERO {
            if !changed {
                self.repair.note_fruitless(now, summary, FRUITLESS_PAUSE_MIN);
            }
        } else if !equal && newest <= summary.newest {
            if changed || !*from_agreement || offer.announced || small {
                // Something older is missing as well: the whole origin, then. Where this pull brought nothing at all the
                // next must not begin where it did.
                let whole = !changed && (!*from_agreement || small);
                let again = Offer { whole: offer.whole || whole, ..*offer };
                self.repair.pending.entry(summary.origin).and_modify(|other| other.whole |= whole).or_insert(again);
            } else {
                // Most likely it is the peer that lacks something. It has been told; the whole origin, if that does not help.
                self.repair.note_fruitless(now, summary, PEER_REPAIR_TIME);
            }
        }
        changed
    }

    pub(super) fn pull_lost(&mut self, now: Now, from: NodeId) {
        if self.repair.running.remove(&from).is_some() {
            self.counters.pulls_failed += 1;
            self.repair.paused.insert(from, now + FAILED_PAUSE);
            self.repair.pending.retain(|_, offer| offer.peer != from);
        }
        self.start_pulls(now);
    }

    /// Gives up pulls that never ended and forgets pauses that have.
    pub(super) fn tick_pulls(&mut self, now: Now) {
        let is_lost = |pull: &Pull| now >= pull.since + PULL_TIME_MAX;
        let lost: Vec<NodeId> =
            self.repair.running.iter().filter(|(_, pull)| is_lost(pull)).map(|(peer, _)| *peer).collect();
        lost.into_iter().for_each(|peer| self.pull_lost(now, peer));
        self.repair.paused.retain(|_, until| now < *until);
        // Kept for a while after its end, so that a repetition asks for everything and doubles the pause.
        self.repair.fruitless.retain(|_, fruitless| now < fruitless.until + fruitless.pause.max(FRUITLESS_PAUSE_MIN));
        self.start_pulls(now);
    }

    /// One chunk for a peer that pulls, and the wants that are left. Of an origin the node record goes first (it
    /// admits the others), the others follow in the order of its log.
    pub(super) fn chunk(&self, wants: &[Want], bytes_max: usize) -> (Vec<Record>, Vec<Want>) {
        let mut records = Vec::new();
        let mut bytes = 0;
        for (index, want) in wants.iter().enumerate() {
            let Some(origin) = self.origins.get(&want.origin) else { continue };
            // One record at most, whatever a host writes under other keys of the kind.
            let is_node = |record: &&Record| record.header().kind == RecordKind::NODE && record.header().key.is_empty();
            let others = origin.offered_after(want.after).filter(|record| !is_node(record));
            let nodes = origin.offered_after(want.after).filter(is_node);
            let mut after = want.after;
            // A chunk's first want gets at least one record beside the node record, so that each chunk makes progress.
            let mut may_exceed = records.is_empty();
            for record in nodes.chain(others) {
                let cost = record.encoded().len() + super::config::RECORD_OVERHEAD_BYTES;
                if bytes + cost > bytes_max && !may_exceed {
                    let mut left = vec![Want { origin: want.origin, after }];
                    left.extend_from_slice(&wants[index + 1..]);
                    return (records, left);
                }
                bytes += cost;
                if !is_node(&record) {
                    after = record.version();
                    may_exceed = false;
                }
                records.push(record.clone());
            }
        }
        (records, Vec::new())
    }
}
