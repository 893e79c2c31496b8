//! Seeing what has happened and what happens: the history of one host tells, with its agent stopped, what went on elsewhere,
//! in order; a tap shows requests as they end, on the caller's host and on the service's.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::ask;
use crate::fleet::Fleet;
use crate::host::Host;
use crate::parts;
use crate::process::{Process, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"500ms\"\n";
const CACHE: &str = "[[service]]\nname = \"cache\"\nport = 6379\n";
const BROKEN: &str = "    location /broken { return 503; }\n";

/// A check, its verdict's way, and membership's patience with a host that is gone.
const SEEN_DEADLINE: Duration = Duration::from_secs(30);
/// From the end of a request to its line.
const TAP_DEADLINE: Duration = Duration::from_secs(1);

#[track_caller]
fn sees(host: &Host, service: &str, expected: &str) {
    wait_for(&format!("{} sees {service} {expected}", host.name), SEEN_DEADLINE, || {
        let seen = host.instances(service)?;
        if seen.get("b").is_some_and(|seen| seen == expected) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[track_caller]
fn history(host: &Host, more: &[&str]) -> (String, String) {
    let data = host.data_dir();
    let words = ["history", "--data-dir", data.to_str().expect("a path in UTF-8")];
    let done = host.run(WEFT, [&words, more].concat());
    let errors = done.stderr.clone();
    (done.expect("weft history"), errors)
}

#[test]
fn the_history_of_a_host_whose_agent_is_dead_tells_what_went_on_elsewhere_in_order() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let (b, c) = (&fleet["b"], &fleet["c"]);
    b.service("web", WEB);
    let _web = parts::nginx(b, "web", "127.0.0.1:8081", "b");
    fleet.mesh(&["a", "b", "c"]);
    sees(c, "web", "passing");
    let sickness = parts::sickness(b, "web");
    std::fs::write(&sickness, "").expect("the mark of sickness");
    sees(c, "web", "critical");
    std::fs::remove_file(&sickness).expect("the mark of sickness");
    sees(c, "web", "passing");
    b.kill_agent();
    wait_for("c gives b up", SEEN_DEADLINE, || {
        let members = c.members()?;
        if members.get("b").is_some_and(|state| state == "failed") { Ok(()) } else { Err(format!("{members:?}")) }
    });
    b.start_agent();
    fleet.all_alive(&["a", "b", "c"]);
    c.stop_agent();
    // A crash in the middle of a line.
    let file = OpenOptions::new().append(true).open(c.data_dir().join("history.log"));
    file.expect("the history").write_all(b"{\"time\":\"2026-").expect("half a line");

    let (lines, remark) = history(c, &["--json"]);
    assert!(remark.starts_with("remark: 1 lines of ") && remark.contains("history.log cannot be read"), "{remark}");
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let words: Vec<&str> = events.iter().filter_map(|event| event["words"].as_str()).collect();
    let told: Vec<&str> =
        words.iter().copied().filter(|words| words.contains(" on b ") || words.starts_with("b ")).collect();
    let expected = [
        &format!("b joined, at {}:7946", b.address()),
        "web on b is critical, was passing: service:web",
        "web on b is passing, was critical",
        "b failed",
        "b is alive again",
    ];
    assert_eq!(told, expected, "{words:#?}");
    let starts = |word: &str| words.iter().position(|words| words.starts_with(word));
    assert_eq!(
        (starts("weft 0."), starts("weft left the mesh and stopped")),
        (Some(0), Some(words.len() - 1)),
        "{words:#?}"
    );
    assert!(words.contains(&"this host is in contact with others"), "{words:#?}");

    let (table, _) = history(c, &["--kind", "member", "--node", "b", "--since", "1h"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(rows[2].contains("  member  b failed"), "{table}");
}

/// `weft tap` on this host; its log holds what it printed. Returns when it is open.
#[track_caller]
fn tap(host: &Host, name: &str, more: &[&str], open: f64) -> Process {
    let socket = host.folder().join("weft.sock");
    let mut command = host.command(WEFT);
    command.arg("--api").arg(&socket).args(["tap", "--json"]).args(more);
    let process = Process::start(name, &mut command, &host.folder().join(format!("{name}.log")));
    wait_for(&format!("{name} is open"), SEEN_DEADLINE, || {
        let count = host.metric("weft_taps", "");
        if count >= open { Ok(()) } else { Err(format!("{count} are open: {}", process.printed())) }
    });
    process
}

fn calls(tap: &Process) -> Vec<Value> {
    tap.printed()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The call that fits; and that it was told within the deadline after `ended`.
#[track_caller]
fn told(tap: &Process, ended: Instant, key: &str, value: &str) -> Value {
    let found = wait_for(&format!("a call with {key} {value} is told"), SEEN_DEADLINE, || {
        let calls = calls(tap);
        calls.iter().find(|call| call[key] == value).cloned().ok_or_else(|| format!("{calls:?}"))
    });
    assert!(ended.elapsed() < TAP_DEADLINE, "told only after {:?}", ended.elapsed());
    found
}

#[test]
fn a_tap_shows_requests_and_connections_as_they_end_and_its_filters_hold() {
    let Some(fleet) = Fleet::raise(&["a", "b"]) else { return };
    let (a, b) = (&fleet["a"], &fleet["b"]);
    b.service("web", WEB);
    b.service("cache", CACHE);
    let _web = parts::nginx_with(b, "web", "127.0.0.1:8081", "b", BROKEN);
    let _cache = parts::redis(b);
    fleet.mesh(&["a", "b"]);
    sees(a, "web", "passing");
    sees(a, "cache", "passing");
    let all = tap(a, "all", &[], 1.0);
    let failures = tap(a, "failures", &["web", "--errors", "--direction", "out"], 2.0);
    let other = tap(a, "other", &["--path", "/other"], 3.0);
    let inward = tap(b, "inward", &["web", "--caller", "a", "--code", "2xx"], 1.0);

    assert_eq!(ask(a, &["http://web.mesh.internal/well?secret=1"]).status, 200);
    let ended = Instant::now();
    let call = told(&all, ended, "path", "/well");
    let seen = ["direction", "service", "node", "method"].map(|key| call[key].as_str().unwrap_or_default());
    assert_eq!(
        (seen, call["status"].as_u64(), call["bytes_down"].as_u64()),
        (["out", "web", "b", "GET"], Some(200), Some(2))
    );
    let call = told(&inward, ended, "path", "/well");
    assert_eq!((&call["direction"], &call["caller_node"], &call["status"]), (&"in".into(), &"a".into(), &200.into()));

    assert_eq!(ask(a, &["http://web.mesh.internal/broken"]).status, 503);
    let call = told(&failures, Instant::now(), "path", "/broken");
    assert_eq!((&call["status"], &call["error"]), (&503.into(), &"".into()), "it is the service's own word");

    assert_eq!(a.run("redis-cli", ["-h", "cache.mesh.internal", "ping"]).stdout.trim(), "PONG");
    let call = told(&all, Instant::now(), "service", "cache");
    assert_eq!((&call["protocol"], &call["error"], &call["node"]), (&"tcp".into(), &"".into(), &"b".into()));
    assert!(call["bytes_up"].as_u64() > Some(0) && call["bytes_down"].as_u64() > Some(0), "{call}");

    assert_eq!((calls(&failures).len(), calls(&other).len(), calls(&inward).len()), (1, 0, 1));
    assert!(!all.printed().contains("secret"), "{}", all.printed());
    // They end with their readers.
    for mut tap in [all, failures, other] {
        tap.stop(Duration::from_secs(5));
    }
    wait_for("no tap is open", SEEN_DEADLINE, || {
        let count = a.metric("weft_taps", "");
        if count == 0.0 { Ok(()) } else { Err(format!("{count}")) }
    });
}
