//! Intentions as Consul's clients read them, and what an operator's decision looks like on its way in.

use serde_json::{Value, json};

use super::*;
use crate::api::router::{Outcome, route};
use crate::api::specimen::{self, with_view};

fn asked(method: Method, target: &str) -> Asked {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Asked::new(method, path, query, false)
}

fn get(target: &str) -> (u16, Value) {
    with_view(&specimen::directory(), |view| match route(&asked(Method::GET, target), view) {
        Outcome::Answer(answer) => (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default()),
        other => panic!("{target} gave {other:?}"),
    })
}

#[test]
fn intentions_are_listed_the_most_precise_first() {
    let (status, all) = get("/v1/connect/intentions");
    let named: Vec<_> =
        all.as_array().unwrap().iter().map(|each| (&each["SourceName"], &each["DestinationName"])).collect();
    assert_eq!(status, 200);
    assert_eq!(
        named,
        [(&json!("web"), &json!("billing")), (&json!("*"), &json!("billing")), (&json!("*"), &json!("legacy"))]
    );
    assert_eq!((&all[0]["Action"], &all[0]["Precedence"]), (&json!("allow"), &json!(9)));
    assert_eq!(all[2]["Permissions"][0]["HTTP"]["PathPrefix"], "/v1/");
    assert_eq!(all[2].get("Action"), None);
}

#[test]
fn one_intention_is_found_by_its_source_and_destination() {
    assert_eq!(get("/v1/connect/intentions/exact?source=default/web&destination=billing").1["SourceName"], "web");
    assert_eq!(get("/v1/connect/intentions/exact?source=web&destination=legacy").0, 404);
    assert_eq!(get("/v1/connect/intentions/exact?source=web").0, 400);
    assert_eq!(get("/v1/connect/intentions/aaaa").0, 404);
}

#[test]
fn intentions_that_fit_a_service_are_matched() {
    let (_, found) = get("/v1/connect/intentions/match?by=destination&name=billing&name=nothing");
    assert_eq!((found["billing"].as_array().unwrap().len(), found["nothing"].as_array().unwrap().len()), (2, 0));
    let (_, found) = get("/v1/connect/intentions/match?by=source&name=db");
    assert_eq!(found["db"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/connect/intentions/match?by=both&name=db").0, 400);
}

#[test]
fn a_check_says_the_verdict_and_the_rule() {
    let (_, told) = get("/v1/connect/intentions/check?source=web&destination=billing");
    assert_eq!((&told["Allowed"], &told["Weft"]["rule"]), (&json!(true), &json!("intention web -> billing: allow")));
    let (_, told) = get("/v1/connect/intentions/check?source=*&destination=billing");
    assert_eq!((&told["Allowed"], &told["Weft"]["rule"]), (&json!(false), &json!("intention * -> billing: deny")));
    assert_eq!(get("/v1/connect/intentions/check?source=a&destination=legacy").1["Allowed"], false);
    assert_eq!(get("/v1/connect/intentions/check?source=a&destination=legacy&path=/v1/x").1["Allowed"], true);
}

#[test]
fn writes_in_consuls_way_are_refused_with_a_sentence() {
    for method in [Method::PUT, Method::POST, Method::DELETE] {
        let refused = refuse_write(&asked(method, "/v1/connect/intentions/exact?source=a&destination=b")).unwrap();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert!(String::from_utf8_lossy(&refused.body).contains("weft intention"));
    }
    assert!(refuse_write(&asked(Method::GET, "/v1/connect/intentions")).is_none());
    assert_eq!(get("/v1/connect/ca/roots").0, 501);
}

#[test]
fn a_form_names_what_a_decision_replaces() {
    let (_, form) = get("/v1/weft/policy?source=web&destination=billing");
    assert_eq!((&form["lamport"], &form["seen"][0][1]), (&json!(4), &json!(3)));
    assert_eq!((&form["cluster"], &form["current"]["action"]), (&json!("prod"), &json!("allow")));
    let (_, form) = get("/v1/weft/policy");
    assert_eq!(
        (&form["lamport"], &form["default"], &form["default_is_set"]),
        (&json!(1), &json!("allow"), &json!(false))
    );
    assert_eq!(is_decision(&asked(Method::PUT, "/v1/weft/policy")), Some(true));
    assert_eq!(is_decision(&asked(Method::POST, "/v1/weft/policy")), Some(false));
    assert_eq!(is_decision(&asked(Method::GET, "/v1/weft/policy")), None);
    assert_eq!(decision_in(br#"{"Policy": "AQI="}"#).unwrap(), [1, 2]);
    for wrong in [&b"x"[..], b"{}", br#"{"Policy": "?"}"#] {
        assert_eq!(decision_in(wrong).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
