//! What a disk that was set back does, and a memory: a host meets what it wrote in another life.

use std::net::SocketAddr;

use super::poison::Other;
use super::*;
use crate::agent::own::OwnLog;
use crate::model::{Claim, Header, OriginSummary, Record, Version};

/// A record of another life of this host, as a peer holds it.
fn of_another_life(bench: &Bench, epoch: u64, sequence: u64) -> Record {
    let header = Header {
        origin: bench.owner.local,
        version: Version { epoch, sequence },
        kind: RecordKind::SERVICE,
        format: 1,
        tombstone: true,
        key: Bytes::from_static(b"web"),
    };
    Record::sign(&header, b"", |bytes| bench.owner.identity.record_key.sign(bytes)).unwrap()
}

fn from_the_future(bench: &Bench, epoch: u64) -> Record {
    of_another_life(bench, epoch, 1)
}

fn meet(bench: &mut Bench, record: Record) {
    let now = bench.owner.now();
    bench.owner.take_record(now, record, Relay::Eager);
}

#[tokio::test]
async fn a_host_whose_disk_was_set_back_ends_and_starts_above_its_past() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let forged = {
        let mut bytes = from_the_future(&bench, 70).encoded().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        Record::decode(bytes.into()).unwrap()
    };
    meet(&mut bench, forged);
    assert_eq!(bench.owner.must_end(), None, "anybody can send that");
    let record = from_the_future(&bench, 70);
    meet(&mut bench, record);
    assert_eq!(bench.owner.must_end(), Some(70));
    bench.stop();
    let bench = Bench::start(dir.path(), Vec::new());
    assert_eq!((bench.owner.own.version().epoch, bench.owner.must_end()), (71, None));
}

#[tokio::test]
async fn a_host_that_has_a_twin_does_not_end_for_ever() {
    let dir = enrolled();
    for round in 1..=4 {
        let mut bench = Bench::start(dir.path(), Vec::new());
        let record = from_the_future(&bench, 100 * round);
        meet(&mut bench, record);
        assert!(bench.owner.must_end().is_some());
        bench.stop();
    }
    let mut bench = Bench::start(dir.path(), vec![service("web", &[])]);
    let record = from_the_future(&bench, 1000);
    meet(&mut bench, record);
    assert_eq!((bench.owner.must_end(), bench.owner.own.version().epoch), (None, 1001));
    bench.turn();
    assert_eq!(bench.is_tombstone("web"), Some(false), "it speaks above its twin");
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_meeting_is_forgiven() {
    let dir = enrolled();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let record = from_the_future(&bench, 70);
    meet(&mut bench, record);
    bench.stop();
    let mut bench = Bench::start(dir.path(), Vec::new());
    tokio::time::advance(Duration::from_secs(3601)).await;
    bench.turn();
    bench.stop();
    let store = Store::open(dir.path(), Duration::from_secs(10)).unwrap().store;
    assert_eq!(store.rises().unwrap(), 0);
}

#[tokio::test]
async fn a_record_of_this_start_that_it_never_wrote_ends_it_as_well() {
    for sequence in [1, 2, 3] {
        let dir = enrolled();
        let mut bench = Bench::start(dir.path(), vec![service("db", &[])]);
        let own: Vec<Record> = bench.owner.catalog.records_of(bench.owner.local).cloned().collect();
        assert_eq!((own.len(), bench.owner.own.version()), (2, Version { epoch: 1, sequence: 2 }));
        own.into_iter().for_each(|record| meet(&mut bench, record));
        assert_eq!(bench.owner.must_end(), None, "that is what it wrote");
        let record = of_another_life(&bench, 1, sequence);
        meet(&mut bench, record);
        assert_eq!(bench.owner.must_end(), Some(1), "{sequence}");
        bench.stop();
        let bench = Bench::start(dir.path(), Vec::new());
        assert_eq!((bench.owner.own.version().epoch, bench.owner.must_end()), (2, None));
    }
}

#[tokio::test]
async fn what_earlier_starts_said_and_what_it_has_replaced_is_no_past() {
    let dir = enrolled();
    Bench::start(dir.path(), Vec::new()).stop();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let earlier = of_another_life(&bench, 1, 7);
    bench.register(service("db", &[])).await.unwrap();
    let id = RecordId { origin: bench.owner.local, kind: RecordKind::SERVICE, key: Bytes::from_static(b"db") };
    let before = bench.owner.catalog.get(&id).unwrap().clone();
    let mut changed = service("db", &[]);
    changed.instance.port += 1;
    bench.register(changed).await.unwrap();
    assert_ne!(bench.owner.catalog.get(&id), Some(&before));
    meet(&mut bench, earlier);
    meet(&mut bench, before);
    assert_eq!(bench.owner.must_end(), None);
}

#[tokio::test]
async fn who_exchanges_members_is_told_what_is_held_of_it() {
    let (dir, mut other) = (enrolled(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    let record = other.record("web");
    bench.hear(&other, std::slice::from_ref(&record));
    let peer = other.identity.node;
    let at = SocketAddr::from(([10, 0, 0, 2], 7946));
    let name = other.identity.name.clone();
    let state = MemberState::Alive;
    let claims = vec![Claim { node: peer, name, address: at, incarnation: 0, state, from: peer, proof: Vec::new() }];
    let (reply, _answer) = oneshot::channel();
    bench.owner.on_gossip(gossip::Event::SyncRequest { peer, claims, reply });
    bench.turn();
    let mut told = Vec::<OriginSummary>::new();
    while let Ok(command) = bench.gossip.try_recv() {
        if let gossip::Command::Send { to, datagram: Datagram::Catalog(CatalogMessage::Announce(of)), .. } = command {
            assert_eq!(to, at);
            told.extend(of);
        }
    }
    let of_it: Vec<Version> = told.iter().filter(|it| it.origin == peer).map(|it| it.newest).collect();
    assert_eq!(of_it, [record.version()]);
}

#[tokio::test]
async fn of_two_records_of_one_version_all_keep_the_same() {
    let mut kept = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let (dir, other) = (enrolled(), Other::new());
        let mut bench = Bench::start(dir.path(), Vec::new());
        bench.meet(&other);
        let mut written = [8080, 9090].map(|port| {
            let mut definition = service("web", &[]);
            definition.instance.port = port;
            // Each life begins with the same number.
            OwnLog::new(other.identity.node, 1).service(&other.identity.record_key, &definition.instance).unwrap()
        });
        written.sort_by(|a, b| a.encoded().cmp(b.encoded()));
        order.iter().for_each(|of| bench.hear(&other, std::slice::from_ref(&written[*of])));
        kept.push(bench.owner.catalog.get(&written[0].id()) == Some(&written[1]));
    }
    assert_eq!(kept, [true, true]);
}
