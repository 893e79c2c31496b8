//! How fast and at what price news spreads, in meshes by seed.

use super::network::{Faults, Network, Traffic};
use super::*;

/// What many registrations, one after another at random hosts, came to.
struct Measured {
    /// From the registration to the last host's knowing, sorted.
    took: Vec<Duration>,
    copies_per_host: f64,
}

impl Measured {
    fn percentile(&self, percent: usize) -> Duration {
        self.took[(self.took.len() * percent).div_ceil(100) - 1]
    }
}

fn register(network: &mut Network, count: usize, pause: Duration) -> Measured {
    let hosts = network.hosts.len();
    network.traffic = Traffic::default();
    let mut took = Vec::new();
    for number in 0..count {
        let host = number * 7_919 % hosts;
        let key = format!("web-{number}");
        let record = network
            .publish(host, |origin, version| record_of(origin, version, RecordKind::SERVICE, &key, Some(&[7; 120])));
        let until = network.now + 60 * SECOND;
        took.push(network.run_until_held(until, &record).expect("known everywhere within a minute"));
        network.run_for(pause);
    }
    took.sort_unstable();
    let copies = f64::from(u32::try_from(network.traffic.copies).unwrap());
    let deliveries = f64::from(u32::try_from(count * hosts).unwrap());
    Measured { took, copies_per_host: copies / deliveries }
}

fn report(what: &str, measured: &Measured) {
    println!(
        "{what}: p50 {:?}, p99 {:?}, worst {:?}; {:.2} copies a host",
        measured.percentile(50),
        measured.percentile(99),
        measured.percentile(100),
        measured.copies_per_host
    );
}

#[test]
fn a_registration_is_known_to_a_thousand_hosts_at_once_and_costs_each_two_copies() {
    for (what, loss, bound) in [("no loss", 0.0, 300 * MS), ("5 % loss", 0.05, SECOND)] {
        let mut network = Network::new(1_000, 6, Faults { loss, ..Faults::LAN });
        let measured = register(&mut network, 20, 300 * MS);
        report(&format!("1,000 hosts, {what}"), &measured);
        assert!(measured.percentile(99) <= bound);
        assert!(measured.copies_per_host <= 2.5);
    }
}

/// A body with which a record has 200 bytes in all: header, key, body and signature.
const RECORD_OF_200_BODY: usize = 200 - 43 - 8 - 64;

/// Every host of `hosts` writes by turns, `rate` records a second in all, for `seconds`.
fn stream(network: &mut Network, rate: u32, seconds: u32, body_bytes: usize) -> Vec<Record> {
    let body = vec![7; body_bytes];
    let hosts = network.hosts.len();
    let pause = SECOND / rate;
    let mut written = Vec::new();
    for number in 0..rate * seconds {
        let host = usize::try_from(number).unwrap() * 7_919 % hosts;
        let key = format!("web-{:04}", number % 10_000);
        written.push(
            network.publish(host, |origin, version| record_of(origin, version, RecordKind::SERVICE, &key, Some(&body))),
        );
        network.run_for(pause);
    }
    written
}

#[test]
fn a_hundred_changes_a_second_cost_every_host_less_than_a_hundred_kilobytes() {
    for (what, body_bytes) in [("records", RECORD_OF_200_BODY), ("bodies", 200)] {
        let mut network = Network::new(200, 9, Faults::LAN);
        stream(&mut network, 100, 1, body_bytes);
        network.traffic = Traffic::default();
        network.bytes_sent.fill(0);
        let written = stream(&mut network, 100, 4, body_bytes);
        let Traffic { bytes, copies, .. } = network.traffic;
        let (mean, busiest, copies) = (bytes / 200 / 4, network.bytes_sent_max() / 4, copies / 4 / 200);
        println!(
            "100 {what}/s of 200 bytes: {mean} bytes a second and host, {busiest} the busiest, {copies} copies of 100"
        );
        assert!(busiest <= 100_000 && copies <= 250);
        // Hosts that name in step have some of them asked by all.
        assert!(busiest * 100 <= mean * 115, "{busiest} bytes of the busiest, {mean} of all");
        network.run_for(SECOND);
        assert!(written.iter().all(|record| network.all_hold(record)));
    }
}

#[test]
fn hosts_that_cannot_read_names_are_reached_by_copies_and_digests() {
    let mut network = Network::new(100, 4, Faults::LAN);
    network.old = (0..100).step_by(3).collect();
    let written = stream(&mut network, 20, 2, RECORD_OF_200_BODY);
    let end = network.now + 30 * SECOND;
    assert!(network.run_until(end, Network::is_converged).is_some());
    assert!(written.iter().all(|record| network.all_hold(record)));
}
