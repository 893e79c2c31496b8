//! The simulator earns trust: with memberlist's parameters and the network of a real run it shows what real Serf agents showed.
//!
//! Measured: Serf 0.9.4, N agents on 127.0.1.x of one network namespace of a two-core machine, started together, one killed by
//! SIGKILL 40 s later; the times at which each agent's log said so. Medians of the runs that `docs/gossip.md` lists. Nothing
//! in the model is fitted to them: its parameters are memberlist's documented ones, the network's are loopback's.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use crate::engine::memberlist::{Memberlist, Parameters};
use crate::engine::{Latency, State, World};

/// How far a simulated median may be from the measured one.
const TOLERANCE: f64 = 0.25;
/// Runs of each fleet, each by a seed of its own.
const SEEDS: u64 = 31;
/// Loopback under light load, one way, in microseconds.
const LOOPBACK: Latency = Latency::Lan(50, 300);
/// Measured: from exec until an agent listens. 17 ms alone on the machine, more while others start on its two cores.
const START_MS: (u64, u64) = (17, 60);

/// Medians over runs. Whether the seed listens before the first of the others calls is a race of processes, not of protocols,
/// and decides by a second (the others' `-retry-interval`) how long the join takes: the runs are told apart by it.
struct Measured {
    hosts: u32,
    /// Starting one process after the other took so long together.
    spawned: Duration,
    /// From the first start until all know all, where nobody called too early, and where somebody did.
    joined_s: f64,
    joined_late_s: f64,
    /// From the kill until the median observer knows.
    detected_s: f64,
    /// Idle, as counted by the loopback interface.
    bytes_each_s: f64,
}

/// See `docs/gossip.md`.
const MEASURED: [Measured; 3] = [
    Measured {
        hosts: 16,
        spawned: Duration::from_millis(60),
        joined_s: 0.49,
        joined_late_s: 1.27,
        detected_s: 6.83,
        bytes_each_s: 296.0,
    },
    Measured {
        hosts: 32,
        spawned: Duration::from_millis(170),
        joined_s: 0.82,
        joined_late_s: 1.32,
        detected_s: 7.45,
        bytes_each_s: 294.0,
    },
    Measured {
        hosts: 48,
        spawned: Duration::from_millis(310),
        joined_s: 1.12,
        joined_late_s: 1.39,
        detected_s: 8.82,
        bytes_each_s: 270.0,
    },
];

struct Run {
    joined: Duration,
    detected: Duration,
    spread: Duration,
    bytes_each_s: f64,
}

fn serf() -> Arc<Parameters> {
    // The measured agents are called n0 to n47, on port 7946 of an address each.
    Arc::new(Parameters { name_bytes: 3, ..Parameters::memberlist_lan() })
}

fn run(seed: u64, measured: &Measured, seed_is_late: bool) -> Run {
    let hosts = measured.hosts;
    let mut world: World<Memberlist> = World::new(seed, hosts);
    world.network.latency = LOOPBACK;
    let parameters = serf();
    let mut starts: Vec<(Duration, u32)> = (0..hosts)
        .map(|host| {
            let until_listening = match (host, seed_is_late) {
                (0, false) => START_MS.0,
                (0, true) => START_MS.1,
                _ => world.rng.random_range(START_MS.0..=START_MS.1),
            };
            (measured.spawned * host / hosts + Duration::from_millis(until_listening), host)
        })
        .collect();
    starts.sort_unstable();
    for (at, host) in starts {
        world.run_to(at);
        let rng = world.draw_rng();
        let seeds = if host == 0 { Vec::new() } else { vec![0] };
        world.boot(host, Memberlist::new(parameters.clone(), host, seeds, rng));
    }
    while !world.all_alive() {
        world.run_for(Duration::from_millis(10));
        assert!(world.now() < Duration::from_secs(300), "seed {seed}: {hosts} hosts never joined\n{}", world.picture());
    }
    let joined = world.now();
    world.run_for(Duration::from_secs(10));
    let sent = |world: &World<Memberlist>| -> u64 {
        // As the kernel counts on loopback: with headers of IP and UDP.
        let each = |host| world.host(host).traffic.sent_total() + 28 * world.host(host).traffic.datagrams_sent;
        (0..hosts).map(each).sum()
    };
    let before = sent(&world);
    world.run_for(Duration::from_secs(30));
    let bytes_each_s = (sent(&world) - before) as f64 / 30.0 / f64::from(hosts);
    // The kill comes at any moment of the agents' second.
    let moment = Duration::from_millis(world.rng.random_range(0..1000));
    world.run_for(moment);
    let victim = hosts / 2;
    world.observer.watch(victim);
    world.crash(victim);
    let killed = world.now();
    while !world.all_see(victim, State::Failed) {
        world.run_for(Duration::from_millis(10));
        assert!(world.now() < killed + Duration::from_secs(60), "seed {seed}: not detected");
    }
    let seen = world.observer.seen_of(victim).iter().filter(|seen| seen.state == State::Failed);
    let mut times: Vec<Duration> = seen.map(|seen| seen.at - killed).collect();
    times.sort_unstable();
    let detected = times[times.len() / 2];
    Run { joined, detected, spread: times[times.len() - 1] - times[0], bytes_each_s }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn assert_near(what: &str, hosts: u32, simulated: f64, measured: f64) {
    let off = (simulated - measured) / measured;
    println!("{hosts} hosts: {what}: simulated {simulated:.2}, measured {measured:.2} ({:+.0} %)", off * 100.0);
    assert!(off.abs() <= TOLERANCE, "{hosts} hosts: {what}: simulated {simulated:.2}, measured {measured:.2}");
}

#[test]
fn memberlist_in_the_simulator_does_what_real_serf_does() {
    for measured in MEASURED {
        let hosts = measured.hosts;
        let runs: Vec<Run> = (0..SEEDS).map(|seed| run(seed, &measured, false)).collect();
        let late: Vec<Run> = (0..SEEDS).map(|seed| run(seed, &measured, true)).collect();
        let by_push_pull = runs.iter().chain(&late).filter(|run| run.joined > Duration::from_secs(5)).count();
        let spread = median(runs.iter().map(|run| run.spread.as_secs_f64()));
        println!("{hosts} hosts: {by_push_pull} of {} runs joined only by push-pull", SEEDS * 2);
        println!("{hosts} hosts: from the first to the last observer {spread:.2} s");
        let joined = |runs: &[Run]| median(runs.iter().map(|run| run.joined.as_secs_f64()));
        assert_near("joined", hosts, joined(&runs), measured.joined_s);
        assert_near("joined, seed late", hosts, joined(&late), measured.joined_late_s);
        let all = || runs.iter().chain(&late);
        assert_near("detected", hosts, median(all().map(|run| run.detected.as_secs_f64())), measured.detected_s);
        assert_near("bytes/s each", hosts, median(all().map(|run| run.bytes_each_s)), measured.bytes_each_s);
    }
}
