//! Requests as taps see them: what of a request and its response goes to [`Taps`](crate::proxy::tap::Taps), on the side of
//! the application and on that of the service. Costs one load where nobody looks.

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, Version};

use super::body::Reply;
use super::forward::{Outcome, caller_in};
use super::headers::{read_caller, read_target};
use super::ingress::Target;
use super::reason::{WEFT_ERROR, WEFT_RULE};
use crate::identity::PeerIdentity;
use crate::model::{Direction, ServiceName, TapHead};
use crate::proxy::tap;
use crate::proxy::worker::Worker;

/// A request that somebody may want to see.
pub(super) struct Seen {
    seen: Box<tap::Seen>,
    bytes_up: Option<u64>,
    /// Of a request of another host: the instance that it is for.
    instance: String,
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &hyper::header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// An application's request begins.
pub(super) fn begin_out(worker: &Worker, target: &Target, request: &Request<Incoming>) -> Option<Seen> {
    if !worker.taps.is_watched() {
        return None;
    }
    let own = worker.own_name();
    let caller = caller_in(target.claim());
    let head = TapHead {
        direction: Direction::Out,
        caller: caller.as_ref().map_or("", ServiceName::as_str),
        caller_node: &own,
        service: target.service.as_str(),
        method: request.method().as_str(),
        path: request.uri().path(),
    };
    let seen = worker.taps.begin(&head, protocol(request.version()))?;
    Some(Seen { seen, bytes_up: request.body().size_hint().exact(), instance: String::new() })
}

/// Another host's request begins. What it asks for may yet turn out to be nothing.
pub(super) fn begin_in(worker: &Worker, peer: &PeerIdentity, request: &Request<Incoming>) -> Option<Seen> {
    if !worker.taps.is_watched() {
        return None;
    }
    let (service, instance, _) = read_target(request.headers())?;
    let caller = read_caller(request.headers()).ok().flatten();
    // Agents say so that a request goes over to another protocol; to its service it is a GET.
    let method = if request.method() == Method::CONNECT { &Method::GET } else { request.method() };
    let head = TapHead {
        direction: Direction::In,
        caller: caller.as_ref().map_or("", ServiceName::as_str),
        caller_node: peer.name.as_str(),
        service: service.as_str(),
        method: method.as_str(),
        path: request.uri().path(),
    };
    let seen = worker.taps.begin(&head, protocol(request.version()))?;
    Some(Seen { seen, bytes_up: request.body().size_hint().exact(), instance: instance.to_string() })
}

impl Seen {
    /// The head of the response has come, or Weft has answered.
    pub(super) fn end_out(self, response: &Response<Reply>, outcome: &Outcome) {
        let endpoint = outcome.endpoint.as_ref();
        let node = endpoint.map_or("", |endpoint| endpoint.node.facts.name.as_str());
        let instance = endpoint.map_or("", |endpoint| endpoint.instance.id.as_str());
        self.end(response, (node, instance), outcome.tries);
    }

    /// The same of another host's request.
    pub(super) fn end_in(mut self, worker: &Worker, response: &Response<Reply>) {
        let (node, instance) = (worker.own_name(), std::mem::take(&mut self.instance));
        self.end(response, (&node, &instance), 1);
    }

    fn end(self, response: &Response<Reply>, (node, instance): (&str, &str), tries: usize) {
        let headers = response.headers();
        self.seen.end(&tap::Ending {
            node,
            instance,
            status: response.status().as_u16(),
            error: text(headers, &WEFT_ERROR),
            rule: text(headers, &WEFT_RULE),
            tries,
            bytes_up: self.bytes_up,
            bytes_down: response.body().size_hint().exact(),
        });
    }
}
