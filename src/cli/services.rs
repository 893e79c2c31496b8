//! `weft services`: every instance of every service, or of one, with its health and VIP.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::client::{Client, encode};
use super::names;
use super::output::{CliError, EXIT_NOT_FOUND, Globals, Table, print, print_json, remark, warn_if_stale};
use crate::model::{Health, MemberState, Protocol};

/// List the services of the mesh with their instances
///
/// VIP is the loopback address and port under which this host's programs call the service by name; each host chooses
/// its own. CALLS says whether a call from this host may go to the instance; `weft resolve NAME` says why not.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft services
  weft services billing
  weft services billing --json | jq '.services[].instances[] | select(.usable | not)'")]
pub(super) struct Args {
    /// Show only this service, or with TAG.SERVICE those of its instances that carry the tag
    name: Option<String>,
}

/// A service as `/v1/weft/services` tells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) vip: Ipv4Addr,
    pub(super) ports: Vec<u16>,
    pub(super) protocol: Protocol,
    pub(super) disputed: bool,
    pub(super) tag_vips: BTreeMap<String, Ipv4Addr>,
    pub(super) instances: Vec<Instance>,
}

/// An instance as Weft's own endpoints tell it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Instance {
    pub(super) node: String,
    pub(super) node_id: String,
    pub(super) node_state: MemberState,
    pub(super) zone: String,
    pub(super) local: bool,
    pub(super) id: String,
    pub(super) address: SocketAddr,
    pub(super) tags: Vec<String>,
    pub(super) health: Health,
    pub(super) usable: bool,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listing {
    freshness: &'static str,
    services: Vec<Service>,
}

fn table(services: &[Service]) -> Table {
    let mut table = Table::new(&["SERVICE", "NODE", "ADDRESS", "HEALTH", "CALLS", "VIP", "TAGS"]);
    for service in services {
        let vip = match service.ports.first() {
            Some(port) => format!("{}:{port}", service.vip),
            None => service.vip.to_string(),
        };
        for instance in &service.instances {
            let (address, tags) = (instance.address.to_string(), instance.tags.join(","));
            let calls = if instance.usable { "yes" } else { "no" };
            table.row([&*service.name, &instance.node, &address, instance.health.as_str(), calls, &vip, &tags]);
        }
    }
    table
}

/// Runs the verb.
pub(super) fn run(args: Args, globals: &Globals) -> Result<(), CliError> {
    let Args { name } = args;
    let client = Client::connect(globals.api.clone())?;
    let named = name.as_ref().map(|name| names::service(&client, name)).transpose()?;
    let path = match &named {
        Some(named) => format!("/v1/weft/services?name={}", encode(&named.service)),
        None => "/v1/weft/services".to_owned(),
    };
    let told = client.get_json::<Vec<Service>>(&path)?;
    let (freshness, stale, mut services) = (told.freshness(), told.stale, told.value);
    if let Some(tag) = named.and_then(|named| named.tag) {
        services.iter_mut().for_each(|service| service.instances.retain(|instance| instance.tags.contains(&tag)));
    }
    if let (Some(name), true) = (&name, services.is_empty()) {
        let advice = "`weft services` lists those that are; new ones are described in /etc/weft/services.d/";
        return Err(CliError::failed(format!("no service {name:?} is known"), advice).exiting(EXIT_NOT_FOUND));
    }
    if globals.json {
        return print_json(&Listing { freshness, services });
    }
    warn_if_stale(stale);
    for service in services.iter().filter(|service| service.disputed) {
        let name = &service.name;
        remark(&format!("{name}: hosts disagree about its port or protocol; the lowest node id's is used\n"));
    }
    print(&table(&services).painted(globals.color.shown()))
}

#[cfg(test)]
pub(super) fn specimen(node: &str, reason: Option<&str>) -> Instance {
    Instance {
        node: node.into(),
        node_id: "01".repeat(16),
        node_state: MemberState::Alive,
        zone: "eu-1a".into(),
        local: false,
        id: "billing".into(),
        address: "10.0.0.1:8080".parse().unwrap(),
        tags: vec!["v2".into(), "blue".into()],
        health: if reason.is_some() { Health::Critical } else { Health::Passing },
        usable: reason.is_none(),
        reason: reason.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_is_a_row_with_node_address_health_vip_and_tags() {
        let service = Service {
            name: "billing".into(),
            vip: Ipv4Addr::new(127, 64, 0, 1),
            ports: vec![8080, 80],
            protocol: Protocol::Http,
            disputed: false,
            tag_vips: BTreeMap::new(),
            instances: vec![specimen("web-01", None), specimen("web-02", Some("its host has failed"))],
        };
        let table = table(&[service]).to_string();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = ["billing", "web-01", "10.0.0.1:8080", "passing", "yes", "127.64.0.1:8080", "v2,blue"];
        assert_eq!(rows[1], expected);
        assert_eq!(rows[2][3..5], ["critical", "no"]);
    }
}
