//! A service moves from one version to another under load: a split of 90 to 10, `weft shift` from 0 to 100 in steps, and a
//! trial (`--bake`) that ends by itself. How exact the shares are, and whether a call is lost on the way.

use std::time::Duration;

use crate::backend::Farm;
use crate::figures::{Column, Figure, Unit, series, spans};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan, Report, Slice};
use crate::plot::{Plot, Scale};
use crate::stage::Stage;

pub(crate) const NAME: &str = "split";
pub(crate) const COLUMNS: &[Column] = &[
    ("calls", "calls", Unit::Count),
    ("failed", "failed_now", Unit::Count),
    ("v2 is to have", "wanted", Unit::Percent),
    ("v2 had", "share", Unit::Percent),
    ("the command took", "command_ms", Unit::Milliseconds),
];

const SHARE: &str = "share";
const RATE_PER_SECOND: u32 = 1_000;
/// Ten thousand calls at 90 to 10, then eight steps' worth.
const SECONDS: u32 = 74;
const MEDIAN_MS: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(1);
const SLICES_PER_SECOND: u32 = 2;
const FIRST_PORT: u16 = 19_000;
/// Until a policy is in force everywhere; what is counted of a step begins after it.
const IN_FORCE_SECONDS: f64 = 1.0;
/// Trials end at a full second of each host's clock.
const TRIAL_END_SECONDS: f64 = 1.0;
/// The shortest that there is.
const TRIAL_SECONDS_MIN: f64 = 5.0;
const STEPS: [u32; 5] = [0, 25, 50, 75, 100];

fn policy(v2_percent: u32) -> String {
    let share = |tag: &str, weight| format!("[[split]]\nservice = \"billing\"\nweight = {weight}\ntag = \"{tag}\"\n");
    share("v1", 100 - v2_percent) + &share("v2", v2_percent)
}

/// What was to hold from when to when.
struct Phase {
    case: String,
    from: f64,
    to: f64,
    /// Not counted at the beginning.
    settle_seconds: f64,
    v2_percent: f64,
    command: Option<Duration>,
}

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    if !stage.has_policies() {
        return Vec::new();
    }
    let seconds = f64::from(stage.seconds(SECONDS));
    let step = seconds / (f64::from(SECONDS) / 8.0);
    let farm = |name: &str, port: u16| Farm {
        name: name.to_owned(),
        servers: 2,
        port,
        median_ms: MEDIAN_MS,
        sigma: 0.2,
        workers: None,
    };
    let farms = [farm("v1", FIRST_PORT), farm("v2", FIRST_PORT + 100)];
    let _backends: Vec<_> = farms.iter().map(|farm| farm.start(stage.folder())).collect();
    let tagged = |farm: &Farm| {
        let more = format!("tags = [\"{}\"]", farm.name);
        farm.ports().into_iter().map(move |port| Instance { service: "billing", port, more: more.clone() })
    };
    let fleet = Fleet::raise(
        stage.weft(),
        stage.folder(),
        &[
            HostPlan { name: "near", zone: "a", instances: Vec::new() },
            HostPlan { name: "far", zone: "a", instances: farms.iter().flat_map(tagged).collect() },
        ],
    );
    fleet.apply(&policy(10), &[]);
    std::thread::sleep(Duration::from_secs_f64(IN_FORCE_SECONDS));
    let load = Load::start(vec![Plan {
        peer: "Weft".to_owned(),
        address: fleet.address_of("billing"),
        host: "billing.mesh.internal".to_owned(),
        path: "/".to_owned(),
        rate_per_second: stage.rate(RATE_PER_SECOND),
        seconds: stage.seconds(SECONDS),
        timeout: PATIENCE,
        slices_per_second: SLICES_PER_SECOND,
    }]);
    let mut phases: Vec<Phase> = Vec::new();
    let mut begin = |from: f64, case: String, v2_percent: f64, command: Option<Duration>| {
        if let Some(last) = phases.last_mut() {
            last.to = from;
        }
        // The first policy was in force before the load began.
        let settle_seconds = if from > 0.0 { IN_FORCE_SECONDS } else { 0.0 };
        phases.push(Phase { case, from, to: seconds, settle_seconds, v2_percent, command });
    };
    begin(0.0, "90 to 10".to_owned(), 10.0, None);
    load.wait_until(step * 1.25);
    for percent in STEPS {
        let from = load.elapsed();
        let took = fleet.shift("billing", "tag=v2", percent);
        begin(from, format!("`weft shift --percent {percent}`"), f64::from(percent), Some(took));
        load.wait_until(from + step);
    }
    let from = load.elapsed();
    let bake_seconds = step.max(TRIAL_SECONDS_MIN).ceil();
    let bake = format!("{bake_seconds:.0}s");
    let took = fleet.apply(&policy(0), &["--zone", "a", "--bake", &bake]);
    begin(from, format!("`weft apply --zone a --bake {bake}`, back to v1"), 0.0, Some(took));
    let end = from + bake_seconds - TRIAL_END_SECONDS;
    begin(end, "after it ended by itself".to_owned(), 100.0, None);
    if let Some(last) = phases.last_mut() {
        last.settle_seconds = 2.0 * TRIAL_END_SECONDS + IN_FORCE_SECONDS;
    }
    let report = load.finish().remove(0);
    let figures = phases.iter().map(|phase| figure(&report, phase)).collect::<Vec<_>>();
    with_curve(figures, &report, &phases)
}

fn v2_share(slice: &Slice) -> Option<f64> {
    let all: u64 = slice.served.values().sum();
    let v2: u64 = slice.served.iter().filter(|(name, _)| name.starts_with("v2")).map(|(_, count)| count).sum();
    (all > 0).then(|| v2 as f64 * 100.0 / all as f64)
}

fn figure(report: &Report, phase: &Phase) -> Figure {
    let mut figure = Figure::new(NAME, &phase.case, "Weft");
    let all = report.sum_of(phase.from, phase.to);
    let counted = report.sum_of(phase.from + phase.settle_seconds, phase.to);
    figure.set("calls", counted.offered as f64);
    figure.set("failed_now", all.failed() as f64);
    figure.set("wanted", phase.v2_percent);
    figure.set_some("share", v2_share(&counted));
    figure.set_some("command_ms", phase.command.map(|took| took.as_secs_f64() * 1000.0));
    figure.set_late(report);
    figure.remark = all.told();
    figure
}

/// The first of them gets the curve of the whole run.
fn with_curve(mut figures: Vec<Figure>, report: &Report, phases: &[Phase]) -> Vec<Figure> {
    let steps = phases.iter().flat_map(|phase| [(phase.from, phase.v2_percent), (phase.to, phase.v2_percent)]);
    if let Some(first) = figures.first_mut() {
        first.curves.insert(SHARE.into(), report.curve(v2_share));
        first.curves.insert("wanted".into(), steps.collect());
        first.spans = phases
            .iter()
            .filter(|phase| phase.case.contains("--bake"))
            .map(|phase| (phase.from, phase.to, "trial".to_owned()))
            .collect();
    }
    figures
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let case = "90 to 10";
    let mut lines = series(figures, NAME, case, "wanted");
    lines.iter_mut().for_each(|line| "wanted".clone_into(&mut line.name));
    lines.extend(series(figures, NAME, case, SHARE).into_iter().map(|mut line| {
        "measured".clone_into(&mut line.name);
        line
    }));
    let plot = Plot {
        title: "A service moves to v2 under load".into(),
        x: ("seconds", Scale::Linear),
        y: ("percent of the calls that v2 answers", Scale::Linear),
        series: lines,
        limits: Vec::new(),
        spans: spans(figures, NAME, case),
        marks: false,
    };
    vec![("split.svg", plot)]
}
