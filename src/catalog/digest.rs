//! Digests and summaries: finding out which origins two catalogs hold differently, at the price of one datagram where
//! they do not.
//!
//! A host sends its bucket hashes to a random peer. The peer answers for the buckets that differ with summaries of their
//! origins. The host pulls what it lacks (see `repair`) and, once a bucket, answers with summaries of what the peer
//! lacks, which the peer then pulls. An answer to an answer to an answer does not exist, so nothing loops.

use std::collections::BTreeSet;

use rand::RngExt;

use super::origin::Origin;
use super::{Catalog, Output};
use crate::model::{BUCKETS, BucketDigest, CatalogMessage, NodeId, Now, OriginSummary, Version};

/// Datagrams of summaries that answer one digest: one for each bucket of a newcomer's, which may lack everything.
const SUMMARIES_PER_DIGEST_MAX: usize = BUCKETS;
/// Datagrams of summaries that answer summaries. The rest follows with the next digest.
const SUMMARIES_PER_ANSWER_MAX: usize = 4;
/// Datagrams of summaries sent in one `gossip_interval`, whoever asks: a healed partition has everybody ask everybody.
const SUMMARIES_PER_INTERVAL_MAX: u32 = 128;
/// A digest is answered within this time or was lost; answers that come later get no answer of their own.
const ANSWER_TIME_MAX: Now = Now::from_secs(10);

/// One more digest at once to a returning peer is allowed after each of these times.
const SYNC_REFILL: Now = Now::from_millis(500);
/// Of all hosts that learn of one's return, about so many compare with it at once.
const SYNCS_PER_RETURN: u32 = 8;
/// A digest in a hurry follows in this part of the interval.
pub(super) const HURRY_PART: u32 = 8;

/// The hash of a bucket's origins, and what is remembered for its repair.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    pub(super) hash: BucketDigest,
    /// How often a peer's hash of this bucket was equal; see `Origin::agreed`.
    pub(super) agreements: u64,
    /// Records of its origins that only this host's store speaks for.
    pub(super) unconfirmed: usize,
    /// Where the next answer starts when not all origins fit.
    cursor: usize,
}

/// A digest that this host sent, and the buckets whose summaries it has not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    at: Now,
    buckets: u64,
}

/// How many summaries went out in the current interval.
#[derive(Debug, Default)]
pub(super) struct AnswerBudget {
    since: Now,
    sent: u32,
}

/// How many digests may still go out beside the regular ones.
#[derive(Debug, Default)]
pub(super) struct SyncBudget {
    spent: u32,
    since: Now,
}

/// The bucket that an origin's records are hashed into.
pub(super) fn bucket_of(origin: NodeId) -> usize {
    usize::from(origin.0[0]) % BUCKETS
}

impl Catalog {
    /// The regular digest to one random peer.
    pub(super) fn tick_digest(&mut self, now: Now) {
        self.asked.retain(|_, asked| now < asked.at + ANSWER_TIME_MAX);
        if now < self.digest_next {
            return;
        }
        self.pace.tick(now, &self.config);
        if let Some(peer) = self.random_peer() {
            self.send_digest(now, peer);
        }
        self.digest_next += self.config.digest_interval;
        if self.digest_next <= now {
            self.digest_next = now + self.config.digest_interval;
        }
    }

    /// Within the budget at once, else in a hurry with whoever is drawn.
    pub(super) fn sync(&mut self, now: Now, with: NodeId) {
        let budget = &mut self.sync_budget;
        while budget.spent > 0 && now >= budget.since + SYNC_REFILL {
            budget.spent -= 1;
            budget.since += SYNC_REFILL;
        }
        if budget.spent >= self.config.syncs_burst {
            return self.hurry(now);
        }
        if budget.spent == 0 {
            budget.since = now;
        }
        budget.spent += 1;
        self.send_digest(now, with);
    }

    pub(super) fn meet(&mut self, now: Now, member: NodeId) {
        let hosts = u32::try_from(self.peers.len()).unwrap_or(u32::MAX).max(1);
        if hosts <= SYNCS_PER_RETURN || self.rng.random_ratio(SYNCS_PER_RETURN, hosts) {
            self.sync(now, member);
        } else {
            self.hurry(now);
        }
    }

    /// Brings the next regular digest forward.
    pub(super) fn hurry(&mut self, now: Now) {
        self.digest_next = self.digest_next.min(now + self.config.digest_interval / HURRY_PART);
    }

    pub(super) fn send_digest(&mut self, now: Now, to: NodeId) {
        self.asked.insert(to, Asked { at: now, buckets: u64::MAX });
        self.counters.digests_sent += 1;
        let digest = self.buckets.iter().map(|bucket| bucket.hash).collect();
        self.outputs.push_back(Output::Send { to, message: CatalogMessage::Digest(digest) });
    }

    pub(super) fn digest_received(&mut self, now: Now, from: NodeId, digest: &[BucketDigest]) {
        if digest.len() != BUCKETS {
            self.counters.messages_malformed += 1;
            return;
        }
        let (mut differing, mut doubtful) = (Vec::new(), Vec::new());
        for (index, (bucket, theirs)) in self.buckets.iter_mut().zip(digest).enumerate() {
            if bucket.hash != *theirs {
                differing.push(index);
                continue;
            }
            bucket.agreements += 1;
            if bucket.unconfirmed > 0 {
                doubtful.push(index);
            }
        }
        for bucket in doubtful {
            let held = self.origins_in(bucket).filter(|(_, origin)| origin.unconfirmed() > 0);
            let held: Vec<NodeId> = held.map(|(id, _)| *id).collect();
            held.into_iter().for_each(|id| self.change(id, Origin::confirm_current));
        }
        if differing.is_empty() {
            self.counters.digests_equal += 1;
            return;
        }
        self.counters.digests_differing += 1;
        let datagrams_max = (SUMMARIES_PER_DIGEST_MAX / differing.len()).max(1);
        for bucket in differing {
            self.send_bucket(now, from, bucket, datagrams_max);
        }
    }

    fn send_bucket(&mut self, now: Now, to: NodeId, bucket: usize, datagrams_max: usize) {
        let mut origins = self.offered_in(bucket);
        let room = self.config.summaries_per_datagram();
        let complete = origins.len() <= room;
        if origins.len() > datagrams_max * room {
            // Another part every time, so that repeated digests see all of them.
            let cursor = self.buckets[bucket].cursor % origins.len();
            origins.rotate_left(cursor);
            origins.truncate(datagrams_max * room);
            self.buckets[bucket].cursor = cursor + origins.len();
        }
        if origins.is_empty() {
            self.send_summaries(now, to, bucket, Vec::new(), true);
        }
        for part in origins.chunks(room) {
            self.send_summaries(now, to, bucket, part.to_vec(), complete);
        }
    }

    fn send_summaries(&mut self, now: Now, to: NodeId, bucket: usize, origins: Vec<OriginSummary>, complete: bool) {
        let budget = &mut self.answer_budget;
        if now >= budget.since + self.config.gossip_interval {
            *budget = AnswerBudget { since: now, sent: 0 };
        }
        let Ok(bucket) = u8::try_from(bucket) else { return };
        if budget.sent >= SUMMARIES_PER_INTERVAL_MAX {
            self.counters.summaries_withheld += 1;
            return;
        }
        budget.sent += 1;
        self.counters.summaries_sent += 1;
        let message = CatalogMessage::Summaries { bucket, origins, complete };
        self.outputs.push_back(Output::Send { to, message });
    }

    pub(super) fn summaries_received(
        &mut self,
        now: Now,
        from: NodeId,
        bucket: u8,
        origins: &[OriginSummary],
        complete: bool,
    ) {
        let bucket = usize::from(bucket);
        if bucket >= BUCKETS || origins.iter().any(|summary| bucket_of(summary.origin) != bucket) {
            self.counters.messages_malformed += 1;
            return;
        }
        origins.iter().for_each(|summary| self.consider(from, *summary, false));
        self.answer_summaries(now, from, bucket, origins, complete);
        self.start_pulls(now);
    }

    /// Tells the peer what it lacks, if its summaries answer a digest of ours.
    fn answer_summaries(&mut self, now: Now, to: NodeId, bucket: usize, theirs: &[OriginSummary], complete: bool) {
        if self.asked.get(&to).is_none_or(|asked| asked.buckets >> bucket & 1 == 0) {
            return;
        }
        let mut lacking: Vec<OriginSummary> = theirs.iter().filter_map(|summary| self.newer_than(summary)).collect();
        if complete {
            let told: BTreeSet<NodeId> = theirs.iter().map(|summary| summary.origin).collect();
            lacking.extend(self.offered_in(bucket).into_iter().filter(|summary| !told.contains(&summary.origin)));
        }
        if lacking.is_empty() {
            return;
        }
        if let Some(asked) = self.asked.get_mut(&to) {
            asked.buckets &= !(1 << bucket);
        }
        for part in lacking.chunks(self.config.summaries_per_datagram()).take(SUMMARIES_PER_ANSWER_MAX) {
            self.send_summaries(now, to, bucket, part.to_vec(), false);
        }
    }

    /// Our summary of an origin, if the sender of `theirs` may find something in it.
    fn newer_than(&self, theirs: &OriginSummary) -> Option<OriginSummary> {
        let ours = self.origins.get(&theirs.origin)?.summary(theirs.origin)?;
        (ours.hash != theirs.hash && ours.newest >= theirs.newest && ours.newest > Version::ZERO).then_some(ours)
    }

    fn offered_in(&self, bucket: usize) -> Vec<OriginSummary> {
        self.origins_in(bucket).filter_map(|(id, origin)| origin.summary(*id)).collect()
    }

    fn origins_in(&self, bucket: usize) -> impl Iterator<Item = (&NodeId, &Origin)> {
        let firsts = (0..=u8::MAX).filter(move |first| usize::from(*first) % BUCKETS == bucket);
        let bounds = firsts.map(|first| {
            let (mut low, mut high) = ([0; 16], [u8::MAX; 16]);
            (low[0], high[0]) = (first, first);
            NodeId(low)..=NodeId(high)
        });
        bounds.flat_map(|ids| self.origins.range(ids))
    }
}
