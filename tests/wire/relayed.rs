//! What an agent cannot read it passes on as it came: records through wire and catalog, claims through wire and membership,
//! from a host of one version to a host of the other.

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use weft::catalog::{Catalog, Config, Relay};
use weft::model::{CatalogMessage, Claim, MemberState, NodeId, NodeName, Record, SwimMessage, Version, Want};
use weft::swim::{self, Swim};
use weft::wire::packet::Datagram;
use weft::wire::stream::{self, PREFIX_BYTES, PULL_CHUNK_BYTES_MAX, StreamReply};

use super::messages;

const RELAY: NodeId = NodeId([1; 16]);

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

fn received(record: &Record, version: u8) -> Record {
    let said = Datagram::Catalog(CatalogMessage::Delta(vec![record.clone()]));
    let Datagram::Catalog(CatalogMessage::Delta(mut records)) =
        Datagram::decode(&said.encode_in(version, 2).unwrap()).unwrap()
    else {
        panic!("another message");
    };
    records.remove(0)
}

#[test]
fn a_record_of_an_unknown_kind_and_format_goes_through_an_agent_byte_for_byte() {
    let sent = messages::unheard_of();
    for (from, to) in [(1, 2), (2, 1), (1, 1), (2, 2)] {
        let mut catalog = Catalog::new(Config::default(), RELAY, rng());
        catalog.merge(Duration::ZERO, received(&sent, from), Relay::Eager);
        let wants = [Want { origin: sent.origin(), after: Version::ZERO }];
        let (records, _) = catalog.answer(&wants, PULL_CHUNK_BYTES_MAX);
        let reply = stream::encode_in(&StreamReply::Records { records, more: false }, to).unwrap();
        let StreamReply::Records { records, .. } = stream::decode_in(&reply[PREFIX_BYTES..], to).unwrap() else {
            panic!("another reply");
        };
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].encoded(), sent.encoded(), "from version {from} to version {to}");
    }
}

#[test]
fn what_a_host_adds_to_its_own_claim_goes_through_an_agent_byte_for_byte() {
    let now = Duration::ZERO;
    let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 7946));
    let added = Claim {
        node: NodeId([2; 16]),
        name: NodeName::parse("web-2").unwrap(),
        address: address(2),
        incarnation: 7,
        state: MemberState::Alive,
        from: NodeId([2; 16]),
        proof: (0..=255).collect(),
    };
    for (from, to) in [(1, 2), (2, 1)] {
        let name = NodeName::parse("web-1").unwrap();
        let mut swim = Swim::new(swim::Config::default(), RELAY, name, address(1), 1, rng());
        let message = SwimMessage { probe: weft::model::Probe::Gossip, claims: vec![added.clone()] };
        let bytes = Datagram::Swim(message).encode_in(from, 2).unwrap();
        let Datagram::Swim(message) = Datagram::decode(&bytes).unwrap() else { panic!("another message") };
        swim.receive(now, added.node, added.address, message);
        let reply = StreamReply::Sync { claims: swim.snapshot(), more: false };
        let bytes = stream::encode_in(&reply, to).unwrap();
        let StreamReply::Sync { claims, .. } = stream::decode_in(&bytes[PREFIX_BYTES..], to).unwrap() else {
            panic!("another reply");
        };
        assert!(claims.contains(&added), "{claims:?}");
    }
}
