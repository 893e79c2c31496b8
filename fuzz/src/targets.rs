//! What is done with each input. A panic is a finding: nothing that comes from the network may cause one, what is read is
//! written and read again to the same value, and what the cores say themselves fits what carries it.
//!
//! Used by the fuzzer and by `tests/wire/fuzzed.rs`, which replays every kept input.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use weft::catalog::{self, Catalog, Relay};
use weft::model::{
    CatalogMessage, CheckStatus, Directory, Freshness, Health, Instance, MemberState, Node, NodeFacts, NodeId,
    NodeName, PolicyId, Protocol, Record, Service, ServiceId, ServiceName, Tag, VipTarget, Want, Weights,
};
use weft::policy::document::Document;
use weft::policy::{PAST_MAX, Policies, TrafficShelves};
use weft::swim::{self, Swim};
use weft::wire::body;
use weft::wire::codec;
use weft::wire::frame::{FrameHeader, HEADER_BYTES, Open, RstReason};
use weft::wire::keyring::Keyring;
use weft::wire::packet::{self, Content, Datagram};
use weft::wire::policy::{POLICY_FORMAT, decode_policy, encode_policy};
use weft::wire::protocol::{PROTOCOL_MAX, Versioned};
use weft::wire::seal::{GossipKey, Opener, Sealer};
use weft::wire::stream::{self, StreamReply, StreamRequest};

/// A name, and what is done with an input.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: [Target; 14] = [
    ("packet", packet),
    ("datagram", datagram),
    ("frame", frame),
    ("record", record),
    ("stream", stream),
    ("body", body),
    ("keyring", keyring),
    ("catalog", catalog),
    ("swim", swim),
    ("policy", policy),
    ("document", document),
    ("enrolment", enrolment),
    ("dns", dns),
    ("api", api),
];

const LOCAL: NodeId = NodeId([1; 16]);
const KEY: GossipKey = GossipKey([7; 32]);

/// A datagram as it arrives; and the same bytes as a member of the cluster would seal them.
fn packet(data: &[u8]) {
    let mut opener = Opener::new(&[KEY, GossipKey([8; 32])], "prod", LOCAL);
    assert!(opener.open(data).is_err(), "opened without the key");
    let mut sealer = Sealer::new(&KEY, "prod", NodeId([2; 16]), 3);
    let Ok(packet) = sealer.seal(data) else { return };
    let (sender, payload) = opener.open(&packet).expect("what was sealed opens");
    assert_eq!((sender, &payload[..]), (NodeId([2; 16]), data));
    assert!(opener.open(&packet).is_err(), "opened twice");
    datagram(&payload);
}

/// An opened payload, read by agents of each version.
fn datagram(data: &[u8]) {
    for highest in 1..=PROTOCOL_MAX {
        let Ok(heard) = packet::read(data, highest) else { continue };
        let Content::Message(message) = heard.content else { continue };
        assert!(message.since() <= heard.version);
        // Integers may have come longer than need be, never shorter than they are written.
        let written = message.encode_in(heard.version, highest).expect("what was read can be written");
        assert_eq!(packet::read(&written, highest).expect("and read again").content, Content::Message(message));
    }
}

/// What comes on a connection of the mesh.
fn frame(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<HEADER_BYTES>() else { return };
    if let Ok(header) = FrameHeader::decode(*head) {
        assert_eq!(header.encode(), *head);
    }
    let _ = RstReason::decode(head[0]).encode();
    if let Ok(open) = Open::decode(rest) {
        let written = open.encode().expect("what was read can be written");
        assert_eq!(Open::decode(&written[HEADER_BYTES..]).expect("and read again"), open);
    }
}

/// A record's envelope.
fn record(data: &[u8]) {
    let Ok(record) = Record::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(record.encoded()[..], *data, "kept byte for byte");
    let _ = (record.id(), record.floor(), record.signature(), record.signed_bytes(), format!("{record:?}"));
    let mut signature = [0; 64];
    signature.copy_from_slice(record.signature());
    let again = Record::sign(record.header(), record.body(), |_| signature).expect("what was read can be written");
    assert_eq!(again, record);
    node_and_instance(record.header().format, record.body());
}

/// A message of a gossip stream, after its length.
fn stream(data: &[u8]) {
    if let Some((prefix, _)) = data.split_first_chunk() {
        let _ = stream::length(*prefix);
    }
    if let Ok(request) = stream::decode::<StreamRequest>(data) {
        let written = stream::encode(&request).expect("what was read can be written");
        assert_eq!(stream::decode::<StreamRequest>(&written[stream::PREFIX_BYTES..]), Ok(request));
    }
    if let Ok(reply) = stream::decode::<StreamReply>(data) {
        let written = stream::encode(&reply).expect("what was read can be written");
        assert_eq!(stream::decode::<StreamReply>(&written[stream::PREFIX_BYTES..]), Ok(reply));
    }
}

/// A record's body; the first byte says in which format.
fn body(data: &[u8]) {
    if let Some((format, body)) = data.split_first() {
        node_and_instance((*format % 5).into(), body);
    }
}

fn node_and_instance(format: u16, bytes: &[u8]) {
    let certificates = body::certificates(format, bytes);
    if let Ok(facts) = body::decode_node(format, bytes) {
        assert_eq!(certificates.as_ref(), Ok(&facts.certificates));
        // What is almost too long for a record may be too long in the other format.
        if let Ok(written) = body::encode_node_in(&facts, format) {
            assert_eq!(body::decode_node(format, &written), Ok(facts));
        }
    }
    if let Ok(instance) = body::decode_instance(format, bytes)
        && let Ok(written) = body::encode_instance(&instance)
    {
        assert_eq!(body::decode_instance(body::INSTANCE_FORMAT, &written), Ok(instance));
    }
    if let Ok((policy, proof)) = decode_policy(format, bytes) {
        assert_eq!(encode_policy(&proof, &policy.signed), Ok(bytes.to_vec()));
    }
}

/// A step's argument has its length in units of so many bytes, so that one byte tells every length that a datagram may have.
pub(crate) const STEP_BYTES: usize = 5;

/// Two keyrings, as another host shows them: what merging gives does not depend on who merges.
fn keyring(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let (Ok(first), Ok(second)) = (Keyring::decode(first), Keyring::decode(second)) else { return };
    assert_eq!(Keyring::decode(&first.encode().expect("what was read can be written")), Ok(first.clone()));
    let (here, there) = (first.merge(&second), second.merge(&first));
    assert_eq!(here.is_ok(), there.is_ok());
    if let (Ok(here), Ok(there)) = (here, there) {
        assert_eq!(here, there);
        assert_eq!(here.digest(), there.digest());
        assert!(here.holds(here.primary()), "a keyring without its primary");
        assert_eq!(here.merge(&second).as_ref(), Ok(&here), "merged twice");
    }
}

/// Cuts the input into steps: two bytes that steer, one that tells the length of what follows.
fn steps(data: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (&[what, who, length], after) = rest.split_first_chunk::<3>()?;
        let (argument, after) = after.split_at(after.len().min(usize::from(length) * STEP_BYTES));
        rest = after;
        Some((what, who, argument))
    })
}

/// Another host; a packet that names this one as its sender is refused by the seal.
fn node(number: u8) -> NodeId {
    NodeId([2 + number % 5; 16])
}

fn peers<P: From<NodeId>>() -> Vec<P> {
    (0..4).map(|number| node(number).into()).collect()
}

/// A catalog, and peers that say whatever they like.
fn catalog(data: &[u8]) {
    let config = catalog::Config::default();
    let datagram_bytes_max = config.datagram_bytes_max;
    let mut catalog = Catalog::new(config, LOCAL, ChaCha8Rng::seed_from_u64(1));
    let mut now = Duration::ZERO;
    catalog.set_peers(peers());
    for (what, who, argument) in steps(data) {
        match what % 8 {
            0..=2 => {
                if let Ok(message) = codec::decode_known::<CatalogMessage>(argument, packet::PAYLOAD_BYTES_MAX) {
                    if let CatalogMessage::Delta(records) = &message {
                        records.iter().for_each(|record| merge(&mut catalog, now, record.clone()));
                    }
                    catalog.receive(now, node(who), message);
                }
            }
            3 => {
                if let Ok(record) = Record::decode(Bytes::copy_from_slice(argument)) {
                    merge(&mut catalog, now, record);
                }
            }
            4 => {
                if let Ok(wants) = codec::decode_known::<Vec<Want>>(argument, packet::PAYLOAD_BYTES_MAX) {
                    let (records, left) = catalog.answer(&wants, stream::PULL_CHUNK_BYTES_MAX);
                    assert!(left.len() <= wants.len() && (left.is_empty() || !records.is_empty()));
                }
            }
            5 => {
                now += Duration::from_millis(u64::from(who) * 50);
                catalog.tick(now);
            }
            6 => catalog.pulled(now, node(who)),
            _ => catalog.forget_origin(node(who)),
        }
        for _ in 0..1_000 {
            match catalog.poll_output() {
                None => break,
                Some(catalog::Output::Send { to, message }) => {
                    let datagram = Datagram::Catalog(message);
                    let payload = datagram.encode().expect("what a catalog says fits a datagram");
                    assert!(to != LOCAL && payload.len() <= datagram_bytes_max + packet::ENVELOPE_BYTES);
                }
                Some(catalog::Output::Pull { from, wants }) => assert!(from != LOCAL && !wants.is_empty()),
                Some(catalog::Output::Compact) => {}
            }
        }
        assert!(catalog.poll_output().is_none(), "a queue without end");
    }
}

fn merge(catalog: &mut Catalog, now: Duration, record: Record) {
    // The agent takes what others hold of itself as news of its own past, not as records.
    if record.origin() == LOCAL {
        return;
    }
    let (id, text) = (record.id(), format!("{record:?}"));
    // Of two floors the higher one holds, whichever was written later.
    let rank = |record: &Record| (record.floor(), record.version());
    let before = catalog.get(&id).map(rank);
    catalog.merge(now, record, Relay::Eager);
    let after = catalog.get(&id).map(rank);
    assert!(after >= before || after.is_none(), "{before:?} gave way to {after:?} by {text}");
}

/// A host's membership, and others that say whatever they like.
fn swim(data: &[u8]) {
    let address = |number: u8| SocketAddr::from(([10, 0, 0, number], 7946));
    let name = NodeName::parse("web-1").expect("a name");
    let mut swim = Swim::new(swim::Config::default(), LOCAL, name, address(1), 1, ChaCha8Rng::seed_from_u64(1));
    let mut now = Duration::ZERO;
    for (what, who, argument) in steps(data) {
        let incarnation = swim.incarnation();
        match what % 6 {
            0..=1 => {
                if let Ok(message) = codec::decode_known(argument, packet::PAYLOAD_BYTES_MAX) {
                    swim.receive(now, node(who), address(who), message);
                }
            }
            2 => {
                if let Ok(claims) = codec::decode_known(argument, packet::PAYLOAD_BYTES_MAX) {
                    swim.synced(now, claims);
                }
            }
            3 => {
                now += Duration::from_millis(u64::from(who) * 20);
                swim.tick(now);
            }
            4 => swim.stream_probe_result(now, node(who), argument.len() as u64, who > 127),
            _ => {
                let _ = swim.force_leave(now, node(who), who > 127);
            }
        }
        assert!(swim.incarnation() >= incarnation, "an incarnation that went back");
        for _ in 0..10_000 {
            match swim.poll_output() {
                None => break,
                Some(swim::Output::Send { message, .. }) => {
                    Datagram::Swim(message).encode().expect("what membership says fits a datagram");
                }
                Some(_) => {}
            }
        }
        assert!(swim.poll_output().is_none(), "a queue without end");
        assert!(swim.snapshot().iter().any(|claim| claim.node == LOCAL), "it is a member itself");
    }
}

/// What operators decided, in the logs of hosts that come and go.
fn policy(data: &[u8]) {
    let (mut policies, mut shelves) = (Policies::default(), TrafficShelves::default());
    for (what, who, argument) in steps(data) {
        // A statement's length is not a multiple of the unit: what follows it is tried both ways.
        let cut = argument.len().saturating_sub(usize::from(what / 8) % STEP_BYTES);
        let Ok((policy, _)) = decode_policy(POLICY_FORMAT, &argument[..cut]) else { continue };
        let id = policy.id();
        match what % 8 {
            0..=5 => {
                shelves.note(&policy);
                let _ = policies.hold(node(who), Arc::new(policy));
            }
            6 => policies.dropped(&id, node(who)),
            _ => {
                let _ = (policies.orphans(|at| at == node(who)), policies.replaced_in(node(who)), policies.unvouched());
            }
        }
        let intentions = policies.compile();
        if let (PolicyId::Traffic(service), Some(standing)) = (&id, intentions.subjects().get(&id)) {
            let _ = shelves.settle(service, standing, "eu-1a", u64::from(who));
            assert!(shelves.past(service).len() <= PAST_MAX);
        }
        let _ = (policies.surplus_in(node(who), |_| true), format!("{intentions:?}"));
    }
}

/// What an operator's document says of a service's traffic.
fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(document) = Document::parse(text) else { return };
    assert_eq!(Document::parse(&document.text()).as_ref(), Ok(&document));
    let printed = Document::of(document.policy().clone());
    assert_eq!(Document::parse(&printed.text()).map(|read| read.policy().clone()).as_ref(), Ok(document.policy()));
}

/// What strangers send to an issuer, and what comes back; join tokens, certificates, and proofs of claims.
fn enrolment(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 4 {
        0 => weft::identity::fuzzed::enrolment(rest),
        1 => weft::identity::fuzzed::token(&String::from_utf8_lossy(rest)),
        2 => weft::identity::fuzzed::certificate(rest),
        _ => weft::identity::fuzzed::claim(rest),
    }
}

/// What programs ask of the shim, and what upstreams say.
fn dns(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 2 {
        0 => weft::dns::fuzzed::query(rest, view()),
        _ => weft::dns::fuzzed::upstream(rest),
    }
}

/// What programs ask of the API: a line of method and target, then the body.
fn api(data: &[u8]) {
    weft::api::fuzzed::request(data, view());
}

/// Two hosts, and a service on both with a tag and a check.
fn view() -> &'static Directory {
    static VIEW: OnceLock<Directory> = OnceLock::new();
    VIEW.get_or_init(|| {
        let (name, tag) = (ServiceName::parse("billing").expect("a name"), Tag::parse("v2").expect("a tag"));
        let host = |number: u8, name: &str| {
            let address = Ipv4Addr::new(10, 0, 0, number);
            Arc::new(Node {
                id: NodeId([number; 16]),
                facts: NodeFacts {
                    name: NodeName::parse(name).expect("a name"),
                    address: address.into(),
                    mesh: (address, 7947).into(),
                    gossip: (address, 7946).into(),
                    zone: "eu-1a".into(),
                    meta: BTreeMap::from([("rack".into(), "r1".into())]),
                    version: "0.1.0".into(),
                    checks: Vec::new(),
                    certificates: Vec::new(),
                },
                state: MemberState::Alive,
                mesh_reachable: true,
                incarnation: 1,
                index: 2,
            })
        };
        let check = CheckStatus {
            id: "service:billing".into(),
            name: "it answers".into(),
            kind: "http".into(),
            health: Health::Passing,
        };
        let instance = Arc::new(Instance {
            id: ServiceId::parse("billing").expect("an id"),
            service: name.clone(),
            address: None,
            port: 8080,
            protocol: Protocol::Http,
            vip_port: None,
            tags: [tag.clone()].into(),
            meta: BTreeMap::new(),
            weights: Weights::default(),
            request_timeout: None,
            checks: vec![check],
        });
        let hosts = [host(1, "web-1"), host(2, "web-2")];
        let (vip, tag_vip) = (Ipv4Addr::new(127, 64, 0, 1), Ipv4Addr::new(127, 64, 0, 2));
        let service = Service {
            name: name.clone(),
            vip,
            vip_port: 8080,
            disputed: false,
            protocol: Protocol::Http,
            tag_vips: BTreeMap::from([(tag.clone(), tag_vip)]),
            instances: hosts.iter().map(|host| (host.clone(), instance.clone())).collect(),
            index: 2,
        };
        let target = |tag| VipTarget { service: name.clone(), tag };
        Directory {
            index: 2,
            nodes_index: 2,
            services_index: 2,
            absent_index: 1,
            freshness: Freshness::Live,
            vips: [(vip, target(None)), (tag_vip, target(Some(tag)))].into(),
            nodes: hosts.into_iter().map(|host| (host.id, host)).collect(),
            services: BTreeMap::from([(name.clone(), Arc::new(service))]),
            ..Directory::empty(NodeId([1; 16]))
        }
    })
}
