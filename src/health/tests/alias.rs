//! Alias checks: another service's health, or a host's, as the published directory has it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::*;
use crate::model::{
    CheckStatus, Directory, Instance, MemberState, Node, NodeFacts, NodeId, NodeName, Protocol, Service, ServiceName,
    Weights,
};
use Health::{Critical, Passing, Warning};

fn statuses(checks: &[(&str, Health)]) -> Vec<CheckStatus> {
    let status = |(id, health): &(&str, Health)| CheckStatus {
        id: (*id).to_owned(),
        name: (*id).to_owned(),
        kind: "ttl".to_owned(),
        health: *health,
    };
    checks.iter().map(status).collect()
}

fn node(number: u8, name: &str, checks: &[(&str, Health)]) -> Arc<Node> {
    let facts = NodeFacts {
        name: NodeName::parse(name).unwrap(),
        address: Ipv4Addr::LOCALHOST.into(),
        mesh: "127.0.0.1:7947".parse().unwrap(),
        gossip: "127.0.0.1:7946".parse().unwrap(),
        zone: String::new(),
        meta: BTreeMap::new(),
        version: String::new(),
        checks: statuses(checks),
        certificates: Vec::new(),
    };
    Arc::new(Node {
        id: NodeId([number; 16]),
        facts,
        state: MemberState::Alive,
        mesh_reachable: true,
        incarnation: 1,
        index: 1,
    })
}

fn instance(id: &str, checks: &[(&str, Health)]) -> Arc<Instance> {
    Arc::new(Instance {
        id: service(id),
        service: ServiceName::parse("db").unwrap(),
        address: None,
        port: 5432,
        protocol: Protocol::Tcp,
        vip_port: None,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        weights: Weights::default(),
        request_timeout: None,
        checks: statuses(checks),
    })
}

/// A directory of these, published as its `index`th.
fn directory(index: u64, instances: &[(Arc<Node>, Arc<Instance>)], nodes: &[&Arc<Node>]) -> Arc<Directory> {
    let name = ServiceName::parse("db").unwrap();
    let db = Service {
        name: name.clone(),
        vip: Ipv4Addr::new(127, 64, 0, 1),
        vip_port: 5432,
        disputed: false,
        protocol: Protocol::Tcp,
        tag_vips: BTreeMap::new(),
        instances: instances.to_vec(),
        index,
    };
    Arc::new(Directory {
        index,
        nodes: nodes.iter().map(|node| (node.id, (*node).clone())).collect(),
        services: BTreeMap::from([(name, Arc::new(db))]),
        ..Directory::empty(NodeId([1; 16]))
    })
}

struct World {
    directory: Arc<ArcSwap<Directory>>,
    changes: watch::Sender<u64>,
    _runner: Runner,
    events: mpsc::Receiver<Event>,
}

impl World {
    fn new(first: Arc<Directory>, node: Option<&str>, aliased: Option<&str>) -> World {
        let (sender, receiver) = watch::channel(first.index);
        let directory = Arc::new(ArcSwap::new(first));
        let (runner, events) = runner();
        let mut runner = runner.with_directory(directory.clone(), receiver);
        let node = node.map(|name| NodeName::parse(name).unwrap());
        let kind = CheckKind::Alias { node, service: aliased.map(service) };
        runner.replace(vec![(Some(service("web")), definition("alias", kind))]);
        World { directory, changes: sender, _runner: runner, events }
    }

    fn publish(&self, directory: Arc<Directory>) {
        let index = directory.index;
        self.directory.store(directory);
        self.changes.send_replace(index);
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_service_is_followed_as_it_comes_changes_and_goes() {
    let here = node(1, "here", &[]);
    let mut world = World::new(directory(1, &[], &[&here]), None, Some("db-1"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let with = |index, health| directory(index, &[(here.clone(), instance("db-1", &[("db", health)]))], &[&here]);
    world.publish(with(2, Passing));
    assert_eq!(verdict(&mut world.events).await, (Passing, "service db-1 on here is passing".into()));
    world.publish(with(3, Warning));
    assert_eq!(verdict(&mut world.events).await.0, Warning);
    world.publish(directory(4, &[], &[&here]));
    let gone = verdict(&mut world.events).await;
    assert_eq!(gone, (Critical, "host here has no service with the id \"db-1\"".into()));
    world.publish(with(5, Passing));
    assert_eq!(verdict(&mut world.events).await.0, Passing);
}

#[tokio::test(start_paused = true)]
async fn another_host_s_service_and_the_host_itself_are_found_by_name() {
    let (here, there) = (node(1, "here", &[]), node(2, "db-01", &[("disk", Warning)]));
    let instances = [(there.clone(), instance("db", &[("db", Passing)]))];
    let mut world = World::new(directory(1, &instances, &[&here, &there]), Some("db-01"), Some("db"));
    let told = verdict(&mut world.events).await;
    assert_eq!(told, (Warning, "service db on db-01 is warning: its check \"disk\" is".into()));
    let gone = Arc::new(Node { state: MemberState::Failed, ..Node::clone(&there) });
    world.publish(directory(2, &[], &[&here, &gone]));
    assert_eq!(verdict(&mut world.events).await, (Critical, "host db-01 is failed".into()));

    let mut of_host = World::new(directory(1, &[], &[&here, &there]), Some("db-01"), None);
    assert_eq!(verdict(&mut of_host.events).await.0, Warning);
}

#[tokio::test(start_paused = true)]
async fn an_alias_does_not_hold_itself_where_it_is() {
    let here = node(1, "here", &[("alias", Critical), ("disk", Passing)]);
    let mut world = World::new(directory(1, &[], &[&here]), None, None);
    assert_eq!(verdict(&mut world.events).await, (Passing, "host here is passing".into()));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_publications_is_looked_at_now_and_then() {
    let here = node(1, "here", &[]);
    let with = |index, health| directory(index, &[(here.clone(), instance("db", &[("db", health)]))], &[&here]);
    let mut world = World::new(with(1, Passing), None, Some("db"));
    assert_eq!(verdict(&mut world.events).await.0, Passing);
    for index in 2..502 {
        world.publish(with(index, if index % 2 == 0 { Warning } else { Passing }));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut told = 0;
    while within(&mut world.events, Duration::from_secs(1)).await.is_some() {
        told += 1;
    }
    assert!(told <= 6, "{told}");
}
