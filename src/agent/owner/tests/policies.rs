//! An operator's decision: taken, kept over a crash, refused when it is not one, and carried on when nobody else does.

use super::*;
use crate::identity::{Operator, Voucher, operator_create};
use crate::model::{Action, Change, Dot, Policy, PolicyId, Statement};
use crate::wire::policy::{POLICY_FORMAT, decode_policy};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn operator(dir: &Path, name: &str) -> Operator {
    let name = NodeName::parse(name).unwrap();
    let path = operator_create(dir, &name, DAY, &dir.join(format!("{name}.pem"))).unwrap().path;
    Operator::load(&path).unwrap()
}

/// What an operator decides who looks at this host.
fn statement(bench: &Bench, action: Action) -> Statement {
    let change = Change::Default(action);
    let (dot, seen) = bench.owner.policies.compiled().next(&change.id(), bench.owner.local);
    Statement { dot, seen, operator: "anna".into(), at_unix_s: 0, change }
}

pub(super) async fn decide(bench: &mut Bench, body: &[u8]) -> Result<(), Refused> {
    let (reply, answer) = oneshot::channel();
    bench.owner.decide(body, reply);
    let answer = answer.await.unwrap();
    bench.turn();
    answer
}

fn default_action(bench: &Bench) -> Action {
    bench.directory.load().intentions.default_action()
}

pub(super) fn read(body: &[u8]) -> Policy {
    decode_policy(POLICY_FORMAT, body).unwrap().0
}

fn is_carried(bench: &Bench, id: &PolicyId) -> bool {
    let record = RecordId { origin: bench.owner.local, kind: RecordKind::POLICY, key: id.key() };
    bench.owner.catalog.get(&record).is_some_and(|record| !record.header().tombstone)
}

#[tokio::test]
async fn a_decision_holds_at_once_and_after_a_crash() {
    let dir = enrolled();
    let anna = operator(dir.path(), "anna");
    let mut bench = Bench::start(dir.path(), Vec::new());
    let body = anna.sign(&statement(&bench, Action::Deny)).unwrap();
    decide(&mut bench, &body).await.unwrap();
    assert_eq!(default_action(&bench), Action::Deny);
    let before = bench.directory.load().intentions.clone();
    bench.owner.dirty = true;
    bench.turn();
    assert!(Arc::ptr_eq(&before, &bench.directory.load().intentions), "compiled once");
    bench.stop();
    let mut bench = Bench::start(dir.path(), Vec::new());
    assert_eq!(default_action(&bench), Action::Deny);
    let body = anna.sign(&statement(&bench, Action::Allow)).unwrap();
    decide(&mut bench, &body).await.unwrap();
    bench.stop();
    assert_eq!(default_action(&Bench::start(dir.path(), Vec::new())), Action::Allow);
}

#[tokio::test]
async fn what_is_not_decided_here_and_now_by_an_operator_changes_nothing() {
    let (dir, elsewhere) = (enrolled(), enrolled());
    let anna = operator(dir.path(), "anna");
    let mut bench = Bench::start(dir.path(), Vec::new());
    let deny = statement(&bench, Action::Deny);
    let foreign = operator(elsewhere.path(), "anna").sign(&deny).unwrap();
    assert!(matches!(decide(&mut bench, &foreign).await, Err(Refused::NotGranted(_))));
    let mut changed = anna.sign(&deny).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    assert!(decide(&mut bench, &changed).await.is_err());
    assert!(matches!(decide(&mut bench, b"nonsense").await, Err(Refused::Invalid(_))));
    assert_eq!(default_action(&bench), Action::Allow);
    let deny = anna.sign(&deny).unwrap();
    decide(&mut bench, &deny).await.unwrap();
    // The same once more, as somebody would who had seen it pass.
    assert!(matches!(decide(&mut bench, &deny).await, Err(Refused::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn what_no_living_host_carries_is_carried_on() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let gone = NodeId([9; 16]);
    let made_there = Statement { dot: Dot { lamport: 1, writer: gone }, ..statement(&bench, Action::Deny) };
    let policy = Arc::new(read(&operator(dir.path(), "anna").sign(&made_there).unwrap()));
    bench.owner.note_policy(gone, &policy);
    bench.owner.dirty = true;
    bench.turn();
    assert_eq!(default_action(&bench), Action::Deny);
    assert!(!is_carried(&bench, &PolicyId::Default), "its host may only be restarting");
    tokio::time::advance(Duration::from_secs(3)).await;
    bench.turn();
    assert!(is_carried(&bench, &PolicyId::Default));
    // The other host's record goes with it, and is tombstoned or forgotten: nothing changes.
    bench.owner.policies.drop_key(&PolicyId::Default.key(), gone);
    bench.turn();
    assert_eq!(default_action(&bench), Action::Deny);

    // A later decision, made elsewhere, and what was carried need not be.
    let (dot, seen) = bench.owner.policies.compiled().next(&PolicyId::Default, NodeId([8; 16]));
    let later = Statement { dot, seen, ..statement(&bench, Action::Allow) };
    let later =
        Arc::new(read(&operator(dir.path(), "berta").sign(&Statement { operator: "berta".into(), ..later }).unwrap()));
    bench.owner.note_policy(NodeId([8; 16]), &later);
    bench.owner.dirty = true;
    bench.turn();
    assert_eq!(default_action(&bench), Action::Allow);
    assert!(!is_carried(&bench, &PolicyId::Default));
}

#[tokio::test]
async fn an_issuers_host_vouches_for_what_holds() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.owner.policies = Desk::new(Voucher::make(dir.path(), "prod").unwrap());
    let body = operator(dir.path(), "anna").sign(&statement(&bench, Action::Deny)).unwrap();
    decide(&mut bench, &body).await.unwrap();
    let id = RecordId { origin: bench.owner.local, kind: RecordKind::POLICY, key: PolicyId::Default.key() };
    let carried = bench.owner.catalog.get(&id).unwrap().clone();
    assert!(read(carried.body()).is_vouched);
    let late = std::time::SystemTime::now() + 30 * DAY;
    assert!(bench.owner.identity.verify_policy(&body, late).is_err());
    assert!(bench.owner.identity.verify_policy(carried.body(), late).is_ok());
    assert_eq!(default_action(&bench), Action::Deny);
}
