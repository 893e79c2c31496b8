//! What catalogs say to each other: fresh records at once, digests now and then, and wants for what a digest shows missing.

use serde::{Deserialize, Serialize};

use super::{NodeId, Record, Version};

/// Origins are spread over this many buckets by the first byte of their id; one hash a bucket travels in a digest.
/// 64 × 8 bytes fit one datagram with room to spare.
pub const BUCKETS: usize = 64;

/// The hash of all records of one bucket's origins; independent of the order in which they came.
pub type BucketDigest = u64;

/// What a catalog holds of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginSummary {
    /// Whose records.
    pub origin: NodeId,
    /// The highest version held.
    pub newest: Version,
    /// Order-free hash of all records held of it.
    pub hash: u64,
}

/// A request for records of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Whose records.
    pub origin: NodeId,
    /// Send what is newer than this; the zero version asks for everything.
    pub after: Version,
}

/// Names one version of one record without carrying it: an origin writes each version once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordRef {
    /// Whose record.
    pub origin: NodeId,
    /// Its place in the origin's log.
    pub version: Version,
}

/// One catalog message. Each fits a datagram; what does not is pulled over a stream by [`Want`].
///
/// The encoding numbers the variants: new ones go at the end. Agents of protocol version 1 know the first four and drop
/// the others, so nothing may rest on an answer to those.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogMessage {
    /// Fresh records.
    Delta(Vec<Record>),
    /// "This origin has something newer, too large for a datagram": to be pulled.
    Announce(Vec<OriginSummary>),
    /// All bucket hashes ([`BUCKETS`] of them). Answered by `Summaries` where they differ, by nothing where all are equal.
    Digest(Vec<BucketDigest>),
    /// What the sender holds of the origins in one bucket that differed (as many as fit).
    Summaries {
        /// The bucket, below [`BUCKETS`].
        bucket: u8,
        /// Its origins, or a part of them.
        origins: Vec<OriginSummary>,
        /// False if more origins are in the bucket than `origins` tells.
        complete: bool,
    },
    /// "I hold these fresh records": whoever lacks one asks for it.
    Fresh(Vec<RecordRef>),
    /// "Send me these", answered by `Delta` with those that are held.
    Request(Vec<RecordRef>),
}
