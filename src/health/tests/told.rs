//! TTL checks: reports, their absence, and what follows from a service that stays critical or changes its mind.

use tokio::time::Instant;

use super::super::{CHANGES_MAX, Counters, QUIET, UpdateError};
use super::*;
use Health::{Critical, Passing, Warning};

#[tokio::test(start_paused = true)]
async fn a_report_is_the_verdict_until_the_next_or_until_it_expires() {
    let (mut runner, mut events) = runner();
    runner.replace(vec![(Some(service("web")), ttl("t", 15))]);
    runner.update("t", Passing, "all well".into()).unwrap();
    assert_eq!(verdict(&mut events).await, (Passing, "all well".into()));
    runner.update("t", Warning, "slow".into()).unwrap();
    assert_eq!(verdict(&mut events).await, (Warning, "slow".into()));
    let reported = Instant::now();
    let expired = verdict(&mut events).await;
    assert_eq!(expired, (Critical, "no report within 15s; the last one said: slow".into()));
    assert_eq!(reported.elapsed(), Duration::from_secs(15));
    runner.update("t", Passing, "back".into()).unwrap();
    assert_eq!(verdict(&mut events).await.0, Passing);
}

#[tokio::test(start_paused = true)]
async fn reports_in_time_keep_a_check_passing_and_tell_nothing_new() {
    let (mut runner, mut events) = runner();
    runner.replace(vec![(None, ttl("t", 15))]);
    for report in 0..100 {
        runner.update("t", Passing, format!("report {report}")).unwrap();
        tokio::time::sleep(Duration::from_secs(14)).await;
    }
    assert_eq!(verdict(&mut events).await.0, Passing);
    assert_eq!(within(&mut events, Duration::ZERO).await, None);
    assert_eq!(runner.verdicts().get("t").unwrap().output, "report 99");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_report_at_all_is_critical_and_the_output_says_why() {
    let (mut runner, mut events) = runner();
    let passing_at_first = CheckDefinition { initial: Passing, ..ttl("t", 15) };
    runner.replace(vec![(None, passing_at_first)]);
    assert_eq!(verdict(&mut events).await, (Critical, "no report within 15s".into()));
}

#[tokio::test(start_paused = true)]
async fn reports_are_taken_for_ttl_checks_only() {
    let (mut runner, _events) = runner();
    let udp = CheckKind::Udp { target: crate::config::CheckTarget { host: "127.0.0.1".into(), port: 9 } };
    runner.replace(vec![(None, definition("u", udp))]);
    assert_eq!(runner.update("t", Passing, String::new()), Err(UpdateError::Unknown("t".into())));
    assert_eq!(runner.update("u", Passing, String::new()), Err(UpdateError::NotTtl("u".into())));
}

#[tokio::test(start_paused = true)]
async fn a_long_report_is_kept_up_to_the_limit() {
    let (mut runner, mut events) = runner();
    runner.replace(vec![(None, ttl("t", 15))]);
    runner.update("t", Passing, "é".repeat(10_000)).unwrap();
    assert_eq!(verdict(&mut events).await.1.len(), super::super::OUTPUT_BYTES_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_critical_is_overdue_and_one_that_recovered_begins_anew() {
    let (mut runner, mut events) = runner();
    let after = Duration::from_secs(60);
    let check = CheckDefinition { deregister_after: Some(after), ..ttl("t", 3600) };
    let began = Instant::now();
    runner.replace(vec![(Some(service("web")), check)]);
    tokio::time::sleep(Duration::from_secs(50)).await;
    runner.update("t", Passing, String::new()).unwrap();
    assert_eq!(verdict(&mut events).await.0, Passing);
    runner.update("t", Critical, String::new()).unwrap();
    assert_eq!(verdict(&mut events).await.0, Critical);
    let overdue = Event::Overdue { service: service("web"), check: "t".into() };
    assert_eq!(within(&mut events, Duration::from_secs(3600)).await, Some(overdue.clone()));
    assert_eq!(began.elapsed(), Duration::from_secs(50) + after);
    assert_eq!(
        within(&mut events, Duration::from_secs(61)).await,
        Some(overdue),
        "told again while nothing came of it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flapping_check_is_told_as_critical_until_it_was_quiet() {
    let (mut runner, mut events) = runner();
    runner.replace(vec![(Some(service("web")), ttl("t", 3600))]);
    let mut told = 0;
    for change in 0..40 {
        let health = if change % 2 == 0 { Passing } else { Critical };
        runner.update("t", health, "x".into()).unwrap();
        told += usize::from(within(&mut events, Duration::from_secs(1)).await.is_some());
    }
    assert_eq!(told, CHANGES_MAX);
    runner.update("t", Passing, "well".into()).unwrap();
    assert_eq!(within(&mut events, Duration::from_secs(1)).await, None);
    let latest = runner.verdicts().get("t").unwrap();
    assert_eq!(latest.health, Critical);
    assert!(
        latest.output.starts_with("(flapping: more than 10 changes in 5m, so it stays critical"),
        "{}",
        latest.output
    );
    assert!(latest.output.ends_with("now passing) well"), "{}", latest.output);
    let quiet = Instant::now();
    assert_eq!(verdict(&mut events).await.0, Passing);
    assert!(quiet.elapsed() < QUIET && quiet.elapsed() > QUIET - Duration::from_secs(2));
    let counters = runner.counters();
    assert_eq!((counters.attempts(), counters.transitions()), (41, told as u64 + 1));
    assert_eq!(numbers(&counters), [1, 0, 0]);
    runner.replace(Vec::new());
    assert_eq!(numbers(&counters), [0, 0, 0]);
}

fn numbers(counters: &Counters) -> [u64; 3] {
    [Passing, Warning, Critical].map(|health| counters.checks(health))
}
