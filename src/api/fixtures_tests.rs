//! Consul's documented examples (its website's `api-docs`, v1.20) against our answers: the same keys, the same types, the
//! same status codes. The examples are in `tests/consul/fixtures`, their values shortened; keys beyond theirs are ours.

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::router::{Outcome, route};
use super::specimen::{self, with_view};
use super::telemetry::telemetry;
use crate::api::answer::Answer;
use crate::api::request::Asked;

/// What the documentation shows and we do not send, with the reason.
const MISSING: [(&str, &str); 6] = [
    // Only Consul Enterprise sends it.
    ("", "Namespace"),
    // Network coordinates are not kept; Consul itself leaves it out without them.
    ("agent-self", "Coord"),
    // Services here are nobody's sidecars; Consul sends it for those only.
    ("agent-service", "Proxy"),
    // What has permissions has no action of its own; Consul leaves it out too.
    ("connect-intentions", "Action"),
    ("connect-intentions-match", "Action"),
    // The example has the node's id in each check; Consul itself does not send it.
    ("health-node", "ID"),
];

/// Objects with free keys: their values are alike, their keys are not the contract.
const MAPS: [&str; 9] = [
    "Meta",
    "NodeMeta",
    "ServiceMeta",
    "TaggedAddresses",
    "ServiceTaggedAddresses",
    "Labels",
    "Header",
    "DebugConfig",
    "Tags",
];

macro_rules! fixture {
    ($name:literal) => {
        ($name, include_str!(concat!("../../tests/consul/fixtures/", $name, ".json")))
    };
}

fn answer(target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    with_view(&specimen::directory(), |view| match route(&Asked::new(Method::GET, path, query, false), view) {
        Outcome::Answer(answer) => answer,
        other => panic!("{target} gave {other:?}"),
    })
}

#[test]
fn every_documented_example_has_its_keys_and_types_here() {
    let (ok, unavailable) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
    for (target, status, (name, documented)) in [
        ("/v1/agent/self", ok, fixture!("agent-self")),
        ("/v1/agent/members", ok, fixture!("agent-members")),
        ("/v1/agent/services", ok, fixture!("agent-services")),
        ("/v1/agent/service/billing", ok, fixture!("agent-service")),
        ("/v1/agent/checks", ok, fixture!("agent-checks")),
        ("/v1/agent/health/service/id/worker", unavailable, fixture!("agent-health-service-id")),
        ("/v1/agent/health/service/name/worker", unavailable, fixture!("agent-health-service-name")),
        ("/v1/catalog/datacenters", ok, fixture!("catalog-datacenters")),
        ("/v1/catalog/nodes", ok, fixture!("catalog-nodes")),
        ("/v1/catalog/services", ok, fixture!("catalog-services")),
        ("/v1/catalog/service/billing", ok, fixture!("catalog-service")),
        ("/v1/catalog/node/web-01", ok, fixture!("catalog-node")),
        ("/v1/catalog/node-services/web-01", ok, fixture!("catalog-node-services")),
        ("/v1/health/node/web-01", ok, fixture!("health-node")),
        ("/v1/health/checks/billing", ok, fixture!("health-checks")),
        ("/v1/health/service/billing", ok, fixture!("health-service")),
        ("/v1/health/state/any", ok, fixture!("health-state")),
        ("/v1/connect/intentions", ok, fixture!("connect-intentions")),
        ("/v1/connect/intentions/exact?source=web&destination=billing", ok, fixture!("connect-intentions-exact")),
        ("/v1/connect/intentions/match?by=source&name=web", ok, fixture!("connect-intentions-match")),
        ("/v1/connect/intentions/check?source=web&destination=billing", ok, fixture!("connect-intentions-check")),
        ("/v1/status/leader", ok, fixture!("status-leader")),
        ("/v1/status/peers", ok, fixture!("status-peers")),
    ] {
        let answer = answer(target);
        assert_eq!((answer.status, answer.content_type), (status, "application/json"), "{target}");
        let ours: Value = serde_json::from_slice(&answer.body).unwrap();
        let keyed_by_id =
            matches!(name, "agent-services" | "agent-checks" | "catalog-services" | "connect-intentions-match");
        compare(name, &serde_json::from_str(documented).unwrap(), &ours, name, keyed_by_id);
    }
}

#[test]
fn metrics_have_the_documented_form() {
    let text = "# TYPE a gauge\na 1\n# TYPE b counter\nb_total{service=\"x\"} 2\n\
        # TYPE c histogram\nc_sum 3.5\nc_count 2\nc_bucket{le=\"+Inf\"} 2\n# EOF\n";
    let ours = serde_json::to_value(telemetry(text, std::time::UNIX_EPOCH)).unwrap();
    let (name, documented) = fixture!("agent-metrics");
    compare(name, &serde_json::from_str(documented).unwrap(), &ours, name, false);
}

/// `documented` and `ours` at `place`, down to the leaves.
fn compare(fixture: &str, documented: &Value, ours: &Value, place: &str, is_map: bool) {
    match (documented, ours) {
        // The documentation's null is a list or a map that is empty there.
        (Value::Null, _) => {}
        (Value::Object(documented), Value::Object(ours)) if is_map => {
            if let Some(documented) = documented.values().next() {
                // What was not announced has no VIP.
                let may_be_empty = place.ends_with("Labels") || place.ends_with("TaggedAddresses");
                assert!(!ours.is_empty() || may_be_empty, "{place} is empty");
                ours.iter()
                    .for_each(|(key, ours)| compare(fixture, documented, ours, &format!("{place}.{key}"), false));
            }
        }
        (Value::Object(documented), Value::Object(ours)) => {
            for (key, documented) in documented {
                let place = format!("{place}.{key}");
                let left_out = |(of, missing): &(&str, &str)| (of.is_empty() || *of == fixture) && missing == key;
                match ours.get(key) {
                    Some(ours) => {
                        let keyed_by_id = key == "Services" && documented.is_object();
                        compare(fixture, documented, ours, &place, keyed_by_id || MAPS.contains(&key.as_str()));
                    }
                    None => assert!(MISSING.iter().any(left_out), "{place} is missing"),
                }
            }
        }
        (Value::Array(documented), Value::Array(ours)) => {
            if let Some(documented) = documented.first() {
                assert!(!ours.is_empty() || place.ends_with("Tags"), "{place} is empty");
                ours.iter().for_each(|ours| compare(fixture, documented, ours, &format!("{place}[]"), false));
            }
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_)) => {}
        (documented, ours) => panic!("{place}: {ours} is not of the type of {documented}"),
    }
}

#[test]
fn the_documented_status_codes_are_ours() {
    for (target, status) in [
        ("/v1/agent/health/service/id/billing", 200),
        ("/v1/agent/health/service/id/billing-2", 429),
        ("/v1/agent/health/service/id/worker", 503),
        ("/v1/agent/health/service/id/nothing", 404),
        ("/v1/agent/health/service/name/billing", 429),
        ("/v1/agent/health/service/name/nothing", 404),
        ("/v1/agent/service/nothing", 404),
        ("/v1/catalog/node/nobody", 200),
        ("/v1/health/node/nobody", 200),
        ("/v1/health/service/nothing", 200),
        ("/v1/connect/intentions/exact?source=nobody&destination=nothing", 404),
        ("/v1/connect/intentions/check?source=web", 400),
        ("/v1/connect/ca/roots", 501),
        ("/v1/kv/some/key", 501),
        ("/v1/session/list", 501),
        ("/v1/txn", 501),
        ("/v1/query", 501),
    ] {
        assert_eq!(answer(target).status.as_u16(), status, "{target}");
    }
}
