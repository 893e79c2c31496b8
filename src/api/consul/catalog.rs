//! `/v1/catalog`: nodes, services, and where services are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::shapes::{AgentService, CatalogNode, CatalogService};
use super::{Asking, View, by_name, has_meta, listed, listed_node, on_node};
use crate::model::{MemberState, Node, Service};

/// `/v1/catalog/services`: names and the tags in use.
pub(in crate::api) fn services<'a>(view: &View<'a>, asking: &Asking<'_>) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in view.directory.services.values() {
        for entry in instances(view, service, asking) {
            services.entry(entry.service_name).or_default().extend(entry.service_tags);
        }
    }
    services
}

/// `/v1/catalog/nodes`.
pub(in crate::api) fn nodes<'a>(view: &View<'a>, asking: &Asking<'_>) -> Vec<CatalogNode<'a>> {
    let mut nodes = by_name(view.directory);
    nodes.retain(|node| node.state != MemberState::Left && has_meta(node, asking.query));
    asking.sort(&mut nodes, |node| node);
    asking.kept(nodes.into_iter().map(|node| CatalogNode::new(view, node)))
}

/// `/v1/catalog/service/:name`: every instance, healthy or not.
pub(in crate::api) fn instances<'a>(
    view: &View<'a>,
    service: &'a Service,
    asking: &Asking<'_>,
) -> Vec<CatalogService<'a>> {
    let listed = listed(service, asking).into_iter();
    asking.kept(listed.map(|(node, instance)| CatalogService::new(view, service, node, instance)))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct NodeServices<'a, S> {
    node: Option<CatalogNode<'a>>,
    services: S,
}

fn services_of<'a>(view: &View<'a>, node: &'a Node, asking: &Asking<'_>) -> Vec<AgentService<'a>> {
    let here = on_node(view.directory, node);
    asking.kept(here.map(|(service, instance)| AgentService::new(view, Some(service), instance)))
}

/// `/v1/catalog/node/:node`: its services by id; null for a node that nobody knows, as in Consul.
pub(in crate::api) fn node<'a>(
    view: &View<'a>,
    name: &str,
    asking: &Asking<'_>,
) -> Option<NodeServices<'a, BTreeMap<&'a str, AgentService<'a>>>> {
    let node = listed_node(view, name)?;
    let services = services_of(view, node, asking).into_iter().map(|service| (service.id, service));
    Some(NodeServices { node: Some(CatalogNode::new(view, node)), services: services.collect() })
}

/// `/v1/catalog/node-services/:node`: the same, as a list.
pub(in crate::api) fn node_services<'a>(
    view: &View<'a>,
    name: &str,
    asking: &Asking<'_>,
) -> NodeServices<'a, Vec<AgentService<'a>>> {
    let node = listed_node(view, name);
    NodeServices {
        node: node.map(|node| CatalogNode::new(view, node)),
        services: node.map(|node| services_of(view, node, asking)).unwrap_or_default(),
    }
}
