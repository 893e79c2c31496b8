//! A steady stream of calls: one new TCP connection each, by name, at a fixed rate whatever the answers (open loop).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::helper;
use crate::process::{Process, clock_us};

/// A caller's patience for a connect, and again for each part of the answer. Longer than the agent's own deadlines, so
/// that what fails was failed by the agent.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// One call, as the caller saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) start_us: u64,
    pub(crate) end_us: u64,
    /// The host that the answer names, or what went wrong.
    pub(crate) outcome: Result<String, String>,
}

impl Call {
    pub(crate) fn served_by(&self, host: &str) -> bool {
        self.outcome.as_deref() == Ok(host)
    }
}

/// A running stream of calls.
pub(crate) struct Load {
    process: Process,
    results: PathBuf,
}

impl Load {
    /// Calls `http://{service}.mesh.internal/` from `host`, whose answers' first word names the serving host.
    #[track_caller]
    pub(crate) fn start(fleet: &Fleet, host: &str, service: &str, rate_per_second: u32) -> Load {
        let results = fleet.folder().join(format!("load-{host}-{}.jsonl", clock_us()));
        let target = format!("{service}.mesh.internal");
        let arguments = json!({ "target": target, "rate_per_second": rate_per_second, "results": results });
        let mut command = helper::command(&fleet[host], "load", &arguments);
        let log = fleet.folder().join(format!("load-{host}.log"));
        Load { process: Process::start("the load", &mut command, &log), results }
    }

    /// Every call that has ended.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let text = fs::read_to_string(&self.results).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Lets the calls under way end; returns all.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Vec<Call> {
        self.process.finish(CALL_DEADLINE * 4);
        self.calls()
    }
}

/// How many calls each host served, and how many failed.
pub(crate) fn tally(calls: &[Call]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for call in calls {
        *tally.entry(call.outcome.as_deref().unwrap_or("failed")).or_default() += 1;
    }
    tally
}

/// The client process. It ends when its standard input does.
pub(crate) fn client(arguments: &Value) {
    let target = arguments["target"].as_str().expect("target").to_owned();
    let rate = u32::try_from(arguments["rate_per_second"].as_u64().expect("rate_per_second")).expect("a rate");
    let results = arguments["results"].as_str().expect("results");
    let results = OpenOptions::new().create(true).append(true).open(results).expect("the results file");
    let results = Arc::new(Mutex::new(results));

    let stopping = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopping);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });

    let interval = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    let mut calls = Vec::new();
    while !stopping.load(Ordering::Relaxed) {
        let (target, results) = (target.clone(), Arc::clone(&results));
        calls.push(std::thread::spawn(move || {
            let start_us = clock_us();
            let outcome = call(&target).map_err(|error| error.to_string());
            let call = Call { start_us, end_us: clock_us(), outcome };
            let line = serde_json::to_string(&call).expect("a call in JSON") + "\n";
            results.lock().expect("results").write_all(line.as_bytes()).expect("the results file");
        }));
        calls.retain(|call| !call.is_finished());
        due += interval;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    for call in calls {
        call.join().expect("a call");
    }
}

fn call(target: &str) -> std::io::Result<String> {
    let address = (target, 80).to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, CALL_DEADLINE)?;
    stream.set_read_timeout(Some(CALL_DEADLINE))?;
    stream.set_write_timeout(Some(CALL_DEADLINE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.strip_prefix("HTTP/1.1 200 ").and_then(|rest| rest.split_once("\r\n\r\n"));
    let word = body.and_then(|(_, body)| body.split_whitespace().next());
    word.map(str::to_owned).ok_or_else(|| std::io::Error::other(format!("an answer cut short: {answer:?}")))
}
