//! Bodies in the shapes of Consul's API (`/v1/agent`, `/v1/catalog`, `/v1/health`), built from the directory. Pure.
//!
//! Keys and their case are Consul's, as its API documentation lists them. Differences, all additions: members carry a
//! `Weft` object; services carry the VIP as the tagged address `virtual`; a host whose mesh port does not answer this
//! host has a critical check `weftMesh`. As in Consul, a host that left is in the members but not in the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::Settings;
use super::request::Query;
use crate::model::{CheckStatus, Directory, Health, Instance, MemberState, Node, Service, ServiceId};

/// What bodies are built from.
pub(super) struct View<'a> {
    pub(super) directory: &'a Directory,
    pub(super) settings: &'a Settings,
    /// The last output of a local check.
    pub(super) output: &'a dyn Fn(&ServiceId, &str) -> Option<String>,
}

/// Consul's index begins at 1: 0 would tell a watcher to ask again at once.
pub(super) fn index(directory: &Directory) -> u64 {
    directory.index.max(1)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member<'a> {
    name: &'a str,
    addr: IpAddr,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
    weft: WeftMember<'a>,
}

/// What Serf's four states cannot say.
#[derive(Serialize)]
struct WeftMember<'a> {
    id: String,
    state: MemberState,
    zone: &'a str,
    mesh_reachable: bool,
    mesh: String,
    version: &'a str,
    incarnation: u64,
    local: bool,
}

/// Serf's numbers: 1 alive, 2 leaving, 3 left, 4 failed. A suspect is alive until it is not, as in Serf.
fn serf_status(state: MemberState) -> u8 {
    match state {
        MemberState::Unknown => 0,
        MemberState::Alive | MemberState::Suspect => 1,
        MemberState::Left => 3,
        MemberState::Failed => 4,
    }
}

fn member<'a>(view: &View<'a>, node: &'a Node) -> Member<'a> {
    let facts = &node.facts;
    let tags = BTreeMap::from([
        ("role", "node".to_owned()),
        ("dc", view.settings.cluster.clone()),
        ("id", node.id.to_string()),
        ("build", facts.version.clone()),
    ]);
    Member {
        name: facts.name.as_str(),
        addr: facts.gossip.ip(),
        port: facts.gossip.port(),
        tags,
        status: serf_status(node.state),
        protocol_min: 1,
        protocol_max: 1,
        protocol_cur: 1,
        delegate_min: 1,
        delegate_max: 1,
        delegate_cur: 1,
        weft: WeftMember {
            id: node.id.to_string(),
            state: node.state,
            zone: &facts.zone,
            mesh_reachable: node.mesh_reachable,
            mesh: facts.mesh.to_string(),
            version: &facts.version,
            incarnation: node.incarnation,
            local: node.id == view.directory.local,
        },
    }
}

/// `/v1/agent/members`: every known host, by name.
pub(super) fn members<'a>(view: &View<'a>) -> Vec<Member<'a>> {
    by_name(view.directory).map(|node| member(view, node)).collect()
}

fn by_name(directory: &Directory) -> impl Iterator<Item = &Node> {
    let mut nodes: Vec<&Node> = directory.nodes.values().map(|node| &**node).collect();
    nodes.sort_by(|a, b| (&a.facts.name, a.id).cmp(&(&b.facts.name, b.id)));
    nodes.into_iter()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentSelf<'a> {
    config: AgentConfig<'a>,
    member: Option<Member<'a>>,
    meta: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AgentConfig<'a> {
    datacenter: &'a str,
    primary_datacenter: &'a str,
    node_name: &'a str,
    #[serde(rename = "NodeID")]
    node_id: String,
    server: bool,
    revision: &'static str,
    version: &'a str,
}

/// `/v1/agent/self`.
pub(super) fn agent_self<'a>(view: &View<'a>) -> AgentSelf<'a> {
    let local = view.directory.nodes.get(&view.directory.local);
    let meta = local.into_iter().flat_map(|node| &node.facts.meta);
    AgentSelf {
        config: AgentConfig {
            datacenter: &view.settings.cluster,
            primary_datacenter: &view.settings.cluster,
            node_name: view.settings.node.as_str(),
            node_id: view.directory.local.to_string(),
            server: false,
            revision: "",
            version: &view.settings.version,
        },
        member: local.map(|node| member(view, node)),
        meta: meta.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u8,
    warning: u8,
}

const WEIGHTS: Weights = Weights { passing: 1, warning: 1 };

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaggedAddress {
    address: IpAddr,
    port: u16,
}

type TaggedAddresses = BTreeMap<&'static str, TaggedAddress>;

fn vip_addresses(service: &Service) -> TaggedAddresses {
    BTreeMap::from([("virtual", TaggedAddress { address: service.vip.into(), port: service.vip_port })])
}

/// Where others would find the instance: empty, as in Consul, where that is its host's address. An instance that only
/// listens on loopback has no address of its own that means anything elsewhere.
fn service_address(instance: &Instance) -> String {
    match instance.address {
        Some(ip) if !ip.is_loopback() && !ip.is_unspecified() => ip.to_string(),
        _ => String::new(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: Vec<&'a str>,
    meta: &'a BTreeMap<String, String>,
    port: u16,
    address: String,
    tagged_addresses: TaggedAddresses,
    weights: Weights,
    enable_tag_override: bool,
    create_index: u64,
    modify_index: u64,
    datacenter: &'a str,
}

fn agent_service<'a>(view: &View<'a>, service: &'a Service, instance: &'a Instance) -> AgentService<'a> {
    AgentService {
        id: instance.id.as_str(),
        service: service.name.as_str(),
        tags: tags(instance),
        meta: &instance.meta,
        port: instance.port,
        address: service_address(instance),
        tagged_addresses: vip_addresses(service),
        weights: WEIGHTS,
        enable_tag_override: false,
        create_index: index(view.directory),
        modify_index: index(view.directory),
        datacenter: &view.settings.cluster,
    }
}

fn tags(instance: &Instance) -> Vec<&str> {
    instance.tags.iter().map(|tag| tag.as_str()).collect()
}

/// `/v1/agent/services`: this host's own, by id.
pub(super) fn agent_services<'a>(view: &View<'a>) -> BTreeMap<&'a str, AgentService<'a>> {
    let all =
        view.directory.services.values().flat_map(|service| service.instances.iter().map(move |at| (service, at)));
    let own = all.filter(|(_, (node, _))| node.id == view.directory.local);
    own.map(|(service, (_, instance))| (instance.id.as_str(), agent_service(view, service, instance))).collect()
}

/// `/v1/catalog/services`: names and the tags in use.
pub(super) fn catalog_services<'a>(view: &View<'a>, query: &Query) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in view.directory.services.values() {
        for (_, instance) in listed(service, query) {
            services.entry(service.name.as_str()).or_default().extend(tags(instance));
        }
    }
    services
}

/// The instances that Consul would list: those of hosts that have not left, with all tags and metadata asked for.
fn listed<'a, 'q>(
    service: &'a Service,
    query: &'q Query,
) -> impl Iterator<Item = (&'a Node, &'a Instance)> + use<'a, 'q> {
    let instances = service.instances.iter().map(|(node, instance)| (&**node, &**instance));
    instances.filter(move |(node, instance)| {
        let tagged = query.all("tag").all(|asked| instance.tags.iter().any(|tag| tag.as_str() == asked));
        node.state != MemberState::Left && tagged && has_meta(node, query)
    })
}

fn has_meta(node: &Node, query: &Query) -> bool {
    query.all("node-meta").all(|asked| {
        let (key, value) = asked.split_once(':').unwrap_or((asked, ""));
        node.facts.meta.get(key).is_some_and(|have| have == value)
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CatalogNode<'a> {
    #[serde(rename = "ID")]
    id: String,
    node: &'a str,
    address: IpAddr,
    datacenter: &'a str,
    tagged_addresses: BTreeMap<&'static str, IpAddr>,
    meta: &'a BTreeMap<String, String>,
    create_index: u64,
    modify_index: u64,
}

fn catalog_node<'a>(view: &View<'a>, node: &'a Node) -> CatalogNode<'a> {
    CatalogNode {
        id: node.id.to_string(),
        node: node.facts.name.as_str(),
        address: node.facts.address,
        datacenter: &view.settings.cluster,
        tagged_addresses: node_addresses(node),
        meta: &node.facts.meta,
        create_index: index(view.directory),
        modify_index: index(view.directory),
    }
}

fn node_addresses(node: &Node) -> BTreeMap<&'static str, IpAddr> {
    BTreeMap::from([("lan", node.facts.address), ("wan", node.facts.address)])
}

/// `/v1/catalog/nodes`.
pub(super) fn catalog_nodes<'a>(view: &View<'a>, query: &Query) -> Vec<CatalogNode<'a>> {
    let nodes = by_name(view.directory).filter(|node| node.state != MemberState::Left && has_meta(node, query));
    nodes.map(|node| catalog_node(view, node)).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CatalogService<'a> {
    #[serde(rename = "ID")]
    id: String,
    node: &'a str,
    address: IpAddr,
    datacenter: &'a str,
    tagged_addresses: BTreeMap<&'static str, IpAddr>,
    node_meta: &'a BTreeMap<String, String>,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    service_address: String,
    service_tagged_addresses: TaggedAddresses,
    service_weights: Weights,
    service_meta: &'a BTreeMap<String, String>,
    service_port: u16,
    service_enable_tag_override: bool,
    create_index: u64,
    modify_index: u64,
}

/// `/v1/catalog/service/:name`: every instance, healthy or not.
pub(super) fn catalog_service<'a>(view: &View<'a>, service: &'a Service, query: &Query) -> Vec<CatalogService<'a>> {
    let entries = listed(service, query).map(|(node, instance)| CatalogService {
        id: node.id.to_string(),
        node: node.facts.name.as_str(),
        address: node.facts.address,
        datacenter: &view.settings.cluster,
        tagged_addresses: node_addresses(node),
        node_meta: &node.facts.meta,
        service_id: instance.id.as_str(),
        service_name: service.name.as_str(),
        service_tags: tags(instance),
        service_address: service_address(instance),
        service_tagged_addresses: vip_addresses(service),
        service_weights: WEIGHTS,
        service_meta: &instance.meta,
        service_port: instance.port,
        service_enable_tag_override: false,
        create_index: index(view.directory),
        modify_index: index(view.directory),
    });
    entries.collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HealthEntry<'a> {
    node: CatalogNode<'a>,
    service: AgentService<'a>,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    check_id: &'a str,
    name: &'a str,
    status: Health,
    notes: &'static str,
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    #[serde(rename = "Type")]
    kind: &'a str,
    definition: BTreeMap<(), ()>,
    create_index: u64,
    modify_index: u64,
}

/// `/v1/health/service/:name`; with `passing`, only instances all of whose checks pass, as in Consul.
pub(super) fn health_service<'a>(
    view: &View<'a>,
    service: &'a Service,
    query: &Query,
    passing: bool,
) -> Vec<HealthEntry<'a>> {
    let entries = listed(service, query).map(|(node, instance)| HealthEntry {
        node: catalog_node(view, node),
        service: agent_service(view, service, instance),
        checks: checks(view, service, node, instance),
    });
    entries.filter(|entry| !passing || entry.checks.iter().all(|check| check.status == Health::Passing)).collect()
}

fn checks<'a>(view: &View<'a>, service: &'a Service, node: &'a Node, instance: &'a Instance) -> Vec<Check<'a>> {
    let mut checks = vec![node_check(view, node, "serfHealth", "Serf Health Status", serf_health(node))];
    if node.state.is_usable() && !node.mesh_reachable {
        let output = format!("{} does not answer this host; check firewalls between the two", node.facts.mesh);
        checks.push(node_check(view, node, "weftMesh", "Mesh port reachable from here", (Health::Critical, output)));
    }
    checks.extend(instance.checks.iter().map(|status| service_check(view, service, node, instance, status)));
    checks
}

fn serf_health(node: &Node) -> (Health, String) {
    match node.state {
        MemberState::Alive => (Health::Passing, "Agent alive and reachable".into()),
        MemberState::Suspect => (Health::Passing, "Agent suspected; it has time to refute".into()),
        MemberState::Unknown => (Health::Passing, "Known from this host's store; not heard of since its start".into()),
        MemberState::Failed | MemberState::Left => (Health::Critical, "Agent not live or unreachable".into()),
    }
}

fn node_check<'a>(
    view: &View<'a>,
    node: &'a Node,
    check_id: &'static str,
    name: &'static str,
    (status, output): (Health, String),
) -> Check<'a> {
    Check {
        node: node.facts.name.as_str(),
        check_id,
        name,
        status,
        notes: "",
        output,
        service_id: "",
        service_name: "",
        service_tags: Vec::new(),
        kind: "",
        definition: BTreeMap::new(),
        create_index: index(view.directory),
        modify_index: index(view.directory),
    }
}

fn service_check<'a>(
    view: &View<'a>,
    service: &'a Service,
    node: &'a Node,
    instance: &'a Instance,
    check: &'a CheckStatus,
) -> Check<'a> {
    let local = node.id == view.directory.local;
    let output = if local { (view.output)(&instance.id, &check.id) } else { None };
    Check {
        node: node.facts.name.as_str(),
        check_id: &check.id,
        name: &check.name,
        status: check.health,
        notes: "",
        output: output.unwrap_or_default(),
        service_id: instance.id.as_str(),
        service_name: service.name.as_str(),
        service_tags: tags(instance),
        kind: &check.kind,
        definition: BTreeMap::new(),
        create_index: index(view.directory),
        modify_index: index(view.directory),
    }
}
