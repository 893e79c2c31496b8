//! How calls are carried, as operators state it: in force at once, on trial until its time is over, and what is not
//! understood leaves the last that was, over a restart too.

use std::time::UNIX_EPOCH;

use super::policies::{decide, operator, read};
use super::*;
use crate::identity::Operator;
use crate::model::{
    Change, Dot, PolicyId, Statement, TrafficAccount, TrafficPolicies, TrafficStatement, Trial, TrialHere,
};

const UNREADABLE: &str = r#"{"quotas":{"daily":5}}"#;
/// When the tests' clock begins.
const BEGIN_UNIX_S: u64 = 2_000_000_000;

fn billing() -> ServiceName {
    ServiceName::parse("billing").unwrap()
}

fn retries(max: u8) -> String {
    format!(r#"{{"retries":{{"max":{max}}}}}"#)
}

fn says(document: &str) -> Change {
    Change::Traffic(TrafficStatement { service: billing(), document: document.into(), trial: None })
}

fn tries(document: &str, trial: &str, ends_unix_s: u64) -> Change {
    let trial = Trial { zone: "eu-1a".into(), document: trial.into(), ends_unix_s };
    Change::Traffic(TrafficStatement { service: billing(), document: document.into(), trial: Some(trial) })
}

/// A host in the zone, whose clock goes with virtual time.
fn start(dir: &Path) -> Bench {
    let mut bench = Bench::start_with(dir, Files { zone: "eu-1a".into(), ..files(Vec::new()) });
    let begun = Instant::now();
    bench.owner.clock = Box::new(move || UNIX_EPOCH + Duration::from_secs(BEGIN_UNIX_S) + begun.elapsed());
    bench.owner.own_facts.zone = "eu-1a".into();
    bench.owner.settle_all_traffic();
    bench.turn();
    bench
}

/// What an operator states who looks at this host.
async fn state(bench: &mut Bench, operator: &Operator, change: Change) {
    let (dot, seen) = bench.owner.policies.compiled().next(&change.id(), bench.owner.local);
    let statement = Statement { dot, seen, operator: operator.name().into(), at_unix_s: BEGIN_UNIX_S, change };
    let body = operator.sign(&statement).unwrap();
    decide(bench, &body).await.unwrap();
}

fn traffic(bench: &Bench) -> Arc<TrafficPolicies> {
    bench.directory.load().traffic.clone()
}

fn retries_here(bench: &Bench) -> u8 {
    traffic(bench).of(&billing()).retries.max
}

fn account(bench: &Bench) -> Arc<TrafficAccount> {
    traffic(bench).accounts()[&billing()].clone()
}

#[tokio::test]
async fn what_is_stated_holds_at_once_and_after_a_restart() {
    let dir = enrolled();
    let anna = operator(dir.path(), "anna");
    let mut bench = start(dir.path());
    assert_eq!(retries_here(&bench), 2);
    state(&mut bench, &anna, says(&retries(5))).await;
    assert_eq!(retries_here(&bench), 5);
    let before = traffic(&bench);
    bench.owner.dirty = true;
    bench.turn();
    assert!(Arc::ptr_eq(&before, &traffic(&bench)), "compiled once");
    bench.stop();
    let mut bench = start(dir.path());
    assert_eq!(retries_here(&bench), 5);
    state(&mut bench, &anna, Change::Delete(PolicyId::Traffic(billing()))).await;
    assert_eq!(retries_here(&bench), 2);
    let said: Vec<bool> = account(&bench).past.iter().map(|past| past.said.is_some()).collect();
    assert_eq!(said, [true, false]);
}

#[tokio::test]
async fn a_document_that_is_not_understood_leaves_the_last_good_one_over_a_restart_too() {
    let dir = enrolled();
    let anna = operator(dir.path(), "anna");
    let mut bench = start(dir.path());
    state(&mut bench, &anna, says(&retries(5))).await;
    state(&mut bench, &anna, says(UNREADABLE)).await;
    for _ in 0..2 {
        assert_eq!(retries_here(&bench), 5);
        let account = account(&bench);
        assert_eq!((account.stated.lamport, account.applied.map(|dot| dot.lamport)), (2, Some(1)));
        assert!(account.not_understood.as_ref().unwrap().contains("unknown key `quotas`"));
        bench.stop();
        bench = start(dir.path());
    }
    state(&mut bench, &anna, says(&retries(1))).await;
    assert_eq!((retries_here(&bench), account(&bench).not_understood.clone()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_trial_goes_back_by_itself_when_its_time_is_over() {
    let dir = enrolled();
    let anna = operator(dir.path(), "anna");
    let mut bench = start(dir.path());
    state(&mut bench, &anna, says(&retries(3))).await;
    // Answers come from the disk's thread, and paused time runs on while they are waited for.
    let left = |bench: &Bench, seconds: u64| {
        let now = (bench.owner.clock)().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() + seconds
    };
    let ends = left(&bench, 600);
    state(&mut bench, &anna, tries(&retries(3), &retries(9), ends)).await;
    assert_eq!((retries_here(&bench), account(&bench).trial), (9, Some(TrialHere::Applied)));
    assert!(bench.owner.trial_due().unwrap() <= Instant::now() + Duration::from_secs(600));
    tokio::time::advance(Duration::from_secs(598)).await;
    bench.turn();
    assert_eq!(retries_here(&bench), 9);
    tokio::time::advance(Duration::from_secs(2)).await;
    bench.turn();
    assert_eq!((retries_here(&bench), account(&bench).trial), (3, Some(TrialHere::Ended)));
    assert_eq!(bench.owner.trial_due(), None);
}

#[tokio::test]
async fn a_host_that_moves_leaves_the_trial_of_its_old_zone() {
    let dir = enrolled();
    let anna = operator(dir.path(), "anna");
    let mut bench = start(dir.path());
    state(&mut bench, &anna, tries(&retries(3), &retries(9), BEGIN_UNIX_S + 600)).await;
    assert_eq!(retries_here(&bench), 9);
    bench.ask(Ask::Files(Box::new(Files { zone: "eu-1b".into(), ..files(Vec::new()) }))).await.unwrap();
    assert_eq!((retries_here(&bench), account(&bench).trial), (3, Some(TrialHere::Elsewhere)));
}

#[tokio::test]
async fn statements_made_at_once_settle_on_one_and_the_next_replaces_both() {
    let dir = enrolled();
    let (anna, berta) = (operator(dir.path(), "anna"), operator(dir.path(), "berta"));
    let mut bench = start(dir.path());
    state(&mut bench, &anna, says(&retries(5))).await;
    // Berta decided on a host that had not heard of it, of a greater id than any other.
    let writer = NodeId([0xff; 16]);
    let dot = Dot { lamport: 1, writer };
    let statement =
        Statement { dot, seen: Vec::new(), operator: "berta".into(), at_unix_s: 0, change: says(&retries(7)) };
    let theirs = Arc::new(read(&berta.sign(&statement).unwrap()));
    bench.owner.note_policy(writer, &theirs);
    bench.owner.dirty = true;
    bench.turn();
    assert_eq!(retries_here(&bench), 7);
    let standing = |bench: &Bench| bench.directory.load().intentions.subjects()[&PolicyId::Traffic(billing())].clone();
    assert_eq!(standing(&bench).losers.len(), 1);
    state(&mut bench, &anna, says(&retries(1))).await;
    assert_eq!((retries_here(&bench), standing(&bench).losers.len()), (1, 0));
    assert_eq!(account(&bench).past.len(), 3);
}

#[tokio::test]
async fn what_is_remembered_is_on_disk_before_the_operator_is_answered() {
    let dir = enrolled();
    let anna = operator(dir.path(), "anna");
    let mut bench = start(dir.path());
    let mut kept = Vec::new();
    for max in 1..=3 {
        state(&mut bench, &anna, says(&retries(max))).await;
        let files = std::fs::read_dir(dir.path().join("policy-history")).unwrap();
        let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        kept.push(texts.map(|text| text.matches("operator").count()).collect::<Vec<_>>());
    }
    assert_eq!(kept, [[1], [2], [3]]);
}
