//! One of every message that hosts send each other and of every body that records carry, the same on every run: what the
//! fixtures were made of.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use weft::model::{
    CatalogMessage, CheckStatus, Claim, Header, Health, Instance, MemberState, NodeFacts, NodeId, NodeName,
    OriginSummary, Probe, Protocol, Record, RecordKind, SIGNATURE_BYTES, ServiceId, ServiceName, SwimMessage, Tag,
    Version, Want, Weights,
};
use weft::wire::frame::Open;
use weft::wire::packet::Datagram;
use weft::wire::stream::{StreamReply, StreamRequest};

/// A claim in each state that travels, with each kind of address, with a proof and without.
pub(crate) fn claims() -> Vec<Claim> {
    let claim = |number: u8, state, address: SocketAddr, proof| Claim {
        node: NodeId([number; 16]),
        name: NodeName::parse(&format!("web-{number}")).unwrap(),
        address,
        incarnation: u64::from(number) * 1_000,
        state,
        from: NodeId([number ^ 1; 16]),
        proof,
    };
    let v4 = |last: u8| SocketAddr::from(([10, 0, 0, last], 7946));
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9)), 17_946);
    vec![
        claim(1, MemberState::Alive, v4(1), Vec::new()),
        claim(2, MemberState::Suspect, v4(2), Vec::new()),
        claim(3, MemberState::Failed, v6, Vec::new()),
        claim(4, MemberState::Left, v4(4), vec![0xfe; SIGNATURE_BYTES]),
    ]
}

fn header(kind: RecordKind, format: u16, key: &'static [u8], tombstone: bool) -> Header {
    let version = Version { epoch: 3, sequence: 70_000 };
    Header { origin: NodeId([9; 16]), version, kind, format, tombstone, key: Bytes::from_static(key) }
}

fn sign(header: &Header, body: &[u8]) -> Record {
    Record::sign(header, body, |_| [0x51; SIGNATURE_BYTES]).unwrap()
}

/// A record that this version reads as far as its envelope.
pub(crate) fn record() -> Record {
    sign(&header(RecordKind::SERVICE, 1, b"billing-2", false), b"a body")
}

/// The deletion of one.
pub(crate) fn tombstone() -> Record {
    sign(&header(RecordKind::SERVICE, 1, b"billing-2", true), b"")
}

/// What voids an origin's past.
pub(crate) fn floor() -> Record {
    sign(&header(RecordKind::FLOOR, 1, b"", false), &Record::floor_body(Version { epoch: 3, sequence: 0 }))
}

/// A record of a kind and a format that nobody knows yet.
pub(crate) fn unheard_of() -> Record {
    sign(&header(RecordKind(0x7777), 0x0909, b"\xff key", false), &[0xee; 300])
}

fn records() -> Vec<Record> {
    vec![record(), tombstone(), floor(), unheard_of()]
}

fn summaries() -> Vec<OriginSummary> {
    let newest = |epoch| Version { epoch, sequence: epoch << 40 };
    let summary = |number: u8| OriginSummary {
        origin: NodeId([number; 16]),
        newest: newest(u64::from(number)),
        hash: u64::MAX / u64::from(number),
    };
    (1..=3).map(summary).collect()
}

/// Every kind of datagram of version 1, each with the name of its fixture.
pub(crate) fn datagrams() -> Vec<(&'static str, Datagram)> {
    let target = NodeId([7; 16]);
    let probe = |probe| Datagram::Swim(SwimMessage { probe, claims: claims() });
    let address = SocketAddr::from(([192, 0, 2, 7], 7946));
    vec![
        ("swim-ping", probe(Probe::Ping { number: 1, target })),
        ("swim-ack", probe(Probe::Ack { number: 300 })),
        ("swim-ping-request", probe(Probe::PingRequest { number: 70_000, target, address })),
        ("swim-nack", probe(Probe::Nack { number: u64::MAX })),
        ("swim-gossip", probe(Probe::Gossip)),
        ("swim-bare", Datagram::Swim(SwimMessage { probe: Probe::Ack { number: 2 }, claims: Vec::new() })),
        ("catalog-delta", Datagram::Catalog(CatalogMessage::Delta(records()))),
        ("catalog-announce", Datagram::Catalog(CatalogMessage::Announce(summaries()))),
        ("catalog-digest", Datagram::Catalog(CatalogMessage::Digest((0..64).map(|bucket| bucket << 57).collect()))),
        (
            "catalog-summaries",
            Datagram::Catalog(CatalogMessage::Summaries { bucket: 63, origins: summaries(), complete: false }),
        ),
    ]
}

/// Every request of version 1 that a gossip stream begins with.
pub(crate) fn requests() -> Vec<(&'static str, StreamRequest)> {
    let want = |number: u8| Want { origin: NodeId([number; 16]), after: Version { epoch: 2, sequence: 5 } };
    vec![
        ("request-sync", StreamRequest::Sync { claims: claims(), more: true }),
        ("request-pull", StreamRequest::Pull { wants: vec![want(1), want(2)] }),
        ("request-ping", StreamRequest::Ping { number: 12, target: NodeId([7; 16]) }),
    ]
}

/// Every reply of version 1.
pub(crate) fn replies() -> Vec<(&'static str, StreamReply)> {
    vec![
        ("reply-sync", StreamReply::Sync { claims: claims(), more: false }),
        ("reply-records", StreamReply::Records { records: records(), more: true }),
        ("reply-pong", StreamReply::Pong { number: 12 }),
    ]
}

/// What version 2 has besides.
pub(crate) mod since2 {
    use weft::model::RecordRef;
    use weft::wire::keyring::Keyring;
    use weft::wire::seal::GossipKey;

    use super::*;

    pub(crate) fn datagrams() -> Vec<(&'static str, Datagram)> {
        let named = |number: u8| RecordRef {
            origin: NodeId([number; 16]),
            version: Version { epoch: u64::from(number), sequence: 300 },
        };
        vec![
            ("catalog-fresh", Datagram::Catalog(CatalogMessage::Fresh(vec![named(1), named(2)]))),
            ("catalog-request", Datagram::Catalog(CatalogMessage::Request(vec![named(3)]))),
        ]
    }

    fn keyring() -> Keyring {
        Keyring::new(GossipKey([6; 32])).install(GossipKey([7; 32]), NodeId([1; 16])).unwrap()
    }

    pub(crate) fn requests() -> Vec<(&'static str, StreamRequest)> {
        vec![
            ("request-keyring-list", StreamRequest::KeyringList),
            ("request-keyring-compare", StreamRequest::KeyringCompare { digest: [5; 16] }),
            ("request-keyring-merge", StreamRequest::KeyringMerge { keyring: keyring() }),
        ]
    }

    pub(crate) fn replies() -> Vec<(&'static str, StreamReply)> {
        vec![
            ("reply-keyring-status", StreamReply::KeyringStatus(keyring().status())),
            ("reply-keyring", StreamReply::Keyring { keyring: Some(keyring()) }),
            ("reply-keyring-same", StreamReply::Keyring { keyring: None }),
        ]
    }
}

fn check(health: Health) -> CheckStatus {
    CheckStatus { id: "service:billing-2:1".into(), name: "http".into(), kind: "http".into(), health }
}

/// What a host says of itself.
pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        name: NodeName::parse("web-01").unwrap(),
        address: IpAddr::V4([10, 0, 0, 1].into()),
        mesh: SocketAddr::from(([10, 0, 0, 1], 7947)),
        gossip: SocketAddr::from(([203, 0, 113, 7], 17_946)),
        zone: "eu-1a".into(),
        meta: BTreeMap::from([("rack".into(), "r12".into())]),
        version: "0.1.0".into(),
        checks: vec![check(Health::Warning)],
        certificates: vec![vec![0x30; 60], vec![0x31; 50]],
    }
}

/// An instance with everything that one can have.
pub(crate) fn instance() -> Instance {
    Instance {
        id: ServiceId::parse("billing-2").unwrap(),
        service: ServiceName::parse("billing").unwrap(),
        address: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        port: 8080,
        protocol: Protocol::Http2,
        vip_port: Some(80),
        tags: vec![Tag::parse("v2").unwrap(), Tag::parse("primary").unwrap()],
        meta: BTreeMap::from([("team".into(), "payments".into())]),
        weights: Weights { passing: 10, warning: 1 },
        request_timeout: Some(Duration::from_millis(1_500)),
        checks: vec![check(Health::Critical)],
    }
}

/// What opens a stream of the mesh.
pub(crate) fn open() -> Open {
    Open {
        service: ServiceName::parse("billing").unwrap(),
        instance: ServiceId::parse("billing-2").unwrap(),
        tag: Some(Tag::parse("primary").unwrap()),
        caller: None,
    }
}
