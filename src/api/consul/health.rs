//! `/v1/health`: checks, and instances with theirs. Pure.

use serde::Serialize;

use super::shapes::{AgentService, CatalogNode, Check, node_checks};
use super::{Asking, View, by_name, has_meta, listed, listed_node, on_node};
use crate::model::{Health, Instance, MemberState, Node, Service};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct HealthEntry<'a> {
    node: CatalogNode<'a>,
    service: AgentService<'a>,
    checks: Vec<Check<'a>>,
}

/// `/v1/health/service/:name`; with `passing`, only instances all of whose checks pass, as in Consul.
pub(in crate::api) fn service<'a>(
    view: &View<'a>,
    service: &'a Service,
    asking: &Asking<'_>,
    passing: bool,
) -> Vec<HealthEntry<'a>> {
    let entries = listed(service, asking).into_iter().map(|(node, instance)| HealthEntry {
        node: CatalogNode::new(view, node),
        service: AgentService::new(view, Some(service), instance),
        checks: node_checks(view, node).into_iter().chain(checks_of(view, service, node, instance)).collect(),
    });
    let healthy = |entry: &HealthEntry<'_>| entry.checks.iter().all(|check| check.status == Health::Passing);
    asking.kept(entries.filter(|entry| !passing || healthy(entry)))
}

fn checks_of<'a>(
    view: &View<'a>,
    service: &'a Service,
    node: &'a Node,
    instance: &'a Instance,
) -> impl Iterator<Item = Check<'a>> {
    instance.checks.iter().map(move |status| Check::of_service(view, service, node, instance, status))
}

/// `/v1/health/checks/:service`: the checks of its instances.
pub(in crate::api) fn checks<'a>(view: &View<'a>, service: &'a Service, asking: &Asking<'_>) -> Vec<Check<'a>> {
    let all = listed(service, asking).into_iter();
    asking.kept(all.flat_map(|(node, instance)| checks_of(view, service, node, instance).collect::<Vec<_>>()))
}

/// Everything that is checked on a node.
fn all_on<'a>(view: &View<'a>, node: &'a Node) -> Vec<Check<'a>> {
    let mut checks = node_checks(view, node);
    for (service, instance) in on_node(view.directory, node) {
        checks.extend(checks_of(view, service, node, instance));
    }
    checks
}

/// `/v1/health/node/:node`; empty for a node that nobody knows.
pub(in crate::api) fn node<'a>(view: &View<'a>, name: &str, asking: &Asking<'_>) -> Vec<Check<'a>> {
    asking.kept(listed_node(view, name).into_iter().flat_map(|node| all_on(view, node)))
}

/// `/v1/health/state/:state`; `None` is any.
pub(in crate::api) fn state<'a>(view: &View<'a>, state: Option<Health>, asking: &Asking<'_>) -> Vec<Check<'a>> {
    let mut nodes = by_name(view.directory);
    nodes.retain(|node| node.state != MemberState::Left && has_meta(node, asking.query));
    asking.sort(&mut nodes, |node| node);
    let of_nodes = nodes.iter().flat_map(|node| node_checks(view, node));
    let services = view.directory.services.values();
    let of_services = services.flat_map(|service| {
        let all = listed(service, asking).into_iter();
        all.flat_map(move |(node, instance)| checks_of(view, service, node, instance))
    });
    let in_state = |check: &Check<'_>| state.is_none_or(|state| check.status == state);
    asking.kept(of_nodes.chain(of_services).filter(in_state))
}
