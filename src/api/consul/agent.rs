//! `/v1/agent`: what this host registered, announced or not. Pure.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Serialize;

use super::shapes::{AgentService, Check};
use super::{Asking, View};
use crate::api::{Local, LocalService};
use crate::model::Health;

/// What Consul names the checks of maintenance: of a service its id follows a colon.
const SERVICE_MAINTENANCE: &str = "_service_maintenance";
const NODE_MAINTENANCE: &str = "_node_maintenance";

/// `/v1/agent/services`: by id.
pub(in crate::api) fn services<'a>(view: &View<'a>, asking: &Asking<'_>) -> BTreeMap<&'a str, AgentService<'a>> {
    let own = view.local.services.values().map(|service| AgentService::own(view, &service.instance));
    asking.kept(own).into_iter().map(|service| (service.id, service)).collect()
}

/// `/v1/agent/checks`: by id.
pub(in crate::api) fn checks<'a>(view: &View<'a>, asking: &Asking<'_>) -> BTreeMap<&'a str, Check<'a>> {
    let own = view.local.checks.iter().map(|(id, check)| Check::own(view, id, check));
    asking.kept(own).into_iter().map(|check| (check.check_id, check)).collect()
}

/// `/v1/agent/service/:id`, with the hash by which a client waits for its next change.
pub(in crate::api) fn service<'a>(view: &View<'a>, id: &str) -> Option<(AgentService<'a>, String)> {
    let local = view.local.services.get(id)?;
    let hash = format!("{:016x}", content_hash(view.local, id));
    let mut service = AgentService::own(view, &local.instance);
    service.content_hash = Some(hash.clone());
    Some((service, hash))
}

/// Changes when the service's definition does, not with its health; 0 if there is no such service.
pub(in crate::api) fn content_hash(local: &Local, id: &str) -> u64 {
    let Some(LocalService { instance, .. }) = local.services.get(id) else { return 0 };
    let body = serde_json::to_vec(&(
        &instance.service,
        instance.address,
        instance.port,
        instance.protocol,
        instance.vip_port,
        &instance.tags,
        &instance.meta,
        instance.weights,
    ));
    fnv1a(&body.unwrap_or_default()).max(1)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same for the same content in every version; nobody is harmed by a collision
/// but the one who made it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A service with its own checks, and what they come to.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct ServiceHealth<'a> {
    aggregated_status: &'static str,
    service: Option<AgentService<'a>>,
    checks: Option<Vec<Check<'a>>>,
}

impl ServiceHealth<'_> {
    /// What Consul answers beside 404.
    pub(in crate::api) fn unknown() -> ServiceHealth<'static> {
        ServiceHealth { aggregated_status: "critical", service: None, checks: None }
    }

    pub(in crate::api) fn word(&self) -> &'static str {
        self.aggregated_status
    }
}

fn rank(status: &str) -> u8 {
    match status {
        "passing" => 0,
        "warning" => 1,
        "critical" => 2,
        _ => 3,
    }
}

/// The worst of them.
pub(in crate::api) fn worst(all: &[ServiceHealth<'_>]) -> &'static str {
    all.iter().map(ServiceHealth::word).max_by_key(|word| rank(word)).unwrap_or("passing")
}

/// The status code that says the same, for load balancers.
pub(in crate::api) fn status_code(word: &str) -> StatusCode {
    match word {
        "passing" => StatusCode::OK,
        "warning" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn health_of<'a>(view: &View<'a>, local: &'a LocalService) -> ServiceHealth<'a> {
    let id = &local.instance.id;
    // The host's own checks count for each of its services, as in Consul.
    let concerning = view.local.checks.iter().filter(|(_, check)| check.service.as_ref().is_none_or(|of| of == id));
    let checks: Vec<Check<'a>> = concerning.map(|(id, check)| Check::own(view, id, check)).collect();
    let maintained = |check: &Check<'_>| {
        check.check_id == NODE_MAINTENANCE
            || check.check_id.strip_prefix(SERVICE_MAINTENANCE).is_some_and(|rest| rest.starts_with(':'))
    };
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Health::Passing);
    let aggregated_status = if checks.iter().any(maintained) { "maintenance" } else { worst.as_str() };
    ServiceHealth { aggregated_status, service: Some(AgentService::own(view, &local.instance)), checks: Some(checks) }
}

/// `/v1/agent/health/service/id/:id`.
pub(in crate::api) fn health_by_id<'a>(view: &View<'a>, id: &str) -> Option<ServiceHealth<'a>> {
    view.local.services.get(id).map(|local| health_of(view, local))
}

/// `/v1/agent/health/service/name/:name`.
pub(in crate::api) fn health_by_name<'a>(view: &View<'a>, name: &str) -> Vec<ServiceHealth<'a>> {
    let named = view.local.services.values().filter(|local| local.instance.service.as_str() == name);
    named.map(|local| health_of(view, local)).collect()
}
