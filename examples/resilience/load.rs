//! The load: HTTP/1.1 calls at a fixed rate, whatever becomes of them (open loop). Each call has the moment at which it is due,
//! and its latency counts from there, so that neither a slow answer nor a late generator hides a wait (what is known as
//! coordinated omission). What is not answered within the caller's patience has failed, and its connection is closed; patience
//! begins when the call is sent, so that a generator that is late does not make calls fail that nobody has seen.
//!
//! Connections are kept alive and used again, the last one first; where none is free a new one is made. Calls go in, counts
//! by slices of time come out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle as Task, LocalSet, spawn_local};
use tokio::time::{sleep, sleep_until, timeout};

use crate::backend::NAME_HEADER;
use crate::histogram::Histogram;

/// From the order to begin to the first call: time for every generator to be there.
const LEAD: Duration = Duration::from_millis(300);
/// Between two looks whether the last calls have ended.
const PAUSE: Duration = Duration::from_millis(20);
/// What Weft says of an answer that is its own.
const WEFT_ERROR: &str = "weft-error";

/// Calls to make.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Who carries them; what a table's row is called.
    pub(crate) peer: String,
    pub(crate) address: SocketAddr,
    /// The header `host`.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) rate_per_second: u32,
    pub(crate) seconds: u32,
    /// The caller's patience.
    pub(crate) timeout: Duration,
    /// How finely it is told what became of them when.
    pub(crate) slices_per_second: u32,
}

/// What became of the calls that were due in one slice of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slice {
    pub(crate) offered: u64,
    pub(crate) ok: u64,
    /// Latencies of those that were answered well.
    pub(crate) latency: Histogram,
    /// Latencies of answers that were failures.
    pub(crate) refused: Histogram,
    /// How many failed, by what went wrong.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Who answered, by the name that backends give.
    pub(crate) served: BTreeMap<String, u64>,
}

/// What became of all.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) peer: String,
    pub(crate) slices: Vec<Slice>,
    pub(crate) slices_per_second: u32,
    /// How late the generator itself sent.
    pub(crate) late: Histogram,
}

impl Report {
    /// All slices taken together.
    pub(crate) fn sum(&self) -> Slice {
        self.sum_of(0.0, f64::INFINITY)
    }

    /// Those that begin in this time, in seconds.
    pub(crate) fn sum_of(&self, from: f64, to: f64) -> Slice {
        let mut sum = Slice::default();
        for (_, slice) in self.within(from, to) {
            sum.offered += slice.offered;
            sum.ok += slice.ok;
            sum.latency.merge(&slice.latency);
            sum.refused.merge(&slice.refused);
            slice.failures.iter().for_each(|(what, count)| *sum.failures.entry(what.clone()).or_default() += count);
            slice.served.iter().for_each(|(who, count)| *sum.served.entry(who.clone()).or_default() += count);
        }
        sum
    }

    /// Slices that begin in this time, each with its beginning in seconds.
    pub(crate) fn within(&self, from: f64, to: f64) -> impl Iterator<Item = (f64, &Slice)> {
        let per_second = f64::from(self.slices_per_second);
        let timed = self.slices.iter().enumerate().map(move |(index, slice)| (index as f64 / per_second, slice));
        timed.filter(move |(at, _)| *at >= from && *at < to)
    }

    /// A point for each slice, at its middle.
    pub(crate) fn curve(&self, value: impl Fn(&Slice) -> Option<f64>) -> Vec<(f64, f64)> {
        let middle = 0.5 / f64::from(self.slices_per_second);
        let point = |(at, slice): (f64, &Slice)| value(slice).map(|value| (at + middle, value));
        self.within(0.0, f64::INFINITY).filter_map(point).collect()
    }
}

impl Slice {
    pub(crate) fn failed(&self) -> u64 {
        self.offered - self.ok
    }

    pub(crate) fn success_percent(&self) -> f64 {
        if self.offered == 0 { 0.0 } else { self.ok as f64 * 100.0 / self.offered as f64 }
    }

    /// `503: 12, timeout: 3`, the most frequent first.
    pub(crate) fn told(&self) -> String {
        let mut failures: Vec<_> = self.failures.iter().collect();
        failures.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        failures.iter().map(|(what, count)| format!("{what}: {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// Generators that run, each on a thread of its own.
pub(crate) struct Load {
    begun: Instant,
    threads: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts all plans at the same moment, which has come when this returns.
    pub(crate) fn start(plans: Vec<Plan>) -> Load {
        let begun = Instant::now() + LEAD;
        let start = |plan: Plan| std::thread::spawn(move || run(plan, begun));
        let load = Load { begun, threads: plans.into_iter().map(start).collect() };
        load.wait_until(0.0);
        load
    }

    /// Sleeps until this second of the run.
    pub(crate) fn wait_until(&self, second: f64) {
        let until = self.begun + Duration::from_secs_f64(second);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    /// Seconds since the first call.
    pub(crate) fn elapsed(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Waits for the last call; reports in the order of the plans.
    pub(crate) fn finish(self) -> Vec<Report> {
        self.threads.into_iter().map(|thread| thread.join().expect("a load generator")).collect()
    }
}

fn run(plan: Plan, begun: Instant) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, drive(plan, begun.into()))
}

async fn drive(plan: Plan, begun: tokio::time::Instant) -> Report {
    let total = u64::from(plan.rate_per_second) * u64::from(plan.seconds);
    let at = |number: u64| begun + Duration::from_secs_f64(number as f64 / f64::from(plan.rate_per_second));
    let peer = plan.peer.clone();
    let slices = vec![Slice::default(); (plan.seconds * plan.slices_per_second) as usize];
    let client = Rc::new(Client { plan: plan.clone(), idle: RefCell::default(), slices: RefCell::new(slices) });
    let mut late = Histogram::default();
    for number in 0..total {
        let due = at(number);
        if due > tokio::time::Instant::now() {
            sleep_until(due).await;
        }
        late.add(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        let slice = number * u64::from(plan.slices_per_second) / u64::from(plan.rate_per_second);
        spawn_local(client.clone().call(due, slice));
    }
    // Each call ends by itself within its patience.
    while Rc::strong_count(&client) > 1 {
        sleep(PAUSE).await;
    }
    let slices = client.slices.take();
    Report { peer, slices, slices_per_second: plan.slices_per_second, late }
}

/// A connection; it is closed when this is let go.
struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    task: Task<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Client {
    plan: Plan,
    idle: RefCell<Vec<Connection>>,
    slices: RefCell<Vec<Slice>>,
}

struct Answer {
    status: StatusCode,
    served_by: Option<String>,
    weft_error: Option<String>,
}

fn text(response: &hyper::Response<hyper::body::Incoming>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

impl Client {
    async fn call(self: Rc<Self>, due: tokio::time::Instant, slice: u64) {
        let exchanged = timeout(self.plan.timeout, self.exchange()).await;
        let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut slices = self.slices.borrow_mut();
        let Some(slice) = usize::try_from(slice).ok().and_then(|slice| slices.get_mut(slice)) else { return };
        slice.offered += 1;
        let failure = match exchanged {
            Err(_) => "timeout".to_owned(),
            Ok(Err(what)) => what.to_owned(),
            Ok(Ok(answer)) => {
                if let Some(who) = answer.served_by {
                    *slice.served.entry(who).or_default() += 1;
                }
                if answer.status.is_success() {
                    slice.ok += 1;
                    slice.latency.add(us);
                    return;
                }
                slice.refused.add(us);
                let status = answer.status.as_u16();
                answer.weft_error.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
            }
        };
        *slice.failures.entry(failure).or_default() += 1;
    }

    async fn exchange(&self) -> Result<Answer, &'static str> {
        let request = Request::get(&self.plan.path).header("host", &self.plan.host).body(Empty::new());
        let mut request = request.map_err(|_| "a request that cannot be made")?;
        loop {
            let kept = self.idle.borrow_mut().pop().filter(|connection| !connection.sender.is_closed());
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    let answer = Answer {
                        status: response.status(),
                        served_by: text(&response, NAME_HEADER),
                        weft_error: text(&response, WEFT_ERROR),
                    };
                    response.into_body().collect().await.map_err(|_| "cut short")?;
                    if connection.sender.ready().await.is_ok() {
                        self.idle.borrow_mut().push(connection);
                    }
                    return Ok(answer);
                }
                // An idle connection that was being closed has taken nothing of the request.
                Err(mut error) => match error.take_message() {
                    Some(back) if !is_new => request = back,
                    _ => return Err("reset"),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Connection, &'static str> {
        let tcp = TcpStream::connect(self.plan.address).await.map_err(|_| "connect")?;
        tcp.set_nodelay(true).map_err(|_| "connect")?;
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(|_| "connect")?;
        let task = spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Connection { sender, task })
    }
}
