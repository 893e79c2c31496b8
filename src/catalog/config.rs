//! What a catalog may be told to do differently, and the fixed sizes behind its messages. Plain values; nothing here acts.

use std::time::Duration;

use crate::model::BUCKETS;

/// A message's variant, its list's length and a flag, each at most a few bytes in any encoding the wire uses.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 16;
/// What an encoding adds to a record's own bytes: its length, at most a 32-bit number and a tag.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 5;
/// An origin summary: 16 bytes of id, three 64-bit numbers of at most 9 bytes each as variable-length integers.
pub(super) const SUMMARY_BYTES: usize = 16 + 3 * 9;
/// A digest is the largest message that cannot be split: the lower bound of `datagram_bytes_max`.
pub(super) const DIGEST_BYTES: usize = MESSAGE_OVERHEAD_BYTES + BUCKETS * 9;

/// Times, copies and bounds of a [`Catalog`](super::Catalog).
///
/// `Default` is meant for meshes of 2 to 10,000 hosts. A fresh record reaches every host in about log₃(N) hops of
/// `fresh_interval` at most each; what loss left out comes with the copies that follow every `gossip_interval`, and what
/// even they missed within a few `digest_interval`s.
#[derive(Debug, Clone)]
pub struct Config {
    /// Between two copies of the same record sent by this host.
    pub gossip_interval: Duration,
    /// Records not sent yet wait at most this long for company in their datagram. Below `gossip_interval`: a hop then
    /// costs a network delay, not an interval.
    pub fresh_interval: Duration,
    /// How many peers get a copy in one round.
    pub fanout: usize,
    /// A host sends `retransmit_mult × ⌈log10(N + 1)⌉` copies of a record, whatever happens to them.
    pub retransmit_mult: u32,
    /// Between two digests of this host, each to one random peer. The whole price of being in sync.
    pub digest_interval: Duration,
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
            fresh_interval: Duration::from_millis(10),
            fanout: 3,
            retransmit_mult: 3,
            digest_interval: Duration::from_secs(5),
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

    /// How many bytes of records, each with [`RECORD_OVERHEAD_BYTES`], fit one datagram.
    pub(super) fn delta_bytes_max(&self) -> usize {
        self.datagram_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES)
    }
}
