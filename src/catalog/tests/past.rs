//! A host that went back in time: what others hold of it is of another life, under versions that it has used again.

use super::*;

/// A host that wrote a node record in this life, and a peer that holds what an earlier life wrote of the same start.
fn met(earlier: &[Record]) -> (Catalog, Catalog) {
    let (mut catalog, mut peer) = (catalog(node(0)), catalog(node(1)));
    let own = node_record(node(0), version(2, 1), 99);
    catalog.merge(MS, own.clone(), Relay::Eager);
    catalog.set_peers(vec![node(1).into()]);
    peer.set_peers(vec![node(0).into()]);
    // The peer has had time to take what the host says now.
    earlier.iter().chain([&own]).for_each(|record| drop(peer.merge(MS, record.clone(), Relay::Quiet)));
    outputs(&mut catalog);
    (catalog, peer)
}

/// The host's pulls in so much time, in which the peer compares every five seconds, and the records they brought.
fn looks(catalog: &mut Catalog, peer: &mut Catalog, time: Duration) -> (usize, Vec<Record>) {
    let (mut pulls, mut brought, mut now) = (0, Vec::new(), SECOND);
    while now < time {
        let digest = catalog.buckets.iter().map(|bucket| bucket.hash).collect();
        peer.receive(now, node(0), CatalogMessage::Digest(digest));
        for output in outputs(peer) {
            if let Output::Send { message: message @ CatalogMessage::Summaries { .. }, .. } = output {
                catalog.receive(now, node(1), message);
            }
        }
        for output in outputs(catalog) {
            if let Output::Pull { wants, .. } = output {
                pulls += 1;
                brought.extend(peer.answer(&wants, usize::MAX).0);
                catalog.pulled(now, node(1));
            }
        }
        now += 5 * SECOND;
    }
    (pulls, brought)
}

#[test]
fn a_host_looks_at_what_stays_different_and_finds_what_it_never_wrote() {
    // Beside its own, in its place, and a floor that says more.
    let records = [
        service(node(0), version(2, 1), "web"),
        record_of(node(0), version(2, 1), RecordKind::NODE, "", Some(&[0xff; 99])),
        record_of(node(0), version(2, 1), RecordKind::NODE, "", Some(&[0; 99])),
        floor(node(0), version(2, 1), version(2, 0)),
    ];
    let mut found = 0;
    for record in &records {
        let (mut catalog, mut peer) = met(std::slice::from_ref(record));
        let (pulls, brought) = looks(&mut catalog, &mut peer, 30 * SECOND);
        let unwritten = brought.iter().any(|record| catalog.is_unwritten(record));
        // Of two records in one place the peers keep one, and where that is this life's nothing is amiss.
        let is_held = peer.held().any(|held| held == record);
        assert_eq!((pulls > 0, unwritten), (is_held, is_held), "{record:?}");
        found += usize::from(unwritten);
    }
    assert!(found >= 3);
}

#[test]
fn a_peer_that_is_merely_behind_is_not_looked_at() {
    let (mut catalog, mut peer) = met(&[]);
    let news = service(node(0), version(2, 2), "web");
    catalog.merge(SECOND, news.clone(), Relay::Eager);
    assert_eq!(looks(&mut catalog, &mut peer, 10 * SECOND).0, 0);
    peer.merge(10 * SECOND, news, Relay::Quiet);
    assert_eq!(looks(&mut catalog, &mut peer, 600 * SECOND).0, 0);
}

#[test]
fn a_peer_that_stays_behind_is_looked_at_ever_more_rarely() {
    let (mut catalog, mut peer) = met(&[]);
    catalog.merge(SECOND, service(node(0), version(2, 2), "web"), Relay::Eager);
    let (pulls, brought) = looks(&mut catalog, &mut peer, 3600 * SECOND);
    assert!((2..=12).contains(&pulls), "{pulls}");
    assert!(brought.iter().all(|record| !catalog.is_unwritten(record)));
}

#[test]
fn what_it_wrote_and_replaced_or_voided_is_no_surprise() {
    let mut catalog = catalog(node(0));
    let log = [
        service(node(0), version(2, 1), "web"),
        service(node(0), version(2, 2), "db"),
        service(node(0), version(2, 3), "web"),
        tombstone(node(0), version(2, 4), "db"),
        service(node(0), version(2, 5), "web"),
        floor(node(0), version(2, 6), version(2, 5)),
    ];
    for written in 0..log.len() {
        catalog.merge(MS, log[written].clone(), Relay::Eager);
        assert!(log[..=written].iter().all(|record| !catalog.is_unwritten(record)));
        assert!(log[written + 1..].iter().all(|record| catalog.is_unwritten(record)));
    }
    assert!(catalog.is_unwritten(&service(node(0), version(2, 5), "db")), "another record has that version");
    assert!(catalog.is_unwritten(&record_of(node(0), version(2, 5), RecordKind::SERVICE, "web", Some(b""))));
    assert!(!catalog.is_unwritten(&service(node(1), version(2, 1), "web")), "that is another host's");
}
