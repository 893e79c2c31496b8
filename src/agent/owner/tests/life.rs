//! A service from its registration to its end, as others see it.

use super::*;

#[tokio::test]
async fn a_service_is_announced_after_its_first_passing_check_and_not_before() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &["service:web"])]);
    assert_eq!((bench.told("web"), bench.is_tombstone("web")), (None, None));
    assert!(!bench.local().services["web"].announced);
    bench.verdict(Some("web"), "service:web", Health::Passing);
    assert_eq!(bench.told("web"), Some(Health::Passing));
    assert!(bench.local().services["web"].announced);
}

#[tokio::test]
async fn once_announced_it_stays_whatever_becomes_of_its_health() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &["service:web"])]);
    bench.verdict(Some("web"), "service:web", Health::Warning);
    assert_eq!(bench.told("web"), Some(Health::Warning), "a warning is good enough");
    bench.verdict(Some("web"), "service:web", Health::Critical);
    assert_eq!(bench.told("web"), Some(Health::Critical));
}

#[tokio::test]
async fn a_service_without_checks_or_that_begins_well_is_announced_at_once() {
    let dir = enrolled();
    let mut begins_well = service("api", &["service:api"]);
    begins_well.checks[0].initial = Health::Passing;
    let bench = Bench::start(dir.path(), vec![service("web", &[]), begins_well]);
    assert_eq!((bench.told("web"), bench.told("api")), (Some(Health::Passing), Some(Health::Passing)));
}

#[tokio::test]
async fn all_checks_of_a_service_must_have_passed() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &["a", "b"])]);
    bench.verdict(Some("web"), "a", Health::Passing);
    assert_eq!(bench.told("web"), None);
    bench.verdict(Some("web"), "b", Health::Passing);
    assert_eq!(bench.told("web"), Some(Health::Passing));
}

#[tokio::test]
async fn under_another_name_it_has_to_prove_itself_again() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &[])).await.unwrap();
    let mut renamed = service("shop", &["service:web"]);
    renamed.instance.id = id("web");
    bench.register(renamed).await.unwrap();
    assert_eq!((bench.told("web"), bench.told("shop"), bench.is_tombstone("web")), (None, None, Some(true)));
    bench.verdict(Some("web"), "service:web", Health::Passing);
    assert_eq!((bench.told("web"), bench.told("shop")), (None, Some(Health::Passing)));
}

#[tokio::test]
async fn a_changed_check_keeps_its_verdict_as_the_runner_does() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &["c"])).await.unwrap();
    bench.verdict(Some("web"), "c", Health::Passing);
    let mut changed = service("web", &["c"]);
    changed.checks[0].interval = Duration::from_secs(99);
    bench.register(changed).await.unwrap();
    assert_eq!(bench.told("web"), Some(Health::Passing));
    assert_eq!(bench.running[0].1.interval, Duration::from_secs(99));
}

#[tokio::test]
async fn a_deregistered_service_is_gone_at_once_for_everybody() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &[])).await.unwrap();
    bench.ask(Ask::Deregister { id: id("web") }).await.unwrap();
    assert_eq!((bench.told("web"), bench.is_tombstone("web")), (None, Some(true)));
    assert!(bench.local().services.is_empty());
}

#[tokio::test]
async fn a_service_that_nobody_mends_is_deregistered_if_it_came_by_the_api() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("db", &["d"])]);
    bench.register(service("web", &["c"])).await.unwrap();
    for (of, check) in [("web", "c"), ("db", "d")] {
        bench.owner.on_health(health::Event::Overdue { service: id(of), check: check.into() });
    }
    let written = bench.owner.written().await;
    bench.owner.on_written(written);
    bench.turn();
    assert_eq!(bench.local().services.keys().map(ServiceId::as_str).collect::<Vec<_>>(), ["db"]);
    assert_eq!(kept_files(dir.path()).0, Vec::<String>::new());
}

#[tokio::test]
async fn a_check_that_recovered_meanwhile_takes_no_service_away() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &["c"])).await.unwrap();
    bench.verdict(Some("web"), "c", Health::Passing);
    bench.owner.on_health(health::Event::Overdue { service: id("web"), check: "c".into() });
    bench.turn();
    assert_eq!(bench.told("web"), Some(Health::Passing));
}

#[tokio::test(start_paused = true)]
async fn the_floor_waits_for_first_verdicts_so_that_a_restart_withdraws_nothing() {
    let dir = enrolled();
    let floor =
        |bench: &Bench| bench.owner.catalog.records_of(bench.owner.local).any(|record| record.floor().is_some());
    let mut bench = Bench::start(dir.path(), vec![service("web", &["c"])]);
    tokio::time::advance(Duration::from_secs(15)).await;
    bench.turn();
    assert!(!floor(&bench), "web has not passed yet: what the last start said of it stands");
    bench.verdict(Some("web"), "c", Health::Passing);
    assert!(floor(&bench));

    let mut bench = {
        bench.stop();
        Bench::start(dir.path(), vec![service("web", &["c"])])
    };
    tokio::time::advance(Duration::from_secs(29)).await;
    bench.turn();
    assert!(!floor(&bench));
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.turn();
    assert!(floor(&bench), "not for ever");
}

#[tokio::test(start_paused = true)]
async fn with_everything_announced_the_floor_still_gives_the_news_time_to_spread() {
    let dir = enrolled();
    let floor =
        |bench: &Bench| bench.owner.catalog.records_of(bench.owner.local).any(|record| record.floor().is_some());
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    tokio::time::advance(Duration::from_secs(9)).await;
    bench.turn();
    assert!(!floor(&bench));
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.turn();
    assert!(floor(&bench));
}

#[tokio::test]
async fn maintenance_makes_a_service_critical_and_its_end_gives_its_health_back() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    bench.maintain(Some("web"), Some("new disk")).await.unwrap();
    assert_eq!(bench.told("web"), Some(Health::Critical));
    let local = bench.local();
    let shown = &local.checks["_service_maintenance:web"];
    assert_eq!(
        (shown.notes.as_str(), shown.kind.as_str(), shown.health),
        ("new disk", "maintenance", Health::Critical)
    );
    assert_eq!(local.services["web"].maintenance.as_deref(), Some("new disk"));
    bench.maintain(Some("web"), None).await.unwrap();
    assert_eq!(bench.told("web"), Some(Health::Passing));
    assert!(bench.local().checks.is_empty());
}

#[tokio::test]
async fn maintenance_of_the_host_makes_all_of_its_services_critical() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    bench.maintain(None, Some("kernel")).await.unwrap();
    assert_eq!(bench.told("web"), Some(Health::Critical));
    let directory = bench.directory.load();
    let facts = &directory.nodes[&directory.local].facts;
    assert_eq!(facts.checks.iter().map(|check| check.id.as_str()).collect::<Vec<_>>(), ["_node_maintenance"]);
    assert_eq!(bench.local().maintenance.as_deref(), Some("kernel"));
}

#[tokio::test(start_paused = true)]
async fn a_check_of_the_host_counts_from_its_first_verdict_or_when_none_comes() {
    let dir = enrolled();
    let start =
        || Bench::start_with(dir.path(), Files { checks: vec![check("disk")], ..files(vec![service("web", &[])]) });
    let mut bench = start();
    assert_eq!(bench.told("web"), Some(Health::Passing), "a restart takes nothing out of use");
    assert_eq!(bench.local().checks["disk"].health, Health::Critical);
    bench.verdict(None, "disk", Health::Passing);
    bench.verdict(None, "disk", Health::Critical);
    assert_eq!(bench.told("web"), Some(Health::Critical));

    bench.stop();
    let mut bench = start();
    tokio::time::advance(Duration::from_secs(31)).await;
    bench.turn();
    assert_eq!(bench.told("web"), Some(Health::Critical), "it had time enough to pass");
}

#[tokio::test]
async fn a_host_that_leaves_withdraws_its_services_first_and_takes_no_more() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    bench.register(service("api", &["c"])).await.unwrap();
    bench.owner.withdraw();
    bench.turn();
    assert_eq!((bench.told("web"), bench.is_tombstone("web")), (None, Some(true)));
    assert!(bench.owner.is_withdrawn(), "there is nobody to tell");
    bench.verdict(Some("api"), "c", Health::Passing);
    assert_eq!(bench.told("api"), None, "nothing is announced any more");
    assert!(matches!(bench.register(service("late", &[])).await, Err(Refused::Failed(_))));
    bench.owner.leave();
    bench.turn();
    assert!(bench.owner.has_left());
    assert_eq!(kept_files(dir.path()).0, ["api c"], "it is registered again at the next start");
}

#[tokio::test]
async fn withdrawal_is_done_when_the_tombstones_have_been_sent() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    bench.owner.catalog.set_peers(vec![NodeId([9; 16]).into()]);
    bench.owner.withdraw();
    assert!(!bench.owner.is_withdrawn());
    for tenth in 1..50 {
        let now = bench.owner.now() + Duration::from_millis(100 * tenth);
        bench.owner.catalog.tick(now);
    }
    assert!(bench.owner.is_withdrawn());
}
