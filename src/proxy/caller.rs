//! The caller's side: a connection taken on a VIP goes to one healthy instance, here or on another host.
//!
//! A connect that fails is tried again elsewhere, with whatever the application has sent so far; once an instance has
//! accepted, the stream is its own and ends with it.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::debug;

use super::deliver;
use super::link::{Link, LinkError};
use super::pool::LoadGuard;
use super::relay::{DirectError, Early, End, Limits, Relay, abort, carry_directly};
use super::worker::Worker;
use crate::model::{Directory, Instance, Node, NodeId, Service, ServiceId, ServiceName, Tag};
use crate::route;
use crate::wire::frame::{Open, RstReason};

/// Instances tried for one call. Each try costs at most the connect and accept timeouts.
const TRIES_MAX: usize = 4;

/// What a call is for.
struct Call {
    service: ServiceName,
    tag: Option<Tag>,
}

/// One candidate, with its load counted while it is held.
struct Chosen {
    node: Arc<Node>,
    instance: Arc<Instance>,
    _load: LoadGuard,
}

/// What became of one try.
enum Try {
    /// The call is over, one way or the other.
    Over,
    /// Nobody accepted it; it may be made elsewhere.
    Elsewhere(TcpStream, Early),
}

/// Serves one captured connection from beginning to end.
pub(super) async fn serve(worker: Rc<Worker>, app: TcpStream, vip: Ipv4Addr, port: u16) {
    worker.counters.captured.one();
    let _ = app.set_nodelay(true);
    let directory = worker.directory.load_full();
    let call = match directory.behind(vip) {
        Some((service, tag)) if service.answers_on(port) => Call { service: service.name.clone(), tag: tag.cloned() },
        _ => {
            worker.counters.unknown_target.one();
            return abort(app);
        }
    };
    drop(directory);
    let (mut app, mut early) = (app, Early::default());
    let mut tried: Vec<(NodeId, ServiceId)> = Vec::new();
    while tried.len() < TRIES_MAX {
        let Some(chosen) = choose(&worker, &call, &tried) else { break };
        if !tried.is_empty() {
            worker.counters.retries.one();
        }
        tried.push((chosen.node.id, chosen.instance.id.clone()));
        let outcome = if chosen.node.id == worker.local {
            call_here(&worker, &call, &chosen, app, early).await
        } else {
            call_there(&worker, &call, &chosen, app, early).await
        };
        match outcome {
            Try::Over => return,
            Try::Elsewhere(back, sent) => (app, early) = (back, sent),
        }
    }
    worker.counters.no_instance.one();
    debug!(service = %call.service, tried = tried.len(), "no instance took the call; it is reset");
    abort(app);
}

fn choose(worker: &Worker, call: &Call, tried: &[(NodeId, ServiceId)]) -> Option<Chosen> {
    let directory = worker.directory.load();
    let service: &Service = directory.services.get(&call.service)?;
    let fresh = |node: &Node, instance: &Instance| !tried.iter().any(|(n, i)| *n == node.id && *i == instance.id);
    let candidates: Vec<_> =
        service.candidates(call.tag.as_ref()).filter(|(node, instance)| fresh(node, instance)).collect();
    let load = |index: usize| {
        let (node, instance) = candidates[index];
        worker.loads.of(node.id, &instance.id)
    };
    let index = route::choose(candidates.len(), load, &mut *worker.rng.borrow_mut())?;
    let (node, instance) = candidates[index].clone();
    let load = worker.loads.enter(node.id, instance.id.clone());
    Some(Chosen { node, instance, _load: load })
}

/// Calls an instance of this host, without crossing the mesh.
async fn call_here(worker: &Rc<Worker>, call: &Call, chosen: &Chosen, mut app: TcpStream, early: Early) -> Try {
    let Ok(mut service) = deliver::connect(&chosen.instance, &worker.settings).await else {
        return Try::Elsewhere(app, early);
    };
    worker.counters.direct.one();
    if deliver::send_early(&mut service, &early).await.is_err() {
        abort(app);
        return Try::Over;
    }
    let carried = carry_directly(&mut app, &mut service, worker.settings.idle_timeout, &worker.scratch);
    let ended = tokio::select! {
        ended = carried => ended,
        () = tag_lost(worker, call, chosen) => {
            worker.counters.tag_moved.one();
            abort(app);
            abort(service);
            return Try::Over;
        }
    };
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
async fn call_there(worker: &Rc<Worker>, call: &Call, chosen: &Chosen, app: TcpStream, early: Early) -> Try {
    let (mut app, mut early) = (app, early);
    // A pooled link may have died since it was last used; that says nothing about the host, so a new one is tried.
    while let Some(link) = worker.pool.take(chosen.node.id, &worker.scratch) {
        match carry(worker, call, chosen, link, app, early).await {
            Carried::Over => return Try::Over,
            Carried::Refused(back, sent) => return Try::Elsewhere(back, sent),
            Carried::Lost(back, sent, LinkError::Timeout(_)) => {
                worker.mesh_failed(chosen.node.id);
                return Try::Elsewhere(back, sent);
            }
            Carried::Lost(back, sent, _) => (app, early) = (back, sent),
        }
    }
    let link = match worker.connect(&chosen.node).await {
        Ok(link) => link,
        Err(error) => {
            debug!(node = %chosen.node.facts.name, address = %chosen.node.facts.mesh, %error, "mesh connect failed");
            worker.mesh_failed(chosen.node.id);
            return Try::Elsewhere(app, early);
        }
    };
    match carry(worker, call, chosen, link, app, early).await {
        Carried::Over => Try::Over,
        Carried::Refused(back, sent) => Try::Elsewhere(back, sent),
        Carried::Lost(back, sent, error) => {
            debug!(node = %chosen.node.facts.name, %error, "mesh connection lost before the call was accepted");
            worker.mesh_failed(chosen.node.id);
            Try::Elsewhere(back, sent)
        }
    }
}

enum Carried {
    Over,
    Refused(TcpStream, Early),
    Lost(TcpStream, Early, LinkError),
}

async fn carry(
    worker: &Rc<Worker>,
    call: &Call,
    chosen: &Chosen,
    mut link: Link,
    mut app: TcpStream,
    mut early: Early,
) -> Carried {
    if let Err(error) = open(call, chosen, &mut link, &early) {
        return Carried::Lost(app, early, error);
    }
    let not_after = link.not_after();
    let limits = Limits { idle: worker.settings.idle_timeout, not_after };
    let mut relay = Relay::calling(&mut app, &mut link, &mut early, &worker.scratch);
    let ended = tokio::select! {
        ended = relay.run(&limits, worker.settings.accept_timeout) => Some(ended),
        () = tag_lost(worker, call, chosen) => None,
    };
    let (accepted, up, down) = (relay.is_accepted(), relay.bytes_up, relay.bytes_down);
    if accepted {
        worker.counters.streams_out.one();
        worker.counters.bytes_up.add(up);
        worker.counters.bytes_down.add(down);
    }
    match ended {
        Some(End::Finished) => worker.pool.put(chosen.node.id, link),
        Some(End::Refused(reason)) => {
            debug!(node = %chosen.node.facts.name, instance = %chosen.instance.id, ?reason, "the call was refused there");
            worker.finish(link);
            return Carried::Refused(app, early);
        }
        Some(End::LostBeforeAccept(error)) => return Carried::Lost(app, early, error),
        Some(End::LocalReset) => worker.finish(link),
        Some(End::FarReset) => {
            worker.finish(link);
            abort(app);
        }
        None => {
            worker.counters.tag_moved.one();
            worker.reset(link, RstReason::Reset);
            abort(app);
        }
        Some(End::Idle) => {
            worker.counters.idle_closed.one();
            worker.reset(link, RstReason::Reset);
            abort(app);
        }
        Some(End::Lost(_) | End::Expired) => abort(app),
    }
    Carried::Over
}

/// Queues OPEN, and what the application has already sent to somebody who did not accept.
fn open(call: &Call, chosen: &Chosen, link: &mut Link, early: &Early) -> Result<(), LinkError> {
    let open = Open {
        service: call.service.clone(),
        instance: chosen.instance.id.clone(),
        tag: call.tag.clone(),
        caller: None,
    };
    link.send(&open.encode().map_err(|_| LinkError::Protocol("an OPEN over its limit"))?)?;
    deliver::resend_early(link, early)
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
        node.id == chosen.node.id && instance.id == chosen.instance.id && instance.tags.contains(tag)
    })
}
