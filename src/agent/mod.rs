//! The composition root: opens what survives, binds what listens, wires drivers to the one owner of the cores, and takes
//! all of it down in order.
//!
//! ```text
//! gossip ─┐                                     ┌─> dns      (thread of its own)
//! health ─┤ events   ┌───────┐  Arc<Directory>  ├─> api      (with health and enrolment)
//! proxy  ─┼────────> │ owner │ ───────────────> └─> proxy    (one thread a core)
//! api    ─┘          └───────┘ ──> gossip commands, store writer
//! ```

mod admit;
mod ahead;
mod control;
mod directory;
mod enroll;
mod kept;
mod keyring;
mod limits;
mod metrics;
mod own;
mod owner;
mod quarantine;
mod renewal;
mod threads;
mod vips;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use self::control::{Control, Inlets};
use self::owner::{Beginning, Files, Outlets, Owner, Tally};
use self::quarantine::Quarantine;
use self::vips::Vips;
use crate::api;
use crate::catalog::{self, Catalog};
use crate::config::{self, Config, default_advertise};
use crate::gossip;
use crate::history::History;
use crate::identity::{Groups, Identity, IdentityError, TlsContexts, Voucher, prove_claim, verify_claim};
use crate::model::{Claim, Directory, MemberState, NodeFacts, NodeId};
use crate::proxy;
use crate::store::{Opened, Store, StoreError};
use crate::swim::{self, Swim};
use crate::wire::protocol::PROTOCOL_MAX;

/// Opening a store of 100,000 records takes well under a second; one that needs longer is broken.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Events that wait for the owner; beyond it drivers drop what will be sent again, and wait with the rest.
const EVENT_QUEUE: usize = 4096;
const COMMAND_QUEUE: usize = 4096;
/// Enrolments waiting to be served.
const ENROLL_QUEUE: usize = 32;
/// The far side has a second for its own connect, and there is the way there and back.
const ACCEPT_MARGIN: Duration = Duration::from_secs(1);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// As long as NGINX waits (`client_header_timeout`), and longer than most clients keep an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data directory cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// This host is not enrolled, or its identity cannot be read.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The configured name is not the enrolled one.
    #[error(
        "this host is enrolled as {enrolled:?} but its configuration says node.name = {configured:?}; set node.name = \
         {enrolled:?}, or enrol again under the new name"
    )]
    Name {
        /// In the certificate.
        enrolled: String,
        /// In the file.
        configured: String,
    },
    /// The configured cluster is not the enrolled one.
    #[error(
        "this host is enrolled in cluster {enrolled:?} but its configuration says cluster.name = {configured:?}; correct \
         the file, or enrol in that cluster"
    )]
    Cluster {
        /// In the certificate.
        enrolled: String,
        /// In the file.
        configured: String,
    },
    /// No address to tell others.
    #[error("there is no default route to take this host's address from; set node.advertise in {}", .0.display())]
    Advertise(PathBuf),
    /// A port.
    #[error("{0}")]
    Gossip(#[from] gossip::GossipError),
    /// A port.
    #[error("{0}")]
    Proxy(#[from] proxy::ProxyError),
    /// A port.
    #[error("{0}")]
    Dns(#[from] crate::dns::DnsError),
    /// A port.
    #[error("{0}")]
    Api(#[from] crate::api::ApiError),
    /// A part of the agent ended by itself.
    #[error("{0} has ended by itself; the log says why, and a restart brings it back")]
    Broken(&'static str),
    /// Others hold records of this host that another life of it wrote.
    #[error(
        "other hosts hold records of this host's start number {epoch} that it has not written: its disk was restored from \
         an older state. That number is raised; the agent ends here so that it starts again with packet keys \
         that were never used (systemd does that by itself)"
    )]
    OwnPast {
        /// The start that others know of.
        epoch: u64,
    },
    /// No thread for the history.
    #[error("the system refuses a thread for the history: {0}")]
    History(std::io::Error),
    /// A record of this host is too large.
    #[error("{0}")]
    Own(String),
    /// The system refuses a thread, a runtime or a signal handler.
    #[error("the system refuses {what}: {error}")]
    System {
        /// What for.
        what: &'static str,
        /// Its words.
        error: std::io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> AgentError {
    move |error| AgentError::System { what, error }
}

/// Runs an agent until it is told to stop. Blocks; `config.data_dir` must be enrolled.
pub fn run(config: Config) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("a runtime"))?;
    runtime.block_on(run_here(config))
}

async fn run_here(config: Config) -> Result<(), AgentError> {
    limits::set();
    let opened = Store::open(&config.data_dir, STORE_DEADLINE)?;
    if let Some(aside) = &opened.moved_aside {
        warn!(kept = %aside.path.display(), reason = aside.reason, "the catalog cache was moved aside; gossip refills it");
    }
    let Opened { store, records, members, .. } = opened;
    let identity = Arc::new(Identity::load(&config.data_dir)?);
    check_names(&config, &identity)?;
    let epoch = store.next_epoch(own::least_epoch(SystemTime::now()))?;
    let tls = identity.tls()?;

    let (keyring, link) = keyring::begin(identity.keyring.clone());
    let keyring_in_force = link.current.clone();
    let gossip = bind_gossip(&config, &identity, epoch, &tls, link).await?;
    let facts = facts(&config, &identity, gossip.local_addr())?;
    let (events, gossip_events) = mpsc::channel(EVENT_QUEUE);
    let (commands, gossip_commands) = mpsc::channel(COMMAND_QUEUE);
    let (stop, shutdown) = watch::channel(false);
    let directory = Arc::new(ArcSwap::from_pointee(Directory::empty(identity.node)));
    let (changes, changed) = watch::channel(0);
    let (tally, tallied) = watch::channel(Tally::default());
    let (checks, check_requests) = mpsc::channel(threads::CHECK_QUEUE);
    let local = Arc::new(ArcSwap::default());
    let callers = Arc::new(ArcSwap::default());
    let groups = Groups::find();
    let stored = kept::read(store.registrations()?, config::service_registration, config::check_registration);
    let rises = store.rises()?;

    let incarnation = store.incarnation()?.saturating_add(1);
    let vips = Vips::new(config.proxy.vip_range, store.load_vips()?);
    let name = identity.name.clone();
    let mut swim = Swim::new(
        swim::Config::default(),
        identity.node,
        name,
        facts.gossip,
        incarnation,
        new_rng(identity.node, epoch, 1),
    );
    let catalog = Catalog::new(catalog::Config::default(), identity.node, new_rng(identity.node, epoch, 2));
    let quarantine = Quarantine::load(&store, env!("CARGO_PKG_VERSION"));
    let store_writer = store.writer().map_err(system("the store's thread"))?;
    store_writer.set_incarnation(incarnation);
    let (record_key, cluster) = (identity.record_key.clone(), identity.cluster.clone());
    swim.sign_with(Arc::new(move |claim| prove_claim(&record_key, &cluster, epoch, claim)));
    // An agent that did not sign has stored members that nobody would believe in.
    swim.restore(Duration::ZERO, members.into_iter().filter(|member| !member.proof.is_empty()).collect());
    let has_seeds = !config.cluster.seeds.is_empty();
    let voucher = Voucher::make(&config.data_dir, &identity.cluster).unwrap_or_else(|error| {
        warn!(%error, "this issuer cannot vouch for policies");
        None
    });
    let beginning = Beginning {
        identity: identity.clone(),
        facts,
        epoch,
        swim,
        catalog,
        vips,
        has_seeds,
        rises,
        quarantine,
        voucher,
        clock: Box::new(SystemTime::now),
    };
    let history = History::start(&config.data_dir).map_err(AgentError::History)?;
    let history_lost = history.lost();
    let outlets = Outlets {
        directory: directory.clone(),
        local: local.clone(),
        callers: callers.clone(),
        changes,
        tally,
        gossip: commands,
        checks,
        store: store_writer,
        history,
    };
    let mut owner = Owner::new(beginning, outlets);
    owner.restore(records);
    owner.introduce(files(&config), stored).map_err(|error| AgentError::Own(error.to_string()))?;
    // Published before anything listens: the first question is answered from the store.
    owner.turn();

    let (gossip_counters, peers, gossip_lobby) = (gossip.counters(), gossip.peers(), gossip.lobby());
    let calls = gossip.keyring_calls();
    let keyring = keyring.start(identity.clone(), config.data_dir.clone(), directory.clone(), calls);
    let gossip_task = tokio::spawn(gossip.run(events, gossip_commands, shutdown.clone()));
    let (proxy_sender, proxy_events) = mpsc::channel(EVENT_QUEUE);
    let (enroll_sender, enrolling) = mpsc::channel(ENROLL_QUEUE);
    let wires = proxy::Wires {
        directory: directory.clone(),
        changes: changed.clone(),
        callers: callers.clone(),
        groups: groups.clone(),
        tls: tls.clone(),
        events: proxy_sender,
        enroll: enroll_sender,
        shutdown: shutdown.clone(),
    };
    let proxy = proxy::start(proxy_settings(&config, &identity), wires)?;
    let (capture, vip_asked) = proxy.capture().await;
    let (traffic, taps) = (proxy.traffic(), proxy.taps());
    let gossip_sources = (gossip_counters, peers.clone());
    let mut sources = metrics::Sources::new(directory.clone(), tallied, gossip_sources, keyring_in_force, &proxy);
    sources.lobbies.push(("gossip", gossip_lobby));
    sources.history_lost = history_lost;
    let dns = threads::start_dns(&config, directory.clone(), vip_asked, shutdown.clone(), &mut sources).await?;
    let (decided, decisions) = (directory.clone(), changed.clone());
    let services = threads::Services {
        config: &config,
        directory,
        changes: changed,
        own: local,
        traffic: Arc::new(move || traffic.snapshot()),
        taps,
        versions: Arc::new(move |node| peers.versions(node)),
        who_asks: api::WhoAsks { callers, groups, cluster: identity.cluster.clone() },
        capture: match capture {
            proxy::Mode::Redirect => "redirect",
            proxy::Mode::Bind => "bind",
        },
        identity: identity.clone(),
        tls: tls.clone(),
        enrolling,
        checks: check_requests,
        shutdown: shutdown.clone(),
    };
    let (services, inlets) = services.start(sources).await?;
    let threads::ServiceEvents { health, updated, api } = inlets;
    let inlets = Inlets { gossip: gossip_events, proxy: proxy_events, health, updated, api };
    let renewal = renewal::Renewal::start(identity, config.data_dir.clone(), tls, decided, decisions);
    let parts = vec![("DNS", dns.alive()), ("the API", services.alive())];
    let control = Control::new(owner, config, inlets, renewal, keyring, parts)?;
    info!("weft is ready");
    let ended = control.run().await;

    // In order: no new calls are taken, those under way end, then those who answer questions stop.
    stop.send_replace(true);
    let drained = tokio::task::spawn_blocking(move || proxy.join()).await;
    dns.join();
    services.join();
    if drained.is_err() || gossip_task.await.is_err() {
        warn!("a part of the agent had panicked; see above");
    }
    info!("weft has stopped");
    ended
}

fn check_names(config: &Config, identity: &Identity) -> Result<(), AgentError> {
    if identity.name != config.node.name {
        let (enrolled, configured) = (identity.name.to_string(), config.node.name.to_string());
        return Err(AgentError::Name { enrolled, configured });
    }
    if identity.cluster != config.cluster.name {
        let (enrolled, configured) = (identity.cluster.clone(), config.cluster.name.clone());
        return Err(AgentError::Cluster { enrolled, configured });
    }
    Ok(())
}

async fn bind_gossip(
    config: &Config,
    identity: &Identity,
    epoch: u64,
    tls: &TlsContexts,
    keyring: gossip::KeyringLink,
) -> Result<gossip::Bound, AgentError> {
    let contexts = tls.clone();
    let identify = move |chain: &[CertificateDer<'_>]| contexts.peer(Some(chain)).ok().map(|peer| peer.node);
    let claimed_in = identity.cluster.clone();
    let trust = identity.cluster_trust().clone();
    let check_claim = move |claim: &Claim| {
        // That it left is all that is still believed of a revoked host.
        if claim.state != MemberState::Left && trust.is_revoked(claim.node) {
            return Err("revoked");
        }
        verify_claim(&claimed_in, claim).map(Some).map_err(|error| error.as_str())
    };
    let settings = gossip::Settings {
        listen: config.gossip.listen,
        cluster: identity.cluster.clone(),
        local: identity.node,
        epoch,
        keyring,
        client_tls: tls.gossip_client.clone(),
        server_tls: tls.gossip_server.clone(),
        server_name: tls.server_name.clone(),
        identify: Arc::new(identify),
        check_claim: Arc::new(check_claim),
        deadlines: gossip::Deadlines::default(),
        protocol_max: PROTOCOL_MAX,
    };
    Ok(gossip::bind(settings).await?)
}

/// What this host tells others of itself.
fn facts(config: &Config, identity: &Identity, gossip: SocketAddr) -> Result<NodeFacts, AgentError> {
    let bound = [config.gossip.listen.ip(), config.mesh.listen.ip()];
    let specific = bound.into_iter().find(|ip| !ip.is_unspecified());
    let address: IpAddr = config
        .node
        .advertise
        .or(config.gossip.advertise.map(|address| address.ip()))
        .or(specific)
        .or_else(default_advertise)
        .ok_or_else(|| AgentError::Advertise(config.path.clone()))?;
    Ok(NodeFacts {
        name: identity.name.clone(),
        address,
        mesh: config.mesh.advertise.unwrap_or(SocketAddr::new(address, config.mesh.listen.port())),
        gossip: config.gossip.advertise.unwrap_or(SocketAddr::new(address, gossip.port())),
        zone: config.node.zone.clone(),
        meta: config.node.meta.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        checks: Vec::new(),
        certificates: identity.certificates.clone(),
    })
}

/// What the files say of this host and its services.
fn files(config: &Config) -> Files {
    Files {
        services: config.services.clone(),
        checks: config.checks.clone(),
        zone: config.node.zone.clone(),
        meta: config.node.meta.clone(),
    }
}

fn proxy_settings(config: &Config, identity: &Identity) -> proxy::Settings {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    proxy::Settings {
        local: identity.node,
        cluster: identity.cluster.clone(),
        workers: if config.proxy.workers == 0 { cores } else { config.proxy.workers },
        mesh_listen: config.mesh.listen,
        capture_listen: config.proxy.capture_listen,
        capture: config.proxy.capture,
        vip_range: config.proxy.vip_range,
        connect_timeout: config.proxy.connect_timeout,
        accept_timeout: config.proxy.connect_timeout + DELIVERY_TIMEOUT + ACCEPT_MARGIN,
        idle_timeout: config.proxy.idle_timeout,
        drain_timeout: DRAIN_TIMEOUT,
        delivery_timeout: DELIVERY_TIMEOUT,
        request_timeout: config.proxy.request_timeout,
        head_timeout: HEAD_TIMEOUT,
        access_log: config.proxy.access_log,
    }
}

/// A generator for one core of one start: never the same stream twice, and no need for the system's entropy.
fn new_rng(node: NodeId, epoch: u64, stream: u8) -> ChaCha8Rng {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(node.as_bytes());
    seed[16..24].copy_from_slice(&epoch.to_be_bytes());
    seed[24] = stream;
    ChaCha8Rng::from_seed(seed)
}
