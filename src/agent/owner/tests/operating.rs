//! What operators do.

use std::net::SocketAddr;

use super::*;
use crate::model::Claim;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 7946))
}

fn claim(last: u8, state: MemberState) -> Claim {
    let node = NodeId([last; 16]);
    let name = NodeName::parse(&format!("n{last}")).unwrap();
    Claim { node, name, address: address(last), incarnation: 0, state, from: node, proof: Vec::new() }
}

fn syncs(bench: &mut Bench) -> Vec<SocketAddr> {
    let mut to = Vec::new();
    while let Ok(command) = bench.gossip.try_recv() {
        if let gossip::Command::Sync { to: address, .. } = command {
            to.push(address);
        }
    }
    to
}

#[tokio::test(start_paused = true)]
async fn a_join_succeeds_with_the_first_answer_and_fails_with_the_last_reason() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let until = Instant::now() + Duration::from_secs(10);
    let (both, mut joined) = reply();
    bench.owner.join(vec![address(2), address(3)], until, both);
    assert_eq!(syncs(&mut bench), [address(2), address(3)]);
    let claims = vec![claim(3, MemberState::Alive)];
    bench.owner.on_gossip(gossip::Event::SyncFailed { to: address(2), error: "refused".into() });
    bench.owner.on_gossip(gossip::Event::Synced { to: address(3), peer: NodeId([3; 16]), claims });
    bench.turn();
    assert_eq!(joined.try_recv(), Ok(Ok(())));
    assert_eq!(bench.owner.swim.member(NodeId([3; 16])).map(|claim| claim.state), Some(MemberState::Alive));

    let (one, mut failed) = reply();
    bench.owner.join(vec![address(4)], until, one);
    bench.owner.on_gossip(gossip::Event::SyncFailed { to: address(4), error: "connection refused".into() });
    bench.turn();
    assert_eq!(failed.try_recv(), Ok(Err(Refused::Failed("connection refused".into()))));

    let (silent, mut late) = reply();
    bench.owner.join(vec![address(5)], until, silent);
    tokio::time::advance(Duration::from_secs(10)).await;
    bench.turn();
    assert!(matches!(late.try_recv(), Ok(Err(Refused::Failed(why))) if why.contains("10.0.0.5:7946")));
}

#[tokio::test]
async fn only_a_failed_host_is_sent_away() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let claims = vec![claim(2, MemberState::Alive), claim(3, MemberState::Failed)];
    bench.owner.on_gossip(gossip::Event::Synced { to: address(2), peer: NodeId([2; 16]), claims });
    let mut send_away = |name: &str, prune: bool| {
        let (reply, mut answer) = reply();
        bench.owner.force_leave(&NodeName::parse(name).unwrap(), prune, reply);
        bench.turn();
        (answer.try_recv().unwrap(), bench.owner.swim.member(NodeId([3; 16])).map(|claim| claim.state))
    };
    assert!(matches!(send_away("n2", false).0, Err(Refused::Invalid(why)) if why.contains("alive")));
    assert!(matches!(send_away("n9", false).0, Err(Refused::NotFound(_))));
    assert!(matches!(send_away("web-01", true).0, Err(Refused::Invalid(_))));
    assert_eq!(send_away("n3", false), (Ok(()), Some(MemberState::Left)));
    assert_eq!(send_away("n3", true), (Ok(()), None));
}

#[tokio::test]
async fn a_reload_takes_over_what_changed_and_leaves_the_apis_registrations() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &["w"]), service("old", &[])]);
    bench.verdict(Some("web"), "w", Health::Passing);
    bench.register(service("api", &[])).await.unwrap();
    bench.register_check(Some("old"), check("of-old")).await.unwrap();
    bench.maintain(Some("old"), Some("x")).await.unwrap();
    let next = Files { zone: "eu-1".into(), ..files(vec![service("web", &["w"]), service("new", &[])]) };
    bench.ask(Ask::Files(Box::new(next))).await.unwrap();
    let local = bench.local();
    assert_eq!(local.services.keys().map(ServiceId::as_str).collect::<Vec<_>>(), ["api", "new", "web"]);
    assert_eq!(
        (bench.told("web"), bench.told("old"), bench.is_tombstone("old")),
        (Some(Health::Passing), None, Some(true))
    );
    assert_eq!(bench.directory.load().nodes[&bench.owner.local].facts.zone, "eu-1");
    assert_eq!(kept_files(dir.path()), (vec!["api".to_owned()], Vec::new()));
    assert!(!std::fs::read_to_string(dir.path().join("maintenance.json")).unwrap().contains("old"));
}

#[tokio::test]
async fn a_file_takes_the_place_of_a_registration_at_a_reload() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.register(service("web", &[])).await.unwrap();
    bench.ask(Ask::Files(Box::new(files(vec![service("web", &[])])))).await.unwrap();
    assert_eq!(bench.local().services["web"].source, "services.d/x.toml:1");
    assert!(matches!(bench.ask(Ask::Deregister { id: id("web") }).await, Err(Refused::Invalid(_))));
    assert_eq!(kept_files(dir.path()).0, Vec::<String>::new());
}

#[tokio::test]
async fn a_reload_that_cannot_be_made_is_refused_with_every_reason_and_changes_nothing() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    bench.register(service("api", &["c"])).await.unwrap();
    let before = bench.local();
    let mut large = service("large", &[]);
    large.instance.meta.insert("notes".into(), "x".repeat(66_000));
    let Err(Refused::Invalid(why)) = bench.ask(Ask::Files(Box::new(files(vec![service("new", &["c"]), large])))).await
    else {
        panic!("taken")
    };
    assert!(why.contains("\"c\"") && why.contains("service large"), "{why}");
    assert_eq!(bench.local(), before);
}
