//! The published view: membership and catalog, put together into one [`Directory`]. Reads the owner's caches, changes
//! nothing but the VIP table, and decides in one place who is shown, which host's word wins, and what is derived.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use tracing::warn;

use super::vips::Vips;
use crate::model::{
    Directory, Freshness, Instance, Intentions, MemberState, Node, NodeFacts, NodeId, Service, ServiceName, Tag,
    TrafficPolicies, VipTarget,
};

/// What membership says of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Membership {
    pub state: MemberState,
    pub incarnation: u64,
}

/// What the view is made from.
pub(super) struct Sources<'a> {
    pub local: NodeId,
    pub index: u64,
    pub freshness: Freshness,
    pub facts: &'a HashMap<NodeId, Arc<NodeFacts>>,
    pub members: &'a HashMap<NodeId, Membership>,
    pub unreachable: &'a HashSet<NodeId>,
    pub instances: &'a BTreeMap<(NodeId, String), Arc<Instance>>,
    pub intentions: &'a Arc<Intentions>,
    pub traffic: &'a Arc<TrafficPolicies>,
}

/// Tags of one service that get an address, in alphabetical order.
const TAG_VIPS_MAX: usize = 64;

/// An instance and its host.
type Placed = (Arc<Node>, Arc<Instance>);

/// Builds the view. What has not changed since `previous` keeps its place in memory and its index.
pub(super) fn build(sources: &Sources<'_>, vips: &mut Vips, previous: &Directory) -> Directory {
    let mut nodes = nodes(sources);
    for node in nodes.values_mut() {
        keep_unchanged(node, previous.nodes.get(&node.id));
    }
    let mut by_service: BTreeMap<&ServiceName, Vec<Placed>> = BTreeMap::new();
    // Ordered by node id: the first instance of a service is the one whose word wins.
    for ((origin, _), instance) in sources.instances {
        if let Some(node) = nodes.get(origin) {
            by_service.entry(&instance.service).or_default().push((node.clone(), instance.clone()));
        }
    }
    let mut directory = Directory {
        local: sources.local,
        index: sources.index,
        nodes_index: sources.index,
        services_index: sources.index,
        absent_index: sources.index,
        freshness: sources.freshness,
        nodes,
        services: BTreeMap::new(),
        vips: HashMap::new(),
        intentions: sources.intentions.clone(),
        traffic: sources.traffic.clone(),
    };
    for (name, instances) in by_service {
        if let Some(service) = service(name, instances, vips, &mut directory.vips) {
            let mut service = Arc::new(Service { index: sources.index, ..service });
            keep_unchanged(&mut service, previous.services.get(name));
            directory.services.insert(name.clone(), service);
        }
    }
    settle_indexes(&mut directory, previous);
    directory
}

/// What carries the index of its last change.
trait Indexed: PartialEq + Clone {
    fn replace_index(&mut self, index: u64) -> u64;
    fn index(&self) -> u64;
}

impl Indexed for Node {
    fn replace_index(&mut self, index: u64) -> u64 {
        std::mem::replace(&mut self.index, index)
    }

    fn index(&self) -> u64 {
        self.index
    }
}

impl Indexed for Service {
    fn replace_index(&mut self, index: u64) -> u64 {
        std::mem::replace(&mut self.index, index)
    }

    fn index(&self) -> u64 {
        self.index
    }
}

fn keep_unchanged<T: Indexed>(new: &mut Arc<T>, old: Option<&Arc<T>>) {
    let Some(old) = old else { return };
    let now = Arc::make_mut(new).replace_index(old.index());
    if *new == *old {
        *new = old.clone();
    } else {
        Arc::make_mut(new).replace_index(now);
    }
}

/// Lists keep their index while they list the same.
fn settle_indexes(new: &mut Directory, old: &Directory) {
    // A view that was never published is nobody's past.
    if old.index == 0 {
        return;
    }
    let same_nodes = new.nodes.len() == old.nodes.len()
        && new.nodes.iter().all(|(id, node)| old.nodes.get(id).is_some_and(|old| Arc::ptr_eq(node, old)));
    if same_nodes {
        new.nodes_index = old.nodes_index;
    }
    let listed = |service: &Service| -> BTreeSet<Tag> {
        service.instances.iter().flat_map(|(_, instance)| instance.tags.iter().cloned()).collect()
    };
    let same_service = |name: &ServiceName, service: &Arc<Service>| {
        let old = old.services.get(name);
        old.is_some_and(|old| Arc::ptr_eq(service, old) || listed(service) == listed(old))
    };
    if new.services.len() == old.services.len()
        && new.services.iter().all(|(name, service)| same_service(name, service))
    {
        new.services_index = old.services_index;
    }
    if old.services.keys().all(|name| new.services.contains_key(name)) {
        new.absent_index = old.absent_index;
    }
}

fn nodes(sources: &Sources<'_>) -> HashMap<NodeId, Arc<Node>> {
    let mut nodes: HashMap<NodeId, Arc<Node>> = HashMap::new();
    for (id, facts) in sources.facts {
        let state = match sources.freshness {
            _ if *id == sources.local => MemberState::Alive,
            Freshness::Stale => MemberState::Unknown,
            // Others are heard of, this one is not: it left records behind.
            Freshness::Live => MemberState::Failed,
        };
        let default = Membership { state, incarnation: 0 };
        let Membership { state, incarnation } = sources.members.get(id).copied().unwrap_or(default);
        // Only of a host that gossip says is alive is it news that its mesh port does not answer; without contact nothing
        // answers, and what was last known is shown.
        let heard_of = matches!(state, MemberState::Alive | MemberState::Suspect);
        let mesh_reachable = !(heard_of && sources.unreachable.contains(id));
        let facts = NodeFacts::clone(facts);
        let node = Node { id: *id, facts, state, mesh_reachable, incarnation, index: sources.index };
        nodes.insert(*id, Arc::new(node));
    }
    drop_ghosts(&mut nodes);
    nodes
}

/// A reimaged host comes back under its name with a new id; the old one is a ghost unless somebody hears of it.
fn drop_ghosts(nodes: &mut HashMap<NodeId, Arc<Node>>) {
    let heard_of = |node: &Node| matches!(node.state, MemberState::Alive | MemberState::Suspect);
    let present: HashSet<_> =
        nodes.values().filter(|node| heard_of(node)).map(|node| node.facts.name.clone()).collect();
    nodes.retain(|_, node| heard_of(node) || !present.contains(&node.facts.name));
}

fn service(
    name: &ServiceName,
    instances: Vec<Placed>,
    vips: &mut Vips,
    targets: &mut HashMap<Ipv4Addr, VipTarget>,
) -> Option<Service> {
    // Without a port there is nothing to call, and so nothing to say about how it is called.
    let called = || instances.iter().filter(|(_, instance)| instance.port != 0);
    // A host that is gone has no say while there are others.
    let present = || called().filter(|(node, _)| node.state.is_usable());
    let Some((_, first)) = present().next().or(called().next()) else {
        let protocol = instances.first()?.1.protocol;
        let (vip, tag_vips) = (Ipv4Addr::UNSPECIFIED, BTreeMap::new());
        let name = name.clone();
        return Some(Service { name, vip, vip_port: 0, disputed: false, protocol, tag_vips, instances, index: 0 });
    };
    let (vip_port, protocol) = (first.vip_port(), first.protocol);
    let disputed = present().any(|(_, other)| other.vip_port() != vip_port || other.protocol != protocol);
    let Some(vip) = vips.of(name, None) else {
        warn!(service = %name, "no address is left in proxy.vip_range; widen it");
        return None;
    };
    targets.insert(vip, Vips::target(name, None));
    let tags: BTreeSet<&Tag> = called().flat_map(|(_, instance)| &instance.tags).filter(|tag| tag.is_label()).collect();
    let mut tag_vips = BTreeMap::new();
    for tag in tags.into_iter().take(TAG_VIPS_MAX) {
        if let Some(address) = vips.of(name, Some(tag)) {
            targets.insert(address, Vips::target(name, Some(tag)));
            tag_vips.insert(tag.clone(), address);
        }
    }
    Some(Service { name: name.clone(), vip, vip_port, disputed, protocol, tag_vips, instances, index: 0 })
}

#[cfg(test)]
mod tests;
