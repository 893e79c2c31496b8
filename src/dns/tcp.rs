//! The TCP side: length-prefixed queries, any number a connection, answered as they become ready (RFC 7766).
//!
//! Bytes come in from clients that may be slow, idle or hostile; each connection is bounded in time, memory and queries
//! under way, and the listener in connections.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Answerer, Transport, Verdict, write_failure};
use super::counters::count;
use super::limits::QUERY_BYTES_MAX;
use super::query::HEADER_BYTES;
use super::server::Shared;
use crate::lobby::{Place, Source};

/// Foreign queries under way on one connection; past it the connection is not read. As many as a browser asks at once.
const FORWARDS_MAX: usize = 16;
/// The length before each message (RFC 1035 §4.2.2).
const PREFIX_BYTES: usize = 2;

/// Accepts connections until shutdown.
pub(super) async fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    new_answerer: impl Fn() -> Option<Answerer>,
    mut shutdown: watch::Receiver<bool>,
) {
    let limits = &shared.limits;
    let slots = Arc::new(Semaphore::new(limits.tcp_connections_max + limits.forwards_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if shared.lobby.accept_failed() {
                    tracing::warn!(%error, "accepting a DNS connection failed; raise LimitNOFILE if files ran out");
                }
                // Out of files: accepting again at once would fail at once.
                tokio::time::sleep(shared.limits.vip_wait).await;
                continue;
            }
        };
        let (Ok(slot), Some(answerer)) = (slots.clone().try_acquire_owned(), new_answerer()) else {
            count(&shared.counters.tcp_overload);
            continue;
        };
        count(&shared.counters.tcp_connections);
        let place = Arc::new(shared.lobby.enter(Source::of(client.ip())));
        let shared = shared.clone();
        connections.spawn(async move {
            let connection = Connection::new(stream, shared.clone(), answerer, place.clone());
            tokio::select! {
                served = connection.serve() => if served.is_err() {
                    count(&shared.counters.tcp_cut);
                },
                () = place.shown_out() => count(&shared.counters.tcp_overload),
            }
            drop(slot);
        });
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    answerer: Answerer,
    /// Among the connections that wait for nothing.
    place: Arc<Place>,
    inbound: BytesMut,
    reply: Vec<u8>,
    forwarded: mpsc::Receiver<Vec<u8>>,
    forward_done: mpsc::Sender<Vec<u8>>,
    forwards: usize,
}

/// What happened on a connection.
enum Event {
    Bytes(usize),
    Forwarded(Vec<u8>),
}

impl Connection {
    fn new(stream: TcpStream, shared: Arc<Shared>, answerer: Answerer, place: Arc<Place>) -> Connection {
        let (forward_done, forwarded) = mpsc::channel(FORWARDS_MAX);
        let (inbound, reply) = (BytesMut::new(), Vec::new());
        Connection { stream, shared, answerer, place, inbound, reply, forwarded, forward_done, forwards: 0 }
    }

    /// Until the client closes. An error: it was cut off.
    async fn serve(mut self) -> io::Result<()> {
        let mut open = true;
        let mut deadline = Instant::now() + self.shared.limits.tcp_idle;
        loop {
            while self.forwards < FORWARDS_MAX {
                let Some(query) = self.next_query()? else {
                    break;
                };
                // Never shown out with a query under way, and the newest after it. Upstreams bound how many these can be.
                self.place.prove();
                self.handle(&query).await?;
                if self.forwards == 0 {
                    self.place.wait();
                }
                deadline = Instant::now() + self.shared.limits.tcp_idle;
            }
            if !open && self.forwards == 0 {
                return Ok(());
            }
            let was_empty = self.inbound.is_empty();
            match timeout_at(deadline, self.next_event(open)).await?? {
                Event::Bytes(0) => open = false,
                // The first bytes of a query: the rest must follow soon.
                Event::Bytes(_) if was_empty => deadline = Instant::now() + self.shared.limits.tcp_progress,
                Event::Bytes(_) => {}
                Event::Forwarded(reply) => {
                    self.forwards -= 1;
                    write(&mut self.stream, &reply, &self.shared).await?;
                    if self.forwards == 0 {
                        self.place.wait();
                    }
                    deadline = Instant::now() + self.shared.limits.tcp_idle;
                }
            }
        }
    }

    /// Both branches can be dropped without losing anything.
    async fn next_event(&mut self, open: bool) -> io::Result<Event> {
        let readable = open && self.forwards < FORWARDS_MAX;
        if readable {
            let missing_bytes = (PREFIX_BYTES + QUERY_BYTES_MAX).saturating_sub(self.inbound.len());
            self.inbound.reserve(missing_bytes);
        }
        tokio::select! {
            bytes = self.stream.read_buf(&mut self.inbound), if readable => Ok(Event::Bytes(bytes?)),
            Some(reply) = self.forwarded.recv() => Ok(Event::Forwarded(reply)),
        }
    }

    /// Takes one whole query off the bytes received.
    fn next_query(&mut self) -> io::Result<Option<BytesMut>> {
        let Some(&[high, low]) = self.inbound.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(HEADER_BYTES..=QUERY_BYTES_MAX).contains(&length) {
            return Err(io::Error::other("length out of bounds"));
        }
        if self.inbound.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.inbound.advance(PREFIX_BYTES);
        Ok(Some(self.inbound.split_to(length)))
    }

    async fn handle(&mut self, query: &[u8]) -> io::Result<()> {
        let counters = self.shared.counters.clone();
        count(&counters.tcp_queries);
        let directory = self.shared.directory.load_full();
        match self.answerer.answer(query, Transport::Tcp, &directory, &mut self.reply) {
            Verdict::Reply { vip, truncated } => {
                self.shared.count_answer(truncated);
                if let Some(vip) = vip {
                    self.shared.await_vip(vip).await;
                }
            }
            Verdict::Refused => count(&counters.forward_refused),
            Verdict::Malformed => count(&counters.malformed),
            Verdict::Drop => {
                count(&counters.malformed);
                return Err(io::Error::other("not a query"));
            }
            Verdict::Forward => {
                if self.forward(query) {
                    return Ok(());
                }
                count(&counters.forward_overload);
                write_failure(query, &mut self.reply);
            }
        }
        write(&mut self.stream, &self.reply, &self.shared).await
    }

    /// False: too many are under way.
    fn forward(&mut self, query: &[u8]) -> bool {
        let Some(slot) = self.shared.forwarder.slot() else {
            return false;
        };
        let (shared, query, done) = (self.shared.clone(), query.to_vec(), self.forward_done.clone());
        tokio::spawn(async move {
            let mut reply = Vec::new();
            shared.forwarder.resolve(&query, Transport::Tcp, &mut reply).await;
            drop(slot);
            // Fails if the connection is gone, and then nobody wants it.
            let _ = done.send(reply).await;
        });
        self.forwards += 1;
        true
    }
}

/// Writes one message. A client that does not take it in time is cut off.
async fn write(stream: &mut TcpStream, reply: &[u8], shared: &Shared) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let message = [&length.to_be_bytes()[..], reply].concat();
    timeout(shared.limits.tcp_progress, stream.write_all(&message)).await?
}
