//! Bodies of Weft's own endpoints (`/v1/weft/...`), built from the directory. Pure.
//!
//! `status` is this host at a glance; `services` is every service with its VIP and, for each instance, whether this host
//! would send calls there and, if not, why not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

use super::consul::index;
use super::{Local, Settings};
use crate::model::Quarantined;
use crate::model::{
    Directory, Freshness, Health, Instance, MemberState, Node, NodeId, Protocol, Service, Tag, platform_of,
};

/// The word in `X-Weft-Freshness` and in bodies.
pub(super) fn freshness(directory: &Directory) -> &'static str {
    match directory.freshness {
        Freshness::Live => "live",
        Freshness::Stale => "stale",
    }
}

#[derive(Serialize)]
pub(super) struct Status<'a> {
    node: &'a str,
    id: String,
    cluster: &'a str,
    domain: &'a str,
    version: &'a str,
    freshness: &'static str,
    index: u64,
    members: BTreeMap<&'static str, usize>,
    members_unreachable: usize,
    services: usize,
    instances: usize,
    instances_usable: usize,
    quarantined: Vec<QuarantinedView<'a>>,
}

/// A record that this agent does not touch.
#[derive(Serialize)]
pub(super) struct QuarantinedView<'a> {
    /// The name of the host whose record it is; `None` if it is not known.
    node: Option<&'a str>,
    id: &'a str,
    version: &'a str,
    hash: &'a str,
    reason: &'a str,
}

/// `/v1/weft/status`.
pub(super) fn status<'a>(directory: &'a Directory, settings: &'a Settings, local: &'a Local) -> Status<'a> {
    let mut members = BTreeMap::new();
    for node in directory.nodes.values() {
        *members.entry(node.state.as_str()).or_default() += 1;
    }
    let unreachable = |node: &&std::sync::Arc<Node>| node.state.is_usable() && !node.mesh_reachable;
    Status {
        node: settings.node.as_str(),
        id: directory.local.to_string(),
        cluster: &settings.cluster,
        domain: &settings.domain,
        version: &settings.version,
        freshness: freshness(directory),
        index: index(directory),
        members,
        members_unreachable: directory.nodes.values().filter(unreachable).count(),
        services: directory.services.len(),
        instances: directory.services.values().map(|service| service.instances.len()).sum(),
        instances_usable: directory.services.values().map(|service| service.candidates(None).count()).sum(),
        quarantined: local.quarantined.iter().map(|record| quarantined(directory, record)).collect(),
    }
}

fn quarantined<'a>(directory: &'a Directory, record: &'a Quarantined) -> QuarantinedView<'a> {
    let Quarantined { hash, origin, version, reason, deaths: _ } = record;
    let node = origin.parse().ok().and_then(|id: NodeId| directory.nodes.get(&id));
    QuarantinedView { node: node.map(|node| node.facts.name.as_str()), id: origin, version, hash, reason }
}

#[derive(Serialize)]
pub(super) struct ServiceView<'a> {
    pub(super) name: &'a str,
    pub(super) vip: Ipv4Addr,
    pub(super) ports: Vec<u16>,
    pub(super) protocol: Protocol,
    /// Hosts disagree about port or protocol.
    pub(super) disputed: bool,
    pub(super) tag_vips: BTreeMap<&'a str, Ipv4Addr>,
    pub(super) instances: Vec<InstanceView<'a>>,
}

#[derive(Serialize)]
pub(super) struct InstanceView<'a> {
    node: &'a str,
    node_id: String,
    node_state: MemberState,
    zone: &'a str,
    local: bool,
    id: &'a str,
    address: SocketAddr,
    tags: Vec<&'a str>,
    /// Which world it lives in, as policies about traffic ask.
    platform: &'a str,
    meta: &'a BTreeMap<String, String>,
    health: Health,
    /// True if a call from this host may go there.
    usable: bool,
    /// Why not, where it is not.
    reason: Option<String>,
}

impl InstanceView<'_> {
    pub(super) fn usable(&self) -> bool {
        self.usable
    }
}

/// `/v1/weft/services`, or with `?name=` that one.
pub(super) fn services<'a>(directory: &'a Directory, name: Option<&str>) -> Vec<ServiceView<'a>> {
    let asked = directory.services.values().filter(|service| name.is_none_or(|name| service.name.as_str() == name));
    asked.map(|service| service_view(directory, service, None)).collect()
}

/// One service; with a tag, as seen through `TAG.SERVICE`.
pub(super) fn service_view<'a>(directory: &Directory, service: &'a Service, tag: Option<&Tag>) -> ServiceView<'a> {
    let instances = service.instances.iter().map(|(node, instance)| instance_view(directory, node, instance, tag));
    ServiceView {
        name: service.name.as_str(),
        vip: service.vip,
        ports: ports(service),
        protocol: service.protocol,
        disputed: service.disputed,
        tag_vips: service.tag_vips.iter().map(|(tag, vip)| (tag.as_str(), *vip)).collect(),
        instances: instances.collect(),
    }
}

/// What the VIP answers on: its port, and 80 where the service speaks HTTP.
pub(super) fn ports(service: &Service) -> Vec<u16> {
    let both = [service.vip_port, 80];
    let answered = if service.vip_port == 80 { &both[..1] } else { &both[..] };
    answered.iter().copied().filter(|&port| service.answers_on(port)).collect()
}

fn instance_view<'a>(
    directory: &Directory,
    node: &'a Node,
    instance: &'a Instance,
    tag: Option<&Tag>,
) -> InstanceView<'a> {
    let reason = unusable(node, instance, tag);
    InstanceView {
        node: node.facts.name.as_str(),
        node_id: node.id.to_string(),
        node_state: node.state,
        zone: &node.facts.zone,
        local: node.id == directory.local,
        id: instance.id.as_str(),
        address: real_address(node, instance),
        tags: instance.tags.iter().map(Tag::as_str).collect(),
        platform: platform_of(&node.facts, instance),
        meta: &instance.meta,
        health: Service::health(node, instance),
        usable: reason.is_none(),
        reason,
    }
}

/// The instance's address as plain discovery tells it: its host's where it listens on loopback or everywhere.
pub(super) fn real_address(node: &Node, instance: &Instance) -> SocketAddr {
    let own = instance.address.filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified());
    SocketAddr::new(own.unwrap_or(node.facts.address), instance.port)
}

/// Why no call goes there; `None` exactly where [`Service::candidates`] lists the instance.
pub(super) fn unusable(node: &Node, instance: &Instance, tag: Option<&Tag>) -> Option<String> {
    match node.state {
        MemberState::Failed => return Some("its host has failed".into()),
        MemberState::Left => return Some("its host has left".into()),
        MemberState::Unknown | MemberState::Alive | MemberState::Suspect => {}
    }
    if !node.mesh_reachable {
        return Some(format!("the mesh port of its host, {}, does not answer this host", node.facts.mesh));
    }
    if Service::health(node, instance) == Health::Critical {
        let checks = instance.checks.iter().chain(&node.facts.checks);
        let critical = checks.filter(|check| check.health == Health::Critical);
        let names: Vec<&str> = critical.map(|check| check.id.as_str()).collect();
        return Some(format!("critical: {}", names.join(", ")));
    }
    tag.filter(|tag| !instance.tags.contains(tag)).map(|tag| format!("it does not carry the tag {tag}"))
}
