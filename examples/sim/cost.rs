//! What it costs: bytes per host and second when nothing happens, over the fleet's size; and under a steady load of changes,
//! with the copies of each payload that a host gets.

use std::time::Duration;

use rand::RngExt;

use crate::engine::observe::Traffic;
use crate::engine::{Core, World};
use crate::figures::{Column, Figure, Unit};
use crate::protocol::{Protocol, with_protocol};
use crate::run::Wanted;

pub(crate) const IDLE: &str = "idle";
pub(crate) const LOAD: &str = "load";
pub(crate) const IDLE_COLUMNS: &[Column] = &[
    ("sent per host and second", "sent", Unit::Bytes),
    ("datagrams per host and second", "datagrams", Unit::Ratio),
    ("of the bytes over streams", "streams", Unit::Bytes),
];
pub(crate) const LOAD_COLUMNS: &[Column] = &[
    ("changes per second", "rate", Unit::Count),
    ("sent per host and second", "sent", Unit::Bytes),
    ("busiest host", "sent_max", Unit::Bytes),
    ("copies of a payload per host", "copies", Unit::Ratio),
    ("share of hosts reached, percent", "reached", Unit::Ratio),
];

/// IPv4 and UDP headers, counted with every datagram.
const HEADERS: u64 = 28;
const IDLE_TIME: Duration = Duration::from_secs(120);
const LOAD_TIME: Duration = Duration::from_secs(10);
const CHANGES_PER_SECOND: u32 = 100;

fn all<C: Core>(world: &World<C>) -> Vec<Traffic> {
    (0..world.count()).map(|host| world.host(host).traffic).collect()
}

fn sent(traffic: &Traffic) -> f64 {
    (traffic.sent_total() + HEADERS * traffic.datagrams_sent) as f64
}

fn mean(values: impl Iterator<Item = f64>, count: u32) -> f64 {
    values.sum::<f64>() / f64::from(count)
}

fn idle<P: Protocol>(wanted: &Wanted, hosts: u32) -> Figure {
    // Small fleets push and pull rarely: more runs, so that some of it is seen.
    let seeds = if hosts < 1_000 { wanted.seeds } else { 1 };
    let what = format!("idle, {hosts} hosts, {}", P::NAME);
    let seconds = IDLE_TIME.as_secs_f64();
    let outcomes = wanted.each_seed(&what, seeds, |seed| {
        let mut world = P::settled(seed, hosts);
        world.run_for(Duration::from_secs(20));
        let before = all(&world);
        world.run_for(IDLE_TIME);
        let since: Vec<Traffic> = all(&world).iter().zip(&before).map(|(now, then)| now.since(then)).collect();
        let streams = |traffic: &Traffic| traffic.sent[crate::engine::Kind::Stream as usize] as f64;
        [
            mean(since.iter().map(sent), hosts) / seconds,
            mean(since.iter().map(|traffic| traffic.datagrams_sent as f64), hosts) / seconds,
            mean(since.iter().map(streams), hosts) / seconds,
        ]
    });
    let mut figure = Figure::new(IDLE, "LAN", P::NAME, hosts, seeds);
    for (index, name) in ["sent", "datagrams", "streams"].into_iter().enumerate() {
        figure.set(name, outcomes.iter().map(|outcome| outcome[index]).sum::<f64>() / outcomes.len() as f64);
    }
    figure
}

fn load<P: Protocol>(wanted: &Wanted, hosts: u32) -> Figure {
    let what = format!("load, {hosts} hosts, {}", P::NAME);
    let seconds = LOAD_TIME.as_secs_f64();
    let outcomes = wanted.each_seed(&what, wanted.seeds.min(2), |seed| {
        let mut world = P::settled(seed, hosts);
        let changes = CHANGES_PER_SECOND * u32::try_from(LOAD_TIME.as_secs()).expect("ten seconds");
        let before = all(&world);
        for number in 0..changes {
            let host = world.rng.random_range(0..hosts);
            P::publish(&mut world, host, number);
            world.run_for(LOAD_TIME / changes);
        }
        let during: Vec<Traffic> = all(&world).iter().zip(&before).map(|(now, then)| now.since(then)).collect();
        // What is under way arrives, and counts as copies.
        world.run_for(Duration::from_secs(10));
        let since: Vec<Traffic> = all(&world).iter().zip(&before).map(|(now, then)| now.since(then)).collect();
        let copies: f64 = since.iter().map(|traffic| traffic.copies as f64).sum();
        let fresh: f64 = since.iter().map(|traffic| traffic.fresh as f64).sum();
        // Every payload is also seen once by the host that made it; that is no copy.
        let own = f64::from(changes);
        let wanted_arrivals = f64::from(changes) * f64::from(hosts - 1);
        [
            mean(during.iter().map(sent), hosts) / seconds,
            during.iter().map(sent).fold(0.0, f64::max) / seconds,
            (copies - own) / wanted_arrivals,
            (fresh - own) / wanted_arrivals * 100.0,
        ]
    });
    let mut figure = Figure::new(LOAD, "LAN, 200 B a change", P::NAME, hosts, wanted.seeds.min(2));
    figure.set("rate", f64::from(CHANGES_PER_SECOND));
    for (index, name) in ["sent", "sent_max", "copies", "reached"].into_iter().enumerate() {
        figure.set(name, outcomes.iter().map(|outcome| outcome[index]).sum::<f64>() / outcomes.len() as f64);
    }
    figure
}

pub(crate) fn run_idle(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[10, 100, 1_000, 10_000]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, idle(wanted, hosts)));
        }
    }
    figures
}

pub(crate) fn run_load(wanted: &Wanted) -> Vec<Figure> {
    let mut figures = Vec::new();
    for hosts in wanted.sizes(&[10, 100, 1_000]) {
        for protocol in &wanted.protocols {
            figures.push(with_protocol!(protocol, load(wanted, hosts)));
        }
    }
    figures
}
