//! The checked configuration, one struct a section of `weft.toml`. Plain data: the defaults are here, the reading is in
//! `reading`, and whoever holds one of these may rely on every promise in its docs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use tracing_subscriber::filter::Targets;

use crate::model::NodeName;

use super::{CheckDefinition, ServiceDefinition};

/// Source address of delivery to local services. Outside every VIP range and never 127.0.0.1, so that rules which trust
/// localhost do not admit callers from the mesh.
pub const DELIVERY_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 63, 0, 1);

/// Everything that `weft.toml` and `services.d/` say.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[node]`.
    pub node: NodeConfig,
    /// `[cluster]`.
    pub cluster: ClusterConfig,
    /// `[dns]`.
    pub dns: DnsConfig,
    /// `[gossip]`.
    pub gossip: GossipConfig,
    /// `[mesh]`.
    pub mesh: MeshConfig,
    /// `[proxy]`.
    pub proxy: ProxyConfig,
    /// `[api]`.
    pub api: ApiConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `data_dir`, at the top of the file; the command line's `--data-dir` goes before it.
    pub data_dir: PathBuf,
    /// Checks of the host itself: `[[check]]` at the top of a file.
    pub checks: Vec<CheckDefinition>,
    /// `checks.scripts`: checks that run programs may be.
    pub scripts_allowed: bool,
    /// Every service of `services.d/` and of `[[service]]` in the file itself; ids are unique.
    pub services: Vec<ServiceDefinition>,
    /// Where it was read from.
    pub path: PathBuf,
}

/// `[node]`: what this host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `name`; the host name up to its first dot if not given.
    pub name: NodeName,
    /// `advertise`; if not given, [`super::default_advertise`] finds it when the agent starts.
    pub advertise: Option<IpAddr>,
    /// `zone`, the failure domain; empty if not given.
    pub zone: String,
    /// `meta`.
    pub meta: BTreeMap<String, String>,
}

/// `[cluster]`: whom to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `name`; one DNS label, part of every SPIFFE id.
    pub name: String,
    /// `seeds`, each `HOST:PORT` with the port always there and IPv6 addresses in brackets; hosts may be names.
    pub seeds: Vec<String>,
}

/// `[dns]`: the shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// `listen`, UDP and TCP; empty switches the shim off.
    pub listen: Vec<SocketAddr>,
    /// `domain`, lower case, without a dot at the end.
    pub domain: String,
    /// `upstreams`.
    pub upstreams: Upstreams,
    /// `consul_alias`: answer for `consul` as for the domain.
    pub consul_alias: bool,
}

/// Who answers for names outside the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// The servers of resolv.conf, without this agent's own listeners and 127.0.0.53.
    System,
    /// These, in order; none at all means REFUSED.
    List(Vec<SocketAddr>),
}

/// `[gossip]`: membership and catalog, UDP and TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipConfig {
    /// `listen`; port 0 is any free port.
    pub listen: SocketAddr,
    /// `advertise`, where NAT maps it; else the node's address and the bound port.
    pub advertise: Option<SocketAddr>,
}

/// `[mesh]`: traffic between hosts and enrolment, TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// `listen`; never port 0.
    pub listen: SocketAddr,
    /// `advertise`, where NAT maps it; else the node's address and the port of `listen`.
    pub advertise: Option<SocketAddr>,
}

/// `[proxy]`: the loopback side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `vip_range`; inside 127.0.0.0/8, and holding neither 127.0.0.1 nor [`DELIVERY_SOURCE`].
    pub vip_range: Ipv4Net,
    /// `capture`.
    pub capture: Capture,
    /// `capture_listen`: where the redirect rule sends calls to VIPs.
    pub capture_listen: SocketAddr,
    /// `workers`: data plane threads; 0 is one a core.
    pub workers: usize,
    /// `idle_timeout`: a connection that carries nothing for this long is closed.
    pub idle_timeout: Duration,
    /// `connect_timeout`: for a connect to one instance, before the next is tried.
    pub connect_timeout: Duration,
    /// `request_timeout`: how long a request may wait for its response to begin, where its service does not say.
    pub request_timeout: Duration,
    /// `access_log`.
    pub access_log: AccessLog,
}

/// Whether and how each request is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// Not at all.
    Off,
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How calls to VIPs reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// By the redirect rule if a test VIP proves it, else by binding.
    Auto,
    /// By the redirect rule of `weft-redirect.service`.
    Redirect,
    /// By binding VIP and port when a name is first asked for.
    Bind,
}

impl Capture {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Capture::Auto => "auto",
            Capture::Redirect => "redirect",
            Capture::Bind => "bind",
        }
    }
}

/// `[api]`: the HTTP API, metrics and dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// `listen`.
    pub listen: SocketAddr,
    /// `socket`, for members of the `weft` group; `None` where the file says `""`.
    pub socket: Option<PathBuf>,
    /// `writes`: `open` lets every program of this host change things over `listen`.
    pub writes_open: bool,
    /// `tls_cert` and `tls_key`; there wherever `listen` is not on loopback.
    pub tls: Option<ApiTls>,
}

/// The API's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    /// PEM: the certificate, then its issuers.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// `[log]`: what the agent writes to its standard error.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// `format`.
    pub format: LogFormat,
    /// `level`: a level, or levels by module ("info,weft::swim=debug").
    pub level: Targets,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
