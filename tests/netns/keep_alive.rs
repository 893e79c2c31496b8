//! A steady stream of requests over connections that are kept: at a fixed rate whatever the answers (open loop), each
//! on the next connection that is free.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::helper;
use crate::load::Call;
use crate::process::{Process, clock_us};

/// Connections, and so requests under way at most.
const CONNECTIONS: usize = 64;
/// A caller's patience, longer than the agent's own deadlines.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the generator looks what the machine can do.
const TRIAL: Duration = Duration::from_secs(2);
/// What of that it then asks for: the rest is for the agents' other work while hosts come and go.
const SHARE: f64 = 0.4;
/// Less than this shows nothing, whatever the machine can do.
const RATE_MIN: f64 = 500.0;
/// After this many requests a connection is closed by its caller, as programs do too.
const REQUESTS_PER_CONNECTION: usize = 500;

/// A running stream of requests.
pub(crate) struct KeptLoad {
    process: Process,
    results: PathBuf,
}

impl KeptLoad {
    /// `GET http://{service}.mesh.internal/` from `host`; the answers' first word names the serving host. Never more than
    /// `rate_per_second`, and less where the machine cannot do it.
    #[track_caller]
    pub(crate) fn start(fleet: &Fleet, host: &str, service: &str, rate_per_second: u32) -> KeptLoad {
        let results = fleet.folder().join(format!("kept-{host}-{}.jsonl", clock_us()));
        let target = format!("{service}.mesh.internal");
        let arguments = json!({ "target": target, "rate_per_second": rate_per_second, "results": results });
        let mut command = helper::command(&fleet[host], "keep_alive", &arguments);
        let log = fleet.folder().join(format!("kept-{host}.log"));
        let load = KeptLoad { process: Process::start("the kept load", &mut command, &log), results };
        crate::process::wait_for("the load's rate is known", TRIAL * 10, || {
            load.rate().ok_or_else(|| load.process.printed())
        });
        load
    }

    /// The rate that it keeps, once it is known.
    pub(crate) fn rate(&self) -> Option<u32> {
        let printed = self.process.printed();
        let line = printed.lines().find_map(|line| line.split_once("requests per second: "))?;
        line.1.trim().parse().ok()
    }

    /// Lets the requests under way end; returns all.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Vec<Call> {
        self.process.finish(PATIENCE * 2);
        let text = fs::read_to_string(&self.results).expect("the load's results");
        text.lines().map(|line| serde_json::from_str(line).expect("a call")).collect()
    }
}

/// The job `keep_alive`. It ends when its standard input does.
pub(crate) fn client(arguments: &Value) {
    let target = arguments["target"].as_str().expect("target").to_owned();
    let most = u32::try_from(arguments["rate_per_second"].as_u64().expect("rate_per_second")).expect("a rate");
    let results = File::create(arguments["results"].as_str().expect("results")).expect("the results file");
    let results = Arc::new(Mutex::new(BufWriter::new(results)));

    // As fast as the answers come, for a moment.
    let tried = calls(&target, None, &Arc::default(), &|_| {});
    let possible = f64::from(tried) / TRIAL.as_secs_f64();
    let rate = f64::from(most).min((possible * SHARE).max(RATE_MIN));
    println!("possible: {possible:.0}; requests per second: {rate:.0}");

    let stopping = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopping);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    let keep = |call: Call| {
        let line = serde_json::to_string(&call).expect("a call in JSON") + "\n";
        results.lock().expect("results").write_all(line.as_bytes()).expect("the results file");
    };
    calls(&target, Some(rate), &stopping, &keep);
    results.lock().expect("results").flush().expect("the results file");
}

/// Calls until it is told to stop, or for `TRIAL` if there is no rate to keep; returns how many.
fn calls(target: &str, rate: Option<f64>, stopping: &AtomicBool, keep: &(dyn Fn(Call) + Sync)) -> u32 {
    let (start, next) = (Instant::now(), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let (mut connection, mut made) = (None, 0);
                while !stopping.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match rate {
                        Some(rate) => {
                            let due = start + Duration::from_secs_f64(f64::from(number) / rate);
                            std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        }
                        None if start.elapsed() > TRIAL => return,
                        None => {}
                    }
                    if made % REQUESTS_PER_CONNECTION == 0 {
                        connection = None;
                    }
                    made += 1;
                    let start_us = clock_us();
                    let outcome = call(target, &mut connection).map_err(|error| error.to_string());
                    if outcome.is_err() {
                        connection = None;
                    }
                    keep(Call { start_us, end_us: clock_us(), outcome });
                }
            });
        }
    });
    next.into_inner()
}

/// One request; the connection is kept unless the answer says otherwise.
fn call(target: &str, kept: &mut Option<BufReader<TcpStream>>) -> std::io::Result<String> {
    let other = |what: String| std::io::Error::other(what);
    if kept.is_none() {
        let address = (target, 80).to_socket_addrs()?.next().ok_or_else(|| other("no address".to_owned()))?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        *kept = Some(BufReader::new(stream));
    }
    let Some(connection) = kept else { return Err(other("no connection".to_owned())) };
    connection.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())?;
    let (mut head, mut length, mut close) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(other(format!("the connection ended after {head:?}")));
        }
        if line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| other(format!("{line:?}")))?;
        }
        close |= lower.starts_with("connection:") && lower.contains("close");
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    if close {
        *kept = None;
    }
    let body = String::from_utf8_lossy(&body);
    let word = body.split_whitespace().next().filter(|_| head.starts_with("HTTP/1.1 200 "));
    word.map(str::to_owned).ok_or_else(|| other(format!("{head}{body}")))
}
