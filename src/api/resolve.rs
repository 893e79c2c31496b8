//! `/v1/weft/resolve`: what a name stands for on this host, in the words of the DNS forms. Pure.
//!
//! A name is read as DNS reads it, with or without the domain: `SERVICE`, `TAG.SERVICE`, `SERVICE.service`,
//! `TAG.SERVICE.service`, `_SERVICE._tcp.service`, `NODE.node`.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::own::{InstanceView, freshness, service_view};
use crate::model::{Directory, MemberState, Protocol, Service, Tag};

/// What a name is, by its form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// The mesh path: a VIP.
    Vip {
        service: &'a str,
        tag: Option<&'a str>,
    },
    /// Plain discovery: the instances' real addresses.
    Plain {
        service: &'a str,
        tag: Option<&'a str>,
    },
    Node(&'a str),
}

pub(super) fn read<'a>(name: &'a str, domain: &str) -> Option<Name<'a>> {
    let relative = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(name);
    let labels: Vec<&str> = relative.split('.').collect();
    match labels[..] {
        [node, "node"] => Some(Name::Node(node)),
        [service, proto, "service"] if service.starts_with('_') && proto.starts_with('_') => {
            let tag = proto.strip_prefix('_').filter(|tag| *tag != "tcp");
            Some(Name::Plain { service: service.strip_prefix('_')?, tag })
        }
        [service, "service"] => Some(Name::Plain { service, tag: None }),
        [tag, service, "service"] => Some(Name::Plain { service, tag: Some(tag) }),
        [service] => Some(Name::Vip { service, tag: None }),
        [tag, service] => Some(Name::Vip { service, tag: Some(tag) }),
        _ => None,
    }
}

/// What the name stands for.
#[derive(Serialize)]
pub(super) struct Resolved<'a> {
    name: String,
    /// `vip`, `addresses` or `node`.
    kind: &'static str,
    freshness: &'static str,
    service: Option<&'a str>,
    tag: Option<&'a str>,
    vip: Option<Ipv4Addr>,
    ports: Vec<u16>,
    protocol: Option<Protocol>,
    disputed: bool,
    node: Option<NodeView<'a>>,
    /// Of a service: every instance, the usable ones first.
    instances: Vec<InstanceView<'a>>,
}

#[derive(Serialize)]
struct NodeView<'a> {
    name: &'a str,
    id: String,
    address: IpAddr,
    state: MemberState,
    mesh_reachable: bool,
}

/// Why a name stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    #[error(
        "{0:?} is not a form that {1} has: SERVICE, TAG.SERVICE, SERVICE.service, TAG.SERVICE.service or NODE.node"
    )]
    Form(String, String),
    #[error("no service {0:?} is known; `weft services` lists those that are")]
    Service(String),
    #[error("no instance of {service} has carried the tag {tag:?}; its tags are: {tags}")]
    Tag { service: String, tag: String, tags: String },
    #[error("no node {0:?} is known; `weft members` lists those that are")]
    Node(String),
}

/// Looks the name up. DNS compares without case, so the name is taken in lower case.
pub(super) fn resolve<'a>(directory: &'a Directory, name: &str, domain: &str) -> Result<Resolved<'a>, Unresolved> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match read(&name, domain).ok_or_else(|| Unresolved::Form(name.clone(), domain.to_owned()))? {
        Name::Node(node) => resolve_node(directory, node, domain),
        Name::Vip { service, tag } => resolve_service(directory, service, tag, domain, "vip"),
        Name::Plain { service, tag } => resolve_service(directory, service, tag, domain, "addresses"),
    }
}

fn resolve_node<'a>(directory: &'a Directory, name: &str, domain: &str) -> Result<Resolved<'a>, Unresolved> {
    let node = directory.node_named(name).ok_or_else(|| Unresolved::Node(name.to_owned()))?;
    let view = NodeView {
        name: node.facts.name.as_str(),
        id: node.id.to_string(),
        address: node.facts.address,
        state: node.state,
        mesh_reachable: node.mesh_reachable,
    };
    Ok(Resolved {
        name: format!("{name}.node.{domain}"),
        kind: "node",
        freshness: freshness(directory),
        service: None,
        tag: None,
        vip: None,
        ports: Vec::new(),
        protocol: None,
        disputed: false,
        node: Some(view),
        instances: Vec::new(),
    })
}

fn resolve_service<'a>(
    directory: &'a Directory,
    service: &str,
    tag: Option<&str>,
    domain: &str,
    kind: &'static str,
) -> Result<Resolved<'a>, Unresolved> {
    let service = directory.services.get(service).ok_or_else(|| Unresolved::Service(service.to_owned()))?;
    let found = tag.map(|tag| find_tag(service, tag)).transpose()?;
    let (tag, tag_vip) = found.unzip();
    let mut view = service_view(directory, service, tag);
    view.instances.sort_by_key(|instance| !instance.usable());
    let prefix = tag.map(|tag| format!("{tag}.")).unwrap_or_default();
    let infix = if kind == "vip" { "" } else { "service." };
    Ok(Resolved {
        name: format!("{prefix}{}.{infix}{domain}", view.name),
        kind,
        freshness: freshness(directory),
        service: Some(view.name),
        tag: tag.map(Tag::as_str),
        vip: (kind == "vip").then_some(tag_vip.unwrap_or(view.vip)),
        ports: if kind == "vip" { view.ports } else { Vec::new() },
        protocol: Some(view.protocol),
        disputed: view.disputed,
        node: None,
        instances: view.instances,
    })
}

pub(super) fn find_tag<'a>(service: &'a Service, tag: &str) -> Result<(&'a Tag, Ipv4Addr), Unresolved> {
    let found = service.tag_vips.get_key_value(tag).map(|(tag, vip)| (tag, *vip));
    found.ok_or_else(|| {
        let tags: Vec<&str> = service.tag_vips.keys().map(Tag::as_str).collect();
        let tags = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
        Unresolved::Tag { service: service.name.to_string(), tag: tag.to_owned(), tags }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_the_domain() {
        let read = |name| read(name, "mesh.internal");
        assert_eq!(read("web"), Some(Name::Vip { service: "web", tag: None }));
        assert_eq!(read("web.mesh.internal"), read("web"));
        assert_eq!(read("primary.pg.mesh.internal"), Some(Name::Vip { service: "pg", tag: Some("primary") }));
        assert_eq!(read("web.service.mesh.internal"), Some(Name::Plain { service: "web", tag: None }));
        assert_eq!(read("v2.web.service"), Some(Name::Plain { service: "web", tag: Some("v2") }));
        assert_eq!(read("_web._tcp.service"), Some(Name::Plain { service: "web", tag: None }));
        assert_eq!(read("_web._v2.service"), Some(Name::Plain { service: "web", tag: Some("v2") }));
        assert_eq!(read("web-01.node.mesh.internal"), Some(Name::Node("web-01")));
        assert_eq!(read("a.b.c.d"), None);
    }
}
