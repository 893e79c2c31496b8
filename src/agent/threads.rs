//! The threads beside the control loop and the data plane: one for the DNS shim, one for the API, the checks and
//! enrolment. Each has a runtime of its own, so that none waits for another.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::{AgentError, EVENT_QUEUE, enroll, metrics, system};
use crate::config::{CheckDefinition, Config, Upstreams};
use crate::identity::{Identity, TlsContexts};
use crate::model::{Directory, Health, ServiceId};
use crate::proxy::{EnrollConnection, Listening, TAPS_MAX, Taps, VipAsked};
use crate::{api, dns, health};

/// Commands of the API that wait for the owner.
const API_QUEUE: usize = 64;
/// Requests for the checks that wait, and reports whose answers do.
pub(super) const CHECK_QUEUE: usize = 256;

/// A thread that runs one future to its end.
pub(super) struct Thread {
    handle: JoinHandle<()>,
    alive: Alive,
}

/// Tells whether a thread still runs.
#[derive(Clone)]
pub(super) struct Alive(Weak<()>);

impl Alive {
    pub(super) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Thread {
    pub(super) fn alive(&self) -> Alive {
        self.alive.clone()
    }

    pub(super) fn join(self) {
        if self.handle.join().is_err() {
            tracing::warn!("a thread of the agent had panicked; see above");
        }
    }
}

fn runtime() -> Result<Runtime, AgentError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("a runtime"))
}

fn spawn(name: &str, runtime: Runtime, work: impl Future<Output = ()> + Send + 'static) -> Result<Thread, AgentError> {
    let running = Arc::new(());
    let alive = Alive(Arc::downgrade(&running));
    let run = move || {
        // Dropped when the work ends, also by a panic.
        let _running = running;
        runtime.block_on(work);
    };
    let handle = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(system("a thread"))?;
    Ok(Thread { handle, alive })
}

/// Binds the DNS shim and serves it on a thread of its own.
pub(super) async fn start_dns(
    config: &Config,
    directory: Arc<ArcSwap<Directory>>,
    vip_asked: mpsc::Sender<VipAsked>,
    shutdown: watch::Receiver<bool>,
    sources: &mut metrics::Sources,
) -> Result<Thread, AgentError> {
    let settings = dns::Settings {
        listen: config.dns.listen.clone(),
        domain: config.dns.domain.clone(),
        consul_alias: config.dns.consul_alias,
        upstreams: match &config.dns.upstreams {
            Upstreams::System => dns::Upstreams::System,
            Upstreams::List(servers) => dns::Upstreams::List(servers.clone()),
        },
    };
    // Sockets belong to the runtime that they are made in.
    let (runtime, bound) = bind_in(runtime()?, dns::bind(settings)).await?;
    sources.dns = Some(bound.counters());
    sources.lobbies.push(("dns", bound.lobby()));
    spawn("weft-dns", runtime, bound.run(directory, Some(vip_asked), shutdown))
}

/// Binds on another runtime's drivers. That runtime must not be dropped here, where one runs already.
async fn bind_in<T, E: Into<AgentError>>(
    runtime: Runtime,
    bind: impl Future<Output = Result<T, E>>,
) -> Result<(Runtime, T), AgentError> {
    let handle = runtime.handle().clone();
    match in_runtime(&handle, bind).await {
        Ok(bound) => Ok((runtime, bound)),
        Err(error) => {
            runtime.shutdown_background();
            Err(error.into())
        }
    }
}

/// Runs a future on another runtime's drivers, but on this thread.
async fn in_runtime<T>(handle: &tokio::runtime::Handle, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        let _entered = handle.enter();
        future.as_mut().poll(cx)
    })
    .await
}

/// What the owner asks of the checks' runner. In order: a report for a check comes after the change that made the check.
#[derive(Debug)]
pub(super) enum CheckRequest {
    /// Run these and no others.
    Replace(Vec<(Option<ServiceId>, CheckDefinition)>),
    /// A report for a TTL check.
    Update { check: String, health: Health, output: String, reply: api::Reply },
}

/// How a report was taken; the owner answers when it shows.
pub(super) type Updated = (api::Reply, Result<(), api::Refused>);

/// Carries out the owner's requests until the owner is gone.
async fn run_checks(
    mut runner: health::Runner,
    mut requests: mpsc::Receiver<CheckRequest>,
    updated: mpsc::Sender<Updated>,
) {
    while let Some(request) = requests.recv().await {
        match request {
            CheckRequest::Replace(checks) => runner.replace(checks),
            CheckRequest::Update { check, health, output, reply } => {
                let result = runner.update(&check, health, output).map_err(|error| match error {
                    health::UpdateError::Unknown(_) => api::Refused::NotFound(error.to_string()),
                    health::UpdateError::NotTtl(_) => api::Refused::Invalid(error.to_string()),
                });
                if updated.send((reply, result)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What the services thread is made of.
pub(super) struct Services<'a> {
    pub config: &'a Config,
    pub directory: Arc<ArcSwap<Directory>>,
    pub changes: watch::Receiver<u64>,
    pub own: Arc<ArcSwap<api::Local>>,
    pub traffic: api::TrafficSource,
    pub taps: Arc<Taps>,
    pub versions: api::VersionsSource,
    pub who_asks: api::WhoAsks,
    /// How service addresses are captured, in a word.
    pub capture: &'static str,
    pub identity: Arc<Identity>,
    pub tls: TlsContexts,
    pub enrolling: mpsc::Receiver<EnrollConnection>,
    pub checks: mpsc::Receiver<CheckRequest>,
    pub shutdown: watch::Receiver<bool>,
}

/// What comes out of it.
pub(super) struct ServiceEvents {
    pub health: mpsc::Receiver<health::Event>,
    pub updated: mpsc::Receiver<Updated>,
    pub api: mpsc::Receiver<api::Command>,
}

/// The running services thread.
pub(super) struct RunningServices {
    thread: Thread,
}

impl RunningServices {
    pub(super) fn alive(&self) -> Alive {
        self.thread.alive()
    }

    pub(super) fn join(self) {
        self.thread.join();
    }
}

impl Services<'_> {
    /// Binds the API and starts the thread.
    pub(super) async fn start(
        self,
        mut sources: metrics::Sources,
    ) -> Result<(RunningServices, ServiceEvents), AgentError> {
        let Services {
            config,
            directory,
            changes,
            own,
            traffic,
            taps,
            versions,
            who_asks,
            capture,
            identity,
            tls,
            enrolling,
            checks,
            shutdown,
        } = self;
        let settings = api::Settings {
            listen: config.api.listen,
            socket: config.api.socket.clone(),
            cluster: identity.cluster.clone(),
            node: identity.name.clone(),
            domain: config.dns.domain.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tls: config.api.tls.as_ref().map(|tls| api::TlsFiles { cert: tls.cert.clone(), key: tls.key.clone() }),
            writes_over_tcp: config.api.writes_open,
            data_dir: Some(config.data_dir.clone()),
            capture: Some(capture.to_owned()),
            roots: identity.roots().map(<[u8]>::to_vec).collect(),
            limits: api::Limits::default(),
        };
        let (runtime, bound) = bind_in(runtime()?, api::bind(settings)).await?;
        sources.api = Some(bound.counters());
        let [tcp, socket] = bound.lobbies();
        sources.lobbies.extend([("api", tcp), ("api-socket", socket)]);
        let (health_sender, health_events) = mpsc::channel(EVENT_QUEUE);
        let (api_sender, api_commands) = mpsc::channel(API_QUEUE);
        let (updated_sender, updated) = mpsc::channel(CHECK_QUEUE);
        let node = identity.node.as_bytes();
        let seed = u64::from_be_bytes([node[0], node[1], node[2], node[3], node[4], node[5], node[6], node[7]]);
        let runner = health::Runner::new(health::Settings { seed, ..health::Settings::default() }, health_sender)
            .with_directory(directory.clone(), changes.clone());
        sources.checks = Some(runner.counters());
        let verdicts = runner.verdicts();
        let output: api::CheckOutput = Arc::new(move |check| verdicts.get(check).map(|latest| latest.output));
        let bound = bound.with_check_output(output).with_local(own).with_traffic(traffic).with_versions(versions);
        let tap = move |filter| match taps.listen(filter) {
            Some(Listening { lines, lost }) => Ok(api::Tapped { lines, lost }),
            None => Err(TAPS_MAX),
        };
        let bound = bound.with_who_asks(who_asks).with_taps(Arc::new(tap));
        let render: api::Metrics = Arc::new(move |text| sources.render(text));
        let data_dir = config.data_dir.clone();
        let work = async move {
            let enrolments = tokio::spawn(enroll::serve(enrolling, tls, data_dir));
            let running = tokio::spawn(run_checks(runner, checks, updated_sender));
            bound.run(directory, changes, render, api_sender, shutdown).await;
            enrolments.abort();
            running.abort();
        };
        let thread = spawn("weft-services", runtime, work)?;
        Ok((RunningServices { thread }, ServiceEvents { health: health_events, updated, api: api_commands }))
    }
}
