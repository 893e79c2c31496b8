//! The UDP side: one task a socket, which answers mesh names itself, without locks, allocations or further tasks.
//!
//! Datagrams come in; replies go out. Only two things leave the task: foreign names, which wait for upstreams, and VIPs
//! that must be bound before their answer is sent. Both are bounded in number.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::answer::{Answerer, Transport, Verdict, write_failure};
use super::counters::{Counters, count};
use super::forwarder::Forwarder;
use super::limits::{Limits, QUERY_BYTES_MAX};
use crate::lobby::Lobby;
use crate::model::Directory;

/// Datagrams handled before other tasks of the thread get their turn.
const BATCH: usize = 32;

/// Asks for a VIP to be bound; the answer says that it is, or that trying is over.
pub type VipAsked = mpsc::Sender<(Ipv4Addr, oneshot::Sender<()>)>;

/// What all servers of the shim share.
pub(super) struct Shared {
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) forwarder: Forwarder,
    pub(super) vip_asked: Option<VipAsked>,
    pub(super) counters: Arc<Counters>,
    /// TCP connections that wait for nothing.
    pub(super) lobby: Lobby,
    pub(super) limits: Limits,
}

impl Shared {
    /// Waits until the VIP is bound, or for as long as that may take.
    pub(super) async fn await_vip(&self, vip: Ipv4Addr) {
        let Some(vip_asked) = &self.vip_asked else {
            return;
        };
        let bound = async {
            let (done, bound) = oneshot::channel();
            // Either channel closes when the agent stops; then nobody waits for the answer either.
            if vip_asked.send((vip, done)).await.is_ok() {
                let _ = bound.await;
            }
        };
        if timeout(self.limits.vip_wait, bound).await.is_err() {
            tracing::warn!(%vip, "binding the address took too long; its name is answered all the same");
        }
    }

    /// Counts an own answer.
    pub(super) fn count_answer(&self, truncated: bool) {
        count(&self.counters.answered);
        if truncated {
            count(&self.counters.truncated);
        }
    }
}

/// One UDP listener.
pub(super) struct UdpServer {
    socket: Arc<UdpSocket>,
    shared: Arc<Shared>,
    answerer: Answerer,
    shutdown: watch::Receiver<bool>,
    gate: VipGate,
}

/// The VIPs that were bound lately, told by the tasks that waited for them.
struct VipGate {
    bound_at: HashMap<Ipv4Addr, Instant>,
    bound: mpsc::Receiver<Ipv4Addr>,
    tell_bound: mpsc::Sender<Ipv4Addr>,
    slots: Arc<Semaphore>,
}

impl UdpServer {
    pub(super) fn new(
        socket: UdpSocket,
        shared: Arc<Shared>,
        answerer: Answerer,
        shutdown: watch::Receiver<bool>,
    ) -> UdpServer {
        let waiting_max = shared.limits.vips_waiting_max;
        let (tell_bound, bound) = mpsc::channel(waiting_max);
        let slots = Arc::new(Semaphore::new(waiting_max));
        let gate = VipGate { bound_at: HashMap::new(), bound, tell_bound, slots };
        UdpServer { socket: Arc::new(socket), shared, answerer, shutdown, gate }
    }

    /// Serves until shutdown.
    pub(super) async fn run(mut self) {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            never = self.serve() => match never {},
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn serve(&mut self) -> Infallible {
        let mut packet = vec![0; QUERY_BYTES_MAX];
        let mut reply = Vec::with_capacity(QUERY_BYTES_MAX);
        loop {
            if let Err(error) = self.socket.readable().await {
                tracing::warn!(%error, "DNS socket failed; waiting for it to recover");
                tokio::time::sleep(self.shared.limits.vip_wait).await;
            }
            for _ in 0..BATCH {
                match self.socket.try_recv_from(&mut packet) {
                    Ok((bytes, from)) => self.handle(packet.get(..bytes).unwrap_or_default(), from, &mut reply),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier reply: its client is gone.
                    Err(_) => count(&self.shared.counters.send_errors),
                }
            }
        }
    }

    fn handle(&mut self, packet: &[u8], from: SocketAddr, reply: &mut Vec<u8>) {
        count(&self.shared.counters.udp_queries);
        let directory = self.shared.directory.load();
        match self.answerer.answer(packet, Transport::Udp, &directory, reply) {
            Verdict::Reply { vip, truncated } => {
                self.shared.count_answer(truncated);
                match vip.filter(|_| self.shared.vip_asked.is_some()) {
                    Some(vip) if !self.is_bound(vip) => self.bind_then_send(vip, reply.clone(), from),
                    _ => send(&self.socket, reply, from, &self.shared.counters),
                }
            }
            Verdict::Refused => {
                count(&self.shared.counters.forward_refused);
                send(&self.socket, reply, from, &self.shared.counters);
            }
            Verdict::Malformed => {
                count(&self.shared.counters.malformed);
                send(&self.socket, reply, from, &self.shared.counters);
            }
            Verdict::Drop => count(&self.shared.counters.malformed),
            Verdict::Forward => self.forward(packet, from, reply),
        }
    }

    fn forward(&self, packet: &[u8], from: SocketAddr, reply: &mut Vec<u8>) {
        let Some(slot) = self.shared.forwarder.slot() else {
            count(&self.shared.counters.forward_overload);
            if write_failure(packet, reply) {
                send(&self.socket, reply, from, &self.shared.counters);
            }
            return;
        };
        let (socket, shared, packet) = (self.socket.clone(), self.shared.clone(), packet.to_vec());
        self.spawn_until_shutdown(async move {
            let mut reply = Vec::new();
            shared.forwarder.resolve(&packet, Transport::Udp, &mut reply).await;
            send(&socket, &reply, from, &shared.counters);
            drop(slot);
        });
    }

    /// True if the VIP was bound lately. Asked for again now and then, because a port that was taken may be free now.
    fn is_bound(&mut self, vip: Ipv4Addr) -> bool {
        let now = Instant::now();
        while let Ok(bound) = self.gate.bound.try_recv() {
            let bound_for = self.shared.limits.vip_bound_for;
            self.gate.bound_at.retain(|_, at| now.duration_since(*at) < bound_for);
            self.gate.bound_at.insert(bound, now);
        }
        let at = self.gate.bound_at.get(&vip);
        at.is_some_and(|at| now.duration_since(*at) < self.shared.limits.vip_bound_for)
    }

    fn bind_then_send(&self, vip: Ipv4Addr, reply: Vec<u8>, from: SocketAddr) {
        // Too many: unanswered, so that the client asks again.
        let Ok(slot) = self.gate.slots.clone().try_acquire_owned() else {
            return count(&self.shared.counters.send_errors);
        };
        let (socket, shared, tell_bound) = (self.socket.clone(), self.shared.clone(), self.gate.tell_bound.clone());
        self.spawn_until_shutdown(async move {
            shared.await_vip(vip).await;
            send(&socket, &reply, from, &shared.counters);
            // Full: it is asked for once more.
            let _ = tell_bound.try_send(vip);
            drop(slot);
        });
    }

    /// The task ends with the server, because it holds the socket and the port must be free then.
    fn spawn_until_shutdown(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                _ = shutdown.wait_for(|stop| *stop) => {}
            }
        });
    }
}

/// Sends without waiting: a full socket buffer loses the reply, as the network might, and the client asks again.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr, counters: &Counters) {
    if !reply.is_empty() && socket.try_send_to(reply, to).is_err() {
        count(&counters.send_errors);
    }
}
