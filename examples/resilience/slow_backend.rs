//! One of eleven backends turns slow for a quarter of the run. Buoyant ran this in 2016 ("Beyond Round Robin: Load Balancing
//! for Latency"): round robin 95 % of all calls in time, least loaded 99 %, peak EWMA 99.9 %.

use std::time::Duration;

use crate::backend::{Behaviour, Farm};
use crate::figures::{Column, FAILED, Figure, P99, Unit, series, spans};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan};
use crate::peers::{HaProxy, Listener};
use crate::plot::{Plot, Scale};
use crate::stage::Stage;

pub(crate) const NAME: &str = "slow-backend";
pub(crate) const COLUMNS: &[Column] = &[
    ("calls", "offered", Unit::Count),
    ("in time", "success", Unit::Percent),
    ("while it is slow", "success_slow", Unit::Percent),
    ("p50", "p50", Unit::Milliseconds),
    ("p99", "p99", Unit::Milliseconds),
    ("p99.9", "p999", Unit::Milliseconds),
    ("calls that the slow one got meanwhile", "slow_calls", Unit::Count),
    ("generator late, p99", "late", Unit::Milliseconds),
];

const BACKENDS: u16 = 11;
const RATE_PER_SECOND: u32 = 1_000;
const SECONDS: u32 = 120;
const MEDIAN_MS: f64 = 167.0;
/// One of a hundred answers takes 300 ms, one of a thousand 360 ms: none is late by itself.
const SIGMA: f64 = 0.25;
const SLOW_MS: f64 = 2_000.0;
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PORT: u16 = 19_000;

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    let seconds = stage.seconds(SECONDS);
    let rate_per_second = stage.rate(RATE_PER_SECOND);
    // Backends of its own for each, so that nobody's calls are seen by another.
    let farms: Vec<Farm> = ["weft", "leastconn", "roundrobin"]
        .iter()
        .zip(0_u16..)
        .map(|(name, index)| Farm {
            name: (*name).to_owned(),
            servers: BACKENDS,
            port: FIRST_PORT + index * 100,
            median_ms: MEDIAN_MS,
            sigma: SIGMA,
            workers: None,
        })
        .collect();
    let backends: Vec<_> = farms.iter().map(|farm| farm.start(stage.folder())).collect();
    let instance = |port: u16| Instance { service: "billing", port, more: String::new() };
    let fleet = Fleet::raise(
        stage.weft(),
        stage.folder(),
        &[
            HostPlan { name: "near", zone: "a", instances: Vec::new() },
            HostPlan { name: "far", zone: "a", instances: farms[0].ports().into_iter().map(instance).collect() },
        ],
    );
    let listeners = [Listener::plain("leastconn", &farms[1].ports()), Listener::plain("roundrobin", &farms[2].ports())];
    let haproxy = HaProxy::start(stage.folder(), &listeners);
    let plan = |peer: &str, address| Plan {
        peer: peer.to_owned(),
        address,
        host: "billing.mesh.internal".to_owned(),
        path: "/".to_owned(),
        rate_per_second,
        seconds,
        timeout: PATIENCE,
        slices_per_second: 1,
    };
    let load = Load::start(vec![
        plan("Weft", fleet.address_of("billing")),
        plan("HAProxy leastconn", haproxy.address(0)),
        plan("HAProxy roundrobin", haproxy.address(1)),
    ]);
    let (from, to) = (seconds / 4, seconds / 2);
    load.wait_until(f64::from(from));
    let before: Vec<u64> = backends.iter().map(|farm| first_attempts(&farm.counts())).collect();
    backends.iter().for_each(|farm| farm.switch(Some(0), Behaviour::well(SLOW_MS, 0.0)));
    load.wait_until(f64::from(to));
    backends.iter().for_each(|farm| farm.switch(Some(0), Behaviour::well(MEDIAN_MS, SIGMA)));
    let after: Vec<u64> = backends.iter().map(|farm| first_attempts(&farm.counts())).collect();
    let figure = |(report, index): (&crate::load::Report, usize)| {
        let mut figure = Figure::of(NAME, "", report);
        figure.set("success_slow", report.sum_of(f64::from(from), f64::from(to)).success_percent());
        figure.set("slow_calls", (after[index] - before[index]) as f64);
        figure.spans = vec![(f64::from(from), f64::from(to), "one of eleven takes 2 s".to_owned())];
        figure
    };
    load.finish().iter().zip(0..).map(figure).collect()
}

/// Calls at the one that turns slow.
fn first_attempts(counts: &std::collections::BTreeMap<String, crate::backend::Counts>) -> u64 {
    counts.iter().find(|(name, _)| name.ends_with("-1")).map_or(0, |(_, counts)| counts.attempts)
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let failed = Plot {
        title: "One of eleven backends turns slow: calls not answered within 1 s".into(),
        x: ("seconds", Scale::Linear),
        y: ("failed calls per second", Scale::Linear),
        series: series(figures, NAME, "", FAILED),
        limits: Vec::new(),
        spans: spans(figures, NAME, ""),
        marks: false,
    };
    let latency = Plot {
        title: "One of eleven backends turns slow: latency of good answers".into(),
        x: ("seconds", Scale::Linear),
        y: ("milliseconds, 99th percentile of each second", Scale::Logarithmic),
        series: series(figures, NAME, "", P99),
        limits: Vec::new(),
        spans: spans(figures, NAME, ""),
        marks: false,
    };
    vec![("slow-backend.svg", failed), ("slow-backend-latency.svg", latency)]
}
