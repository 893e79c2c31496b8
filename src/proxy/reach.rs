//! Whether the mesh port of a host answers this host: looked at once when a host with services is first seen, and again
//! and again while it does not answer. A host that is alive by gossip but not here is no candidate.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, timeout};

use super::link::{Incoming, LinkError};
use super::worker::Worker;
use super::{Event, PROBE_NAME};
use crate::model::{Node, NodeId, ServiceId, ServiceName};
use crate::wire::frame::Open;

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A host that does not answer is called again after about this long.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// First looks are spread over at least this long, and over longer the more hosts there are, so that neither this host
/// nor one that is new to a large fleet has hundreds of handshakes at once.
const FIRST_LOOK_SPREAD: Duration = Duration::from_secs(2);
const FIRST_LOOK_SPREAD_PER_HOST: Duration = Duration::from_millis(10);

/// What was last seen of one host.
struct Look {
    mesh: SocketAddr,
    due: Option<Instant>,
}

pub(super) async fn watch_hosts(worker: Rc<Worker>) {
    let mut looks: HashMap<NodeId, Look> = HashMap::new();
    let mut ticks = interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let hosts = hosts_of_services(&worker);
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let spread = FIRST_LOOK_SPREAD.max(FIRST_LOOK_SPREAD_PER_HOST.saturating_mul(count));
        for node in hosts {
            let look = looks.entry(node.id).or_insert_with(|| first_look(&worker, &node, now, spread));
            if look.mesh != node.facts.mesh {
                *look = first_look(&worker, &node, now, spread);
            }
            if look.due.is_none() && !node.mesh_reachable {
                look.due = Some(now + RETRY_INTERVAL);
            }
            if look.due.is_some_and(|due| due <= now) {
                look.due = None;
                spawn_local(call(worker.clone(), node));
            }
        }
        let directory = worker.directory.load();
        looks.retain(|id, _| directory.nodes.contains_key(id));
    }
}

fn first_look(worker: &Worker, node: &Node, now: Instant, spread: Duration) -> Look {
    let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    let wait = Duration::from_millis(worker.rng.borrow_mut().random_range(0..spread_ms));
    Look { mesh: node.facts.mesh, due: Some(now + wait) }
}

/// The other hosts that calls could go to.
fn hosts_of_services(worker: &Worker) -> Vec<Arc<Node>> {
    let directory = worker.directory.load();
    let mut hosts: HashMap<NodeId, Arc<Node>> = HashMap::new();
    for service in directory.services.values() {
        for (node, _) in &service.instances {
            if node.id != worker.local && node.state.is_usable() {
                hosts.entry(node.id).or_insert_with(|| node.clone());
            }
        }
    }
    hosts.into_values().collect()
}

async fn call(worker: Rc<Worker>, node: Arc<Node>) {
    match prove(&worker, &node).await {
        // Only news is told; it fails only while the agent stops.
        Ok(()) if !node.mesh_reachable => {
            let _ = worker.events.send(Event::MeshReachable(node.id)).await;
        }
        Ok(()) => {}
        Err(error) if error.is_local() => {}
        Err(error) => {
            if node.mesh_reachable {
                tracing::warn!(node = %node.facts.name, address = %node.facts.mesh, %error, "mesh port does not answer");
            }
            worker.mesh_failed(node.id);
        }
    }
}

/// Connects and makes a round trip: a TLS 1.3 client is through with its handshake before the other side has judged its
/// certificate. What is asked for cannot exist, so nothing is disturbed.
async fn prove(worker: &Rc<Worker>, node: &Node) -> Result<(), LinkError> {
    let mut link = worker.connect(node).await?;
    let name = |_| LinkError::Protocol("an OPEN that cannot be made");
    let open = Open {
        service: ServiceName::probe(),
        instance: ServiceId::parse(PROBE_NAME).map_err(name)?,
        tag: None,
        caller: None,
    };
    link.send(&open.encode().map_err(|_| LinkError::Protocol("an OPEN over its limit"))?)?;
    let answered = async {
        poll_fn(|cx| link.poll_flush(cx)).await?;
        loop {
            match link.next()? {
                Some(Incoming::Rst(_)) => return Ok(()),
                Some(_) => return Err(LinkError::Protocol("an answer to a probe that is no RST")),
                None => poll_fn(|cx| link.poll_recv(cx, &worker.scratch)).await?,
            }
        }
    };
    let answered = timeout(worker.settings.accept_timeout, answered).await;
    answered.unwrap_or(Err(LinkError::Timeout(worker.settings.accept_timeout)))?;
    worker.finish(link);
    Ok(())
}
