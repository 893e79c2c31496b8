//! Who is shown, whose word wins, and which indexes a change raises.

use super::*;
use crate::model::{CheckStatus, Health, NodeName, Protocol, ServiceId};

const LOCAL: NodeId = NodeId([1; 16]);
const OTHER: NodeId = NodeId([2; 16]);

fn facts(name: &str) -> Arc<NodeFacts> {
    Arc::new(NodeFacts {
        name: NodeName::parse(name).unwrap(),
        address: Ipv4Addr::LOCALHOST.into(),
        mesh: (Ipv4Addr::LOCALHOST, 7947).into(),
        gossip: (Ipv4Addr::LOCALHOST, 7946).into(),
        zone: String::new(),
        meta: BTreeMap::new(),
        version: "0".into(),
        checks: Vec::new(),
        certificates: Vec::new(),
    })
}

fn instance(service: &str, vip_port: u16, tags: &[&str]) -> Arc<Instance> {
    Arc::new(Instance {
        id: ServiceId::parse(service).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        address: None,
        port: 8080,
        protocol: Protocol::Tcp,
        vip_port: Some(vip_port),
        tags: tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect(),
        meta: BTreeMap::new(),
        weights: crate::model::Weights::default(),
        request_timeout: None,
        checks: Vec::new(),
    })
}

fn portless(service: &str) -> Arc<Instance> {
    Arc::new(Instance { port: 0, vip_port: None, ..Instance::clone(&instance(service, 1, &["a"])) })
}

fn critical(instance: &Arc<Instance>) -> Arc<Instance> {
    let check = CheckStatus { id: "c".into(), name: String::new(), kind: "tcp".into(), health: Health::Critical };
    Arc::new(Instance { checks: vec![check], ..Instance::clone(instance) })
}

/// The sources of a view, and the views made of them.
struct World {
    freshness: Freshness,
    facts: HashMap<NodeId, Arc<NodeFacts>>,
    members: HashMap<NodeId, Membership>,
    instances: BTreeMap<(NodeId, String), Arc<Instance>>,
    vips: Vips,
    index: u64,
    last: Directory,
}

impl World {
    fn new(hosts: &[(NodeId, &str)]) -> World {
        World {
            freshness: Freshness::Stale,
            facts: hosts.iter().map(|(id, name)| (*id, facts(name))).collect(),
            members: HashMap::new(),
            instances: BTreeMap::new(),
            vips: Vips::new("127.64.0.0/10".parse().unwrap(), BTreeMap::new()),
            index: 0,
            last: Directory::empty(LOCAL),
        }
    }

    fn put(&mut self, node: NodeId, instance: Arc<Instance>) {
        self.instances.insert((node, instance.id.to_string()), instance);
    }

    /// The next view.
    fn build(&mut self) -> Directory {
        self.index += 1;
        let sources = Sources {
            local: LOCAL,
            index: self.index,
            freshness: self.freshness,
            facts: &self.facts,
            members: &self.members,
            unreachable: &HashSet::new(),
            instances: &self.instances,
            intentions: &Default::default(),
            traffic: &Default::default(),
        };
        self.last = build(&sources, &mut self.vips, &self.last);
        self.last.clone()
    }
}

/// Two hosts, `web` on both, `db` on the other one.
fn fleet() -> World {
    let mut world = World::new(&[(LOCAL, "a"), (OTHER, "b")]);
    world.put(LOCAL, instance("web", 80, &["v1"]));
    world.put(OTHER, instance("web", 80, &["v1"]));
    world.put(OTHER, instance("db", 5432, &[]));
    world
}

#[test]
fn the_lowest_node_ids_port_wins_and_the_dispute_is_shown() {
    let mut world = World::new(&[(LOCAL, "a"), (OTHER, "b")]);
    world.put(OTHER, instance("web", 81, &[]));
    world.put(LOCAL, instance("web", 80, &[]));
    let directory = world.build();
    let web = &directory.services["web"];
    assert_eq!((web.vip_port, web.disputed, web.instances.len()), (80, true, 2));
}

#[test]
fn a_label_tag_has_an_address_of_its_own_and_free_text_has_none() {
    let mut world = World::new(&[(LOCAL, "a")]);
    world.put(LOCAL, instance("pg", 5432, &["primary", "a=b"]));
    let directory = world.build();
    let pg = &directory.services["pg"];
    assert_eq!(pg.tag_vips.len(), 1);
    let (service, tag) = directory.behind(pg.tag_vips[&Tag::parse("primary").unwrap()]).unwrap();
    assert_eq!((service.name.as_str(), tag.map(Tag::as_str)), ("pg", Some("primary")));
}

#[test]
fn a_reimaged_host_replaces_its_ghost() {
    let ghost = NodeId([3; 16]);
    let failed = Membership { state: MemberState::Failed, incarnation: 4 };
    // Other hosts see it fail; the reimaged host itself only finds its own old records with them.
    for members in [HashMap::from([(ghost, failed)]), HashMap::new()] {
        let mut world = World::new(&[(ghost, "web-01"), (LOCAL, "web-01")]);
        world.members = members;
        world.put(ghost, instance("web", 80, &[]));
        let directory = world.build();
        assert_eq!(directory.nodes.keys().collect::<Vec<_>>(), [&LOCAL]);
        assert!(directory.services.is_empty());
    }
}

#[test]
fn a_service_of_which_no_instance_has_a_port_has_no_vip_until_one_has() {
    let mut world = fleet();
    world.put(OTHER, portless("batch"));
    let directory = world.build();
    let batch = &directory.services["batch"];
    assert_eq!((batch.has_vip(), batch.vip_port, batch.tag_vips.len(), batch.answers_on(0)), (false, 0, 0, false));
    assert_eq!(batch.healthy(None).count(), 0);
    assert!(directory.behind(batch.vip).is_none());

    let mut called = Instance::clone(&instance("batch", 9000, &[]));
    called.id = ServiceId::parse("batch-2").unwrap();
    world.put(OTHER, Arc::new(called));
    let directory = world.build();
    let batch = &directory.services["batch"];
    assert_eq!((batch.has_vip(), batch.vip_port, batch.disputed), (true, 9000, false));
    assert_eq!((batch.instances.len(), batch.healthy(None).count()), (2, 1));
}

#[test]
fn a_change_to_one_service_leaves_the_others_where_they_were() {
    let mut world = fleet();
    let before = world.build();
    world.put(OTHER, critical(&instance("db", 5432, &[])));
    let after = world.build();
    assert_eq!((before.services["db"].index, after.services["db"].index), (1, 2));
    assert!(Arc::ptr_eq(&before.services["web"], &after.services["web"]));
    assert_eq!((after.index, after.nodes_index, after.services_index, after.absent_index), (2, 1, 1, 1));
}

#[test]
fn a_view_without_any_change_keeps_every_index_but_its_own() {
    let mut world = fleet();
    let before = world.build();
    let after = world.build();
    assert_eq!(after.index, 2);
    assert_eq!(
        (after.nodes_index, after.services_index, after.absent_index),
        (before.nodes_index, before.services_index, before.absent_index)
    );
    assert!(after.services.values().all(|service| service.index == 1));
    assert!(after.nodes.values().all(|node| node.index == 1));
}

#[test]
fn a_change_of_a_host_raises_the_services_on_it_and_no_others() {
    let mut world = fleet();
    world.put(LOCAL, instance("cache", 6379, &[]));
    world.build();
    world.members.insert(OTHER, Membership { state: MemberState::Failed, incarnation: 1 });
    let after = world.build();
    let index = |name: &str| after.services[name].index;
    assert_eq!((index("web"), index("db"), index("cache")), (2, 2, 1));
    assert_eq!((after.nodes_index, after.services_index), (2, 1));
    assert_eq!((after.nodes[&LOCAL].index, after.nodes[&OTHER].index), (1, 2));
}

#[test]
fn a_new_tag_raises_the_list_of_services_and_a_service_gone_raises_what_is_absent() {
    let mut world = fleet();
    world.build();
    world.put(OTHER, instance("db", 5432, &["primary"]));
    let tagged = world.build();
    assert_eq!((tagged.services_index, tagged.absent_index), (2, 1));
    world.instances.remove(&(OTHER, "db".to_owned()));
    let gone = world.build();
    assert_eq!((gone.services_index, gone.absent_index, gone.services["web"].index), (3, 3, 1));
    world.put(OTHER, instance("db", 5432, &[]));
    let back = world.build();
    assert_eq!((back.services_index, back.absent_index, back.services["db"].index), (4, 3, 4));
}

#[test]
fn the_first_view_of_a_start_is_above_all_of_the_start_before() {
    let mut world = fleet();
    world.index = 7 << 24;
    let first = world.build();
    assert!(first.services.values().all(|service| service.index == (7 << 24) + 1));
    assert_eq!((first.nodes_index, first.services_index, first.absent_index), (first.index, first.index, first.index));
}
