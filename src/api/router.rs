//! Which path is answered with what. Pure: a parsed request and a directory in, an [`Outcome`] out; the two things that
//! are not in the directory (metrics, commands) are named, not done.

use hyper::{Method, StatusCode};

use super::answer::Answer;
use super::consul::{self, View};
use super::own;
use super::request::Asked;
use super::resolve::{Unresolved, resolve};

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer(Answer),
    /// Render the metrics.
    Metrics,
    /// Ask the agent to leave, then answer.
    Leave,
}

/// Consul's families of endpoints that have no counterpart in Weft, and what to say to those who ask.
const NOT_KEPT: [(&str, &str); 20] = [
    ("kv", "Weft keeps no key-value store; programs that need one must keep Consul for it"),
    ("session", "Weft keeps no sessions; programs that hold locks in Consul must keep Consul for them"),
    ("txn", "Weft keeps no key-value store and so no transactions; programs that need them must keep Consul"),
    ("query", "Weft has no prepared queries; ask /v1/health/service/NAME?passing"),
    ("event", "Weft carries no user events"),
    ("acl", "Weft has no ACL tokens; hosts are admitted by certificates (`weft token create`)"),
    ("connect", "Weft has no Connect CA or sidecar API; every host's certificate comes from `weft enroll`"),
    ("config", "Weft has no configuration entries; services are described in services.d/"),
    ("coordinate", "Weft keeps no network coordinates"),
    ("discovery-chain", "Weft has no discovery chains"),
    ("exported-services", "Weft has no partitions to export services to"),
    ("imported-services", "Weft has no partitions to import services from"),
    ("internal", "Weft does not have Consul's internal endpoints"),
    ("namespace", "Weft has no namespaces"),
    ("namespaces", "Weft has no namespaces"),
    ("operator", "Weft has no servers and no quorum to operate"),
    ("partition", "Weft has no partitions"),
    ("partitions", "Weft has no partitions"),
    ("peering", "Weft has no cluster peering"),
    ("snapshot", "Weft has no server state to snapshot: every host can be rebuilt from the others"),
];

const READ: &str = "GET, HEAD";

/// Decides.
pub(super) fn route(asked: &Asked, view: &View<'_>) -> Outcome {
    let segments = asked.segments();
    match (segments.as_slice(), asked.reads()) {
        (["v1", "agent", "leave"], _) if asked.method == Method::PUT => Outcome::Leave,
        (["v1", "agent", "leave"], _) => Outcome::Answer(Answer::method_not_allowed("PUT")),
        (["metrics"], true) => Outcome::Metrics,
        (path, true) => Outcome::Answer(read(path, asked, view).unwrap_or_else(|| unknown(path))),
        (path, false) => match read(path, asked, view) {
            Some(_) => Outcome::Answer(Answer::method_not_allowed(READ)),
            None if path == ["metrics"] => Outcome::Answer(Answer::method_not_allowed(READ)),
            None => Outcome::Answer(unknown(path)),
        },
    }
}

/// The answer to a path that is read; `None` if there is no such path.
fn read(path: &[&str], asked: &Asked, view: &View<'_>) -> Option<Answer> {
    let query = &asked.query;
    let pretty = query.switch("pretty").unwrap_or(true);
    let directory = view.directory;
    if matches!(path, ["v1", "agent" | "catalog" | "health", ..])
        && let Some(refused) = refuse(asked, view)
    {
        return Some(refused);
    }
    let answer = match path {
        ["v1", "agent", "self"] => Answer::json(&consul::agent_self(view), pretty),
        ["v1", "agent", "members"] => Answer::json(&consul::members(view), pretty),
        ["v1", "agent", "services"] => Answer::json(&consul::agent_services(view), pretty),
        ["v1", "catalog", "datacenters"] => Answer::json(&[&view.settings.cluster], pretty),
        ["v1", "catalog", "nodes"] => Answer::json(&consul::catalog_nodes(view, query), pretty),
        ["v1", "catalog", "services"] => Answer::json(&consul::catalog_services(view, query), pretty),
        ["v1", "catalog", "service", name] => match directory.services.get(*name) {
            Some(service) => Answer::json(&consul::catalog_service(view, service, query), pretty),
            None => nothing(),
        },
        ["v1", "health", "service", name] => match (query.switch("passing"), directory.services.get(*name)) {
            (Err(value), _) => Answer::error(StatusCode::BAD_REQUEST, &format!("passing={value:?} is no boolean")),
            (Ok(passing), Some(service)) => {
                Answer::json(&consul::health_service(view, service, query, passing), pretty)
            }
            (Ok(_), None) => nothing(),
        },
        ["v1", "status", "leader"] => Answer::json(&leader(view), pretty),
        ["v1", "status", "peers"] => Answer::json(&[leader(view)], pretty),
        ["v1", "weft", "status"] => Answer::json(&own::status(directory, view.settings), pretty),
        ["v1", "weft", "services"] => Answer::json(&own::services(directory, query.first("name")), pretty),
        ["v1", "weft", "resolve"] => resolved(asked, view, pretty),
        _ => return None,
    };
    Some(answer)
}

/// Consul's empty list: of a service that nobody has registered.
fn nothing() -> Answer {
    Answer::json(&[(); 0], false)
}

/// What would be answered wrongly by ignoring it.
fn refuse(asked: &Asked, view: &View<'_>) -> Option<Answer> {
    if let Some(dc) = asked.query.first("dc")
        && !dc.is_empty()
        && dc != view.settings.cluster
    {
        // Consul's own status and words.
        return Some(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"));
    }
    let filter = asked.query.first("filter").is_some_and(|filter| !filter.is_empty());
    let sentence = "Weft does not evaluate ?filter= expressions; filter what comes back, or ask with ?tag= or ?passing";
    filter.then(|| Answer::error(StatusCode::NOT_IMPLEMENTED, sentence))
}

/// There is no leader to elect: each agent answers alone, so each names itself.
fn leader(view: &View<'_>) -> String {
    let local = view.directory.nodes.get(&view.directory.local);
    local.map_or_else(|| view.settings.listen.to_string(), |node| node.facts.gossip.to_string())
}

fn resolved(asked: &Asked, view: &View<'_>, pretty: bool) -> Answer {
    let Some(name) = asked.query.first("name").filter(|name| !name.is_empty()) else {
        return Answer::error(StatusCode::BAD_REQUEST, "say which name: /v1/weft/resolve?name=NAME");
    };
    match resolve(view.directory, name, &view.settings.domain) {
        Ok(resolved) => Answer::json(&resolved, pretty),
        Err(error @ Unresolved::Form(..)) => Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error) => Answer::error(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

fn unknown(path: &[&str]) -> Answer {
    let family = match path {
        ["v1", family, ..] => NOT_KEPT.iter().find(|(name, _)| name == family),
        _ => None,
    };
    match family {
        Some((_, sentence)) => Answer::error(StatusCode::NOT_IMPLEMENTED, sentence),
        None => Answer::error(StatusCode::NOT_FOUND, "no such path in Weft's API"),
    }
}

/// True for the paths on which Consul's `?index=` waits for a change.
pub(super) fn may_wait(asked: &Asked) -> bool {
    let segments = asked.segments();
    asked.reads()
        && matches!(segments.as_slice(), ["v1", "catalog" | "health" | "weft", ..] | ["v1", "agent", "services"])
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
