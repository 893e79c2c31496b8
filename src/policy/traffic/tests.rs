//! What a host applies of what is stated, in whatever order it comes.

use bytes::Bytes;

use super::*;
use crate::model::{NodeId, Statement, Trial};
use crate::policy::Policies;

const UNREADABLE: &str = r#"{"quotas":{"daily":5}}"#;

fn billing() -> ServiceName {
    ServiceName::parse("billing").unwrap()
}

/// The statement of that number, which replaces all before it.
fn stated(number: u64, change: Change) -> Arc<Policy> {
    stated_on(1, number, if number > 1 { vec![(NodeId([1; 16]), number - 1)] } else { Vec::new() }, change)
}

fn stated_on(writer: u8, number: u64, seen: Vec<(NodeId, u64)>, change: Change) -> Arc<Policy> {
    let dot = Dot { lamport: number, writer: NodeId([writer; 16]) };
    let statement = Statement { dot, seen, operator: "anna".into(), at_unix_s: 1000, change };
    let signed = Bytes::from(format!("{statement:?}").into_bytes());
    Arc::new(Policy { statement, is_vouched: false, body: Bytes::new(), signed })
}

fn says(document: &str) -> Change {
    Change::Traffic(TrafficStatement { service: billing(), document: document.into(), trial: None })
}

fn tries(document: &str, trial: &str, ends_unix_s: u64) -> Change {
    let trial = Trial { zone: "eu-1a".into(), document: trial.into(), ends_unix_s };
    Change::Traffic(TrafficStatement { service: billing(), document: document.into(), trial: Some(trial) })
}

fn retries(max: u8) -> String {
    format!(r#"{{"retries":{{"max":{max}}}}}"#)
}

/// One host.
struct Host {
    policies: Policies,
    shelves: TrafficShelves,
    zone: &'static str,
    now_unix_s: u64,
}

impl Host {
    fn new() -> Host {
        Host { policies: Policies::default(), shelves: TrafficShelves::default(), zone: "eu-1a", now_unix_s: 1000 }
    }

    fn take(&mut self, policy: &Arc<Policy>) -> Option<NotUnderstood> {
        self.policies.hold(policy.statement.dot.writer, policy.clone());
        self.shelves.note(policy);
        self.settle()
    }

    fn settle(&mut self) -> Option<NotUnderstood> {
        let intentions = self.policies.compile();
        let standing = &intentions.subjects()[&PolicyId::Traffic(billing())];
        self.shelves.settle(&billing(), standing, self.zone, self.now_unix_s)
    }

    /// How many retries it makes.
    fn retries(&self) -> u8 {
        self.shelves.compile().of(&billing()).retries.max
    }

    fn account(&self) -> Arc<TrafficAccount> {
        self.shelves.compile().accounts()[&billing()].clone()
    }
}

#[test]
fn what_is_stated_holds_and_what_is_deleted_does_not() {
    let mut host = Host::new();
    assert_eq!(host.retries(), 2);
    assert_eq!(host.take(&stated(1, says(&retries(5)))), None);
    assert_eq!(host.retries(), 5);
    let account = host.account();
    assert_eq!((account.applied, &account.not_understood), (Some(account.stated), &None));
    host.take(&stated(2, Change::Delete(PolicyId::Traffic(billing()))));
    assert_eq!((host.retries(), host.account().applied), (2, None));
    assert_eq!(host.account().past.len(), 2);
}

#[test]
fn the_same_policy_stays_in_its_place_in_memory() {
    let mut host = Host::new();
    host.take(&stated(1, says(&retries(5))));
    let before = host.shelves.compile().of(&billing()).clone();
    host.take(&stated(2, says(r#"{"retries":{"max":5},"split":[]}"#)));
    assert!(Arc::ptr_eq(&before, host.shelves.compile().of(&billing())));
}

#[test]
fn a_document_that_is_not_understood_leaves_the_last_good_one_and_is_told_once() {
    let mut host = Host::new();
    host.take(&stated(1, says(&retries(4))));
    host.take(&stated(2, says(&retries(5))));
    let refused = host.take(&stated(3, says(UNREADABLE))).unwrap();
    assert_eq!((refused.service, &*refused.operator), (billing(), "anna"));
    assert!(refused.why.starts_with("unknown key `quotas`"), "{}", refused.why);
    assert_eq!(host.settle(), None);
    assert_eq!(host.retries(), 5);
    let account = host.account();
    assert_eq!((account.stated.lamport, account.applied.unwrap().lamport), (3, 2));
    // The next that is understood holds at once.
    host.take(&stated(4, says(&retries(6))));
    assert_eq!((host.retries(), host.account().not_understood.clone()), (6, None));
}

#[test]
fn what_is_deleted_before_what_is_not_understood_stays_deleted() {
    let mut host = Host::new();
    host.take(&stated(1, says(&retries(5))));
    host.take(&stated(2, Change::Delete(PolicyId::Traffic(billing()))));
    host.take(&stated(3, says(UNREADABLE)));
    assert_eq!((host.retries(), host.account().applied), (2, None));
}

#[test]
fn a_trial_holds_in_its_zone_until_its_time_is_over() {
    let trial = stated(2, tries(&retries(3), &retries(9), 1600));
    let mut here = Host::new();
    here.take(&stated(1, says(&retries(3))));
    here.take(&trial);
    let mut elsewhere = Host { zone: "eu-1b", ..Host::new() };
    elsewhere.take(&trial);
    assert_eq!((here.retries(), here.account().trial), (9, Some(TrialHere::Applied)));
    assert_eq!((elsewhere.retries(), elsewhere.account().trial), (3, Some(TrialHere::Elsewhere)));
    assert_eq!((here.shelves.ends_unix_s(), elsewhere.shelves.ends_unix_s()), (Some(1600), None));

    here.now_unix_s = 1599;
    assert!(here.shelves.over(here.now_unix_s).is_empty());
    here.now_unix_s = 1600;
    assert_eq!(here.shelves.over(here.now_unix_s), [billing()]);
    here.settle();
    assert_eq!((here.retries(), here.account().trial), (3, Some(TrialHere::Ended)));
    assert_eq!(here.shelves.ends_unix_s(), None);
}

#[test]
fn a_trial_that_is_not_understood_leaves_the_main_document() {
    let mut host = Host::new();
    let refused = host.take(&stated(1, tries(&retries(3), UNREADABLE, 1600))).unwrap();
    assert!(refused.why.contains("quotas"));
    assert_eq!((host.retries(), host.account().trial), (3, Some(TrialHere::NotUnderstood)));
    assert_eq!(host.account().not_understood, None);
}

#[test]
fn hosts_that_hear_of_the_same_in_any_order_apply_the_same() {
    let of_one = stated_on(1, 1, Vec::new(), says(&retries(4)));
    let of_two = stated_on(2, 1, Vec::new(), says(&retries(7)));
    let (mut first, mut second) = (Host::new(), Host::new());
    first.take(&of_one);
    first.take(&of_two);
    second.take(&of_two);
    second.take(&of_one);
    assert_eq!((first.retries(), second.retries()), (7, 7));
    assert_eq!(first.account(), second.account());
    let settled = stated_on(1, 2, vec![(NodeId([1; 16]), 1), (NodeId([2; 16]), 1)], says(&retries(1)));
    first.take(&settled);
    second.take(&settled);
    assert_eq!((first.retries(), second.retries()), (1, 1));
    assert_eq!(first.account().past.iter().map(|past| past.number).collect::<Vec<_>>(), [1, 1, 2]);
}

#[test]
fn twenty_statements_are_remembered_and_the_last_that_is_understood_among_them() {
    let mut host = Host::new();
    host.take(&stated(1, says(&retries(4))));
    host.take(&stated(2, says(&retries(5))));
    for number in 3..60 {
        host.take(&stated(number, says(UNREADABLE)));
    }
    assert_eq!(host.retries(), 5);
    let numbers: Vec<u64> = host.shelves.past(&billing()).iter().map(|past| past.number).collect();
    assert_eq!((numbers.len(), numbers[0], numbers[1]), (PAST_MAX, 2, 41));

    // What an earlier run kept is all that a restart needs.
    let kept: Vec<PastStatement> = host.shelves.past(&billing()).iter().map(|past| (**past).clone()).collect();
    let mut again = Host::new();
    again.take(&stated(59, says(UNREADABLE)));
    assert_eq!(again.retries(), 2);
    again.shelves.recall(&billing(), kept);
    again.settle();
    assert_eq!(again.retries(), 5);
}

#[test]
fn what_is_remembered_is_bounded_by_bytes_too() {
    let mut host = Host::new();
    let long = format!(r#"{{"{}":1}}"#, "x".repeat(16_000));
    host.take(&stated(1, says(&retries(5))));
    for number in 2..=20 {
        host.take(&stated(number, tries(&long, &long, 1600)));
    }
    let past = host.shelves.past(&billing());
    assert!(past.iter().map(|past| bytes_of(past)).sum::<usize>() <= PAST_BYTES_MAX);
    assert_eq!((past[0].number, past.last().unwrap().number, host.retries()), (1, 20, 5));

    for at in 0..400 {
        let service = ServiceName::parse(&format!("s{at}")).unwrap();
        for number in 1..=3 {
            let said = TrafficStatement { service: service.clone(), document: long.clone(), trial: None };
            host.shelves.note(&stated(number, Change::Traffic(said)));
        }
    }
    assert!(host.shelves.bytes <= PAST_BYTES_ALL_MAX);
    let all: usize = host.shelves.shelves.values().map(Shelf::bytes).sum();
    assert_eq!(all, host.shelves.bytes);
    assert!(host.shelves.shelves.values().all(|shelf| shelf.past.len() >= 2), "the latest of each stays");
}
