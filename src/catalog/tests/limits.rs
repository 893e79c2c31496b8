//! Bounds, refusals, nonsense from peers, forgetting and tombstones' end.

use super::*;
use crate::model::BUCKETS;

#[test]
fn an_origin_over_its_records_or_bytes_is_refused_and_can_still_replace_delete_and_raise_its_floor() {
    let config = Config { origin_records_max: 3, origin_bytes_max: 1_000, ..Config::default() };
    let mut catalog = catalog_with(config, node(0));
    for (sequence, key) in (1..).zip(["a", "b", "c"]) {
        catalog.merge(MS, service(node(1), version(1, sequence), key), Relay::Quiet);
    }
    let full = Refusal::OriginFull { origin: node(1), records_max: 3 };
    assert_eq!(catalog.merge(MS, service(node(1), version(1, 4), "d"), Relay::Quiet), Merge::Refused(full));
    let large = record_of(node(1), version(1, 4), RecordKind::SERVICE, "a", Some(&[0; 900]));
    let too_large = Refusal::OriginLarge { origin: node(1), bytes_max: 1_000 };
    assert_eq!(catalog.merge(MS, large, Relay::Quiet), Merge::Refused(too_large));
    assert!(matches!(catalog.merge(MS, tombstone(node(1), version(1, 5), "a"), Relay::Quiet), Merge::Applied { .. }));
    let floor = floor(node(1), version(1, 6), version(1, 6));
    assert!(matches!(catalog.merge(MS, floor, Relay::Quiet), Merge::Applied { voided, .. } if voided.len() == 3));
    assert!(matches!(catalog.merge(MS, service(node(1), version(1, 7), "d"), Relay::Quiet), Merge::Applied { .. }));
}

#[test]
fn hosts_beyond_the_limit_are_refused_but_never_this_one() {
    let mut catalog = catalog_with(Config { origins_max: 1, ..Config::default() }, node(0));
    catalog.merge(MS, service(node(1), version(1, 1), "web"), Relay::Quiet);
    let refusal = Refusal::TooManyOrigins { origin: node(2), origins_max: 1 };
    let merge = catalog.merge(MS, service(node(2), version(1, 1), "web"), Relay::Quiet);
    assert_eq!(merge, Merge::Refused(refusal));
    assert!(matches!(catalog.merge(MS, service(node(0), version(1, 1), "web"), Relay::Eager), Merge::Applied { .. }));
}

#[test]
fn a_floor_that_would_void_itself_or_bears_a_key_is_refused() {
    let mut catalog = catalog(node(0));
    let above = floor(node(1), version(1, 1), version(1, 2));
    assert!(matches!(catalog.merge(MS, above, Relay::Quiet), Merge::Refused(Refusal::FloorAboveItself { .. })));
    let keyed = record_of(node(1), version(1, 1), RecordKind::FLOOR, "key", Some(&Record::floor_body(version(1, 0))));
    assert!(matches!(catalog.merge(MS, keyed, Relay::Quiet), Merge::Refused(Refusal::FloorKey { .. })));
    assert_eq!(catalog.counters().origins, 0, "a refused record leaves nothing behind");
}

#[test]
fn nonsense_is_counted_and_answered_by_nothing() {
    let mut catalog = catalog(node(0));
    catalog.set_peers(vec![node(1).into()]);
    let misplaced = OriginSummary { origin: NodeId([5; 16]), newest: version(1, 1), hash: 1 };
    let nonsense = [
        CatalogMessage::Digest(vec![1; BUCKETS - 1]),
        CatalogMessage::Digest(Vec::new()),
        CatalogMessage::Summaries { bucket: 200, origins: Vec::new(), complete: true },
        CatalogMessage::Summaries { bucket: 6, origins: vec![misplaced], complete: false },
        CatalogMessage::Delta(vec![service(node(1), version(1, 1), "web")]),
    ];
    let count = nonsense.len() as u64;
    nonsense.into_iter().for_each(|message| catalog.receive(MS, node(1), message));
    assert_eq!(outputs(&mut catalog), []);
    assert_eq!(catalog.counters().messages_malformed, count);
    assert_eq!(catalog.records().count(), 0);
}

#[test]
fn a_pull_that_brings_nothing_is_not_repeated_at_once() {
    let mut catalog = catalog(node(0));
    let offer = || CatalogMessage::Announce(vec![OriginSummary { origin: node(2), newest: version(1, 1), hash: 77 }]);
    catalog.receive(MS, node(1), offer());
    let wants = vec![Want { origin: node(2), after: Version::ZERO }];
    assert_eq!(outputs(&mut catalog), [Output::Pull { from: node(1), wants }]);
    catalog.pulled(2 * MS, node(1));

    catalog.receive(SECOND, node(3), offer());
    assert_eq!(outputs(&mut catalog), [], "the same records from another peer would be refused again");
    catalog.receive(16 * SECOND, node(3), offer());
    assert_eq!(outputs(&mut catalog).len(), 1, "after a while it may be worth another try");
}

#[test]
fn an_origin_is_pulled_from_one_peer_at_a_time_and_a_lost_pull_gives_way() {
    let mut catalog = catalog(node(0));
    let offer = || CatalogMessage::Announce(vec![OriginSummary { origin: node(2), newest: version(1, 1), hash: 77 }]);
    catalog.receive(MS, node(1), offer());
    catalog.receive(MS, node(3), offer());
    assert_eq!(outputs(&mut catalog).len(), 1);
    catalog.pull_failed(2 * MS, node(1));
    assert!(matches!(&outputs(&mut catalog)[..], [Output::Pull { from, .. }] if *from == node(3)));
    assert_eq!(catalog.next_timeout(), Some(120 * SECOND + 2 * MS), "nor does a pull without an end block for ever");
    catalog.tick(200 * SECOND);
    assert_eq!(catalog.counters().pulls_failed, 2);
}

#[test]
fn a_forgotten_origin_stays_away_until_it_says_something_new_or_is_a_peer_again() {
    let mut catalog = catalog(node(0));
    let old = service(node(1), version(1, 1), "web");
    catalog.merge(MS, old.clone(), Relay::Quiet);
    let empty = digest(&mut super::catalog(node(0)));
    catalog.forget_origin(node(1));
    assert_eq!(digest(&mut catalog), empty);
    assert_eq!(catalog.merge(MS, old.clone(), Relay::Eager), Merge::Void);
    let offer = OriginSummary { origin: node(1), newest: version(1, 1), hash: 77 };
    catalog.receive(MS, node(2), CatalogMessage::Announce(vec![offer]));
    assert_eq!(outputs(&mut catalog), []);

    let new = service(node(1), version(2, 1), "web");
    assert!(matches!(catalog.merge(MS, new, Relay::Eager), Merge::Applied { .. }));
    catalog.forget_origin(node(1));
    catalog.set_peers(vec![node(1).into()]);
    assert!(matches!(catalog.merge(MS, old, Relay::Eager), Merge::Applied { .. }));
}

#[test]
fn own_tombstones_ask_for_compaction_after_their_lifetime_and_a_floor_ends_them() {
    let mut catalog = catalog(node(0));
    catalog.merge(SECOND, tombstone(node(0), version(1, 1), "web"), Relay::Eager);
    let due = catalog.next_timeout().unwrap();
    assert_eq!(due, 3_601 * SECOND);
    catalog.tick(due - MS);
    assert_eq!(outputs(&mut catalog), []);
    catalog.tick(due);
    assert_eq!(outputs(&mut catalog), [Output::Compact]);
    catalog.tick(due + SECOND);
    assert_eq!(outputs(&mut catalog), [], "asked once");

    catalog.merge(due + SECOND, floor(node(0), version(1, 2), version(1, 2)), Relay::Eager);
    assert_eq!(catalog.counters().records, 1);
    catalog.tick(due + 3_600 * SECOND);
    assert_eq!(outputs(&mut catalog), [], "nothing left to compact");
}

#[test]
fn a_chunk_is_bounded_starts_with_the_node_record_and_the_rest_follows_in_order() {
    let mut catalog = catalog(node(0));
    for sequence in 1..=20 {
        catalog.merge(MS, service(node(1), version(1, sequence), &format!("web-{sequence}")), Relay::Quiet);
    }
    catalog.merge(MS, node_record(node(1), version(1, 21), 500), Relay::Quiet);
    let other = service(node(2), version(1, 1), "db");
    catalog.merge(MS, other.clone(), Relay::Quiet);

    let mut wants =
        vec![Want { origin: node(1), after: Version::ZERO }, Want { origin: node(2), after: Version::ZERO }];
    let (mut got, mut chunks) = (Vec::new(), 0);
    while !wants.is_empty() {
        let (records, left) = catalog.answer(&wants, 1_200);
        assert!(records.iter().map(|record| record.encoded().len()).sum::<usize>() <= 1_200);
        assert_eq!(records[0].header().kind == RecordKind::NODE, records.last() != Some(&other) || chunks == 0);
        got.extend(records.into_iter().filter(|record| record.header().kind == RecordKind::SERVICE));
        (wants, chunks) = (left, chunks + 1);
    }
    assert!(chunks > 3);
    assert_eq!(got.pop(), Some(other));
    assert!(got.is_sorted_by_key(Record::version) && got.len() == 20);

    let (one, _) = catalog.answer(&[Want { origin: node(2), after: Version::ZERO }], 1);
    assert_eq!(one.len(), 1, "a chunk too small for anything still makes progress");
    let nothing = catalog.answer(&[Want { origin: node(2), after: version(1, 1) }], 1_000);
    assert_eq!(nothing, (Vec::new(), Vec::new()));
}
