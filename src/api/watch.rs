//! Consul's blocking queries, by resource: a client that waits on one service is woken by a change to that service and
//! by nothing else.
//!
//! One task, [`Hub::run`], hears of each publication and compares the index of every resource that somebody waits for
//! with the one that the waiters have seen: the cost is that of the resources waited for, not of all there are. The
//! index of a service, of the list of nodes and of the list of services is the directory's own; that of a node *with
//! its services* is kept here, since a service that moves away from a node leaves no trace in what remains of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::Local;
use super::consul::agent::content_hash;
use super::consul::index;
use crate::model::{Directory, Node, NodeId, Service};

/// What this host registered is published without a word; it is looked at this often while somebody waits for it.
const OWN_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Nodes that nobody has asked about for this long are not followed any more; longer than the longest wait.
const FOLLOWED_FOR: Duration = Duration::from_secs(1200);

/// What a client can wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    /// Anything at all.
    Everything,
    /// The list of nodes.
    Nodes,
    /// The list of services and their tags.
    Services,
    /// A service with its instances, whether it is there or not.
    Service(String),
    /// A node with its services, by its name or id.
    Node(String),
    /// The definition of a service of this host, by id. Its "index" is the hash of its content.
    Own(String),
}

/// Everybody who waits for one resource.
#[derive(Debug)]
struct Slot {
    changed: Arc<Notify>,
    waiters: usize,
    /// The index that all of them have seen.
    seen: u64,
    /// It was there when that index was taken. What is not there only wakes anybody by coming to be.
    present: bool,
}

/// A node whose index is kept.
#[derive(Debug)]
struct Followed {
    id: NodeId,
    index: u64,
    asked: Instant,
}

#[derive(Debug)]
struct State {
    slots: HashMap<Resource, Slot>,
    followed: HashMap<String, Followed>,
    /// What the kept indexes account for.
    last: Arc<Directory>,
}

/// Where clients wait.
pub(super) struct Hub {
    directory: Arc<ArcSwap<Directory>>,
    own: Arc<ArcSwap<Local>>,
    state: Mutex<State>,
    /// Somebody began to wait for a service of this host.
    own_wanted: Notify,
}

impl Hub {
    pub(super) fn new(directory: Arc<ArcSwap<Directory>>, own: Arc<ArcSwap<Local>>) -> Arc<Hub> {
        let state = State { slots: HashMap::new(), followed: HashMap::new(), last: directory.load_full() };
        Arc::new(Hub { directory, own, state: Mutex::new(state), own_wanted: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of a resource as `directory` has it. What is answered from `directory` carries this index.
    pub(super) fn index(&self, resource: &Resource, directory: &Directory) -> u64 {
        self.state().index(resource, directory, &self.own)
    }

    /// Returns when the resource's index is not `known` any more, be it higher or lower (this agent was restarted), or
    /// after `limit`.
    pub(super) async fn wait(self: &Arc<Hub>, resource: Resource, known: u64, limit: Duration) {
        let waiter = self.enter(resource);
        let deadline = Instant::now() + limit;
        loop {
            let changed = waiter.changed.notified();
            tokio::pin!(changed);
            // From here on a change is not missed; what came before is seen by the look that follows.
            changed.as_mut().enable();
            if self.index(&waiter.resource, &self.directory.load()) != known {
                return;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    fn enter(self: &Arc<Hub>, resource: Resource) -> Waiter {
        let mut state = self.state();
        let directory = self.directory.load();
        let seen = state.index(&resource, &directory, &self.own);
        let slot = state.slots.entry(resource.clone()).or_insert_with(|| Slot {
            changed: Arc::default(),
            waiters: 0,
            seen,
            present: is_present(&resource, &directory),
        });
        slot.waiters += 1;
        let changed = slot.changed.clone();
        if matches!(resource, Resource::Own(_)) {
            self.own_wanted.notify_one();
        }
        Waiter { hub: self.clone(), resource, changed }
    }

    /// Wakes waiters for as long as there is somebody who publishes.
    pub(super) async fn run(self: Arc<Hub>, mut changes: watch::Receiver<u64>) {
        loop {
            let own_waited_for = self.state().slots.keys().any(|resource| matches!(resource, Resource::Own(_)));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(OWN_LOOK_INTERVAL), if own_waited_for => {}
                () = self.own_wanted.notified(), if !own_waited_for => {}
            }
            self.wake();
        }
    }

    fn wake(&self) {
        let mut state = self.state();
        let directory = self.directory.load_full();
        state.follow(&directory);
        let State { slots, followed, .. } = &mut *state;
        for (resource, slot) in slots {
            let now = index_of(resource, &directory, followed, &self.own);
            let present = is_present(resource, &directory);
            if now != slot.seen && (present || slot.present) {
                slot.changed.notify_waiters();
            }
            (slot.seen, slot.present) = (now, present);
        }
    }
}

/// One place in a slot; leaving it is dropping it.
struct Waiter {
    hub: Arc<Hub>,
    resource: Resource,
    changed: Arc<Notify>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        if let Some(slot) = state.slots.get_mut(&self.resource) {
            slot.waiters -= 1;
            if slot.waiters == 0 {
                state.slots.remove(&self.resource);
            }
        }
    }
}

/// Without what is asked for there is nothing to compare; nodes and lists are always "there".
fn is_present(resource: &Resource, directory: &Directory) -> bool {
    match resource {
        Resource::Service(name) => directory.services.contains_key(name.as_str()),
        _ => true,
    }
}

/// The node that a client means by a name or an id.
fn meant<'a>(name: &str, directory: &'a Directory) -> Option<&'a Arc<Node>> {
    let by_id = name.parse().ok().and_then(|id| directory.nodes.get(&id));
    by_id.or_else(|| directory.node_named(name))
}

fn index_of(
    resource: &Resource,
    directory: &Directory,
    followed: &HashMap<String, Followed>,
    own: &ArcSwap<Local>,
) -> u64 {
    let of = match resource {
        Resource::Everything => directory.index,
        Resource::Nodes => directory.nodes_index,
        Resource::Services => directory.services_index,
        Resource::Service(name) => {
            directory.services.get(name.as_str()).map_or(directory.absent_index, |service| service.index)
        }
        // What was kept may be ahead of the directory that is being answered from; an answer is never ahead of itself.
        Resource::Node(name) => {
            followed.get(name).map_or(directory.nodes_index, |node| node.index).min(directory.index)
        }
        Resource::Own(id) => return content_hash(&own.load(), id),
    };
    of.max(1)
}

impl State {
    fn index(&mut self, resource: &Resource, directory: &Directory, own: &ArcSwap<Local>) -> u64 {
        if let Resource::Node(name) = resource
            && let Some(node) = meant(name, directory)
        {
            // What happened to it before it was followed is not known: all of it counts as having happened just now.
            let index = index(directory).max(self.last.index);
            let followed = self.followed.entry(name.clone());
            let followed = followed.or_insert_with(|| Followed { id: node.id, index, asked: Instant::now() });
            followed.asked = Instant::now();
        }
        index_of(resource, directory, &self.followed, own)
    }

    /// Brings the kept indexes up to `new`.
    fn follow(&mut self, new: &Arc<Directory>) {
        let old = std::mem::replace(&mut self.last, new.clone());
        self.followed.retain(|_, node| node.asked.elapsed() < FOLLOWED_FOR);
        if self.followed.is_empty() || Arc::ptr_eq(&old, new) {
            return;
        }
        let touched = touched(&old, new);
        for (name, followed) in &mut self.followed {
            let id = meant(name, new).map(|node| node.id);
            if id != Some(followed.id) || touched.contains(&followed.id) {
                followed.index = new.index;
                followed.id = id.unwrap_or(followed.id);
            }
        }
    }
}

/// The nodes that changed, or that something changed on, from one publication to the next. What did not change is the
/// same object in both.
fn touched(old: &Directory, new: &Directory) -> HashSet<NodeId> {
    let mut touched = HashSet::new();
    for (id, node) in &new.nodes {
        if !old.nodes.get(id).is_some_and(|old| Arc::ptr_eq(old, node) || old.index == node.index) {
            touched.insert(*id);
        }
    }
    let mut touch = |service: &Service| touched.extend(service.instances.iter().map(|(node, _)| node.id));
    for (name, service) in &new.services {
        match old.services.get(name) {
            Some(old) if Arc::ptr_eq(old, service) || old.index == service.index => {}
            before => {
                touch(service);
                before.into_iter().for_each(|service| touch(service));
            }
        }
    }
    for (name, service) in &old.services {
        if !new.services.contains_key(name) {
            touch(service);
        }
    }
    touched
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
