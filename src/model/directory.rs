//! The snapshot that DNS, proxy, API and UI read. Built by the owner, published whole, never changed.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{
    Health, Instance, Intentions, MemberState, NodeFacts, NodeId, Protocol, ServiceName, Tag, TrafficPolicies,
};

/// Whether the view rests on contact with other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// In contact, or the only host there is.
    Live,
    /// From the store, or cut off: what is shown was true when contact ended.
    Stale,
}

/// One host as this host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What it says of itself.
    pub facts: NodeFacts,
    /// What membership says of it.
    pub state: MemberState,
    /// False if its mesh port does not answer this host, whatever gossip says.
    pub mesh_reachable: bool,
    /// Its incarnation.
    pub incarnation: u64,
    /// The [`Directory::index`] at which anything here last changed.
    pub index: u64,
}

impl Node {
    /// True if calls may be sent there.
    pub fn is_candidate(&self) -> bool {
        self.state.is_usable() && self.mesh_reachable
    }
}

/// One service with all of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its address on this host; 0.0.0.0 where it has none, because none of its instances has a port ([`Service::has_vip`]).
    pub vip: Ipv4Addr,
    /// The port that the VIP answers on: the lowest node id's where hosts disagree; 0 where there is no VIP.
    pub vip_port: u16,
    /// True if hosts disagree about `vip_port` or `protocol`.
    pub disputed: bool,
    /// What it speaks: the lowest node id's where hosts disagree.
    pub protocol: Protocol,
    /// The addresses of `TAG.SERVICE`, for tags that are DNS labels.
    pub tag_vips: BTreeMap<Tag, Ipv4Addr>,
    /// Every instance, healthy or not, ordered by node and id.
    pub instances: Vec<(Arc<Node>, Arc<Instance>)>,
    /// The [`Directory::index`] at which anything here, its instances' hosts included, last changed.
    pub index: u64,
}

impl Service {
    /// An instance's health as callers must see it: critical if its host is gone.
    pub fn health(node: &Node, instance: &Instance) -> Health {
        if node.state.is_usable() { instance.health().max(node.facts.health()) } else { Health::Critical }
    }

    /// False for a service that is only found by name and API: no instance of it has a port to be called on.
    pub fn has_vip(&self) -> bool {
        !self.vip.is_unspecified()
    }

    /// True if the VIP answers on `port`.
    pub fn answers_on(&self, port: u16) -> bool {
        self.has_vip() && (port == self.vip_port || (port == 80 && self.protocol.is_http()))
    }

    /// The instances that a call may be sent to.
    pub fn candidates<'a>(&'a self, tag: Option<&'a Tag>) -> impl Iterator<Item = &'a (Arc<Node>, Arc<Instance>)> {
        self.healthy(tag).filter(|(node, _)| node.is_candidate())
    }

    /// The instances that could take a call if their hosts' mesh ports answered.
    pub fn healthy<'a>(&'a self, tag: Option<&'a Tag>) -> impl Iterator<Item = &'a (Arc<Node>, Arc<Instance>)> {
        self.instances.iter().filter(move |(node, instance)| {
            instance.port != 0
                && Service::health(node, instance) != Health::Critical
                && tag.is_none_or(|tag| instance.tags.contains(tag))
        })
    }
}

/// What a VIP stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipTarget {
    /// The service.
    pub service: ServiceName,
    /// The tag, where the VIP is `TAG.SERVICE`'s.
    pub tag: Option<Tag>,
}

/// The immutable snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// This host.
    pub local: NodeId,
    /// Grows with every published change; never 0 once published.
    pub index: u64,
    /// The index at which a host came, went or changed.
    pub nodes_index: u64,
    /// The index at which the set of services, or the tags in use, last changed.
    pub services_index: u64,
    /// The index at which a service was last let go: what is not there any more has this one.
    pub absent_index: u64,
    /// Whether the view rests on contact.
    pub freshness: Freshness,
    /// Every known host.
    pub nodes: HashMap<NodeId, Arc<Node>>,
    /// Every known service.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// What each VIP stands for.
    pub vips: HashMap<Ipv4Addr, VipTarget>,
    /// Who may call whom. Shared between views until a policy changes.
    pub intentions: Arc<Intentions>,
    /// How calls of each service are carried. Shared likewise.
    pub traffic: Arc<TrafficPolicies>,
}

impl Directory {
    /// A view of nothing.
    pub fn empty(local: NodeId) -> Directory {
        Directory {
            local,
            index: 0,
            nodes_index: 0,
            services_index: 0,
            absent_index: 0,
            freshness: Freshness::Stale,
            nodes: HashMap::new(),
            services: BTreeMap::new(),
            vips: HashMap::new(),
            intentions: Arc::default(),
            traffic: Arc::default(),
        }
    }

    /// The node of that name; the usable one where an old and a new host share it.
    pub fn node_named(&self, name: &str) -> Option<&Arc<Node>> {
        let named = self.nodes.values().filter(|node| node.facts.name.as_str() == name);
        named.min_by_key(|node| (!node.state.is_usable(), node.id))
    }

    /// The service and tag behind a VIP, if any.
    pub fn behind(&self, vip: Ipv4Addr) -> Option<(&Arc<Service>, Option<&Tag>)> {
        let target = self.vips.get(&vip)?;
        Some((self.services.get(&target.service)?, target.tag.as_ref()))
    }
}
