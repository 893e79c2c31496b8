//! Ten thousand connections to each port that ask for nothing: silent ones, ones that stop after their first bytes, and ones
//! that stop after the handshake. Everybody else is served meanwhile as if they were not there.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::host::Host;
use crate::idlers::{Held, Idlers};
use crate::parts;
use crate::process::wait_for;

/// To each port.
const IDLE: u64 = 10_000;
/// With a finished handshake; more than any port lets one address have of those without a request, but for the mesh port.
const IDLE_AFTER_HANDSHAKE: u64 = 600;
/// How many of those that were closed are opened again each second, of each kind.
const AGAIN_PER_SECOND: u64 = 200;
/// A debug build on two busy cores accepts some thousands a second.
const OPENED_WITHIN: Duration = Duration::from_secs(60);
/// What anybody waits for anything.
const NORMAL: Duration = Duration::from_secs(3);
const SIEGE: Duration = Duration::from_secs(10);
/// In a debug build.
const MORE_MEMORY_MIB_MAX: u64 = 250;

/// The addresses that connections from outside come from.
const SOURCES: [&str; 4] = ["10.77.0.51", "10.77.0.52", "10.77.0.53", "10.77.0.54"];

fn service(name: &str, port: u16, protocol: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nport = {port}\nprotocol = \"{protocol}\"\n")
}

fn hex(first: &[&[u8]]) -> Vec<String> {
    first.iter().map(|bytes| HEXLOWER.encode(bytes)).collect()
}

#[test]
fn ten_thousand_idle_connections_to_each_port_leave_others_served() {
    let Some(fleet) = Fleet::raise(&["one", "two", "three", "x"]) else { return };
    let files = getrlimit(Resource::Nofile).maximum;
    assert!(
        files.is_none_or(|files| files > IDLE + 1000),
        "this machine allows {files:?} open files to a process (`ulimit -Hn`): too few to hold {IDLE} connections"
    );
    let (one, two, three, x) = (&fleet["one"], &fleet["two"], &fleet["three"], &fleet["x"]);
    let _servers = [
        parts::nginx(one, "web", "127.0.0.1:8081", "web"),
        parts::nginx(one, "raw", "127.0.0.1:8082", "raw"),
        parts::nginx(two, "far", "127.0.0.1:8083", "far"),
    ];
    one.service("web", &service("web", 8081, "http"));
    one.service("raw", &service("raw", 8082, "tcp"));
    two.service("far", &service("far", 8083, "http"));
    fleet.mesh(&["one", "two"]);
    one.sees_passing("far", &["two"]);
    two.sees_passing("raw", &["one"]);
    for address in SOURCES {
        x.run("ip", ["address", "add", &format!("{address}/24"), "dev", "eth0"]).expect("an address");
    }
    let vip = |name: &str| one.dig(&format!("{name}.mesh.internal")).first().cloned().expect("an address");
    let (far, raw) = (vip("far"), vip("raw"));
    let quiet = serve_all(one, two, Duration::from_secs(2));
    let before_kib = one.agent_rss_kib();

    let identity = two.data_dir();
    let outside = |port: u16, first: &[&[u8]]| {
        json!({ "target": format!("{}:{port}", one.address()), "from": SOURCES, "count": IDLE,
                "per_second": AGAIN_PER_SECOND, "first": hex(first) })
    };
    let inside = |target: &str, first: &[&[u8]]| json!({ "target": target, "count": IDLE, "per_second": AGAIN_PER_SECOND, "first": hex(first) });
    let shaken = |port: u16, protocol: &str| {
        json!({ "target": format!("{}:{port}", one.address()), "from": SOURCES, "count": IDLE_AFTER_HANDSHAKE,
                "per_second": 20, "identity": identity, "protocol": protocol })
    };
    // The first half of a ClientHello's beginning; the other half of the connections says nothing.
    let hello: &[&[u8]] = &[b"", b"\x16\x03\x01\x05\x00\x01\x00\x04\xfc\x03\x03weft"];
    let head: &[&[u8]] = &[b"", b"GET /v1/agent/self HTTP/1.1\r\nHo", b"PRI * "];
    let socket = one.folder().join("weft.sock");
    let begun = Instant::now();
    let orders: Vec<(&Host, &str, Value)> = vec![
        (x, "gossip", outside(7946, hello)),
        (x, "mesh", outside(7947, hello)),
        (x, "gossip-shaken", shaken(7946, "weft-gossip")),
        (x, "mesh-shaken", shaken(7947, "weft-mesh")),
        (x, "enroll-shaken", shaken(7947, "weft-enroll")),
        (one, "api", inside("127.0.0.1:8500", head)),
        (one, "socket", inside(socket.to_str().expect("UTF-8"), head)),
        (one, "dns", inside("127.0.0.1:8600", &[b"", b"\0", b"\0\x20\x01\x02"])),
        (one, "http-calls", inside(&format!("{far}:8083"), &[b"", b"GET / HTTP/1.1\r\nHo", b"PRI *"])),
        (one, "tcp-calls", inside(&format!("{raw}:8082"), &[])),
        (one, "15001", inside("127.0.0.1:15001", &[])),
        (one, "15002", inside("127.0.0.1:15002", &[])),
    ];
    let mut idlers: Vec<(&str, Idlers)> =
        orders.iter().map(|(host, what, orders)| (*what, Idlers::start(host, what, orders))).collect();
    idlers.iter_mut().for_each(|(_, idlers)| idlers.all_opened(OPENED_WITHIN));
    println!("all were opened within {:.1} s", begun.elapsed().as_secs_f64());

    let besieged = serve_all(one, two, SIEGE);
    // Somebody new: enrolled by the host under siege, which is also the only one that it knows.
    let begun = Instant::now();
    three.enrol(one).expect("enrolment");
    let enrolled = begun.elapsed();
    three.start_agent();
    fleet.all_alive(&["one", "two", "three"]);
    let joined = begun.elapsed();
    three.sees_passing("raw", &["one"]);
    assert_eq!(three.curl("http://raw.mesh.internal:8082/").expect("a call of the new host").trim(), "raw");
    let waiting = one.metric("weft_half_open_connections", "");
    let (crowded_out, failed) =
        (one.metric("weft_half_open_crowded_out_total", ""), one.metric("weft_accept_failures_total", ""));
    for port in ["gossip", "mesh", "enroll", "api", "api-socket", "dns", "calls"] {
        let label = format!("port=\"{port}\"");
        let of = |name: &str| one.metric(name, &label);
        println!(
            "{port}: {} wait, {} made room",
            of("weft_half_open_connections"),
            of("weft_half_open_crowded_out_total")
        );
        assert!(of("weft_half_open_crowded_out_total") > 0.0, "nobody had to make room at {port}");
    }
    let peak_kib = one.agent_rss_peak_kib();
    println!("longest waits without: {quiet:?}\nlongest waits with:    {besieged:?}");
    println!(
        "enrolled in {enrolled:?}, joined in {joined:?}; {waiting} half-open, {crowded_out} made room, {failed} accepts failed"
    );
    println!("memory: {} MiB before, {} MiB at most", before_kib / 1024, peak_kib / 1024);
    for (what, idlers) in idlers {
        let Held { opened, closed } = idlers.end();
        println!("{what}: {opened} opened, {closed} closed by the agent");
    }
    assert!(besieged.iter().all(|(_, longest)| *longest < NORMAL), "{besieged:?}");
    assert!(enrolled < NORMAL, "{enrolled:?}");
    // While tens of thousands are opened within seconds, descriptors may run out for a moment where few are allowed: accepting
    // pauses then, and goes on.
    assert!(failed < crowded_out / 50.0, "descriptors ran out: {failed} accepts failed");
    assert!((peak_kib - before_kib) / 1024 < MORE_MEMORY_MIB_MAX, "{peak_kib} KiB after {before_kib}");
    wait_for("the half-open connections are gone", Duration::from_secs(10), || {
        let waiting = one.metric("weft_half_open_connections", "");
        if waiting < 10.0 { Ok(()) } else { Err(waiting.to_string()) }
    });
    serve_all(one, two, Duration::from_secs(1));
    one.assert_agent_runs();
}

/// Has everything served again and again; the longest wait for each.
#[track_caller]
fn serve_all(one: &Host, two: &Host, duration: Duration) -> Vec<(&'static str, Duration)> {
    let socket = one.folder().join("weft.sock");
    let socket = socket.to_str().expect("UTF-8");
    let until = Instant::now() + duration;
    let mut longest: Vec<(&str, Duration)> = Vec::new();
    let call = |host: &Host, url: &str, says: &str| assert_eq!(host.curl(url).expect(url).trim(), says, "{url}");
    let tcp = ["+tcp", "+short", "+time=3", "+tries=1", "@127.0.0.1", "-p", "8600", "web.mesh.internal", "A"];
    let leader = "http://127.0.0.1:8500/v1/status/leader";
    let over_socket = ["-sS", "--fail", "--max-time", "5", "--unix-socket", socket, "http://weft/v1/agent/members"];
    while Instant::now() < until {
        let mut time = |what: &'static str, act: &dyn Fn()| {
            let begun = Instant::now();
            act();
            let took = begun.elapsed();
            match longest.iter_mut().find(|(known, _)| *known == what) {
                Some((_, longest)) => *longest = took.max(*longest),
                None => longest.push((what, took)),
            }
        };
        time("a request from another host", &|| call(two, "http://web.mesh.internal/", "web"));
        time("a stream from another host", &|| call(two, "http://raw.mesh.internal:8082/", "raw"));
        time("a request of a program here", &|| call(one, "http://far.mesh.internal/", "far"));
        time("a stream of a program here", &|| call(one, "http://raw.mesh.internal:8082/", "raw"));
        time("the API", &|| drop(one.curl(leader).expect("the API")));
        time("the socket", &|| drop(one.run("curl", over_socket).expect("the socket")));
        time("DNS over UDP", &|| assert_eq!(one.dig("web.mesh.internal").len(), 1));
        time("DNS over TCP", &|| assert!(one.run("dig", tcp).expect("dig").starts_with("127.")));
    }
    longest
}
