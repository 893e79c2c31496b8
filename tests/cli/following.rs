//! `weft watch` and `weft top` over time: changes, commands, agents that go and come back, signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::canned;
use crate::fake::{Agent, Canned};
use crate::verbs::weft;

/// Far beyond what anything here takes, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("the process is there");
}

/// Waits for the end; the exit code.
fn ended(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("a child");
    panic!("it did not end within {PATIENCE:?}");
}

fn state(index: u64, nodes: &[(&str, &str)]) -> Canned {
    Canned::ok(&canned::health(nodes)).with(&format!("X-Consul-Index: {index}"))
}

fn query(index: u64) -> String {
    match index {
        0 => "GET /v1/health/service/billing?stale".to_owned(),
        _ => format!("GET /v1/health/service/billing?stale&index={index}&wait=300s"),
    }
}

/// Three changes, and between them an answer in which only the index is another.
fn changing() -> Agent {
    let (first, second, third) = (query(0), query(7), query(9));
    Agent::start(&[
        (&first, vec![state(7, &[("web-01", "passing")])]),
        (&second, vec![state(9, &[("web-01", "passing")])]),
        (&third, vec![state(9, &[("web-01", "critical")])]),
    ])
}

#[test]
fn a_line_is_printed_at_each_change_and_none_without_and_sigterm_ends_it_with_zero() {
    let agent = changing();
    let mut child = weft(&agent, &["watch", "billing"]).stdout(Stdio::piped()).spawn().expect("weft");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let healths: Vec<(u64, String)> = (0..2)
        .map(|_| {
            let line = lines.next().expect("a line").expect("UTF-8");
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(value["version"], 1);
            (value["index"].as_u64().expect("an index"), value["instances"][0]["health"].to_string())
        })
        .collect();
    assert_eq!(healths, [(7, "\"passing\"".to_owned()), (9, "\"critical\"".to_owned())]);
    signal(&child, Signal::TERM);
    assert_eq!(ended(&mut child), Some(0));
    assert!(lines.next().is_none(), "nothing is printed after the last change");
}

#[test]
fn a_command_gets_the_state_on_its_input_and_a_failure_of_it_is_told_and_survived() {
    let agent = changing();
    let folder = tempfile::tempdir().expect("a folder");
    let script = "cat >> \"$1\"; echo \"$WEFT_SERVICE $WEFT_INDEX\" >> \"$1\"; exit 3";
    let file = folder.path().join("told");
    let words = ["watch", "billing", "--", "/bin/sh", "-c", script, "sh", file.to_str().expect("UTF-8")];
    let mut child = weft(&agent, &words).stderr(Stdio::piped()).spawn().expect("weft");
    let mut errors = BufReader::new(child.stderr.take().expect("its errors")).lines();
    for index in [7, 9] {
        let line = errors.next().expect("a line").expect("UTF-8");
        assert_eq!(line, format!("weft watch: /bin/sh ended with exit status: 3, at index {index}"));
    }
    signal(&child, Signal::INT);
    assert_eq!(ended(&mut child), Some(0));
    let told = std::fs::read_to_string(file).expect("what the command wrote");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert!(lines[0].starts_with("{\"version\":1,\"service\":\"billing\""), "{told}");
    assert_eq!((lines[1], lines[3]), ("billing 7", "billing 9"));
}

#[test]
fn a_run_that_is_under_way_is_ended_with_the_verb() {
    let agent = changing();
    let words = [
        "watch",
        "billing",
        "--",
        "/bin/sh",
        "-c",
        "trap 'echo stopped; exit' TERM; echo begun; while :; do sleep 0.05; done",
    ];
    let mut child = weft(&agent, &words).stdout(Stdio::piped()).spawn().expect("weft");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "begun");
    signal(&child, Signal::TERM);
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "stopped");
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn an_agent_that_fails_is_waited_for_and_both_are_said() {
    let (first, second) = (query(0), query(7));
    let broken = Canned::refused("500 Internal Server Error", "starting");
    let agent = Agent::start(&[
        (&first, vec![state(7, &[("web-01", "passing")]), state(8, &[("web-01", "warning")])]),
        (&second, vec![broken]),
    ]);
    let mut child =
        weft(&agent, &["watch", "billing"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("weft");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut errors = BufReader::new(child.stderr.take().expect("its errors")).lines();
    assert!(lines.next().expect("a line").expect("UTF-8").contains("\"index\":7"));
    let told = errors.next().expect("a line").expect("UTF-8");
    assert_eq!(told, "weft watch: starting; trying again in 500ms");
    assert_eq!(errors.next().expect("a line").expect("UTF-8"), "weft watch: the agent answers again");
    assert!(lines.next().expect("a line").expect("UTF-8").contains("\"index\":8"));
    signal(&child, Signal::TERM);
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn a_reader_that_goes_ends_the_watch() {
    let agent = changing();
    let mut child = weft(&agent, &["watch", "billing"]).stdout(Stdio::piped()).spawn().expect("weft");
    let mut first = [0; 1];
    child.stdout.take().expect("its output").read_exact(&mut first).expect("a byte");
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn top_prints_table_after_table_where_there_is_no_terminal_and_ends_at_sigint() {
    let samples = (1..100).map(|number| Canned::ok(&canned::traffic(number))).collect();
    let agent =
        Agent::start(&[("GET /v1/weft/status", vec![Canned::ok(canned::STATUS)]), ("GET /v1/weft/traffic", samples)]);
    let words = ["top", "--interval", "100ms"];
    let mut child = weft(&agent, &words).stdout(Stdio::piped()).spawn().expect("weft");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let title = "web-01: calls of the last 1.0 s";
    let titles = lines.by_ref().map(|line| line.expect("UTF-8")).filter(|line| line == title).take(3).count();
    assert_eq!(titles, 3);
    signal(&child, Signal::INT);
    assert_eq!(ended(&mut child), Some(0));
    assert!(lines.all(|line| !line.expect("UTF-8").contains('\u{1b}')), "no codes without a terminal");
}
