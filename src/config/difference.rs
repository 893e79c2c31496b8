//! What a reload changes: what the running agent takes over, and what waits for a restart.

use super::{Config, ServiceDefinition};
use crate::model::ServiceId;

/// From the running configuration to a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Services that are new, or whose definition or checks changed.
    pub services_set: Vec<ServiceId>,
    /// Services that are gone.
    pub services_removed: Vec<ServiceId>,
    /// Keys that changed and are taken over at once: `node.zone`, `node.meta`, `cluster.seeds`, `checks.scripts`, and
    /// `check`, the checks of the host.
    pub live: Vec<String>,
    /// Keys that changed and wait for a restart. Whole sections are told key by key.
    pub restart: Vec<String>,
}

impl Difference {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }
}

impl Config {
    /// What changed from `old` to `new`, in the order of the file.
    pub fn reload_difference(old: &Config, new: &Config) -> Difference {
        let mut difference = Difference::default();
        let live = [
            ("node.zone", old.node.zone == new.node.zone),
            ("node.meta", old.node.meta == new.node.meta),
            ("cluster.seeds", old.cluster.seeds == new.cluster.seeds),
            ("checks.scripts", old.scripts_allowed == new.scripts_allowed),
            ("check", old.checks == new.checks),
        ];
        let cert = |config: &Config| config.api.tls.as_ref().map(|tls| tls.cert.clone());
        let key = |config: &Config| config.api.tls.as_ref().map(|tls| tls.key.clone());
        let restart = [
            ("data_dir", old.data_dir == new.data_dir),
            ("node.name", old.node.name == new.node.name),
            ("node.advertise", old.node.advertise == new.node.advertise),
            ("cluster.name", old.cluster.name == new.cluster.name),
            ("dns.listen", old.dns.listen == new.dns.listen),
            ("dns.domain", old.dns.domain == new.dns.domain),
            ("dns.upstreams", old.dns.upstreams == new.dns.upstreams),
            ("dns.consul_alias", old.dns.consul_alias == new.dns.consul_alias),
            ("gossip.listen", old.gossip.listen == new.gossip.listen),
            ("gossip.advertise", old.gossip.advertise == new.gossip.advertise),
            ("mesh.listen", old.mesh.listen == new.mesh.listen),
            ("mesh.advertise", old.mesh.advertise == new.mesh.advertise),
            ("proxy.vip_range", old.proxy.vip_range == new.proxy.vip_range),
            ("proxy.capture", old.proxy.capture == new.proxy.capture),
            ("proxy.capture_listen", old.proxy.capture_listen == new.proxy.capture_listen),
            ("proxy.workers", old.proxy.workers == new.proxy.workers),
            ("proxy.idle_timeout", old.proxy.idle_timeout == new.proxy.idle_timeout),
            ("proxy.connect_timeout", old.proxy.connect_timeout == new.proxy.connect_timeout),
            ("proxy.request_timeout", old.proxy.request_timeout == new.proxy.request_timeout),
            ("proxy.access_log", old.proxy.access_log == new.proxy.access_log),
            ("api.listen", old.api.listen == new.api.listen),
            ("api.socket", old.api.socket == new.api.socket),
            ("api.writes", old.api.writes_open == new.api.writes_open),
            ("api.tls_cert", cert(old) == cert(new)),
            ("api.tls_key", key(old) == key(new)),
            ("log.format", old.log.format == new.log.format),
            ("log.level", old.log.level == new.log.level),
        ];
        difference.live = changed(&live);
        difference.restart = changed(&restart);
        difference.services_set = ids(new.services.iter().filter(|service| !has(old, service)));
        let gone =
            |service: &&ServiceDefinition| !new.services.iter().any(|other| other.instance.id == service.instance.id);
        difference.services_removed = ids(old.services.iter().filter(gone));
        difference
    }
}

fn changed(keys: &[(&str, bool)]) -> Vec<String> {
    keys.iter().filter(|(_, same)| !same).map(|(key, _)| (*key).to_owned()).collect()
}

fn ids<'a>(services: impl Iterator<Item = &'a ServiceDefinition>) -> Vec<ServiceId> {
    services.map(|service| service.instance.id.clone()).collect()
}

/// True if the same service is there; that it moved to another line changes nothing.
fn has(config: &Config, service: &ServiceDefinition) -> bool {
    let same = |other: &ServiceDefinition| other.instance == service.instance && other.checks == service.checks;
    config.services.iter().any(same)
}
