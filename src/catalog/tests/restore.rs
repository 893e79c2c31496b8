//! Records from the store: shown at once, offered to nobody until a peer knows them too.

use super::*;

fn restored(records: &[Record]) -> Catalog {
    let mut catalog = catalog(node(0));
    records.iter().for_each(|record| assert!(catalog.restore(record.clone())));
    catalog
}

fn offers(catalog: &Catalog) -> Vec<Record> {
    catalog.answer(&[Want { origin: node(1), after: Version::ZERO }], usize::MAX).0
}

#[test]
fn a_foreign_record_from_the_store_is_shown_but_neither_hashed_nor_offered() {
    let mut catalog = restored(&[service(node(1), version(1, 1), "web")]);
    assert_eq!(catalog.records().count(), 1);
    assert_eq!(offers(&catalog), []);
    let empty = digest(&mut super::catalog(node(0)));
    assert_eq!(digest(&mut catalog), empty);
    assert_eq!(catalog.counters().records_unconfirmed, 1);
}

#[test]
fn an_own_record_from_the_store_needs_nobody() {
    let own = service(node(0), version(1, 1), "web");
    let catalog = restored(std::slice::from_ref(&own));
    assert!(catalog.is_confirmed(&own.id()));
}

#[test]
fn the_same_version_from_a_peer_confirms_it_and_so_does_an_older_one() {
    let held = service(node(1), version(1, 2), "web");
    for heard in [held.clone(), service(node(1), version(1, 1), "web")] {
        let mut catalog = restored(std::slice::from_ref(&held));
        assert_eq!(catalog.merge(MS, heard, Relay::Eager), Merge::Known);
        assert_eq!(offers(&catalog), std::slice::from_ref(&held));
    }
}

#[test]
fn equal_hashes_confirm_a_whole_origin_without_a_pull() {
    let records: Vec<Record> =
        (1..=50).map(|sequence| service(node(1), version(1, sequence), &format!("web-{sequence}"))).collect();
    let mut peer = catalog(node(2));
    records.iter().for_each(|record| drop(peer.merge(MS, record.clone(), Relay::Quiet)));
    let mut catalog = restored(&records);

    catalog.start_sync(SECOND, node(2));
    let pulls = exchange(&mut catalog, &mut peer, node(2));
    assert_eq!(pulls, 0);
    assert_eq!(offers(&catalog), records);
    assert_eq!(digest(&mut catalog), digest(&mut peer));
}

/// Carries datagrams between the two until both are silent; pulls of the first are counted and answered.
fn exchange(catalog: &mut Catalog, peer: &mut Catalog, peer_id: NodeId) -> usize {
    let mut pulls = 0;
    loop {
        let (ours, theirs) = (outputs(catalog), outputs(peer));
        if ours.is_empty() && theirs.is_empty() {
            return pulls;
        }
        for output in ours {
            match output {
                Output::Send { message, .. } => peer.receive(SECOND, node(0), message),
                Output::Pull { wants, .. } => {
                    pulls += 1;
                    let (records, _) = peer.answer(&wants, usize::MAX);
                    records.into_iter().for_each(|record| drop(catalog.merge(SECOND, record, Relay::Quiet)));
                    catalog.pulled(SECOND, peer_id);
                }
                Output::Compact => {}
            }
        }
        for output in theirs {
            match output {
                Output::Send { message, .. } => catalog.receive(SECOND, peer_id, message),
                other => panic!("the peer lacks nothing, but asks for {other:?}"),
            }
        }
    }
}

#[test]
fn a_host_that_was_away_pulls_what_is_new_and_confirms_the_rest() {
    let old: Vec<Record> =
        (1..=50).map(|sequence| service(node(1), version(1, sequence), &format!("web-{sequence}"))).collect();
    let changes = [service(node(1), version(1, 51), "web-7"), tombstone(node(1), version(1, 52), "web-9")];
    let mut peer = catalog(node(2));
    old.iter().chain(&changes).for_each(|record| drop(peer.merge(MS, record.clone(), Relay::Quiet)));
    let mut catalog = restored(&old);

    catalog.start_sync(SECOND, node(2));
    let pulls = exchange(&mut catalog, &mut peer, node(2));
    assert_eq!(pulls, 1);
    assert_eq!(catalog.counters().records_applied, 2, "only what is new travelled");
    assert_eq!(state(&catalog), state(&peer));
    assert_eq!(catalog.counters().records_unconfirmed, 0);
}

#[test]
fn a_record_of_the_current_start_that_only_the_store_has_is_offered_once_all_else_is_equal() {
    let node_record = node_record(node(1), version(2, 1), 99);
    for (only_here, is_told) in [(version(2, 3), true), (version(3, 1), true), (version(1, 7), false)] {
        let mut peer = catalog(node(2));
        peer.merge(MS, node_record.clone(), Relay::Quiet);
        let lost = service(node(1), only_here, "web");
        for by_digest in [false, true] {
            let mut catalog = restored(&[node_record.clone(), lost.clone()]);
            catalog.merge(MS, node_record.clone(), Relay::Quiet);
            assert_eq!(offers(&catalog).len(), 1);
            let message = if by_digest {
                CatalogMessage::Digest(digest(&mut peer))
            } else {
                CatalogMessage::Announce(peer.origins[&node(1)].summary(node(1)).into_iter().collect())
            };
            catalog.receive(SECOND, node(2), message);
            assert_eq!(offers(&catalog).contains(&lost), is_told, "{only_here}");
        }
    }
}

#[test]
fn what_the_mesh_has_voided_meanwhile_goes_when_the_floor_comes() {
    let mut catalog = restored(&[service(node(1), version(1, 1), "web")]);
    catalog.merge(MS, service(node(1), version(2, 1), "db"), Relay::Eager);
    assert_eq!(offers(&catalog).len(), 1, "the old record is not offered again");
    catalog.merge(MS, floor(node(1), version(2, 2), version(2, 1)), Relay::Eager);
    assert_eq!(catalog.records_of(node(1)).count(), 2);
}

#[test]
fn a_restored_floor_holds_and_is_confirmed_by_any_word_of_its_origin() {
    let floor = floor(node(1), version(2, 1), version(2, 0));
    let mut catalog = restored(std::slice::from_ref(&floor));
    assert_eq!(catalog.merge(MS, service(node(1), version(1, 1), "web"), Relay::Eager), Merge::Void);
    assert_eq!(offers(&catalog), [floor], "the peer that still has the old record must learn of the floor");
}

#[test]
fn the_store_never_overrules_a_peer() {
    let mut catalog = catalog(node(0));
    catalog.merge(MS, service(node(1), version(2, 1), "web"), Relay::Eager);
    assert!(!catalog.restore(service(node(1), version(1, 1), "web")));
    let summary = OriginSummary { origin: node(1), newest: version(1, 1), hash: 7 };
    catalog.receive(MS, node(2), CatalogMessage::Announce(vec![summary]));
    assert_eq!(outputs(&mut catalog), [], "an older history has nothing for us");
}
