//! Partitions that heal: how soon all hold the same again, what is lost (nothing), and what it costs.

use super::network::{Faults, Network, Traffic};
use super::*;

/// Both sides write while they are apart; gives the time from the healing to the last host's agreeing.
fn mend(hosts: u16, seed: u64, on_first_side: u16) -> Duration {
    let mut network = Network::new(hosts, seed, Faults::LAN);
    network.seed_everywhere(3);
    network.split(|host| u8::from(host < usize::from(on_first_side)));
    let mut written = Vec::new();
    for host in 0..usize::from(hosts) {
        written.push(network.publish(host, |origin, version| service(origin, version, "apart")));
        written.push(network.publish(host, |origin, version| tombstone(origin, version, "web-2")));
    }
    network.run_for(30 * SECOND);
    network.traffic = Traffic::default();
    network.bytes_sent.fill(0);
    let healed = network.now;
    network.reunite(2 * SECOND);
    let end = network.now + 60 * SECOND;
    assert!(network.run_until(end, Network::is_converged).is_some(), "seed {seed}");
    assert!(written.iter().all(|record| network.all_hold(record)), "seed {seed}");
    let took = network.now - healed;
    println!(
        "{on_first_side}/{}, seed {seed}: {took:?}; datagrams: {} kB a host, {} kB the busiest; {} pulls, {} records",
        hosts - on_first_side,
        network.traffic.bytes / 1_000 / usize::from(hosts),
        network.bytes_sent_max() / 1_000,
        network.traffic.pulls,
        network.traffic.pulled_records,
    );
    took
}

#[test]
fn two_healed_halves_agree_within_ten_seconds_and_lose_nothing() {
    for seed in 0..3 {
        assert!(mend(100, seed, 50) <= 10 * SECOND, "seed {seed}");
    }
}

#[test]
fn a_host_that_was_cut_off_alone_agrees_with_all_within_ten_seconds() {
    for seed in 0..3 {
        assert!(mend(100, seed, 1) <= 10 * SECOND, "seed {seed}");
    }
}

#[test]
fn many_members_that_return_at_once_are_not_all_compared_with_at_once() {
    let mut catalog = catalog(node(0));
    catalog.set_peers((1..1_000).map(|peer| node(peer).into()).collect());
    for peer in 1..1_000 {
        catalog.met(SECOND, node(peer));
        catalog.start_sync(SECOND, node(peer));
    }
    let sent = outputs(&mut catalog).len();
    assert_eq!(sent, Config::default().syncs_burst as usize);
    let hurried = catalog.next_timeout().unwrap();
    assert!(hurried <= SECOND + Config::default().digest_interval / 8);
}

#[test]
fn a_single_member_that_returns_is_compared_with_by_a_few_hosts_only() {
    let mut asked = 0;
    for number in 1..1_000 {
        let mut catalog = Catalog::new(Config::default(), node(number), ChaCha8Rng::seed_from_u64(u64::from(number)));
        catalog.set_peers((0..1_000).map(|peer| node(peer).into()).collect());
        catalog.met(SECOND, node(0));
        asked += outputs(&mut catalog).len();
    }
    assert!((1..=24).contains(&asked), "{asked}");
}

/// A host that lacks the first of an origin's `count` records, as another one does with which it agrees, looks at a third that
/// has them all. What it asks for at once.
fn looks_below_an_agreement(count: u64) -> (Vec<Want>, bool) {
    let records: Vec<Record> =
        (1..=count).map(|sequence| service(node(5), version(1, sequence), &format!("web-{sequence}"))).collect();
    let [mut behind, mut alike, mut ahead] = [0, 1, 2].map(|number| catalog(node(number)));
    for record in &records {
        ahead.merge(SECOND, record.clone(), Relay::Quiet);
    }
    for record in &records[1..] {
        behind.merge(SECOND, record.clone(), Relay::Quiet);
        alike.merge(SECOND, record.clone(), Relay::Quiet);
    }
    behind.receive(SECOND, node(1), CatalogMessage::Digest(digest(&mut alike)));
    assert_eq!(outputs(&mut behind), [], "they agree");
    let summary = ahead.origins[&node(5)].summary(node(5)).unwrap();
    let bucket = u8::try_from(crate::catalog::digest::bucket_of(node(5))).unwrap();
    behind.receive(SECOND, node(2), CatalogMessage::Summaries { bucket, origins: vec![summary], complete: true });
    let mut asked = Vec::new();
    while let Some(Output::Pull { wants, .. }) =
        outputs(&mut behind).into_iter().find(|output| matches!(output, Output::Pull { .. }))
    {
        let (records, _) = ahead.answer(&wants, 1_000_000);
        asked.extend(wants);
        for record in records {
            behind.merge(SECOND, record, Relay::Quiet);
        }
        behind.pulled(SECOND, node(2));
    }
    (asked, state(&behind) == state(&ahead))
}

#[test]
fn what_two_hosts_lack_alike_is_found_at_the_first_look_at_a_third() {
    let (asked, mended) = looks_below_an_agreement(2);
    assert_eq!(asked.iter().map(|want| want.after).collect::<Vec<_>>(), [version(1, 2), Version::ZERO]);
    assert!(mended);
}

#[test]
fn a_large_origin_is_not_carried_whole_before_the_peer_could_mend_itself() {
    let (asked, mended) = looks_below_an_agreement(100);
    assert_eq!(asked.iter().map(|want| want.after).collect::<Vec<_>>(), [version(1, 100)]);
    assert!(!mended, "it waits for what the next digests show");
}
