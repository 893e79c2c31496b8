//! The fleet is cut in two for a minute while both parts go on registering services, then the cut heals: how long until all
//! hold all as alive, until every registration is everywhere, until all hold equal catalogs, byte for byte, with every host's own
//! record in them; and is any registration lost?

use std::time::Duration;

use rand::RngExt;

use crate::engine::{Core, World};
use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const NAME: &str = "partition";
pub(crate) const COLUMNS: &[Column] = &[
    ("all alive to all, p50", "members_p50", Unit::Seconds),
    ("slowest", "members_max", Unit::Seconds),
    ("all registrations everywhere, p50", "records_p50", Unit::Seconds),
    ("slowest", "records_max", Unit::Seconds),
    ("catalogs equal, p50", "equal_p50", Unit::Seconds),
    ("slowest", "equal_max", Unit::Seconds),
    ("runs", "members_samples", Unit::Count),
    ("not healed after 600 s", "members_never", Unit::Count),
    ("registrations missing somewhere then", "lost", Unit::Count),
];

const CUT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(600);
const STEP: Duration = Duration::from_millis(100);
/// Registrations during the cut, in both parts together.
const REGISTRATIONS: u32 = 40;

struct Outcome {
    members: Option<Duration>,
    records: Option<Duration>,
    equal: Option<Duration>,
    lost: usize,
}

fn missing<C: Core>(world: &World<C>, items: &[u64], hosts: u32) -> usize {
    let everywhere = hosts as usize - 1;
    let lacks = |item: &&u64| world.observer.item(**item).is_none_or(|item| item.arrivals.len() < everywhere);
    items.iter().filter(lacks).count()
}

fn measure<P: Protocol>(seed: u64, hosts: u32, smaller: u32) -> Outcome {
    let mut world = P::introduced(seed, hosts);
    world.network.partition(&[(0..smaller).collect(), (smaller..hosts).collect()]);
    let mut items = Vec::new();
    for number in 0..REGISTRATIONS {
        world.run_for(CUT / REGISTRATIONS);
        let part = if number % 2 == 0 { 0..smaller } else { smaller..hosts };
        let host = world.rng.random_range(part);
        let item = P::publish(&mut world, host, number);
        let now = world.now();
        world.observer.track(item, now);
        items.push(item);
    }
    world.network.heal();
    let healed = world.now();
    let mut outcome = Outcome { members: None, records: None, equal: None, lost: 0 };
    while world.now() < healed + PATIENCE && (outcome.members.is_none() || outcome.equal.is_none()) {
        world.run_for(STEP);
        let time = world.now() - healed;
        if outcome.members.is_none() && world.all_alive() {
            outcome.members = Some(time);
        }
        if outcome.records.is_none() && missing(&world, &items, hosts) == 0 {
            outcome.records = Some(time);
        }
        if outcome.equal.is_none() && outcome.records.is_some() && P::is_equal(&world) {
            outcome.equal = Some(time);
        }
    }
    outcome.lost = missing(&world, &items, hosts);
    outcome
}

fn figure<P: Protocol>(wanted: &Wanted, hosts: u32, smaller: u32) -> Figure {
    let case = format!("{}/{smaller}", hosts - smaller);
    let seeds = wanted.seeds.min(if hosts >= 500 { 3 } else { u64::MAX });
    let what = format!("partition {case}, {}", P::NAME);
    let outcomes = wanted.each_seed(&what, seeds, |seed| measure::<P>(seed, hosts, smaller));
    let mut figure = Figure::new(NAME, &case, P::NAME, hosts, seeds);
    figure.set("lost", outcomes.iter().map(|outcome| outcome.lost as f64).sum());
    figure.set_times("members_", outcomes.iter().map(|outcome| outcome.members).collect());
    figure.set_times("records_", outcomes.iter().map(|outcome| outcome.records).collect());
    figure.set_times("equal_", outcomes.iter().map(|outcome| outcome.equal).collect());
    figure
}

pub(crate) fn run(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[1_000]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, figure(wanted, hosts, hosts / 2)));
            figures.push(with_protocol!(protocol, figure(wanted, hosts, 1)));
        }
    }
    figures
}
