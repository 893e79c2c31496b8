//! All instances in the caller's zone die at once, and come back; then their host vanishes with its agent, without a packet
//! more, and comes back. Calls must spill to the other zones within 2 s, come home, and not swing between.
//!
//! HAProxy beside it has the other zones' servers as backups of all together (`allbackups`), and checks as often as Weft does.

use std::time::Duration;

use crate::backend::{Farm, Running};
use crate::figures::{Column, FAILED, Figure, Unit, series, spans};
use crate::fleet::{Fleet, Instance, Plan as HostPlan};
use crate::load::{Load, Plan, Report, Slice};
use crate::peers::{HaProxy, Listener};
use crate::plot::{Plot, Scale};
use crate::process::must;
use crate::stage::Stage;

pub(crate) const NAME: &str = "zone";
pub(crate) const COLUMNS: &[Column] = &[
    ("calls", "offered", Unit::Count),
    ("answered", "success", Unit::Percent),
    ("at home before", "home", Unit::Percent),
    ("instances die: last failed call after", "spill_instances", Unit::Seconds),
    ("they return: at home after", "return_instances", Unit::Seconds),
    ("the host vanishes: last failed call after", "spill_host", Unit::Seconds),
    ("it returns: at home after", "return_host", Unit::Seconds),
    ("times that half of the calls moved (4 are needed)", "swings", Unit::Count),
];

const AT_HOME: &str = "at home";
const RATE_PER_SECOND: u32 = 300;
const SECONDS: u32 = 100;
const SERVERS: u16 = 3;
const MEDIAN_MS: f64 = 20.0;
const SIGMA: f64 = 0.25;
const PATIENCE: Duration = Duration::from_secs(1);
const SLICES_PER_SECOND: u32 = 5;
const FIRST_PORT: u16 = 19_000;
/// Of the calls, from which on they are at home.
const AT_HOME_PERCENT: f64 = 90.0;
const CHECK: &str = "interval = \"1s\"\ntimeout = \"500ms\"";

const HOSTS: [(&str, &str); 3] = [("host-a", "a"), ("host-b", "b"), ("host-c", "c")];

fn farm(peer: &str, host: usize) -> Farm {
    let place = u16::try_from(host).expect("a small number") * 10 + if peer == "weft" { 0 } else { 100 };
    Farm {
        name: format!("{peer}-{}", HOSTS[host].1),
        servers: SERVERS,
        port: FIRST_PORT + place,
        median_ms: MEDIAN_MS,
        sigma: SIGMA,
        workers: None,
    }
}

fn farms(peer: &str) -> Vec<Farm> {
    (0..HOSTS.len()).map(|host| farm(peer, host)).collect()
}

fn instances(farm: &Farm) -> Vec<Instance> {
    let instance = |port: u16| Instance {
        service: "billing",
        port,
        more: format!("[[service.check]]\ntcp = \"127.0.0.1:{port}\"\n{CHECK}\n"),
    };
    farm.ports().into_iter().map(instance).collect()
}

pub(crate) fn run(stage: &Stage) -> Vec<Figure> {
    let seconds = stage.seconds(SECONDS);
    let (ours, theirs) = (farms("weft"), farms("haproxy"));
    let start = |farm: &Farm| farm.start(stage.folder());
    let mut running: Vec<Running> = ours.iter().chain(&theirs).map(start).collect();
    let mut plans = vec![HostPlan { name: "near", zone: "a", instances: Vec::new() }];
    plans.extend(HOSTS.iter().zip(&ours).map(|((name, zone), farm)| HostPlan {
        name,
        zone,
        instances: instances(farm),
    }));
    let mut fleet = Fleet::raise(stage.weft(), stage.folder(), &plans);
    let mut listener = Listener::plain("leastconn", &theirs[0].ports());
    listener.backups = theirs[1..].iter().flat_map(Farm::ports).collect();
    listener.more = "option allbackups";
    listener.server = "check inter 1s fall 2 rise 2";
    let haproxy = HaProxy::start(stage.folder(), &[listener]);
    let plan = |peer: &str, address| Plan {
        peer: peer.to_owned(),
        address,
        host: "billing.mesh.internal".to_owned(),
        path: "/".to_owned(),
        rate_per_second: stage.rate(RATE_PER_SECOND),
        seconds,
        timeout: PATIENCE,
        slices_per_second: SLICES_PER_SECOND,
    };
    let load =
        Load::start(vec![plan("Weft", fleet.address_of("billing")), plan("HAProxy leastconn", haproxy.address(0))]);
    let at = |part: f64| f64::from(seconds) * part;
    let times = [0.1, 0.3, 0.5, 0.7].map(at);
    let home = [0, HOSTS.len()];
    for (index, with_host) in [(0, false), (2, true)] {
        load.wait_until(times[index]);
        // The later first, so that places stay.
        if with_host {
            cut(&fleet, &theirs[0]);
            fleet.kill(HOSTS[0].0);
        }
        home.iter().rev().for_each(|place| running.remove(*place).kill());
        load.wait_until(times[index + 1]);
        running.insert(0, start(&ours[0]));
        running.insert(HOSTS.len(), start(&theirs[0]));
        if with_host {
            must("nft delete table inet gone");
            fleet.start(HOSTS[0].0);
        }
    }
    load.finish().iter().map(|report| figure(report, times, f64::from(seconds))).collect()
}

/// No packet reaches the host any more, and none comes from it: what asks it waits.
fn cut(fleet: &Fleet, theirs: &Farm) {
    let address = fleet.address(HOSTS[0].0);
    let ports: Vec<String> = theirs.ports().iter().map(u16::to_string).collect();
    let ports = ports.join(",");
    must("nft add table inet gone");
    must("nft add chain inet gone in { type filter hook input priority 0 ; }");
    for what in [
        format!("ip daddr {address}"),
        format!("ip saddr {address}"),
        format!("tcp dport {{{ports}}}"),
        format!("tcp sport {{{ports}}}"),
    ] {
        must(&format!("nft add rule inet gone in {what} drop"));
    }
}

/// Which part of the answers came from the caller's own zone.
fn at_home(slice: &Slice) -> Option<f64> {
    let all: u64 = slice.served.values().sum();
    let home = slice.served.iter().filter(|(name, _)| name.contains("-a-")).map(|(_, count)| count).sum::<u64>();
    (all > 0).then(|| home as f64 * 100.0 / all as f64)
}

fn figure(report: &Report, times: [f64; 4], end: f64) -> Figure {
    let mut figure = Figure::of(NAME, "", report);
    let slice_seconds = 1.0 / f64::from(SLICES_PER_SECOND);
    // To the end of the last slice in which a call failed.
    let last_failed = |from: f64, to: f64| {
        let failed = report.within(from - slice_seconds, to).filter(|(_, slice)| slice.failed() > 0);
        failed.map(|(at, _)| at + slice_seconds - from).last().unwrap_or(0.0).max(0.0)
    };
    let first_home = |from: f64, to: f64| {
        let mut home = report.within(from, to).filter(|(_, slice)| at_home(slice) >= Some(AT_HOME_PERCENT));
        home.next().map(|(at, _)| at + slice_seconds - from)
    };
    figure.set_some("home", at_home(&report.sum_of(0.0, times[0])));
    figure.set("spill_instances", last_failed(times[0], times[1]));
    figure.set_some("return_instances", first_home(times[1], times[2]));
    figure.set("spill_host", last_failed(times[2], times[3]));
    figure.set_some("return_host", first_home(times[3], end));
    let shares = report.curve(at_home);
    let swings = shares.windows(2).filter(|pair| (pair[0].1 < 50.0) != (pair[1].1 < 50.0)).count();
    figure.set("swings", swings as f64);
    figure.curves.insert(AT_HOME.into(), shares);
    figure.spans =
        vec![(times[0], times[1], "instances dead".to_owned()), (times[2], times[3], "host gone".to_owned())];
    figure
}

pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, Plot)> {
    let plot = |title: &str, y, curve| Plot {
        title: title.to_owned(),
        x: ("seconds", Scale::Linear),
        y: (y, Scale::Linear),
        series: series(figures, NAME, "", curve),
        limits: Vec::new(),
        spans: spans(figures, NAME, ""),
        marks: false,
    };
    vec![
        (
            "zone.svg",
            plot("A zone dies and comes back: where calls go", "percent answered in the caller's zone", AT_HOME),
        ),
        ("zone-failed.svg", plot("A zone dies and comes back: failed calls", "failed calls in 200 ms", FAILED)),
    ]
}
