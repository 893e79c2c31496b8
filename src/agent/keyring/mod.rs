//! Who keeps the gossip keyring: one task that alone changes it, puts each change on disk before it is in force, and
//! publishes it to the gossip driver. Operators' orders (`orders`) and other hosts' keyrings are its only inputs.

mod orders;
mod report;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

pub(super) use self::orders::Orders;

use crate::gossip::{KeyringAsk, KeyringCall, KeyringLink, KeyringTold};
use crate::identity::{Identity, save_keyring};
use crate::model::{Directory, MemberState, NodeId, NodeName};
use crate::wire::keyring::{Fingerprint, Keyring, KeyringError};
use crate::wire::seal::GossipKey;

/// What other hosts say and what waits to be merged. Each is small, and who asked waits.
const TOLD_QUEUE: usize = 64;
const CHANGE_QUEUE: usize = 8;
/// A host whose datagrams cannot be opened is asked for its keyring this often at most: anybody can put its id on a
/// datagram.
const UNOPENED_PAUSE: Duration = Duration::from_secs(10);
/// Hosts remembered as asked.
const ASKED_MAX: usize = 1024;
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// A host as membership knows it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub node: NodeId,
    pub name: NodeName,
    pub address: SocketAddr,
    pub state: MemberState,
}

/// A change of this host's own.
#[derive(Debug, Clone)]
enum Change {
    Install(GossipKey),
    Choose(Fingerprint),
    Remove(Fingerprint),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error("{0}")]
    Keyring(#[from] KeyringError),
    #[error("the keyring could not be written: {0}")]
    Disk(String),
}

type Made = oneshot::Sender<Result<Arc<Keyring>, ChangeError>>;

/// The keyring before anything uses it.
pub(super) struct Beginning {
    current: watch::Sender<Arc<Keyring>>,
    told: mpsc::Receiver<KeyringTold>,
}

/// A keyring as it was on disk, and the gossip driver's way to it.
pub(super) fn begin(keyring: Keyring) -> (Beginning, KeyringLink) {
    let (current, watched) = watch::channel(Arc::new(keyring));
    let (sender, told) = mpsc::channel(TOLD_QUEUE);
    (Beginning { current, told }, KeyringLink { current: watched, told: sender })
}

impl Beginning {
    /// Starts the keeper in a task of its own.
    pub(super) fn start(
        self,
        identity: Arc<Identity>,
        data_dir: PathBuf,
        directory: Arc<ArcSwap<Directory>>,
        calls: mpsc::Sender<KeyringCall>,
    ) -> Orders {
        let (sender, changes) = mpsc::channel(CHANGE_QUEUE);
        let orders = Orders::new(identity.node, self.current.subscribe(), sender, calls.clone());
        let keeper = Keeper { current: self.current, identity, data_dir, directory, calls, asked: HashMap::new() };
        tokio::spawn(keeper.keep(self.told, changes));
        orders
    }
}

struct Keeper {
    current: watch::Sender<Arc<Keyring>>,
    identity: Arc<Identity>,
    data_dir: PathBuf,
    directory: Arc<ArcSwap<Directory>>,
    calls: mpsc::Sender<KeyringCall>,
    /// Hosts that were asked because of a datagram, and when.
    asked: HashMap<NodeId, Instant>,
}

impl Keeper {
    async fn keep(mut self, mut told: mpsc::Receiver<KeyringTold>, mut changes: mpsc::Receiver<(Change, Made)>) {
        loop {
            tokio::select! {
                Some(told) = told.recv() => match told {
                    KeyringTold::Merge { peer, keyring, reply } => {
                        if let Some(merged) = self.merge(peer, &keyring).await {
                            // The other host may have hung up.
                            let _ = reply.send(merged);
                        }
                    }
                    KeyringTold::Unopened { sender } => self.ask(sender),
                },
                Some((change, reply)) = changes.recv() => {
                    let made = self.make(change).await;
                    // Who ordered it may be gone; it is made all the same.
                    let _ = reply.send(made);
                }
                else => return,
            }
        }
    }

    async fn merge(&mut self, peer: NodeId, theirs: &Keyring) -> Option<Arc<Keyring>> {
        let ours = self.current.borrow().clone();
        let merged = match ours.merge(theirs) {
            Ok(merged) => merged,
            Err(error) => {
                warn!(%peer, %error, "a host's gossip keyring was not taken over");
                return None;
            }
        };
        match self.put_in_force(merged, peer).await {
            Ok(current) => Some(current),
            Err(error) => {
                error!(%peer, %error, "a change of the gossip keyring was not taken over");
                None
            }
        }
    }

    async fn make(&mut self, change: Change) -> Result<Arc<Keyring>, ChangeError> {
        let (ours, writer) = (self.current.borrow().clone(), self.identity.node);
        let changed = match change {
            Change::Install(key) => ours.install(key, writer),
            Change::Choose(key) => ours.choose(key, writer),
            Change::Remove(key) => ours.remove(key, writer),
        }?;
        self.put_in_force(changed, writer).await
    }

    /// On disk first: a host that forgot a key in a crash that it had sealed with could not be told from a thief.
    async fn put_in_force(&mut self, next: Keyring, from: NodeId) -> Result<Arc<Keyring>, ChangeError> {
        let before = self.current.borrow().clone();
        if *before == next {
            return Ok(before);
        }
        let next = Arc::new(next);
        let (data_dir, identity, keyring) = (self.data_dir.clone(), self.identity.clone(), next.clone());
        let written = tokio::task::spawn_blocking(move || save_keyring(&data_dir, &identity, &keyring)).await;
        let written = written.map_err(|error| ChangeError::Disk(error.to_string()))?;
        written.map_err(|error| ChangeError::Disk(error.to_string()))?;
        self.current.send_replace(next.clone());
        info!(primary = %next.primary(), keys = ?next.status().keys, %from, "the gossip keyring has changed");
        Ok(next)
    }

    /// A datagram of `sender` could not be opened: one of the two hosts has missed a change. The id is not proved, so only
    /// known hosts are asked, where they are known to be, and they must prove that they are who they are.
    fn ask(&mut self, sender: NodeId) {
        let directory = self.directory.load();
        let Some(node) = directory.nodes.get(&sender).filter(|node| node.state != MemberState::Left) else { return };
        let now = Instant::now();
        self.asked.retain(|_, at| now.duration_since(*at) < UNOPENED_PAUSE);
        if sender == self.identity.node || self.asked.len() >= ASKED_MAX || self.asked.contains_key(&sender) {
            return;
        }
        self.asked.insert(sender, now);
        debug!(node = %node.facts.name, "datagrams of this host cannot be opened; keyrings are compared");
        let (reply, _) = oneshot::channel();
        let call = KeyringCall {
            node: sender,
            to: node.facts.gossip,
            ask: KeyringAsk::Reconcile,
            deadline: ASK_DEADLINE,
            reply,
        };
        // A driver that is behind is told again by the next datagram.
        let _ = self.calls.try_send(call);
    }
}

#[cfg(test)]
mod tests;
