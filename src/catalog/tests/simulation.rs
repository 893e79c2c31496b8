//! Whole meshes by seed: faults first, then peace and agreement. A failing seed is named in the message.

use rand::RngExt;

use super::network::{Faults, Network, Traffic};
use super::*;

/// Registers, changes, deletes, and raises a floor now and then, at random hosts.
fn write_something(network: &mut Network, rng: &mut ChaCha8Rng) {
    let host = rng.random_range(0..network.hosts.len());
    let key = format!("service-{}", rng.random_range(0..5));
    let large = rng.random_bool(0.05);
    match rng.random_range(0..10) {
        0..6 => drop(network.publish(host, |origin, version| service(origin, version, &key))),
        6..8 => drop(network.publish(host, |origin, version| tombstone(origin, version, &key))),
        8 if large => drop(network.publish(host, |origin, version| floor(origin, version, version))),
        _ => {
            let bytes = if large { 5_000 } else { 300 };
            network.publish(host, |origin, version| node_record(origin, version, bytes));
        }
    }
}

fn chaos(seed: u64) -> Network {
    let mut network = Network::new(16, seed, Faults::ROUGH);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    for step in 0..60 {
        match step {
            15 => network.partition(|host| u8::from(host < 5)),
            35 => network.partition(|host| u8::try_from(host % 3).unwrap()),
            50 => network.heal(),
            _ => {}
        }
        for _ in 0..rng.random_range(0..8) {
            write_something(&mut network, &mut rng);
        }
        network.run_for(rng.random_range(0..500) * MS);
    }
    network
}

#[test]
fn every_seed_of_loss_duplication_reordering_and_partitions_ends_in_agreement() {
    for seed in 0..12 {
        let mut network = chaos(seed);
        let end = network.now + 60 * SECOND;
        let took = network.run_until(end, Network::is_converged);
        assert!(took.is_some(), "seed {seed}: no agreement 60 s after the last write, still losing 20 %");
        network.assert_same_everywhere();
        for host in 0..network.hosts.len() {
            let id = network.id(host);
            let own: Vec<Record> = network.hosts[host].records_of(id).cloned().collect();
            assert!(own.iter().all(|record| network.all_hold(record)), "seed {seed}: a writer's record was lost");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let runs = [chaos(7), chaos(7)].map(|network| (network.traffic, network.now, state(&network.hosts[3])));
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn a_mesh_in_sync_costs_one_digest_per_host_and_interval_and_nothing_else() {
    let mut network = Network::new(20, 1, Faults::LAN);
    network.seed_everywhere(50);
    let intervals = 24;
    network.run_for(Config::default().digest_interval * intervals);
    let digests = 20 * usize::try_from(intervals).unwrap();
    let Traffic { bytes, .. } = network.traffic;
    assert_eq!(network.traffic, Traffic { datagrams: digests, digests, bytes, ..Traffic::default() });
    let per_host_and_second = bytes / 20 / usize::try_from(intervals * 5).unwrap();
    assert!(per_host_and_second < 200, "{per_host_and_second} bytes");
}

#[test]
fn a_newcomer_gets_everything_from_one_exchange() {
    let mut network = Network::new(300, 2, Faults::LAN);
    network.partition(|host| u8::from(host == 0));
    network.seed_everywhere(2);
    network.hosts[0] = Catalog::new(Config::default(), node(0), ChaCha8Rng::seed_from_u64(3));
    network.heal();
    let (now, seed) = (network.now, network.id(1));
    network.hosts[0].start_sync(now, seed);
    let took = network.run_until(now + SECOND, Network::is_converged);
    assert!(took.is_some_and(|took| took < 200 * MS), "{took:?}");
    assert!(network.traffic.pulls <= 3 && network.traffic.pulled_records == 600, "{:?}", network.traffic);
}

#[test]
fn a_gap_in_a_long_log_is_repaired_without_carrying_the_log() {
    let mut network = Network::new(2, 3, Faults::LAN);
    network.seed_everywhere(2_000);
    network.run_for(20 * SECOND);
    // The host misses one record and gets the one after it.
    let missed = network.publish(0, |origin, version| service(origin, version, "missed"));
    network.partition(|host| u8::try_from(host).unwrap());
    network.run_for(2 * SECOND);
    network.heal();
    network.publish(0, |origin, version| service(origin, version, "next"));
    network.run_for(100 * MS);
    assert!(!network.all_hold(&missed) && network.traffic.pulls == 0);
    let end = network.now + 20 * SECOND;
    assert!(network.run_until(end, Network::is_converged).is_some());
    assert!(network.traffic.pulled_records <= 4, "{:?}", network.traffic);
}

#[test]
fn a_deleted_service_is_not_brought_back_by_a_host_that_was_away_for_the_whole_deletion() {
    let mut network = Network::new(12, 4, Faults::ROUGH);
    network.seed_everywhere(3);
    network.partition(|host| u8::from(host == 11));
    network.publish(0, |origin, version| tombstone(origin, version, "web-1"));
    network.run_for(30 * SECOND);
    // The writer compacts: live records anew, then the floor, which ends the tombstone.
    let live = network.publish(0, |origin, version| service(origin, version, "web-2"));
    network.publish(0, |origin, version| service(origin, version, "web-3"));
    network.run_for(10 * SECOND);
    network.publish(0, |origin, version| floor(origin, version, live.version()));
    network.run_for(10 * SECOND);
    network.heal();
    let end = network.now + 60 * SECOND;
    assert!(network.run_until(end, Network::is_converged).is_some());
    for host in &network.hosts {
        assert_eq!(host.records_of(node(0)).count(), 3, "two services and the floor");
        assert_eq!(host.held().filter(|record| record.header().tombstone).count(), 0);
    }
}

#[test]
fn a_large_record_and_a_bulk_of_small_ones_reach_everybody_without_waiting_for_digests() {
    let mut network = Network::new(50, 5, Faults::LAN);
    network.publish(0, |origin, version| node_record(origin, version, 20_000));
    for key in 0..500 {
        network.publish(1, |origin, version| service(origin, version, &format!("web-{key}")));
    }
    let took = network.run_until(5 * SECOND, Network::is_converged);
    assert!(took.is_some_and(|took| took <= SECOND), "{took:?}");
}

#[test]
fn a_restarted_host_confirms_its_store_and_a_lost_disk_costs_one_refill() {
    let mut network = Network::new(10, 8, Faults::LAN);
    network.seed_everywhere(100);
    let stored = state(&network.hosts[4]);
    for (keeps_store, pulled) in [(true, 0), (false, 1_000)] {
        let peers: Vec<Peer> = (0..10).map(|peer| node(peer).into()).collect();
        let mut restarted = Catalog::new(Config::default(), node(4), ChaCha8Rng::seed_from_u64(9));
        if keeps_store {
            stored.iter().for_each(|record| assert!(restarted.restore(record.clone())));
        }
        restarted.set_peers(peers);
        network.hosts[4] = restarted;
        network.traffic = Traffic::default();
        let end = network.now + 10 * SECOND;
        assert!(network.run_until(end, Network::is_converged).is_some());
        assert_eq!(network.traffic.pulled_records, pulled);
        assert_eq!(network.hosts[4].counters().records_unconfirmed, 0);
    }
}
