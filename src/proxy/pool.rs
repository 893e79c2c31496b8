//! Warm connections to other hosts, one pool a host for all services. Belongs to one worker; nothing here is shared
//! between threads.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::link::Link;
use super::scratch::Scratch;
use crate::model::NodeId;

/// Below the serving side's limit, so that the side that would use a link is the one that closes it.
pub(super) const IDLE_CALLER_MAX: Duration = Duration::from_secs(90);
/// How long the serving side keeps a connection without a stream.
pub(super) const IDLE_SERVER_MAX: Duration = Duration::from_secs(120);
/// Idle links kept a host and worker. An idle link costs about 5 KiB of session state on either side.
const IDLE_LINKS_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<NodeId, Vec<(Link, Instant)>>>,
}

impl Pool {
    /// A link that can take a stream now, the most recently used one first.
    pub(super) fn take(&self, node: NodeId, scratch: &Scratch) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let links = idle.get_mut(&node)?;
        while let Some((mut link, since)) = links.pop() {
            let retired = link.is_retired(SystemTime::now());
            if since.elapsed() < IDLE_CALLER_MAX && !retired && link.is_fresh(scratch) {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a link whose stream has finished.
    pub(super) fn put(&self, node: NodeId, mut link: Link) {
        link.release();
        let mut idle = self.idle.borrow_mut();
        let links = idle.entry(node).or_default();
        if links.len() < IDLE_LINKS_MAX {
            links.push((link, Instant::now()));
        }
    }

    /// Drops every link to a host, because it does not answer.
    pub(super) fn forget(&self, node: NodeId) {
        self.idle.borrow_mut().remove(&node);
    }

    /// Drops every link to hosts that are not believed any more.
    pub(super) fn forget_revoked(&self, revoked: &HashSet<NodeId>) {
        let is_revoked = |link: &Link| link.peer().is_some_and(|peer| peer.is_among(revoked));
        self.idle.borrow_mut().values_mut().for_each(|links| links.retain(|(link, _)| !is_revoked(link)));
    }

    /// Drops links that have been idle too long or were closed by the other side.
    pub(super) fn prune(&self, scratch: &Scratch) {
        self.idle.borrow_mut().retain(|_, links| {
            links.retain_mut(|(link, since)| since.elapsed() < IDLE_CALLER_MAX && link.is_fresh(scratch));
            !links.is_empty()
        });
    }
}
