//! The CA's life under steady calls: a host is revoked, the root is replaced, issuers come, go and are lost, certificates end and
//! are got back. No call fails that need not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::load::{Call, Load, tally};
use crate::parts;
use crate::process::{Done, Process, clock_us, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n";
const LINE: &str = "[[service]]\nname = \"line\"\nport = 9100\n";
const CALLS_PER_SECOND: u32 = 50;
/// Debug builds on two busy cores; a real machine needs a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a revocation is held to.
const CUT_MAX: Duration = Duration::from_secs(2);

fn weft(host: &Host, words: &[&str]) -> Done {
    let socket = host.folder().join("weft.sock");
    host.run(WEFT, [&["--api", socket.to_str().expect("a path in UTF-8")], words].concat())
}

/// A verb of `weft ca` and `weft issuer`, which also want to know where the CA is.
fn authority(host: &Host, words: &[&str]) -> Done {
    let data = host.data_dir();
    weft(host, &[words, &["--data-dir", data.to_str().expect("a path in UTF-8")]].concat())
}

#[track_caller]
fn status(host: &Host) -> Value {
    let text = authority(host, &["ca", "status", "--json"]).expect("weft ca status");
    serde_json::from_str(&text).expect("JSON")
}

/// No call failed. `but` says of which it is no wonder.
#[track_caller]
fn none_failed(calls: &[Call], but: impl Fn(&Call) -> bool) {
    println!("{} calls, {:?}", calls.len(), tally(calls));
    let failed: Vec<_> = calls.iter().filter(|call| call.outcome.is_err() && !but(call)).take(10).collect();
    assert!(failed.is_empty() && calls.len() > 100, "of {} calls: {failed:#?}", calls.len());
}

/// A connection that a program of `host` holds open to a service, and that tells when it ends.
fn held(fleet: &Fleet, host: &str, service: &str) -> Process {
    let log = fleet.folder().join(format!("held-{host}-{service}.log"));
    let mut command =
        helper::command(&fleet[host], "held", &json!({ "target": format!("{service}.mesh.internal:9100") }));
    let mut process = Process::start("a held connection", &mut command, &log);
    wait_for(&format!("{host} talks to {service}"), PATIENCE, || {
        assert!(process.ended().is_none(), "{}", process.printed());
        if process.printed().contains("open") { Ok(()) } else { Err(process.printed()) }
    });
    process
}

/// The job `held`.
pub(crate) fn held_open(arguments: &Value) {
    let mut stream = TcpStream::connect(arguments["target"].as_str().expect("target")).expect("a connection");
    stream.write_all(b"x").expect("a byte");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("its echo");
    println!("open");
    let ended = stream.read(&mut byte);
    println!("ended {} {ended:?}", clock_us());
}

/// The job `echo`: sends back what it gets, connection after connection.
pub(crate) fn echo(_: &Value) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 9100)).expect("port 9100");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut reading = stream.try_clone().expect("the same connection");
            let _ = std::io::copy(&mut reading, &mut &stream);
        });
    }
}

fn serve_lines(fleet: &Fleet, host: &str) -> Process {
    let log = fleet.folder().join(format!("echo-{host}.log"));
    Process::start("an echo", &mut helper::command(&fleet[host], "echo", &json!({})), &log)
}

#[test]
fn a_revoked_host_is_cut_off_within_two_seconds_and_comes_back_only_as_another() {
    let hosts = ["a", "b", "c", "x"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    for name in ["b", "x"] {
        fleet[name].service("web", WEB);
    }
    fleet["b"].service("line", LINE);
    fleet["x"].service("own", &LINE.replace("line", "own"));
    let _web = ["b", "x"].map(|name| parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name));
    let _lines = ["b", "x"].map(|name| serve_lines(&fleet, name));
    fleet.mesh(&hosts);
    fleet["c"].sees_passing("web", &["b", "x"]);
    fleet["c"].sees_passing("own", &["x"]);
    fleet["x"].sees_passing("line", &["b"]);
    let x = fleet["x"].api("/v1/agent/self").expect("agent/self").1["Config"]["NodeID"].clone();
    let load = Load::start(&fleet, "c", "web", CALLS_PER_SECOND);
    let mut ends = [held(&fleet, "c", "own"), held(&fleet, "x", "line")];
    std::thread::sleep(Duration::from_secs(2));

    let begun = clock_us();
    let told = authority(&fleet["a"], &["ca", "revoke", "x", "--reason", "sold", "--json"]).expect("weft ca revoke");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    println!("revoked: {told}, NodeID {x}");
    for end in &mut ends {
        end.finish(PATIENCE);
        let printed = end.printed();
        let at: u64 = printed
            .lines()
            .find_map(|line| line.strip_prefix("ended ")?.split(' ').next()?.parse().ok())
            .expect("when");
        let took = Duration::from_micros(at.saturating_sub(begun));
        println!("a connection ended {took:?} after the order was typed: {printed:?}");
        assert!(took < CUT_MAX, "{printed}");
    }
    for host in ["a", "b", "c"] {
        wait_for(&format!("x is gone from {host}"), CUT_MAX, || {
            let members = fleet[host].members()?;
            let instances = fleet[host].instances("web")?;
            let gone = members.get("x").is_none_or(|state| state == "left") && instances.keys().eq(["b"]);
            if gone { Ok(()) } else { Err(format!("{members:?} {instances:?}")) }
        });
    }
    std::thread::sleep(Duration::from_secs(3));
    let calls = load.stop();
    // What x was answering as it was cut off nobody can save.
    none_failed(&calls, |call| call.start_us < begun + 2_000_000 && call.end_us > begun);
    let lost = calls.iter().filter(|call| call.outcome.is_err()).count();
    assert!(lost <= 2, "{lost} calls were lost at the cut");

    let refused = fleet["x"].curl("http://web.mesh.internal/");
    assert!(!refused.ok || refused.stdout.contains('x'), "x reaches no other host: {}", refused.stdout);
    let log = fleet["x"].agent_log_text();
    // It may not even hear of it: nobody talks to it any more.
    println!("x was told: {}", log.contains("this host has been revoked"));

    // Neither a restart nor a token brings the old identity back.
    fleet["x"].stop_agent();
    fleet["x"].spawn_agent();
    let refused = fleet["x"].enrol(&fleet["a"]).expect_err("the old identity is revoked");
    assert!(refused.contains("revoked") && refused.contains("--new-identity"), "{refused}");
    let listed = status(&fleet["b"]);
    assert_eq!((&listed["revoked"][0]["name"], &listed["revoked"][0]["reason"]), (&json!("x"), &json!("sold")));
    for host in ["a", "b", "c"] {
        let state = fleet[host].members().expect("members").get("x").cloned();
        assert!(state.as_deref().is_none_or(|state| state == "left"), "{host}: {state:?}");
    }
    fleet["x"].stop_agent();
    let (token, data) = (fleet["a"].token(&[]), fleet["x"].data_dir());
    let data = data.to_str().expect("a path in UTF-8");
    let words = ["enroll", "--token", &token, "--node", "x", "--new-identity", "--data-dir", data];
    fleet["x"].run(WEFT, words).expect("weft enroll --new-identity");
    fleet["x"].start_agent();
    fleet["c"].sees_passing("web", &["b", "x"]);
    // A restart knows of the revocation before anybody tells.
    fleet["b"].kill_agent();
    fleet["b"].start_agent();
    assert_eq!(status(&fleet["b"])["revoked"][0]["name"], "x");
}

#[test]
fn what_a_revoked_issuer_has_issued_is_cut_off_with_it_and_is_back_when_it_is_enrolled_again() {
    let hosts = ["a", "b", "c", "d"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    fleet["d"].service("web", WEB);
    fleet["d"].service("own", &LINE.replace("line", "own"));
    fleet["c"].service("line", LINE);
    let _web = parts::nginx(&fleet["d"], "web", "127.0.0.1:8081", "d");
    let _lines = ["c", "d"].map(|name| serve_lines(&fleet, name));
    fleet.mesh(&["a", "b", "c"]);
    authority(&fleet["a"], &["issuer", "add", "b"]).expect("weft issuer add");
    fleet["d"].enrol(&fleet["b"]).expect("enrolment by b");
    fleet["d"].start_agent();
    fleet.all_alive(&hosts);
    fleet["c"].sees_passing("web", &["d"]);
    fleet["c"].sees_passing("own", &["d"]);
    fleet["d"].sees_passing("line", &["c"]);
    // As client and as server: streams both ways, and a connection for requests.
    let mut ends = [held(&fleet, "c", "own"), held(&fleet, "d", "line")];
    assert_eq!(fleet["c"].curl("http://web.mesh.internal/").expect("a call").trim(), "d");

    let kept = authority(&fleet["a"], &["ca", "revoke", "b"]);
    assert!(
        !kept.ok && kept.stderr.contains("has issued the certificates of") && kept.stderr.contains('d'),
        "{}",
        kept.stderr
    );
    let begun = clock_us();
    authority(&fleet["a"], &["ca", "revoke", "b", "--force"]).expect("weft ca revoke");
    for end in &mut ends {
        end.finish(PATIENCE);
        let printed = end.printed();
        let at = printed.lines().find_map(|line| line.strip_prefix("ended ")?.split(' ').next()?.parse().ok());
        let took = Duration::from_micros(at.unwrap_or(u64::MAX).saturating_sub(begun));
        println!("a connection ended {took:?} after the order was typed: {printed:?}");
        assert!(took < CUT_MAX, "{printed}");
    }
    for host in ["a", "c"] {
        wait_for(&format!("what d told is gone from {host}"), CUT_MAX, || {
            let instances = fleet[host].instances("web")?;
            if instances.is_empty() { Ok(()) } else { Err(format!("{instances:?}")) }
        });
    }
    assert!(!fleet["c"].curl("http://web.mesh.internal/").ok, "d is called still");
    assert!(fleet["a"].agent_log_text().contains("issued by one that is revoked"));
    // It may not even hear of it, as a host that is revoked itself.
    println!("d was told: {}", fleet["d"].agent_log_text().contains("the host that issued this host's certificate"));

    fleet["d"].stop_agent();
    fleet["d"].enrol(&fleet["a"]).expect("enrolment by a");
    fleet["d"].start_agent();
    fleet["c"].sees_passing("web", &["d"]);
    assert_eq!(fleet["c"].curl("http://web.mesh.internal/").expect("a call").trim(), "d");
}

#[test]
fn the_root_is_replaced_under_steady_calls() {
    let hosts = ["a", "b", "c", "d"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    let meshed = ["a", "b", "c"];
    for name in ["a", "b"] {
        fleet[name].service("web", WEB);
    }
    let _web = ["a", "b"].map(|name| parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name));
    fleet.mesh(&meshed);
    fleet["c"].sees_passing("web", &["a", "b"]);
    let a = &fleet["a"];
    let anna = fleet.folder().join("anna.pem");
    let anna = anna.to_str().expect("a path in UTF-8");
    authority(a, &["ca", "operator", "anna", "--out", anna]).expect("weft ca operator");
    weft(a, &["intention", "deny", "nobody", "web", "--operator", anna]).expect("weft intention deny");
    let load = Load::start(&fleet, "c", "web", CALLS_PER_SECOND);
    authority(a, &["issuer", "add", "b"]).expect("weft issuer add");
    assert_eq!(status(&fleet["c"])["issuers"], json!(["a", "b"]));

    let before = status(a);
    let early = authority(a, &["ca", "rotate", "switch"]);
    assert!(!early.ok && early.stderr.contains("rotate begin"), "{}", early.stderr);
    let told = authority(a, &["ca", "rotate", "begin", "--json"]).expect("weft ca rotate begin");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let new = told["root_sha256"].clone();
    let between = status(a);
    let words = |root: &Value| (root["sha256"].clone(), root["in_use"].clone(), root["hosts"].clone());
    assert_eq!(words(&between["roots"][0]), (before["roots"][0]["sha256"].clone(), json!(true), json!(3)));
    assert_eq!(words(&between["roots"][1]), (new.clone(), json!(false), json!(0)));
    let early = authority(a, &["ca", "rotate", "finish"]);
    assert!(!early.ok && early.stderr.contains("rotate switch"), "{}", early.stderr);

    // A host that is away must not be cut off by the next step.
    fleet["b"].stop_agent();
    wait_for("b is missed", PATIENCE, || match a.members()?.get("b").map(String::as_str) {
        Some("left") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let early = authority(a, &["ca", "rotate", "switch", "--wait", "1s"]);
    assert!(!early.ok && early.stderr.contains("b (left)"), "{}", early.stderr);
    fleet["b"].start_agent();
    fleet.all_alive(&meshed);

    authority(a, &["ca", "rotate", "switch"]).expect("weft ca rotate switch");
    let switched = status(a);
    assert_eq!(words(&switched["roots"][0]), (new, json!(true), json!(3)));
    authority(a, &["ca", "rotate", "finish"]).expect("weft ca rotate finish");
    for host in meshed {
        wait_for(&format!("{host} believes the new root alone"), PATIENCE, || {
            let pem = fleet[host].data_dir().join("identity/roots.pem");
            let count = std::fs::read_to_string(pem).unwrap_or_default().matches("BEGIN").count();
            if count == 1 { Ok(()) } else { Err(format!("{count} roots")) }
        });
    }
    assert_eq!(status(a)["roots"].as_array().map(Vec::len), Some(1));
    std::thread::sleep(Duration::from_secs(2));
    none_failed(&load.stop(), |_| false);
    // Restarts find everything in its place, the gossip keyring too.
    fleet["c"].stop_agent();
    fleet["c"].start_agent();
    fleet.all_alive(&meshed);

    // A newcomer comes in by the second issuer, and is told what was decided before the old root went.
    let token = fleet["b"].token(&["--service", "*"]);
    fleet["d"].enrol_with(&token).expect("enrolment by the second issuer");
    fleet["d"].start_agent();
    fleet["d"].sees_passing("web", &["a", "b"]);
    let verdict = weft(&fleet["d"], &["intention", "check", "nobody", "web"]).expect("weft intention check");
    assert!(verdict.starts_with("denied"), "{verdict}");
    // Of the old root's making, and of no use any more.
    let stale = weft(a, &["intention", "deny", "others", "web", "--operator", anna]);
    assert!(!stale.ok && stale.stderr.contains("certificate"), "{}", stale.stderr);
}

#[test]
fn issuers_are_lost_and_come_back_and_certificates_that_ended_are_got_again() {
    let hosts = ["a", "b", "c"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    fleet["b"].service("web", WEB);
    let _web = parts::nginx(&fleet["b"], "web", "127.0.0.1:8081", "b");
    // Certificates of half a minute: a month of a real cluster's life in the time of a test.
    let (data, life) = (fleet["a"].data_dir(), Duration::from_secs(30));
    let data = data.to_str().expect("a path in UTF-8");
    let words = ["ca", "init", "--cluster", "proving", "--node", "a", "--node-ttl", "30s", "--data-dir", data];
    fleet["a"].run(WEFT, words).expect("weft ca init");
    fleet["a"].start_agent();
    for host in ["b", "c"] {
        fleet[host].enrol(&fleet["a"]).expect("enrolment");
        fleet[host].start_agent();
    }
    fleet.all_alive(&hosts);
    fleet["c"].sees_passing("web", &["b"]);

    // The issuer is away for a while, and returns in time.
    let load = Load::start(&fleet, "c", "web", CALLS_PER_SECOND);
    fleet["a"].kill_agent();
    wait_for("c misses its issuer", life, || {
        let log = fleet["c"].agent_log_text();
        if log.contains("the node certificate could not be renewed") { Ok(()) } else { Err("nothing".to_owned()) }
    });
    std::thread::sleep(Duration::from_secs(5));
    fleet["a"].start_agent();
    // A whole life and more: every certificate that calls are made with was renewed meanwhile.
    std::thread::sleep(life + Duration::from_secs(5));

    // There is another issuer: the first may be away for as long as it likes.
    authority(&fleet["a"], &["issuer", "add", "b"]).expect("weft issuer add");
    fleet["a"].kill_agent();
    std::thread::sleep(life + Duration::from_secs(10));
    none_failed(&load.stop(), |_| false);
    let ended = |host: &str| {
        let status = status(&fleet[host]);
        status["findings"].as_array().expect("findings").iter().any(|finding| {
            let finding = finding.as_str().unwrap_or_default().split_once("have ended: ");
            finding.is_some_and(|(_, names)| names.split(", ").any(|name| name == "c"))
        })
    };
    assert!(!ended("b"), "c was renewed by b");
    fleet["a"].start_agent();
    fleet.all_alive(&hosts);

    // None is left for longer than certificates last: calls end, and are back when an issuer is.
    authority(&fleet["a"], &["issuer", "remove", "b"]).expect("weft issuer remove");
    fleet["a"].kill_agent();
    wait_for("the certificates end", life * 2, || match fleet["c"].curl("http://web.mesh.internal/") {
        done if done.ok => Err("a call was answered".to_owned()),
        _ => Ok(()),
    });
    // Whichever of the two certificates ended first; each host says so of its own.
    wait_for("c says so", life, || match fleet["c"].agent_log_text().contains("the node certificate has expired") {
        true => Ok(()),
        false => Err("it does not".to_owned()),
    });
    fleet["a"].start_agent();
    let begun = Instant::now();
    wait_for("calls are back", PATIENCE, || match fleet["c"].curl("http://web.mesh.internal/") {
        done if done.ok => Ok(()),
        done => Err(done.stderr),
    });
    println!("calls were back {:?} after the issuer", begun.elapsed());
    fleet["c"].sees_passing("web", &["b"]);
    let load = Load::start(&fleet, "c", "web", CALLS_PER_SECOND);
    std::thread::sleep(Duration::from_secs(5));
    none_failed(&load.stop(), |_| false);
}
