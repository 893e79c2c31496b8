//! The caller's side: a connection taken on a VIP goes to one healthy instance, here or on another host.
//!
//! A connect that fails is tried again elsewhere; nothing has been read from the application by then. Once an instance
//! has accepted, the stream is its own and ends with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use super::authorize::{Wanted, admit_wanted, turned};
use super::deliver;
use super::endpoints::{Endpoint, Measure, OpenGuard};
use super::http;
use super::link::{Link, LinkError};
use super::relay::{DirectError, End, Limits, Relay, abort, carry_directly};
use super::worker::Worker;
use crate::lobby::Place;
use crate::model::{Directory, Node, NodeId, ServiceId, ServiceName, Tag};
use crate::wire::frame::{Open, RstReason};

/// Instances tried for one call. Each try costs at most the connect and accept timeouts.
const TRIES_MAX: usize = 4;

/// What a call is for.
struct Call {
    service: ServiceName,
    tag: Option<Tag>,
    /// Which service calls; `None` is anonymous.
    caller: Option<ServiceName>,
    /// Among the connections on which nothing has moved yet.
    place: Place,
}

/// One candidate, counted while it is held.
struct Chosen {
    endpoint: Endpoint,
    begun: Instant,
    _open: OpenGuard,
}

impl Chosen {
    /// The instance has taken the call; it ended, well or not.
    fn ended(&self, well: bool) {
        self.endpoint.stats.cells.end(if well { 2 } else { 0 });
    }
}

/// What became of one try.
enum Try {
    /// The call is over, one way or the other.
    Over,
    /// Nobody accepted it; it may be made elsewhere.
    Elsewhere(TcpStream),
}

/// Serves one captured connection from beginning to end: `client` made it to that address and port.
pub(super) async fn serve(
    worker: Rc<Worker>,
    app: TcpStream,
    client: SocketAddr,
    (vip, port): (Ipv4Addr, u16),
    place: Place,
) {
    worker.counters.captured.one();
    let _ = app.set_nodelay(true);
    let directory = worker.directory.load_full();
    let (service, tag) = match directory.behind(vip) {
        Some((service, tag)) if service.answers_on(port) => (service.clone(), tag.cloned()),
        _ => {
            worker.counters.unknown_target.one();
            return abort(app);
        }
    };
    drop(directory);
    let caller = tokio::select! {
        caller = worker.caller_of(&app, client, vip, port) => caller,
        () = place.shown_out() => return abort(app),
    };
    if service.protocol.is_http() {
        let target = http::Target::new(service.name.clone(), tag, caller.as_ref(), &worker.settings.cluster, place);
        drop(service);
        return http::serve_application(worker, app, target).await;
    }
    let call = Call { service: service.name.clone(), tag, caller, place };
    drop(service);
    let mut app = app;
    let mut tried: Vec<(NodeId, ServiceId)> = Vec::new();
    while tried.len() < TRIES_MAX {
        let Some(chosen) = choose(&worker, &call, &tried) else { break };
        if !tried.is_empty() {
            worker.counters.retries.one();
        }
        tried.push(chosen.endpoint.key());
        let outcome = if chosen.endpoint.node.id == worker.local {
            call_here(&worker, &call, &chosen, app).await
        } else {
            call_there(&worker, &call, &chosen, app).await
        };
        match outcome {
            Try::Over => return,
            Try::Elsewhere(back) => {
                chosen.endpoint.stats.cells.retry();
                app = back;
            }
        }
    }
    worker.counters.no_instance.one();
    debug!(service = %call.service, tried = tried.len(), "no instance took the call; it is reset");
    abort(app);
}

fn choose(worker: &Worker, call: &Call, tried: &[(NodeId, ServiceId)]) -> Option<Chosen> {
    let directory = worker.directory.load();
    let service = directory.services.get(&call.service)?;
    let rng = &mut *worker.rng.borrow_mut();
    let endpoint = worker.endpoints.choose(&directory, service, call.tag.as_ref(), Measure::Open, tried, rng)?;
    endpoint.stats.cells.begin();
    let open = endpoint.enter();
    Some(Chosen { endpoint, begun: Instant::now(), _open: open })
}

/// Calls an instance of this host, without crossing the mesh.
async fn call_here(worker: &Rc<Worker>, call: &Call, chosen: &Chosen, mut app: TcpStream) -> Try {
    let wanted = Wanted { caller: call.caller.clone(), service: call.service.clone(), request: None };
    if admit_wanted(worker, &wanted).is_err() {
        chosen.ended(false);
        abort(app);
        return Try::Over;
    }
    let connected = tokio::select! {
        connected = deliver::connect(&chosen.endpoint.instance, &worker.settings) => connected,
        () = call.place.shown_out() => return crowded_out(chosen, app),
    };
    let Ok(mut service) = connected else { return Try::Elsewhere(app) };
    worker.counters.direct.one();
    chosen.endpoint.stats.cells.answered(chosen.begun.elapsed());
    let carried = carry_directly(&mut app, &mut service, worker.settings.idle_timeout, &worker.scratch, &call.place);
    let ended = tokio::select! {
        ended = carried => ended,
        () = tag_lost(worker, call, chosen) => {
            worker.counters.tag_moved.one();
            chosen.ended(false);
            abort(app);
            abort(service);
            return Try::Over;
        }
        () = async { tokio::select! { () = turned(worker, &wanted) => {}, () = call.place.shown_out() => {} } } => {
            chosen.ended(false);
            abort(app);
            abort(service);
            return Try::Over;
        }
    };
    chosen.ended(ended.is_ok());
    match ended {
        Ok((up, down)) => {
            worker.counters.bytes_up.add(up);
            worker.counters.bytes_down.add(down);
        }
        Err(error) => {
            if matches!(error, DirectError::Idle) {
                worker.counters.idle_closed.one();
            }
            abort(app);
            abort(service);
        }
    }
    Try::Over
}

/// Calls an instance of another host through its agent.
async fn call_there(worker: &Rc<Worker>, call: &Call, chosen: &Chosen, mut app: TcpStream) -> Try {
    let node = &chosen.endpoint.node;
    // A pooled link may have died since it was last used; that says nothing about the host, so a new one is tried.
    while let Some(link) = worker.pool.take(node.id, &worker.scratch) {
        match carry(worker, call, chosen, link, app).await {
            Carried::Over => return Try::Over,
            Carried::Refused(back) => return Try::Elsewhere(back),
            Carried::Lost(back, error @ LinkError::Timeout(_)) => return accuse(worker, node, &error, back),
            Carried::Lost(back, _) => app = back,
        }
    }
    let connected = tokio::select! {
        connected = worker.connect(node) => connected,
        () = call.place.shown_out() => return crowded_out(chosen, app),
    };
    let link = match connected {
        Ok(link) => link,
        Err(error) => return accuse(worker, node, &error, app),
    };
    match carry(worker, call, chosen, link, app).await {
        Carried::Over => Try::Over,
        Carried::Refused(back) => Try::Elsewhere(back),
        Carried::Lost(back, error) => accuse(worker, node, &error, back),
    }
}

/// Nothing has moved yet, and others need the place.
fn crowded_out(chosen: &Chosen, app: TcpStream) -> Try {
    chosen.ended(false);
    abort(app);
    Try::Over
}

/// The host did not take the call; that is told, unless the fault is this host's own.
fn accuse(worker: &Worker, node: &Node, error: &LinkError, app: TcpStream) -> Try {
    debug!(node = %node.facts.name, address = %node.facts.mesh, %error, "a call was not taken");
    if !error.is_local() {
        worker.mesh_failed(node.id);
    }
    Try::Elsewhere(app)
}

enum Carried {
    Over,
    Refused(TcpStream),
    Lost(TcpStream, LinkError),
}

async fn carry(worker: &Rc<Worker>, call: &Call, chosen: &Chosen, mut link: Link, mut app: TcpStream) -> Carried {
    if let Err(error) = open(call, chosen, &mut link) {
        return Carried::Lost(app, error);
    }
    let limits = Limits { idle: worker.settings.idle_timeout, not_after: link.not_after() };
    let peer = link.peer().cloned();
    let mut relay = Relay::calling(&mut app, &mut link, &worker.scratch).waiting_in(&call.place);
    let ended = tokio::select! {
        ended = relay.run(&limits, worker.settings.accept_timeout) => ended,
        () = tag_lost(worker, call, chosen) => End::TagLost,
        () = worker.peer_lost(peer.as_deref()) => End::HostLost,
        () = call.place.shown_out() => End::CrowdedOut,
    };
    let accepted = relay.is_accepted();
    if accepted {
        let took = relay.accepted_at.map_or_else(|| chosen.begun.elapsed(), |at| at - chosen.begun);
        chosen.endpoint.stats.cells.answered(took);
        chosen.ended(matches!(ended, End::Finished));
        worker.counters.streams_out.one();
        worker.counters.bytes_up.add(relay.bytes_up);
        worker.counters.bytes_down.add(relay.bytes_down);
    }
    match ended {
        End::Finished => worker.pool.put(chosen.endpoint.node.id, link),
        End::Refused(reason) => {
            debug!(node = %chosen.endpoint.node.facts.name, instance = %chosen.endpoint.instance.id, ?reason, "the call was refused there");
            worker.finish(link);
            if reason == RstReason::NotAllowed {
                // The same holds wherever the service runs.
                chosen.ended(false);
                abort(app);
                return Carried::Over;
            }
            return Carried::Refused(app);
        }
        End::LostBeforeAccept(error) => return Carried::Lost(app, error),
        // Nobody has taken the call yet, so somebody else can.
        End::HostLost | End::TagLost if !accepted => return Carried::Refused(app),
        End::LocalReset => worker.finish(link),
        ended => {
            worker.break_off(&ended, link);
            abort(app);
        }
    }
    Carried::Over
}

fn open(call: &Call, chosen: &Chosen, link: &mut Link) -> Result<(), LinkError> {
    let open = Open {
        service: call.service.clone(),
        instance: chosen.endpoint.instance.id.clone(),
        tag: call.tag.clone(),
        caller: call.caller.clone(),
    };
    link.send(&open.encode().map_err(|_| LinkError::Protocol("an OPEN over its limit"))?)
}

/// Ends when the chosen instance no longer has the tag that was asked for; never, where none was.
async fn tag_lost(worker: &Worker, call: &Call, chosen: &Chosen) {
    let Some(tag) = &call.tag else { return std::future::pending().await };
    let mut changes = worker.changes.clone();
    loop {
        if !has_tag(&worker.directory.load(), call, chosen, tag) {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn has_tag(directory: &Directory, call: &Call, chosen: &Chosen, tag: &Tag) -> bool {
    let Some(service) = directory.services.get(&call.service) else { return false };
    service.instances.iter().any(|(node, instance)| {
        node.id == chosen.endpoint.node.id && instance.id == chosen.endpoint.instance.id && instance.tags.contains(tag)
    })
}
