//! `GET /v1/weft/tap`: calls as they end, one JSON object a line, for as long as the client stays. What a slow client does not
//! take is counted by whoever tells the calls, and told in the stream as `{"lost": COUNT}`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep};

use super::answer::Answer;
use super::request::Asked;
use super::responder::stopped;
use crate::model::{TapError, TapFilter};

/// A client that has vanished without a word shows in a write that nobody takes.
const ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Lines that are there together go out together, up to this.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Calls as they end.
#[derive(Debug)]
pub struct Tapped {
    /// One JSON object each, with the end of its line.
    pub lines: mpsc::Receiver<Bytes>,
    /// Those that did not fit.
    pub lost: Arc<AtomicU64>,
}

/// Shows calls from now on; `Err`: so many look already.
pub type TapSource = Arc<dyn Fn(TapFilter) -> Result<Tapped, usize> + Send + Sync>;

/// A body that is there, or one that goes on.
pub(super) enum Body {
    Whole(Full<Bytes>),
    Calls(Box<Calls>),
}

impl Body {
    /// True if its connection is in use for as long as it lasts.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Body::Calls(_))
    }
}

/// The stream.
pub(super) struct Calls {
    tapped: Tapped,
    left: Option<u64>,
    alive: Pin<Box<Sleep>>,
    /// Ends when the agent stops.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Begins to look. `Err` is what to answer instead.
pub(super) fn begin(asked: &Asked, source: &TapSource, mut stopping: watch::Receiver<bool>) -> Result<Calls, Answer> {
    let filter = TapFilter::parse(asked.query.pairs());
    let filter = filter.map_err(|error: TapError| Answer::error(StatusCode::BAD_REQUEST, &error.to_string()))?;
    let left = filter.limit;
    let tapped = source(filter).map_err(|count| {
        let sentence =
            format!("{count} taps are open on this host, as many as there may be; end one of them and try again");
        Answer::error(StatusCode::TOO_MANY_REQUESTS, &sentence)
    })?;
    let stopping = Box::pin(async move { stopped(&mut stopping).await });
    Ok(Calls { tapped, left, alive: Box::pin(sleep(ALIVE_INTERVAL)), stopping })
}

impl Calls {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == Some(0) || self.stopping.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let lost = self.tapped.lost.swap(0, Ordering::Relaxed);
        let first = match self.tapped.lines.poll_recv(cx) {
            Poll::Ready(Some(line)) => line,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending if lost > 0 => Bytes::new(),
            Poll::Pending => {
                if self.alive.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.alive.as_mut().reset(Instant::now() + ALIVE_INTERVAL);
                // Polled, so that it wakes.
                let _pending = self.alive.as_mut().poll(cx);
                return Poll::Ready(Some(Bytes::from_static(b"\n")));
            }
        };
        let mut frame = BytesMut::new();
        let mut next = Some(first).filter(|line| !line.is_empty());
        while let Some(line) = next {
            frame.extend_from_slice(&line);
            self.left = self.left.map(|left| left.saturating_sub(1));
            let is_full = self.left == Some(0) || frame.len() >= FRAME_BYTES_MAX;
            next = if is_full { None } else { self.tapped.lines.try_recv().ok() };
        }
        // Those were lost after the ones that had waited.
        if lost > 0 {
            frame.extend_from_slice(format!("{{\"lost\":{lost}}}\n").as_bytes());
        }
        Poll::Ready(Some(frame.freeze()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Whole(full) => Pin::new(full).poll_frame(cx),
            Body::Calls(calls) => calls.poll(cx).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(full) => full.is_end_stream(),
            Body::Calls(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(full) => full.size_hint(),
            Body::Calls(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
