//! What other hosts' agents send to the mesh port: requests for instances of this host, over HTTP/2 and mutual TLS.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::body::{Reply, Source, Tail};
use super::headers::{CLIENT, WEFT_SERVICE, client, read_caller, read_target, strip, strip_own};
use super::ingress::refuse;
use super::local::{Answered, Body, Head, Lease};
use super::reason::Reason;
use super::{HEAD_BYTES_MAX, http2_server, seen, upgrade};
use crate::identity::PeerIdentity;
use crate::lobby::Place;
use crate::model::Instance;
use crate::proxy::admission::Permit;
use crate::proxy::authorize::{Wanted, admit_request};
use crate::proxy::serving::{Asked, find};
use crate::proxy::traffic::Cells;
use crate::proxy::worker::{ActiveGuard, Worker};

/// Service, instance, tag and caller, of 255 bytes at most each.
const OWN_HEADERS_BYTES_MAX: u32 = 4096;

/// Serves one connection of another host's agent from beginning to end.
pub(in crate::proxy) async fn serve(worker: Rc<Worker>, tls: TlsStream<TcpStream>, peer: PeerIdentity, place: Place) {
    let not_after = peer.not_after;
    let peer = Rc::new(peer);
    let connected = peer.clone();
    let (answering, place) = (worker.clone(), Rc::new(place));
    let waiting = place.clone();
    let service = service_fn(move |request| {
        place.prove();
        answer(answering.clone(), peer.clone(), request)
    });
    // Weft's own headers come on top of what an application may send.
    let mut builder = http2_server(HEAD_BYTES_MAX + OWN_HEADERS_BYTES_MAX);
    builder.enable_connect_protocol();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(tls), service));
    let mut shutdown = worker.shutdown.clone();
    let lifetime = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // What was sent to a host that is gone would be retransmitted for a quarter of an hour.
        () = worker.peer_lost(Some(&connected)) => return,
        () = waiting.shown_out() => return,
        _ = shutdown.wait_for(|stop| *stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        // The certificate ends, and the connection with it; who holds a newer one connects anew.
        () = sleep(lifetime) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "another host's connection for requests ended");
    }
}

async fn answer(
    worker: Rc<Worker>,
    peer: Rc<PeerIdentity>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let service = request.headers().get(WEFT_SERVICE).and_then(|name| name.to_str().ok()).unwrap_or("?").to_owned();
    let seen = seen::begin_in(&worker, &peer, &request);
    let mut rule = None;
    let answered = serve_request(&worker, &peer, request, &mut rule).await;
    let response = answered.unwrap_or_else(|reason| {
        worker.counters.streams_refused.one();
        // The caller's agent says it in the words that its client understands.
        refuse(reason, &service, rule.as_deref(), false)
    });
    if let Some(seen) = seen {
        seen.end_in(&worker, &response);
    }
    Ok(response)
}

async fn serve_request(
    worker: &Rc<Worker>,
    peer: &PeerIdentity,
    request: Request<Incoming>,
    rule: &mut Option<String>,
) -> Result<Response<Reply>, Reason> {
    if *worker.shutdown.borrow() {
        return Err(Reason::Draining);
    }
    if worker.is_revoked(peer) {
        return Err(Reason::NotAllowed);
    }
    let (service, instance, tag) = read_target(request.headers()).ok_or(Reason::BadRequest)?;
    let caller = read_caller(request.headers()).map_err(|_| Reason::BadRequest)?;
    if !worker.may_call_as(peer, caller.as_ref()) {
        return Err(Reason::NotAllowed);
    }
    let client = client(&worker.settings.cluster, caller.as_ref());
    let asked = Asked { service, instance, tag, caller };
    let instance = find(worker, &asked).map_err(|_| Reason::Refused)?;
    admit_request(worker, asked.caller.as_ref(), &asked.service, (request.method(), request.uri())).map_err(
        |denied| {
            *rule = Some(denied.rule);
            Reason::Denied
        },
    )?;
    let policy = worker.directory.load().traffic.of(&asked.service).clone();
    let (id, is_upgrade) = (&instance.id, request.method() == Method::CONNECT);
    let permit = match is_upgrade {
        true => worker.admission.connection(id, asked.caller.as_ref(), &policy.limits)?,
        false => worker.admission.request(id, asked.caller.as_ref(), &policy.limits).await?,
    };
    let under_way = UnderWay::begin(worker, peer, &asked, &instance);
    worker.counters.streams_in.one();
    if is_upgrade {
        let wanted = Wanted::upgrade(asked.caller.clone(), &asked.service, request.uri());
        return Box::pin(upgrade::serve(worker, &instance, (client, permit), wanted, request)).await;
    }
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    // hyper has seen to the framing; what the peer should not have sent goes.
    strip(&mut headers);
    headers.insert(CLIENT, client);
    let head = Head { method: parts.method, uri: parts.uri, headers };
    let body: Body = (!body.is_end_stream()).then(|| Source::new(body));
    let Answered { mut response, lease } = worker.local_pool.send(&instance, &worker.settings, &head, &body).await?;
    under_way.cells.answered(under_way.begun.elapsed());
    strip(response.headers_mut());
    let (parts, body) = response.into_parts();
    let class = parts.status.as_u16() / 100;
    let lease = lease.map(|lease| (lease, worker.clone()));
    Ok(Response::from_parts(parts, Reply::passing(body, Box::new(Passed { under_way, class, lease, _permit: permit }))))
}

/// Removes what only agents set, for who delivers by other ways.
pub(super) fn cleaned(mut headers: HeaderMap) -> HeaderMap {
    strip_own(&mut headers);
    headers
}

/// A request of another host's, counted from its beginning to its end.
struct UnderWay {
    cells: Arc<Cells>,
    begun: Instant,
    class: u16,
    _active: ActiveGuard,
}

impl UnderWay {
    fn begin(worker: &Rc<Worker>, peer: &PeerIdentity, asked: &Asked, instance: &Instance) -> UnderWay {
        let cells = worker.inbound_cells(peer, asked, instance.protocol);
        cells.begin();
        UnderWay { cells, begun: Instant::now(), class: 0, _active: worker.enter() }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.cells.end(self.class);
    }
}

struct Passed {
    under_way: UnderWay,
    class: u16,
    lease: Option<(Lease, Rc<Worker>)>,
    _permit: Option<Permit>,
}

impl Tail for Passed {
    fn finished(mut self: Box<Self>) {
        self.under_way.class = self.class;
        if let Some((lease, worker)) = self.lease.take() {
            worker.local_pool.give_back(lease);
        }
    }

    fn broken(self: Box<Self>) {}
}
