//! How connections to VIPs come to this agent: by the one redirect rule, proved by calling a test VIP, or, without it,
//! by binding each VIP and port when its name is first asked for.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::Ipv4Net;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::worker::Listener;
use crate::model::Directory;

/// What the test VIP answers.
pub(super) const PROBE_GREETING: &[u8] = b"weft captures";
/// The test VIP's port; no service has it, since a VIP answers on its service's port.
pub(super) const PROBE_PORT: u16 = 1;
/// A port that was taken may be free by then.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pending connections a listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// The interface that all calls to service addresses come over.
const LOOPBACK: &[u8] = b"lo";
/// In bind mode every VIP and port is a descriptor a worker.
const BOUND_MAX: usize = 8192;

/// How VIP connections are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By the redirect rule.
    Redirect,
    /// By listeners on VIPs.
    Bind,
}

/// A question for the binder: "this VIP has been asked for", and the word that it may be answered.
pub type VipAsked = (Ipv4Addr, oneshot::Sender<()>);

/// The address that proves the rule: the first of the range, never given to a service.
pub(super) fn probe_vip(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() + 1)
}

/// True if a connection to the test VIP arrives at this agent.
pub(super) async fn prove_redirect(range: Ipv4Net) -> bool {
    let call = async {
        let mut tcp = TcpStream::connect((probe_vip(range), PROBE_PORT)).await?;
        let mut greeting = [0; PROBE_GREETING.len()];
        tcp.read_exact(&mut greeting).await?;
        Ok::<bool, io::Error>(greeting == PROBE_GREETING)
    };
    matches!(timeout(PROBE_TIMEOUT, call).await, Ok(Ok(true)))
}

/// Binds one listener a worker on the same address.
///
/// `SO_REUSEPORT` would let a second agent share the port in silence, so the address is first bound without it.
pub(super) fn bind_all(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    drop(bind_one(address, false)?);
    (0..workers).map(|_| bind_one(address, true)).collect()
}

/// Binds where the redirect rule sends calls: the port of `address` and the one after it, two listeners a worker. The rule
/// keeps the services' addresses, so they are taken on every address, of loopback alone.
pub(super) fn bind_captured(address: SocketAddr, workers: usize) -> io::Result<Vec<[std::net::TcpListener; 2]>> {
    let second = address.port().checked_add(1).ok_or_else(|| io::Error::other("there is no port after it"))?;
    let bind = |port: u16| {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        drop(bind_on(any, false, Some(LOOPBACK))?);
        (0..workers).map(|_| bind_on(any, true, Some(LOOPBACK))).collect::<io::Result<Vec<_>>>()
    };
    Ok(bind(address.port())?.into_iter().zip(bind(second)?).map(|(one, other)| [one, other]).collect())
}

fn bind_one(address: SocketAddr, share: bool) -> io::Result<std::net::TcpListener> {
    bind_on(address, share, None)
}

fn bind_on(address: SocketAddr, share: bool, device: Option<&[u8]>) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Before Linux 5.7 that takes a privilege; what does not come over loopback is not served then.
    match device.map(|device| socket.bind_device(Some(device))) {
        Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        _ => {}
    }
    socket.bind(&address.into())?;
    if share {
        socket.listen(BACKLOG)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Binds VIPs as they are asked for, and new ports of those that were, until shutdown.
pub(super) struct Binder {
    pub directory: Arc<ArcSwap<Directory>>,
    pub changes: watch::Receiver<u64>,
    pub workers: Vec<mpsc::UnboundedSender<Listener>>,
    pub asked: mpsc::Receiver<VipAsked>,
}

impl Binder {
    pub(super) async fn run(mut self, mode: Mode, mut shutdown: watch::Receiver<bool>) {
        let mut wanted: HashSet<Ipv4Addr> = HashSet::new();
        // Where a bind failed, when: it is tried again after a while.
        let mut bound: HashMap<SocketAddr, Option<Instant>> = HashMap::new();
        loop {
            tokio::select! {
                question = self.asked.recv() => {
                    let Some((vip, answer)) = question else { return };
                    if mode == Mode::Bind {
                        wanted.insert(vip);
                        self.bind(vip, &mut bound);
                    }
                    // The asker may have given up; the VIP stays bound.
                    let _ = answer.send(());
                }
                changed = self.changes.changed(), if mode == Mode::Bind => {
                    if changed.is_err() {
                        return;
                    }
                    wanted.iter().for_each(|vip| self.bind(*vip, &mut bound));
                }
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn bind(&self, vip: Ipv4Addr, bound: &mut HashMap<SocketAddr, Option<Instant>>) {
        let directory = self.directory.load();
        let Some((service, _)) = directory.behind(vip) else { return };
        let ports = [Some(service.vip_port), service.protocol.is_http().then_some(80)];
        for port in ports.into_iter().flatten() {
            let address = SocketAddr::from((vip, port));
            // A port that somebody else has, or that needs root, is reported and not fought for.
            let settled =
                bound.get(&address).is_some_and(|failed| failed.is_none_or(|at| at.elapsed() < RETRY_INTERVAL));
            if settled || bound.len() >= BOUND_MAX {
                continue;
            }
            let done = bind_all(address, self.workers.len());
            bound.insert(address, done.is_err().then(Instant::now));
            match done {
                Ok(listeners) => {
                    info!(service = %service.name, %address, "listening for the service");
                    for (worker, listener) in self.workers.iter().zip(listeners) {
                        // Fails only while the worker is stopping.
                        let _ = worker.send(Listener::Vip(listener));
                    }
                }
                // Port 80 is an extra; without root it is not to be had.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && port != service.vip_port => {}
                Err(error) => warn!(
                    service = %service.name, %address, %error,
                    "the service's address cannot be bound: load the redirect rule (weft-redirect.service), \
                     or give the service another vip_port"
                ),
            }
        }
    }
}
