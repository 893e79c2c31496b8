//! Three times as many calls as the backends can take. What can be done must be done (goodput at least 90 % of capacity), and
//! the others be refused at once (99 of 100 within 10 ms) instead of waiting for nothing.
//!
//! Once as both are installed, then with limits: Weft's by policy, HAProxy's by `maxconn` and `timeout queue`. The backends
//! have workers, and work off what nobody waits for any more, so that a queue that is too long takes all of their time.

use std::time::Duration;

use crate::backend::Farm;
use crate::figures::{Column, Figure, Unit, series};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan, Report};
use crate::peers::{HaProxy, Listener};
use crate::plot::{Plot, Scale};
use crate::stage::Stage;

pub(crate) const NAME: &str = "overload";
pub(crate) const COLUMNS: &[Column] = &[
    ("offered per second", "offered_rate", Unit::Count),
    ("capacity per second", "capacity", Unit::Count),
    ("answered well per second", "goodput", Unit::Count),
    ("of the capacity", "goodput_percent", Unit::Percent),
    ("p99 of the answers", "p99", Unit::Milliseconds),
    ("refused", "refused", Unit::Count),
    ("p99 of the refusals", "refused_p99", Unit::Milliseconds),
];

const GOODPUT: &str = "goodput";
const SERVERS: u16 = 4;
const WORKERS: usize = 4;
const WORK_MS: f64 = 50.0;
const TIMES: u32 = 3;
const SECONDS: u32 = 30;
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PORT: u16 = 19_000;
const POLICY: &str = "[service.limited.limits]\ninstance_concurrency = 4\nqueue = 4\nqueue_wait = \"100ms\"\n";

/// What all workers do in a second.
fn capacity_per_second() -> f64 {
    f64::from(SERVERS) * WORKERS as f64 * 1000.0 / WORK_MS
}

fn figure(case: &str, seconds: u32, report: &Report) -> Figure {
    let mut figure = Figure::of(NAME, case, report);
    let sum = report.sum();
    let goodput = sum.ok as f64 / f64::from(seconds);
    figure.set("offered_rate", sum.offered as f64 / f64::from(seconds));
    figure.set("capacity", capacity_per_second());
    figure.set("goodput", goodput);
    figure.set("goodput_percent", goodput * 100.0 / capacity_per_second());
    figure.set(
        "refused",
        sum.failures.iter().filter(|(what, _)| *what != "timeout").map(|(_, count)| count).sum::<u64>() as f64,
    );
    figure.set_some("refused_p99", sum.refused.percentile_ms(0.99));
    figure.curves.clear();
    figure.curves.insert(GOODPUT.into(), report.curve(|slice| Some(slice.ok as f64)));
    figure
}

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    let seconds = stage.seconds(SECONDS);
    let farm = |name: &str, index: u16| Farm {
        name: name.to_owned(),
        servers: SERVERS,
        port: FIRST_PORT + index * 100,
        median_ms: WORK_MS,
        sigma: 0.0,
        workers: Some(WORKERS),
    };
    let farms = [farm("weft-plain", 0), farm("weft-limited", 1), farm("haproxy-plain", 2), farm("haproxy-limited", 3)];
    let _backends: Vec<_> = farms.iter().map(|farm| farm.start(stage.folder())).collect();
    let instances = |service: &'static str, farm: &Farm| {
        farm.ports().into_iter().map(move |port| Instance { service, port, more: String::new() })
    };
    let far = instances("plain", &farms[0]).chain(instances("limited", &farms[1])).collect();
    let fleet = Fleet::raise(
        stage.weft(),
        stage.folder(),
        &[
            HostPlan { name: "near", zone: "a", instances: Vec::new() },
            HostPlan { name: "far", zone: "a", instances: far },
        ],
    );
    let limited = Listener {
        server: "maxconn 4",
        more: "timeout queue 100ms",
        ..Listener::plain("leastconn", &farms[3].ports())
    };
    let haproxy = HaProxy::start(stage.folder(), &[Listener::plain("leastconn", &farms[2].ports()), limited]);
    // The rate that belongs to the capacity; less would be no overload.
    let offered = capacity_per_second() * f64::from(TIMES);
    let plan = |peer: &str, service: &str, address| Plan {
        peer: peer.to_owned(),
        address,
        host: format!("{service}.mesh.internal"),
        path: "/".to_owned(),
        rate_per_second: format!("{offered:.0}").parse().expect("a rate"),
        seconds,
        timeout: PATIENCE,
        slices_per_second: 1,
    };
    let mut figures = Vec::new();
    let mut measure = |case: &str, plans: Vec<Plan>| {
        let reports = Load::start(plans).finish();
        figures.extend(reports.iter().map(|report| figure(case, seconds, report)));
    };
    measure(
        "as installed",
        vec![plan("Weft", "plain", fleet.address_of("plain")), plan("HAProxy leastconn", "plain", haproxy.address(0))],
    );
    if stage.has_policies() {
        fleet.apply(POLICY, &[]);
        measure(
            "with limits",
            vec![
                plan("Weft, 4 at once and 4 waiting", "limited", fleet.address_of("limited")),
                plan("HAProxy leastconn, maxconn 4, queue 100 ms", "limited", haproxy.address(1)),
            ],
        );
    }
    figures
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let mut lines = series(figures, NAME, "as installed", GOODPUT);
    let mut with_limits = series(figures, NAME, "with limits", GOODPUT);
    for line in &mut with_limits {
        let peer = line.name.split([',', ' ']).next().unwrap_or_default();
        line.name = format!("{peer}, limits");
    }
    lines.extend(with_limits);
    let plot = Plot {
        title: "Three times the capacity is offered: what is answered".into(),
        x: ("seconds", Scale::Linear),
        y: ("calls answered well per second", Scale::Linear),
        series: lines,
        limits: vec![(capacity_per_second() * 0.9, "90 % of the capacity".to_owned())],
        spans: Vec::new(),
        marks: false,
    };
    vec![("overload.svg", plot)]
}
