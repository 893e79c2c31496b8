//! Eager deltas: at once, bounded in copies and in bytes; by announcement where a datagram is too small.

use super::*;

const PEERS: u16 = 9;

fn with_peers() -> Catalog {
    let mut catalog = catalog(node(0));
    // No digests between the deltas.
    catalog.digest_next = 1_000_000 * SECOND;
    catalog.set_peers((1..=PEERS).map(|peer| node(peer).into()).collect());
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

/// Records in deltas, and names.
fn told(sent: &[(Duration, CatalogMessage)]) -> (usize, usize) {
    let count = |(records, names), message: &(Duration, CatalogMessage)| match &message.1 {
        CatalogMessage::Delta(delta) => (records + delta.len(), names),
        CatalogMessage::Fresh(fresh) => (records, names + fresh.len()),
        _ => (records, names),
    };
    sent.iter().fold((0, 0), count)
}

#[test]
fn a_fresh_record_leaves_at_once_and_is_named_a_bounded_number_of_times() {
    let mut catalog = with_peers();
    let record = service(node(0), version(1, 1), "web");
    catalog.merge(7 * SECOND, record.clone(), Relay::Eager);
    let sent = run(&mut catalog, 7 * SECOND, 100 * SECOND);
    let config = Config::default();
    let at_once = |(at, message): &&(Duration, CatalogMessage)| {
        *at == 7 * SECOND && *message == CatalogMessage::Delta(vec![record.clone()])
    };
    assert_eq!(sent.iter().filter(at_once).count(), config.fanout_own);
    let named = config.names_fanout + 2 * config.names_rounds as usize;
    assert_eq!(told(&sent), (config.fanout_own, named));
    assert!(sent.last().unwrap().0 <= 7 * SECOND + config.names_delay + config.names_again);
    assert_eq!(catalog.broadcast.due(&catalog.config), None);
}

#[test]
fn a_copy_is_passed_on_to_two_others_and_never_back() {
    for sender in 1..=PEERS {
        let mut catalog = with_peers();
        catalog.merge(SECOND, service(node(50), version(1, 1), "web"), Relay::Delta(node(sender)));
        let mut to = Vec::new();
        while let Some(due) = catalog.next_timeout().filter(|due| *due < 100 * SECOND) {
            catalog.tick(due.max(SECOND));
            to.extend(outputs(&mut catalog));
        }
        let back = |output: &Output| matches!(output, Output::Send { to, .. } if *to == node(sender));
        assert!(!to.iter().any(back));
        let copies =
            to.iter().filter(|output| matches!(output, Output::Send { message: CatalogMessage::Delta(_), .. }));
        assert!((1..=2).contains(&copies.count()));
    }
}

#[test]
fn the_neighbours_on_the_ring_hear_every_name_in_every_round_and_others_in_the_first() {
    let mut catalog = catalog(node(5));
    catalog.digest_next = 1_000_000 * SECOND;
    let mut ids: Vec<NodeId> = (0..200).map(node).collect();
    catalog.set_peers(ids.iter().copied().map(Peer::from).collect());
    ids.sort_unstable();
    let place = ids.iter().position(|id| *id == node(5)).unwrap();
    catalog.merge(SECOND, service(node(5), version(1, 1), "web"), Relay::Eager);
    let mut named: Vec<(Duration, NodeId)> = Vec::new();
    while let Some(due) = catalog.next_timeout().filter(|due| *due < 100 * SECOND) {
        catalog.tick(due.max(SECOND));
        named.extend(outputs(&mut catalog).into_iter().filter_map(|output| match output {
            Output::Send { to, message: CatalogMessage::Fresh(_) } => Some((due, to)),
            _ => None,
        }));
    }
    let neighbours = [ids[(place + 1) % 200], ids[(place + 199) % 200]];
    for neighbour in neighbours {
        assert_eq!(named.iter().filter(|(_, to)| *to == neighbour).count(), 2);
    }
    let others: Vec<Duration> = named.iter().filter(|(_, to)| !neighbours.contains(to)).map(|(at, _)| *at).collect();
    assert_eq!(others.len(), Config::default().names_fanout);
    assert!(others.iter().all(|at| *at == named[0].0), "in the first round");
}

#[test]
fn the_only_peer_hears_a_name_in_every_round() {
    let mut catalog = catalog(node(0));
    catalog.digest_next = 1_000_000 * SECOND;
    catalog.set_peers(vec![node(1).into()]);
    catalog.merge(SECOND, service(node(0), version(1, 1), "web"), Relay::Eager);
    assert_eq!(told(&run(&mut catalog, SECOND, 100 * SECOND)).1, 2);
}

#[test]
fn names_of_a_steady_stream_leave_at_intervals_that_no_two_hosts_share() {
    let mut catalog = with_peers();
    let mut rounds: Vec<Duration> = Vec::new();
    for number in 0..400_u32 {
        let now = SECOND + number * 10 * MS;
        catalog.merge(now, service(node(0), version(1, u64::from(number) + 1), &format!("web-{number}")), Relay::Eager);
        let sent = run(&mut catalog, now, now + 10 * MS);
        rounds
            .extend(sent.iter().filter(|(_, message)| matches!(message, CatalogMessage::Fresh(_))).map(|(at, _)| *at));
    }
    rounds.dedup();
    let pauses: Vec<Duration> = rounds.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let interval = Config::default().names_interval;
    let (least, most) = (*pauses.iter().min().unwrap(), *pauses.iter().max().unwrap());
    assert!(least >= interval && most <= interval * 5 / 4 + 10 * MS, "{least:?} to {most:?}");
    assert!(most - least > interval / 8, "{least:?} to {most:?}: hosts would stay in step");
}

#[test]
fn a_record_heard_twice_before_its_turn_is_only_named() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, service(node(0), version(1, 1), "web"), Relay::Eager);
    run(&mut catalog, SECOND, SECOND);
    // The next round of copies is 10 ms away; meanwhile others show that they hold this one.
    let record = service(node(50), version(1, 1), "db");
    catalog.merge(SECOND + MS, record.clone(), Relay::Delta(node(1)));
    assert_eq!(catalog.screen(SECOND + 2 * MS, &record), Screen::Known);
    let name = RecordRef { origin: node(50), version: version(1, 1) };
    catalog.receive(SECOND + 3 * MS, node(2), CatalogMessage::Fresh(vec![name]));
    let (copies, names) = told(&run(&mut catalog, SECOND + 3 * MS, SECOND + 60 * MS));
    assert!(copies == 0 && names > 0, "{copies} copies, {names} names");
}

#[test]
fn a_named_record_is_asked_for_after_a_moment_by_turns_and_not_for_ever() {
    let mut catalog = with_peers();
    let name = RecordRef { origin: node(50), version: version(1, 1) };
    for namer in [1, 2] {
        catalog.receive(SECOND, node(namer), CatalogMessage::Fresh(vec![name]));
    }
    assert_eq!(outputs(&mut catalog), [], "a copy may be under way");
    let mut asked = Vec::new();
    while let Some(due) = catalog.next_timeout().filter(|due| *due < 100 * SECOND) {
        catalog.tick(due);
        for output in outputs(&mut catalog) {
            let Output::Send { to, message } = output else { panic!("{output:?}") };
            assert_eq!(message, CatalogMessage::Request(vec![name]));
            asked.push((due, to));
        }
    }
    assert_eq!(asked[0], (SECOND + Config::default().request_delay, node(1)));
    assert_eq!(asked[1].1, node(2));
    assert!(asked.len() <= 6 && asked.last().unwrap().0 < 2 * SECOND, "{asked:?}");
    assert_eq!(catalog.counters().fetches_failed, 1);
}

#[test]
fn what_came_or_was_replaced_meanwhile_is_not_asked_for() {
    let mut catalog = with_peers();
    let names = |sequences: &[u64]| {
        let name = |sequence: &u64| RecordRef { origin: node(50), version: version(1, *sequence) };
        CatalogMessage::Fresh(sequences.iter().map(name).collect())
    };
    catalog.merge(SECOND, service(node(50), version(1, 1), "web"), Relay::Quiet);
    catalog.merge(SECOND, service(node(50), version(1, 2), "web"), Relay::Quiet);
    catalog.receive(SECOND, node(1), names(&[1, 2, 3]));
    catalog.merge(SECOND + MS, service(node(50), version(1, 3), "web"), Relay::Quiet);
    assert_eq!(run(&mut catalog, SECOND, 100 * SECOND), []);
}

#[test]
fn a_request_is_answered_with_what_is_held_and_fits() {
    let mut catalog = with_peers();
    let held = service(node(50), version(1, 1), "web");
    catalog.merge(SECOND, held.clone(), Relay::Quiet);
    catalog.merge(SECOND, node_record(node(50), version(1, 2), 3_000), Relay::Quiet);
    let name = |sequence| RecordRef { origin: node(50), version: version(1, sequence) };
    catalog.receive(SECOND, node(3), CatalogMessage::Request(vec![name(1), name(2), name(3)]));
    assert_eq!(outputs(&mut catalog), [Output::Send { to: node(3), message: CatalogMessage::Delta(vec![held]) }]);
}

#[test]
fn near_peers_get_most_copies_and_far_ones_always_some() {
    let mut catalog = catalog(node(0));
    catalog.digest_next = 1_000_000 * SECOND;
    let is_near = |number: u16| number <= 20;
    catalog.set_peers((1..=60).map(|number| Peer { node: node(number), near: is_near(number) }).collect());
    let (mut near, mut far) = (0, 0);
    for sequence in 1..=300 {
        let now = sequence * SECOND;
        let record = service(node(70), version(1, u64::from(sequence)), "web");
        catalog.merge(now, record, Relay::Delta(node(1)));
        catalog.tick(now);
        for output in outputs(&mut catalog) {
            let Output::Send { to, message: CatalogMessage::Delta(_) } = output else { continue };
            let to = (1..=60).find(|number| node(*number) == to).unwrap();
            *(if is_near(to) { &mut near } else { &mut far }) += 1;
        }
    }
    assert!(near > 400 && far > 60, "{near} near, {far} far");
}

#[test]
fn a_record_that_comes_between_rounds_does_not_wait_for_the_next_one() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, service(node(0), version(1, 1), "web"), Relay::Eager);
    run(&mut catalog, SECOND, SECOND);
    let later = SECOND + Config::default().fresh_interval + 2 * MS;
    catalog.merge(later, service(node(0), version(1, 2), "db"), Relay::Eager);
    let sent = run(&mut catalog, later, later + MS);
    assert_eq!(told(&sent).0, Config::default().fanout_own, "it leaves at once, beside the names of the first");
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
    let is_newest = |message: &CatalogMessage| match message {
        CatalogMessage::Delta(records) => records.iter().all(|record| record.version() == version(1, 2)),
        CatalogMessage::Fresh(names) => names.iter().all(|name| name.version == version(1, 2)),
        _ => false,
    };
    assert!(!sent.is_empty() && sent.iter().all(|(_, message)| is_newest(message)));
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
    let copies = 30 * Config::default().fanout_own;
    assert_eq!(told(&sent).0, copies);
    assert!(sent.len() < copies, "{} datagrams for {copies} copies", sent.len());
}

#[test]
fn a_record_too_large_for_a_datagram_is_announced() {
    let mut catalog = with_peers();
    catalog.merge(SECOND, node_record(node(0), version(1, 1), 3_000), Relay::Eager);
    let sent = run(&mut catalog, SECOND, 100 * SECOND);
    assert!((6..=12).contains(&sent.len()), "{}", sent.len());
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
    catalog.set_peers([0, 1, 1].map(|peer| node(peer).into()).to_vec());
    catalog.tick(2 * SECOND);
    let deltas =
        |output: &&Output| matches!(output, Output::Send { to, message: CatalogMessage::Delta(_) } if *to == node(1));
    assert_eq!(outputs(&mut catalog).iter().filter(deltas).count(), 1);
}
