//! Messages at their fullest, for this module's tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use super::packet::{Datagram, PAYLOAD_BYTES_MAX};
use crate::model::*;

/// A claim of ordinary size.
pub(crate) fn claim(number: u8) -> Claim {
    Claim {
        node: NodeId([number; 16]),
        name: NodeName::parse(&format!("web-{number}")).unwrap(),
        address: SocketAddr::from(([10, 0, 0, number], 7946)),
        incarnation: u64::from(number),
        state: MemberState::Alive,
        from: NodeId([number; 16]),
        proof: Vec::new(),
    }
}

/// A claim that takes as many bytes as one can.
pub(crate) fn longest_claim() -> Claim {
    Claim {
        name: NodeName::parse(&"n".repeat(63)).unwrap(),
        address: longest_address(),
        incarnation: u64::MAX,
        // Its own proof, and that of who sends it away.
        proof: vec![255; 200],
        ..claim(255)
    }
}

fn longest_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from([255; 16])), u16::MAX)
}

/// A record of exactly `bytes` bytes (at least 110).
pub(crate) fn record(bytes: usize) -> Record {
    let header = Header {
        origin: NodeId([9; 16]),
        version: Version { epoch: 1, sequence: 2 },
        kind: RecordKind::SERVICE,
        format: 1,
        tombstone: false,
        key: Bytes::from_static(b"web"),
    };
    let body = vec![5; bytes.saturating_sub(43 + 3 + SIGNATURE_BYTES)];
    Record::sign(&header, &body, |_| [8; SIGNATURE_BYTES]).unwrap()
}

pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        name: NodeName::parse("web-01").unwrap(),
        address: IpAddr::V4([10, 0, 0, 1].into()),
        mesh: SocketAddr::from(([10, 0, 0, 1], 7947)),
        gossip: longest_address(),
        zone: "eu-1a".into(),
        meta: BTreeMap::from([("rack".into(), "r12".into())]),
        version: "0.1.0".into(),
        checks: Vec::new(),
        certificates: vec![vec![0x30; 600], vec![0x30; 500]],
    }
}

pub(crate) fn instance() -> Instance {
    Instance {
        id: ServiceId::parse("billing-2").unwrap(),
        service: ServiceName::parse("billing").unwrap(),
        address: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        port: 8080,
        protocol: Protocol::Http,
        vip_port: Some(80),
        tags: vec![Tag::parse("v2").unwrap()],
        meta: BTreeMap::from([("team".into(), "payments".into())]),
        weights: crate::model::Weights::default(),
        request_timeout: None,
        checks: vec![CheckStatus {
            id: "service:billing-2:1".into(),
            name: "http".into(),
            kind: "http".into(),
            health: Health::Warning,
        }],
    }
}

/// Every kind of datagram, as full as the cores may make it.
pub(crate) fn full_datagrams() -> Vec<Datagram> {
    let probes = [
        Probe::Ping { number: u64::MAX, target: NodeId([255; 16]) },
        Probe::Ack { number: u64::MAX },
        Probe::PingRequest { number: u64::MAX, target: NodeId([255; 16]), address: longest_address() },
        Probe::Nack { number: u64::MAX },
        Probe::Gossip,
    ];
    // About 330 bytes each: three fill `claims_bytes_max`, about 1,000, of `swim`.
    let claims = vec![longest_claim(); 3];
    let swim = probes.into_iter().map(|probe| Datagram::Swim(SwimMessage { probe, claims: claims.clone() }));
    let newest = Version { epoch: u64::MAX, sequence: u64::MAX };
    let summary = OriginSummary { origin: NodeId([255; 16]), newest, hash: u64::MAX };
    let catalog = [
        CatalogMessage::Delta(vec![record(PAYLOAD_BYTES_MAX - 8)]),
        CatalogMessage::Announce(vec![summary; 26]),
        CatalogMessage::Digest(vec![u64::MAX; BUCKETS]),
        CatalogMessage::Summaries { bucket: 63, origins: vec![summary; 26], complete: false },
        CatalogMessage::Fresh(vec![RecordRef { origin: NodeId([255; 16]), version: newest }; 31]),
        CatalogMessage::Request(vec![RecordRef { origin: NodeId([255; 16]), version: newest }; 31]),
    ];
    swim.chain(catalog.into_iter().map(Datagram::Catalog)).collect()
}
