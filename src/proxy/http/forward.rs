//! One request: an instance is chosen, asked, and if it saw nothing of the request, another one is.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Response, StatusCode, Uri};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::body::{Payload, Reply, Source, Tail};
use super::channel::Place;
use super::headers::{insert_caller, insert_target, strip, strip_own};
use super::local::{Answered, Body, Head, Lease, is_connection_lost, is_refused, lost};
use super::plan::{Plan, RETRIED};
use super::reason::{Reason, WEFT_ERROR, WEFT_RULE};
use crate::model::{Directory, NodeId, Protocol, ServiceId, ServiceName, Tag};
use crate::proxy::admission::Permit;
use crate::proxy::authorize::admit_request;
use crate::proxy::endpoints::{Endpoint, Measure, OpenGuard};
use crate::proxy::pressure::{self, OnService};
use crate::proxy::worker::{ActiveGuard, Worker};
use crate::route;

/// Instances tried for one request, whatever operators allow.
const TRIES_MAX: usize = 4;

/// Whether a request may be asked of another instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It may not.
    Never,
    /// No instance has seen anything of it.
    Untouched,
    /// An instance may have, or was asked too much: as long as there are not many such.
    FromBudget,
}

/// A request that an application made, in Weft's own form.
pub(super) struct Call {
    plan: Plan,
    tag: Option<Tag>,
    /// Which service calls.
    caller: Option<HeaderValue>,
    head: Head,
    body: Body,
    begun: Instant,
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
        (plan, tag, caller): (Plan, Option<Tag>, Option<HeaderValue>),
        (method, uri): (Method, Uri),
        headers: hyper::HeaderMap,
        body: Incoming,
    ) -> Call {
        let body = (!body.is_end_stream()).then(|| Source::new(body));
        let head = Head { method, uri, headers };
        Call { plan, tag, caller, head, body, begun: Instant::now(), denied_by: RefCell::default() }
    }

    /// Carries it. `Err` is what Weft answers itself.
    pub(super) async fn carry(mut self, worker: &Rc<Worker>, outcome: &mut Outcome) -> Result<Response<Reply>, Reason> {
        let on = worker.pressure_on(&self.plan.service.name);
        let place = on.enter(&self.plan.policy).ok_or(Reason::Limited)?;
        let mut tried: Vec<(NodeId, ServiceId)> = Vec::new();
        // Of the tries, those of which an instance may have seen something.
        let mut seen = 0;
        let mut next = self.choose(worker, &tried).ok_or(Reason::NoInstance)?;
        loop {
            let endpoint = next;
            outcome.tries += 1;
            let mut under_way = UnderWay::begin(worker, &endpoint);
            let asked = self.ask(worker, &endpoint, outcome.tries).await;
            outcome.endpoint = Some(endpoint.clone());
            outcome.rule = self.denied_by.take();
            under_way.is_answered = true;
            self.learn(worker, &endpoint, &on, &asked, under_way.begun);
            let again = match &asked {
                Ok(answer) => self.may_repeat_answered(answer),
                Err(reason) => self.may_repeat_failed(*reason),
            };
            tried.push(endpoint.key());
            seen += u8::from(again != Again::Untouched);
            let retries_max = self.plan.policy.retries.max;
            let is_allowed = tried.len() < TRIES_MAX
                && match again {
                    Again::Never => false,
                    Again::Untouched => true,
                    // What the budget gives is taken only where there is somebody to ask.
                    Again::FromBudget => seen <= retries_max && !self.plan.is_retry,
                };
            let other = if is_allowed { self.choose(worker, &tried) } else { None };
            let other = other.filter(|_| again == Again::Untouched || on.may_retry());
            match (other, asked) {
                (Some(other), asked) => {
                    worker.counters.retries.one();
                    under_way.goes_elsewhere();
                    debug!(service = %self.plan.service.name, node = %endpoint.node.facts.name, error = ?asked.err(), "tried elsewhere");
                    if again == Again::FromBudget {
                        self.pause(worker, seen - 1).await;
                    }
                    next = other;
                }
                (None, Ok(answer)) => return Ok(pass(answer, (under_way, place), worker, seen > 1)),
                (None, Err(reason)) => return Err(reason),
            }
        }
    }

    /// Before the request is repeated, so that many that failed at once do not come back at once.
    async fn pause(&self, worker: &Worker, attempt: u8) {
        let pause = route::backoff(attempt, &self.plan.policy.retries, &mut *worker.rng.borrow_mut());
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// Takes down what a try says of its instance.
    fn learn(
        &self,
        worker: &Worker,
        endpoint: &Endpoint,
        on: &OnService,
        asked: &Result<Answer, Reason>,
        begun: Instant,
    ) {
        let (endpoints, policy) = (&worker.endpoints, &self.plan.policy);
        match asked {
            Ok(answer) => {
                // What it took to connect says nothing of the next request.
                let latency = answer.asked_at.elapsed();
                endpoint.stats.cells.answered(begun.elapsed());
                on.succeeded();
                match answer.response.status() {
                    status if status.is_server_error() => endpoints.failed(endpoint, policy, Some(latency)),
                    StatusCode::TOO_MANY_REQUESTS => endpoints.penalize(endpoint, latency),
                    _ => endpoints.succeeded(endpoint, latency),
                }
            }
            Err(Reason::Timeout) => {
                let waited = begun.elapsed();
                let is_applications = self.plan.deadline.is_some_and(|deadline| deadline <= Instant::now());
                // An application that gives an instance less than it always takes says nothing of it; else any program
                // could have instances ejected for all others.
                if is_applications && !endpoints.is_slow_for(endpoint, waited) {
                    endpoints.given_up(endpoint, waited);
                } else {
                    on.overloaded();
                    endpoints.failed(endpoint, policy, Some(waited));
                }
            }
            Err(Reason::Overloaded) => {
                on.overloaded();
                endpoints.avoid(endpoint);
            }
            Err(Reason::Refused | Reason::Draining) => endpoints.avoid(endpoint),
            // What is wrong with the request is not the instance's fault.
            Err(reason) if reason.is_callers_own() => {}
            Err(_) => endpoints.failed(endpoint, policy, None),
        }
    }

    /// An instance failed to answer.
    fn may_repeat_failed(&self, reason: Reason) -> Again {
        let retries = &self.plan.policy.retries;
        match reason {
            _ if !self.is_whole() => Again::Never,
            reason if reason.is_untouched() => Again::Untouched,
            Reason::Overloaded => Again::FromBudget,
            // It does no harm that an instance may have seen it (RFC 9110 §9.2.2).
            Reason::HostLost if self.head.method.is_idempotent() => Again::FromBudget,
            Reason::Reset | Reason::Timeout if retries.on_reset && self.head.method.is_idempotent() => {
                if self.time_left().is_none_or(|left| !left.is_zero()) { Again::FromBudget } else { Again::Never }
            }
            _ => Again::Never,
        }
    }

    /// An instance answered with an error of its own.
    fn may_repeat_answered(&self, answer: &Answer) -> Again {
        let status = answer.response.status();
        let is_passing = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
        let may = is_passing && self.plan.policy.retries.on_server_error && self.head.method.is_idempotent();
        let has_retried = answer.response.headers().contains_key(RETRIED);
        if may && !has_retried && self.is_whole() { Again::FromBudget } else { Again::Never }
    }

    /// All of its body is at hand.
    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(|source| source.borrow().is_whole())
    }

    fn choose(&self, worker: &Worker, tried: &[(NodeId, ServiceId)]) -> Option<Endpoint> {
        let directory = worker.directory.load();
        let service = directory.services.get(&self.plan.service.name)?;
        let rng = &mut *worker.rng.borrow_mut();
        worker.endpoints.choose(&directory, &self.plan.wanted(service, self.tag.as_ref(), Measure::Latency), tried, rng)
    }

    /// Asks one instance and waits for the head of its response, as long as the request may take.
    async fn ask(&mut self, worker: &Rc<Worker>, endpoint: &Endpoint, tries: usize) -> Result<Answer, Reason> {
        let begun = Instant::now();
        let limit = self.limit(worker, endpoint);
        let said = self.plan.timeouts.request.is_some() || self.plan.deadline.is_some();
        let left = if said { self.time_left_of(limit) } else { None };
        self.plan.tell(&mut self.head.headers, left, tries);
        let this = &*self;
        let asked = async {
            if endpoint.node.id == worker.local {
                this.ask_here(worker, endpoint, begun).await
            } else {
                this.ask_host(worker, endpoint).await
            }
        };
        if limit.is_none() && this.plan.deadline.is_none() && this.plan.timeouts.per_try.is_none() {
            return asked.await;
        }
        tokio::select! {
            answer = asked => answer,
            () = this.overdue(begun, limit) => Err(Reason::Timeout),
        }
    }

    /// Asks an instance of this host.
    async fn ask_here(&self, worker: &Rc<Worker>, endpoint: &Endpoint, asked_at: Instant) -> Result<Answer, Reason> {
        let (caller, request) = (caller_in(self.caller.as_ref()), (&self.head.method, &self.head.uri));
        let service = &self.plan.service.name;
        admit_request(worker, caller.as_ref(), service, request).map_err(|denied| self.denied(Some(denied.rule)))?;
        let permit = worker.admission.request(&endpoint.instance.id, caller.as_ref(), &self.plan.policy.limits).await?;
        worker.counters.direct.one();
        let Answered { mut response, lease } =
            worker.local_pool.send(&endpoint.instance, &worker.settings, &self.head, &self.body).await?;
        strip(response.headers_mut());
        Ok(Answer { response, lease, place: None, permit, asked_at })
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
        self.plan.timeouts.request.or(endpoint.instance.request_timeout).or(default)
    }

    /// What is left of the time that was said for it.
    fn time_left(&self) -> Option<Duration> {
        self.time_left_of(self.plan.timeouts.request)
    }

    fn time_left_of(&self, limit: Option<Duration>) -> Option<Duration> {
        let now = Instant::now();
        let of_limit = limit.map(|limit| (self.moved_at(self.begun) + limit).saturating_duration_since(now));
        let of_deadline = self.plan.deadline.map(|deadline| deadline.saturating_duration_since(now));
        [of_limit, of_deadline].into_iter().flatten().min()
    }

    /// When the application last sent something of the request, which kept the instance waiting until then.
    fn moved_at(&self, begun: Instant) -> Instant {
        self.body.as_ref().map_or(begun, |source| source.borrow().moved_at().max(begun))
    }

    /// Ends when the request, or this try of it, has taken as long as it may: `limit` in all.
    async fn overdue(&self, try_begun: Instant, limit: Option<Duration>) {
        loop {
            let of_limit = limit.map(|limit| self.moved_at(self.begun) + limit);
            let of_try = self.plan.timeouts.per_try.map(|limit| self.moved_at(try_begun) + limit);
            let ends = [of_limit, of_try, self.plan.deadline].into_iter().flatten().min();
            let Some(ends) = ends else { return std::future::pending().await };
            let left = ends.saturating_duration_since(Instant::now());
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
        insert_target(request.headers_mut(), &self.plan.service.name, &endpoint.instance.id, self.tag.as_ref())
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
    /// Its place at the instance, where that has a limit.
    permit: Option<Permit>,
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
    Ok(Answer { response, lease: None, place: Some(place), permit: None, asked_at })
}

fn pass(
    answer: Answer,
    (under_way, on_service): (UnderWay, pressure::UnderWay),
    worker: &Rc<Worker>,
    has_retried: bool,
) -> Response<Reply> {
    let (mut parts, body) = answer.response.into_parts();
    if has_retried && parts.status.is_server_error() {
        parts.headers.insert(RETRIED, HeaderValue::from_static("1"));
    }
    let class = parts.status.as_u16() / 100;
    let lease = answer.lease.map(|lease| (lease, worker.clone()));
    let (_place, _permit) = (answer.place, answer.permit);
    let passed = Passed { under_way, class, is_broken: false, lease, _place, _permit, _on_service: on_service };
    Response::from_parts(parts, Reply::passing(body, Box::new(passed)))
}

/// A call at an instance, counted from its beginning to its end.
struct UnderWay {
    endpoint: Endpoint,
    worker: Rc<Worker>,
    begun: Instant,
    /// Something came of it, be it an error.
    is_answered: bool,
    class: u16,
    is_told: bool,
    _open: OpenGuard,
    _active: ActiveGuard,
}

impl UnderWay {
    fn begin(worker: &Rc<Worker>, endpoint: &Endpoint) -> UnderWay {
        endpoint.stats.cells.begin();
        let (open, active) = (endpoint.enter(), worker.enter());
        UnderWay {
            endpoint: endpoint.clone(),
            worker: worker.clone(),
            begun: Instant::now(),
            is_answered: false,
            class: 0,
            is_told: false,
            _open: open,
            _active: active,
        }
    }

    fn goes_elsewhere(mut self) {
        self.is_told = true;
        self.endpoint.stats.cells.retry();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_told {
            self.endpoint.stats.cells.end(self.class);
        }
        if !self.is_answered {
            self.worker.endpoints.given_up(&self.endpoint, self.begun.elapsed());
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
    _permit: Option<Permit>,
    _on_service: pressure::UnderWay,
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
