//! `weft check intentions`: services of this host that can be called without the mesh, because their port is open beyond
//! loopback, and the firewall rule that closes it. Reads the kernel's list of listeners; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::output::{CliError, Globals, Plain, Table, print, print_json};

const LISTENERS: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `TCP_LISTEN` of the kernel, in hex.
const LISTEN: &str = "0A";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Own {
    service: String,
    port: u16,
}

/// A service that intentions can be walked around of.
#[derive(Debug, Serialize)]
struct Open {
    id: String,
    service: String,
    listens: SocketAddr,
}

#[derive(Debug, Serialize)]
struct Report {
    open: Vec<Open>,
    rule: Option<String>,
}

/// Runs the verb.
pub(super) fn run(globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let own: BTreeMap<String, Own> = client.get_json("/v1/agent/services")?.value;
    let mut listeners = BTreeSet::new();
    for path in LISTENERS {
        // A kernel without IPv6 has no second file.
        if let Ok(text) = std::fs::read_to_string(path) {
            listeners.extend(text.lines().filter_map(listener));
        }
    }
    let open: Vec<Open> = own
        .into_iter()
        .filter_map(|(id, Own { service, port })| {
            let beyond = |address: &&SocketAddr| address.port() == port && !address.ip().to_canonical().is_loopback();
            let listens = *listeners.iter().find(beyond)?;
            Some(Open { id, service, listens })
        })
        .collect();
    let rule = rule(&open);
    if globals.json {
        return print_json(&Report { open, rule });
    }
    let Some(rule) = rule else {
        return print(&"No service of this host is open beyond loopback: who calls one comes by the mesh\n");
    };
    let mut table = Table::new(&["ID", "SERVICE", "LISTENS ON"]);
    for Open { id, service, listens } in &open {
        table.row([Plain(id).to_string(), Plain(service).to_string(), listens.to_string()]);
    }
    print(&format_args!(
        "{table}\nWhoever reaches these ports goes around all intentions. Let the programs listen on 127.0.0.1, or close the \
         ports to other hosts:\n\n{rule}"
    ))
}

/// A line of `/proc/net/tcp` or `tcp6` that is about a listener: where it listens.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    // The kernel writes each word of the address in the machine's byte order.
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|word| Some(u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let ip = match words?.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        words => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

/// What closes the ports to all that does not come from this host itself.
fn rule(open: &[Open]) -> Option<String> {
    let ports: BTreeSet<String> = open.iter().map(|open| open.listens.port().to_string()).collect();
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    (!ports.is_empty()).then(|| {
        format!(
            "nft add table inet weft_guard\n\
             nft 'add chain inet weft_guard input {{ type filter hook input priority 0; }}'\n\
             nft 'add rule inet weft_guard input iifname != \"lo\" tcp dport {{ {ports} }} drop'\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_list() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0";
        let any = "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0";
        let v6 = "   2: 00000000000000000000000001000000:18EB 00000000000000000000000000000000:0000 0A 0:0 0 0 0 0 1";
        let open = "   3: 0100007F:1F90 0100007F:A0B0 01 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0";
        assert_eq!(listener(v4), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(listener(any), Some("0.0.0.0:80".parse().unwrap()));
        assert_eq!(listener(v6), Some("[::1]:6379".parse().unwrap()));
        for other in [open, "  sl  local_address rem_address   st tx_queue", "", "0: zz:1 a 0A", "0: 00:1 a 0A"] {
            assert_eq!(listener(other), None, "{other:?}");
        }
    }

    #[test]
    fn one_rule_closes_all_ports_once() {
        let open = |port: u16| Open { id: "a".into(), service: "a".into(), listens: ([0, 0, 0, 0], port).into() };
        assert!(rule(&[open(80), open(80), open(6379)]).unwrap().contains("tcp dport { 6379, 80 } drop"));
        assert_eq!(rule(&[]), None);
    }
}
