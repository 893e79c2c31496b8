//! `weft resolve`: what a name stands for on this host, where a call to it may go, and why it may not go elsewhere.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::client::{Client, encode};
use super::output::{CliError, Globals, Plain, Table, print, print_json, warn_if_stale};
use super::services::Instance;
use crate::model::{MemberState, Protocol};

/// Say what a name stands for on this host
///
/// For SERVICE or TAG.SERVICE: the VIP and ports that this host's programs reach, the instances that a call may go to
/// now, and for each other instance why it takes none. For SERVICE.service or NODE.node: real addresses. The domain may
/// be given or left out.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft resolve billing
  weft resolve primary.pg.mesh.internal
  weft resolve web-01.node")]
pub(super) struct Args {
    /// The name, with or without the domain
    name: String,
}

/// What `/v1/weft/resolve` tells.
#[derive(Debug, Serialize, Deserialize)]
struct Resolved {
    name: String,
    kind: String,
    freshness: String,
    service: Option<String>,
    tag: Option<String>,
    vip: Option<Ipv4Addr>,
    ports: Vec<u16>,
    protocol: Option<Protocol>,
    disputed: bool,
    node: Option<Node>,
    instances: Vec<Instance>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    name: String,
    id: String,
    address: IpAddr,
    state: MemberState,
    mesh_reachable: bool,
}

fn text(resolved: &Resolved, painted: bool) -> String {
    let mut text = String::new();
    let name = Plain(&resolved.name);
    // Writing to a String cannot fail.
    let _infallible = match (&resolved.node, resolved.vip) {
        (Some(node), _) => {
            let mesh = if node.state.is_usable() && !node.mesh_reachable { ", its mesh port unreachable" } else { "" };
            writeln!(text, "{name} is {}, a host that is {}{mesh}", node.address, node.state)
        }
        (None, Some(vip)) => {
            let ports: Vec<String> = resolved.ports.iter().map(u16::to_string).collect();
            let protocol = resolved.protocol.map_or("tcp", Protocol::as_str);
            writeln!(text, "{name} is {vip}, port {} ({protocol})", ports.join(" and "))
        }
        (None, None) => writeln!(text, "{name} is the real addresses of its instances"),
    };
    if resolved.node.is_none() {
        instances(&mut text, resolved, painted);
    }
    text
}

fn instances(text: &mut String, resolved: &Resolved, painted: bool) {
    let (usable, others): (Vec<&Instance>, Vec<&Instance>) =
        resolved.instances.iter().partition(|instance| instance.usable);
    let _infallible = match usable.len() {
        0 => writeln!(text, "\nA call can go nowhere now:"),
        1 => writeln!(text, "\nA call goes to:"),
        _ => writeln!(text, "\nA call goes to one of:"),
    };
    if !usable.is_empty() {
        let mut table = Table::new(&["  NODE", "ADDRESS", "ZONE", "HEALTH"]);
        for instance in &usable {
            let node = format!("  {}{}", instance.node, if instance.local { " (this host)" } else { "" });
            table.row([&*node, &instance.address.to_string(), &instance.zone, instance.health.as_str()]);
        }
        text.push_str(&table.painted(painted).to_string());
    }
    if usable.is_empty() && others.is_empty() {
        text.push_str("  it has no instance\n");
    }
    if others.is_empty() {
        return;
    }
    if !usable.is_empty() {
        text.push_str("\nand not to:\n");
    }
    let mut table = Table::new(&["  NODE", "ADDRESS", "WHY NOT"]);
    for instance in others {
        let node = format!("  {}", instance.node);
        table.row([&*node, &instance.address.to_string(), instance.reason.as_deref().unwrap_or_default()]);
    }
    text.push_str(&table.to_string());
}

/// Runs the verb.
pub(super) fn run(args: Args, globals: &Globals) -> Result<(), CliError> {
    let Args { name } = args;
    let client = Client::connect(globals.api.clone())?;
    let told = client.get_json::<Resolved>(&format!("/v1/weft/resolve?name={}", encode(&name)))?;
    if globals.json {
        return print_json(&told.value);
    }
    warn_if_stale(told.stale);
    print(&text(&told.value, globals.color.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::services::specimen;

    fn resolved(instances: Vec<Instance>) -> Resolved {
        Resolved {
            name: "billing.mesh.internal".into(),
            kind: "vip".into(),
            freshness: "live".into(),
            service: Some("billing".into()),
            tag: None,
            vip: Some(Ipv4Addr::new(127, 64, 0, 1)),
            ports: vec![8080, 80],
            protocol: Some(Protocol::Http),
            disputed: false,
            node: None,
            instances,
        }
    }

    #[test]
    fn a_service_is_its_vip_the_candidates_and_why_others_are_none() {
        let instances = vec![specimen("web-01", None), specimen("web-02", Some("its host has failed"))];
        let expected = "\
billing.mesh.internal is 127.64.0.1, port 8080 and 80 (http)

A call goes to:
  NODE    ADDRESS        ZONE   HEALTH
  web-01  10.0.0.1:8080  eu-1a  passing

and not to:
  NODE    ADDRESS        WHY NOT
  web-02  10.0.0.1:8080  its host has failed
";
        assert_eq!(text(&resolved(instances), false), expected);
    }

    #[test]
    fn a_service_without_a_usable_instance_says_so() {
        let told = text(&resolved(vec![specimen("web-02", Some("critical: service:billing"))]), false);
        assert!(told.contains("A call can go nowhere now:\n  NODE"), "{told}");
        assert!(text(&resolved(Vec::new()), false).ends_with("it has no instance\n"));
    }

    #[test]
    fn a_node_is_its_address() {
        let node = Node {
            name: "web-01".into(),
            id: "01".repeat(16),
            address: "10.0.0.1".parse().unwrap(),
            state: MemberState::Alive,
            mesh_reachable: false,
        };
        let name = "web-01.node.mesh.internal".into();
        let told = text(&Resolved { name, node: Some(node), vip: None, ..resolved(Vec::new()) }, false);
        let expected = "web-01.node.mesh.internal is 10.0.0.1, a host that is alive, its mesh port unreachable\n";
        assert_eq!(told, expected);
    }
}
