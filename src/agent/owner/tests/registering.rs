//! What is taken, what is refused, and what a restart finds.

use super::*;

#[tokio::test]
async fn a_registration_is_on_disk_before_it_is_answered_and_shown_when_it_is() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let before = *bench.changed.borrow_and_update();
    let (reply, mut answer) = reply();
    let definition = Box::new(service("web", &[]));
    let ask = Ask::Register { body: body_of(&definition), definition, replace_checks: false };
    bench.owner.ask(ask, Some(reply));
    bench.turn();
    assert!(answer.try_recv().is_err() && bench.told("web").is_none(), "not before the disk has it");
    let written = bench.owner.written().await;
    assert_eq!(kept_files(dir.path()).0, ["web"]);
    bench.owner.on_written(written);
    assert!(answer.try_recv().is_err(), "not before it is published");
    bench.turn();
    assert_eq!(answer.try_recv(), Ok(Ok(())));
    assert_eq!((bench.told("web"), bench.local().services["web"].source.as_str()), (Some(Health::Passing), "the API"));
    let after = *bench.changed.borrow();
    assert!(after > before && bench.local().index == after);
}

#[tokio::test]
async fn registrations_checks_and_maintenance_come_back_after_a_restart() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &["service:web"])).await.unwrap();
    bench.register(service("gone", &[])).await.unwrap();
    bench.register_check(Some("web"), check("extra")).await.unwrap();
    bench.register_check(None, check("disk")).await.unwrap();
    bench.maintain(Some("web"), Some("new disk")).await.unwrap();
    bench.maintain(None, Some("kernel")).await.unwrap();
    bench.ask(Ask::Deregister { id: id("gone") }).await.unwrap();
    let (before, index) = (bench.local(), bench.local().index);
    bench.stop();

    let mut bench = Bench::start(dir.path(), Vec::new());
    let after = bench.local();
    assert_eq!(
        (&after.services, &after.checks, &after.maintenance),
        (&before.services, &before.checks, &before.maintenance)
    );
    assert!(after.index > index);
    assert_eq!(
        bench.running.iter().map(|(_, check)| check.id.as_str()).collect::<Vec<_>>(),
        ["service:web", "extra", "disk"]
    );
    bench.maintain(None, None).await.unwrap();
    bench.ask(Ask::Deregister { id: id("web") }).await.unwrap();
    assert_eq!(kept_files(dir.path()), (Vec::new(), vec!["- disk".to_owned()]));
}

#[tokio::test]
async fn a_registration_that_is_not_understood_is_set_aside_and_the_others_count() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &[])).await.unwrap();
    bench.register(service("db", &[])).await.unwrap();
    bench.stop();
    let services = dir.path().join("registrations/services");
    let of_db = std::fs::read_dir(&services).unwrap().flatten().map(|entry| entry.path());
    let of_db = of_db.into_iter().find(|path| std::fs::read(path).unwrap() == b"db").unwrap();
    std::fs::write(&of_db, "{ half").unwrap();
    std::fs::write(dir.path().join("maintenance.json"), "{ half").unwrap();
    let bench = Bench::start(dir.path(), Vec::new());
    assert_eq!(bench.local().services.len(), 1);
    let aside = format!("{}.unreadable", of_db.display());
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "{ half");
    assert!(dir.path().join("maintenance.json.unreadable").exists());
}

#[tokio::test]
async fn a_service_of_a_file_wins_over_a_stored_registration_which_is_kept_aside() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &[])).await.unwrap();
    bench.stop();
    let bench = Bench::start(dir.path(), vec![service("web", &["c"])]);
    assert_eq!(bench.local().services["web"].source, "services.d/x.toml:1");
    assert_eq!(bench.running.len(), 1);
    bench.stop();
    assert_eq!(kept_files(dir.path()).0, Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path().join("registrations/services")).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_refused_changes_nothing_on_disk_or_in_memory() {
    let dir = enrolled();
    let mut bench =
        Bench::start_with(dir.path(), Files { checks: vec![check("disk")], ..files(vec![service("web", &["c"])]) });
    bench.register(service("api", &["a"])).await.unwrap();
    bench.grant(&["web", "a*"]);
    let before = (bench.local(), kept_files(dir.path()));

    let mut twice = service("app", &["x", "x"]);
    let invalid = |result: Result<(), Refused>, word: &str| match result {
        Err(Refused::Invalid(why)) => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?} is not about {word}"),
    };
    invalid(bench.register(service("web", &[])).await, "services.d/x.toml:1");
    invalid(bench.register(twice.clone()).await, "\"x\" is taken");
    twice.checks = (0..65).map(|number| check(&format!("x{number}"))).collect();
    invalid(bench.register(twice.clone()).await, "at most 64");
    twice.checks = vec![check("c")];
    invalid(bench.register(twice.clone()).await, "\"c\" is taken");
    twice.checks = vec![check("_service_maintenance:web")];
    invalid(bench.register(twice.clone()).await, "maintenance");
    twice.checks = vec![CheckDefinition { kind: CheckKind::Script { args: vec!["/bin/true".into()] }, ..check("s") }];
    invalid(bench.register(twice).await, "files only");
    let definition = Box::new(service("app", &[]));
    let body = Bytes::from(vec![b' '; 1024 * 1024 + 1]);
    invalid(bench.ask(Ask::Register { definition, body, replace_checks: false }).await, "1048577 bytes");
    let mut large = service("app", &[]);
    large.instance.meta.insert("notes".into(), "x".repeat(66_000));
    invalid(bench.register(large).await, "shorten");
    assert!(
        matches!(bench.register(service("billing", &[])).await, Err(Refused::NotGranted(why)) if why.contains("--service billing"))
    );

    invalid(bench.ask(Ask::Deregister { id: id("web") }).await, "services.d/x.toml:1");
    assert!(matches!(bench.ask(Ask::Deregister { id: id("no") }).await, Err(Refused::NotFound(_))));
    invalid(bench.register_check(Some("web"), check("disk")).await, "taken");
    invalid(bench.register_check(None, check("a")).await, "taken");
    assert!(matches!(bench.register_check(Some("no"), check("n")).await, Err(Refused::NotFound(_))));
    for (check, word) in
        [("a", "part of"), ("c", "services.d/x.toml:1"), ("disk", "file"), ("_node_maintenance", "maintenance")]
    {
        invalid(bench.ask(Ask::DeregisterCheck { id: check.into() }).await, word);
    }
    assert!(matches!(bench.ask(Ask::DeregisterCheck { id: "no".into() }).await, Err(Refused::NotFound(_))));
    assert!(matches!(bench.maintain(Some("no"), Some("x")).await, Err(Refused::NotFound(_))));
    invalid(bench.maintain(None, Some(&"x".repeat(2000))).await, "shorten");
    assert_eq!((bench.local(), kept_files(dir.path())), before);
    assert!(!dir.path().join("maintenance.json").exists());
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_not_registered() {
    let dir = enrolled();
    std::fs::write(dir.path().join("registrations"), "in the way").unwrap();
    // The file in the way is no directory to read either: the start must come first.
    std::fs::remove_file(dir.path().join("registrations")).unwrap();
    let mut bench = Bench::start(dir.path(), Vec::new());
    std::fs::write(dir.path().join("registrations"), "in the way").unwrap();
    let refused = bench.register(service("web", &[])).await;
    assert!(matches!(&refused, Err(Refused::Failed(why)) if why.contains("nothing has changed")), "{refused:?}");
    assert!(bench.told("web").is_none() && bench.local().services.is_empty() && bench.running.is_empty());
    std::fs::remove_file(dir.path().join("registrations")).unwrap();
    bench.register(service("web", &[])).await.unwrap();
}

#[tokio::test]
async fn a_second_registration_takes_the_place_of_the_first_and_keeps_what_was_added() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &["a"])).await.unwrap();
    bench.register_check(Some("web"), check("added")).await.unwrap();
    bench.register_check(Some("web"), check("taken-in")).await.unwrap();
    bench.register(service("web", &["b", "taken-in"])).await.unwrap();
    let ids = |bench: &Bench| bench.running.iter().map(|(_, check)| check.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&bench), ["b", "taken-in", "added"]);
    assert_eq!(kept_files(dir.path()), (vec!["web b taken-in".to_owned()], vec!["web added".to_owned()]));

    let definition = Box::new(service("web", &["b"]));
    bench.ask(Ask::Register { body: body_of(&definition), definition, replace_checks: true }).await.unwrap();
    assert_eq!((ids(&bench), kept_files(dir.path()).1), (vec!["b".to_owned()], Vec::new()));
}

#[tokio::test]
async fn a_check_moves_with_its_registration_and_goes_when_it_is_deregistered() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &[]), service("api", &[])]);
    bench.register_check(Some("web"), check("c")).await.unwrap();
    assert_eq!(bench.told("web"), Some(Health::Critical), "it is announced, and its new check has not passed");
    bench.register_check(Some("api"), check("c")).await.unwrap();
    assert_eq!((bench.told("web"), bench.told("api")), (Some(Health::Passing), Some(Health::Critical)));
    bench.ask(Ask::DeregisterCheck { id: "c".into() }).await.unwrap();
    assert_eq!((bench.told("api"), bench.running.len(), kept_files(dir.path()).1.len()), (Some(Health::Passing), 0, 0));
}

#[tokio::test]
async fn reports_for_checks_go_to_the_runner_after_the_change_that_made_the_check() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let (first, _waits) = reply();
    let definition = Box::new(service("web", &["ttl"]));
    bench.owner.ask(Ask::Register { body: body_of(&definition), definition, replace_checks: false }, Some(first));
    let written = bench.owner.written().await;
    bench.owner.on_written(written);
    let (second, mut answer) = reply();
    bench.owner.update_check("ttl".into(), Health::Passing, "fine".into(), second);
    let Ok(CheckRequest::Replace(checks)) = bench.checks.try_recv() else { panic!("the check first") };
    assert_eq!(checks.len(), 1);
    let Ok(CheckRequest::Update { check, health, output, reply }) = bench.checks.try_recv() else { panic!("a report") };
    assert_eq!((check.as_str(), health, output.as_str()), ("ttl", Health::Passing, "fine"));
    bench.owner.on_updated(reply, Err(Refused::Invalid("no TTL check".into())));
    bench.turn();
    assert_eq!(answer.try_recv(), Ok(Err(Refused::Invalid("no TTL check".into()))));
}

#[tokio::test]
async fn a_runner_that_is_behind_makes_changes_wait_and_reports_fail() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    for number in 0..7 {
        let (reply, _) = reply();
        bench.owner.update_check(format!("c{number}"), Health::Passing, String::new(), reply);
    }
    let (reply, mut refused) = reply();
    bench.owner.update_check("late".into(), Health::Passing, String::new(), reply);
    bench.owner.publish();
    assert!(matches!(refused.try_recv(), Ok(Err(Refused::Failed(_)))), "one place is kept for changes");
    bench.register(service("web", &[])).await.unwrap();
}

#[tokio::test]
async fn so_many_checks_of_the_host_and_no_more() {
    let dir = enrolled();
    let checks = (0..registry::HOST_CHECKS_MAX - 1).map(|number| check(&format!("f{number}"))).collect();
    let mut bench = Bench::start_with(dir.path(), Files { checks, ..files(Vec::new()) });
    bench.register_check(None, check("last")).await.unwrap();
    assert!(matches!(bench.register_check(None, check("over")).await, Err(Refused::Invalid(_))));
    bench.register_check(None, check("last")).await.unwrap();
}

#[test]
fn nothing_kept_is_nothing_stored() {
    let stored = kept::read(Registrations::default(), read_service, read_check);
    let Stored { services, checks, maintenance, .. } = stored;
    assert!(services.is_empty() && checks.is_empty() && maintenance == Maintenance::default());
}

#[tokio::test]
async fn so_many_services_by_the_api_and_no_more() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("of-a-file", &[])]);
    for number in 0..registry::API_SERVICES_MAX {
        let definition = service(&format!("s{number}"), &[]);
        let own = registry::OwnService::new(definition, registry::Origin::Api);
        bench.owner.registry.services.insert(own.definition.instance.id.clone(), own);
    }
    assert!(matches!(bench.register(service("over", &[])).await, Err(Refused::Invalid(why)) if why.contains("4096")));
    bench.register(service("s7", &["again"])).await.unwrap();
}
