//! Four hosts of 128 stall for 10 to 30 s once a minute, in two ways. Either their whole process stands still, as with a
//! garbage collector, a debugger or SIGSTOP; then it has hardly asked anybody anything that could go unanswered. Or its timers
//! run and its messages wait, as with a starved network thread: this is the anomaly of Lifeguard's experiments (section V). Such a
//! host misses all answers and accuses the healthy; how often does anybody believe it?

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use crate::engine::State;
use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const NAME: &str = "stalls";
pub(crate) const COLUMNS: &[Column] = &[
    ("minutes", "minutes", Unit::Count),
    ("times a healthy host was suspected", "suspected", Unit::Count),
    ("healthy hosts called failed, by all observers", "failed", Unit::Count),
    ("of these by healthy observers", "failed_by_healthy", Unit::Count),
    ("healthy hosts concerned", "hosts", Unit::Count),
];

const STALLING: u32 = 4;
const MINUTES: u32 = 10;

/// What stands still.
#[derive(Clone, Copy)]
enum Stall {
    Process,
    Messages,
}

#[derive(Default)]
struct Outcome {
    suspected: usize,
    failed: usize,
    failed_by_healthy: usize,
    hosts: usize,
}

fn measure<P: Protocol>(seed: u64, hosts: u32, stall: Stall) -> Outcome {
    let mut world = P::settled(seed, hosts);
    world.observer.keeps_history = true;
    let stalls = |host: u32| host < STALLING;
    for _ in 0..MINUTES {
        let mut starts: Vec<(u64, u32)> = (0..STALLING).map(|host| (world.rng.random_range(0..30_000), host)).collect();
        starts.sort_unstable();
        let minute = world.now();
        for (at, host) in starts {
            world.run_to(minute + Duration::from_millis(at));
            let time = Duration::from_millis(world.rng.random_range(10_000..=30_000));
            match stall {
                Stall::Process => world.stall(host, time),
                Stall::Messages => world.hold_messages(host, time),
            }
        }
        world.run_to(minute + Duration::from_secs(60));
    }
    let mut outcome = Outcome::default();
    let mut concerned = BTreeSet::new();
    for seen in world.observer.history.iter().filter(|seen| !stalls(seen.host)) {
        match seen.state {
            State::Suspect => outcome.suspected += 1,
            State::Failed => {
                outcome.failed += 1;
                outcome.failed_by_healthy += usize::from(!stalls(seen.viewer));
                concerned.insert(seen.host);
            }
            _ => {}
        }
    }
    outcome.hosts = concerned.len();
    outcome
}

fn figure<P: Protocol>(wanted: &Wanted, hosts: u32, stall: Stall) -> Figure {
    let case = match stall {
        Stall::Process => "their processes stand still",
        Stall::Messages => "their messages stand still",
    };
    let what = format!("stalls, {case}, {hosts} hosts, {}", P::NAME);
    let outcomes = wanted.each_seed(&what, wanted.seeds, |seed| measure::<P>(seed, hosts, stall));
    let mut figure = Figure::new(NAME, case, P::NAME, hosts, wanted.seeds);
    let sum = |value: fn(&Outcome) -> usize| outcomes.iter().map(value).sum::<usize>() as f64;
    figure.set("minutes", f64::from(MINUTES) * outcomes.len() as f64);
    figure.set("suspected", sum(|outcome| outcome.suspected));
    figure.set("failed", sum(|outcome| outcome.failed));
    figure.set("failed_by_healthy", sum(|outcome| outcome.failed_by_healthy));
    figure.set("hosts", sum(|outcome| outcome.hosts));
    figure
}

pub(crate) fn run(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[128]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, figure(wanted, hosts, Stall::Messages)));
            figures.push(with_protocol!(protocol, figure(wanted, hosts, Stall::Process)));
        }
    }
    figures
}
