//! A day in which nothing happens, on a network that loses every twentieth datagram: nobody may be called failed.

use std::time::{Duration, Instant};

use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const NAME: &str = "quiet day";
pub(crate) const COLUMNS: &[Column] = &[
    ("hours", "hours", Unit::Count),
    ("times a healthy host was suspected", "suspected", Unit::Count),
    ("healthy hosts buried", "buried", Unit::Count),
    ("by how many observers in all", "burials", Unit::Count),
    ("events simulated", "events", Unit::Count),
];

const LOSS: f64 = 0.05;

fn measure<P: Protocol>(wanted: &Wanted, hosts: u32) -> Figure {
    let mut world = P::settled(wanted.first_seed, hosts);
    let hours = wanted.hours;
    world.network.loss = LOSS;
    let begun = Instant::now();
    for hour in 1..=hours {
        world.run_for(Duration::from_secs(3600));
        let (failed, seconds) = (world.observer.false_failures.len(), begun.elapsed().as_secs());
        let seed = wanted.first_seed;
        eprintln!(
            "seed={seed}: quiet day, {hosts} hosts, {}: hour {hour} of {hours}, {failed} burials, {seconds} s",
            P::NAME
        );
    }
    let mut buried: Vec<u32> = world.observer.false_failures.iter().map(|(_, _, host)| *host).collect();
    let burials = buried.len();
    buried.sort_unstable();
    buried.dedup();
    let mut figure = Figure::new(NAME, "LAN, 5 % loss", P::NAME, hosts, 1);
    figure.set("hours", f64::from(hours));
    figure.set("suspected", world.observer.false_suspicions as f64);
    figure.set("buried", buried.len() as f64);
    figure.set("burials", burials as f64);
    figure.set("events", world.observer.events as f64);
    figure
}

pub(crate) fn run(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[1_000]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, measure(wanted, hosts)));
        }
    }
    figures
}
