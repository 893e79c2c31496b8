//! A small cluster for tests of this room and of the verbs: three hosts, two services, one of everything that can be wrong.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Limits, Settings};
use crate::model::{
    CheckStatus, Directory, Freshness, Health, Instance, MemberState, Node, NodeFacts, NodeId, NodeName, Protocol,
    Service, ServiceId, ServiceName, Tag,
};

pub(crate) fn settings() -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        socket: None,
        cluster: "prod".into(),
        node: NodeName::parse("web-01").unwrap(),
        domain: "mesh.internal".into(),
        version: "0.1.0".into(),
        writes_over_tcp: true,
        capture: Some("redirect".into()),
        limits: Limits::default(),
    }
}

fn node(number: u8, name: &str, state: MemberState, mesh_reachable: bool) -> Arc<Node> {
    let address = Ipv4Addr::new(10, 0, 0, number);
    Arc::new(Node {
        id: NodeId([number; 16]),
        facts: NodeFacts {
            name: NodeName::parse(name).unwrap(),
            address: address.into(),
            mesh: (address, 7947).into(),
            gossip: (address, 7946).into(),
            zone: "eu-1a".into(),
            meta: BTreeMap::from([("rack".into(), format!("r{number}"))]),
            version: "0.1.0".into(),
            checks: Vec::new(),
            certificates: Vec::new(),
        },
        state,
        mesh_reachable,
        incarnation: 1,
        index: 40,
    })
}

fn instance(service: &str, tags: &[&str], health: Option<Health>) -> Arc<Instance> {
    let check = |health| CheckStatus {
        id: format!("service:{service}"),
        name: format!("{service} answers"),
        kind: "http".into(),
        health,
    };
    Arc::new(Instance {
        id: ServiceId::parse(service).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        address: None,
        port: 8080,
        protocol: Protocol::Http,
        vip_port: None,
        tags: tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect(),
        meta: BTreeMap::from([("team".into(), "pay".into())]),
        weights: crate::model::Weights::default(),
        request_timeout: None,
        checks: health.map(check).into_iter().collect(),
    })
}

fn service(name: &str, last: u8, instances: Vec<(Arc<Node>, Arc<Instance>)>) -> (ServiceName, Arc<Service>) {
    let name = ServiceName::parse(name).unwrap();
    let tag_vips = BTreeMap::from([(Tag::parse("v2").unwrap(), Ipv4Addr::new(127, 64, 1, last))]);
    let service = Service {
        name: name.clone(),
        vip: Ipv4Addr::new(127, 64, 0, last),
        vip_port: 8080,
        disputed: false,
        protocol: Protocol::Http,
        tag_vips,
        instances,
        index: 41,
    };
    (name, Arc::new(service))
}

/// web-01 (local) and web-02 serve `billing`, web-02's critical; db-01 is not reachable on its mesh port and serves
/// `billing` too; old-01 has left and took `legacy` with it; dead-01 has failed.
pub(crate) fn directory() -> Directory {
    let local = node(1, "web-01", MemberState::Alive, true);
    let second = node(2, "web-02", MemberState::Suspect, true);
    let cut_off = node(3, "db-01", MemberState::Alive, false);
    let gone = node(4, "old-01", MemberState::Left, true);
    let dead = node(5, "dead-01", MemberState::Failed, true);
    let billing = service(
        "billing",
        1,
        vec![
            (local.clone(), instance("billing", &["v2", "traefik.enable=true"], Some(Health::Passing))),
            (second.clone(), instance("billing", &["v1"], Some(Health::Critical))),
            (cut_off.clone(), instance("billing", &["v2"], None)),
            (dead.clone(), instance("billing", &["v2"], None)),
        ],
    );
    let legacy = service("legacy", 2, vec![(gone.clone(), instance("legacy", &[], None))]);
    Directory {
        local: local.id,
        index: 42,
        nodes_index: 40,
        services_index: 41,
        absent_index: 1,
        freshness: Freshness::Live,
        nodes: [local, second, cut_off, gone, dead].into_iter().map(|node| (node.id, node)).collect(),
        services: [billing, legacy].into(),
        vips: Default::default(),
    }
}
