//! How long until a crash is known everywhere. Hosts of a settled fleet are killed one after the other, at any moment of their
//! probes' period; each crash counts with the time at which the median and the last of the others called it failed.

use std::time::Duration;

use rand::RngExt;
use rand::seq::index::sample;

use crate::engine::{Core, State, World};
use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const NAME: &str = "crash";
pub(crate) const COLUMNS: &[Column] = &[
    ("half know, p50", "half_p50", Unit::Seconds),
    ("all know, p50", "p50", Unit::Seconds),
    ("all know, p99", "p99", Unit::Seconds),
    ("slowest", "max", Unit::Seconds),
    ("crashes", "samples", Unit::Count),
    ("not all after 120 s", "never", Unit::Count),
    ("healthy hosts buried", "false", Unit::Count),
];

const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(50);

/// Crashes per run, and runs.
fn amount(hosts: u32, seeds: u64) -> (u32, u64) {
    match hosts {
        0..=49 => (1, seeds.saturating_mul(10)),
        50..=199 => (5, seeds.saturating_mul(2)),
        200..=1999 => (20, seeds.min(5)),
        _ => (10, seeds.min(1)),
    }
}

struct Crash {
    half: Option<Duration>,
    all: Option<Duration>,
}

fn crash<C: Core>(world: &mut World<C>, victim: u32) -> Crash {
    world.observer.watch(victim);
    world.crash(victim);
    let (killed, others) = (world.now(), world.running().count());
    while !world.all_see(victim, State::Failed) && world.now() < killed + PATIENCE {
        world.run_for(STEP);
    }
    let all = world.all_see(victim, State::Failed);
    let seen = world.observer.seen_of(victim).iter().filter(|seen| seen.state == State::Failed);
    let mut times: Vec<Duration> = seen.map(|seen| seen.at - killed).collect();
    times.sort_unstable();
    Crash { half: times.get(others / 2).copied(), all: times.last().copied().filter(|_| all) }
}

fn measure<P: Protocol>(seed: u64, hosts: u32, crashes: u32) -> (Vec<Crash>, usize) {
    let mut world = P::settled(seed, hosts);
    let victims = sample(&mut world.rng, hosts as usize, crashes as usize).into_vec();
    let mut seen = Vec::new();
    for victim in victims {
        let moment = world.rng.random_range(0..5_000);
        world.run_for(Duration::from_millis(moment));
        seen.push(crash(&mut world, u32::try_from(victim).expect("below the count")));
    }
    (seen, world.observer.false_failures.len())
}

fn figure<P: Protocol>(wanted: &Wanted, hosts: u32) -> Figure {
    let (crashes, seeds) = amount(hosts, wanted.seeds);
    let what = format!("crash, {hosts} hosts, {}", P::NAME);
    let outcomes = wanted.each_seed(&what, seeds, |seed| measure::<P>(seed, hosts, crashes));
    let mut figure = Figure::new(NAME, "LAN", P::NAME, hosts, seeds);
    figure.set("false", outcomes.iter().map(|(_, buried)| *buried as f64).sum());
    let crashes: Vec<Crash> = outcomes.into_iter().flat_map(|(crashes, _)| crashes).collect();
    figure.set_times("half_", crashes.iter().map(|crash| crash.half).collect());
    figure.set_times("", crashes.iter().map(|crash| crash.all).collect());
    figure
}

pub(crate) fn run(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[10, 100, 1_000, 10_000]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, figure(wanted, hosts)));
        }
    }
    figures
}
