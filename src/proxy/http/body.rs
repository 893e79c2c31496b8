//! Bodies on their way. [`Payload`] goes to an instance: read from the application as it is sent, with its beginning kept so
//! that another instance can be asked. [`Reply`] comes back, and tells when it has ended.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::headers::strip_trailers;

/// The part of a request's body that can be sent again elsewhere.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// What an application sends, and what of it is kept.
pub(super) struct Source {
    incoming: Incoming,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More has been sent than is kept.
    is_spent: bool,
    /// Which [`Payload`] may read. An abandoned one may still be held by a connection that is closing.
    reader: u32,
    /// When the last of it came.
    moved_at: Instant,
}

impl Source {
    pub(super) fn new(incoming: Incoming) -> Rc<RefCell<Source>> {
        let moved_at = Instant::now();
        Rc::new(RefCell::new(Source {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            is_spent: false,
            reader: 0,
            moved_at,
        }))
    }

    /// True if another instance can be sent all of it.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_spent
    }

    /// When something last came from the application.
    pub(super) fn moved_at(&self) -> Instant {
        self.moved_at
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        self.moved_at = Instant::now();
        if let Some(Ok(frame)) = &frame {
            match frame.data_ref() {
                Some(data) if !self.is_spent && self.kept_bytes + data.len() <= REPLAY_BYTES_MAX => {
                    self.kept_bytes += data.len();
                    self.kept.push(data.clone());
                }
                // Trailers are not kept either: they come when an instance has read everything.
                _ => {
                    self.is_spent = true;
                    self.kept = Vec::new();
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map(without_framing).map_err(BodyError::Application)))
    }
}

/// Trailers must not say what belongs to a head: another reader might believe them.
fn without_framing(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        strip_trailers(trailers);
    }
    frame
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the application broke off: {0}")]
    Application(#[source] hyper::Error),
    #[error("the request goes elsewhere")]
    Abandoned,
}

/// A request's body, as one try sends it.
pub(super) enum Payload {
    Empty,
    Passing { source: Rc<RefCell<Source>>, at: usize, reader: u32 },
}

impl Payload {
    /// A body to be sent from its beginning. Those made before it are void.
    pub(super) fn of(source: Option<&Rc<RefCell<Source>>>) -> Payload {
        let Some(source) = source else { return Payload::Empty };
        let reader = {
            let mut source = source.borrow_mut();
            source.reader += 1;
            source.reader
        };
        Payload::Passing { source: source.clone(), at: 0, reader }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Payload::Passing { source, at, reader } = &mut *self else { return Poll::Ready(None) };
        let mut source = source.borrow_mut();
        if source.reader != *reader {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        if let Some(data) = source.kept.get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let frame = source.poll(cx);
        *at = source.kept.len();
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Empty => true,
            Payload::Passing { source, at, .. } => {
                let source = source.borrow();
                *at >= source.kept.len() && source.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let Payload::Passing { source, at, .. } = self else { return SizeHint::with_exact(0) };
        let source = source.borrow();
        let kept: u64 = source.kept.iter().skip(*at).map(|data| data.len() as u64).sum();
        let rest = source.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint
    }
}

/// Told how a reply ended.
pub(super) trait Tail {
    /// All of it was taken, or it has none.
    fn finished(self: Box<Self>);
    /// The service broke it off.
    fn broken(self: Box<Self>);
}

/// A response's body on its way back. Dropped before its end, it drops its tail.
pub(super) enum Reply {
    /// Weft's own words, or nothing.
    Own(Option<Bytes>),
    Passing {
        body: Incoming,
        tail: Option<Box<dyn Tail>>,
    },
}

impl Reply {
    /// A body that comes from a service.
    pub(super) fn passing(body: Incoming, tail: Box<dyn Tail>) -> Reply {
        if body.is_end_stream() {
            tail.finished();
            return Reply::Own(None);
        }
        Reply::Passing { body, tail: Some(tail) }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, tail) = match &mut *self {
            Reply::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Reply::Passing { body, tail } => (body, tail),
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let is_over = match &frame {
            None => true,
            Some(Ok(_)) => body.is_end_stream(),
            Some(Err(_)) => {
                if let Some(tail) = tail.take() {
                    tail.broken();
                }
                false
            }
        };
        if is_over && let Some(tail) = tail.take() {
            tail.finished();
        }
        Poll::Ready(frame.map(|frame| frame.map(without_framing)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Own(text) => text.is_none(),
            Reply::Passing { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Reply::Passing { body, .. } => body.size_hint(),
        }
    }
}
