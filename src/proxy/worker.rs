//! One worker: a thread with a runtime of its own that accepts, chooses and carries. Workers share nothing but the
//! published directory, the counters and the listening ports (`SO_REUSEPORT`), so a slow control plane cannot slow them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rand_chacha::ChaCha8Rng;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::admission::Admission;
use super::attest::{self, Attest};
use super::capture::{PROBE_GREETING, PROBE_PORT, probe_vip};
use super::counters::Counters;
use super::endpoints::Endpoints;
use super::http::{AccessLogger, Channels, LocalPool};
use super::link::{Link, LinkError};
use super::pool::Pool;
use super::pressure::OnService;
use super::relay::{End, abort};
use super::scratch::Scratch;
use super::serving::Asked;
use super::tap::Taps;
use super::traffic::{Cells, Key, Registry};
use super::{EnrollConnection, Event, Lobbies, Settings, caller, reach, serving};
use crate::identity::{PeerIdentity, TlsContexts};
use crate::lobby::Source;
use crate::model::{Direction, Directory, MemberState, Node, NodeId, Protocol, ServiceId, ServiceName};
use crate::wire::frame::RstReason;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Callers of instances of this host whose counts are kept at hand.
const INBOUND_MAX: usize = 4096;
const PRUNE_INTERVAL: Duration = Duration::from_secs(5);
/// Whether instances fail more than others is looked at this often; each service has an interval of its own.
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);

/// A bound port that this worker accepts on.
pub(super) enum Listener {
    /// The mesh port.
    Mesh(std::net::TcpListener),
    /// Where the redirect rule sends every VIP connection.
    Captured(std::net::TcpListener),
    /// One VIP and port, bound because there is no rule.
    Vip(std::net::TcpListener),
}

/// What a worker is made of; crosses into its thread.
pub(super) struct Parts {
    pub index: usize,
    pub settings: Arc<Settings>,
    pub directory: Arc<ArcSwap<Directory>>,
    pub changes: watch::Receiver<u64>,
    pub tls: TlsContexts,
    pub counters: Arc<Counters>,
    pub lobbies: Lobbies,
    pub traffic: Arc<Registry>,
    pub taps: Arc<Taps>,
    pub access_log: Option<AccessLogger>,
    pub attest: attest::Shared,
    pub admission: Arc<Admission>,
    pub events: mpsc::Sender<Event>,
    pub enroll: mpsc::Sender<EnrollConnection>,
    pub listeners: mpsc::UnboundedReceiver<Listener>,
    pub shutdown: watch::Receiver<bool>,
    pub rng: ChaCha8Rng,
}

/// Who calls, from where, and whom.
type Inbound = (NodeId, Option<ServiceName>, ServiceId);

pub(super) struct Worker {
    pub settings: Arc<Settings>,
    pub local: NodeId,
    pub directory: Arc<ArcSwap<Directory>>,
    pub changes: watch::Receiver<u64>,
    pub tls: TlsContexts,
    pub counters: Arc<Counters>,
    pub events: mpsc::Sender<Event>,
    pub enroll: mpsc::Sender<EnrollConnection>,
    pub shutdown: watch::Receiver<bool>,
    pub pool: Pool,
    /// Connections for requests to other hosts.
    pub channels: Channels,
    /// Connections for requests to services of this host.
    pub local_pool: LocalPool,
    pub endpoints: Endpoints,
    pub admission: Arc<Admission>,
    pressures: RefCell<HashMap<ServiceName, Arc<OnService>>>,
    pub lobbies: Lobbies,
    pub traffic: Arc<Registry>,
    pub taps: Arc<Taps>,
    pub access_log: Option<AccessLogger>,
    pub attest: Attest,
    /// Counts of calls from other hosts.
    inbound: RefCell<HashMap<Inbound, Arc<Cells>>>,
    pub scratch: Scratch,
    pub rng: RefCell<ChaCha8Rng>,
    /// Wakes the streams to a host when it has failed or left.
    lost_signals: RefCell<HashMap<NodeId, Rc<Notify>>>,
    /// Wakes all streams when who may call whom has changed.
    pub intentions_changed: Notify,
    /// Calls taken and not ended, for draining.
    active: Cell<usize>,
    quiet: Notify,
}

/// Runs a worker until it has been told to stop and has drained. Blocks the thread.
pub(super) fn run(parts: Parts) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(work(parts)),
        Err(error) => warn!(%error, "a proxy worker could not start"),
    }
}

async fn work(mut parts: Parts) {
    let index = parts.index;
    let mut shutdown = parts.shutdown.clone();
    let (_, none) = mpsc::unbounded_channel();
    let mut listeners = std::mem::replace(&mut parts.listeners, none);
    let worker = Worker::new(parts);
    spawn_local(prune(worker.clone()));
    spawn_local(judge(worker.clone()));
    spawn_local(signal_lost_hosts(worker.clone()));
    if index == 0 {
        spawn_local(reach::watch_hosts(worker.clone()));
    }
    let mut accepting = Vec::new();
    loop {
        tokio::select! {
            listener = listeners.recv() => match listener {
                Some(listener) => accepting.push(spawn_local(accept(worker.clone(), listener))),
                None => break,
            },
            stop = shutdown.wait_for(|stop| *stop) => {
                let _ = stop;
                break;
            }
        }
    }
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    if timeout(worker.settings.drain_timeout, worker.drained()).await.is_err() {
        info!(open = worker.active.get(), "calls were still open at the end of the drain and are cut");
    }
}

async fn accept(worker: Rc<Worker>, listener: Listener) {
    let (Listener::Mesh(socket) | Listener::Captured(socket) | Listener::Vip(socket)) = &listener;
    let accepting = match socket.try_clone().and_then(TcpListener::from_std) {
        Ok(accepting) => accepting,
        Err(error) => {
            warn!(%error, "a listener could not be used");
            return;
        }
    };
    loop {
        match accepting.accept().await {
            Ok((tcp, client)) => worker.clone().take(&listener, tcp, client),
            Err(error) => {
                let lobby =
                    if matches!(listener, Listener::Mesh(_)) { &worker.lobbies.mesh } else { &worker.lobbies.calls };
                if lobby.accept_failed() {
                    warn!(%error, "a connection could not be accepted; if files ran out, raise LimitNOFILE");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn prune(worker: Rc<Worker>) {
    let mut ticks = interval(PRUNE_INTERVAL);
    loop {
        ticks.tick().await;
        worker.pool.prune(&worker.scratch);
        worker.channels.prune();
        worker.local_pool.prune();
        let directory = worker.directory.load();
        worker.endpoints.prune(&directory);
        worker.pressures.borrow_mut().retain(|service, _| directory.services.contains_key(service));
        worker.inbound.borrow_mut().retain(|(node, ..), _| directory.nodes.contains_key(node));
    }
}

async fn judge(worker: Rc<Worker>) {
    let mut ticks = interval(JUDGE_INTERVAL);
    loop {
        ticks.tick().await;
        worker.endpoints.judge();
    }
}

/// Tells streams when the host on their other side has failed, and drops its pooled links; and when intentions have changed.
async fn signal_lost_hosts(worker: Rc<Worker>) {
    let mut changes = worker.changes.clone();
    let mut intentions = worker.directory.load().intentions.clone();
    while changes.changed().await.is_ok() {
        let directory = worker.directory.load_full();
        // Most publications are about something else.
        if !Arc::ptr_eq(&intentions, &directory.intentions) {
            intentions = directory.intentions.clone();
            worker.intentions_changed.notify_waiters();
        }
        // One that left drains, and closes what it has when that is done.
        let revoked = directory.intentions.revoked();
        let has_failed = |node: &NodeId| {
            let failed = |node: &Node| node.state == MemberState::Failed;
            directory.nodes.get(node).is_some_and(|node| failed(node)) || revoked.contains(node)
        };
        worker.channels.cut(has_failed);
        if !revoked.is_empty() {
            worker.pool.forget_revoked(revoked);
            worker.channels.cut_revoked(revoked);
        }
        let mut signals = worker.lost_signals.borrow_mut();
        signals.retain(|node, signal| {
            if has_failed(node) {
                signal.notify_waiters();
                worker.pool.forget(*node);
            }
            // Kept while a stream listens.
            Rc::strong_count(signal) > 1
        });
    }
}

impl Worker {
    /// A worker that has nothing to do yet.
    pub(super) fn new(parts: Parts) -> Rc<Worker> {
        let Parts { settings, directory, changes, tls, counters, traffic, access_log, events, .. } = parts;
        let Parts { lobbies, attest, admission, enroll, shutdown, rng, taps, .. } = parts;
        Rc::new(Worker {
            local: settings.local,
            settings,
            directory,
            changes,
            tls,
            counters,
            endpoints: Endpoints::new(traffic.clone(), events.clone()),
            admission,
            pressures: RefCell::default(),
            events,
            enroll,
            shutdown,
            pool: Pool::default(),
            channels: Channels::default(),
            local_pool: LocalPool::default(),
            lobbies,
            traffic,
            taps,
            access_log,
            attest: Attest::new(attest),
            inbound: RefCell::default(),
            scratch: Scratch::new(),
            rng: RefCell::new(rng),
            lost_signals: RefCell::default(),
            intentions_changed: Notify::new(),
            active: Cell::new(0),
            quiet: Notify::new(),
        })
    }

    fn take(self: Rc<Self>, listener: &Listener, tcp: TcpStream, client: SocketAddr) {
        match listener {
            Listener::Mesh(_) => {
                spawn_local(serving::serve(self, tcp, client.ip()));
            }
            Listener::Captured(_) => {
                // Without a rule in between, the original destination is the listener itself, which is no VIP.
                let target = SockRef::from(&tcp).original_dst_v4().ok().and_then(|address| address.as_socket());
                let target = target.filter(|_| tcp.local_addr().is_ok_and(|local| local.ip().is_loopback()));
                self.take_call(tcp, client, target);
            }
            Listener::Vip(_) => {
                let target = tcp.local_addr().ok();
                self.take_call(tcp, client, target);
            }
        }
    }

    fn take_call(self: Rc<Self>, tcp: TcpStream, client: SocketAddr, target: Option<SocketAddr>) {
        let Some((vip, port)) = target.and_then(vip_of) else {
            self.counters.unknown_target.one();
            return abort(tcp);
        };
        if (vip, port) == (probe_vip(self.settings.vip_range), PROBE_PORT) {
            spawn_local(greet(tcp));
            return;
        }
        let active = self.enter();
        let place = self.lobbies.calls.enter(Source::of(vip.into()));
        spawn_local(async move {
            caller::serve(self, tcp, client, (vip, port), place).await;
            drop(active);
        });
    }

    /// Counts something that draining waits for; the guard counts it out.
    pub(super) fn enter(self: &Rc<Self>) -> ActiveGuard {
        self.active.set(self.active.get() + 1);
        ActiveGuard(self.clone())
    }

    async fn drained(&self) {
        while self.active.get() > 0 {
            self.quiet.notified().await;
        }
    }

    /// How hard this host presses on a service.
    pub(super) fn pressure_on(&self, service: &ServiceName) -> Arc<OnService> {
        if let Some(on) = self.pressures.borrow().get(service) {
            return on.clone();
        }
        let on = self.traffic.pressures.on(service);
        self.pressures.borrow_mut().insert(service.clone(), on.clone());
        on
    }

    /// This host's name.
    pub(super) fn own_name(&self) -> String {
        let directory = self.directory.load();
        directory.nodes.get(&self.local).map(|node| node.facts.name.to_string()).unwrap_or_default()
    }

    /// Where calls of another host for an instance of this one are counted.
    pub(super) fn inbound_cells(&self, peer: &PeerIdentity, asked: &Asked, protocol: Protocol) -> Arc<Cells> {
        let make = || {
            self.traffic.cells(Key {
                direction: Direction::In,
                caller: peer.name.to_string(),
                caller_service: asked.caller.as_ref().map(ToString::to_string).unwrap_or_default(),
                node: self.own_name(),
                service: asked.service.to_string(),
                instance: asked.instance.to_string(),
                protocol,
            })
        };
        let mut inbound = self.inbound.borrow_mut();
        // A host whose certificate grants every service may name any number of callers.
        if inbound.len() >= INBOUND_MAX {
            inbound.clear();
        }
        let key = (peer.node, asked.caller.clone(), asked.instance.clone());
        inbound.entry(key).or_insert_with(make).clone()
    }

    /// Opens a connection to a host's agent and checks that it is that host.
    pub(super) async fn connect(&self, node: &Node) -> Result<Link, LinkError> {
        let connecting = Link::connect(
            node.facts.mesh,
            self.tls.mesh_client.clone(),
            self.tls.server_name.clone(),
            self.settings.connect_timeout,
            &self.scratch,
        );
        let mut link = connecting.await.inspect_err(|_| self.counters.connects_failed.one())?;
        self.check_cluster(&link)?;
        match link.peer() {
            Some(peer) if peer.node == node.id => {
                self.counters.connections_out.one();
                let retires_at = self.tls.retires_at(SystemTime::now(), peer.not_after);
                link.retire_at(retires_at);
                Ok(link)
            }
            peer => {
                let found = peer.map(|peer| format!("{} ({})", peer.name, peer.node)).unwrap_or_default();
                Err(LinkError::Peer(format!("{} answers as {found}, not as {}", node.facts.mesh, node.id)))
            }
        }
    }

    /// Refuses a peer whose certificate chains to our roots but names another cluster.
    pub(super) fn check_cluster(&self, link: &Link) -> Result<(), LinkError> {
        match link.peer() {
            Some(peer) if peer.cluster == self.settings.cluster => Ok(()),
            Some(peer) => Err(LinkError::Peer(format!("it belongs to cluster {:?}", peer.cluster))),
            None => Err(LinkError::Peer("there is none".into())),
        }
    }

    /// A host's mesh port did not answer: its links go, and the owner hears of it.
    pub(super) fn mesh_failed(&self, node: NodeId) {
        self.pool.forget(node);
        self.channels.forget(node);
        // A full queue holds other news of the same kind; the next failed connect tells again.
        let _ = self.events.try_send(Event::MeshUnreachable(node));
    }

    /// Ends a link in the background, letting the peer read what is queued.
    pub(super) fn finish(self: &Rc<Self>, link: Link) {
        let active = self.enter();
        spawn_local(async move { link.finish(&active.0.scratch).await });
    }

    /// Ends a stream that cannot go on, and its link, and counts why.
    pub(super) fn break_off(self: &Rc<Self>, ended: &End, link: Link) {
        match ended {
            End::FarReset => return self.finish(link),
            End::TagLost => self.counters.tag_moved.one(),
            End::Idle => self.counters.idle_closed.one(),
            End::Lost(LinkError::Protocol(error)) => {
                self.counters.protocol_errors.one();
                debug!(error, "a stream ended");
                return;
            }
            End::Lost(_) | End::HostLost => return,
            _ => {}
        }
        self.reset(link, RstReason::Reset);
    }

    /// True if a host, or one that issued the certificate that it came with, is not believed any more.
    pub(super) fn is_revoked(&self, peer: &PeerIdentity) -> bool {
        peer.is_among(self.directory.load().intentions.revoked())
    }

    /// Ends when a host has failed, left or been revoked: what was sent to it would otherwise be retransmitted for a quarter of an hour.
    pub(super) async fn host_lost(&self, node: NodeId) {
        let lost = self.lost_signals.borrow_mut().entry(node).or_default().clone();
        lost.notified().await;
    }

    /// [`Worker::host_lost`] of who is at the other end of a connection; and ends when an issuer of its certificate is revoked.
    pub(super) async fn peer_lost(&self, peer: Option<&PeerIdentity>) {
        let Some(peer) = peer else { return std::future::pending().await };
        let revoked = async {
            loop {
                // Begun before the look, so that no change goes by between the two.
                let changed = self.intentions_changed.notified();
                if self.is_revoked(peer) {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            () = self.host_lost(peer.node) => {}
            () = revoked => {}
        }
    }

    /// Resets the stream on a link and ends the link.
    pub(super) fn reset(self: &Rc<Self>, mut link: Link, reason: RstReason) {
        if link.send(&reason.encode()).is_ok() {
            self.finish(link);
        }
    }
}

pub(super) struct ActiveGuard(Rc<Worker>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let active = self.0.active.get() - 1;
        self.0.active.set(active);
        if active == 0 {
            self.0.quiet.notify_waiters();
        }
    }
}

fn vip_of(address: SocketAddr) -> Option<(Ipv4Addr, u16)> {
    match address.ip() {
        IpAddr::V4(ip) => Some((ip, address.port())),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map(|ip| (ip, address.port())),
    }
}

async fn greet(mut tcp: TcpStream) {
    // The prober sees what did not arrive.
    let _ = tcp.write_all(PROBE_GREETING).await;
}
