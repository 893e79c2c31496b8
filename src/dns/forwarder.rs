//! Asks upstream servers about foreign names.
//!
//! A client's query comes in as bytes; a reply for that client goes out, from an upstream or SERVFAIL. Every try has an id
//! and a source port of its own, and only a reply from the server asked, with that id and that question, counts (RFC 5452).
//! Nothing is cached: the upstreams do that.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::answer::{Transport, write_failure};
use super::counters::{Counters, count};
use super::limits::Limits;
use super::query::{HEADER_BYTES, Query};
use super::resolv_conf::{OwnListeners, SERVERS_MAX, SYSTEM_FILES, read_system};

/// The largest reply taken over UDP: what clients offer at most in practice. Larger ones are passed on as truncated.
const UDP_REPLY_BYTES_MAX: usize = 4096;
/// resolv.conf is read again at most this often, and only when there is something to ask.
const SYSTEM_READ_INTERVAL: Duration = Duration::from_secs(5);

/// Response codes (RFC 1035 §4.1.1) after which another upstream may know better.
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// One server, and until when it is asked last.
#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    /// In milliseconds since the forwarder's start.
    resting_until_ms: AtomicU64,
}

/// Where the servers come from.
enum Source {
    Fixed,
    System { files: Vec<String>, own: OwnListeners, read_at_ms: AtomicU64 },
}

/// Shared by all servers of the shim.
pub(super) struct Forwarder {
    source: Source,
    upstreams: ArcSwap<Vec<Upstream>>,
    slots: Arc<Semaphore>,
    started: Instant,
    limits: Limits,
    counters: Arc<Counters>,
}

/// A client's query, ready to be sent on.
struct Asking<'a> {
    packet: &'a [u8],
    question_end: usize,
}

impl Forwarder {
    /// Asks `servers`, in that order.
    pub(super) fn to(servers: &[SocketAddr], limits: Limits, counters: Arc<Counters>) -> Forwarder {
        Forwarder::new(Source::Fixed, servers, limits, counters)
    }

    /// Asks the system's servers, except `own` listeners.
    pub(super) fn to_system(own: OwnListeners, limits: Limits, counters: Arc<Counters>) -> Forwarder {
        let servers = read_system(&SYSTEM_FILES, &own);
        let files = SYSTEM_FILES.map(str::to_owned).to_vec();
        Forwarder::new(Source::System { files, own, read_at_ms: AtomicU64::new(0) }, &servers, limits, counters)
    }

    fn new(source: Source, servers: &[SocketAddr], limits: Limits, counters: Arc<Counters>) -> Forwarder {
        Forwarder {
            source,
            upstreams: ArcSwap::from_pointee(fresh(servers)),
            slots: Arc::new(Semaphore::new(limits.forwards_max)),
            started: Instant::now(),
            limits,
            counters,
        }
    }

    /// Room for one more query under way, to be held until it is answered.
    pub(super) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Asks upstreams about the query in `packet` until one answers. `reply` is for the client: SERVFAIL if none did.
    pub(super) async fn resolve(&self, packet: &[u8], transport: Transport, reply: &mut Vec<u8>) {
        count(&self.counters.forwarded);
        if let Ok(query) = Query::read(packet) {
            let asking = Asking { packet, question_end: query.question_end };
            if self.ask_in_turn(&asking, transport, reply).await {
                asking.restore(reply);
                return;
            }
        }
        count(&self.counters.forward_failed);
        if !write_failure(packet, reply) {
            reply.clear();
        }
    }

    async fn ask_in_turn(&self, asking: &Asking<'_>, transport: Transport, reply: &mut Vec<u8>) -> bool {
        self.refresh();
        let upstreams = self.upstreams.load_full();
        let now_ms = self.now_ms();
        let resting = |upstream: &&Upstream| upstream.resting_until_ms.load(Ordering::Relaxed) > now_ms;
        let awake = upstreams.iter().filter(|upstream| !resting(upstream));
        let mut answered = false;
        for upstream in awake.chain(upstreams.iter().filter(resting)).take(SERVERS_MAX) {
            let mut candidate = Vec::new();
            match self.ask(upstream.address, asking, transport, &mut candidate).await {
                Ok(()) => {
                    upstream.resting_until_ms.store(0, Ordering::Relaxed);
                    let settled = !matches!(response_code(&candidate), SERVFAIL | NOTIMP | REFUSED);
                    *reply = candidate;
                    answered = true;
                    if settled {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(upstream = %upstream.address, %error, "upstream gave no answer; trying the next");
                    let until_ms = self.now_ms().saturating_add(millis(self.limits.upstream_rest));
                    upstream.resting_until_ms.store(until_ms, Ordering::Relaxed);
                }
            }
        }
        answered
    }

    /// One upstream, by UDP, and again by TCP if the reply is truncated and the client can take more.
    async fn ask(
        &self,
        server: SocketAddr,
        asking: &Asking<'_>,
        transport: Transport,
        reply: &mut Vec<u8>,
    ) -> io::Result<()> {
        let limit = self.limits.upstream_timeout;
        timeout(limit, self.ask_udp(server, asking, reply)).await??;
        if transport == Transport::Tcp && is_truncated(reply) {
            let mut whole = Vec::new();
            if let Ok(Ok(())) = timeout(limit, ask_tcp(server, asking, &mut whole)).await {
                *reply = whole;
            }
        }
        Ok(())
    }

    async fn ask_udp(&self, server: SocketAddr, asking: &Asking<'_>, reply: &mut Vec<u8>) -> io::Result<()> {
        let any: SocketAddr =
            if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await?;
        // Connected: the kernel passes on nothing from anywhere else, and tells at once if nobody listens there.
        socket.connect(server).await?;
        let request = asking.with_random_id()?;
        socket.send(&request).await?;
        loop {
            reply.resize(UDP_REPLY_BYTES_MAX + 1, 0);
            let received = socket.recv(reply).await?;
            reply.truncate(received);
            if !asking.is_answered_by(&request, reply) {
                count(&self.counters.forward_mismatched);
                continue;
            }
            if received > UDP_REPLY_BYTES_MAX {
                asking.truncate(reply);
            }
            return Ok(());
        }
    }

    /// Reads resolv.conf again if it was not read lately: DHCP and VPNs change it.
    fn refresh(&self) {
        let Source::System { files, own, read_at_ms } = &self.source else {
            return;
        };
        let now_ms = self.now_ms();
        let read_at = read_at_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(read_at) < millis(SYSTEM_READ_INTERVAL) {
            return;
        }
        read_at_ms.store(now_ms, Ordering::Relaxed);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let servers = read_system(&files, own);
        if !self.upstreams.load().iter().map(|upstream| upstream.address).eq(servers.iter().copied()) {
            tracing::info!(?servers, "resolv.conf changed; foreign names are asked of these servers");
            self.upstreams.store(Arc::new(fresh(&servers)));
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn fresh(servers: &[SocketAddr]) -> Vec<Upstream> {
    servers.iter().map(|&address| Upstream { address, resting_until_ms: AtomicU64::new(0) }).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn ask_tcp(server: SocketAddr, asking: &Asking<'_>, reply: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    let request = asking.with_random_id()?;
    let length = u16::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &request].concat()).await?;
    let length = stream.read_u16().await?;
    reply.resize(usize::from(length), 0);
    stream.read_exact(reply).await?;
    if asking.is_answered_by(&request, reply) { Ok(()) } else { Err(io::Error::other("reply to another question")) }
}

impl Asking<'_> {
    fn with_random_id(&self) -> io::Result<Vec<u8>> {
        let [high, low, ..] = SysRng.try_next_u32().map_err(io::Error::other)?.to_be_bytes();
        let mut request = self.packet.to_vec();
        for (byte, random) in request.iter_mut().zip([high, low]) {
            *byte = random;
        }
        Ok(request)
    }

    /// True for a response with the request's id and question. Some servers change the case of the name.
    fn is_answered_by(&self, request: &[u8], reply: &[u8]) -> bool {
        let name_end = self.question_end.saturating_sub(4);
        let part = |from: usize, to: usize| Some((request.get(from..to)?, reply.get(from..to)?));
        let same_id = part(0, 2).is_some_and(|(asked, got)| asked == got);
        // Length bytes are below the letters, so this ignores nothing but case.
        let same_name = part(HEADER_BYTES, name_end).is_some_and(|(asked, got)| asked.eq_ignore_ascii_case(got));
        let same_type = part(name_end, self.question_end).is_some_and(|(asked, got)| asked == got);
        let is_response = reply.get(2).is_some_and(|flags| flags & 0x80 != 0);
        is_response && same_id && same_name && same_type && reply.get(4..6) == Some(&[0, 1])
    }

    /// Leaves header and question, marked as truncated.
    fn truncate(&self, reply: &mut Vec<u8>) {
        reply.truncate(self.question_end);
        if let Some(flags) = reply.get_mut(2) {
            *flags |= 0x02;
        }
        if let Some(counts) = reply.get_mut(6..HEADER_BYTES) {
            counts.fill(0);
        }
    }

    /// Puts back the client's id and its spelling of the question.
    fn restore(&self, reply: &mut [u8]) {
        for range in [0..2, HEADER_BYTES..self.question_end] {
            if let (Some(target), Some(source)) = (reply.get_mut(range.clone()), self.packet.get(range)) {
                target.copy_from_slice(source);
            }
        }
    }
}

/// What is done with a reply that came, for the fuzzer.
pub(super) fn read_reply(packet: &[u8], reply: &[u8]) {
    let Ok(query) = Query::read(packet) else { return };
    let asking = Asking { packet, question_end: query.question_end };
    let mut reply = reply.to_vec();
    if asking.is_answered_by(packet, &reply) {
        let _ = (response_code(&reply), is_truncated(&reply));
        asking.restore(&mut reply);
        assert!(asking.is_answered_by(packet, &reply));
        asking.truncate(&mut reply);
    }
}

fn response_code(reply: &[u8]) -> u8 {
    reply.get(3).map_or(SERVFAIL, |flags| flags & 0x0F)
}

fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & 0x02 != 0)
}
