//! Single texts to checked values: addresses, names, ranges, URLs. Each refusal says what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;

use crate::model::{NameError, NodeName};

use super::section::Fault;
use super::{CheckTarget, DELIVERY_SOURCE};

/// DNS names (RFC 1035 §2.3.4) without the dot at the end, and with room for the longest name under a domain:
/// `_SERVICE._TAG.service.` of two full labels.
const DOMAIN_BYTES_MAX: usize = 253 - 2 * 65 - 8;
/// A DNS name's limit in text.
const HOST_BYTES_MAX: usize = 253;
/// More than this is a mistake, and would make every check send it.
const URL_BYTES_MAX: usize = 2048;
/// A VIP range smaller than a /24 runs out with a handful of services and their tags.
const VIP_PREFIX_MAX: u8 = 24;

/// What a name's own error says, in two parts.
fn name_fault(error: &NameError) -> Fault {
    let message = match error {
        NameError::Empty { what } => format!("a {what} must not be empty"),
        NameError::TooLong { what, text, length, .. } => format!("the {what} {text:?}... has {length} bytes"),
        NameError::Character { what, text, found, .. } => format!("the {what} {text:?} has the character {found:?}"),
        NameError::Reserved { text } => format!("{text:?} has a meaning of its own in DNS names"),
    };
    let advice = match error {
        NameError::Empty { .. } => "write one, or leave the key out".to_owned(),
        NameError::TooLong { max, .. } => format!("shorten it to {max}"),
        NameError::Character { allowed, .. } => format!("use {allowed}"),
        NameError::Reserved { .. } => "choose another name".to_owned(),
    };
    Fault::new(message, advice)
}

/// A checked name of the model.
pub(super) fn name<T: std::str::FromStr<Err = NameError>>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error| name_fault(&error))
}

/// One DNS label, for the cluster.
pub(super) fn cluster_name(text: &str) -> Result<String, Fault> {
    let error = |_| Fault::new(format!("{text:?} cannot name a cluster"), "use lower-case letters, digits and '-'");
    NodeName::parse(text).map(|name| name.to_string()).map_err(error)
}

/// `ADDRESS:PORT`.
pub(super) fn listener(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let fault = |advice: String| Err(Fault::new(format!("{text:?} is not an address with a port"), advice));
    match text.parse::<IpAddr>() {
        Ok(address) => fault(format!("add the port: {:?}", SocketAddr::new(address, 7946).to_string())),
        Err(_) => fault(r#"write it like "127.0.0.1:8600" or "[::]:7946""#.to_owned()),
    }
}

/// An address at which others reach this host.
pub(super) fn reachable_address(text: &str) -> Result<IpAddr, Fault> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let message = format!("{text:?} is not an IP address");
        return Err(Fault::new(message, r#"write it like "10.0.0.11", without a port"#));
    };
    if address.is_unspecified() || address.is_multicast() || is_broadcast(address) {
        let message = format!("{text:?} is nobody's address");
        return Err(Fault::new(
            message,
            "give the address under which other hosts reach this one, or leave the key out",
        ));
    }
    Ok(address)
}

/// The same with a port.
pub(super) fn reachable_endpoint(text: &str) -> Result<SocketAddr, Fault> {
    let endpoint = listener(text)?;
    reachable_address(&endpoint.ip().to_string())?;
    if endpoint.port() == 0 {
        return Err(Fault::new(format!("{text:?} has port 0"), "give the port that other hosts connect to"));
    }
    Ok(endpoint)
}

fn is_broadcast(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Where a process of a local service listens.
pub(super) fn service_address(text: &str) -> Result<IpAddr, Fault> {
    let address = match text {
        "localhost" => return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.parse::<IpAddr>(),
    };
    match address {
        Ok(address) if address.is_unspecified() => {
            let message = format!("{text:?} is where a process listens, not where it is called");
            Err(Fault::new(message, "leave `address` out: 127.0.0.1 reaches it"))
        }
        Ok(address) if address.is_multicast() || is_broadcast(address) => {
            Err(Fault::new(format!("{text:?} is no single process's address"), "give the address that it listens on"))
        }
        Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)) => {
            let message = format!("{text:?} would make callers from other hosts look like this host's own");
            Err(Fault::new(message, "let the process listen on 127.0.0.1 as well and leave `address` out"))
        }
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => {
            let advice = r#"write an address like "10.0.0.11", without a port, or leave it out for 127.0.0.1"#;
            Err(Fault::new(format!("{text:?} is not an IP address"), advice))
        }
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT` to host and port. `None` if it is none of these.
fn host_and_port(text: &str, port_default: Option<u16>) -> Option<CheckTarget> {
    if let Ok(SocketAddr::V6(endpoint)) = text.parse() {
        return with_port(endpoint.ip().to_string(), endpoint.port());
    }
    if let Ok(IpAddr::V6(address)) = text.trim_matches(['[', ']']).parse() {
        return with_port(address.to_string(), port_default?);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, port_default?),
    };
    is_host_name(host).then(|| with_port(host.to_owned(), port))?
}

fn with_port(host: String, port: u16) -> Option<CheckTarget> {
    (port != 0).then_some(CheckTarget { host, port })
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(plain) && !label.starts_with('-')
    };
    // All digits and dots is an address or a mistake, never a name.
    let address_like = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.len() <= HOST_BYTES_MAX
        && if address_like { text.parse::<Ipv4Addr>().is_ok() } else { text.split('.').all(label) }
}

/// A seed: `HOST:PORT`; the gossip port is filled in where none is given.
pub(super) fn seed(text: &str) -> Result<String, Fault> {
    let target = host_and_port(text, Some(7946)).map(|target| target.to_string());
    let fault = || {
        Fault::new(
            format!("{text:?} is not a host with a port"),
            r#"write it like "10.0.0.10:7946" or "[fd00::1]:7946""#,
        )
    };
    target.ok_or_else(fault)
}

/// The target of a TCP check.
pub(super) fn tcp_target(text: &str) -> Result<CheckTarget, Fault> {
    host_and_port(text, None)
        .ok_or_else(|| Fault::new(format!("{text:?} is not a host with a port"), r#"write it like "127.0.0.1:5432""#))
}

/// What an HTTP check's URL says.
#[derive(Debug)]
pub(super) struct HttpUrl {
    /// Over TLS.
    pub(super) is_https: bool,
    /// Where to connect.
    pub(super) target: CheckTarget,
    /// Path and query.
    pub(super) path: String,
}

/// The URL of an HTTP check.
pub(super) fn http_url(text: &str) -> Result<HttpUrl, Fault> {
    let example = r#"write it like "http://127.0.0.1:8080/health""#;
    let (is_https, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        _ => return Err(Fault::new(format!("{:?} is not an http:// or https:// URL", start_of(text)), example)),
    };
    let rest = rest.split('#').next().unwrap_or(rest);
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.contains('@') {
        return Err(Fault::new("a URL with a user and password", "leave them out, and give an Authorization `header`"));
    }
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    match host_and_port(authority, Some(if is_https { 443 } else { 80 })) {
        Some(target) if printable && text.len() <= URL_BYTES_MAX => Ok(HttpUrl { is_https, target, path }),
        _ => Err(Fault::new(format!("{:?} is not a URL", start_of(text)), example)),
    }
}

/// As much of a text as a message should repeat.
pub(super) fn start_of(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut start: String = text.chars().take(CHARS_MAX).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start
}

/// The domain of the names.
pub(super) fn domain(text: &str) -> Result<String, Fault> {
    let lower = text.trim_end_matches('.').to_ascii_lowercase();
    if lower == "consul" {
        let advice = r#"keep "mesh.internal" and set consul_alias = true to answer for it as well"#;
        return Err(Fault::new("`consul` cannot be the domain", advice));
    }
    let letters = lower.chars().any(|c| c.is_ascii_alphabetic());
    if letters && lower.len() <= DOMAIN_BYTES_MAX && is_host_name(&lower) {
        return Ok(lower);
    }
    Err(Fault::new(format!("{text:?} is not a domain"), r#"write it like "mesh.internal""#))
}

/// A DNS server; port 53 where none is given.
pub(super) fn upstream(text: &str) -> Result<SocketAddr, Fault> {
    let endpoint = text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    match endpoint {
        Ok(endpoint) if endpoint.port() != 0 && !endpoint.ip().is_unspecified() => Ok(endpoint),
        _ => {
            let advice = r#"write "system", or addresses like "10.0.0.2" or "10.0.0.2:53""#;
            Err(Fault::new(format!("{text:?} is not a DNS server's address"), advice))
        }
    }
}

/// The range that service addresses come from.
pub(super) fn vip_range(text: &str) -> Result<Ipv4Net, Fault> {
    let Ok(range) = text.parse::<Ipv4Net>() else {
        return Err(Fault::new(format!("{text:?} is not an IPv4 range"), r#"write it like "127.64.0.0/10""#));
    };
    let fault = |what: &str, advice: String| Err(Fault::new(format!("{text:?} {what}"), advice));
    let default = || r#"use "127.64.0.0/10""#.to_owned();
    if range.trunc() != range {
        return fault("begins in the middle of the range", format!("write {:?}", range.trunc().to_string()));
    }
    if range.network().octets()[0] != 127 || range.prefix_len() < 8 {
        return fault("is not within 127.0.0.0/8", default());
    }
    if range.contains(&Ipv4Addr::LOCALHOST) || range.contains(&DELIVERY_SOURCE) {
        let what = format!("holds 127.0.0.1 or {DELIVERY_SOURCE}, which must stay outside");
        return fault(&what, default());
    }
    if range.prefix_len() > VIP_PREFIX_MAX {
        return fault("is too small for services and their tags", format!("use a /{VIP_PREFIX_MAX} or larger"));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_get_a_port_and_brackets() {
        for (text, seed_text) in [
            ("10.0.0.10:7946", "10.0.0.10:7946"),
            ("10.0.0.10", "10.0.0.10:7946"),
            ("web-01.example.com:1", "web-01.example.com:1"),
            ("[fd00::1]:17946", "[fd00::1]:17946"),
            ("fd00::1", "[fd00::1]:7946"),
            ("[fd00::1]", "[fd00::1]:7946"),
        ] {
            assert_eq!(seed(text).unwrap(), seed_text);
        }
        for text in ["", ":7946", "a:0", "a:70000", "10.0.0:1", "a b", "300.1.1.1", "[x]:1", "a..b"] {
            assert!(seed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_split_into_target_and_path() {
        for (text, target, path) in [
            ("http://127.0.0.1:8080/health", "127.0.0.1:8080", "/health"),
            ("http://localhost", "localhost:80", "/"),
            ("http://[::1]:81?q=1#top", "[::1]:81", "/?q=1"),
            ("https://x/", "x:443", "/"),
        ] {
            let found = http_url(text).unwrap();
            assert_eq!((found.target.to_string().as_str(), found.path.as_str()), (target, path));
            assert_eq!(found.is_https, text.starts_with("https"));
        }
        for text in ["ftp://x/", "x", "http://", "http:///x", "http://u:p@x/", "http://x/a b", "http://x:0/"] {
            assert!(http_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_vip_range_is_loopback_and_spares_what_is_not_a_vip() {
        assert!(vip_range("127.64.0.0/10").is_ok() && vip_range("127.65.0.0/16").is_ok());
        for text in [
            "10.0.0.0/8",
            "127.0.0.0/8",
            "127.0.0.0/16",
            "127.63.0.0/16",
            "127.64.1.0/10",
            "127.64.0.0/30",
            "0.0.0.0/0",
            "x",
        ] {
            assert!(vip_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_domain_is_lower_case_without_its_last_dot() {
        assert_eq!(domain("Mesh.Internal.").unwrap(), "mesh.internal");
        for text in ["", ".", "a..b", "consul", "-a.b", "1.2.3.4", &"a.".repeat(100)] {
            assert!(domain(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_is_called_at_one_address() {
        assert!(service_address("localhost").unwrap().is_loopback());
        for text in ["0.0.0.0", "::", "224.0.0.1", "db", "10.0.0.1:80"] {
            assert!(service_address(text).is_err(), "{text}");
        }
    }
}
