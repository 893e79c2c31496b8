//! The names under the mesh domain, and what each of them asks for.
//!
//! Pure. A lower-case name comes in; what is asked goes out. Whether the thing exists is `answer`'s to find out. The
//! name forms are DESIGN's: `SERVICE.D`, `TAG.SERVICE.D`, and Consul's `SERVICE.service.D`, `TAG.SERVICE.service.D`,
//! `_SERVICE._tcp.service.D` (RFC 2782), `NODE.node.D`, `HEX.addr.D`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

use super::DnsError;

/// Labels below the domain that any name form has at most; longer names mean nothing.
const LABELS_MAX: usize = 3;

/// The domains that are answered here.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    domains: Vec<Name>,
}

/// What a name under a domain asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// The domain itself.
    Apex,
    /// A name that only carries other names: `service.D`, `node.D`, `addr.D`, `_tcp.service.D`.
    Branch,
    /// The loopback address of a service, or of its instances with a tag.
    Vip {
        /// The service.
        service: &'a str,
        /// The tag.
        tag: Option<&'a str>,
    },
    /// The real addresses of a service's instances.
    Instances {
        /// The service.
        service: &'a str,
        /// Only those with this tag.
        tag: Option<&'a str>,
    },
    /// The address of a host.
    Node(&'a str),
    /// The address that the name itself spells.
    Address(IpAddr),
    /// Nothing that could exist.
    Nothing,
}

impl Zone {
    /// The zone of `domain`, and of `consul` too if that alias is on.
    pub(super) fn new(domain: &str, consul_alias: bool) -> Result<Zone, DnsError> {
        let error = || DnsError::Domain { domain: domain.to_owned() };
        let mut domains = Vec::new();
        for text in [Some(domain), consul_alias.then_some("consul")].into_iter().flatten() {
            let mut name = Name::from_ascii(text).map_err(|_| error())?.to_lowercase();
            name.set_fqdn(true);
            if name.is_root() {
                return Err(error());
            }
            domains.push(name);
        }
        Ok(Zone { domains })
    }

    /// The domain that `name` is in, and what it asks for there. `None`: not ours.
    pub(super) fn locate<'a>(&self, name: &'a Name) -> Option<(&Name, Asked<'a>)> {
        let domain = self.domains.iter().find(|domain| domain.zone_of_case(name))?;
        let below = name.iter().len() - domain.iter().len();
        if below > LABELS_MAX {
            return Some((domain, Asked::Nothing));
        }
        let mut labels = [""; LABELS_MAX];
        for (label, bytes) in labels.iter_mut().zip(name.iter().take(below)) {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Some((domain, Asked::Nothing));
            };
            *label = text;
        }
        Some((domain, read_labels(&labels[..below])))
    }

    /// The domain that replies about no name in particular speak of.
    pub(super) fn domain(&self) -> Option<&Name> {
        self.domains.first()
    }
}

fn read_labels<'a>(labels: &[&'a str]) -> Asked<'a> {
    match *labels {
        [] => Asked::Apex,
        ["service" | "node" | "addr"] | ["_tcp", "service"] => Asked::Branch,
        [service] => Asked::Vip { service, tag: None },
        [service, "service"] => Asked::Instances { service, tag: None },
        [node, "node"] => Asked::Node(node),
        [hex, "addr"] => read_address(hex).map_or(Asked::Nothing, Asked::Address),
        [tag, service] => Asked::Vip { service, tag: Some(tag) },
        [first, second, "service"] => match (first.strip_prefix('_'), second.strip_prefix('_')) {
            (Some(service), Some("tcp")) => Asked::Instances { service, tag: None },
            // Consul's reading of RFC 2782: any other "protocol" is a tag.
            (Some(service), Some(tag)) => Asked::Instances { service, tag: Some(tag) },
            _ => Asked::Instances { service: second, tag: Some(first) },
        },
        _ => Asked::Nothing,
    }
}

/// `0a00000b` is 10.0.0.11; 32 digits are an IPv6 address.
fn read_address(hex: &str) -> Option<IpAddr> {
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
    let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    v4.or(v6).ok()
}

/// The label before `addr.D` that spells `address`.
pub(super) fn address_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => data_encoding::HEXLOWER.encode(&v4.octets()),
        IpAddr::V6(v6) => data_encoding::HEXLOWER.encode(&v6.octets()),
    }
}

/// The address behind `d.c.b.a.in-addr.arpa`.
pub(super) fn reverse_v4(name: &Name) -> Option<Ipv4Addr> {
    let mut labels = name.iter();
    if labels.len() != 6 {
        return None;
    }
    let mut octets = [0_u8; 4];
    for octet in octets.iter_mut().rev() {
        *octet = std::str::from_utf8(labels.next()?).ok()?.parse().ok()?;
    }
    let arpa = labels.next()? == b"in-addr" && labels.next()? == b"arpa";
    arpa.then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str, check: impl FnOnce(Option<Asked<'_>>)) {
        let zone = Zone::new("Mesh.Internal", true).unwrap();
        let name = Name::from_ascii(text).unwrap().to_lowercase();
        check(zone.locate(&name).map(|(_, asked)| asked));
    }

    #[test]
    fn every_name_form_of_the_design_is_read() {
        let vip = |service, tag| Asked::Vip { service, tag };
        let instances = |service, tag| Asked::Instances { service, tag };
        let forms = [
            ("mesh.internal.", Asked::Apex),
            ("consul.", Asked::Apex),
            ("Billing.Mesh.Internal.", vip("billing", None)),
            ("primary.pg.mesh.internal.", vip("pg", Some("primary"))),
            ("billing.service.mesh.internal.", instances("billing", None)),
            ("v2.billing.service.consul.", instances("billing", Some("v2"))),
            ("_billing._tcp.service.mesh.internal.", instances("billing", None)),
            ("_billing._v2.service.mesh.internal.", instances("billing", Some("v2"))),
            ("web-01.node.mesh.internal.", Asked::Node("web-01")),
            ("0a00000b.addr.mesh.internal.", Asked::Address("10.0.0.11".parse().unwrap())),
            ("fd000000000000000000000000000001.addr.mesh.internal.", Asked::Address("fd00::1".parse().unwrap())),
            ("0a0000.addr.mesh.internal.", Asked::Nothing),
            ("service.mesh.internal.", Asked::Branch),
            ("_tcp.service.mesh.internal.", Asked::Branch),
            ("a.b.c.mesh.internal.", Asked::Nothing),
            ("a.b.c.d.mesh.internal.", Asked::Nothing),
        ];
        for (text, wanted) in forms {
            asked(text, |found| assert_eq!(found, Some(wanted), "{text}"));
        }
    }

    #[test]
    fn names_outside_the_domains_are_not_ours() {
        for text in ["example.com.", "internal.", ".", "xmesh.internal.", "mesh.internal.example.com."] {
            asked(text, |found| assert_eq!(found, None, "{text}"));
        }
    }

    #[test]
    fn a_domain_must_be_a_name_below_the_root() {
        for domain in ["", ".", "a..b", &"x".repeat(70)] {
            assert!(Zone::new(domain, false).is_err(), "{domain:?}");
        }
    }

    #[test]
    fn reverse_names_spell_their_address_backwards() {
        let read = |text| reverse_v4(&Name::from_ascii(text).unwrap());
        assert_eq!(read("7.0.64.127.in-addr.arpa."), Some("127.64.0.7".parse().unwrap()));
        assert_eq!(read("256.0.64.127.in-addr.arpa."), None);
        assert_eq!(read("0.64.127.in-addr.arpa."), None);
        assert_eq!(read("7.0.64.127.in-addr.example."), None);
    }
}
