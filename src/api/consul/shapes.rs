//! What a service, a node and a check look like in Consul's JSON. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::View;
use crate::api::{LocalCheck, durations};
use crate::config::{CheckDefinition, CheckKind, CheckTls};
use crate::model::{CheckStatus, Health, Instance, MemberState, Node, Service};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct Weights {
    passing: u16,
    warning: u16,
}

impl Weights {
    fn of(instance: &Instance) -> Weights {
        Weights { passing: instance.weights.passing, warning: instance.weights.warning }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct TaggedAddress {
    address: IpAddr,
    port: u16,
}

type TaggedAddresses = BTreeMap<&'static str, TaggedAddress>;

/// Empty for a service that was not announced yet: it has no VIP.
fn vip_addresses(service: Option<&Service>) -> TaggedAddresses {
    let vip = |service: &Service| ("virtual", TaggedAddress { address: service.vip.into(), port: service.vip_port });
    service.map(vip).into_iter().collect()
}

/// Where others would find the instance: empty, as in Consul, where that is its host's address. An instance that only
/// listens on loopback has no address of its own that means anything elsewhere.
fn service_address(instance: &Instance) -> String {
    match instance.address {
        Some(ip) if !ip.is_loopback() && !ip.is_unspecified() => ip.to_string(),
        _ => String::new(),
    }
}

fn tags(instance: &Instance) -> Vec<&str> {
    instance.tags.iter().map(|tag| tag.as_str()).collect()
}

/// A service as agents and `/v1/health/service` tell it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct AgentService<'a> {
    kind: &'static str,
    #[serde(rename = "ID")]
    pub(super) id: &'a str,
    service: &'a str,
    tags: Vec<&'a str>,
    meta: &'a BTreeMap<String, String>,
    port: u16,
    address: String,
    socket_path: &'static str,
    tagged_addresses: TaggedAddresses,
    weights: Weights,
    enable_tag_override: bool,
    create_index: u64,
    modify_index: u64,
    datacenter: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_hash: Option<String>,
}

impl<'a> AgentService<'a> {
    pub(super) fn new(view: &View<'a>, service: Option<&Service>, instance: &'a Instance) -> AgentService<'a> {
        let index = service.map_or(view.local.index, |service| service.index).max(1);
        AgentService {
            kind: "",
            id: instance.id.as_str(),
            service: instance.service.as_str(),
            tags: tags(instance),
            meta: &instance.meta,
            port: instance.port,
            address: service_address(instance),
            socket_path: "",
            tagged_addresses: vip_addresses(service),
            weights: Weights::of(instance),
            enable_tag_override: false,
            create_index: index,
            modify_index: index,
            datacenter: &view.settings.cluster,
            content_hash: None,
        }
    }

    /// As this host itself tells it: with the address that was registered.
    pub(super) fn own(view: &View<'a>, instance: &'a Instance) -> AgentService<'a> {
        let service = view.directory.services.get(instance.service.as_str()).map(|service| &**service);
        let address = instance.address.map(|ip| ip.to_string()).unwrap_or_default();
        AgentService { address, ..AgentService::new(view, service, instance) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct CatalogNode<'a> {
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

impl<'a> CatalogNode<'a> {
    pub(super) fn new(view: &View<'a>, node: &'a Node) -> CatalogNode<'a> {
        CatalogNode {
            id: node.id.to_string(),
            node: node.facts.name.as_str(),
            address: node.facts.address,
            datacenter: &view.settings.cluster,
            tagged_addresses: node_addresses(node),
            meta: &node.facts.meta,
            create_index: node.index.max(1),
            modify_index: node.index.max(1),
        }
    }
}

fn node_addresses(node: &Node) -> BTreeMap<&'static str, IpAddr> {
    BTreeMap::from([("lan", node.facts.address), ("wan", node.facts.address)])
}

/// Services here are nobody's sidecars.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NoProxy {
    destination_service_name: &'static str,
    #[serde(rename = "DestinationServiceID")]
    destination_service_id: &'static str,
    local_service_address: &'static str,
    local_service_port: u16,
    config: Option<()>,
    upstreams: Option<()>,
}

const NO_PROXY: NoProxy = NoProxy {
    destination_service_name: "",
    destination_service_id: "",
    local_service_address: "",
    local_service_port: 0,
    config: None,
    upstreams: None,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NoConnect {
    native: bool,
    proxy: Option<()>,
}

/// An instance as `/v1/catalog/service` tells it: node and service in one.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct CatalogService<'a> {
    #[serde(rename = "ID")]
    id: String,
    node: &'a str,
    address: IpAddr,
    datacenter: &'a str,
    tagged_addresses: BTreeMap<&'static str, IpAddr>,
    node_meta: &'a BTreeMap<String, String>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    pub(super) service_name: &'a str,
    pub(super) service_tags: Vec<&'a str>,
    service_address: String,
    service_tagged_addresses: TaggedAddresses,
    service_weights: Weights,
    service_meta: &'a BTreeMap<String, String>,
    service_port: u16,
    service_socket_path: &'static str,
    service_enable_tag_override: bool,
    service_proxy: NoProxy,
    service_connect: NoConnect,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CatalogService<'a> {
    pub(super) fn new(
        view: &View<'a>,
        service: &'a Service,
        node: &'a Node,
        instance: &'a Instance,
    ) -> CatalogService<'a> {
        CatalogService {
            id: node.id.to_string(),
            node: node.facts.name.as_str(),
            address: node.facts.address,
            datacenter: &view.settings.cluster,
            tagged_addresses: node_addresses(node),
            node_meta: &node.facts.meta,
            service_kind: "",
            service_id: instance.id.as_str(),
            service_name: service.name.as_str(),
            service_tags: tags(instance),
            service_address: service_address(instance),
            service_tagged_addresses: vip_addresses(Some(service)),
            service_weights: Weights::of(instance),
            service_meta: &instance.meta,
            service_port: instance.port,
            service_socket_path: "",
            service_enable_tag_override: false,
            service_proxy: NO_PROXY,
            service_connect: NoConnect { native: false, proxy: None },
            create_index: service.index.max(1),
            modify_index: service.index.max(1),
        }
    }
}

/// A verdict, of a node or of an instance.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct Check<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    pub(super) check_id: &'a str,
    name: &'a str,
    pub(super) status: Health,
    notes: &'a str,
    output: String,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    #[serde(rename = "Type")]
    kind: &'a str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: Definition<'a>,
    create_index: u64,
    modify_index: u64,
}

/// What a check does; of other hosts' checks nothing is known.
#[derive(Serialize)]
#[serde(untagged)]
enum Definition<'a> {
    Elsewhere {},
    Here(Box<Here<'a>>),
}

/// Header values and bodies may be secrets and are not told.
#[derive(Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Here<'a> {
    interval: String,
    timeout: String,
    deregister_critical_service_after: String,
    #[serde(rename = "HTTP")]
    http: &'a str,
    header: Option<BTreeMap<&'a str, [&'static str; 1]>>,
    method: &'a str,
    body: &'static str,
    #[serde(rename = "TLSServerName")]
    tls_server_name: &'a str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: String,
    #[serde(rename = "UDP")]
    udp: String,
    #[serde(rename = "GRPC")]
    grpc: String,
    #[serde(rename = "TTL")]
    ttl: String,
}

impl<'a> Here<'a> {
    fn of(definition: &'a CheckDefinition) -> Here<'a> {
        let zero = || durations::text(std::time::Duration::ZERO);
        let mut here = Here {
            interval: durations::text(definition.interval),
            timeout: durations::text(definition.timeout),
            deregister_critical_service_after: durations::text(definition.deregister_after.unwrap_or_default()),
            ttl: zero(),
            ..Here::default()
        };
        match &definition.kind {
            CheckKind::Http { url, method, headers, tls, .. } => {
                here.http = url;
                here.method = method;
                let names = headers.iter().map(|(name, _)| (name.as_str(), ["(not shown)"]));
                here.header = (!headers.is_empty()).then(|| names.collect());
                here.tls(tls.as_ref());
            }
            CheckKind::Tcp { target, tls } => {
                here.tcp = target.to_string();
                here.tls(tls.as_ref());
            }
            CheckKind::Udp { target } => here.udp = target.to_string(),
            CheckKind::Grpc { target, service, tls } => {
                here.grpc = if service.is_empty() { target.to_string() } else { format!("{target}/{service}") };
                here.tls(tls.as_ref());
            }
            CheckKind::Ttl { ttl } => {
                here.ttl = durations::text(*ttl);
                (here.interval, here.timeout) = (zero(), zero());
            }
            CheckKind::Script { .. } | CheckKind::Alias { .. } | CheckKind::Systemd { .. } => {}
        }
        here
    }

    fn tls(&mut self, tls: Option<&'a CheckTls>) {
        let Some(tls) = tls else { return };
        self.tls_server_name = tls.server_name.as_deref().unwrap_or_default();
        self.tls_skip_verify = tls.skip_verify;
    }
}

impl<'a> Check<'a> {
    /// One that is derived here, not run.
    fn derived(node: &'a Node, check_id: &'a str, name: &'a str, (status, output): (Health, String)) -> Check<'a> {
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
            interval: String::new(),
            timeout: String::new(),
            exposed_port: 0,
            definition: Definition::Elsewhere {},
            create_index: node.index.max(1),
            modify_index: node.index.max(1),
        }
    }

    /// A verdict as it travels, with what this host alone knows of its own.
    fn travelled(view: &View<'a>, node: &'a Node, status: &'a CheckStatus) -> Check<'a> {
        let derived = Check::derived(node, &status.id, &status.name, (status.health, String::new()));
        let check = Check { kind: &status.kind, ..derived };
        if node.id == view.directory.local { check.with_what_is_known_here(view) } else { check }
    }

    fn with_what_is_known_here(mut self, view: &View<'a>) -> Check<'a> {
        self.output = (view.output)(self.check_id).unwrap_or_default();
        if let Some(local) = view.local.checks.get(self.check_id) {
            self.notes = &local.notes;
            if let Some(definition) = &local.definition {
                let here = Here::of(definition);
                (self.interval, self.timeout) = (here.interval.clone(), here.timeout.clone());
                self.definition = Definition::Here(Box::new(here));
            }
        }
        self
    }

    /// One of a service.
    pub(super) fn of_service(
        view: &View<'a>,
        service: &'a Service,
        node: &'a Node,
        instance: &'a Instance,
        status: &'a CheckStatus,
    ) -> Check<'a> {
        Check {
            service_id: instance.id.as_str(),
            service_name: service.name.as_str(),
            service_tags: tags(instance),
            create_index: service.index.max(1),
            modify_index: service.index.max(1),
            ..Check::travelled(view, node, status)
        }
    }

    /// One that this host registered, whether its service was announced or not.
    pub(super) fn own(view: &View<'a>, id: &'a str, check: &'a LocalCheck) -> Check<'a> {
        let service = check.service.as_ref().and_then(|id| view.local.services.get(id)).map(|local| &local.instance);
        let own = Check {
            node: view.settings.node.as_str(),
            check_id: id,
            name: &check.name,
            status: check.health,
            notes: &check.notes,
            output: String::new(),
            service_id: check.service.as_ref().map_or("", |id| id.as_str()),
            service_name: service.map_or("", |instance| instance.service.as_str()),
            service_tags: service.map(tags).unwrap_or_default(),
            kind: &check.kind,
            interval: String::new(),
            timeout: String::new(),
            exposed_port: 0,
            definition: Definition::Elsewhere {},
            create_index: view.local.index.max(1),
            modify_index: view.local.index.max(1),
        };
        own.with_what_is_known_here(view)
    }
}

/// The checks of a host itself: what membership says of it, whether its mesh port answers, and its own.
pub(super) fn node_checks<'a>(view: &View<'a>, node: &'a Node) -> Vec<Check<'a>> {
    let mut checks = vec![Check::derived(node, "serfHealth", "Serf Health Status", serf_health(node))];
    if node.state.is_usable() && !node.mesh_reachable {
        let output = format!("{} does not answer this host; check firewalls between the two", node.facts.mesh);
        checks.push(Check::derived(node, "weftMesh", "Mesh port reachable from here", (Health::Critical, output)));
    }
    checks.extend(node.facts.checks.iter().map(|status| Check::travelled(view, node, status)));
    checks
}

fn serf_health(node: &Node) -> (Health, String) {
    let (health, sentence) = match node.state {
        MemberState::Alive => (Health::Passing, "Agent alive and reachable"),
        MemberState::Suspect => (Health::Passing, "Agent suspected; it has time to refute"),
        MemberState::Unknown => (Health::Passing, "Known from this host's store; not heard of since its start"),
        MemberState::Failed | MemberState::Left => (Health::Critical, "Agent not live or unreachable"),
    };
    (health, sentence.to_owned())
}
