//! The verbs about how calls of services are carried, against an agent of canned answers. What is signed is in no snapshot: a
//! signature is another each time, and `tests/netns` brings it to real agents.

use crate::fake::Canned;
use crate::verbs::{assert_snapshot, once};

const BILLING: &str = "tests/cli/files/billing.toml";
const WRONG: &str = "tests/cli/files/wrong.toml";

/// What the next decision has to name, and what holds.
fn form(traffic: &str) -> Vec<Canned> {
    once(&format!(
        r#"{{"cluster":"prod","writer":"01010101010101010101010101010101","lamport":4,"seen":[],"default":"allow",
        "default_is_set":false,"current":null{traffic}}}"#
    ))
}

/// Of `billing` the document, and what is said of `web` is nothing.
fn holding(document: &str) -> [(&'static str, Vec<Canned>); 2] {
    let traffic = format!(r#","traffic":{{"document":{document:?},"trial":null}}"#);
    [("GET /v1/weft/policy?traffic=billing", form(&traffic)), ("GET /v1/weft/policy?traffic=web", form(""))]
}

#[test]
fn plan_tells_key_by_key_and_by_its_exit_code() {
    let old = r#"{"limits":{"queue":7},"retries":{"max":1,"on_server_error":true},"timeouts":{"request":"1s"}}"#;
    let lines: &[&[&str]] = &[
        &["plan", "-f", BILLING],
        &["plan", "-f", BILLING, "--json"],
        &["apply", "-f", BILLING, "--dry-run"],
        &["plan", "-f", WRONG],
        &["plan", "-f", "tests/cli/files/nothing.toml"],
    ];
    assert_snapshot("plan", &holding(old), lines);
}

#[test]
fn a_plan_of_what_holds_already_changes_nothing() {
    let split = r#"[{"platform":"vm","weight":90},{"platform":"kubernetes","weight":10}]"#;
    let same =
        format!(r#"{{"limits":{{"queue":7}},"retries":{{"max":2}},"split":{split},"timeouts":{{"request":"2s"}}}}"#);
    let mut answers = holding(&same);
    answers[1].1 = form(r#","traffic":{"document":"{\"outlier\":{\"ejection\":\"10s\"}}","trial":null}"#);
    assert_snapshot("plan_same", &answers, &[&["plan", "-f", BILLING]]);
}

#[test]
fn what_is_asked_for_wrongly_is_said_before_anything_is_signed() {
    let unreadable = r#"{"quotas":{"daily":5}}"#;
    let lines: &[&[&str]] = &[
        &["apply", "-f", BILLING],
        &["apply", "-f", BILLING, "--zone", "eu-1a"],
        &["apply", "-f", BILLING, "--zone", "eu-1a", "--bake", "8d", "--dry-run"],
        &["apply", "-f", BILLING, "--zone", "moon", "--bake", "1m", "--dry-run"],
        &["apply", "-f", BILLING, "--confirm", "--dry-run"],
        &["shift", "billing", "--to", "v2", "--percent", "10"],
        &["shift", "billing", "--to", "tag=v2", "--percent", "101"],
        &["policy", "revert", "billing"],
    ];
    let mut answers = holding("{}").to_vec();
    answers.push(("GET /v1/agent/members", once(&crate::canned::members())));
    assert_snapshot("apply_wrong", &answers, lines);
    assert_snapshot("plan_unreadable", &holding(unreadable), &[&["plan", "-f", BILLING]]);
}

#[test]
fn policies_are_listed_shown_and_looked_back_at() {
    let billing = r#"{"service":"billing","number":3,"operator":"anna","at_unix_s":1800000300,
        "stated":{"document":"{\"retries\":{\"max\":1},\"split\":[{\"tag\":\"v1\",\"weight\":90},{\"tag\":\"v2\",\"weight\":10}]}","trial":null},
        "in_force":true,"applied":3,"not_understood":null,"conflicts":[]"#;
    let web = r#"{"service":"web","number":2,"operator":"berta","at_unix_s":1800000000,
        "stated":{"document":"{\"quotas\":{}}","trial":null},
        "in_force":false,"applied":1,"not_understood":"unknown key `quotas`; remove it",
        "conflicts":[{"operator":"carl","at_unix_s":1800000001,"document":"{}"}]}"#;
    let api = r#"{"service":"api","number":1,"operator":"anna","at_unix_s":1800000000,
        "stated":{"document":"{}","trial":{"zone":"eu-1b","document":"{\"retries\":{\"max\":0}}","ends_unix_s":1800000600,"here":"elsewhere"}},
        "in_force":true,"applied":1,"not_understood":null,"conflicts":[]}"#;
    let past = r#","history":[
        {"number":3,"writer":"01","operator":"anna","at_unix_s":1800000300,"holds":true,"applied":true,
         "stated":{"document":"{\"retries\":{\"max\":1},\"split\":[{\"tag\":\"v1\",\"weight\":90},{\"tag\":\"v2\",\"weight\":10}]}","trial":null}},
        {"number":2,"writer":"02","operator":"berta","at_unix_s":1800000200,"holds":false,"applied":false,"stated":null},
        {"number":1,"writer":"01","operator":"anna","at_unix_s":1800000100,"holds":false,"applied":false,
         "stated":{"document":"{\"retries\":{\"max\":1}}","trial":{"zone":"eu-1a","document":"{}","ends_unix_s":1800000700}}}]"#;
    let answers = [
        ("GET /v1/weft/traffic-policies", once(&format!("[{api},{billing}}},{web}]"))),
        ("GET /v1/weft/traffic-policies/billing", once(&format!("{billing}{past}}}"))),
        ("GET /v1/weft/traffic-policies/api", once(api)),
        (
            "GET /v1/weft/traffic-policies/nothing",
            vec![Canned::refused("404 Not Found", "nothing was ever stated of nothing")],
        ),
    ];
    let lines: &[&[&str]] = &[
        &["policy", "list"],
        &["policy", "list", "--json"],
        &["policy", "show", "billing"],
        &["policy", "show", "api"],
        &["policy", "show", "nothing"],
        &["policy", "history", "billing"],
        &["policy", "history", "billing", "--json"],
    ];
    assert_snapshot("policy", &answers, lines);
    let none = [("GET /v1/weft/traffic-policies", once("[]"))];
    assert_snapshot("policy_none", &none, &[&["policy", "list"]]);
}
