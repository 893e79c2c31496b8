//! How long until a registration is known everywhere: on a calm LAN, and with loss. Many registrations by random hosts, a
//! fraction of a second apart; each counts with the time at which the last host had it.

use std::time::Duration;

use rand::RngExt;

use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const NAME: &str = "registration";
pub(crate) const COLUMNS: &[Column] = &[
    ("p50", "p50", Unit::Milliseconds),
    ("p99", "p99", Unit::Milliseconds),
    ("slowest", "max", Unit::Milliseconds),
    ("registrations", "samples", Unit::Count),
    ("not everywhere after 60 s", "never", Unit::Count),
    ("copies of it per host", "copies", Unit::Ratio),
];

/// One registration after the other, so far apart.
const PAUSE: Duration = Duration::from_millis(500);
/// What is not known everywhere after this time counts as never.
const PATIENCE: Duration = Duration::from_secs(60);

/// Registrations per run, and runs.
fn amount(hosts: u32, seeds: u64) -> (u32, u64) {
    match hosts {
        0..=199 => (100, seeds),
        200..=1999 => (100, seeds.min(5)),
        _ => (50, seeds.min(1)),
    }
}

struct Outcome {
    times: Vec<Option<Duration>>,
    /// Of each arrival at each host.
    arrivals: Vec<Duration>,
    copies: f64,
}

fn measure<P: Protocol>(seed: u64, hosts: u32, registrations: u32, loss: f64) -> Outcome {
    let mut world = P::settled(seed, hosts);
    world.network.loss = loss;
    world.run_for(PAUSE);
    let mut items = Vec::new();
    for number in 0..registrations {
        let host = world.rng.random_range(0..hosts);
        let item = P::publish(&mut world, host, number);
        let now = world.now();
        world.observer.track(item, now);
        items.push(item);
        let jitter = world.rng.random_range(0.5..1.5);
        world.run_for(PAUSE.mul_f64(jitter));
    }
    let everywhere = hosts as usize - 1;
    let missing = |world: &crate::engine::World<P::Core>| {
        items.iter().any(|item| world.observer.item(*item).is_none_or(|item| item.arrivals.len() < everywhere))
    };
    let until = world.now() + PATIENCE;
    while missing(&world) && world.now() < until {
        world.run_for(Duration::from_millis(500));
    }
    let mut outcome = Outcome { times: Vec::new(), arrivals: Vec::new(), copies: 0.0 };
    for item in items.iter().filter_map(|item| world.observer.item(*item)) {
        let last = item.arrivals.iter().map(|(_, at)| *at - item.born).max();
        outcome.times.push(last.filter(|_| item.arrivals.len() >= everywhere));
        outcome.arrivals.extend(item.arrivals.iter().map(|(_, at)| *at - item.born));
        outcome.copies += item.copies as f64 / everywhere as f64 / f64::from(registrations);
    }
    outcome
}

fn figure<P: Protocol>(wanted: &Wanted, hosts: u32, loss: f64) -> Figure {
    let case = if loss > 0.0 { format!("LAN, {:.0} % loss", loss * 100.0) } else { "LAN".to_owned() };
    let (registrations, seeds) = amount(hosts, wanted.seeds);
    let what = format!("registration, {case}, {hosts} hosts, {}", P::NAME);
    let outcomes = wanted.each_seed(&what, seeds, |seed| measure::<P>(seed, hosts, registrations, loss));
    let mut figure = Figure::new(NAME, &case, P::NAME, hosts, seeds);
    figure.set("copies", outcomes.iter().map(|outcome| outcome.copies).sum::<f64>() / outcomes.len() as f64);
    let mut arrivals: Vec<Duration> = outcomes.iter().flat_map(|outcome| outcome.arrivals.clone()).collect();
    arrivals.sort_unstable();
    figure.curve = curve(&arrivals);
    figure.set_times("", outcomes.into_iter().flat_map(|outcome| outcome.times).collect());
    figure
}

/// A hundred points of the share of hosts that know, over time in seconds.
fn curve(arrivals: &[Duration]) -> Vec<(f64, f64)> {
    let point = |percent: usize| {
        let index = (arrivals.len() * percent / 100).min(arrivals.len() - 1);
        ((arrivals[index].as_micros() as f64) / 1e6, percent as f64)
    };
    if arrivals.is_empty() { Vec::new() } else { (0..=100).map(point).collect() }
}

pub(crate) fn run(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[10, 100, 1_000, 10_000]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, figure(wanted, hosts, 0.0)));
            if hosts == 1_000 || !wanted.hosts.is_empty() {
                figures.push(with_protocol!(protocol, figure(wanted, hosts, 0.05)));
            }
        }
    }
    figures
}
