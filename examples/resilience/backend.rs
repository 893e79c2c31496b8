//! The services behind the mesh: small HTTP servers, several in one process, whose speed, failures and number of workers are
//! switched by a request to a port of control.
//!
//! The process (`resilience backend`) ends when its standard input does. A server with workers is what most applications
//! are: so many requests at once, the others wait, and a request that nobody waits for any more is worked off all the same.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use crate::ask::{ask, put};
use crate::process::{Process, wait_for};

/// Says which server answered.
pub(crate) const NAME_HEADER: &str = "x-backend";
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a hanging server says nothing: longer than any run.
const HANG: Duration = Duration::from_secs(3600);
/// Connections that wait to be accepted; a burst of new ones is no failure of the server.
const BACKLOG: i32 = 4096;

/// What a server does with a request when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Status(u16),
    Hang,
    Reset,
}

/// How a server behaves.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Behaviour {
    pub(crate) answer: Answer,
    /// Latencies are log-normal: half of them are shorter.
    pub(crate) median_ms: f64,
    /// The standard deviation of their logarithm; 0: all are alike.
    pub(crate) sigma: f64,
}

impl Behaviour {
    pub(crate) fn well(median_ms: f64, sigma: f64) -> Behaviour {
        Behaviour { answer: Answer::Status(200), median_ms, sigma }
    }
}

/// What the port of control is told.
#[derive(Debug, Serialize, Deserialize)]
struct Switch {
    /// Which of the servers; none: all.
    server: Option<usize>,
    behaviour: Behaviour,
}

/// What it tells.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Requests that arrived, whatever became of them.
    pub(crate) attempts: u64,
    /// Those that were answered to the end of the work.
    pub(crate) answered: u64,
}

/// The arguments of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the servers are called: this, and their number.
    #[arg(long)]
    name: String,
    /// Where they listen, on 127.0.0.1; may be given several times.
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
    /// The port of control.
    #[arg(long)]
    control: u16,
    #[arg(long, default_value_t = 1.0)]
    median_ms: f64,
    #[arg(long, default_value_t = 0.0)]
    sigma: f64,
    /// How many requests each works on at once; without it any number.
    #[arg(long)]
    workers: Option<usize>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

struct Server {
    name: String,
    behaviour: Cell<Behaviour>,
    workers: Option<Semaphore>,
    counts: RefCell<Counts>,
    rng: RefCell<ChaCha8Rng>,
}

/// The connection ends without an answer.
#[derive(Debug)]
struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer is meant to be given")
    }
}

impl std::error::Error for NoAnswer {}

/// The process.
pub(crate) fn serve(arguments: &Arguments) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, listen(arguments));
}

async fn listen(arguments: &Arguments) {
    let mut servers = Vec::new();
    for (port, number) in arguments.ports.iter().zip(1_u64..) {
        let server = Rc::new(Server {
            name: format!("{}-{number}", arguments.name),
            behaviour: Cell::new(Behaviour::well(arguments.median_ms, arguments.sigma)),
            workers: arguments.workers.map(Semaphore::new),
            counts: RefCell::default(),
            rng: RefCell::new(ChaCha8Rng::seed_from_u64(arguments.seed * 1_000 + number)),
        });
        servers.push(server.clone());
        let listener = bind(*port);
        spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                spawn_local(server.clone().connection(stream));
            }
        });
    }
    let servers = Rc::new(servers);
    let control = bind(arguments.control);
    loop {
        let Ok((stream, _)) = control.accept().await else { continue };
        let servers = servers.clone();
        let service = service_fn(move |request| answer_control(servers.clone(), request));
        spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn bind(port: u16) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option of the socket");
    socket.set_nonblocking(true).expect("an option of the socket");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("port {port}: {error}"));
    socket.listen(BACKLOG).expect("a listening socket");
    TcpListener::from_std(socket.into()).expect("a listener")
}

async fn answer_control(
    servers: Rc<Vec<Rc<Server>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::PUT {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let switch: Switch = serde_json::from_slice(&body).expect("a switch in JSON");
        let told = |index: &usize| switch.server.is_none_or(|server| server == *index);
        (0..servers.len()).filter(told).for_each(|index| servers[index].behaviour.set(switch.behaviour));
    }
    let counts: BTreeMap<&str, Counts> =
        servers.iter().map(|server| (server.name.as_str(), server.counts.borrow().clone())).collect();
    Ok(Response::new(Full::from(serde_json::to_string(&counts).expect("counts in JSON"))))
}

impl Server {
    async fn connection(self: Rc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { return };
        let Ok(twin) = stream.try_clone() else { return };
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let service = service_fn(move |_: Request<Incoming>| self.clone().request());
        if http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.is_err() {
            // What ended without an answer ends by RST, which a close with linger 0 sends.
            let _ = SockRef::from(&twin).set_linger(Some(Duration::ZERO));
        }
    }

    async fn request(self: Rc<Self>) -> Result<Response<Full<Bytes>>, NoAnswer> {
        self.counts.borrow_mut().attempts += 1;
        let server = self.clone();
        // A task of its own: the work goes on when the caller is gone.
        let status = spawn_local(async move { server.work().await }).await.ok().flatten().ok_or(NoAnswer)?;
        let response = Response::builder().status(status).header(NAME_HEADER, &self.name);
        response.body(Full::from("done\n")).map_err(|_| NoAnswer)
    }

    async fn work(&self) -> Option<StatusCode> {
        let _worker = match &self.workers {
            Some(workers) => Some(workers.acquire().await.ok()?),
            None => None,
        };
        let behaviour = self.behaviour.get();
        sleep(self.latency(behaviour)).await;
        let status = match behaviour.answer {
            Answer::Status(status) => StatusCode::from_u16(status).ok()?,
            Answer::Reset => return None,
            Answer::Hang => {
                sleep(HANG).await;
                return None;
            }
        };
        self.counts.borrow_mut().answered += 1;
        Some(status)
    }

    fn latency(&self, behaviour: Behaviour) -> Duration {
        let rng = &mut *self.rng.borrow_mut();
        // Box and Muller: a normal number of two even ones.
        let (a, b): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        Duration::from_secs_f64(behaviour.median_ms / 1000.0 * (behaviour.sigma * normal).exp())
    }
}

/// Servers to start.
#[derive(Debug, Clone)]
pub(crate) struct Farm {
    pub(crate) name: String,
    pub(crate) servers: u16,
    /// The port of control; the servers have those after it.
    pub(crate) port: u16,
    pub(crate) median_ms: f64,
    pub(crate) sigma: f64,
    pub(crate) workers: Option<usize>,
}

impl Farm {
    pub(crate) fn ports(&self) -> Vec<u16> {
        (1..=self.servers).map(|number| self.port + number).collect()
    }

    /// Starts them; returns when they listen.
    pub(crate) fn start(&self, folder: &Path) -> Running {
        let this = std::env::current_exe().expect("the program's own path");
        let mut command = Command::new(this);
        command.args(["backend", "--name", &self.name, "--control", &self.port.to_string()]);
        command.args(["--median-ms", &self.median_ms.to_string(), "--sigma", &self.sigma.to_string()]);
        self.ports().iter().for_each(|port| {
            command.args(["--port", &port.to_string()]);
        });
        if let Some(workers) = self.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        command.args(["--seed", &self.port.to_string()]);
        let name = format!("backends {}", self.name);
        let process = Process::start(&name, &mut command, &folder.join(format!("{}.log", self.name)));
        let running = Running { control: SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), process };
        wait_for(&format!("{name} listen"), LISTEN_DEADLINE, || ask(running.control, "/"));
        running
    }
}

/// Servers that run until this is dropped.
pub(crate) struct Running {
    control: SocketAddr,
    process: Process,
}

impl Running {
    /// Switches one of them, or all.
    pub(crate) fn switch(&self, server: Option<usize>, behaviour: Behaviour) {
        let body = serde_json::to_string(&Switch { server, behaviour }).expect("a switch in JSON");
        put(self.control, "/", &body).expect("the backends' port of control");
    }

    /// Counts by server.
    pub(crate) fn counts(&self) -> BTreeMap<String, Counts> {
        let text = ask(self.control, "/").expect("the backends' port of control");
        serde_json::from_str(&text).expect("counts in JSON")
    }

    /// Requests that arrived at all of them.
    pub(crate) fn attempts(&self) -> u64 {
        self.counts().values().map(|counts| counts.attempts).sum()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }
}
