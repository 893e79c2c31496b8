//! Whether the mesh port of a host answers this host: looked at once when a host with services is first seen, and again
//! and again while it does not answer. A host that is alive by gossip but not here is no candidate.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::task::spawn_local;
use tokio::time::{Instant, interval};

use super::Event;
use super::worker::Worker;
use crate::model::{Node, NodeId};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A host that does not answer is called again after about this long.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// First looks are spread over this long, so that a new host is not called by the whole fleet at once.
const FIRST_LOOK_SPREAD: Duration = Duration::from_secs(2);

/// What was last seen of one host.
struct Look {
    mesh: SocketAddr,
    incarnation: u64,
    due: Option<Instant>,
}

pub(super) async fn watch_hosts(worker: Rc<Worker>) {
    let mut looks: HashMap<NodeId, Look> = HashMap::new();
    let mut ticks = interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        for node in hosts_of_services(&worker) {
            let look = looks.entry(node.id).or_insert_with(|| first_look(&worker, &node, now));
            if look.mesh != node.facts.mesh || look.incarnation != node.incarnation {
                *look = first_look(&worker, &node, now);
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

fn first_look(worker: &Worker, node: &Node, now: Instant) -> Look {
    let spread_ms = u64::try_from(FIRST_LOOK_SPREAD.as_millis()).unwrap_or(u64::MAX);
    let wait = Duration::from_millis(worker.rng.borrow_mut().random_range(0..spread_ms));
    Look { mesh: node.facts.mesh, incarnation: node.incarnation, due: Some(now + wait) }
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
    match worker.connect(&node).await {
        Ok(link) => {
            worker.pool.put(node.id, link);
            // Only news is told.
            if !node.mesh_reachable {
                let _ = worker.events.send(Event::MeshReachable(node.id)).await;
            }
        }
        Err(error) => {
            if node.mesh_reachable {
                tracing::warn!(node = %node.facts.name, address = %node.facts.mesh, %error, "mesh port does not answer");
            }
            worker.mesh_failed(node.id);
        }
    }
}
