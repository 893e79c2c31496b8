//! Replicated records: single-writer logs, digests, deltas, repair. Pure: time and randomness are arguments, effects are
//! outputs; no sockets, no files, no signatures (those are verified before [`Catalog::merge`]).
//!
//! Every host writes records of its own and holds everybody's. Three ways bring them along:
//!
//! 1. **Deltas** (`broadcast`): a fresh record is copied to two peers at once, and by each of them to two more; then it is
//!    named to a few, and who lacks it asks for it (`fetch`). `peers` chooses whom, `pace` bounds what one origin may say.
//! 2. **Digests** (`digest`): every few seconds a host compares 64 hashes with one random peer. In sync, that is all.
//! 3. **Pulls** (`repair`): what a digest shows missing, and what is too large for a datagram, comes by stream.
//!
//! What is held is a function of the set of records merged (`origin`): any order, any repetition, any path will do.
//!
//! The owner feeds datagrams to [`Catalog::receive`], each record of a delta to [`Catalog::screen`] and, where that says so
//! and its signature is good, to [`Catalog::merge`], the clock to [`Catalog::tick`] by [`Catalog::next_timeout`], and after each of them drains [`Catalog::poll_output`].
//!
//! As the writer of its own records the owner keeps three rules. Versions only rise; if an own publication is answered
//! by [`Merge::Void`] or [`Merge::Known`], peers know a later history than this disk: go on above [`Catalog::newest_of`].
//! A deletion is a tombstone. A floor is published after what it must not void is published, and spread: hosts that
//! get the floor first would miss the rest for a moment.

mod broadcast;
mod config;
mod digest;
mod fetch;
mod origin;
mod pace;
mod peers;
mod repair;
#[cfg(test)]
mod tests;
mod tombstones;

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

pub use config::Config;
pub use peers::Peer;

use crate::model::{BUCKETS, CatalogMessage, NodeId, Now, Record, RecordId, RecordRef, Version, Want};
use broadcast::{Broadcast, Source};
use digest::{AnswerBudget, Asked, Bucket, SyncBudget, bucket_of};
use fetch::Fetch;
use origin::{Limits, Origin, Slot};
use pace::Pace;
use peers::Peers;
use repair::Repair;
use tombstones::OwnTombstones;

/// Forgotten origins remembered. Beyond it the first by id is dropped and may come back as a ghost for a while.
const FORGOTTEN_MAX: usize = 4_096;

type Origins = BTreeMap<NodeId, Origin>;

/// How a record came, and so whether others still have to hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// Written by this host, or news that came by a pull: spread it.
    Eager,
    /// In a delta of this peer: spread it, but not back.
    Delta(NodeId),
    /// By a pull: whoever lacks it pulls it as well.
    Quiet,
}

/// What to do with a record of a delta, before anything is spent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// It may be new: verify and merge it.
    Take,
    /// It says nothing new.
    Known,
    /// Its origin says more than one host may: leave it. `news`: for the first time in a while.
    OverRate {
        /// Worth a line in the log.
        news: bool,
    },
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// It is held now.
    Applied {
        /// The older version that it took the place of.
        replaced: Option<Record>,
        /// What it voided, being a floor.
        voided: Vec<RecordId>,
    },
    /// This version or a newer one is held already.
    Known,
    /// It lies below its origin's floor, or its origin has been forgotten.
    Void,
    /// It cannot be held.
    Refused(Refusal),
}

/// Why a well-formed record is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Over `origin_records_max`.
    #[error("host {origin} has {records_max} records, as many as one host may have; remove some or raise the limit")]
    OriginFull {
        /// Whose.
        origin: NodeId,
        /// The limit.
        records_max: usize,
    },
    /// Over `origin_bytes_max`.
    #[error("host {origin}'s records take {bytes_max} bytes, as much as one host may; shorten their metadata")]
    OriginLarge {
        /// Whose.
        origin: NodeId,
        /// The limit.
        bytes_max: usize,
    },
    /// Over `origins_max`.
    #[error("records of {origins_max} hosts are held, as many as may be; host {origin} must wait until others leave")]
    TooManyOrigins {
        /// Whose record had no room.
        origin: NodeId,
        /// The limit.
        origins_max: usize,
    },
    /// A floor with a key.
    #[error("host {origin} sent a floor under a key; upgrade or re-enroll it")]
    FloorKey {
        /// Whose.
        origin: NodeId,
    },
    /// A floor that would void itself.
    #[error("host {origin} sent a floor {floor} above its own version {version}; upgrade or re-enroll it")]
    FloorAboveItself {
        /// Whose.
        origin: NodeId,
        /// What it says.
        floor: Version,
        /// Where it stands in the log.
        version: Version,
    },
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: CatalogMessage,
    },
    /// Open a stream, ask for `wants`, verify what comes and [`Catalog::merge`] it quietly, then call [`Catalog::pulled`]
    /// or [`Catalog::pull_failed`].
    Pull {
        /// From whom.
        from: NodeId,
        /// For what.
        wants: Vec<Want>,
    },
    /// Own tombstones are older than their lifetime: publish the live records anew and then a floor below them.
    Compact,
}

/// Counts since the start, and what is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Origins held.
    pub origins: u64,
    /// Records held, tombstones and floors included.
    pub records: u64,
    /// Of these, from the store and confirmed by nobody yet.
    pub records_unconfirmed: u64,
    /// Records merged that changed something.
    pub records_applied: u64,
    /// Records that were known already.
    pub records_known: u64,
    /// Records below a floor or of a forgotten origin.
    pub records_void: u64,
    /// Records refused.
    pub records_refused: u64,
    /// Delta datagrams sent.
    pub deltas_sent: u64,
    /// Announcements sent.
    pub announces_sent: u64,
    /// Datagrams of names sent.
    pub names_sent: u64,
    /// Datagrams that ask for named records.
    pub requests_sent: u64,
    /// Named records that nobody sent when asked.
    pub fetches_failed: u64,
    /// Datagrams of requested records not sent, over the budget.
    pub answers_withheld: u64,
    /// Fresh records left unread because their origin was over its rate.
    pub records_over_rate: u64,
    /// Pulls put off because their origin was over its rate.
    pub pulls_over_rate: u64,
    /// Digests sent.
    pub digests_sent: u64,
    /// Digests received that showed no difference.
    pub digests_equal: u64,
    /// Digests received that showed one.
    pub digests_differing: u64,
    /// Datagrams of summaries sent.
    pub summaries_sent: u64,
    /// Datagrams of summaries not sent, over the budget.
    pub summaries_withheld: u64,
    /// Pulls begun.
    pub pulls_started: u64,
    /// Pulls that failed or never ended.
    pub pulls_failed: u64,
    /// Messages that make no sense: wrong sizes, origins in a wrong bucket, deltas that skipped verification.
    pub messages_malformed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Forgotten {
    newest: Version,
    until: Now,
}

/// The replicated map of records. See the module's text.
#[derive(Debug)]
pub struct Catalog {
    config: Config,
    local: NodeId,
    rng: ChaCha8Rng,
    /// The latest time told.
    now: Now,
    origins: Origins,
    buckets: [Bucket; BUCKETS],
    forgotten: BTreeMap<NodeId, Forgotten>,
    peers: Peers,
    broadcast: Broadcast,
    fetch: Fetch,
    pace: Pace,
    repair: Repair,
    tombstones: OwnTombstones,
    asked: BTreeMap<NodeId, Asked>,
    answer_budget: AnswerBudget,
    sync_budget: SyncBudget,
    digest_next: Now,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Catalog {
    /// An empty catalog of the host `local`.
    pub fn new(mut config: Config, local: NodeId, mut rng: ChaCha8Rng) -> Catalog {
        config.datagram_bytes_max = config.datagram_bytes_max.max(config::DIGEST_BYTES);
        // Hosts that start together must not send their digests together.
        let digest_next = config.digest_interval.mul_f64(rng.random_range(0.0..1.0));
        Catalog {
            config,
            local,
            rng,
            now: Now::ZERO,
            origins: BTreeMap::new(),
            buckets: [Bucket::default(); BUCKETS],
            forgotten: BTreeMap::new(),
            peers: Peers::new(local),
            broadcast: Broadcast::default(),
            fetch: Fetch::default(),
            pace: Pace::default(),
            repair: Repair::default(),
            tombstones: OwnTombstones::default(),
            asked: BTreeMap::new(),
            answer_budget: AnswerBudget::default(),
            sync_budget: SyncBudget::default(),
            digest_next,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Judges a record of a delta before its signature is checked: whether it can be new, and whether its origin may say
    /// so much.
    pub fn screen(&mut self, now: Now, record: &Record) -> Screen {
        self.now = self.now.max(now);
        let (origin, version) = (record.origin(), record.version());
        let slot = Slot::of(record);
        let held = self.origins.get(&origin);
        if held.and_then(|held| held.get(&slot)).is_some_and(|held| held.encoded() == record.encoded()) {
            self.broadcast.heard(&RecordRef { origin, version });
            // What only the store speaks for is confirmed by being merged again.
            if held.is_some_and(|held| held.is_confirmed(&slot)) {
                self.counters.records_known += 1;
                return Screen::Known;
            }
            return Screen::Take;
        }
        if origin != self.local && !self.pace.is_within(now, origin, &self.config) {
            self.counters.records_over_rate += 1;
            return Screen::OverRate { news: self.pace.is_news(now, origin, &self.config) };
        }
        Screen::Take
    }

    /// Merges a record whose signature has been verified, or one that this host wrote.
    pub fn merge(&mut self, now: Now, record: Record, relay: Relay) -> Merge {
        self.now = self.now.max(now);
        let copy = record.clone();
        let merge = self.merge_into_origin(record);
        match &merge {
            Merge::Applied { replaced, .. } => {
                self.counters.records_applied += 1;
                let asked = self.fetch.arrived(reference(&copy));
                if let Some(replaced) = replaced {
                    self.fetch.note_replaced(reference(replaced));
                }
                if copy.origin() == self.local {
                    self.tombstones.note(now, &copy, &self.config);
                } else if relay != Relay::Quiet {
                    self.pace.charge(now, &copy, &self.config);
                } else if replaced.is_some() {
                    self.pace.charge_pull(now, &copy, &self.config);
                }
                let source = match relay {
                    Relay::Quiet => None,
                    Relay::Delta(_) if asked => Some(Source::Asked),
                    Relay::Delta(from) => Some(Source::Copy(from)),
                    Relay::Eager if copy.origin() == self.local => Some(Source::Own),
                    Relay::Eager => Some(Source::Asked),
                };
                if let Some(source) = source {
                    self.broadcast.push(now, &copy, source, &self.config);
                }
            }
            Merge::Known => self.counters.records_known += 1,
            Merge::Void => self.counters.records_void += 1,
            Merge::Refused(_) => self.counters.records_refused += 1,
        }
        merge
    }

    fn merge_into_origin(&mut self, record: Record) -> Merge {
        let origin = record.origin();
        if self.is_forgotten(origin, record.version()) {
            return Merge::Void;
        }
        if let Some(refusal) = self.check_origins(origin) {
            return Merge::Refused(refusal);
        }
        let limits = self.limits();
        let merge = self.change(origin, |held| held.merge(record, limits));
        if matches!(merge, Merge::Applied { .. }) {
            self.forgotten.remove(&origin);
        }
        merge
    }

    /// Takes a record from this host's own store, before anything is merged. Foreign ones are shown but offered to nobody
    /// until a peer shows that it knows them. False if it is not held: void, refused, or older than what is.
    pub fn restore(&mut self, record: Record) -> bool {
        let origin = record.origin();
        if self.check_origins(origin).is_some() {
            return false;
        }
        let (own, limits, copy) = (origin == self.local, self.limits(), record.clone());
        let held = self.change(origin, |held| held.restore(record, own, limits));
        if own && held {
            self.tombstones.note(self.now, &copy, &self.config);
        }
        held
    }

    /// Takes a datagram from an authenticated peer. Deltas do not come here: the owner verifies and merges their records.
    pub fn receive(&mut self, now: Now, from: NodeId, message: CatalogMessage) {
        self.now = self.now.max(now);
        match message {
            CatalogMessage::Delta(_) => self.counters.messages_malformed += 1,
            CatalogMessage::Announce(summaries) => {
                summaries.into_iter().for_each(|summary| self.consider(from, summary, true));
                self.start_pulls(now);
            }
            CatalogMessage::Fresh(names) => self.names_received(now, from, &names),
            CatalogMessage::Request(names) => self.requested(now, from, &names),
            CatalogMessage::Digest(digest) => self.digest_received(now, from, &digest),
            CatalogMessage::Summaries { bucket, origins, complete } => {
                self.summaries_received(now, from, bucket, &origins, complete);
            }
        }
    }

    /// Whom to exchange with: the members alive (this host among them or not). A forgotten origin among them is welcome
    /// again.
    pub fn set_peers(&mut self, peers: Vec<Peer>) {
        self.peers.set(peers);
        let peers = &self.peers;
        self.forgotten.retain(|origin, _| !peers.contains(*origin));
    }

    /// Members that came to life or moved to another zone (true), and such that are gone: what [`Catalog::set_peers`] does
    /// with all, done with what has changed.
    pub fn change_peers(&mut self, changes: &[(Peer, bool)]) {
        self.peers.change(changes);
        for (peer, _) in changes.iter().filter(|(_, lives)| *lives) {
            self.forgotten.remove(&peer.node);
        }
    }

    /// A pull ended and all its records were merged.
    pub fn pulled(&mut self, now: Now, from: NodeId) {
        self.now = self.now.max(now);
        self.pull_done(now, from);
    }

    /// A pull ended early; what came of it was merged.
    pub fn pull_failed(&mut self, now: Now, from: NodeId) {
        self.now = self.now.max(now);
        self.pull_lost(now, from);
    }

    /// Compares with this peer soon, for we have just exchanged members with it: at once within `syncs_burst`, else with
    /// whom the next hurried digests meet.
    pub fn start_sync(&mut self, now: Now, with: NodeId) {
        self.now = self.now.max(now);
        self.sync(now, with);
        self.tell_of(with);
    }

    /// Tells a peer what is held of itself. To be called for whoever exchanges members by stream: a host whose disk was set
    /// back seals its datagrams for a start that others know to be over. They read nothing of it, so it gets no answer to any
    /// digest, and would never meet its past.
    pub fn tell_of(&mut self, peer: NodeId) {
        if let Some(summary) = self.origins.get(&peer).and_then(|origin| origin.summary(peer)) {
            self.outputs.push_back(Output::Send { to: peer, message: CatalogMessage::Announce(vec![summary]) });
        }
    }

    /// This member has come (back). When many hosts learn that of one, a few of them compare with it at once; the others
    /// would only ask it the same.
    pub fn met(&mut self, now: Now, member: NodeId) {
        self.now = self.now.max(now);
        self.meet(now, member);
    }

    /// One chunk of what a pulling peer wants, of about `bytes_max` encoded bytes, and the wants that are left: to be
    /// answered next. A chunk holds at least one record beside a node record, however small `bytes_max` is.
    pub fn answer(&self, wants: &[Want], bytes_max: usize) -> (Vec<Record>, Vec<Want>) {
        self.chunk(wants, bytes_max)
    }

    /// The records that say something: neither deleted nor void. Floors are among them.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.held().filter(|record| !record.header().tombstone)
    }

    /// All records held, tombstones included: what a store keeps.
    pub fn held(&self) -> impl Iterator<Item = &Record> {
        self.origins.values().flat_map(Origin::records)
    }

    /// As [`Catalog::records`], of one origin.
    pub fn records_of(&self, origin: NodeId) -> impl Iterator<Item = &Record> {
        let held = self.origins.get(&origin).into_iter().flat_map(Origin::records);
        held.filter(|record| !record.header().tombstone)
    }

    /// The record held under an id; a tombstone where it is deleted.
    pub fn get(&self, id: &RecordId) -> Option<&Record> {
        self.origins.get(&id.origin)?.get(&Slot::of_id(id))
    }

    /// False for a record that only this host's store speaks for.
    pub fn is_confirmed(&self, id: &RecordId) -> bool {
        self.origins.get(&id.origin).is_some_and(|origin| origin.is_confirmed(&Slot::of_id(id)))
    }

    /// True if this record of this host is not among what it has written and merged. If it is of the current epoch, another
    /// life of this host has written it. What was written and replaced is not remembered: of that nothing is said.
    pub fn is_unwritten(&self, record: &Record) -> bool {
        record.origin() == self.local && self.origins.get(&self.local).is_none_or(|own| own.never_wrote(record))
    }

    /// The newest version held of an origin.
    pub fn newest_of(&self, origin: NodeId) -> Option<Version> {
        self.origins.get(&origin).map(Origin::newest)
    }

    /// True while copies of this host's own records are still to be sent to somebody.
    pub fn is_telling(&self) -> bool {
        !self.peers.is_empty() && self.broadcast.tells_of(self.local)
    }

    /// Drops a host that is gone for good. What others still offer of it is refused for a while, unless it comes back:
    /// with a newer record, or among the peers.
    pub fn forget_origin(&mut self, origin: NodeId) {
        let Some(held) = self.origins.remove(&origin) else { return };
        let bucket = &mut self.buckets[bucket_of(origin)];
        bucket.hash = bucket.hash.wrapping_sub(held.hash_offered());
        bucket.unconfirmed -= held.unconfirmed();
        self.broadcast.forget(origin);
        self.repair.forget(origin);
        if self.forgotten.len() >= FORGOTTEN_MAX {
            self.forgotten.pop_first();
        }
        let until = self.now + self.config.forgotten_lifetime;
        self.forgotten.insert(origin, Forgotten { newest: held.newest(), until });
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) {
        self.now = self.now.max(now);
        self.forgotten.retain(|_, forgotten| now < forgotten.until);
        self.tick_pulls(now);
        self.tick_digest(now);
        self.tick_fetch(now);
        if !self.peers.is_empty() && self.broadcast.due(&self.config).is_some_and(|due| now >= due) {
            self.send_round(now);
        }
        let origins = &self.origins;
        let is_held = |id: &RecordId| broadcast::held(origins, id).is_some_and(|record| record.header().tombstone);
        if self.tombstones.tick(now, &self.config, is_held) {
            self.outputs.push_back(Output::Compact);
        }
    }

    /// When [`Catalog::tick`] has something to do; changes with every call.
    pub fn next_timeout(&self) -> Option<Now> {
        let talk = [Some(self.digest_next), self.broadcast.due(&self.config)];
        let talk = talk.into_iter().filter(|_| !self.peers.is_empty());
        talk.chain([self.tombstones.due(), self.repair.due(), self.fetch.due()]).flatten().min()
    }

    /// The next thing to do for the owner.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Counts and sizes. Walks the origins.
    pub fn counters(&self) -> Counters {
        let sum = |count: fn(&Origin) -> usize| self.origins.values().map(|origin| count(origin) as u64).sum();
        Counters {
            origins: self.origins.len() as u64,
            records: sum(Origin::len),
            records_unconfirmed: sum(Origin::unconfirmed),
            ..self.counters
        }
    }

    fn send_round(&mut self, now: Now) {
        let messages = self.broadcast.round(now, &self.peers, &self.config, &mut self.rng, &self.origins);
        for (to, message) in messages {
            match message {
                CatalogMessage::Announce(_) => self.counters.announces_sent += 1,
                CatalogMessage::Fresh(_) => self.counters.names_sent += 1,
                _ => self.counters.deltas_sent += 1,
            }
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    fn random_peer(&mut self) -> Option<NodeId> {
        self.peers.any(&mut self.rng)
    }

    fn is_forgotten(&self, origin: NodeId, version: Version) -> bool {
        self.forgotten.get(&origin).is_some_and(|forgotten| version <= forgotten.newest)
    }

    fn check_origins(&self, origin: NodeId) -> Option<Refusal> {
        let origins_max = self.config.origins_max;
        let full = self.origins.len() >= origins_max && origin != self.local && !self.origins.contains_key(&origin);
        full.then_some(Refusal::TooManyOrigins { origin, origins_max })
    }

    fn limits(&self) -> Limits {
        Limits { records_max: self.config.origin_records_max, bytes_max: self.config.origin_bytes_max }
    }

    /// The one way to change an origin: keeps its bucket's hash true, and no origin without records.
    fn change<T>(&mut self, id: NodeId, change: impl FnOnce(&mut Origin) -> T) -> T {
        let bucket = &mut self.buckets[bucket_of(id)];
        let origin = self.origins.entry(id).or_default();
        let (before, unconfirmed) = (origin.hash_offered(), origin.unconfirmed());
        origin.note_agreement(bucket.agreements);
        let result = change(origin);
        bucket.hash = bucket.hash.wrapping_sub(before).wrapping_add(origin.hash_offered());
        bucket.unconfirmed = bucket.unconfirmed - unconfirmed + origin.unconfirmed();
        if origin.len() == 0 {
            self.origins.remove(&id);
        }
        result
    }
}

fn reference(record: &Record) -> RecordRef {
    RecordRef { origin: record.origin(), version: record.version() }
}
