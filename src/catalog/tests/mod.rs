//! What the catalog promises, as tests: by property where any order must do, by scenario where a mesh must get there.
//! Records are signed with a fake signature derived from their bytes; nothing here verifies.

mod broadcast;
mod limits;
mod mending;
mod merge;
mod network;
mod pace;
mod past;
mod restore;
mod simulation;
mod spreading;

use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::model::{CatalogMessage, Header, OriginSummary, RecordKind};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn node(number: u16) -> NodeId {
    let mut id = [0; 16];
    // Spread over the buckets as hashes are.
    id[0] = number.wrapping_mul(37).to_be_bytes()[1];
    id[1..3].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

fn version(epoch: u64, sequence: u64) -> Version {
    Version { epoch, sequence }
}

fn record_of(origin: NodeId, version: Version, kind: RecordKind, key: &str, body: Option<&[u8]>) -> Record {
    let header = Header {
        origin,
        version,
        kind,
        format: 1,
        tombstone: body.is_none(),
        key: Bytes::copy_from_slice(key.as_bytes()),
    };
    let sign = |bytes: &[u8]| {
        let mut signature = [0; 64];
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        signature[..32].copy_from_slice(hash.as_ref());
        signature
    };
    Record::sign(&header, body.unwrap_or_default(), sign).unwrap()
}

fn service(origin: NodeId, version: Version, key: &str) -> Record {
    record_of(origin, version, RecordKind::SERVICE, key, Some(b"an instance, about so long"))
}

fn tombstone(origin: NodeId, version: Version, key: &str) -> Record {
    record_of(origin, version, RecordKind::SERVICE, key, None)
}

fn floor(origin: NodeId, version: Version, floor: Version) -> Record {
    record_of(origin, version, RecordKind::FLOOR, "", Some(&Record::floor_body(floor)))
}

fn node_record(origin: NodeId, version: Version, bytes: usize) -> Record {
    record_of(origin, version, RecordKind::NODE, "", Some(&vec![7; bytes]))
}

fn catalog(local: NodeId) -> Catalog {
    catalog_with(Config::default(), local)
}

fn catalog_with(config: Config, local: NodeId) -> Catalog {
    Catalog::new(config, local, ChaCha8Rng::seed_from_u64(1))
}

fn outputs(catalog: &mut Catalog) -> Vec<Output> {
    std::iter::from_fn(|| catalog.poll_output()).collect()
}

fn state(catalog: &Catalog) -> Vec<Record> {
    catalog.held().cloned().collect()
}

fn digest(catalog: &mut Catalog) -> Vec<u64> {
    catalog.start_sync(Duration::ZERO, node(9_999));
    let sent = outputs(catalog).into_iter().find_map(|output| match output {
        Output::Send { message: CatalogMessage::Digest(digest), .. } => Some(digest),
        _ => None,
    });
    sent.unwrap()
}

/// More than what any encoding of the message takes; written apart from the catalog's own estimate.
fn message_bytes(message: &CatalogMessage) -> usize {
    match message {
        CatalogMessage::Delta(records) => 6 + records.iter().map(|record| 5 + record.encoded().len()).sum::<usize>(),
        CatalogMessage::Announce(summaries) => 6 + 43 * summaries.len(),
        CatalogMessage::Digest(hashes) => 6 + 9 * hashes.len(),
        CatalogMessage::Summaries { origins, .. } => 9 + 43 * origins.len(),
        CatalogMessage::Fresh(names) | CatalogMessage::Request(names) => 6 + 34 * names.len(),
    }
}

/// What the message takes on the network: encoded as `wire` does it, sealed, with IPv4 and UDP headers.
fn datagram_bytes(message: &CatalogMessage) -> usize {
    let number = |value: u64| match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    };
    let version = |version: Version| number(version.epoch) + number(version.sequence);
    let summary = |summary: &OriginSummary| 16 + version(summary.newest) + number(summary.hash);
    let content = match message {
        CatalogMessage::Delta(records) => records.iter().map(|record| 3 + record.encoded().len()).sum(),
        CatalogMessage::Announce(summaries) => summaries.iter().map(summary).sum::<usize>(),
        CatalogMessage::Digest(hashes) => hashes.iter().map(|hash| number(*hash)).sum(),
        CatalogMessage::Summaries { origins, .. } => 2 + origins.iter().map(summary).sum::<usize>(),
        CatalogMessage::Fresh(names) | CatalogMessage::Request(names) => {
            names.iter().map(|name| 16 + version(name.version)).sum()
        }
    };
    // Codec version, kind and variant, a length; the seal; the headers.
    content + 4 + 49 + 28
}
