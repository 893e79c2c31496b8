//! Connections for requests to other hosts' agents: HTTP/2 over mutual TLS, one for many requests of all services, more
//! when one is full. Belongs to one worker.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::body::Payload;
use super::{STREAMS_MAX, http2_client};
use crate::identity::PeerIdentity;
use crate::model::{Node, NodeId};
use crate::proxy::link::{HANDSHAKE_TIMEOUT, LinkError, tune};
use crate::proxy::pool::IDLE_CALLER_MAX;
use crate::proxy::worker::Worker;

/// Connections to one host and worker; each takes [`STREAMS_MAX`] requests at once, and more wait.
const CHANNELS_MAX: usize = 8;

pub(super) struct Channel {
    sender: http2::SendRequest<Payload>,
    open: Cell<usize>,
    retires_at: SystemTime,
    /// Who is at its other end.
    peer: PeerIdentity,
    used_at: Cell<Instant>,
    /// It takes no more requests; those under way stay.
    is_retired: Cell<bool>,
    /// The connection's socket. hyper lets requests that are under way end whatever becomes of its handles: only the
    /// socket's end ends them.
    socket: std::net::TcpStream,
}

impl Channel {
    /// Ends the connection, with the requests on it.
    fn cut(&self) {
        // Fails only on a socket that has ended.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A place on a connection, for one request.
pub(super) struct Place(Rc<Channel>);

impl Place {
    fn on(channel: &Rc<Channel>) -> Place {
        channel.open.set(channel.open.get() + 1);
        channel.used_at.set(Instant::now());
        Place(channel.clone())
    }

    pub(super) fn sender(&self) -> http2::SendRequest<Payload> {
        self.0.sender.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.used_at.set(Instant::now());
    }
}

/// The connections to one host.
struct Host {
    channels: RefCell<Vec<Rc<Channel>>>,
    /// One connects, the others wait for what comes of it.
    connecting: Semaphore,
    /// How many tries to connect have failed: who waited for one that did has its answer.
    failures: Cell<u64>,
}

#[derive(Default)]
pub(in crate::proxy) struct Channels {
    hosts: RefCell<HashMap<NodeId, Rc<Host>>>,
}

impl Channels {
    /// A place on a connection to that host; connects if there is none.
    pub(super) async fn place(&self, worker: &Worker, node: &Node) -> Result<Place, LinkError> {
        let host = self.host(node.id);
        if let Some(place) = host.place() {
            return Ok(place);
        }
        Box::pin(self.connect(worker, node, &host)).await
    }

    /// Rare and large: on the heap, so that it does not make every request's future larger.
    async fn connect(&self, worker: &Worker, node: &Node, host: &Rc<Host>) -> Result<Place, LinkError> {
        let failures = host.failures.get();
        let permit = host.connecting.acquire().await;
        if let Some(place) = host.place() {
            return Ok(place);
        }
        if host.failures.get() != failures {
            return Err(LinkError::Closed);
        }
        let connected = connect(worker, node).await;
        drop(permit);
        match connected {
            Ok(channel) => {
                let place = Place::on(&channel);
                host.channels.borrow_mut().push(channel);
                Ok(place)
            }
            Err(error) => {
                host.failures.set(failures + 1);
                Err(error)
            }
        }
    }

    fn host(&self, node: NodeId) -> Rc<Host> {
        let make =
            || Rc::new(Host { channels: RefCell::default(), connecting: Semaphore::new(1), failures: Cell::new(0) });
        self.hosts.borrow_mut().entry(node).or_insert_with(make).clone()
    }

    /// Ends every connection to hosts that have failed, with the requests on them.
    pub(in crate::proxy) fn cut(&self, has_failed: impl Fn(&NodeId) -> bool) {
        self.hosts.borrow_mut().retain(|node, host| {
            let failed = has_failed(node);
            if failed {
                host.channels.borrow().iter().for_each(|channel| channel.cut());
            }
            !failed
        });
    }

    /// Ends every connection to hosts that are not believed any more, with the requests on them.
    pub(in crate::proxy) fn cut_revoked(&self, revoked: &HashSet<NodeId>) {
        for host in self.hosts.borrow().values() {
            host.channels.borrow().iter().filter(|channel| channel.peer.is_among(revoked)).for_each(|each| each.cut());
        }
    }

    /// New requests go over new connections; those under way stay.
    pub(in crate::proxy) fn forget(&self, node: NodeId) {
        if let Some(host) = self.hosts.borrow().get(&node) {
            host.channels.borrow().iter().for_each(|channel| channel.is_retired.set(true));
        }
    }

    /// Lets go of connections that were idle for long or have ended.
    pub(in crate::proxy) fn prune(&self) {
        self.hosts.borrow_mut().retain(|_, host| {
            let mut channels = host.channels.borrow_mut();
            channels.retain(|channel| {
                let limit = if channel.is_retired.get() { Duration::ZERO } else { IDLE_CALLER_MAX };
                let is_idle = channel.open.get() == 0 && channel.used_at.get().elapsed() >= limit;
                !is_idle && !channel.sender.is_closed()
            });
            !channels.is_empty() || host.connecting.available_permits() == 0
        });
    }
}

impl Host {
    /// A place on the emptiest connection; `None` if there is none, or if all are full and another may be opened.
    fn place(&self) -> Option<Place> {
        let mut channels = self.channels.borrow_mut();
        let now = SystemTime::now();
        channels.retain(|channel| !channel.sender.is_closed());
        channels.iter().filter(|channel| channel.retires_at <= now).for_each(|channel| channel.is_retired.set(true));
        let taking = || channels.iter().filter(|channel| !channel.is_retired.get());
        let emptiest = taking().min_by_key(|channel| channel.open.get())?;
        let is_full = emptiest.open.get() >= STREAMS_MAX as usize;
        (!is_full || taking().count() >= CHANNELS_MAX).then(|| Place::on(emptiest))
    }
}

async fn connect(worker: &Worker, node: &Node) -> Result<Rc<Channel>, LinkError> {
    let connecting = shake_hands(worker, node);
    let limit = worker.settings.connect_timeout + HANDSHAKE_TIMEOUT;
    let channel = timeout(limit, connecting).await.unwrap_or(Err(LinkError::Timeout(limit)));
    channel.inspect(|_| worker.counters.connections_out.one()).inspect_err(|_| worker.counters.connects_failed.one())
}

async fn shake_hands(worker: &Worker, node: &Node) -> Result<Rc<Channel>, LinkError> {
    let limit = worker.settings.connect_timeout;
    let tcp = timeout(limit, TcpStream::connect(node.facts.mesh)).await.map_err(|_| LinkError::Timeout(limit))??;
    tune(&tcp);
    let tcp = tcp.into_std()?;
    let socket = tcp.try_clone()?;
    let tcp = TcpStream::from_std(tcp)?;
    let connector = TlsConnector::from(worker.tls.http_client.clone());
    let tls = connector.connect(worker.tls.server_name.clone(), tcp).await?;
    let peer = worker.tls.peer(tls.get_ref().1.peer_certificates());
    let peer = peer.map_err(|error| LinkError::Peer(error.to_string()))?;
    if peer.node != node.id {
        let found = format!("{} ({})", peer.name, peer.node);
        return Err(LinkError::Peer(format!("{} answers as {found}, not as {}", node.facts.mesh, node.id)));
    }
    let (mut sender, connection) = http2_client()
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|error| LinkError::Io(std::io::Error::other(error)))?;
    let name = node.facts.name.clone();
    spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(node = %name, %error, "a connection for requests ended");
        }
    });
    // A TLS 1.3 client is through before the other side has judged its certificate; its settings come after that.
    let ready = timeout(HANDSHAKE_TIMEOUT, sender.ready()).await.map_err(|_| LinkError::Timeout(HANDSHAKE_TIMEOUT))?;
    ready.map_err(|_| LinkError::Closed)?;
    Ok(Rc::new(Channel {
        sender,
        open: Cell::new(0),
        retires_at: worker.tls.retires_at(SystemTime::now(), peer.not_after),
        peer,
        used_at: Cell::new(Instant::now()),
        is_retired: Cell::new(false),
        socket,
    }))
}
