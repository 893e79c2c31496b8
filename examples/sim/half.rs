//! One host that is cut off in one direction: it hears nobody, or nobody hears it. It alone is sick; how many does it accuse,
//! and does anybody healthy end as failed?

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::State;
use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const NAME: &str = "half-isolated";
pub(crate) const COLUMNS: &[Column] = &[
    ("healthy hosts it suspects", "accused", Unit::Count),
    ("healthy hosts others suspect", "believed", Unit::Count),
    ("healthy hosts it buries", "buried_by_it", Unit::Count),
    ("healthy hosts others bury", "buried", Unit::Count),
    ("burials in all", "burials", Unit::Count),
];

/// The cut lasts so long; afterwards it heals, and the rest is seen too.
const CUT: Duration = Duration::from_secs(300);
const AFTER: Duration = Duration::from_secs(60);
const SICK: u32 = 0;

#[derive(Clone, Copy)]
enum Cut {
    Inbound,
    Outbound,
}

#[derive(Default)]
struct Outcome {
    accused: BTreeSet<u32>,
    believed: BTreeSet<u32>,
    buried_by_it: BTreeSet<u32>,
    buried: BTreeSet<u32>,
    burials: usize,
}

fn measure<P: Protocol>(seed: u64, hosts: u32, cut: Cut) -> Outcome {
    let mut world = P::settled(seed, hosts);
    world.observer.keeps_history = true;
    match cut {
        Cut::Inbound => world.network.deafen(SICK),
        Cut::Outbound => world.network.silence(SICK),
    }
    world.run_for(CUT);
    world.network.heal();
    world.run_for(AFTER);
    let mut outcome = Outcome::default();
    for seen in world.observer.history.iter().filter(|seen| seen.host != SICK) {
        let by_it = seen.viewer == SICK;
        let set = match seen.state {
            State::Suspect if by_it => &mut outcome.accused,
            State::Suspect => &mut outcome.believed,
            State::Failed if by_it => &mut outcome.buried_by_it,
            State::Failed => &mut outcome.buried,
            _ => continue,
        };
        set.insert(seen.host);
        outcome.burials += usize::from(seen.state == State::Failed);
    }
    outcome
}

fn figure<P: Protocol>(wanted: &Wanted, hosts: u32, cut: Cut) -> Figure {
    let case = match cut {
        Cut::Inbound => "hears nobody, 300 s",
        Cut::Outbound => "is heard by nobody, 300 s",
    };
    let what = format!("half-isolated, {case}, {hosts} hosts, {}", P::NAME);
    let outcomes = wanted.each_seed(&what, wanted.seeds, |seed| measure::<P>(seed, hosts, cut));
    let mut figure = Figure::new(NAME, case, P::NAME, hosts, wanted.seeds);
    let mean = |value: fn(&Outcome) -> usize| {
        outcomes.iter().map(|outcome| value(outcome) as f64).sum::<f64>() / outcomes.len() as f64
    };
    figure.set("accused", mean(|outcome| outcome.accused.len()));
    figure.set("believed", mean(|outcome| outcome.believed.len()));
    figure.set("buried_by_it", mean(|outcome| outcome.buried_by_it.len()));
    figure.set("buried", mean(|outcome| outcome.buried.len()));
    figure.set("burials", mean(|outcome| outcome.burials));
    figure
}

pub(crate) fn run(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[128]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, figure(wanted, hosts, Cut::Inbound)));
            figures.push(with_protocol!(protocol, figure(wanted, hosts, Cut::Outbound)));
        }
    }
    figures
}
