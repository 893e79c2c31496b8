//! What is told of the past: what has changed, once, in order, and none of what a start only brings back.

use std::time::SystemTime;

use super::*;
use crate::history::{Event, read_history};
use crate::identity::{Operator, operator_create};
use crate::model::{Action, Change, Statement};
use crate::proxy;

fn told(dir: &Path) -> Vec<Event> {
    let (events, unreadable) = read_history(dir).unwrap();
    assert_eq!(unreadable, 0);
    events
}

fn words(dir: &Path) -> Vec<String> {
    told(dir).into_iter().map(|event| event.words).collect()
}

async fn deny(bench: &mut Bench, dir: &Path) {
    let name = NodeName::parse("anna").unwrap();
    let made = operator_create(dir, &name, Duration::from_secs(3600), &dir.join("anna.pem")).unwrap();
    let change = Change::Default(Action::Deny);
    let (dot, seen) = bench.owner.policies.compiled().next(&change.id(), bench.owner.local);
    let statement = Statement { dot, seen, operator: "anna".into(), at_unix_s: 0, change };
    let body = Operator::load(&made.path).unwrap().sign(&statement).unwrap();
    let (reply, answer) = oneshot::channel();
    bench.owner.decide(&body, reply);
    answer.await.unwrap().unwrap();
}

#[tokio::test]
async fn changes_are_told_once_and_a_start_brings_none_of_them_back() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("billing", &["http"])]);
    for health in [Health::Passing, Health::Critical, Health::Critical, Health::Passing] {
        bench.verdict(Some("billing"), "http", health);
    }
    deny(&mut bench, dir.path()).await;
    bench.stop();
    Bench::start(dir.path(), Vec::new()).stop();
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        &format!("weft {version} started; it is start number 1 of this host"),
        "billing on web-01 is critical, was passing: http",
        "billing on web-01 is passing, was critical",
        "anna has decided: calls are, where no intention fits, deny",
        "weft stopped",
        &format!("weft {version} started; it is start number 2 of this host"),
        "weft stopped",
    ];
    assert_eq!(words(dir.path()), expected);
}

#[tokio::test]
async fn a_host_joins_once_and_accusations_are_no_news() {
    use MemberState::{Alive, Failed, Left, Suspect, Unknown};
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let address = "10.0.0.2:7946".parse().unwrap();
    let mut change = |node: u8, name: &str, states: &[MemberState]| {
        let name = NodeName::parse(name).unwrap();
        states.iter().for_each(|state| bench.owner.note_member(NodeId([node; 16]), &name, *state, address));
    };
    change(2, "web-02", &[Alive, Suspect, Alive, Suspect, Failed, Failed, Alive, Left]);
    // What was over before this host came.
    change(3, "old-01", &[Failed, Left]);
    change(4, "web-04", &[Unknown, Alive]);
    bench.stop();
    let members: Vec<String> = words(dir.path()).into_iter().filter(|words| !words.starts_with("weft ")).collect();
    let expected =
        ["web-02 joined, at 10.0.0.2:7946", "web-02 failed", "web-02 is alive again", "web-02 left", "old-01 left"];
    assert_eq!(members, expected);
}

#[tokio::test]
async fn what_several_workers_find_out_about_an_instance_is_one_ejection() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let (node, service, instance) = (bench.owner.local, ServiceName::parse("billing").unwrap(), id("billing-2"));
    let begun = SystemTime::UNIX_EPOCH;
    let ejected = |after_s| proxy::Event::Ejected {
        node,
        service: service.clone(),
        instance: instance.clone(),
        until: begun + Duration::from_secs(after_s),
        why: "5 failures in a row".into(),
    };
    let returned = || proxy::Event::Returned { node, service: service.clone(), instance: instance.clone() };
    for event in [ejected(30), ejected(31), returned(), returned(), ejected(90), ejected(150)] {
        bench.owner.on_proxy(&event);
    }
    bench.stop();
    let events: Vec<Event> = told(dir.path()).into_iter().filter(|event| event.service == "billing").collect();
    let whats: Vec<&str> = events.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(whats, ["ejected", "returned", "ejected", "ejected"]);
    let first =
        "billing-2 of billing on web-01 gets no calls from here until 1970-01-01T00:00:30Z: 5 failures in a row";
    assert_eq!(events[0].words, first);
    assert_eq!((events[0].node.as_str(), events[0].instance.as_str()), ("web-01", "billing-2"));
}
