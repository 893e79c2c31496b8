//! One request: an instance is chosen, asked, and if it saw nothing of the request, another one is.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Response, Uri};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::body::{Payload, Reply, Source, Tail};
use super::channel::Place;
use super::headers::{insert_caller, insert_target, strip, strip_own};
use super::local::{Answered, Body, Head, Lease, is_connection_lost, is_refused, lost};
use super::reason::{Reason, WEFT_ERROR, WEFT_RULE};
use crate::model::{Directory, NodeId, Protocol, Service, ServiceId, ServiceName, Tag};
use crate::proxy::authorize::admit_request;
use crate::proxy::endpoints::{Endpoint, Measure, OpenGuard};
use crate::proxy::traffic::Cells;
use crate::proxy::worker::{ActiveGuard, Worker};

/// Instances tried for one request. Each try costs at most a connect's time.
const TRIES_MAX: usize = 4;

/// A request that an application made, in Weft's own form.
pub(super) struct Call {
    pub(super) service: Arc<Service>,
    pub(super) tag: Option<Tag>,
    /// Which service calls.
    pub(super) caller: Option<HeaderValue>,
    pub(super) head: Head,
    pub(super) body: Body,
    /// Which rule denied it.
    denied_by: RefCell<Option<String>>,
}

/// What became of it, for the access log.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) endpoint: Option<Endpoint>,
    pub(super) tries: usize,
    /// Which rule denied it.
    pub(super) rule: Option<String>,
}

impl Call {
    pub(super) fn new(
        (service, tag, caller): (Arc<Service>, Option<Tag>, Option<HeaderValue>),
        (method, uri): (Method, Uri),
        headers: hyper::HeaderMap,
        body: Incoming,
    ) -> Call {
        let body = (!body.is_end_stream()).then(|| Source::new(body));
        Call { service, tag, caller, head: Head { method, uri, headers }, body, denied_by: RefCell::default() }
    }

    /// Carries it. `Err` is what Weft answers itself.
    pub(super) async fn carry(self, worker: &Rc<Worker>, outcome: &mut Outcome) -> Result<Response<Reply>, Reason> {
        let mut tried: Vec<(NodeId, ServiceId)> = Vec::new();
        let mut last = Reason::NoInstance;
        while tried.len() < TRIES_MAX {
            let Some(endpoint) = self.choose(worker, &tried) else { break };
            if !tried.is_empty() {
                worker.counters.retries.one();
            }
            outcome.tries += 1;
            let under_way = UnderWay::begin(worker, &endpoint);
            let begun = Instant::now();
            let asked = self.ask(worker, &endpoint, begun).await;
            outcome.endpoint = Some(endpoint.clone());
            outcome.rule = self.denied_by.take();
            match asked {
                Ok(answer) => {
                    // What it took to connect says nothing of the next request.
                    worker.endpoints.observe(&endpoint, answer.asked_at.elapsed());
                    endpoint.stats.cells.answered(begun.elapsed());
                    return Ok(pass(answer, under_way, worker));
                }
                Err(reason) => {
                    // What is wrong with the request is not the instance's fault.
                    if !matches!(reason, Reason::BadRequest | Reason::NotAllowed | Reason::Denied) {
                        worker.endpoints.avoid(&endpoint);
                    }
                    if !self.may_go_elsewhere(reason) {
                        return Err(reason);
                    }
                    under_way.goes_elsewhere();
                    debug!(service = %self.service.name, node = %endpoint.node.facts.name, reason = reason.as_str(), "tried elsewhere");
                    tried.push(endpoint.key());
                    last = reason;
                }
            }
        }
        Err(last)
    }

    /// True if another instance can be asked: nobody has seen the request, or it does no harm that somebody may have (RFC
    /// 9110 §9.2.2), and all of its body is at hand.
    fn may_go_elsewhere(&self, reason: Reason) -> bool {
        let is_safe = reason.is_untouched() || (reason == Reason::HostLost && self.head.method.is_idempotent());
        is_safe && self.body.as_ref().is_none_or(|source| source.borrow().is_whole())
    }

    fn choose(&self, worker: &Worker, tried: &[(NodeId, ServiceId)]) -> Option<Endpoint> {
        let directory = worker.directory.load();
        let service = directory.services.get(&self.service.name)?;
        let rng = &mut *worker.rng.borrow_mut();
        worker.endpoints.choose(&directory, service, self.tag.as_ref(), Measure::Latency, tried, rng)
    }

    /// Asks one instance and waits for the head of its response, as long as the request may take.
    async fn ask(&self, worker: &Rc<Worker>, endpoint: &Endpoint, begun: Instant) -> Result<Answer, Reason> {
        let asked = async {
            if endpoint.node.id == worker.local {
                let (caller, request) = (caller_in(self.caller.as_ref()), (&self.head.method, &self.head.uri));
                admit_request(worker, caller.as_ref(), &self.service.name, request)
                    .map_err(|denied| self.denied(Some(denied.rule)))?;
                worker.counters.direct.one();
                let Answered { mut response, lease } =
                    worker.local_pool.send(&endpoint.instance, &worker.settings, &self.head, &self.body).await?;
                strip(response.headers_mut());
                Ok(Answer { response, lease, place: None, asked_at: begun })
            } else {
                self.ask_host(worker, endpoint).await
            }
        };
        let Some(limit) = self.limit(worker, endpoint) else { return asked.await };
        tokio::select! {
            answer = asked => answer,
            () = self.overdue(begun, limit) => Err(Reason::Timeout),
        }
    }

    fn denied(&self, rule: Option<String>) -> Reason {
        *self.denied_by.borrow_mut() = rule;
        Reason::Denied
    }

    /// A response to gRPC and plain HTTP/2 may begin when its stream has something to say: only the service knows when
    /// that is too late.
    fn limit(&self, worker: &Worker, endpoint: &Endpoint) -> Option<Duration> {
        let default = match endpoint.instance.protocol {
            Protocol::Http2 | Protocol::Grpc => None,
            Protocol::Http | Protocol::Tcp => Some(worker.settings.request_timeout),
        };
        endpoint.instance.request_timeout.or(default)
    }

    /// Ends when nothing has come from the application for `limit`, and so nothing keeps the instance waiting.
    async fn overdue(&self, begun: Instant, limit: Duration) {
        loop {
            let moved_at = self.body.as_ref().map_or(begun, |source| source.borrow().moved_at());
            let left = (moved_at.max(begun) + limit).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    /// Asks an instance of another host through its agent.
    async fn ask_host(&self, worker: &Rc<Worker>, endpoint: &Endpoint) -> Result<Answer, Reason> {
        let node = &endpoint.node;
        loop {
            let place = worker.channels.place(worker, node).await.map_err(|error| {
                debug!(node = %node.facts.name, address = %node.facts.mesh, %error, "no connection for requests");
                if !error.is_local() {
                    worker.mesh_failed(node.id);
                }
                Reason::ConnectFailed
            })?;
            let request = self.to_host(endpoint)?;
            let asked_at = Instant::now();
            match place.sender().try_send_request(request).await {
                Ok(response) => {
                    worker.counters.streams_out.one();
                    if let Some(rule) = rule_in(&response) {
                        return Err(self.denied(rule));
                    }
                    return judge(response, place, asked_at);
                }
                // The connection was closing: it has seen nothing.
                Err(mut error) => match error.take_message() {
                    Some(_) => {}
                    None if is_refused(error.error()) => return Err(Reason::Refused),
                    None if is_connection_lost(error.error()) => return Err(Reason::HostLost),
                    None => return Err(lost(error.error())),
                },
            }
        }
    }

    fn to_host(&self, endpoint: &Endpoint) -> Result<hyper::Request<Payload>, Reason> {
        let mut request = hyper::Request::new(Payload::of(self.body.as_ref()));
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.headers_mut() = self.head.headers.clone();
        insert_target(request.headers_mut(), &self.service.name, &endpoint.instance.id, self.tag.as_ref())
            .map_err(|_| Reason::BadRequest)?;
        insert_caller(request.headers_mut(), self.caller.as_ref());
        Ok(request)
    }
}

/// The head of a response, and what its body holds on to.
struct Answer {
    response: Response<Incoming>,
    lease: Option<Lease>,
    place: Option<Place>,
    /// When there was a connection to ask over.
    asked_at: Instant,
}

/// The caller that is claimed, as a name.
pub(super) fn caller_in(claim: Option<&HeaderValue>) -> Option<ServiceName> {
    ServiceName::parse(claim?.to_str().ok()?).ok()
}

/// `Some` if the other host's agent denied the call, with the rule where it told it.
pub(super) fn rule_in(response: &Response<Incoming>) -> Option<Option<String>> {
    let error = response.headers().get(WEFT_ERROR)?;
    let rule = || response.headers().get(WEFT_RULE)?.to_str().ok().map(str::to_owned);
    (Reason::parse(error.as_bytes()) == Some(Reason::Denied)).then(rule)
}

/// What the other host's agent says itself is taken as if it had happened here.
fn judge(mut response: Response<Incoming>, place: Place, asked_at: Instant) -> Result<Answer, Reason> {
    if let Some(reason) = response.headers().get(WEFT_ERROR) {
        return Err(Reason::parse(reason.as_bytes()).unwrap_or(Reason::Protocol));
    }
    strip_own(response.headers_mut());
    Ok(Answer { response, lease: None, place: Some(place), asked_at })
}

fn pass(answer: Answer, under_way: UnderWay, worker: &Rc<Worker>) -> Response<Reply> {
    let (parts, body) = answer.response.into_parts();
    let class = parts.status.as_u16() / 100;
    let lease = answer.lease.map(|lease| (lease, worker.clone()));
    let passed = Passed { under_way, class, is_broken: false, lease, _place: answer.place };
    Response::from_parts(parts, Reply::passing(body, Box::new(passed)))
}

/// A call at an instance, counted from its beginning to its end.
struct UnderWay {
    cells: Arc<Cells>,
    class: u16,
    is_told: bool,
    _open: OpenGuard,
    _active: ActiveGuard,
}

impl UnderWay {
    fn begin(worker: &Rc<Worker>, endpoint: &Endpoint) -> UnderWay {
        endpoint.stats.cells.begin();
        let (open, active) = (endpoint.enter(), worker.enter());
        UnderWay { cells: endpoint.stats.cells.clone(), class: 0, is_told: false, _open: open, _active: active }
    }

    fn goes_elsewhere(mut self) {
        self.is_told = true;
        self.cells.retry();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_told {
            self.cells.end(self.class);
        }
    }
}

/// A response on its way to the application.
struct Passed {
    under_way: UnderWay,
    class: u16,
    is_broken: bool,
    lease: Option<(Lease, Rc<Worker>)>,
    _place: Option<Place>,
}

impl Tail for Passed {
    fn finished(mut self: Box<Self>) {
        if let Some((lease, worker)) = self.lease.take() {
            worker.local_pool.give_back(lease);
        }
    }

    fn broken(mut self: Box<Self>) {
        self.is_broken = true;
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        // An application that does not want the rest got its answer all the same.
        if !self.is_broken {
            self.under_way.class = self.class;
        }
    }
}

/// The address that other hosts know this one by.
pub(super) fn own_address(directory: &Directory) -> IpAddr {
    directory.nodes.get(&directory.local).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |node| node.facts.address)
}
