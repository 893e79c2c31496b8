//! Connections to services of this host: HTTP/1.1 kept alive and used again, or one of HTTP/2 by prior knowledge for all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName};
use hyper::http::uri::{Authority, Parts as UriParts, Scheme};
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tracing::debug;

use super::body::{Payload, Source};
use super::reason::Reason;
use super::{HEAD_BYTES_MAX, HEADERS_MAX, http2_client};
use crate::model::{Instance, Protocol};
use crate::proxy::Settings;
use crate::proxy::deliver;

/// Idle connections are used again within this time. Below every keep-alive timeout that servers are known to have by
/// default (gunicorn 2 s, node 5 s, NGINX 75 s), so that a request seldom meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_millis(1500);
/// Idle connections kept an instance and worker.
const IDLE_CONNECTIONS_MAX: usize = 256;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What is sent, apart from its body.
pub(super) struct Head {
    pub(super) method: Method,
    /// Origin form.
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

/// The body's source, where there is a body.
pub(super) type Body = Option<Rc<RefCell<Source>>>;

/// A connection of HTTP/1.1 that is in use, to be given back when its response has been read.
pub(super) struct Lease {
    address: SocketAddr,
    sender: http1::SendRequest<Payload>,
}

/// A response, and the connection that goes back to the pool after it.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Option<Lease>,
}

/// A connection that waits for its next request, and since when.
type Idle = (http1::SendRequest<Payload>, Instant);

#[derive(Default)]
pub(in crate::proxy) struct LocalPool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    shared: RefCell<HashMap<SocketAddr, http2::SendRequest<Payload>>>,
}

impl LocalPool {
    /// Sends a request to an instance of this host. An `Err` that [`Reason::is_untouched`] says that the instance has seen
    /// nothing of it.
    pub(super) async fn send(
        &self,
        instance: &Instance,
        settings: &Settings,
        head: &Head,
        body: &Body,
    ) -> Result<Answered, Reason> {
        match instance.protocol {
            Protocol::Http2 | Protocol::Grpc => Box::pin(self.send_http2(instance, settings, head, body)).await,
            Protocol::Http | Protocol::Tcp => self.send_http1(instance, settings, head, body).await,
        }
    }

    async fn send_http1(
        &self,
        instance: &Instance,
        settings: &Settings,
        head: &Head,
        body: &Body,
    ) -> Result<Answered, Reason> {
        let address = instance.delivery();
        let mut request = to_http1(head, body);
        while let Some(mut sender) = self.take(address).await {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(answered(address, sender, response)),
                Err(mut error) => match error.take_message() {
                    // The service had closed it: nothing was sent.
                    Some(back) => request = back,
                    // A connection that was idle and ends without a word was most likely being closed as the request
                    // went out; a request that may be repeated is (RFC 9110 §9.2.2).
                    // Once, and on a connection of its own: an instance that hangs up on this request gets it no third time.
                    None if is_repeatable(head, body) && error.error().is_incomplete_message() => {
                        request = to_http1(head, body);
                        break;
                    }
                    None => return Err(lost(error.error())),
                },
            }
        }
        // Rare and large: on the heap, so that it does not make every request's future larger.
        let mut sender = Box::pin(connect_http1(instance, settings)).await?;
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        Ok(answered(address, sender, response))
    }

    /// The connection that was used last, if it is still good.
    async fn take(&self, address: SocketAddr) -> Option<http1::SendRequest<Payload>> {
        loop {
            let (mut sender, since) = self.idle.borrow_mut().get_mut(&address)?.pop()?;
            if since.elapsed() > IDLE_MAX || sender.is_closed() {
                continue;
            }
            // It may not have noticed yet that its response has been read to the end.
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    /// Takes a connection back whose response has been read to its end.
    pub(super) fn give_back(&self, lease: Lease) {
        if lease.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let there = idle.entry(lease.address).or_default();
        if there.len() < IDLE_CONNECTIONS_MAX {
            there.push((lease.sender, Instant::now()));
        }
    }

    async fn send_http2(
        &self,
        instance: &Instance,
        settings: &Settings,
        head: &Head,
        body: &Body,
    ) -> Result<Answered, Reason> {
        let address = instance.delivery();
        let mut request = to_http2(head, body)?;
        let there = self.shared.borrow().get(&address).cloned();
        if let Some(mut sender) = there.filter(|sender| !sender.is_closed()) {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(Answered { response, lease: None }),
                Err(mut error) => match error.take_message() {
                    Some(back) => request = back,
                    None if is_refused(error.error()) && is_whole(body) => request = to_http2(head, body)?,
                    None => return Err(lost(error.error())),
                },
            }
        }
        let tcp = TokioIo::new(connect(instance, settings).await?);
        let (mut sender, connection) = http2_client().handshake(tcp).await.map_err(|error| lost(&error))?;
        spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%error, "an HTTP/2 connection to a service ended");
            }
        });
        self.shared.borrow_mut().insert(address, sender.clone());
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        Ok(Answered { response, lease: None })
    }

    /// Lets go of connections that were idle for long.
    pub(in crate::proxy) fn prune(&self) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|(sender, since)| since.elapsed() <= IDLE_MAX && !sender.is_closed());
            !idle.is_empty()
        });
        self.shared.borrow_mut().retain(|_, sender| !sender.is_closed());
    }
}

/// A service that says how long it keeps a connection may close it sooner than this pool would.
fn answered(address: SocketAddr, sender: http1::SendRequest<Payload>, response: Response<Incoming>) -> Answered {
    let closes =
        response.headers().get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    let short = response.headers().get(KEEP_ALIVE).is_some_and(|value| {
        let text = value.to_str().unwrap_or_default();
        let told = text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
        told.is_some_and(|seconds| Duration::from_secs(seconds) <= IDLE_MAX)
    });
    Answered { response, lease: (!closes && !short).then_some(Lease { address, sender }) }
}

/// A connection to an instance of this host, whatever is spoken on it.
pub(super) async fn connect(instance: &Instance, settings: &Settings) -> Result<TcpStream, Reason> {
    deliver::connect(instance, settings).await.map_err(|error| {
        debug!(instance = %instance.id, %error, "the instance takes no connection");
        Reason::ConnectFailed
    })
}

async fn connect_http1(instance: &Instance, settings: &Settings) -> Result<http1::SendRequest<Payload>, Reason> {
    let tcp = connect(instance, settings).await?;
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX as usize * 4);
    let (sender, connection) = builder.handshake(TokioIo::new(tcp)).await.map_err(|error| lost(&error))?;
    spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to a service ended");
        }
    });
    Ok(sender)
}

fn to_http1(head: &Head, body: &Body) -> Request<Payload> {
    let mut request = Request::new(Payload::of(body.as_ref()));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    request
}

/// HTTP/2 by prior knowledge: the host goes into `:authority`.
fn to_http2(head: &Head, body: &Body) -> Result<Request<Payload>, Reason> {
    let mut request = to_http1(head, body);
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST).ok_or(Reason::BadRequest)?;
    let mut parts = UriParts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| Reason::BadRequest)?);
    parts.path_and_query = head.uri.path_and_query().cloned();
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Reason::BadRequest)?;
    Ok(request)
}

fn is_whole(body: &Body) -> bool {
    body.as_ref().is_none_or(|source| source.borrow().is_whole())
}

fn is_repeatable(head: &Head, body: &Body) -> bool {
    head.method.is_idempotent() && is_whole(body)
}

/// Why the other side ended the stream, where it ended that and not the connection (RFC 9113 §6.4).
fn stream_reset(error: &hyper::Error) -> Option<h2::Reason> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().filter(|_| error.is_reset());
        }
        source = error.source();
    }
    None
}

/// The other side said that it has not begun with the request (RFC 9113 §8.7).
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    stream_reset(error) == Some(h2::Reason::REFUSED_STREAM)
}

/// The connection was lost, and not this request's stream alone.
pub(super) fn is_connection_lost(error: &hyper::Error) -> bool {
    stream_reset(error).is_none()
}

/// What it means that the exchange has failed.
pub(super) fn lost(error: &hyper::Error) -> Reason {
    debug!(%error, "a request failed");
    if error.is_parse() || error.is_parse_status() { Reason::Protocol } else { Reason::Reset }
}
