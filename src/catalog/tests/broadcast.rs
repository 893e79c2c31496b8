//! Eager deltas: at once, bounded in copies and in bytes; by announcement where a datagram is too small.

use super::*;

const PEERS: u16 = 9;

fn with_peers() -> Catalog {
    let mut catalog = catalog(node(0));
    // No digests between the deltas.
    catalog.digest_next = 1_000_000 * SECOND;
    catalog.set_peers((1..=PEERS).map(node).collect());
    catalog
}

/// Runs the catalog by its own timeouts and gives all it sends, with the time.
fn run(catalog: &mut Catalog, from: Duration, until: Duration) -> Vec<(Duration, CatalogMessage)> {
    let mut sent = Vec::new();
    let mut now = from;
    while let Some(due) = catalog.next_timeout().filter(|due| *due <= until) {
        now = now.max(due);
        catalog.tick(now);
        sent.extend(outputs(catalog).into_iter().filter_map(|output| match output {
            Output::Send { message, .. } => Some((now, message)),
            _ => None,
        }));
    }
    sent
}

#[test]
fn a_fresh_record_leaves_at_once_and_only_so_many_copies_of_it() {
    let mut catalog = with_peers();
    let record = service(node(0), version(1, 1), "web");
    catalog.merge(7 * SECOND, record.clone(), Relay::Eager);
    let sent = run(&mut catalog, 7 * SECOND, 100 * SECOND);
    assert_eq!(sent[0].0, 7 * SECOND);
    // ⌈log10(10 + 1)⌉ = 2, times 3: six copies in two rounds of three.
    assert_eq!(sent.len(), 6);
    assert!(sent.iter().all(|(_, message)| *message == CatalogMessage::Delta(vec![record.clone()])));
    assert_eq!(sent[5].0, 7 * SECOND + Config::default().gossip_interval);
}

#[test]
fn a_record_that_comes_between_rounds_does_not_wait_for_the_next_one() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, service(node(0), version(1, 1), "web"), Relay::Eager);
    run(&mut catalog, SECOND, SECOND);
    catalog.merge(SECOND + 20 * MS, service(node(0), version(1, 2), "db"), Relay::Eager);
    let sent = run(&mut catalog, SECOND + 20 * MS, SECOND + 99 * MS);
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|(_, message)| matches!(message, CatalogMessage::Delta(records) if records.len() == 1)));
}

#[test]
fn a_quiet_or_a_known_record_is_not_spread() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, service(node(1), version(1, 1), "web"), Relay::Quiet);
    catalog.merge(SECOND, service(node(1), version(1, 1), "web"), Relay::Eager);
    assert_eq!(run(&mut catalog, SECOND, 100 * SECOND), []);
}

#[test]
fn a_newer_version_takes_the_place_of_the_queued_one() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, service(node(0), version(1, 1), "web"), Relay::Eager);
    catalog.merge(SECOND, service(node(0), version(1, 2), "web"), Relay::Eager);
    let sent = run(&mut catalog, SECOND, 100 * SECOND);
    assert_eq!(sent.len(), 6);
    let newest = |message: &CatalogMessage| matches!(message, CatalogMessage::Delta(records) if records.iter().all(|r| r.version() == version(1, 2)));
    assert!(sent.iter().all(|(_, message)| newest(message)));
}

#[test]
fn many_records_are_packed_and_no_datagram_exceeds_its_limit() {
    let mut catalog = with_peers();
    for sequence in 1..=30 {
        let body = vec![1; usize::try_from(sequence).unwrap() * 25];
        let key = format!("web-{sequence}");
        let record = record_of(node(0), version(1, sequence), RecordKind::SERVICE, &key, Some(&body));
        catalog.merge(SECOND, record, Relay::Eager);
    }
    let sent = run(&mut catalog, SECOND, 100 * SECOND);
    let limit = Config::default().datagram_bytes_max;
    assert!(sent.iter().all(|(_, message)| message_bytes(message) <= limit));
    let records: usize = sent
        .iter()
        .map(|(_, message)| if let CatalogMessage::Delta(records) = message { records.len() } else { 0 })
        .sum();
    assert_eq!(records, 30 * 6);
    assert!(sent.len() < 180, "{} datagrams for 180 copies", sent.len());
}

#[test]
fn a_record_too_large_for_a_datagram_is_announced() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, node_record(node(0), version(1, 1), 3_000), Relay::Eager);
    let sent = run(&mut catalog, SECOND, 100 * SECOND);
    assert_eq!(sent.len(), 6);
    for (_, message) in sent {
        let CatalogMessage::Announce(summaries) = message else { panic!("{message:?} is no announcement") };
        assert_eq!((summaries[0].origin, summaries[0].newest), (node(0), version(1, 1)));
    }
}

#[test]
fn a_thousand_records_at_once_are_announced_instead_of_repeated() {
    let mut catalog = with_peers();
    for sequence in 1..=1_000 {
        catalog.merge(SECOND, service(node(0), version(1, sequence), &format!("web-{sequence}")), Relay::Eager);
    }
    let sent = run(&mut catalog, SECOND, 100 * SECOND);
    assert!(sent.iter().any(|(_, message)| matches!(message, CatalogMessage::Announce(_))));
    assert!(sent.len() < 100, "{} datagrams", sent.len());
    assert_eq!(catalog.broadcast.due(&catalog.config), None, "the queue runs empty");
}

#[test]
fn without_peers_nothing_is_due_and_the_record_waits_for_the_first_one() {
    let mut catalog = catalog(node(0));
    catalog.merge(SECOND, service(node(0), version(1, 1), "web"), Relay::Eager);
    assert_eq!(catalog.next_timeout(), None);
    catalog.set_peers(vec![node(0), node(1), node(1)]);
    catalog.tick(2 * SECOND);
    let deltas =
        |output: &&Output| matches!(output, Output::Send { to, message: CatalogMessage::Delta(_) } if *to == node(1));
    assert_eq!(outputs(&mut catalog).iter().filter(deltas).count(), 1);
}
