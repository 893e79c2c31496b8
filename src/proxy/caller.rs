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
use super::endpoints::{self, Endpoint, Measure, OpenGuard, Part};
use super::http;
use super::link::{Link, LinkError};
use super::relay::{DirectError, End, Limits, Relay, abort, carry_directly};
use super::tap::{self, Carried as Told};
use super::worker::Worker;
use crate::lobby::Place;
use crate::model::{Direction, Directory, Node, NodeId, Service, ServiceId, ServiceName, Tag, TapHead};
use crate::route;
use crate::wire::frame::{Open, RstReason};

/// Instances tried for one call. Each try costs at most the connect and accept timeouts.
const TRIES_MAX: usize = 4;

/// What a call is for.
struct Call {
    service: ServiceName,
    tag: Option<Tag>,
    /// Which service calls; `None` is anonymous.
    caller: Option<ServiceName>,
    /// Which part of the instances takes it.
    part: Part,
    /// Among the connections on which nothing has moved yet.
    place: Place,
    /// For those who look.
    told: Told,
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
    Elsewhere(TcpStream, Blame),
}

/// Whose fault it is that a call was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// The instance's, or its host's.
    Theirs,
    /// Nobody's: it has as many as it may, is leaving, or is not there any more; or this host's own.
    Nobody,
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
    let part = match &tag {
        Some(_) => Part::All,
        None => share(&worker, &service),
    };
    let call = Call { service: service.name.clone(), tag, caller, part, place, told: Told::begin() };
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
            Try::Over => return tell(&worker, &call, Some(&chosen.endpoint), tried.len()),
            Try::Elsewhere(back, blame) => {
                if blame == Blame::Theirs {
                    let policy = worker.directory.load().traffic.of(&call.service).clone();
                    worker.endpoints.failed(&chosen.endpoint, &policy, None);
                } else {
                    worker.endpoints.avoid(&chosen.endpoint);
                }
                chosen.endpoint.stats.cells.retry();
                app = back;
            }
        }
    }
    worker.counters.no_instance.one();
    debug!(service = %call.service, tried = tried.len(), "no instance took the call; it is reset");
    abort(app);
    call.told.broke("no-instance");
    tell(&worker, &call, None, tried.len());
}

/// Shows a call that is over to those who look.
fn tell(worker: &Worker, call: &Call, endpoint: Option<&Endpoint>, tries: usize) {
    if !worker.taps.is_watched() {
        return;
    }
    let own = worker.own_name();
    let head = TapHead {
        direction: Direction::Out,
        caller: call.caller.as_ref().map_or("", ServiceName::as_str),
        caller_node: &own,
        service: call.service.as_str(),
        method: "",
        path: "",
    };
    let node = endpoint.map_or("", |endpoint| endpoint.node.facts.name.as_str());
    let instance = endpoint.map_or("", |endpoint| endpoint.instance.id.as_str());
    call.told.end(&worker.taps, &head, (node, instance), tries);
}

/// The part of the instances that this call goes to, where operators split it.
fn share(worker: &Worker, service: &Service) -> Part {
    let directory = worker.directory.load();
    let split = &directory.traffic.of(&service.name).split;
    if split.is_empty() {
        return Part::All;
    }
    let weights: Vec<u32> = split.iter().map(|share| share.weight).collect();
    route::share(&weights, &mut *worker.rng.borrow_mut()).map_or(Part::All, Part::Share)
}

fn choose(worker: &Worker, call: &Call, tried: &[(NodeId, ServiceId)]) -> Option<Chosen> {
    let directory = worker.directory.load();
    let service = directory.services.get(&call.service)?;
    let rng = &mut *worker.rng.borrow_mut();
    let policy = directory.traffic.of(&call.service);
    let wanted = endpoints::Wanted {
        service,
        policy,
        tag: call.tag.as_ref(),
        parts_of: policy,
        part: call.part,
        measure: Measure::Open,
        hash: None,
    };
    let endpoint = worker.endpoints.choose(&directory, &wanted, tried, rng)?;
    endpoint.stats.cells.begin();
    let open = endpoint.enter();
    Some(Chosen { endpoint, begun: Instant::now(), _open: open })
}

/// Calls an instance of this host, without crossing the mesh.
async fn call_here(worker: &Rc<Worker>, call: &Call, chosen: &Chosen, mut app: TcpStream) -> Try {
    let wanted = Wanted { caller: call.caller.clone(), service: call.service.clone(), request: None };
    if admit_wanted(worker, &wanted).is_err() {
        call.told.broke("denied");
        chosen.ended(false);
        abort(app);
        return Try::Over;
    }
    let limits = worker.directory.load().traffic.of(&call.service).limits;
    let id = &chosen.endpoint.instance.id;
    let Ok(_permit) = worker.admission.connection(id, call.caller.as_ref(), &limits) else {
        return Try::Elsewhere(app, Blame::Nobody);
    };
    let connected = tokio::select! {
        connected = deliver::connect(&chosen.endpoint.instance, &worker.settings) => connected,
        () = call.place.shown_out() => return crowded_out(call, chosen, app),
    };
    let Ok(mut service) = connected else { return Try::Elsewhere(app, Blame::Theirs) };
    worker.counters.direct.one();
    worker.endpoints.succeeded(&chosen.endpoint, chosen.begun.elapsed());
    chosen.endpoint.stats.cells.answered(chosen.begun.elapsed());
    let carried = carry_directly(&mut app, &mut service, worker.settings.idle_timeout, &worker.scratch, &call.place);
    let ended = tokio::select! {
        ended = carried => ended,
        () = tag_lost(worker, call, chosen) => {
            worker.counters.tag_moved.one();
            call.told.broke("tag-moved");
            chosen.ended(false);
            abort(app);
            abort(service);
            return Try::Over;
        }
        () = async { tokio::select! { () = turned(worker, &wanted) => {}, () = call.place.shown_out() => {} } } => {
            call.told.broke("denied");
            chosen.ended(false);
            abort(app);
            abort(service);
            return Try::Over;
        }
    };
    chosen.ended(ended.is_ok());
    match ended {
        Ok((up, down)) => {
            call.told.broke("");
            call.told.carried(up, down);
            worker.counters.bytes_up.add(up);
            worker.counters.bytes_down.add(down);
        }
        Err(error) => {
            let is_idle = matches!(error, DirectError::Idle);
            call.told.broke(if is_idle { "idle" } else { "reset" });
            if is_idle {
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
            Carried::Refused(back, blame) => return Try::Elsewhere(back, blame),
            Carried::Lost(back, error @ LinkError::Timeout(_)) => return accuse(worker, node, &error, back),
            Carried::Lost(back, _) => app = back,
        }
    }
    let connected = tokio::select! {
        connected = worker.connect(node) => connected,
        () = call.place.shown_out() => return crowded_out(call, chosen, app),
    };
    let link = match connected {
        Ok(link) => link,
        Err(error) => return accuse(worker, node, &error, app),
    };
    match carry(worker, call, chosen, link, app).await {
        Carried::Over => Try::Over,
        Carried::Refused(back, blame) => Try::Elsewhere(back, blame),
        Carried::Lost(back, error) => accuse(worker, node, &error, back),
    }
}

/// Nothing has moved yet, and others need the place.
fn crowded_out(call: &Call, chosen: &Chosen, app: TcpStream) -> Try {
    call.told.broke("crowded-out");
    chosen.ended(false);
    abort(app);
    Try::Over
}

/// The host did not take the call; that is told, unless the fault is this host's own.
fn accuse(worker: &Worker, node: &Node, error: &LinkError, app: TcpStream) -> Try {
    debug!(node = %node.facts.name, address = %node.facts.mesh, %error, "a call was not taken");
    if error.is_local() {
        return Try::Elsewhere(app, Blame::Nobody);
    }
    worker.mesh_failed(node.id);
    Try::Elsewhere(app, Blame::Theirs)
}

enum Carried {
    Over,
    Refused(TcpStream, Blame),
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
    call.told.broke(tap::word(&ended));
    call.told.carried(relay.bytes_up, relay.bytes_down);
    if accepted {
        let took = relay.accepted_at.map_or_else(|| chosen.begun.elapsed(), |at| at - chosen.begun);
        chosen.endpoint.stats.cells.answered(took);
        worker.endpoints.succeeded(&chosen.endpoint, took);
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
            let blame = if reason == RstReason::ConnectFailed { Blame::Theirs } else { Blame::Nobody };
            return Carried::Refused(app, blame);
        }
        End::LostBeforeAccept(error) => return Carried::Lost(app, error),
        // Nobody has taken the call yet, so somebody else can.
        End::HostLost | End::TagLost if !accepted => return Carried::Refused(app, Blame::Nobody),
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
