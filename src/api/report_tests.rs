//! Who may and who did, of the specimen's cluster.

use hyper::Method;
use serde_json::Value;

use super::*;
use crate::api::specimen;

fn told(query: &str) -> (u16, Value) {
    let asked = Asked::new(Method::GET, "/v1/weft/access", query, false);
    let answer = specimen::with_view(&specimen::directory(), |view| access(&asked, view));
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap())
}

#[test]
fn every_pair_has_a_verdict_and_the_rule_that_decides() {
    let (status, report) = told("");
    assert_eq!(status, 200);
    let may = report["may"].as_array().unwrap();
    let pairs: Vec<(Option<&str>, &str)> =
        may.iter().map(|pair| (pair["source"].as_str(), pair["destination"].as_str().unwrap())).collect();
    let expected = [(None, "billing"), (Some("legacy"), "billing"), (None, "legacy"), (Some("billing"), "legacy")];
    assert_eq!(pairs, expected);
    for pair in may {
        assert!(["allow", "deny", "requests"].contains(&pair["verdict"].as_str().unwrap()), "{pair}");
        assert!(!pair["rule"].as_str().unwrap().is_empty());
    }
    let (_, one) = told("service=LEGACY");
    assert_eq!(one["may"].as_array().unwrap().len(), 3);
    assert_eq!((told("service=nothing").0, told("service=a/b").0), (404, 400));
}

#[test]
fn only_calls_to_this_hosts_own_instances_are_told_by_who_made_them() {
    let edge = |direction, caller_service: &str, calls| Edge {
        direction,
        caller: "web-02".into(),
        caller_service: caller_service.into(),
        codes: [0, 0, calls, 0, 0, 1],
        ..specimen::traffic().edges.remove(0)
    };
    let edges = [
        edge(Direction::Out, "", 9),
        edge(Direction::In, "web", 3),
        edge(Direction::In, "web", 4),
        edge(Direction::In, "", 1),
    ];
    let did_of = |source, calls| Did { source, node: "web-02", destination: "billing", calls };
    assert_eq!(did(&edges, None), [did_of(None, 2), did_of(Some("web"), 9)]);
    assert_eq!(did(&edges, Some("web")), [did_of(Some("web"), 9)]);
    assert_eq!(did(&edges, Some("other")), []);
}
