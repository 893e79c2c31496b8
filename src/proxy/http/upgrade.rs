//! Connections that go over to another protocol, WebSocket above all (RFC 9110 §7.8). Only a GET does; other requests that
//! ask for it are carried as if they did not.
//!
//! To an instance of this host the request goes over a connection of its own. To another host it goes as an extended
//! CONNECT (RFC 8441) on the connection for requests; the agent there makes HTTP/1.1 of it again. Once both sides have
//! agreed, bytes are copied both ways until one side ends.

use std::rc::Rc;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::Protocol as ConnectProtocol;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded, on};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::debug;

use super::body::{Payload, Reply, Tail};
use super::egress::cleaned;
use super::forward::{Outcome, caller_in, rule_in};
use super::headers::{CLIENT, insert_caller, insert_target, strip, strip_own};
use super::local::{connect, lost};
use super::plan::Plan;
use super::reason::{Reason, WEFT_ERROR};
use crate::model::{Instance, Service, Tag};
use crate::proxy::admission::Permit;
use crate::proxy::authorize::{Wanted, admit_wanted, turned};
use crate::proxy::endpoints::{Endpoint, Measure, OpenGuard};
use crate::proxy::worker::{ActiveGuard, Worker};

/// Instances tried. Nothing has been sent to one that could not be reached.
const TRIES_MAX: usize = 4;
const COPY_BYTES: usize = 16 * 1024;

/// What the application wants to go over to, between agents.
const WEFT_UPGRADE: HeaderName = HeaderName::from_static("weft-upgrade");
/// The service's own status, where the stream must carry another: 2xx would mean that both went over.
const WEFT_STATUS: HeaderName = HeaderName::from_static("weft-status");
/// The name under which agents agree on it (RFC 8441 §4).
const CONNECT_PROTOCOL: &str = "weft-upgrade";

/// The caller's side: carries a request that wants an upgrade, and what follows.
pub(super) async fn carry(
    worker: &Rc<Worker>,
    (plan, tag, caller): (Plan, Option<Tag>, Option<HeaderValue>),
    mut request: Request<Incoming>,
    protocol: HeaderValue,
    outcome: &mut Outcome,
) -> Result<Response<Reply>, Reason> {
    let application = on(&mut request);
    let (parts, _) = request.into_parts();
    let wanted = Wanted::upgrade(caller_in(caller.as_ref()), &plan.service.name, &parts.uri);
    let mut tried = Vec::new();
    let mut last = Reason::NoInstance;
    while tried.len() < TRIES_MAX {
        let endpoint = {
            let directory = worker.directory.load();
            let rng = &mut *worker.rng.borrow_mut();
            worker.endpoints.choose(&directory, &plan.wanted(&plan.service, tag.as_ref(), Measure::Open), &tried, rng)
        };
        let Some(endpoint) = endpoint else { break };
        outcome.endpoint = Some(endpoint.clone());
        outcome.tries += 1;
        let mut head = Request::new(Payload::Empty);
        // As it is judged.
        *head.method_mut() = Method::GET;
        *head.uri_mut() = parts.uri.clone();
        *head.headers_mut() = parts.headers.clone();
        let limit = plan.timeouts.request.or(endpoint.instance.request_timeout);
        let limit = limit.unwrap_or(worker.settings.request_timeout);
        let is_here = endpoint.node.id == worker.local;
        let mut rule = None;
        let asked = async {
            if is_here {
                admit_wanted(worker, &wanted).map_err(|denied| {
                    rule = Some(denied.rule);
                    Reason::Denied
                })?;
                ask_here(worker, &endpoint.instance, head, &protocol).await
            } else {
                insert_caller(head.headers_mut(), caller.as_ref());
                ask_there(worker, (&plan.service, tag.as_ref()), &endpoint, head, &protocol, &mut rule).await
            }
        };
        let asked = timeout(limit, asked).await.unwrap_or(Err(Reason::Timeout));
        outcome.rule = rule;
        match asked {
            Ok(response) => return Ok(begin(worker, &endpoint, application, response, is_here.then_some(wanted))),
            Err(reason) if reason.is_untouched() => {
                worker.counters.retries.one();
                tried.push(endpoint.key());
                last = reason;
            }
            Err(reason) => return Err(reason),
        }
    }
    Err(last)
}

async fn ask_here(
    worker: &Rc<Worker>,
    instance: &Instance,
    mut request: Request<Payload>,
    protocol: &HeaderValue,
) -> Result<Response<Incoming>, Reason> {
    let tcp = connect(instance, &worker.settings).await?;
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(UPGRADE, protocol.clone());
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(|error| lost(&error))?;
    spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "a connection to a service ended");
        }
    });
    sender.send_request(request).await.map_err(|error| lost(&error))
}

async fn ask_there(
    worker: &Rc<Worker>,
    (service, tag): (&Service, Option<&Tag>),
    endpoint: &Endpoint,
    mut request: Request<Payload>,
    protocol: &HeaderValue,
    rule: &mut Option<String>,
) -> Result<Response<Incoming>, Reason> {
    let place = worker.channels.place(worker, &endpoint.node).await.map_err(|error| {
        if !error.is_local() {
            worker.mesh_failed(endpoint.node.id);
        }
        Reason::ConnectFailed
    })?;
    let headers = request.headers_mut();
    insert_target(headers, &service.name, &endpoint.instance.id, tag).map_err(|_| Reason::BadRequest)?;
    headers.insert(WEFT_UPGRADE, protocol.clone());
    // An extended CONNECT has a path, unlike a plain one; the scheme and authority are filled in for it.
    let target = format!("http://{}{}", service.name, request.uri());
    *request.uri_mut() = target.parse().map_err(|_| Reason::BadRequest)?;
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(ConnectProtocol::from_static(CONNECT_PROTOCOL));
    let mut response = place.sender().send_request(request).await.map_err(|error| lost(&error))?;
    if let Some(reason) = response.headers().get(WEFT_ERROR) {
        *rule = rule_in(&response).flatten();
        return Err(Reason::parse(reason.as_bytes()).unwrap_or(Reason::Protocol));
    }
    let status = response.headers().get(WEFT_STATUS).and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok());
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        if let Some(taken) = response.headers().get(WEFT_UPGRADE).cloned() {
            response.headers_mut().insert(UPGRADE, taken);
        }
    } else if let Some(status) = status {
        *response.status_mut() = status;
    }
    Ok(response)
}

/// Answers the application, and copies once it has gone over.
fn begin(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    application: OnUpgrade,
    mut response: Response<Incoming>,
    judged_here: Option<Wanted>,
) -> Response<Reply> {
    endpoint.stats.cells.begin();
    let class = response.status().as_u16() / 100;
    let counted = Counted {
        worker: worker.clone(),
        endpoint: endpoint.clone(),
        class,
        _open: endpoint.enter(),
        _active: worker.enter(),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip(response.headers_mut());
        let (parts, body) = response.into_parts();
        return Response::from_parts(parts, Reply::passing(body, Box::new(counted)));
    }
    let service = on(&mut response);
    let taken = response.headers().get(UPGRADE).cloned();
    strip(response.headers_mut());
    let mut answer = Response::new(Reply::Own(None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(taken) = taken {
        answer.headers_mut().insert(UPGRADE, taken);
    }
    spawn_local(async move {
        join(&counted.worker, application, service, judged_here).await;
        drop(counted);
    });
    answer
}

/// The serving side: makes HTTP/1.1 of an extended CONNECT, and copies once the service has gone over.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    instance: &Instance,
    (client, permit): (HeaderValue, Option<Permit>),
    wanted: Wanted,
    mut request: Request<Incoming>,
) -> Result<Response<Reply>, Reason> {
    let is_ours = request.extensions().get::<ConnectProtocol>().is_some_and(|name| name.as_str() == CONNECT_PROTOCOL);
    let protocol = request.headers().get(WEFT_UPGRADE).cloned().filter(|_| is_ours).ok_or(Reason::BadRequest)?;
    let caller = on(&mut request);
    let (parts, _) = request.into_parts();
    let mut head = Request::new(Payload::Empty);
    *head.method_mut() = Method::GET;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    *head.uri_mut() = path.parse().map_err(|_| Reason::BadRequest)?;
    *head.headers_mut() = cleaned(parts.headers);
    head.headers_mut().insert(CLIENT, client);
    let mut response = ask_here(worker, instance, head, &protocol).await?;
    let service = on(&mut response);
    let taken = response.headers().get(UPGRADE).cloned();
    let status = response.status();
    strip(response.headers_mut());
    let (mut parts, body) = response.into_parts();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        if status.is_success() {
            // On CONNECT success means that both went over.
            parts.headers.insert(WEFT_STATUS, HeaderValue::from(status.as_u16()));
            parts.status = StatusCode::MISDIRECTED_REQUEST;
        }
        return Ok(Response::from_parts(parts, Reply::passing(body, Box::new(Kept { _active: worker.enter() }))));
    }
    parts.status = StatusCode::OK;
    strip_own(&mut parts.headers);
    if let Some(taken) = taken {
        parts.headers.insert(WEFT_UPGRADE, taken);
    }
    let active = worker.enter();
    let worker = worker.clone();
    spawn_local(async move {
        join(&worker, caller, service, Some(wanted)).await;
        drop((active, permit));
    });
    Ok(Response::from_parts(parts, Reply::Own(None)))
}

/// Copies both ways until both have ended, or an intention has turned against a call that is judged here.
async fn join(worker: &Worker, one: OnUpgrade, other: OnUpgrade, judged_here: Option<Wanted>) {
    let (one, other) = match tokio::try_join!(one, other) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "one side did not go over to the other protocol"),
    };
    let (mut one, mut other): (TokioIo<Upgraded>, TokioIo<Upgraded>) = (TokioIo::new(one), TokioIo::new(other));
    // A side that breaks off ends both, as it does without anybody in between.
    let copied = copy_bidirectional_with_sizes(&mut one, &mut other, COPY_BYTES, COPY_BYTES);
    let turned = async {
        match &judged_here {
            Some(wanted) => turned(worker, wanted).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = copied => {}
        () = turned => {}
    }
}

/// An upgraded connection, counted until it ends.
struct Counted {
    worker: Rc<Worker>,
    endpoint: Endpoint,
    class: u16,
    _open: OpenGuard,
    _active: ActiveGuard,
}

impl Tail for Counted {
    fn finished(self: Box<Self>) {}

    fn broken(mut self: Box<Self>) {
        self.class = 0;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.endpoint.stats.cells.end(self.class);
        self.worker.counters.upgrades_ended.one();
    }
}

/// Holds the agent's end back until the reply has been sent.
struct Kept {
    _active: ActiveGuard,
}

impl Tail for Kept {
    fn finished(self: Box<Self>) {}
    fn broken(self: Box<Self>) {}
}
