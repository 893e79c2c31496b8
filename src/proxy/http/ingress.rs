//! What applications send to a service's address: HTTP/1.1 or HTTP/2 by prior knowledge, told apart by the first bytes.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::access_log::Line;
use super::body::Reply;
use super::forward::{Call, Outcome, own_address};
use super::headers::{self, admit, is_grpc, wants_upgrade};
use super::plan::Plan;
use super::reason::{Reason, WEFT_ERROR, WEFT_RULE};
use super::{HEAD_BYTES_MAX, HEADERS_MAX, http2_server, seen, upgrade};
use crate::lobby::Place;
use crate::model::{ServiceName, Tag};
use crate::proxy::worker::Worker;

/// The first bytes of HTTP/2 (RFC 9113 §3.4); no method of HTTP/1.1 begins so.
const PREFACE: &[u8] = b"PRI * ";
/// While a client has sent no more than the preface's first letters; doubled each time, so that thousands who stop there do
/// not keep a processor busy.
const PREFACE_PAUSE: Duration = Duration::from_millis(1);
const PREFACE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// When to come again after a refusal as one too many, in seconds: limits move within one.
const RETRY_AFTER_S: &str = "1";

/// What a service address stands for.
pub(in crate::proxy) struct Target {
    pub(in crate::proxy) service: ServiceName,
    pub(in crate::proxy) tag: Option<Tag>,
    /// Which service calls, for another host's agent; `None` is anonymous.
    claim: Option<HeaderValue>,
    /// The same for the service that is called.
    client: HeaderValue,
    /// Among the connections that have asked for nothing yet.
    place: Place,
}

impl Target {
    pub(in crate::proxy) fn new(
        service: ServiceName,
        tag: Option<Tag>,
        caller: Option<&ServiceName>,
        cluster: &str,
        place: Place,
    ) -> Target {
        let claim = caller.and_then(|caller| HeaderValue::from_str(caller.as_str()).ok());
        Target { service, tag, claim, client: headers::client(cluster, caller), place }
    }

    pub(super) fn claim(&self) -> Option<&HeaderValue> {
        self.claim.as_ref()
    }
}

/// Serves one connection of an application from beginning to end.
pub(in crate::proxy) async fn serve(worker: Rc<Worker>, tcp: TcpStream, target: Target) {
    let first = tokio::select! {
        first = timeout(worker.settings.head_timeout, speaks_http2(&tcp)) => first,
        () = target.place.shown_out() => return,
    };
    let ended = match first {
        // On the heap from here on, so that a connection that says nothing costs little.
        Ok(Ok(true)) => Box::pin(serve_http2(&worker, tcp, target)).await,
        Ok(Ok(false)) => Box::pin(serve_http1(&worker, tcp, target)).await,
        Ok(Err(_)) | Err(_) => return,
    };
    if let Err(error) = ended {
        if error.is_parse() || error.is_parse_too_large() {
            worker.counters.malformed.one();
        }
        debug!(%error, "an application's connection ended");
    }
}

async fn speaks_http2(tcp: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    let mut pause = PREFACE_PAUSE;
    loop {
        let there = tcp.peek(&mut first).await?;
        if there == 0 || first[..there] != PREFACE[..there] {
            return Ok(false);
        }
        if there == PREFACE.len() {
            return Ok(true);
        }
        sleep(pause).await;
        // What was peeked at hides the end behind it.
        if tcp.ready(Interest::READABLE).await?.is_read_closed() {
            return Ok(false);
        }
        pause = (pause * 2).min(PREFACE_PAUSE_MAX);
    }
}

async fn serve_http1(worker: &Rc<Worker>, tcp: TcpStream, target: Target) -> hyper::Result<()> {
    let target = Rc::new(target);
    let answering = worker.clone();
    let waiting = target.clone();
    let service = service_fn(move |request| answer(answering.clone(), target.clone(), request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(worker.settings.head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX as usize);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(tcp), service).with_upgrades());
    let mut shutdown = worker.shutdown.clone();
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = waiting.place.shown_out() => return Ok(()),
        _ = shutdown.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2(worker: &Rc<Worker>, tcp: TcpStream, target: Target) -> hyper::Result<()> {
    let target = Rc::new(target);
    let answering = worker.clone();
    let waiting = target.clone();
    let service = service_fn(move |request| answer(answering.clone(), target.clone(), request));
    let mut connection = pin!(http2_server(HEAD_BYTES_MAX).serve_connection(TokioIo::new(tcp), service));
    let mut shutdown = worker.shutdown.clone();
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = waiting.place.shown_out() => return Ok(()),
        _ = shutdown.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Answers one request: with what an instance says, or with why none did.
async fn answer(
    worker: Rc<Worker>,
    target: Rc<Target>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let begun = Instant::now();
    target.place.prove();
    worker.counters.requests.one();
    let version = request.version();
    let mut line = Line::begin(worker.access_log.as_ref(), &request, &target.service);
    let seen = seen::begin_out(&worker, &target, &request);
    let is_grpc = is_grpc(request.headers());
    let mut outcome = Outcome::default();
    let answered = carry(&worker, &target, request, &mut outcome).await;
    let mut response = answered.unwrap_or_else(|reason| {
        worker.traffic.failed(target.service.as_str(), reason.as_str());
        refuse(reason, target.service.as_str(), outcome.rule.as_deref(), is_grpc)
    });
    // hyper writes the version of the connection; HTTP/1.0 clients get HTTP/1.0.
    *response.version_mut() = if version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    if let Some(line) = &mut line {
        line.end(&response, &outcome, begun.elapsed());
    }
    if let Some(seen) = seen {
        seen.end_out(&response, &outcome);
    }
    Ok(response)
}

async fn carry(
    worker: &Rc<Worker>,
    target: &Target,
    request: Request<Incoming>,
    outcome: &mut Outcome,
) -> Result<Response<Reply>, Reason> {
    let (mut parts, body) = request.into_parts();
    let wanted = wants_upgrade(&parts);
    admit(&mut parts, target.service.as_str()).map_err(|malformed| {
        worker.counters.malformed.one();
        debug!(why = malformed.0, "a request was refused");
        Reason::BadRequest
    })?;
    let plan = {
        let directory = worker.directory.load();
        headers::prepare(&mut parts.headers, own_address(&directory));
        let rng = &mut *worker.rng.borrow_mut();
        Plan::of(&directory, (&target.service, target.tag.as_ref()), &mut parts, Instant::now(), rng)?
    };
    parts.headers.insert(headers::CLIENT, target.client.clone());
    let asked = (plan, target.tag.clone(), target.claim.clone());
    if let Some(protocol) = wanted {
        let request = Request::from_parts(parts, body);
        // Rare and large: on the heap, so that it does not make every request's future larger.
        return Box::pin(upgrade::carry(worker, asked, request, protocol, outcome)).await;
    }
    let call = Call::new(asked, (parts.method, parts.uri), parts.headers, body);
    call.carry(worker, outcome).await
}

/// Weft's own answer.
pub(super) fn refuse(reason: Reason, service: &str, rule: Option<&str>, is_grpc: bool) -> Response<Reply> {
    let rule = rule.filter(|_| reason == Reason::Denied);
    let mut response = Response::new(Reply::Own(None));
    response.headers_mut().insert(WEFT_ERROR, HeaderValue::from_static(reason.as_str()));
    if let Some(rule) = rule.and_then(|rule| HeaderValue::from_str(rule).ok()) {
        response.headers_mut().insert(WEFT_RULE, rule);
    }
    if reason.is_too_many() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    if is_grpc {
        // A response of headers alone, as gRPC over HTTP/2 has it: clients read the status there.
        let message = reason.sentence(service, rule).trim_end().replace('%', "%25");
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(reason.grpc_status()));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert("grpc-message", message);
        }
        return response;
    }
    *response.status_mut() = reason.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *response.body_mut() = Reply::Own(Some(Bytes::from(reason.sentence(service, rule))));
    response
}
