//! Records that this agent fails on: not twice by a panic that could be caught, not a third time by one that could not,
//! and never passed on. And hosts and services that change more than anybody can use.

use super::*;
use crate::agent::own::OwnLog;
use crate::model::{Claim, Record, Version};

/// Another host of the cluster, with its log.
pub(super) struct Other {
    pub(super) identity: Identity,
    log: OwnLog,
    _dir: TempDir,
}

impl Other {
    pub(super) fn new() -> Other {
        let dir = enrolled();
        let identity = Identity::load(dir.path()).unwrap();
        Other { log: OwnLog::new(identity.node, 1), identity, _dir: dir }
    }

    pub(super) fn record(&mut self, service_id: &str) -> Record {
        self.log.service(&self.identity.record_key, &service(service_id, &[]).instance).unwrap()
    }
}

impl Bench {
    /// Trusts the other host, as its node record would make it.
    pub(super) fn meet(&mut self, other: &Other) {
        let peer = PeerIdentity::from_der(&other.identity.certificates[0]).unwrap();
        self.owner.gate.prove(Arc::new(peer));
    }

    pub(super) fn hear(&mut self, other: &Other, records: &[Record]) {
        let message = CatalogMessage::Delta(records.to_vec());
        self.owner.on_gossip(gossip::Event::Catalog { sender: other.identity.node, message });
    }

    fn holds(&self, record: &Record) -> bool {
        self.owner.catalog.get(&record.id()).is_some()
    }

    /// What was asked of the store is on disk when this returns, and nothing else of an orderly end has happened.
    fn die(self) {
        assert!(self.owner.out.store.close(STORE_CLOSE_DEADLINE));
    }

    /// Hears the record, which must kill this start.
    fn die_of(mut self, other: &Other, record: &Record) {
        self.meet(other);
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.hear(other, std::slice::from_ref(record));
        }));
        assert!(died.is_err());
        self.die();
    }
}

#[tokio::test]
async fn a_panic_while_judging_quarantines_the_record_at_once_and_the_agent_goes_on() {
    let (dir, mut other) = (enrolled(), Other::new());
    let records = [other.record("before"), other.record("poison-judge"), other.record("after")];
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    bench.hear(&other, &records);
    bench.turn();
    assert_eq!(records.each_ref().map(|record| bench.holds(record)), [true, false, true]);
    assert_eq!(bench.owner.quarantine.count(), 1);
    let told: Vec<(String, String)> =
        bench.local().quarantined.iter().map(|record| (record.origin.clone(), record.version.clone())).collect();
    assert_eq!(told, [(other.identity.node.to_string(), records[1].version().to_string())], "it is named");
    let wants = [crate::model::Want { origin: other.identity.node, after: Version::ZERO }];
    assert_eq!(bench.owner.catalog.answer(&wants, 100_000).0.len(), 2, "nor is it offered");
    bench.hear(&other, &records);
    assert_eq!(bench.owner.quarantine.refused, 1, "the second time it is not even read");
    bench.stop();

    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    bench.hear(&other, &records);
    assert_eq!((bench.owner.quarantine.count(), bench.owner.quarantine.refused), (1, 1), "nor after a restart");
    bench.stop();
}

#[tokio::test]
async fn a_record_that_two_starts_in_a_row_died_of_is_left_alone_by_the_third() {
    let (dir, mut other) = (enrolled(), Other::new());
    let poison = other.record("poison-merge");
    Bench::start(dir.path(), Vec::new()).die_of(&other, &poison);
    let second = Bench::start(dir.path(), Vec::new());
    assert_eq!(second.owner.quarantine.count(), 0, "one death proves nothing");
    second.die_of(&other, &poison);

    let mut third = Bench::start(dir.path(), Vec::new());
    third.meet(&other);
    let harmless = other.record("web");
    third.hear(&other, &[poison.clone(), harmless.clone()]);
    third.turn();
    assert_eq!((third.owner.quarantine.count(), third.holds(&poison), third.holds(&harmless)), (1, false, true));
    third.stop();
    let fourth = Bench::start(dir.path(), Vec::new());
    assert_eq!(fourth.owner.quarantine.count(), 1, "an orderly end does not forgive it");
    fourth.stop();
}

#[tokio::test]
async fn an_orderly_run_between_two_deaths_clears_the_suspicion() {
    let (dir, mut other) = (enrolled(), Other::new());
    let poison = other.record("poison-merge");
    for _ in 0..2 {
        Bench::start(dir.path(), Vec::new()).die_of(&other, &poison);
        Bench::start(dir.path(), Vec::new()).stop();
    }
    let bench = Bench::start(dir.path(), Vec::new());
    assert_eq!(bench.owner.quarantine.count(), 0);
    bench.stop();
}

#[tokio::test]
async fn what_is_published_is_not_in_hand_any_more_and_what_is_not_yet_is() {
    let (dir, mut other) = (enrolled(), Other::new());
    let records = [other.record("a"), other.record("b")];
    for is_published in [true, false, false] {
        let mut bench = Bench::start(dir.path(), Vec::new());
        bench.meet(&other);
        bench.hear(&other, &records);
        bench.owner.quarantine.settle();
        if is_published {
            bench.turn();
        }
        // So that each start hears them for the first time.
        records.iter().for_each(|record| bench.owner.out.store.remove_record(record.id()));
        bench.die();
    }
    let bench = Bench::start(dir.path(), Vec::new());
    assert_eq!(bench.owner.quarantine.count(), 2, "two starts died before they had published them");
    bench.stop();
}

impl Bench {
    /// Of all that has left this host since the last look: records in datagrams, and names of records.
    fn passed_on(&mut self) -> usize {
        let mut passed_on = 0;
        while let Ok(command) = self.gossip.try_recv() {
            passed_on += match command {
                gossip::Command::Send { datagram: Datagram::Catalog(CatalogMessage::Delta(records)), .. } => {
                    records.len()
                }
                gossip::Command::Send { datagram: Datagram::Catalog(CatalogMessage::Fresh(names)), .. } => names.len(),
                _ => 0,
            };
        }
        passed_on
    }

    /// Others that are alive, so that there is somebody to pass records on to; and nothing has just been.
    async fn see_others(&mut self) {
        let claim = |number: u8| Claim {
            node: NodeId([number; 16]),
            name: NodeName::parse(&format!("other-{number}")).unwrap(),
            address: (Ipv4Addr::new(10, 0, 0, number), 7946).into(),
            incarnation: 1,
            state: MemberState::Alive,
            from: NodeId([number; 16]),
            proof: Vec::new(),
        };
        let (to, peer) = ((Ipv4Addr::new(10, 0, 0, 1), 7946).into(), NodeId([1; 16]));
        self.owner.on_gossip(gossip::Event::Synced { to, peer, claims: (1..=9).map(claim).collect() });
        self.turn();
        tokio::time::advance(COPIES_APART).await;
        self.turn();
        self.passed_on();
    }
}

/// Copies that leave are at least so far apart.
const COPIES_APART: Duration = Duration::from_millis(30);

#[tokio::test(start_paused = true)]
async fn a_record_that_kills_its_host_when_it_is_published_is_not_passed_on_first() {
    let (dir, mut other) = (enrolled(), Other::new());
    let (harmless, poison) = (other.record("web"), other.record("poison-publish"));
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.see_others().await;
    bench.meet(&other);
    bench.hear(&other, &[harmless]);
    bench.turn();
    assert!(bench.passed_on() > 0, "what does no harm is");
    tokio::time::advance(COPIES_APART).await;
    bench.hear(&other, &[poison]);
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.turn()));
    assert!(died.is_err());
    assert_eq!(bench.passed_on(), 0);
    bench.die();
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_waits_for_its_publication_two_milliseconds_at_most() {
    let (dir, mut other) = (enrolled(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.see_others().await;
    bench.meet(&other);
    let first = other.record("web");
    bench.hear(&other, &[first]);
    bench.owner.publish_at = Instant::now() + Duration::from_millis(2);
    bench.owner.turn();
    assert_eq!(bench.passed_on(), 0, "it is about to be published");
    assert!(bench.owner.next_turn() <= Instant::now() + Duration::from_millis(2));
    tokio::time::advance(Duration::from_millis(2)).await;
    bench.owner.turn();
    assert!(bench.passed_on() > 0);

    tokio::time::advance(COPIES_APART).await;
    bench.turn();
    bench.passed_on();
    let second = other.record("db");
    bench.hear(&other, &[second]);
    bench.owner.publish_at = Instant::now() + Duration::from_millis(50);
    bench.owner.turn();
    assert!(bench.passed_on() > 0, "where publications are far apart it does not wait for them");
    bench.stop();
}

#[tokio::test]
async fn a_record_from_the_store_that_kills_every_start_is_let_go() {
    let (dir, mut other) = (enrolled(), Other::new());
    let record = other.record("poison-restore");
    let store = Store::open(dir.path(), Duration::from_secs(10)).unwrap().store;
    store.save_records(std::slice::from_ref(&record)).unwrap();
    store.flush().unwrap();
    drop(store);
    for _ in 0..2 {
        // As the start of an agent does it, up to where it dies.
        let opened = Store::open(dir.path(), Duration::from_secs(10)).unwrap();
        assert_eq!(opened.records.len(), 1);
        let mut quarantine = Quarantine::load(&opened.store, env!("CARGO_PKG_VERSION"));
        assert!(!quarantine.holds(&record));
        quarantine.watch(&record, || ());
    }
    let bench = Bench::start(dir.path(), Vec::new());
    assert_eq!((bench.owner.quarantine.count(), bench.holds(&record)), (1, false));
    bench.stop();
    assert!(Store::open(dir.path(), Duration::from_secs(10)).unwrap().records.iter().all(|kept| *kept != record));
}

#[tokio::test]
async fn a_record_that_takes_too_long_is_quarantined() {
    let (dir, mut other) = (enrolled(), Other::new());
    let record = other.record("web");
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    bench.owner.quarantine.lose_patience();
    bench.hear(&other, std::slice::from_ref(&record));
    assert_eq!((bench.owner.quarantine.count(), bench.holds(&record)), (1, false));
    bench.stop();
}

#[tokio::test]
async fn another_version_of_the_agent_tries_again() {
    let (dir, mut other) = (enrolled(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    let poison = other.record("poison-judge");
    bench.hear(&other, &[poison]);
    assert_eq!(bench.owner.quarantine.count(), 1);
    bench.stop();
    let store = Store::open(dir.path(), Duration::from_secs(10)).unwrap().store;
    assert_eq!(Quarantine::load(&store, env!("CARGO_PKG_VERSION")).count(), 1);
    assert_eq!(Quarantine::load(&store, "a later one").count(), 0);
}

#[tokio::test]
async fn a_neighbour_gone_mad_costs_a_bounded_number_of_signature_checks_and_merges() {
    let (dir, mut mad, mut calm) = (enrolled(), Other::new(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&mad);
    bench.meet(&calm);
    let begun = Instant::now();
    for _ in 0..3_000 {
        let flap = mad.record("web");
        bench.hear(&mad, &[flap]);
    }
    let other = calm.record("db");
    bench.hear(&calm, std::slice::from_ref(&other));
    let counters = bench.owner.catalog.counters();
    let config = catalog::Config::default();
    let room = u64::from(config.origin_burst) + u64::from(config.origin_rate) * (begun.elapsed().as_secs() + 1);
    assert!(counters.records_applied <= room + 2, "{counters:?}");
    assert!(counters.records_over_rate >= 3_000 - room && bench.holds(&other));
    bench.stop();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_flaps_is_published_with_its_last_state_and_not_with_every_one() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), vec![service("web", &["c"])]);
    bench.verdict(Some("web"), "c", Health::Passing);
    let before = bench.owner.own.version().sequence;
    for flap in 0..2_001 {
        bench.verdict(Some("web"), "c", if flap % 2 == 0 { Health::Critical } else { Health::Passing });
    }
    let published = bench.owner.own.version().sequence - before;
    assert!((1..=12).contains(&published), "{published} records of 2,001 changes");
    assert!(bench.owner.pace.coalesced > 900);
    let due = bench.owner.next_turn();
    assert!(due <= Instant::now() + Duration::from_millis(200), "the last state is not forgotten");
    tokio::time::advance(Duration::from_millis(201)).await;
    bench.turn();
    bench.turn();
    assert_eq!(bench.told("web"), Some(Health::Critical));
    assert!(bench.owner.pace_due().is_none_or(|due| due > Instant::now()));
    bench.stop();
}
