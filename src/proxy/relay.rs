//! Carrying one stream between a local application and a [`Link`]: half-close, resets and back-pressure cross it.
//!
//! Used on both sides. "Up" is from the local socket into the link. On the caller's side nothing is read from the
//! application before the far side has accepted: what it sends meanwhile waits in the kernel's buffer, so that a call
//! that was not accepted can be made elsewhere and no byte is ever delivered twice.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::link::{Incoming, Link, LinkError};
use super::scratch::Scratch;
use crate::lobby::Place;
use crate::wire::frame::{DATA_BYTES_MAX, FrameHeader, HEADER_BYTES, RstReason};

/// How often limits are looked at; they are hours and minutes, so this is exact enough.
const LIMIT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides finished; the link can take the next stream.
    Finished,
    /// The far side refused before it accepted.
    Refused(RstReason),
    /// The link failed before the far side accepted.
    LostBeforeAccept(LinkError),
    /// The far side reset the stream.
    FarReset,
    /// The local application reset its connection.
    LocalReset,
    /// The link failed.
    Lost(LinkError),
    /// Nothing moved for the idle limit.
    Idle,
    /// The far side's certificate has expired.
    Expired,
    /// The instance lost the tag that the stream was opened for.
    TagLost,
    /// The other host failed or left.
    HostLost,
    /// An intention does not let this caller call any more.
    Denied,
    /// Nothing had moved yet, and others needed the place.
    CrowdedOut,
}

pub(super) struct Relay<'a> {
    local: &'a mut TcpStream,
    link: &'a mut Link,
    scratch: &'a Scratch,
    accepted: bool,
    fin_sent: bool,
    fin_received: bool,
    moved: Cell<Instant>,
    /// Held until the first byte of payload.
    place: Option<&'a Place>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// On the caller's side: when the far side accepted.
    pub accepted_at: Option<Instant>,
}

/// Limits of one stream.
pub(super) struct Limits {
    /// Nothing moves for this long.
    pub idle: Duration,
    /// The far side's certificate ends.
    pub not_after: SystemTime,
}

impl<'a> Relay<'a> {
    /// The caller's side: OPEN is queued on the link, nobody has accepted.
    pub(super) fn calling(local: &'a mut TcpStream, link: &'a mut Link, scratch: &'a Scratch) -> Self {
        Relay {
            local,
            link,
            scratch,
            accepted: false,
            fin_sent: false,
            fin_received: false,
            moved: Cell::new(Instant::now()),
            place: None,
            bytes_up: 0,
            bytes_down: 0,
            accepted_at: None,
        }
    }

    /// The serving side: ACCEPT is queued on the link.
    pub(super) fn serving(local: &'a mut TcpStream, link: &'a mut Link, scratch: &'a Scratch) -> Self {
        Relay { accepted: true, ..Relay::calling(local, link, scratch) }
    }

    /// Proves the connection with the first byte that crosses, in either direction.
    pub(super) fn waiting_in(self, place: &'a Place) -> Self {
        Relay { place: Some(place), ..self }
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Carries until the stream ends. `accept_timeout` bounds the wait for ACCEPT.
    pub(super) async fn run(&mut self, limits: &Limits, accept_timeout: Duration) -> End {
        if !self.accepted {
            let until_accept = tokio::time::timeout(accept_timeout, poll_fn(|cx| self.poll_carry(cx, true))).await;
            match until_accept {
                Err(_) => return End::LostBeforeAccept(LinkError::Timeout(accept_timeout)),
                Ok(Some(end)) => return end,
                Ok(None) => self.accepted_at = Some(Instant::now()),
            }
        }
        let mut check = Box::pin(sleep(LIMIT_CHECK_INTERVAL));
        poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll_carry(cx, false) {
                return Poll::Ready(end.unwrap_or(End::Finished));
            }
            while check.as_mut().poll(cx).is_ready() {
                let quiet = self.moved.get().elapsed();
                if quiet >= limits.idle {
                    return Poll::Ready(End::Idle);
                }
                if quiet >= LIMIT_CHECK_INTERVAL {
                    // A long-lived stream that has gone quiet holds no buffers, as a pooled link does not.
                    self.link.release();
                }
                if SystemTime::now() >= limits.not_after {
                    return Poll::Ready(End::Expired);
                }
                check.as_mut().reset(Instant::now() + LIMIT_CHECK_INTERVAL);
            }
            Poll::Pending
        })
        .await
    }

    /// `Ready(None)` once accepted, if `until_accept`; `Ready(Some)` at the end.
    fn poll_carry(&mut self, cx: &mut Context<'_>, until_accept: bool) -> Poll<Option<End>> {
        let end = match self.try_carry(cx, until_accept) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(end)) => end,
            Err(error) if self.accepted => Some(End::Lost(error)),
            Err(error) => Some(End::LostBeforeAccept(error)),
        };
        Poll::Ready(end)
    }

    fn try_carry(&mut self, cx: &mut Context<'_>, until_accept: bool) -> Result<Poll<Option<End>>, LinkError> {
        loop {
            let up = self.poll_up(cx)?;
            if let Poll::Ready(Some(end)) = up {
                return Ok(Poll::Ready(Some(end)));
            }
            let down = self.poll_down(cx)?;
            if let Poll::Ready(Some(end)) = down {
                return Ok(Poll::Ready(Some(end)));
            }
            if until_accept && self.accepted {
                return Ok(Poll::Ready(None));
            }
            if self.fin_sent && self.fin_received && self.link.is_flushed() {
                return Ok(Poll::Ready(Some(End::Finished)));
            }
            if up.is_pending() && down.is_pending() {
                return Ok(Poll::Pending);
            }
            self.moved.set(Instant::now());
            if let Some(place) = self.place.take_if(|_| self.bytes_up + self.bytes_down > 0) {
                place.prove();
            }
        }
    }

    /// From the application into the link. `Ready(None)` means that something moved.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<End>>, LinkError> {
        let waited = !self.link.is_flushed();
        if self.link.poll_flush(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        if self.fin_sent || !self.accepted {
            return Ok(if waited { Poll::Ready(None) } else { Poll::Pending });
        }
        let mut buffer = self.scratch.application();
        let mut unfilled = ReadBuf::new(&mut buffer[HEADER_BYTES..HEADER_BYTES + DATA_BYTES_MAX]);
        match Pin::new(&mut *self.local).poll_read(cx, &mut unfilled) {
            Poll::Pending => return Ok(if waited { Poll::Ready(None) } else { Poll::Pending }),
            Poll::Ready(Err(_)) => return self.local_reset(),
            Poll::Ready(Ok(())) => {}
        }
        let count = unfilled.filled().len();
        if count == 0 {
            self.fin_sent = true;
            self.link.send(&FrameHeader::FIN.encode())?;
        } else {
            self.bytes_up += count as u64;
            let frame = &mut buffer[..HEADER_BYTES + count];
            let header = FrameHeader::data(count).ok_or(LinkError::Protocol("a read over the limit of a frame"))?;
            frame[..HEADER_BYTES].copy_from_slice(&header.encode());
            self.link.send(frame)?;
        }
        drop(buffer);
        // Written at once where the socket takes it, so that a small message costs one wake-up, not two.
        let _ = self.link.poll_flush(cx)?;
        Ok(Poll::Ready(None))
    }

    /// From the link to the application.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<End>>, LinkError> {
        let mut moved = false;
        // Once both sides have finished, what is there is the next stream's.
        while !(self.fin_sent && self.fin_received) {
            let Some(incoming) = self.link.next()? else { break };
            match incoming {
                Incoming::Accept if !self.accepted => {
                    self.accepted = true;
                }
                Incoming::Data if self.accepted && !self.fin_received => {
                    match Pin::new(&mut *self.local).poll_write(cx, self.link.data()) {
                        // What moved before it may have opened the way up: until ACCEPT nothing is read from the application.
                        Poll::Pending => return Ok(if moved { Poll::Ready(None) } else { Poll::Pending }),
                        Poll::Ready(Ok(count)) => {
                            self.bytes_down += count as u64;
                            self.link.take(count);
                        }
                        Poll::Ready(Err(_)) => return self.local_reset(),
                    }
                }
                Incoming::Fin if self.accepted && !self.fin_received => {
                    self.fin_received = true;
                    // Fails only if the application has reset; the next read says so.
                    let _ = Pin::new(&mut *self.local).poll_shutdown(cx);
                }
                // No answer to an OPEN: it ends the stream before, whose last bytes found nobody. The link is of no more use.
                Incoming::Rst(RstReason::Reset) if !self.accepted => return Err(LinkError::Closed),
                Incoming::Rst(reason) if !self.accepted => return Ok(Poll::Ready(Some(End::Refused(reason)))),
                Incoming::Rst(_) => return Ok(Poll::Ready(Some(End::FarReset))),
                _ => return Err(LinkError::Protocol("a frame out of its order")),
            }
            moved = true;
        }
        if self.fin_sent && self.fin_received {
            return Ok(if moved { Poll::Ready(None) } else { Poll::Pending });
        }
        match self.link.poll_recv(cx, self.scratch) {
            Poll::Ready(Ok(())) if self.link.is_closed() && self.link.next()?.is_none() => Err(LinkError::Closed),
            Poll::Ready(result) => result.map(|()| Poll::Ready(None)),
            Poll::Pending => Ok(if moved { Poll::Ready(None) } else { Poll::Pending }),
        }
    }

    fn local_reset(&mut self) -> Result<Poll<Option<End>>, LinkError> {
        self.link.send(&RstReason::Reset.encode())?;
        Ok(Poll::Ready(Some(End::LocalReset)))
    }
}

/// Closes with a TCP reset, so that the other side does not take a broken stream for a finished one.
pub(super) fn abort(tcp: TcpStream) {
    // On failure the close is an orderly one; nothing better can be done.
    let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    drop(tcp);
}

/// Carries between two local sockets until both directions have ended.
pub(super) async fn carry_directly(
    caller: &mut TcpStream,
    service: &mut TcpStream,
    idle: Duration,
    scratch: &Scratch,
    place: &Place,
) -> Result<(u64, u64), DirectError> {
    let (mut up, mut down) = (Half::default(), Half::default());
    let mut check = Box::pin(sleep(LIMIT_CHECK_INTERVAL));
    let mut moved = Instant::now();
    poll_fn(|cx| {
        let before = up.count + down.count;
        let up_done = up.poll_copy(cx, caller, service, scratch)?;
        let down_done = down.poll_copy(cx, service, caller, scratch)?;
        if up_done.is_ready() && down_done.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if up.count + down.count != before {
            moved = Instant::now();
            place.prove();
        }
        while check.as_mut().poll(cx).is_ready() {
            if moved.elapsed() >= idle {
                return Poll::Ready(Err(DirectError::Idle));
            }
            check.as_mut().reset(Instant::now() + LIMIT_CHECK_INTERVAL);
        }
        Poll::Pending
    })
    .await?;
    Ok((up.count, down.count))
}

/// Why a direct call ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nothing moved for the idle limit")]
    Idle,
}

/// One direction of a direct call.
#[derive(Default)]
struct Half {
    /// Read, but not yet taken by the other side.
    waiting: Vec<u8>,
    eof: bool,
    shut: bool,
    count: u64,
}

impl Half {
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        scratch: &Scratch,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.waiting.is_empty() {
                let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, &self.waiting) else {
                    return Poll::Pending;
                };
                self.waiting.drain(..written?);
            }
            if self.eof {
                if !self.shut {
                    self.shut = true;
                    // Fails only if that side has reset; its reading half says so.
                    let _ = Pin::new(&mut *to).poll_shutdown(cx);
                }
                return Poll::Ready(Ok(()));
            }
            let mut buffer = scratch.application();
            let mut unfilled = ReadBuf::new(&mut buffer);
            let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, &mut unfilled) else { return Poll::Pending };
            read?;
            let bytes = unfilled.filled();
            self.eof = bytes.is_empty();
            self.count += bytes.len() as u64;
            if self.eof {
                continue;
            }
            let written = match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.waiting.extend_from_slice(&bytes[written..]);
        }
    }
}
