//! What elements have, endpoint by endpoint: the selectors that Consul documents for each, with their kinds. A field
//! that is documented but never sent (`Kind` of a gateway, `Proxy` of a sidecar) is there with its zero value, so that
//! expressions written for Consul keep their meaning.

/// What is at a selector.
#[derive(Debug, PartialEq)]
pub(in crate::api) enum Kind {
    Text,
    Number,
    Bool,
    /// A list of texts.
    Texts,
    /// Free keys.
    Map(&'static Kind),
    Object(&'static [(&'static str, Kind)]),
    List(&'static Kind),
}

use Kind::{Bool, List, Map, Number, Object, Text, Texts};

const TEXT_MAP: Kind = Map(&Text);
const ADDRESS: Kind = Object(&[("Address", Text), ("Port", Number)]);
const WEIGHTS: Kind = Object(&[("Passing", Number), ("Warning", Number)]);
const CONNECT: Kind = Object(&[("Native", Bool)]);
const MESH_GATEWAY: Kind = Object(&[("Mode", Text)]);
const UPSTREAM: Kind = Object(&[
    ("Datacenter", Text),
    ("DestinationName", Text),
    ("DestinationNamespace", Text),
    ("DestinationType", Text),
    ("LocalBindAddress", Text),
    ("LocalBindPort", Number),
    ("MeshGateway", MESH_GATEWAY),
]);
const PROXY: Kind = Object(&[
    ("DestinationServiceID", Text),
    ("DestinationServiceName", Text),
    ("LocalServiceAddress", Text),
    ("LocalServicePort", Number),
    ("Mode", Text),
    ("TransparentProxy", Object(&[("OutboundListenerPort", Number)])),
    ("MeshGateway", MESH_GATEWAY),
    ("Upstreams", List(&UPSTREAM)),
]);

/// Elements of `/v1/agent/services` and `/v1/catalog/node`; `Service` in `/v1/health/service`.
pub(in crate::api) static AGENT_SERVICE: Kind = SERVICE;

const SERVICE: Kind = Object(&[
    ("Address", Text),
    ("Connect", CONNECT),
    ("Datacenter", Text),
    ("EnableTagOverride", Bool),
    ("ID", Text),
    ("Kind", Text),
    ("Meta", TEXT_MAP),
    ("Namespace", Text),
    ("Port", Number),
    ("Proxy", PROXY),
    ("Service", Text),
    ("SocketPath", Text),
    ("TaggedAddresses", Map(&ADDRESS)),
    ("Tags", Texts),
    ("Weights", WEIGHTS),
]);

const NODE_FIELDS: Kind = Object(&[
    ("Address", Text),
    ("Datacenter", Text),
    ("ID", Text),
    ("Meta", TEXT_MAP),
    ("Node", Text),
    ("Partition", Text),
    ("TaggedAddresses", TEXT_MAP),
]);

/// Elements of `/v1/catalog/nodes`.
pub(in crate::api) static NODE: Kind = NODE_FIELDS;

const CHECK_FIELDS: Kind = Object(&[
    ("CheckID", Text),
    ("Name", Text),
    ("Namespace", Text),
    ("Node", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("Status", Text),
    ("Type", Text),
]);

/// Elements of `/v1/agent/checks`, `/v1/health/node`, `/v1/health/checks` and `/v1/health/state`.
pub(in crate::api) static CHECK: Kind = CHECK_FIELDS;

/// Elements of `/v1/health/service`.
pub(in crate::api) static HEALTH_ENTRY: Kind =
    Object(&[("Checks", List(&CHECK_FIELDS)), ("Node", NODE_FIELDS), ("Service", SERVICE)]);

/// Elements of `/v1/catalog/service`, and what `/v1/catalog/services` sums up.
pub(in crate::api) static CATALOG_SERVICE: Kind = Object(&[
    ("Address", Text),
    ("Datacenter", Text),
    ("ID", Text),
    ("Namespace", Text),
    ("Node", Text),
    ("NodeMeta", TEXT_MAP),
    ("ServiceAddress", Text),
    ("ServiceConnect", CONNECT),
    ("ServiceEnableTagOverride", Bool),
    ("ServiceID", Text),
    ("ServiceKind", Text),
    ("ServiceMeta", TEXT_MAP),
    ("ServiceName", Text),
    ("ServicePort", Number),
    ("ServiceProxy", PROXY),
    ("ServiceTaggedAddresses", Map(&ADDRESS)),
    ("ServiceTags", Texts),
    ("ServiceWeights", WEIGHTS),
    ("TaggedAddresses", TEXT_MAP),
]);

/// Elements of `/v1/agent/members`.
pub(in crate::api) static MEMBER: Kind =
    Object(&[("Addr", Text), ("Name", Text), ("Port", Number), ("Status", Number), ("Tags", TEXT_MAP)]);
