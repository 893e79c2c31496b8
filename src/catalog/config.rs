//! What a catalog may be told to do differently, and the fixed sizes behind its messages. Plain values; nothing here acts.

use std::time::Duration;

use crate::model::BUCKETS;

/// A message's variant, its list's length and a flag, each at most a few bytes in any encoding the wire uses.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 16;
/// What an encoding adds to a record's own bytes: its length, at most a 32-bit number and a tag.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 5;
/// An origin summary: 16 bytes of id, three 64-bit numbers of at most 9 bytes each as variable-length integers.
pub(super) const SUMMARY_BYTES: usize = 16 + 3 * 9;
/// A record's name: 16 bytes of id and two numbers.
pub(super) const NAME_BYTES: usize = 16 + 2 * 9;
/// A digest is the largest message that cannot be split: the lower bound of `datagram_bytes_max`.
pub(super) const DIGEST_BYTES: usize = MESSAGE_OVERHEAD_BYTES + BUCKETS * 9;

/// Times, copies and bounds of a [`Catalog`](super::Catalog).
///
/// `Default` is meant for meshes of 2 to 10,000 hosts. Copies of a fresh record reach most hosts in about log₂(N) network
/// delays; names reach the others, and what loss left out, within two or three `names_interval`s; what even they missed
/// comes within a few `digest_interval`s.
#[derive(Debug, Clone)]
pub struct Config {
    /// Over this time bounds on answers are counted.
    pub gossip_interval: Duration,
    /// Copies wait at most this long for company in their datagram when this host has just sent others.
    pub fresh_interval: Duration,
    /// Peers that get a copy of a record which came to this host as a copy.
    pub fanout: usize,
    /// Peers that get a copy of an own record: more, for they are the root of everything.
    pub fanout_own: usize,
    /// From a record's arrival to its being named: the time in which copies reach most hosts.
    pub names_delay: Duration,
    /// Between two rounds of names, at least: names are cheap when they travel together.
    pub names_interval: Duration,
    /// From naming a record to naming it again: above what it takes to ask for it and get it.
    pub names_again: Duration,
    /// How often this host names a record to its neighbours on the ring.
    pub names_rounds: u32,
    /// Random peers that are told a record's name the first time, beside the two neighbours on the ring.
    pub names_fanout: usize,
    /// From hearing a name to asking for its record, which may be under way.
    pub request_delay: Duration,
    /// From asking for a record to asking again; grows with every try.
    pub request_timeout: Duration,
    /// Fresh records a second that are taken of one origin in the long run (a large one counts more). Above it they are
    /// dropped unread; the newest come by digest.
    pub origin_rate: u32,
    /// Fresh records taken of one origin at once, after it was calm.
    pub origin_burst: u32,
    /// After a pull that replaced records of an origin the next one waits until `origin_rate` has paid for them, at most
    /// this long.
    pub origin_pause_max: Duration,
    /// Between two digests of this host, each to one random peer. The whole price of being in sync.
    pub digest_interval: Duration,
    /// Digests at once to peers that have come (back); beyond them comparing goes on in a hurry, one at a time.
    pub syncs_burst: u32,
    /// Bytes that an encoded `CatalogMessage` may take in a datagram. At least about 600: a digest cannot be split.
    pub datagram_bytes_max: usize,
    /// Own tombstones older than this are worth a [`Output::Compact`](super::Output::Compact). Well above the time a
    /// delta takes to be everywhere; hosts that were away longer are corrected by the floor.
    pub tombstone_lifetime: Duration,
    /// Records of one origin, tombstones included. Beyond it new keys are refused, so that a host gone wrong (or taken
    /// over) fills its own share and not every other host's memory.
    pub origin_records_max: usize,
    /// Encoded bytes of one origin's records: 100,000 instances of 400 bytes, or 640 records of the largest size.
    pub origin_bytes_max: usize,
    /// Origins. Each is a host with a certificate; the largest mesh aimed at has 10,000.
    pub origins_max: usize,
    /// How long a forgotten origin's old records are refused, while hosts that have not forgotten it yet still offer them.
    pub forgotten_lifetime: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            gossip_interval: Duration::from_millis(100),
            fresh_interval: Duration::from_millis(20),
            fanout: 2,
            fanout_own: 4,
            names_delay: Duration::from_millis(20),
            names_interval: Duration::from_millis(80),
            names_again: Duration::from_millis(120),
            names_rounds: 2,
            names_fanout: 2,
            request_delay: Duration::from_millis(10),
            request_timeout: Duration::from_millis(40),
            origin_rate: 50,
            origin_burst: 500,
            origin_pause_max: Duration::from_secs(30),
            digest_interval: Duration::from_secs(5),
            syncs_burst: 4,
            datagram_bytes_max: 1_100,
            tombstone_lifetime: Duration::from_secs(3_600),
            origin_records_max: 100_000,
            origin_bytes_max: 40 * 1024 * 1024,
            origins_max: 20_000,
            forgotten_lifetime: Duration::from_secs(24 * 3_600),
        }
    }
}

impl Config {
    /// How many origin summaries fit one datagram.
    pub(super) fn summaries_per_datagram(&self) -> usize {
        (self.datagram_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES) / SUMMARY_BYTES).max(1)
    }

    /// How many names fit one datagram.
    pub(super) fn names_per_datagram(&self) -> usize {
        (self.datagram_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES) / NAME_BYTES).max(1)
    }

    /// How many bytes of records, each with [`RECORD_OVERHEAD_BYTES`], fit one datagram.
    pub(super) fn delta_bytes_max(&self) -> usize {
        self.datagram_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES)
    }
}
