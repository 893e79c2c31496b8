//! A hundred reloads, with service files that have changed, and a new policy every 100 ms, under 2,000 calls a second. Not
//! one call may fail.
//!
//! HAProxy gets the same load afterwards, and a hundred reloads (SIGUSR2 to its master); it has nothing like a policy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::backend::Farm;
use crate::figures::{Column, FAILED, Figure, Unit, series};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan};
use crate::peers::{HaProxy, Listener};
use crate::plot::{Plot, Scale};
use crate::stage::Stage;

pub(crate) const NAME: &str = "churn";
pub(crate) const COLUMNS: &[Column] = &[
    ("calls", "offered", Unit::Count),
    ("reloads", "reloads", Unit::Count),
    ("policies", "policies", Unit::Count),
    ("failed", "failed", Unit::Count),
    ("p50", "p50", Unit::Milliseconds),
    ("p99", "p99", Unit::Milliseconds),
    ("p99.9", "p999", Unit::Milliseconds),
];

const RATE_PER_SECOND: u32 = 2_000;
const SECONDS: u32 = 40;
const RELOADS: u32 = 100;
const POLICY_INTERVAL: Duration = Duration::from_millis(100);
const SERVERS: u16 = 4;
const MEDIAN_MS: f64 = 5.0;
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PORT: u16 = 19_000;

fn instances(farm: &Farm, turn: u32) -> Vec<Instance> {
    let more = format!("meta = {{ turn = \"{turn}\" }}");
    farm.ports().into_iter().map(|port| Instance { service: "billing", port, more: more.clone() }).collect()
}

fn policy(turn: u32) -> String {
    let algorithm = ["peak-ewma", "least-request", "round-robin"][turn as usize % 3];
    format!(
        "[service.billing.timeouts]\nrequest = \"{}ms\"\n[service.billing.balance]\nalgorithm = \"{algorithm}\"\n",
        5_000 + turn
    )
}

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    let seconds = stage.seconds(SECONDS);
    let farm = |name: &str, port: u16| Farm {
        name: name.to_owned(),
        servers: SERVERS,
        port,
        median_ms: MEDIAN_MS,
        sigma: 0.2,
        workers: None,
    };
    let farms = [farm("weft", FIRST_PORT), farm("haproxy", FIRST_PORT + 100)];
    let _backends: Vec<_> = farms.iter().map(|farm| farm.start(stage.folder())).collect();
    let far = |turn: u32| HostPlan { name: "far", zone: "a", instances: instances(&farms[0], turn) };
    let near = HostPlan { name: "near", zone: "a", instances: Vec::new() };
    let mut fleet = Fleet::raise(stage.weft(), stage.folder(), &[near, far(0)]);
    let mut haproxy = HaProxy::start(stage.folder(), &[Listener::plain("leastconn", &farms[1].ports())]);
    let plan = |peer: &str, address| Plan {
        peer: peer.to_owned(),
        address,
        host: "billing.mesh.internal".to_owned(),
        path: "/".to_owned(),
        rate_per_second: stage.rate(RATE_PER_SECOND),
        seconds,
        timeout: PATIENCE,
        slices_per_second: 1,
    };
    let pause = f64::from(seconds) / f64::from(RELOADS + 1);
    let load = Load::start(vec![plan("Weft", fleet.address_of("billing"))]);
    let is_over = AtomicBool::new(false);
    let operator = stage.has_policies().then(|| fleet.operator());
    let policies = std::thread::scope(|scope| {
        let applying = operator.map(|operator| {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut applied = 0;
                let mut due = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    operator.apply(&policy(applied), &[]);
                    applied += 1;
                    due += POLICY_INTERVAL;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                applied
            })
        });
        for turn in 1..=RELOADS {
            load.wait_until(f64::from(turn) * pause);
            fleet.write_services(&far(turn));
            fleet.reload();
        }
        load.wait_until(f64::from(seconds));
        is_over.store(true, Ordering::Relaxed);
        applying.map_or(0, |applying| applying.join().expect("policies"))
    });
    let mut figures: Vec<Figure> = load.finish().iter().map(|report| Figure::of(NAME, "", report)).collect();
    figures.iter_mut().for_each(|figure| {
        figure.set("reloads", f64::from(RELOADS));
        figure.set("policies", f64::from(policies));
    });
    let load = Load::start(vec![plan("HAProxy leastconn", haproxy.address(0))]);
    for turn in 1..=RELOADS {
        load.wait_until(f64::from(turn) * pause);
        haproxy.reload();
    }
    for report in load.finish() {
        let mut figure = Figure::of(NAME, "", &report);
        figure.set("reloads", f64::from(RELOADS));
        figures.push(figure);
    }
    figures
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let plot = Plot {
        title: "A hundred reloads and a policy every 100 ms: failed calls".into(),
        x: ("seconds", Scale::Linear),
        y: ("failed calls per second", Scale::Linear),
        series: series(figures, NAME, "", FAILED),
        limits: Vec::new(),
        spans: Vec::new(),
        marks: false,
    };
    vec![("churn.svg", plot)]
}
