//! Which path is read with what. Pure: a parsed request and a view in, an [`Outcome`] out; metrics, which are not in the
//! view, are named, not rendered. What changes something is `writes`'s.

use hyper::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use super::connect;
use super::consul::agent::ServiceHealth;
use super::consul::{Asking, View, agent, catalog, health, members};
use super::explain::explain;
use super::filter::{self, Filter, FilterError, Kind};
use super::own;
use super::parameters::refuse;
use super::report;
use super::request::Asked;
use super::resolve::{Unresolved, resolve};
use super::traffic_policies;
use super::trust::trust;
use crate::model::{Health, Service};

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer(Answer),
    /// Render the metrics.
    Metrics(MetricsForm),
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricsForm {
    OpenMetrics,
    /// Text format 0.0.4.
    Prometheus,
    /// The JSON of Consul's agent.
    Consul {
        pretty: bool,
    },
}

/// Consul's families of endpoints that have no counterpart in Weft, and what to say to those who ask.
const NOT_KEPT: [(&str, &str); 19] = [
    ("kv", "Weft keeps no key-value store; programs that need one must keep Consul for it"),
    ("session", "Weft keeps no sessions; programs that hold locks in Consul must keep Consul for them"),
    ("txn", "Weft keeps no key-value store and so no transactions; programs that need them must keep Consul"),
    ("query", "Weft has no prepared queries; ask /v1/health/service/NAME?passing"),
    ("event", "Weft carries no user events"),
    ("acl", "Weft's API tokens are each host's own, made on it as root: `weft acl create`"),
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

/// Endpoints within families that Weft has, which it does not have.
const NOT_BUILT: [(&[&str], &str); 10] = [
    (
        &["catalog", "register"],
        "Weft does not register services for hosts without an agent; register them at the agent of the host they run on",
    ),
    (
        &["catalog", "deregister"],
        "Weft does not deregister other hosts' services; deregister them at the agent of the host they run on",
    ),
    (
        &["catalog", "connect"],
        "Weft has no sidecars; every service is reached through the mesh: ask /v1/catalog/service",
    ),
    (&["catalog", "gateway-services"], "Weft has no gateways"),
    (&["health", "connect"], "Weft has no sidecars; every service is reached through the mesh: ask /v1/health/service"),
    (&["health", "ingress"], "Weft has no gateways"),
    (&["agent", "connect"], "Weft has no Connect CA or sidecar API; every host's certificate comes from `weft enroll`"),
    (&["agent", "host"], "Weft does not report on the host's hardware; a node exporter does"),
    (&["agent", "monitor"], "Weft does not stream its log; read it with `journalctl -u weft`"),
    (&["agent", "token"], "agents need no tokens here; programs' tokens are made by `weft acl create`"),
];

const READ: &str = "GET, HEAD";

/// Decides.
pub(super) fn route(asked: &Asked, view: &View<'_>) -> Outcome {
    let segments = asked.segments();
    let path = segments.as_slice();
    let known = match path {
        ["metrics"] => Some(Outcome::Metrics(MetricsForm::OpenMetrics)),
        ["v1", "agent", "metrics"] => Some(metrics(asked)),
        path => read(path, asked, view).map(Outcome::Answer),
    };
    match known {
        Some(known) if asked.reads() => known,
        Some(_) => Outcome::Answer(Answer::method_not_allowed(READ)),
        None => Outcome::Answer(unknown(path)),
    }
}

fn is_pretty(asked: &Asked) -> bool {
    asked.query.switch("pretty").unwrap_or(true)
}

fn metrics(asked: &Asked) -> Outcome {
    Outcome::Metrics(match asked.query.first("format") {
        Some("prometheus") => MetricsForm::Prometheus,
        Some("openmetrics") => MetricsForm::OpenMetrics,
        _ if asked.wants_text => MetricsForm::Prometheus,
        _ => MetricsForm::Consul { pretty: is_pretty(asked) },
    })
}

/// What the elements of a list are, for `?filter=`. `None`: the endpoint takes none, as in Consul.
fn elements(path: &[&str]) -> Option<&'static Kind> {
    let kind = match path {
        ["v1", "agent", "services"] | ["v1", "catalog", "node" | "node-services", _] => &filter::AGENT_SERVICE,
        ["v1", "agent", "checks"] | ["v1", "health", "node" | "checks" | "state", _] => &filter::CHECK,
        ["v1", "agent", "members"] => &filter::MEMBER,
        ["v1", "catalog", "nodes"] => &filter::NODE,
        ["v1", "catalog", "services"] | ["v1", "catalog", "service", _] => &filter::CATALOG_SERVICE,
        ["v1", "health", "service", _] | ["v1", "weft", "watch"] => &filter::HEALTH_ENTRY,
        _ => return None,
    };
    Some(kind)
}

fn filter_of(path: &[&str], asked: &Asked) -> Result<Option<Filter>, FilterError> {
    let text = asked.query.first("filter").filter(|text| !text.trim().is_empty());
    text.zip(elements(path)).map(|(text, kind)| Filter::compile(text, kind)).transpose()
}

/// The answer to a path that is read; `None` if there is no such path.
fn read(path: &[&str], asked: &Asked, view: &View<'_>) -> Option<Answer> {
    if matches!(path, ["v1", "agent" | "catalog" | "health" | "status" | "connect", ..])
        && let Some(refused) = refuse(asked, &view.settings.cluster)
    {
        return Some(refused);
    }
    let filter = match filter_of(path, asked) {
        Ok(filter) => filter,
        Err(error) => return Some(Answer::error(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    let asking = Asking::new(view, &asked.query, filter.as_ref());
    match path {
        ["v1", "agent", rest @ ..] => read_agent(rest, asked, view, &asking),
        ["v1", "catalog", rest @ ..] => read_catalog(rest, asked, view, &asking),
        ["v1", "health", rest @ ..] => read_health(rest, asked, view, &asking),
        ["v1", "connect", rest @ ..] => connect::read(rest, asked, view),
        ["v1", "weft", "policy"] => Some(connect::form(asked, view)),
        ["v1", "weft", "access"] => Some(report::access(asked, view)),
        ["v1", "status", "leader"] => Some(json(asked, &leader(view))),
        ["v1", "status", "peers"] => Some(json(asked, &[leader(view)])),
        ["v1", "weft", rest @ ..] => read_own(rest, asked, view, &asking),
        _ => None,
    }
}

fn json(asked: &Asked, value: &impl Serialize) -> Answer {
    Answer::json(value, is_pretty(asked))
}

fn read_agent(path: &[&str], asked: &Asked, view: &View<'_>, asking: &Asking<'_>) -> Option<Answer> {
    let answer = match path {
        ["self"] => json(asked, &members::agent_self(view)),
        ["members"] => json(asked, &members::members(view, asking)),
        ["version"] => json(asked, &members::version(view)),
        ["services"] => json(asked, &agent::services(view, asking)),
        ["checks"] => json(asked, &agent::checks(view, asking)),
        ["service", id @ ..] if !matches!(id, [] | [""]) => {
            let id = id.join("/");
            match agent::service(view, &id) {
                Some((service, hash)) => json(asked, &service).with_content_hash(hash),
                None => Answer::text(StatusCode::NOT_FOUND, &format!("unknown service ID: {id}")),
            }
        }
        ["health", "service", "id", id @ ..] => {
            let id = id.join("/");
            let found = agent::health_by_id(view, &id);
            let missing = format!("ServiceId {id} not found");
            let of = |health: &ServiceHealth<'_>| json(asked, health);
            let unknown = || of(&ServiceHealth::unknown());
            verdict(asked, found.as_ref().map(ServiceHealth::word), &missing, || {
                found.as_ref().map_or_else(unknown, of)
            })
        }
        ["health", "service", "name", name @ ..] => {
            let name = name.join("/");
            let found = agent::health_by_name(view, &name);
            let missing = format!("ServiceName {name} Not Found");
            let word = (!found.is_empty()).then(|| agent::worst(&found));
            verdict(asked, word, &missing, || json(asked, &found))
        }
        _ => return None,
    };
    Some(answer)
}

/// A local service's health as a status code, for load balancers; `None` is a service that is not here.
fn verdict(asked: &Asked, word: Option<&'static str>, missing: &str, body: impl FnOnce() -> Answer) -> Answer {
    let status = word.map_or(StatusCode::NOT_FOUND, agent::status_code);
    if asked.wants_text || asked.query.first("format") == Some("text") {
        return Answer::text(status, word.unwrap_or(missing));
    }
    body().with_status(status)
}

/// A service by its name, which Consul reads without regard to case.
fn service_named<'a>(view: &View<'a>, name: &str) -> Option<&'a Service> {
    view.directory.services.get(name.to_ascii_lowercase().as_str()).map(|service| &**service)
}

fn read_catalog(path: &[&str], asked: &Asked, view: &View<'_>, asking: &Asking<'_>) -> Option<Answer> {
    let answer = match path {
        ["datacenters"] => json(asked, &[&view.settings.cluster]),
        ["nodes"] => json(asked, &catalog::nodes(view, asking)),
        ["services"] => json(asked, &catalog::services(view, asking)),
        ["service", name] if !name.is_empty() => match service_named(view, name) {
            Some(service) => json(asked, &catalog::instances(view, service, asking)),
            None => nothing(),
        },
        ["node", name] if !name.is_empty() => json(asked, &catalog::node(view, name, asking)),
        ["node-services", name] if !name.is_empty() => json(asked, &catalog::node_services(view, name, asking)),
        _ => return None,
    };
    Some(answer)
}

fn read_health(path: &[&str], asked: &Asked, view: &View<'_>, asking: &Asking<'_>) -> Option<Answer> {
    let answer = match path {
        ["service", name] if !name.is_empty() => health_of(name, asked, view, asking),
        ["checks", name] if !name.is_empty() => match service_named(view, name) {
            Some(service) => json(asked, &health::checks(view, service, asking)),
            None => nothing(),
        },
        ["node", name] if !name.is_empty() => json(asked, &health::node(view, name, asking)),
        ["state", state] if !state.is_empty() => match *state {
            "any" => json(asked, &health::state(view, None, asking)),
            "passing" => json(asked, &health::state(view, Some(Health::Passing), asking)),
            "warning" => json(asked, &health::state(view, Some(Health::Warning), asking)),
            "critical" => json(asked, &health::state(view, Some(Health::Critical), asking)),
            // Consul had it once, and clients may still ask; nothing is ever in it.
            "unknown" => nothing(),
            other => {
                let sentence = format!("{other:?} is no state; ask for any, passing, warning or critical");
                Answer::error(StatusCode::BAD_REQUEST, &sentence)
            }
        },
        _ => return None,
    };
    Some(answer)
}

fn health_of(name: &str, asked: &Asked, view: &View<'_>, asking: &Asking<'_>) -> Answer {
    match (asked.query.switch("passing"), service_named(view, name)) {
        (Err(value), _) => Answer::error(StatusCode::BAD_REQUEST, &format!("passing={value:?} is no boolean")),
        (Ok(passing), Some(service)) => json(asked, &health::service(view, service, asking, passing)),
        (Ok(_), None) => nothing(),
    }
}

fn read_own(path: &[&str], asked: &Asked, view: &View<'_>, asking: &Asking<'_>) -> Option<Answer> {
    let directory = view.directory;
    let name = asked.query.first("name").filter(|name| !name.is_empty());
    let answer = match (path, name) {
        (["status"], _) => json(asked, &own::status(directory, view.settings, view.local)),
        (["services"], name) => json(asked, &own::services(directory, name)),
        (["trust"], _) => json(asked, &trust(view)),
        // Reading it goes on: `responder` does that.
        (["tap"], _) => Answer::method_not_allowed("GET"),
        (["traffic"], _) => json(asked, &(view.traffic)()),
        (["traffic-policies"], _) => json(asked, &traffic_policies::list(view)),
        (["traffic-policies", service], _) => match traffic_policies::one(view, service) {
            Ok(told) => json(asked, &told),
            Err(refused) => refused,
        },
        (["resolve" | "explain" | "watch"], None) => {
            let sentence = format!("say which name: /v1/weft/{}?name=NAME", path.join("/"));
            Answer::error(StatusCode::BAD_REQUEST, &sentence)
        }
        (["resolve"], Some(name)) => told(asked, resolve(directory, name, &view.settings.domain)),
        (["explain"], Some(name)) => {
            let tag = asked.query.first("tag").filter(|tag| !tag.is_empty());
            told(asked, explain(view, name, tag))
        }
        (["watch"], Some(name)) => health_of(name, asked, view, asking),
        _ => return None,
    };
    Some(answer)
}

fn told(asked: &Asked, result: Result<impl Serialize, Unresolved>) -> Answer {
    match result {
        Ok(told) => json(asked, &told),
        Err(error @ Unresolved::Form(..)) => Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error) => Answer::error(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

/// Consul's empty list: of a service that nobody has registered.
fn nothing() -> Answer {
    Answer::json(&[(); 0], false)
}

/// There is no leader to elect: each agent answers alone, so each names itself.
fn leader(view: &View<'_>) -> String {
    let local = view.directory.nodes.get(&view.directory.local);
    local.map_or_else(|| view.settings.listen.to_string(), |node| node.facts.gossip.to_string())
}

fn unknown(path: &[&str]) -> Answer {
    let sentence = match path {
        ["v1", rest @ ..] => {
            let built = NOT_BUILT.iter().find(|(start, _)| rest.starts_with(start)).map(|(_, sentence)| *sentence);
            let family = rest.first().and_then(|family| NOT_KEPT.iter().find(|(name, _)| name == family));
            built.or(family.map(|(_, sentence)| *sentence))
        }
        _ => None,
    };
    match sentence {
        Some(sentence) => Answer::error(StatusCode::NOT_IMPLEMENTED, sentence),
        None => Answer::error(StatusCode::NOT_FOUND, "no such path in Weft's API"),
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
