//! One mutual-TLS connection to another host's agent, carrying one framed stream at a time.
//!
//! Ciphertext comes in by [`Link::poll_recv`] and leaves by [`Link::poll_flush`]; between them frames are taken one by
//! one with [`Link::next`]. An idle link holds no buffers: received bytes pass through the worker's scratch memory.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::scratch::Scratch;
use super::tls::{Outgoing, Phase, Tls};
use crate::identity::PeerIdentity;
use crate::wire::frame::{FrameHeader, FrameKind, HEADER_BYTES, Open, RstReason};

/// A handshake is two round trips and a few hundred microseconds of arithmetic; a peer that needs longer is not served.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A host that vanished without a word while nothing was under way: three unanswered keepalives end the connection.
/// Not `TCP_USER_TIMEOUT`: since Linux 5.11 it also ends connections whose peer lives but does not read for a while.
const SILENT_PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a link that is given up waits for the peer to read its last frame.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a link is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the peer broke the stream protocol: {0}")]
    Protocol(&'static str),
    #[error("the peer closed the connection")]
    Closed,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the peer is not the host that was called, or none of this cluster: {0}")]
    Peer(String),
}

impl LinkError {
    /// True if this host is what failed: nothing is said of the other.
    pub(super) fn is_local(&self) -> bool {
        // ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENETUNREACH, ENOBUFS.
        const OWN_ERRORS: [i32; 6] = [12, 23, 24, 99, 101, 105];
        matches!(self, LinkError::Io(error) if error.raw_os_error().is_some_and(|code| OWN_ERRORS.contains(&code)))
    }
}

/// What arrived.
#[derive(Debug)]
pub(super) enum Incoming {
    Open(Open),
    Accept,
    /// That many payload bytes are at [`Link::data`].
    Data,
    Fin,
    Rst(RstReason),
}

pub(super) struct Link {
    tcp: TcpStream,
    tls: Tls,
    /// The start of a TLS record whose rest has not arrived.
    partial: Vec<u8>,
    /// Plaintext that has not been taken, from `taken` on.
    inbox: Vec<u8>,
    taken: usize,
    /// Payload bytes of the current DATA frame that have not been taken.
    data_left: usize,
    out: Outgoing,
    phase: Phase,
    eof: bool,
    /// Who is on the other side. Set by the handshake.
    peer: Option<Arc<PeerIdentity>>,
    retires_at: Option<SystemTime>,
}

/// Sets what every connection between hosts has.
pub(super) fn tune(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let keepalive =
        TcpKeepalive::new().with_time(SILENT_PEER_TIMEOUT / 2).with_interval(SILENT_PEER_TIMEOUT / 5).with_retries(3);
    // None of these can fail on a connected TCP socket in a way that would be worth ending it for.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

impl Link {
    /// Connects to a host's mesh port and proves both sides.
    pub(super) async fn connect(
        address: SocketAddr,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        connect_timeout: Duration,
        scratch: &Scratch,
    ) -> Result<Link, LinkError> {
        let tcp = timeout(connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| LinkError::Timeout(connect_timeout))??;
        Link::handshake(tcp, Tls::client(config, name)?, Vec::new(), scratch).await
    }

    /// Serves a connection whose first bytes (`received`) have been read already.
    pub(super) async fn accept(
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        received: Vec<u8>,
        scratch: &Scratch,
    ) -> Result<Link, LinkError> {
        Link::handshake(tcp, Tls::server(config)?, received, scratch).await
    }

    async fn handshake(tcp: TcpStream, tls: Tls, received: Vec<u8>, scratch: &Scratch) -> Result<Link, LinkError> {
        tune(&tcp);
        let mut link = Link {
            tcp,
            tls,
            partial: Vec::new(),
            inbox: Vec::new(),
            taken: 0,
            data_left: 0,
            out: Outgoing::default(),
            phase: Phase::Handshake,
            eof: false,
            peer: None,
            retires_at: None,
        };
        match timeout(HANDSHAKE_TIMEOUT, link.shake_hands(received, scratch)).await {
            Ok(done) => done?,
            Err(_) => return Err(LinkError::Timeout(HANDSHAKE_TIMEOUT)),
        }
        let peer = PeerIdentity::from_certs(Some(link.tls.peer_certificates()));
        link.peer = Some(Arc::new(peer.map_err(|error| LinkError::Peer(error.to_string()))?));
        Ok(link)
    }

    async fn shake_hands(&mut self, mut received: Vec<u8>, scratch: &Scratch) -> Result<(), LinkError> {
        let first = self.tls.decrypt(&mut received, &mut self.inbox, &mut self.out);
        self.take_phase(first, &received)?;
        loop {
            let flushed = poll_fn(|cx| self.poll_flush(cx)).await;
            if self.phase != Phase::Handshake {
                return Ok(flushed?);
            }
            if self.eof {
                return Err(LinkError::Closed);
            }
            if let Err(error) = poll_fn(|cx| self.poll_recv(cx, scratch)).await {
                // The alert says why; the peer may be there to read it.
                let _ = poll_fn(|cx| self.poll_flush(cx)).await;
                return Err(error);
            }
        }
    }

    fn take_phase(
        &mut self,
        decrypted: Result<super::tls::Decrypted, rustls::Error>,
        input: &[u8],
    ) -> Result<(), LinkError> {
        let decrypted = decrypted?;
        self.partial.clear();
        self.partial.extend_from_slice(&input[decrypted.consumed..]);
        self.phase = decrypted.phase;
        self.eof |= decrypted.phase == Phase::PeerClosed;
        Ok(())
    }

    /// When the other side's certificate, and with it this link, ends.
    pub(super) fn not_after(&self) -> SystemTime {
        self.peer.as_ref().map_or(SystemTime::UNIX_EPOCH, |peer| peer.not_after)
    }

    /// No stream is to begin on it from then on.
    pub(super) fn retire_at(&mut self, time: SystemTime) {
        self.retires_at = Some(time);
    }

    /// True if no stream is to begin on it.
    pub(super) fn is_retired(&self, now: SystemTime) -> bool {
        self.retires_at.is_some_and(|time| time <= now) || self.not_after() <= now
    }

    /// Who is on the other side.
    pub(super) fn peer(&self) -> Option<&Arc<PeerIdentity>> {
        self.peer.as_ref()
    }

    /// Receives once. `Ready(Ok)` means that something changed: look at [`Link::next`], then at [`Link::is_closed`].
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<Result<(), LinkError>> {
        if self.eof {
            return Poll::Ready(Err(LinkError::Closed));
        }
        let mut buffer = scratch.network();
        let kept = self.partial.len();
        if kept >= buffer.len() {
            return Poll::Ready(Err(LinkError::Protocol("a TLS message over 64 KiB")));
        }
        let mut unfilled = ReadBuf::new(&mut buffer[kept..]);
        match Pin::new(&mut self.tcp).poll_read(cx, &mut unfilled) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) => {}
        }
        let count = unfilled.filled().len();
        if count == 0 {
            self.eof = true;
            return Poll::Ready(Ok(()));
        }
        buffer[..kept].copy_from_slice(&self.partial);
        self.inbox.drain(..self.taken);
        self.taken = 0;
        let input = &mut buffer[..kept + count];
        let decrypted = self.tls.decrypt(input, &mut self.inbox, &mut self.out);
        Poll::Ready(self.take_phase(decrypted, input))
    }

    /// Writes what waits. `Ready` when nothing waits any more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.tcp).poll_write(cx, self.out.pending()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.out.written(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// True if nothing waits to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// True if the peer will send nothing more.
    pub(super) fn is_closed(&self) -> bool {
        self.eof
    }

    /// Queues a frame: `frame` is header and body together.
    pub(super) fn send(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        // What the session itself has to say, the answer to a key update for one, goes first.
        self.settle()?;
        Ok(self.tls.encrypt(frame, &mut self.partial, &mut self.out)?)
    }

    /// Shows the session what was received but not consumed, until it has nothing more to say.
    fn settle(&mut self) -> Result<(), LinkError> {
        let mut kept = std::mem::take(&mut self.partial);
        let decrypted = self.tls.decrypt(&mut kept, &mut self.inbox, &mut self.out);
        let consumed = decrypted.as_ref().map_or(0, |decrypted| decrypted.consumed);
        kept.drain(..consumed);
        self.partial = kept;
        let decrypted = decrypted?;
        self.eof |= decrypted.phase == Phase::PeerClosed;
        Ok(())
    }

    /// The next frame, if a whole one (or some payload of a DATA frame) is there.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, LinkError> {
        loop {
            let there = self.inbox.len() - self.taken;
            if self.data_left > 0 {
                return Ok((there > 0).then_some(Incoming::Data));
            }
            let Some(bytes) = self.inbox[self.taken..].first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let header =
                FrameHeader::decode(*bytes).map_err(|_| LinkError::Protocol("an unknown or oversized frame"))?;
            let length = header.length as usize;
            if header.kind == FrameKind::Data {
                self.taken += HEADER_BYTES;
                self.data_left = length;
                continue;
            }
            if there < HEADER_BYTES + length {
                return Ok(None);
            }
            let start = self.taken + HEADER_BYTES;
            let incoming = read_frame(header.kind, &self.inbox[start..start + length])?;
            self.taken = start + length;
            return Ok(Some(incoming));
        }
    }

    /// The payload at hand after [`Incoming::Data`].
    pub(super) fn data(&self) -> &[u8] {
        let there = &self.inbox[self.taken..];
        &there[..there.len().min(self.data_left)]
    }

    /// Takes `count` bytes of [`Link::data`].
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        self.data_left -= count;
    }

    /// Gives back the memory that an idle link does not need.
    pub(super) fn release(&mut self) {
        if self.taken == self.inbox.len() {
            self.inbox = Vec::new();
            self.taken = 0;
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        self.out.release();
    }

    /// True if a pooled link can take a stream: nothing arrived on it, the end of it neither.
    pub(super) fn is_fresh(&mut self, scratch: &Scratch) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let quiet = match self.poll_recv(&mut cx, scratch) {
            Poll::Pending => true,
            // A session ticket or key update is fine; anything to read, or the end, is not.
            Poll::Ready(Ok(())) => !self.eof,
            Poll::Ready(Err(_)) => false,
        };
        quiet && self.taken == self.inbox.len() && self.data_left == 0
    }

    /// Ends the link so that the peer reads what was queued: a plain close with unread data in the receive buffer would
    /// send a TCP reset, which overtakes it.
    pub(super) async fn finish(mut self, scratch: &Scratch) {
        let farewell = async {
            self.tls.close(&mut self.partial, &mut self.out);
            poll_fn(|cx| self.poll_flush(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.tcp).poll_shutdown(cx)).await?;
            while !self.eof {
                self.inbox.clear();
                self.taken = 0;
                poll_fn(|cx| self.poll_recv(cx, scratch)).await?;
            }
            Ok::<(), LinkError>(())
        };
        // Whether the peer heard it makes no difference any more.
        let _ = timeout(LINGER_TIMEOUT, farewell).await;
    }
}

fn read_frame(kind: FrameKind, body: &[u8]) -> Result<Incoming, LinkError> {
    match (kind, body) {
        (FrameKind::Open, body) => {
            Open::decode(body).map(Incoming::Open).map_err(|_| LinkError::Protocol("an unreadable OPEN"))
        }
        (FrameKind::Accept, []) => Ok(Incoming::Accept),
        (FrameKind::Fin, []) => Ok(Incoming::Fin),
        (FrameKind::Rst, [reason]) => Ok(Incoming::Rst(RstReason::decode(*reason))),
        _ => Err(LinkError::Protocol("a frame with a body of the wrong length")),
    }
}
