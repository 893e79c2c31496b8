//! How many bytes a message takes on the wire, computed: encoding each would take most of a simulation's time. A test holds the
//! sums to what the codec makes.

use std::net::SocketAddr;

use weft::model::{CatalogMessage, Claim, OriginSummary, Probe, Record, RecordRef, Want};
use weft::wire::packet::ENVELOPE_BYTES;
use weft::wire::seal::OVERHEAD_BYTES;
use weft::wire::stream::PREFIX_BYTES;

use super::proofs::PROOF_BYTES;
use super::{Content, Packet, Stream};

/// A node id, or any other enum's tag.
const ID: usize = 16;
const TAG: usize = 1;

/// bincode's variable-length integer.
fn integer(value: u64) -> usize {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

fn length(of: usize) -> usize {
    integer(of as u64)
}

fn address(address: &SocketAddr) -> usize {
    let ip = if address.is_ipv4() { 4 } else { 16 };
    TAG + ip + integer(u64::from(address.port()))
}

fn claim(claim: &Claim) -> usize {
    let name = claim.name.as_str().len();
    // Left out in large fleets, to save memory; on the wire it would be there.
    let proof = if claim.proof.is_empty() { PROOF_BYTES } else { claim.proof.len() };
    ID + length(name) + name + address(&claim.address) + integer(claim.incarnation) + TAG + ID + length(proof) + proof
}

fn claims(claims: &[Claim]) -> usize {
    length(claims.len()) + claims.iter().map(claim).sum::<usize>()
}

fn probe(probe: &Probe) -> usize {
    TAG + match probe {
        Probe::Ping { number, .. } => integer(*number) + ID,
        Probe::Ack { number } | Probe::Nack { number } => integer(*number),
        Probe::PingRequest { number, address: at, .. } => integer(*number) + ID + address(at),
        Probe::Gossip => 0,
    }
}

fn records(records: &[Record]) -> usize {
    let one = |record: &Record| length(record.encoded().len()) + record.encoded().len();
    length(records.len()) + records.iter().map(one).sum::<usize>()
}

fn summaries(summaries: &[OriginSummary]) -> usize {
    let one = |summary: &OriginSummary| {
        ID + integer(summary.newest.epoch) + integer(summary.newest.sequence) + integer(summary.hash)
    };
    length(summaries.len()) + summaries.iter().map(one).sum::<usize>()
}

fn wants(wants: &[Want]) -> usize {
    let one = |want: &Want| ID + integer(want.after.epoch) + integer(want.after.sequence);
    length(wants.len()) + wants.iter().map(one).sum::<usize>()
}

/// A sealed datagram.
pub(super) fn datagram(packet: &Packet) -> usize {
    let content = match &packet.content {
        Content::Swim(message) => probe(&message.probe) + claims(&message.claims),
        Content::Catalog(message) => {
            TAG + match message {
                CatalogMessage::Delta(held) => records(held),
                CatalogMessage::Announce(held) => summaries(held),
                CatalogMessage::Digest(hashes) => {
                    length(hashes.len()) + hashes.iter().map(|hash| integer(*hash)).sum::<usize>()
                }
                CatalogMessage::Summaries { origins, .. } => 1 + summaries(origins) + 1,
                CatalogMessage::Fresh(names) | CatalogMessage::Request(names) => {
                    let one = |name: &RecordRef| ID + integer(name.version.epoch) + integer(name.version.sequence);
                    length(names.len()) + names.iter().map(one).sum::<usize>()
                }
            }
        }
    };
    OVERHEAD_BYTES + ENVELOPE_BYTES + content
}

/// A stream's message.
pub(super) fn stream(message: &Stream) -> usize {
    // The codec's version and the kind of message.
    PREFIX_BYTES
        + 2
        + match message {
            Stream::Sync { claims: held, .. } | Stream::Synced { claims: held, .. } => claims(held) + 1,
            Stream::Pull { wants: held, .. } => wants(held),
            Stream::Records { records: held, .. } => records(held) + 1,
            Stream::Ping { .. } => 9 + ID,
            Stream::Pong => 9,
        }
}

#[cfg(test)]
mod tests {
    use weft::model::{MemberState, SwimMessage, Version};
    use weft::wire::packet::Datagram;

    use super::super::{address_of, name_of, node_of};
    use super::*;

    fn sample(count: u32) -> Vec<Claim> {
        let one = |host: u32| Claim {
            node: node_of(host, 0),
            name: name_of(host),
            address: address_of(host),
            incarnation: u64::from(host) * 100,
            state: MemberState::Suspect,
            from: node_of(1, 0),
            proof: vec![7; 1 + host as usize * 30],
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn sizes_are_those_of_the_codec() {
        let number = 1 << 40;
        let probes = [
            Probe::Gossip,
            Probe::Ack { number: 9 },
            Probe::Ping { number, target: node_of(3, 0) },
            Probe::PingRequest { number, target: node_of(3, 0), address: address_of(700) },
        ];
        for (probe, count) in probes.into_iter().zip([4, 0, 3, 1]) {
            check(Content::Swim(SwimMessage { probe, claims: sample(count) }));
        }
        let summary =
            OriginSummary { origin: node_of(5, 0), newest: Version { epoch: 3, sequence: 300 }, hash: u64::MAX / 3 };
        check(Content::Catalog(CatalogMessage::Digest(vec![u64::MAX / 5; 64])));
        check(Content::Catalog(CatalogMessage::Announce(vec![summary; 3])));
        check(Content::Catalog(CatalogMessage::Summaries { bucket: 9, origins: vec![summary; 7], complete: true }));
    }

    fn check(content: Content) {
        let datagram = match content.clone() {
            Content::Swim(message) => Datagram::Swim(message),
            Content::Catalog(message) => Datagram::Catalog(message),
        };
        let encoded = datagram.encode().expect("it fits").len() + OVERHEAD_BYTES;
        let computed = super::datagram(&Packet { sender: node_of(0, 0), epoch: 1, counter: 1, first: true, content });
        // A byte or two more or less, as the envelope of a version has it, changes no figure.
        assert!(computed.abs_diff(encoded) <= 4, "{computed} computed, {encoded} encoded: {datagram:?}");
    }
}
