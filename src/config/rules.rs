//! What only shows when values stand beside each other: two listeners on one port, one id twice, a service that is really
//! one of Weft's own listeners.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::check::LooseCheck;
use super::document::Place;
use super::reading::{Draft, Listener};
use super::section::Spot;
use super::service::ServiceRead;
use super::{CheckDefinition, CheckKind, Config, ConfigError, ConfigErrors, ServiceDefinition};

/// The catalog's limit of records per host is ten times this, and a host with more processes than this is no host.
const SERVICES_MAX: usize = 10_000;
/// Each check is a task on this host and a verdict in the record of its service, or of the host.
pub const CHECKS_MAX: usize = 64;
/// An instance's record must fit its envelope (64 KiB) whatever its tags, metadata and checks say.
const TEXT_BYTES_MAX: usize = 48 * 1024;

/// Holds everything read against the rules between values.
pub(super) fn check(
    draft: &Draft,
    services: &[ServiceRead],
    host_checks: &[LooseCheck],
    errors: &mut Vec<ConfigError>,
) {
    check_listeners(draft, errors);
    check_ids(services, host_checks, errors);
    let own = OwnListeners::new(&draft.config);
    for service in services {
        own.check(&service.definition, &service.listens, errors);
        check_service(service, errors);
        if !draft.config.scripts_allowed {
            refuse_scripts(&service.definition.checks, &service.checks, errors);
        }
    }
    let (definitions, places): (Vec<_>, Vec<_>) =
        host_checks.iter().map(|check| (check.definition.clone(), check.place.clone())).unzip();
    if !draft.config.scripts_allowed {
        refuse_scripts(&definitions, &places, errors);
    }
    check_count("the host", &places, errors);
    if let Some(first_over) = services.get(SERVICES_MAX) {
        let message = format!("{} services on one host", services.len());
        errors.push(first_over.named.error(message, format!("keep at most {SERVICES_MAX}")));
    }
}

/// What a service must keep on its own, whatever else there is.
pub(super) fn check_service(service: &ServiceRead, errors: &mut Vec<ConfigError>) {
    check_count("a service", &service.checks, errors);
    check_size(service, errors);
    let id = &service.definition.instance.id;
    for (check, place) in service.definition.checks.iter().zip(&service.checks) {
        if matches!(&check.kind, CheckKind::Alias { node: None, service: Some(service) } if service == id) {
            let message = format!("a check that makes {:?} as healthy as itself", id.as_str());
            errors.push(place.error(message, "name another service in `alias_service`"));
        }
    }
}

fn check_count(whose: &str, places: &[Place], errors: &mut Vec<ConfigError>) {
    if let Some(first_over) = places.get(CHECKS_MAX) {
        let message = format!("{whose} with {} checks", places.len());
        errors.push(first_over.error(message, format!("keep at most {CHECKS_MAX}")));
    }
}

fn check_size(service: &ServiceRead, errors: &mut Vec<ConfigError>) {
    let ServiceDefinition { instance, checks, .. } = &service.definition;
    let tag_bytes: usize = instance.tags.iter().map(|tag| tag.as_str().len()).sum();
    let meta_bytes: usize = instance.meta.iter().map(|(key, text)| key.len() + text.len()).sum();
    let check_bytes: usize = checks.iter().map(|check| check.id.len() + check.name.len()).sum();
    let bytes = tag_bytes + meta_bytes + check_bytes;
    if bytes > TEXT_BYTES_MAX {
        let message = format!("tags, meta and names of checks of this service take {bytes} bytes");
        errors.push(service.named.error(message, format!("keep them under {TEXT_BYTES_MAX}: every host holds a copy")));
    }
}

fn refuse_scripts(checks: &[CheckDefinition], places: &[Place], errors: &mut Vec<ConfigError>) {
    for (check, place) in checks.iter().zip(places) {
        if matches!(check.kind, CheckKind::Script { .. }) {
            let message = "a check that runs a program, which weft.toml does not allow";
            errors
                .push(place.error(message, "write `scripts = true` under [checks] in weft.toml, or use another kind"));
        }
    }
}

impl Config {
    /// Holds a service that came by the API against this host: it must not be Weft's own listener, nor lie in the VIP
    /// range, or calls to it would come back for ever.
    pub fn admits(&self, service: &ServiceDefinition) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        let body = Place::whole(std::path::Path::new(super::registration::BODY));
        OwnListeners::new(self).check(service, &body, &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }
}

/// Every worker binds these, and other hosts or the redirect rule are told their numbers beforehand.
const FIXED_PORTS: [&str; 2] = ["mesh.listen", "proxy.capture_listen"];

fn check_listeners(draft: &Draft, errors: &mut Vec<ConfigError>) {
    for Spot { value: Listener { key, address }, place } in &draft.listeners {
        if address.port() == 0 && FIXED_PORTS.contains(key) {
            errors.push(place.error(format!("{key} = \"{address}\" has port 0"), "give the port itself"));
        }
    }
    for (index, Spot { value: Listener { key, address }, place }) in draft.listeners.iter().enumerate() {
        let Listener { key: other_key, address: other } =
            match draft.listeners[..index].iter().find(|earlier| overlaps(earlier.value.address, *address)) {
                Some(earlier) => &earlier.value,
                None => {
                    check_outside_vips(draft, key, *address, place, errors);
                    continue;
                }
            };
        let message = format!("{key} = \"{address}\" is taken by {other_key} = \"{other}\"");
        errors.push(place.error(message, "give one of them another port"));
    }
}

fn check_outside_vips(draft: &Draft, key: &str, address: SocketAddr, place: &Place, errors: &mut Vec<ConfigError>) {
    let range = draft.vip_range.value;
    if in_range(&draft.config, address.ip()) {
        let message = format!("{key} = \"{address}\" lies in the VIP range {range}");
        errors.push(place.error(message, "listen outside of it: those addresses are the services'"));
    }
}

fn in_range(config: &Config, address: IpAddr) -> bool {
    matches!(address.to_canonical(), IpAddr::V4(address) if config.proxy.vip_range.contains(&address))
}

/// True if the two cannot be bound beside each other. Port 0 is never the same port twice.
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |wide: IpAddr, ip: IpAddr| match wide {
        IpAddr::V6(wide) => wide.is_unspecified(), // dual stack
        IpAddr::V4(wide) => wide.is_unspecified() && ip.is_ipv4(),
    };
    one.port() == other.port()
        && one.port() != 0
        && (one_ip == other_ip || covers(one_ip, other_ip) || covers(other_ip, one_ip))
}

fn check_ids(services: &[ServiceRead], host_checks: &[LooseCheck], errors: &mut Vec<ConfigError>) {
    let mut ids: HashMap<&str, &Place> = HashMap::new();
    let mut check_ids: HashMap<&str, &Place> = HashMap::new();
    for service in services {
        let id = service.definition.instance.id.as_str();
        if let Some(first) = ids.insert(id, &service.named) {
            let message = format!("the service id {id:?} is taken by {}", first.source());
            errors.push(service.named.error(message, format!("give this one id = \"{id}-2\"")));
        }
    }
    let of_services = services.iter().flat_map(|service| service.definition.checks.iter().zip(&service.checks));
    let of_host = host_checks.iter().map(|check| (&check.definition, &check.place));
    for (check, place) in of_services.chain(of_host) {
        if let Some(first) = check_ids.insert(&check.id, place) {
            let message = format!("the check id {:?} is taken by {}", check.id, first.source());
            errors.push(place.error(message, "give this one another `id`, or leave the key out"));
        }
    }
}

struct OwnListeners<'a> {
    config: &'a Config,
    listeners: Vec<Listener>,
    addresses: Vec<IpAddr>,
}

/// The addresses under which a listener on all addresses is known to be reached.
fn own_addresses(config: &Config) -> Vec<IpAddr> {
    let given =
        [config.node.advertise, config.gossip.advertise.map(|at| at.ip()), config.mesh.advertise.map(|at| at.ip())];
    given.into_iter().chain([super::default_advertise()]).flatten().collect()
}

fn listeners(config: &Config) -> Vec<Listener> {
    let single = [
        ("gossip.listen", config.gossip.listen),
        ("mesh.listen", config.mesh.listen),
        ("proxy.capture_listen", config.proxy.capture_listen),
        ("api.listen", config.api.listen),
    ];
    let dns = config.dns.listen.iter().map(|address| ("dns.listen", *address));
    dns.chain(single).map(|(key, address)| Listener { key, address }).collect()
}

impl OwnListeners<'_> {
    fn new(config: &Config) -> OwnListeners<'_> {
        OwnListeners { config, listeners: listeners(config), addresses: own_addresses(config) }
    }

    fn check(&self, service: &ServiceDefinition, listens: &Place, errors: &mut Vec<ConfigError>) {
        let delivery = service.instance.delivery();
        let name = &service.instance.service;
        if in_range(self.config, delivery.ip()) {
            let message = format!("{name} at {delivery} lies in the VIP range {}", self.config.proxy.vip_range);
            let advice = "calls to it would come back to Weft; give the address that the process listens on";
            errors.push(listens.error(message, advice));
        }
        if delivery.port() == 0 {
            return; // never called
        }
        if let Some(listener) = self.listeners.iter().find(|listener| self.reaches(listener.address, delivery)) {
            let message = format!("{name} at {delivery} is Weft's own {}", listener.key);
            errors.push(listens.error(message, "give the port that the process listens on"));
        }
    }

    fn reaches(&self, listener: SocketAddr, delivery: SocketAddr) -> bool {
        let ip = delivery.ip().to_canonical();
        let own = ip.is_loopback() || self.addresses.contains(&ip);
        listener.port() == delivery.port()
            && (listener.ip().to_canonical() == ip || (listener.ip().is_unspecified() && own))
    }
}
