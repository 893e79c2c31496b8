//! Bodies in the shapes of Consul's API (`/v1/agent`, `/v1/catalog`, `/v1/health`), built from the directory and from
//! what this host registered. Pure.
//!
//! Keys and their case are Consul's, as its API documentation lists them. Differences, all additions: members carry a
//! `Weft` object; services carry the VIP as the tagged address `virtual`; a host whose mesh port does not answer this
//! host has a critical check `weftMesh`. As in Consul, a host that left is in the members but not in the catalog.
//!
//! `shapes` is what single things look like; `agent`, `catalog`, `health` and `members` are the lists that endpoints
//! answer with.

pub(super) mod agent;
pub(super) mod catalog;
pub(super) mod health;
pub(super) mod members;
pub(super) mod shapes;

use std::time::SystemTime;

use serde::Serialize;

use super::filter::Filter;
use super::request::Query;
use super::{Local, Settings, Traffic};
use crate::model::{Directory, Instance, MemberState, Node, NodeId, ProtocolVersions, Service};

/// What bodies are built from.
pub(super) struct View<'a> {
    pub(super) directory: &'a Directory,
    pub(super) settings: &'a Settings,
    /// What this host registered, announced or not.
    pub(super) local: &'a Local,
    /// The last output of a local check, by its id.
    pub(super) output: &'a dyn Fn(&str) -> Option<String>,
    pub(super) traffic: &'a dyn Fn() -> Traffic,
    /// The versions of the gossip protocol that are spoken with a host; `None` of one that has not told.
    pub(super) versions: &'a dyn Fn(NodeId) -> Option<ProtocolVersions>,
    pub(super) now: SystemTime,
}

/// Consul's index begins at 1: 0 would tell a watcher to ask again at once.
pub(super) fn index(directory: &Directory) -> u64 {
    directory.index.max(1)
}

/// What a list is narrowed and ordered by.
pub(super) struct Asking<'a> {
    pub(super) query: &'a Query,
    pub(super) filter: Option<&'a Filter>,
    near: Option<(String, Option<String>)>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(view: &View<'_>, query: &'a Query, filter: Option<&'a Filter>) -> Asking<'a> {
        Asking { query, filter, near: near(view, query) }
    }

    /// Everything that the filter keeps.
    fn kept<T: Serialize>(&self, items: impl Iterator<Item = T>) -> Vec<T> {
        let Some(filter) = self.filter else { return items.collect() };
        items.filter(|item| serde_json::to_value(item).is_ok_and(|value| filter.keeps(&value))).collect()
    }

    /// 0 for the node asked for, 1 for its zone, 2 for the rest. All alike without `?near`.
    fn distance(&self, node: &Node) -> u8 {
        match &self.near {
            Some((name, _)) if *name == node.facts.name.as_str() => 0,
            Some((_, Some(zone))) if *zone == node.facts.zone => 1,
            Some(_) => 2,
            None => 0,
        }
    }

    fn sort<T>(&self, items: &mut [T], node_of: impl Fn(&T) -> &Node) {
        if self.near.is_some() {
            items.sort_by_key(|item| self.distance(node_of(item)));
        }
    }
}

/// The node that `?near` names, and its zone if it has one. A name that nobody has orders nothing, as in Consul.
fn near(view: &View<'_>, query: &Query) -> Option<(String, Option<String>)> {
    let asked = query.first("near").filter(|near| !near.is_empty())?;
    let node = match asked {
        "_agent" | "_ip" => view.directory.nodes.get(&view.directory.local),
        name => view.directory.node_named(&name.to_ascii_lowercase()),
    }?;
    let zone = Some(node.facts.zone.clone()).filter(|zone| !zone.is_empty());
    Some((node.facts.name.as_str().to_owned(), zone))
}

fn by_name(directory: &Directory) -> Vec<&Node> {
    let mut nodes: Vec<&Node> = directory.nodes.values().map(|node| &**node).collect();
    nodes.sort_by(|a, b| (&a.facts.name, a.id).cmp(&(&b.facts.name, b.id)));
    nodes
}

/// A node by its name or id, unless it left.
fn listed_node<'a>(view: &View<'a>, asked: &str) -> Option<&'a Node> {
    let by_id = asked.parse().ok().and_then(|id| view.directory.nodes.get(&id));
    let node = by_id.or_else(|| view.directory.node_named(&asked.to_ascii_lowercase()))?;
    (node.state != MemberState::Left).then_some(&**node)
}

/// The instances that Consul would list: those of hosts that have not left, with all tags and metadata asked for.
fn listed<'a>(service: &'a Service, asking: &Asking<'_>) -> Vec<(&'a Node, &'a Instance)> {
    let instances = service.instances.iter().map(|(node, instance)| (&**node, &**instance));
    let query = asking.query;
    let mut listed: Vec<_> = instances
        .filter(|(node, instance)| {
            let tagged = query.all("tag").all(|asked| instance.tags.iter().any(|tag| tag.as_str() == asked));
            node.state != MemberState::Left && tagged && has_meta(node, query)
        })
        .collect();
    asking.sort(&mut listed, |(node, _)| node);
    listed
}

fn has_meta(node: &Node, query: &Query) -> bool {
    query.all("node-meta").all(|asked| {
        let (key, value) = asked.split_once(':').unwrap_or((asked, ""));
        node.facts.meta.get(key).is_some_and(|have| have == value)
    })
}

/// What runs on a node, in the order of services.
fn on_node<'a>(directory: &'a Directory, node: &Node) -> impl Iterator<Item = (&'a Service, &'a Instance)> + use<'a> {
    let id = node.id;
    directory.services.values().flat_map(move |service| {
        let here = service.instances.iter().filter(move |(node, _)| node.id == id);
        here.map(move |(_, instance)| (&**service, &**instance))
    })
}
