//! Reads the system's name servers out of resolv.conf, without those that would ask this agent again.
//!
//! The parser is pure; [`read_system`] reads the files. resolv.conf(5) is the format's only description.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

/// What resolv.conf's servers listen on.
const DNS_PORT: u16 = 53;
/// The C library reads three (MAXNS); more would only make a failing query take longer.
pub(super) const SERVERS_MAX: usize = 3;
/// resolv.conf is a few lines; a larger file is something else.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// systemd-resolved's stub listeners. They may well be configured to ask this agent, so asking them could go in circles.
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// Where the servers are listed: the file that the C library reads, then the one where systemd-resolved lists the real
/// servers behind its stub.
pub(super) const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The servers of the first of `files` that lists any but `own` listeners and resolved's stub.
pub(super) fn read_system(files: &[&str], own: &OwnListeners) -> Vec<SocketAddr> {
    for file in files {
        let size_bytes = fs::metadata(file).map_or(u64::MAX, |metadata| metadata.len());
        if size_bytes > FILE_BYTES_MAX {
            continue;
        }
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        let mut servers = parse(&text, interface_index);
        servers.retain(|server| !own.contains(*server) && !is_stub(*server));
        servers.truncate(SERVERS_MAX);
        if !servers.is_empty() {
            return servers;
        }
    }
    Vec::new()
}

fn is_stub(server: SocketAddr) -> bool {
    matches!(server.ip(), IpAddr::V4(v4) if STUBS.contains(&v4)) && server.port() == DNS_PORT
}

/// Every `nameserver` of the text. `scope` turns an interface's name into its index.
fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|&word| word == "nameserver").and_then(|_| words.next())?;
        parse_address(address, &scope)
    });
    servers.collect()
}

fn parse_address(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((address, interface)) = text.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let index = interface.parse().ok().or_else(|| scope(interface))?;
        return Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into());
    }
    Some(SocketAddr::new(text.parse().ok()?, DNS_PORT))
}

fn interface_index(name: &str) -> Option<u32> {
    if name.contains('/') || name.starts_with('.') {
        return None;
    }
    let path = Path::new("/sys/class/net").join(name).join("ifindex");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// This agent's own DNS listeners.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnListeners(pub(super) Vec<SocketAddr>);

impl OwnListeners {
    /// True if a query sent to `server` would come back here.
    pub(super) fn contains(&self, server: SocketAddr) -> bool {
        let target = server.ip().to_canonical();
        self.0.iter().any(|listener| {
            let listens = listener.ip().to_canonical();
            let same = listens == target || (listens.is_unspecified() && is_local(target));
            // The kernel sends what is for 0.0.0.0 to loopback.
            let unspecified = target.is_unspecified() && listens.is_loopback();
            listener.port() == server.port() && (same || unspecified)
        })
    }
}

/// True if `address` is one of this host's: only those can be bound.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || std::net::UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listeners: &[&str]) -> OwnListeners {
        OwnListeners(listeners.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn read(texts: &[&str], own: &OwnListeners) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<String> = (0..texts.len()).map(|at| format!("{}/{at}", dir.path().display())).collect();
        for (path, text) in paths.iter().zip(texts) {
            fs::write(path, text).unwrap();
        }
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        read_system(&paths, own).iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn servers_are_read_and_the_rest_is_passed_over() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 10.0.0.2 \n\tnameserver\t2001:db8::2\n\
                    nameserver nonsense\nnameserver\noptions edns0\nnameserver fe80::1%eth7\nnameserver fe80::2%nosuch\n";
        let servers = parse(text, |interface| (interface == "eth7").then_some(7));
        let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[2001:db8::2]:53", "[fe80::1%7]:53"]);
    }

    #[test]
    fn own_listeners_are_left_out() {
        let text = "nameserver 127.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(read(&[text], &own(&["127.0.0.1:53"])), ["10.0.0.2:53"]);
        assert_eq!(read(&[text], &own(&["[::]:53"])), ["10.0.0.2:53"]);
        assert_eq!(read(&[text], &own(&["127.0.0.1:8600"])), ["127.0.0.1:53", "10.0.0.2:53"], "dnsmasq, say");
        assert_eq!(read(&["nameserver 0.0.0.0"], &own(&["127.0.0.1:53"])), [""; 0]);
    }

    #[test]
    fn behind_the_stub_of_resolved_the_real_servers_are_used() {
        let stub = "nameserver 127.0.0.53\n";
        assert_eq!(read(&[stub, "nameserver 10.0.0.2\n"], &own(&[])), ["10.0.0.2:53"]);
        assert_eq!(read(&[stub], &own(&[])), [""; 0]);
        assert_eq!(read(&[], &own(&[])), [""; 0]);
    }
}
