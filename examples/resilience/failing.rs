//! Every backend answers 503 for half of the run, at a service whose policy is to try again. A retry budget must keep the
//! backends from being asked much more often than callers ask: at most 1.2 times and ten a second.
//!
//! HAProxy beside it is told the same (`retry-on 503`, three retries); it has no budget.

use std::time::Duration;

use crate::backend::{Answer, Behaviour, Farm, Running};
use crate::figures::{Column, Figure, Unit, series, spans};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan};
use crate::peers::{HaProxy, Listener};
use crate::plot::{Plot, Scale};
use crate::stage::Stage;

pub(crate) const NAME: &str = "all-failing";
pub(crate) const COLUMNS: &[Column] = &[
    ("calls while all fail", "meanwhile", Unit::Count),
    ("attempts at the backends", "attempts", Unit::Count),
    ("attempts per call", "per_call", Unit::Ratio),
    ("allowed: 1.2 × calls + 10/s", "allowed", Unit::Count),
    ("calls failed before", "before", Unit::Count),
    ("calls failed after", "after", Unit::Count),
];

const ATTEMPTS: &str = "attempts";
const SERVERS: u16 = 4;
const RATE_PER_SECOND: u32 = 200;
const SECONDS: u32 = 40;
const MEDIAN_MS: f64 = 5.0;
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PORT: u16 = 19_000;
/// Without a budget each call would be made four times.
const POLICY: &str = "[service.billing.retries]\non_server_error = true\nmax = 3\n";
/// From the last call of the good time to the first of the bad one, and back: calls that are under way then.
const MARGIN_SECONDS: f64 = 2.0;

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    if !stage.has_policies() {
        return Vec::new();
    }
    let seconds = stage.seconds(SECONDS);
    let rate_per_second = stage.rate(RATE_PER_SECOND);
    let farm = |name: &str, port: u16| Farm {
        name: name.to_owned(),
        servers: SERVERS,
        port,
        median_ms: MEDIAN_MS,
        sigma: 0.2,
        workers: None,
    };
    let farms = [farm("weft", FIRST_PORT), farm("haproxy", FIRST_PORT + 100)];
    let backends: Vec<Running> = farms.iter().map(|farm| farm.start(stage.folder())).collect();
    let instance = |port: u16| Instance { service: "billing", port, more: String::new() };
    let fleet = Fleet::raise(
        stage.weft(),
        stage.folder(),
        &[
            HostPlan { name: "near", zone: "a", instances: Vec::new() },
            HostPlan { name: "far", zone: "a", instances: farms[0].ports().into_iter().map(instance).collect() },
        ],
    );
    fleet.apply(POLICY, &[]);
    let retrying = Listener { more: "retry-on conn-failure 503", ..Listener::plain("leastconn", &farms[1].ports()) };
    let haproxy = HaProxy::start(stage.folder(), &[retrying]);
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
        plan("Weft, 3 retries, budget", fleet.address_of("billing")),
        plan("HAProxy, 3 retries", haproxy.address(0)),
    ]);
    let (from, to) = (seconds / 4, seconds * 3 / 4);
    let failing = Behaviour { answer: Answer::Status(503), median_ms: MEDIAN_MS, sigma: 0.2 };
    // What the backends were asked until the beginning of each second.
    let mut asked: Vec<Vec<u64>> = vec![Vec::new(); backends.len()];
    for second in 0..=seconds {
        load.wait_until(f64::from(second));
        if second == from || second == to {
            let behaviour = if second == from { failing } else { Behaviour::well(MEDIAN_MS, 0.2) };
            backends.iter().for_each(|backend| backend.switch(None, behaviour));
        }
        backends.iter().zip(&mut asked).for_each(|(backend, asked)| asked.push(backend.attempts()));
    }
    let (from_s, to_s) = (f64::from(from), f64::from(to));
    let mut figures = Vec::new();
    for (report, asked) in load.finish().iter().zip(&asked) {
        let mut figure = Figure::of(NAME, "", report);
        let calls = report.sum_of(from_s, to_s).offered as f64;
        let attempts = (asked[to as usize] - asked[from as usize]) as f64;
        figure.set("meanwhile", calls);
        figure.set("attempts", attempts);
        figure.set("per_call", attempts / calls);
        figure.set("allowed", 1.2 * calls + 10.0 * (to_s - from_s));
        figure.set("before", report.sum_of(0.0, from_s - MARGIN_SECONDS).failed() as f64);
        figure.set("after", report.sum_of(to_s + MARGIN_SECONDS, f64::INFINITY).failed() as f64);
        let by_second = asked.windows(2).zip(0..).map(|(pair, at)| (f64::from(at) + 0.5, (pair[1] - pair[0]) as f64));
        figure.curves.clear();
        figure.curves.insert(ATTEMPTS.into(), by_second.collect());
        figure.spans = vec![(from_s, to_s, "all backends answer 503".to_owned())];
        figure.set("rate", f64::from(rate_per_second));
        figures.push(figure);
    }
    figures
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let rate = figures.iter().find(|figure| figure.experiment == NAME).and_then(|figure| figure.values.get("rate"));
    let allowed = rate.map(|rate| (1.2 * rate + 10.0, "allowed: 1.2 × calls + 10/s".to_owned()));
    let plot = Plot {
        title: "All backends fail: how often they are asked".into(),
        x: ("seconds", Scale::Linear),
        y: ("attempts per second at the backends", Scale::Linear),
        series: series(figures, NAME, "", ATTEMPTS),
        limits: allowed.into_iter().collect(),
        spans: spans(figures, NAME, ""),
        marks: false,
    };
    vec![("all-failing.svg", plot)]
}
