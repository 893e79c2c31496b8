//! One host gone mad: what it costs the others, and what becomes of its own word.

use super::network::{Faults, Network};
use super::*;

/// A delta of one record.
fn delta(record: &Record) -> CatalogMessage {
    CatalogMessage::Delta(vec![record.clone()])
}

#[test]
fn ten_thousand_flaps_a_second_of_one_host_do_not_drown_the_others() {
    const HOSTS: usize = 60;
    const FLAPS_PER_MS: u64 = 10;
    let mut network = Network::new(60, 3, Faults::LAN);
    network.seed_everywhere(2);
    network.run_for(6 * SECOND);
    network.bytes_sent.fill(0);
    let applied_before = network.hosts[30].counters().records_applied;
    let (mut flap, mut last, mut took) = (2, None, Vec::new());
    for step in 0..4_000_u64 {
        for _ in 0..FLAPS_PER_MS {
            flap += 1;
            let record = service(network.id(0), version(1, flap), "mad");
            network.inject(0, 1 + usize::try_from(flap).unwrap() % (HOSTS - 1), delta(&record));
            last = Some(record);
        }
        network.run_for(MS);
        if step % 200 == 100 {
            let host = 1 + usize::try_from(step).unwrap() % (HOSTS - 1);
            let calm = network.publish(host, |origin, version| service(origin, version, "calm"));
            let end = network.now + 2 * SECOND;
            took.push(network.run_until_held(end, &calm).expect("known everywhere"));
        }
    }
    took.sort_unstable();
    let last = last.unwrap();
    let (elapsed, config) = (network.now - 6 * SECOND, Config::default());
    let applied = network.hosts[30].counters().records_applied - applied_before - 20;
    let bytes = network.bytes_sent_max();
    println!(
        "others' records took {took:?}; {applied} of {flap} merged at one host; the busiest sent {bytes} bytes in {elapsed:?}"
    );
    assert!(took.last().is_some_and(|took| *took <= 300 * MS));
    let bound = u64::from(config.origin_burst) + u64::from(config.origin_rate) * (elapsed.as_secs() + 1) + 100;
    assert!(applied <= bound, "{applied} merged, where {bound} are allowed");
    assert!(network.hosts[30].counters().records_over_rate > 0);

    // Calm again: its newest word is everywhere soon.
    assert!(matches!(network.hosts[0].merge(network.now, last.clone(), Relay::Eager), Merge::Applied { .. }));
    let end = network.now + 10 * SECOND;
    assert!(network.run_until_held(end, &last).is_some());
}

#[test]
fn an_origin_over_its_rate_is_left_unread_named_once_and_taken_again_later() {
    let mut catalog = catalog(node(0));
    let config = Config::default();
    let mut sequence = 0;
    let mut next = || {
        sequence += 1;
        service(node(1), version(1, sequence), "web")
    };
    for _ in 0..config.origin_burst {
        let record = next();
        assert_eq!(catalog.screen(SECOND, &record), Screen::Take);
        catalog.merge(SECOND, record, Relay::Delta(node(2)));
    }
    assert_eq!(catalog.screen(SECOND, &next()), Screen::OverRate { news: true });
    assert_eq!(catalog.screen(SECOND, &next()), Screen::OverRate { news: false });
    assert_eq!(catalog.screen(SECOND, &service(node(3), version(1, 1), "web")), Screen::Take, "others are not held up");
    assert_eq!(catalog.screen(2 * SECOND, &next()), Screen::Take, "a second later there is room again");
    assert_eq!(catalog.counters().records_over_rate, 2);
}

#[test]
fn what_was_not_verified_spends_nobodys_rate() {
    let mut catalog = catalog(node(0));
    for sequence in 1..10_000 {
        let forged = service(node(1), version(1, sequence), "web");
        assert_eq!(catalog.screen(SECOND, &forged), Screen::Take);
    }
}

#[test]
fn an_origin_that_changed_much_by_a_pull_is_not_pulled_again_at_once() {
    let mut catalog = catalog(node(0));
    for epoch in 1..=2 {
        for sequence in 1..=100 {
            let record = service(node(1), version(epoch, sequence), &format!("web-{sequence}"));
            catalog.merge(SECOND, record, Relay::Quiet);
        }
    }
    let offer = || CatalogMessage::Announce(vec![OriginSummary { origin: node(1), newest: version(3, 1), hash: 77 }]);
    catalog.receive(SECOND, node(2), offer());
    assert_eq!(outputs(&mut catalog), []);
    assert_eq!(catalog.counters().pulls_over_rate, 1);
    // A hundred records at fifty a second.
    catalog.receive(3 * SECOND + MS, node(2), offer());
    assert!(matches!(&outputs(&mut catalog)[..], [Output::Pull { .. }]));
}
