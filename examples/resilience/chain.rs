//! A calls B, B calls C, and C hangs. A and B are applications with eight workers each (`app.py`); one of A's routes needs C
//! and the other does not. Each waits as long as it takes, as applications do whose clients have a timeout of 60 s.
//!
//! The chain stands three times in the same run: called directly, through HAProxy, and through Weft, where C's owner has said
//! how long it may take (`timeout`), as HAProxy is told (`timeout server`).

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::ask::ask;
use crate::backend::{Answer, Behaviour, Farm};
use crate::figures::{Column, Figure, Unit, series, spans};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan, Report};
use crate::peers::{HaProxy, Listener};
use crate::plot::{Plot, Scale};
use crate::process::{Process, wait_for};
use crate::stage::Stage;

pub(crate) const NAME: &str = "chain";
pub(crate) const COLUMNS: &[Column] = &[
    ("calls", "offered", Unit::Count),
    ("answered before", "before", Unit::Percent),
    ("while C hangs", "meanwhile", Unit::Percent),
    ("in its last half", "late_half", Unit::Percent),
    ("after C is back", "after", Unit::Percent),
    ("p99 of the answers", "p99", Unit::Milliseconds),
];

const WITHOUT_C: &str = "/without-c";
const WITH_C: &str = "/with-c";
const OK: &str = "ok";

const RATE_PER_SECOND: u32 = 30;
const SECONDS: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(2);
const C_MEDIAN_MS: f64 = 10.0;
/// What C may take; a hundred times what it takes.
const C_TIMEOUT: &str = "1s";
const FIRST_PORT: u16 = 19_000;
const APP_DEADLINE: Duration = Duration::from_secs(15);

/// Ports of the chain of one peer.
struct Ports {
    a: u16,
    b: u16,
    farm: u16,
}

impl Ports {
    fn new(index: u16) -> Ports {
        let base = FIRST_PORT + index * 100;
        Ports { a: base + 1, b: base + 2, farm: base + 10 }
    }

    /// C's own.
    fn c(&self) -> u16 {
        self.farm + 1
    }
}

fn app(stage: &Stage, name: &str, port: u16, next: SocketAddr) -> Process {
    let file = stage.folder().join("app.py");
    std::fs::write(&file, include_str!("app.py")).expect("app.py");
    let mut command = Command::new("python3");
    command.arg(file).args(["--name", name, "--port", &port.to_string()]);
    // B asks for /with-c of C, which answers whatever the path is.
    command.args(["--next", &format!("http://{next}{WITH_C}")]);
    let app = Process::start(name, &mut command, &stage.folder().join(format!("app-{port}.log")));
    wait_for(&format!("{name} answers"), APP_DEADLINE, || ask((Ipv4Addr::LOCALHOST, port).into(), WITHOUT_C));
    app
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    let seconds = stage.seconds(SECONDS);
    let (direct, haproxy_ports, weft) = (Ports::new(0), Ports::new(1), Ports::new(2));
    let farm = |name: &str, ports: &Ports| {
        let farm = Farm {
            name: name.to_owned(),
            servers: 1,
            port: ports.farm,
            median_ms: C_MEDIAN_MS,
            sigma: 0.2,
            workers: None,
        };
        farm.start(stage.folder())
    };
    let farms = [farm("direct-c", &direct), farm("haproxy-c", &haproxy_ports), farm("weft-c", &weft)];
    let instance = |service, port, more: &str| Instance { service, port, more: more.to_owned() };
    let fleet = Fleet::raise(
        stage.weft(),
        stage.folder(),
        &[
            HostPlan { name: "near", zone: "a", instances: Vec::new() },
            HostPlan { name: "host-a", zone: "a", instances: vec![instance("a", weft.a, "")] },
            HostPlan { name: "host-b", zone: "a", instances: vec![instance("b", weft.b, "")] },
            HostPlan {
                name: "host-c",
                zone: "a",
                instances: vec![instance("c", weft.c(), &format!("timeout = \"{C_TIMEOUT}\""))],
            },
        ],
    );
    let plain = |port: u16| Listener::plain("roundrobin", &[port]);
    let to_c = Listener { more: "timeout server 1s", ..plain(haproxy_ports.c()) };
    let haproxy = HaProxy::start(stage.folder(), &[plain(haproxy_ports.a), plain(haproxy_ports.b), to_c]);
    let _apps = [
        app(stage, "direct-b", direct.b, local(direct.c())),
        app(stage, "direct-a", direct.a, local(direct.b)),
        app(stage, "haproxy-b", haproxy_ports.b, haproxy.address(2)),
        app(stage, "haproxy-a", haproxy_ports.a, haproxy.address(1)),
        app(stage, "weft-b", weft.b, fleet.address_at("host-b", "c")),
        app(stage, "weft-a", weft.a, fleet.address_at("host-a", "b")),
    ];
    let plan = |peer: &str, address: SocketAddr, path: &str| Plan {
        peer: format!("{peer}, {path}"),
        address,
        host: "a.mesh.internal".to_owned(),
        path: path.to_owned(),
        rate_per_second: stage.rate(RATE_PER_SECOND),
        seconds,
        timeout: PATIENCE,
        slices_per_second: 1,
    };
    let to = [("Weft", fleet.address_of("a")), ("HAProxy", haproxy.address(0)), ("directly", local(direct.a))];
    let plans = to.iter().flat_map(|(peer, address)| [WITHOUT_C, WITH_C].map(|path| plan(peer, *address, path)));
    let load = Load::start(plans.collect());
    let (from, to) = (f64::from(seconds) / 4.0, f64::from(seconds) * 0.75);
    load.wait_until(from);
    farms.iter().for_each(|farm| farm.switch(None, Behaviour { answer: Answer::Hang, median_ms: 0.0, sigma: 0.0 }));
    load.wait_until(to);
    farms.iter().for_each(|farm| farm.switch(None, Behaviour::well(C_MEDIAN_MS, 0.2)));
    let figure = |report: &Report| {
        let mut figure = Figure::of(NAME, "", report);
        figure.set("before", report.sum_of(0.0, from).success_percent());
        figure.set("meanwhile", report.sum_of(from, to).success_percent());
        figure.set("late_half", report.sum_of(f64::midpoint(from, to), to).success_percent());
        figure.set("after", report.sum_of(to, f64::INFINITY).success_percent());
        figure.curves.clear();
        figure.curves.insert(OK.into(), report.curve(|slice| Some(slice.success_percent())));
        figure.spans = vec![(from, to, "C hangs".to_owned())];
        figure
    };
    load.finish().iter().map(figure).collect()
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let mut lines = series(figures, NAME, "", OK);
    lines.retain(|line| line.name.ends_with(WITHOUT_C));
    lines.iter_mut().for_each(|line| line.name = line.name.replace(&format!(", {WITHOUT_C}"), ""));
    let plot = Plot {
        title: "A calls B, B calls C, C hangs: the route of A that does not need C".into(),
        x: ("seconds", Scale::Linear),
        y: ("percent answered well within 2 s", Scale::Linear),
        series: lines,
        limits: Vec::new(),
        spans: spans(figures, NAME, ""),
        marks: false,
    };
    vec![("chain.svg", plot)]
}
