//! What only shows when values stand beside each other: two listeners on one port, one id twice, a service that is really
//! one of Weft's own listeners.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::ConfigError;
use super::document::Place;
use super::reading::{Draft, Listener};
use super::section::Spot;
use super::service::ServiceRead;

/// The catalog's limit of records per host is ten times this, and a host with more processes than this is no host.
const SERVICES_MAX: usize = 10_000;

/// Holds everything read against the rules between values.
pub(super) fn check(draft: &Draft, services: &[ServiceRead], errors: &mut Vec<ConfigError>) {
    check_listeners(draft, errors);
    check_ids(services, errors);
    let own = OwnListeners { draft, addresses: own_addresses(draft) };
    for service in services {
        own.check(service, errors);
    }
    if let Some(first_over) = services.get(SERVICES_MAX) {
        let message = format!("{} services on one host", services.len());
        errors.push(first_over.named.error(message, format!("keep at most {SERVICES_MAX}")));
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
    if in_range(draft, address.ip()) {
        let message = format!("{key} = \"{address}\" lies in the VIP range {range}");
        errors.push(place.error(message, "listen outside of it: those addresses are the services'"));
    }
}

fn in_range(draft: &Draft, address: IpAddr) -> bool {
    matches!(address.to_canonical(), IpAddr::V4(address) if draft.vip_range.value.contains(&address))
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

fn check_ids(services: &[ServiceRead], errors: &mut Vec<ConfigError>) {
    let mut ids: HashMap<&str, &Place> = HashMap::new();
    let mut check_ids: HashMap<&str, &Place> = HashMap::new();
    for service in services {
        let id = service.definition.instance.id.as_str();
        if let Some(first) = ids.insert(id, &service.named) {
            let message = format!("the service id {id:?} is taken by {}", first.source());
            errors.push(service.named.error(message, format!("give this one id = \"{id}-2\"")));
        }
        for (check, place) in service.definition.checks.iter().zip(&service.checks) {
            if let Some(first) = check_ids.insert(&check.id, place) {
                let message = format!("the check id {:?} is taken by {}", check.id, first.source());
                errors.push(place.error(message, "give this one another `id`, or leave the key out"));
            }
        }
    }
}

struct OwnListeners<'a> {
    draft: &'a Draft,
    addresses: Vec<IpAddr>,
}

/// The addresses under which a listener on all addresses is known to be reached.
fn own_addresses(draft: &Draft) -> Vec<IpAddr> {
    let config = &draft.config;
    let given =
        [config.node.advertise, config.gossip.advertise.map(|at| at.ip()), config.mesh.advertise.map(|at| at.ip())];
    given.into_iter().chain([super::default_advertise()]).flatten().collect()
}

impl OwnListeners<'_> {
    fn check(&self, service: &ServiceRead, errors: &mut Vec<ConfigError>) {
        let delivery = service.definition.instance.delivery();
        let name = &service.definition.instance.service;
        if in_range(self.draft, delivery.ip()) {
            let message = format!("{name} at {delivery} lies in the VIP range {}", self.draft.vip_range.value);
            let advice = "calls to it would come back to Weft; give the address that the process listens on";
            errors.push(service.listens.error(message, advice));
        }
        if let Some(listener) =
            self.draft.listeners.iter().find(|listener| self.reaches(listener.value.address, delivery))
        {
            let message = format!("{name} at {delivery} is Weft's own {}", listener.value.key);
            errors.push(service.listens.error(message, "give the port that the process listens on"));
        }
    }

    fn reaches(&self, listener: SocketAddr, delivery: SocketAddr) -> bool {
        let ip = delivery.ip().to_canonical();
        let own = ip.is_loopback() || self.addresses.contains(&ip);
        listener.port() == delivery.port()
            && (listener.ip().to_canonical() == ip || (listener.ip().is_unspecified() && own))
    }
}
