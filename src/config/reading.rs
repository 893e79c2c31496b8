//! `weft.toml`'s tables to the checked sections, defaults filled in. What only shows beside other values (two listeners
//! on one port, one id twice) is `rules`' business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::model::NodeName;

use super::check::{self, LooseCheck};
use super::section::{Fault, Section, Spot};
use super::service::{Form, ServiceRead};
use super::{
    AccessLog, ApiConfig, ApiTls, Capture, ClusterConfig, Config, ConfigError, DnsConfig, GossipConfig, LogConfig,
    LogFormat, MeshConfig, NodeConfig, ProxyConfig, Upstreams, service, value,
};

const CLUSTER_NAME: &str = "weft";
const DATA_DIR: &str = "/var/lib/weft";
const DOMAIN: &str = "mesh.internal";
const API_SOCKET: &str = "/run/weft/weft.sock";
const GOSSIP_PORT: u16 = 7946;
const MESH_PORT: u16 = 7947;
const API_PORT: u16 = 8500;
const DNS_PORT: u16 = 8600;
const CAPTURE_PORT: u16 = 15001;
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Database clients keep connections idle for hours; a day is as good as never.
const IDLE_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Below 10 ms a healthy host in the next city looks dead; above a minute a caller has given up.
const CONNECT_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// Past an hour without the beginning of a response nobody waits for one.
pub(super) const REQUEST_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3600);
/// More threads than any host has cores.
const WORKERS_MAX: usize = 1024;
/// Zones and metadata travel in the node record: small enough that a record always fits its envelope.
const ZONE_BYTES_MAX: usize = 63;
/// Limits of Consul's metadata, kept so that what it takes is taken here.
const META_PAIRS_MAX: usize = 64;
const META_KEY_BYTES_MAX: usize = 128;
const META_VALUE_BYTES_MAX: usize = 512;

/// A listener of this agent, for the rules between sections.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    /// The key.
    pub(super) key: &'static str,
    /// Address and port.
    pub(super) address: SocketAddr,
}

/// The file, read but not yet held against the rules.
#[derive(Debug)]
pub(super) struct Draft {
    /// Without services.
    pub(super) config: Config,
    /// Every listener, and where it was given.
    pub(super) listeners: Vec<Spot<Listener>>,
    /// Where the VIP range was given.
    pub(super) vip_range: Spot<Ipv4Net>,
    /// Services of `[[service]]` in the file itself.
    pub(super) services: Vec<ServiceRead>,
    /// Checks of `[[check]]` in the file itself.
    pub(super) checks: Vec<LooseCheck>,
}

/// Reads the whole of `weft.toml`.
pub(super) fn read(path: &Path, mut top: Section, errors: &mut Vec<ConfigError>) -> Draft {
    let mut listeners = Vec::new();
    let data_dir = top.text("data_dir", errors, absolute_path).map_or_else(|| DATA_DIR.into(), |spot| spot.value);
    let node = node(top.section("node", errors), errors);
    let cluster = cluster(top.section("cluster", errors), errors);
    let dns = dns(top.section("dns", errors), &mut listeners, errors);
    let (listen, advertise) = port(top.section("gossip", errors), "gossip.listen", GOSSIP_PORT, &mut listeners, errors);
    let gossip = GossipConfig { listen, advertise };
    let (listen, advertise) = port(top.section("mesh", errors), "mesh.listen", MESH_PORT, &mut listeners, errors);
    let mesh = MeshConfig { listen, advertise };
    let (proxy, vip_range) = proxy(top.section("proxy", errors), &mut listeners, errors);
    let api = api(top.section("api", errors), &mut listeners, errors);
    let log = log(top.section("log", errors), errors);
    let mut checks_section = top.section("checks", errors);
    let scripts_allowed = checks_section.boolean("scripts", errors).unwrap_or(false);
    checks_section.finish(errors);
    let tables = top.sections("service", errors);
    let services = tables.into_iter().filter_map(|table| service::read(table, Form::Weft, errors)).collect();
    let tables = top.sections("check", errors);
    let checks = tables.into_iter().filter_map(|table| check::read_loose(table, Form::Weft, errors)).collect();
    top.finish(errors);
    let path = path.to_path_buf();
    let config = Config {
        node,
        cluster,
        dns,
        gossip,
        mesh,
        proxy,
        api,
        log,
        data_dir,
        checks: Vec::new(),
        scripts_allowed,
        services: Vec::new(),
        path,
    };
    Draft { config, listeners, vip_range, services, checks }
}

fn node(mut section: Section, errors: &mut Vec<ConfigError>) -> NodeConfig {
    let name_is_given = section.has("name");
    let name = match section.text("name", errors, value::name::<NodeName>) {
        Some(spot) => Some(spot.value),
        None if name_is_given => None,
        None => host_name().map_err(|fault| errors.push(section.place().error(fault.message, fault.advice))).ok(),
    };
    let config = NodeConfig {
        // Never used: without a name there is an error, and with an error there is no configuration.
        name: name.unwrap_or_else(|| NodeName::parse("unnamed").expect("a valid literal")),
        advertise: section.text("advertise", errors, value::reachable_address).map(|spot| spot.value),
        zone: section.text("zone", errors, zone).map(|spot| spot.value).unwrap_or_default(),
        meta: meta(&mut section, errors),
    };
    section.finish(errors);
    config
}

/// Metadata of a node or a service, within Consul's limits.
pub(super) fn meta(section: &mut Section, errors: &mut Vec<ConfigError>) -> std::collections::BTreeMap<String, String> {
    let name = section.named("meta");
    let Some(Spot { value: pairs, place }) = section.pairs("meta", errors) else { return Default::default() };
    if pairs.len() > META_PAIRS_MAX {
        let message = format!("{name} has {} pairs", pairs.len());
        errors.push(place.error(message, format!("keep at most {META_PAIRS_MAX}: every host holds a copy")));
    }
    for (key, text) in &pairs {
        if key.len() > META_KEY_BYTES_MAX || text.len() > META_VALUE_BYTES_MAX {
            let message = format!("{name}.{} is too long", key.chars().take(32).collect::<String>());
            let advice = format!("keys take {META_KEY_BYTES_MAX} bytes, values {META_VALUE_BYTES_MAX}");
            errors.push(place.error(message, advice));
        }
    }
    pairs
}

fn zone(text: &str) -> Result<String, Fault> {
    if text.len() <= ZONE_BYTES_MAX && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let advice = format!("write a word of at most {ZONE_BYTES_MAX} bytes, like \"eu-1a\"");
    Err(Fault::new(format!("{text:?} is not a zone"), advice))
}

fn host_name() -> Result<NodeName, Fault> {
    let system = rustix::system::uname();
    let whole = system.nodename().to_string_lossy().to_ascii_lowercase();
    let label = whole.split('.').next().unwrap_or_default();
    NodeName::parse(label).map_err(|_| {
        Fault::new(format!("the host name {whole:?} cannot name a node"), r#"set name = "web-01" under [node]"#)
    })
}

fn cluster(mut section: Section, errors: &mut Vec<ConfigError>) -> ClusterConfig {
    let name = section.text("name", errors, value::cluster_name).map(|spot| spot.value);
    let seeds = section.texts("seeds", errors, value::seed).unwrap_or_default();
    section.finish(errors);
    ClusterConfig {
        name: name.unwrap_or_else(|| CLUSTER_NAME.to_owned()),
        seeds: seeds.into_iter().map(|spot| spot.value).collect(),
    }
}

fn dns(mut section: Section, listeners: &mut Vec<Spot<Listener>>, errors: &mut Vec<ConfigError>) -> DnsConfig {
    let default =
        vec![Spot { value: SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)), place: section.place().clone() }];
    let listen = section.texts("listen", errors, value::listener).unwrap_or(default);
    let key = "dns.listen";
    listeners.extend(
        listen.iter().map(|spot| Spot { value: Listener { key, address: spot.value }, place: spot.place.clone() }),
    );
    let config = DnsConfig {
        listen: listen.into_iter().map(|spot| spot.value).collect(),
        domain: section.text("domain", errors, value::domain).map_or_else(|| DOMAIN.to_owned(), |spot| spot.value),
        upstreams: upstreams(&mut section, errors),
        consul_alias: section.boolean("consul_alias", errors).unwrap_or(false),
    };
    section.finish(errors);
    config
}

fn upstreams(section: &mut Section, errors: &mut Vec<ConfigError>) -> Upstreams {
    let parse = |text: &str| match text {
        "system" => Ok(None),
        _ => value::upstream(text).map(Some),
    };
    let Some(spots) = section.texts("upstreams", errors, parse) else { return Upstreams::System };
    let system = spots.iter().find(|spot| spot.value.is_none());
    match system {
        Some(_) if spots.len() == 1 => Upstreams::System,
        Some(spot) => {
            let message = "dns.upstreams has \"system\" beside addresses";
            errors.push(spot.place.error(message, "use \"system\" alone, or addresses alone"));
            Upstreams::System
        }
        None => Upstreams::List(spots.into_iter().filter_map(|spot| spot.value).collect()),
    }
}

/// `[gossip]` and `[mesh]`: where to listen and what NAT makes of it.
fn port(
    mut section: Section,
    key: &'static str,
    port: u16,
    listeners: &mut Vec<Spot<Listener>>,
    errors: &mut Vec<ConfigError>,
) -> (SocketAddr, Option<SocketAddr>) {
    let listen =
        listener(&mut section, "listen", key, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), listeners, errors);
    let advertise = section.text("advertise", errors, value::reachable_endpoint).map(|spot| spot.value);
    section.finish(errors);
    (listen, advertise)
}

fn listener(
    section: &mut Section,
    key: &'static str,
    whole_key: &'static str,
    default: SocketAddr,
    listeners: &mut Vec<Spot<Listener>>,
    errors: &mut Vec<ConfigError>,
) -> SocketAddr {
    let spot = section.text(key, errors, value::listener);
    let spot = spot.unwrap_or_else(|| Spot { value: default, place: section.place().clone() });
    listeners.push(Spot { value: Listener { key: whole_key, address: spot.value }, place: spot.place });
    spot.value
}

fn proxy(
    mut section: Section,
    listeners: &mut Vec<Spot<Listener>>,
    errors: &mut Vec<ConfigError>,
) -> (ProxyConfig, Spot<Ipv4Net>) {
    let default = Ipv4Net::new_assert(Ipv4Addr::new(127, 64, 0, 0), 10);
    let vip_range = section.text("vip_range", errors, value::vip_range);
    let vip_range = vip_range.unwrap_or_else(|| Spot { value: default, place: section.place().clone() });
    let capture_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, CAPTURE_PORT));
    let capture = section.text("capture", errors, capture);
    let idle = section.duration("idle_timeout", IDLE_TIMEOUT_RANGE, errors);
    let connect = section.duration("connect_timeout", CONNECT_TIMEOUT_RANGE, errors);
    let request = section.duration("request_timeout", REQUEST_TIMEOUT_RANGE, errors);
    let access_log = section.text("access_log", errors, access_log);
    let config = ProxyConfig {
        vip_range: vip_range.value,
        capture: capture.map_or(Capture::Auto, |spot| spot.value),
        capture_listen: listener(
            &mut section,
            "capture_listen",
            "proxy.capture_listen",
            capture_listen,
            listeners,
            errors,
        ),
        workers: section.number("workers", 0..=WORKERS_MAX, errors).map_or(0, |spot| spot.value),
        idle_timeout: idle.map_or(IDLE_TIMEOUT, |spot| spot.value),
        connect_timeout: connect.map_or(CONNECT_TIMEOUT, |spot| spot.value),
        request_timeout: request.map_or(REQUEST_TIMEOUT, |spot| spot.value),
        access_log: access_log.map_or(AccessLog::Off, |spot| spot.value),
    };
    section.finish(errors);
    (config, vip_range)
}

fn capture(text: &str) -> Result<Capture, Fault> {
    match text {
        "auto" => Ok(Capture::Auto),
        "redirect" => Ok(Capture::Redirect),
        "bind" => Ok(Capture::Bind),
        _ => Err(one_of(text, "capture", &["auto", "redirect", "bind"])),
    }
}

fn access_log(text: &str) -> Result<AccessLog, Fault> {
    match text {
        "off" => Ok(AccessLog::Off),
        "text" => Ok(AccessLog::Text),
        "json" => Ok(AccessLog::Json),
        _ => Err(one_of(text, "access log", &["off", "text", "json"])),
    }
}

/// A word that is none of those allowed.
pub(super) fn one_of(text: &str, what: &str, allowed: &[&str]) -> Fault {
    let scored = allowed.iter().map(|word| (strsim::jaro_winkler(text, word), word));
    let near = scored.max_by(|(left, _), (right, _)| left.total_cmp(right)).filter(|(similarity, _)| *similarity > 0.8);
    let list = allowed.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let advice = match near {
        Some((_, word)) => format!("did you mean {word:?}? there are {list}"),
        None => format!("use one of {list}"),
    };
    Fault::new(format!("{text:?} is no {what}"), advice)
}

fn api(mut section: Section, listeners: &mut Vec<Spot<Listener>>, errors: &mut Vec<ConfigError>) -> ApiConfig {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
    let listen = listener(&mut section, "listen", "api.listen", default, listeners, errors);
    let socket = section.text("socket", errors, |text| match text {
        "" => Ok(None),
        _ => absolute_path(text).map(Some),
    });
    let writes = section.text("writes", errors, |text| match text {
        "closed" => Ok(false),
        "open" => Ok(true),
        _ => Err(one_of(text, "way to take writes", &["closed", "open"])),
    });
    let cert = section.text("tls_cert", errors, absolute_path);
    let key = section.text("tls_key", errors, absolute_path);
    let place = listeners.last().map_or_else(|| section.place().clone(), |spot| spot.place.clone());
    if !listen.ip().is_loopback() {
        if let Some(open) = writes.as_ref().filter(|writes| writes.value) {
            let message = "api.writes = \"open\" while api.listen is not on loopback";
            errors.push(open.place.error(message, "remove it: others than this host would change things; use tokens"));
        }
        if cert.is_none() && key.is_none() {
            let message = format!("api.listen = \"{listen}\" lets others than this host in, and there is no TLS");
            let advice = "set tls_cert and tls_key under [api], or listen on 127.0.0.1";
            errors.push(place.error(message, advice));
        }
    }
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(ApiTls { cert: cert.value, key: key.value }),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            let message = "api.tls_cert and api.tls_key belong together";
            errors.push(one.place.error(message, "set both, or neither"));
            None
        }
    };
    section.finish(errors);
    let writes_open = writes.is_some_and(|spot| spot.value);
    ApiConfig { writes_open, tls, listen, socket: socket.map_or_else(|| Some(API_SOCKET.into()), |spot| spot.value) }
}

/// A path that does not depend on where the agent was started.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path);
    }
    Err(Fault::new(format!("{text:?} is not a whole path"), "begin it with /"))
}

fn log(mut section: Section, errors: &mut Vec<ConfigError>) -> LogConfig {
    let format = section.text("format", errors, |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(one_of(text, "log format", &["text", "json"])),
    });
    let level = section.text("level", errors, log_level);
    section.finish(errors);
    LogConfig {
        format: format.map_or(LogFormat::Text, |spot| spot.value),
        level: level.map_or_else(|| Targets::new().with_default(LevelFilter::INFO), |spot| spot.value),
    }
}

fn log_level(text: &str) -> Result<Targets, Fault> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A lone word that is no level would be read as a module's name, and would silence all the rest.
    if !text.contains(['=', ',', ':']) && !LEVELS.contains(&text) {
        return Err(one_of(text, "log level", &LEVELS));
    }
    text.parse().map_err(|_| {
        Fault::new(format!("{text:?} is no log level"), r#"write "info", or by module "info,weft::swim=debug""#)
    })
}

/// The address of the interface that the default route leaves by, IPv4 first. `None` without a default route.
///
/// Connecting a datagram socket asks the kernel for a route and sends nothing; the targets are addresses reserved for
/// documentation (RFC 5737, RFC 3849).
pub fn default_advertise() -> Option<IpAddr> {
    let routes: [(SocketAddr, SocketAddr); 2] = [
        (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9))),
        (
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)),
        ),
    ];
    routes.into_iter().find_map(|(from, to)| {
        let socket = std::net::UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    })
}
