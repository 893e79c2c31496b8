//! A small fleet, built by hand, and the client's side of DNS messages.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::model::*;

pub(super) const LOCAL: NodeId = NodeId([1; 16]);
/// Instances of the service `big`: too many for a datagram.
pub(super) const BIG: u16 = 300;

fn node(id: u8, name: &str, address: &str, state: MemberState) -> Arc<Node> {
    let address: IpAddr = address.parse().unwrap();
    let facts = NodeFacts {
        name: NodeName::parse(name).unwrap(),
        address,
        mesh: (address, 7947).into(),
        gossip: (address, 7946).into(),
        zone: String::new(),
        meta: BTreeMap::new(),
        version: "0.1.0".into(),
        checks: Vec::new(),
        certificates: Vec::new(),
    };
    Arc::new(Node { id: NodeId([id; 16]), facts, state, mesh_reachable: true, incarnation: 1, index: 1 })
}

fn instance(service: &str, address: Option<&str>, port: u16, tags: &[&str], health: Health) -> Arc<Instance> {
    let check = CheckStatus { id: "c".into(), name: "c".into(), kind: "tcp".into(), health };
    Arc::new(Instance {
        id: ServiceId::parse(service).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        address: address.map(|text| text.parse().unwrap()),
        port,
        protocol: Protocol::Tcp,
        vip_port: None,
        tags: tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect(),
        meta: BTreeMap::new(),
        weights: crate::model::Weights::default(),
        request_timeout: None,
        checks: vec![check],
    })
}

/// Three hosts that live, one that failed, one that left; the services `billing`, `pg`, `asleep`, `big`, `weighed` and
/// `portless`.
pub(super) fn fleet() -> Directory {
    let web1 = node(1, "web-01", "10.0.0.11", MemberState::Alive);
    let web2 = node(2, "web-02", "10.0.0.12", MemberState::Suspect);
    let db1 = node(3, "db-01", "fd00::3", MemberState::Alive);
    let dead = node(4, "dead-01", "10.0.0.14", MemberState::Failed);
    let gone = node(5, "gone-01", "10.0.0.15", MemberState::Left);
    let mut directory = Directory::empty(LOCAL);
    directory.index = 0x1_0000_0007;
    directory.nodes = HashMap::from_iter([&web1, &web2, &db1, &dead, &gone].map(|node| (node.id, node.clone())));
    let green = Health::Passing;
    let billing = vec![
        (web1.clone(), instance("billing", None, 8080, &["v1"], green)),
        (web2.clone(), instance("billing", Some("0.0.0.0"), 8080, &["v2", "Canary"], Health::Warning)),
        (web2.clone(), instance("billing", Some("127.0.0.1"), 8081, &["v2"], green)),
        (web2.clone(), instance("billing", Some("10.0.0.99"), 8082, &["v2"], Health::Critical)),
        (dead.clone(), instance("billing", None, 8080, &["v2"], green)),
    ];
    let pg = vec![
        (db1, instance("pg", None, 5432, &["primary"], green)),
        (web2, instance("pg", Some("10.9.9.9"), 5433, &["replica"], green)),
    ];
    let weigh = |address, health| {
        let weights = Weights { passing: 7, warning: 3 };
        let instance = Instance::clone(&instance("weighed", Some(address), 9100, &[], health));
        Arc::new(Instance { weights, ..instance })
    };
    let mut maintained = Node::clone(&web1);
    maintained.id = NodeId([6; 16]);
    maintained.facts.checks = vec![CheckStatus {
        id: "_node_maintenance".into(),
        name: "m".into(),
        kind: "maintenance".into(),
        health: Health::Critical,
    }];
    let weighed = vec![
        (web1.clone(), weigh("10.7.0.1", green)),
        (web1.clone(), weigh("10.7.0.2", Health::Warning)),
        (Arc::new(maintained), weigh("10.7.0.3", green)),
    ];
    let portless = vec![(web1.clone(), instance("portless", None, 0, &["t"], green))];
    let asleep = vec![(dead, instance("asleep", None, 9000, &["old"], green))];
    let big = (0..BIG).map(|at| {
        let [high, low] = at.to_be_bytes();
        let address = Ipv4Addr::new(10, 1, high, low).to_string();
        (web1.clone(), instance("big", Some(&address), 7000, &[], green))
    });
    add(&mut directory, "billing", 1, 8080, &[("v1", 11), ("v2", 12)], billing);
    add(&mut directory, "pg", 2, 5432, &[("primary", 21)], pg);
    add(&mut directory, "asleep", 3, 9000, &[], asleep);
    add(&mut directory, "big", 4, 7000, &[], big.collect());
    add(&mut directory, "weighed", 5, 9100, &[], weighed);
    add(&mut directory, "portless", 0, 0, &[], portless);
    directory
}

fn add(
    directory: &mut Directory,
    name: &str,
    vip: u8,
    vip_port: u16,
    tags: &[(&str, u8)],
    instances: Vec<(Arc<Node>, Arc<Instance>)>,
) {
    let name = ServiceName::parse(name).unwrap();
    let vip = if vip == 0 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::new(127, 64, 0, vip) };
    let tag_vips: BTreeMap<Tag, Ipv4Addr> =
        tags.iter().map(|(tag, last)| (Tag::parse(tag).unwrap(), Ipv4Addr::new(127, 64, 0, *last))).collect();
    if !vip.is_unspecified() {
        directory.vips.insert(vip, VipTarget { service: name.clone(), tag: None });
    }
    for (tag, vip) in &tag_vips {
        directory.vips.insert(*vip, VipTarget { service: name.clone(), tag: Some(tag.clone()) });
    }
    let protocol = Protocol::Tcp;
    let service =
        Service { name: name.clone(), vip, vip_port, disputed: false, protocol, tag_vips, instances, index: 1 };
    directory.services.insert(name, Arc::new(service));
}

/// A client's query with id 0x5eed.
pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x5eed, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(super) fn with_edns(mut message: Message, payload_bytes: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload_bytes).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

/// The records of a section, as `dig +short` would print them, sorted.
pub(super) fn data(records: &[Record]) -> Vec<String> {
    let print = |record: &Record| match &record.data {
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target),
        data => data.to_string(),
    };
    let mut printed: Vec<String> = records.iter().map(print).collect();
    printed.sort();
    printed
}
