//! Keyrings between hosts, over gossip streams, which need no gossip key: compared after each exchange of members and
//! wherever a datagram cannot be opened, merged where they differ, and asked for by an operator's order.
//!
//! Who keeps the keyring gives a [`KeyringLink`] and [`KeyringCall`]s; what other hosts say goes to it as [`KeyringTold`]. A
//! keyring is shown only to hosts that have proved by certificate that they are of this cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::debug;

use super::call;
use super::driver::Shared;
use super::message::{Channel, StreamError};
use crate::model::NodeId;
use crate::wire::keyring::{Keyring, KeyringStatus};
use crate::wire::seal::claimed_sender;
use crate::wire::stream::{StreamReply, StreamRequest};

/// Calls that wait to be started.
pub(super) const CALLS_WAITING_MAX: usize = 64;
/// Datagrams that cannot be opened are told of so often at most: anybody can send them.
const UNOPENED_INTERVAL: Duration = Duration::from_millis(200);

/// The driver's way to whoever keeps the keyring.
#[derive(Clone)]
pub struct KeyringLink {
    /// The keyring in force, which is on disk.
    pub current: watch::Receiver<Arc<Keyring>>,
    /// Takes what other hosts say.
    pub told: mpsc::Sender<KeyringTold>,
}

/// What other hosts say about the keyring.
#[derive(Debug)]
pub enum KeyringTold {
    /// Another host has this keyring, which is to be merged.
    Merge {
        /// Which.
        peer: NodeId,
        /// Its keyring.
        keyring: Keyring,
        /// Takes the keyring in force once it is on disk. Dropped: it could not be merged or written.
        reply: oneshot::Sender<Arc<Keyring>>,
    },
    /// A datagram came that no key opens. It claims to be of this host; that is not proved.
    Unopened {
        /// Whose it claims to be.
        sender: NodeId,
    },
}

/// What another host is asked about its keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyringAsk {
    /// Which keys it holds.
    List,
    /// To compare keyrings; both hosts then hold what merging gives.
    Reconcile,
}

/// A question to one host. Its connection must be proved to be that host's.
#[derive(Debug)]
pub struct KeyringCall {
    /// Who must answer.
    pub node: NodeId,
    /// Where.
    pub to: SocketAddr,
    /// What is asked.
    pub ask: KeyringAsk,
    /// For all of it.
    pub deadline: Duration,
    /// What that host holds now, or why that is not known, for people.
    pub reply: oneshot::Sender<Result<KeyringStatus, String>>,
}

/// Tells of datagrams that cannot be opened, at a bounded rate.
#[derive(Default)]
pub(super) struct Unopened {
    told_at: Option<Instant>,
}

impl Unopened {
    pub(super) fn tell(&mut self, shared: &Shared, packet: &[u8]) {
        let now = Instant::now();
        if self.told_at.is_some_and(|at| now.duration_since(at) < UNOPENED_INTERVAL) {
            return;
        }
        if let Some(sender) = claimed_sender(packet) {
            self.told_at = Some(now);
            // A keeper that is behind has enough to do already.
            let _ = shared.keyring.told.try_send(KeyringTold::Unopened { sender });
        }
    }
}

// Asking.

pub(super) async fn call(shared: &Shared, call: KeyringCall) {
    let asking = async {
        let mut channel = call::open(shared, call.to, Some(call.node)).await?;
        let status = match call.ask {
            KeyringAsk::List => list(&mut channel).await?,
            KeyringAsk::Reconcile => reconcile(shared, &mut channel).await?,
        };
        channel.close().await;
        Ok(status)
    };
    let answer = timeout(call.deadline, asking).await.unwrap_or(Err(StreamError::Deadline("its answer")));
    // Who asked may have given up.
    let _ = call.reply.send(answer.map_err(|error| error.to_string()));
}

async fn list(channel: &mut Channel<'_>) -> Result<KeyringStatus, StreamError> {
    channel.write(&StreamRequest::KeyringList).await?;
    match channel.read().await? {
        StreamReply::KeyringStatus(status) if status.is_plausible() => Ok(status),
        _ => Err(StreamError::Unexpected("the answer to another request")),
    }
}

/// Compares keyrings and merges what differs, on both sides; gives what the other host holds then.
async fn reconcile(shared: &Shared, channel: &mut Channel<'_>) -> Result<KeyringStatus, StreamError> {
    let ours = shared.keyring.current.borrow().clone();
    let Some(theirs) = ask(channel, &StreamRequest::KeyringCompare { digest: ours.digest() }).await? else {
        return Ok(ours.status());
    };
    let merged = merge(shared, channel.peer, theirs.clone()).await?;
    if *merged == theirs {
        return Ok(theirs.status());
    }
    let keyring = Keyring::clone(&merged);
    match ask(channel, &StreamRequest::KeyringMerge { keyring }).await? {
        Some(theirs) => Ok(theirs.status()),
        None => Err(StreamError::Unexpected("the answer to another request")),
    }
}

async fn ask(channel: &mut Channel<'_>, request: &StreamRequest) -> Result<Option<Keyring>, StreamError> {
    channel.write(request).await?;
    match channel.read().await? {
        StreamReply::Keyring { keyring } => Ok(keyring),
        _ => Err(StreamError::Unexpected("the answer to another request")),
    }
}

/// The first version of the protocol in which hosts speak of keyrings.
const SINCE: u8 = 2;

/// Compares keyrings on a stream over which members were exchanged.
pub(super) async fn after_sync(shared: &Shared, channel: &mut Channel<'_>) {
    if channel.version < SINCE {
        return;
    }
    let reconciled = timeout(shared.deadlines.message, reconcile(shared, channel)).await;
    if let Err(error) = reconciled.unwrap_or(Err(StreamError::Deadline("the other host's keyring"))) {
        debug!(peer = %channel.peer, %error, "keyrings not compared");
    }
}

// Answering.

pub(super) async fn serve(
    shared: &Shared,
    channel: &mut Channel<'_>,
    request: StreamRequest,
) -> Result<(), StreamError> {
    let mut next = Some(request);
    while let Some(request) = next.take() {
        let current = shared.keyring.current.borrow().clone();
        match request {
            StreamRequest::KeyringList => {
                return channel.write(&StreamReply::KeyringStatus(current.status())).await;
            }
            StreamRequest::KeyringCompare { digest } => {
                let differs = current.digest() != digest;
                let keyring = differs.then(|| Keyring::clone(&current));
                channel.write(&StreamReply::Keyring { keyring }).await?;
                // A host that needed nothing from us but to know closes; one that has something for us goes on.
                next = if differs {
                    timeout(shared.deadlines.message, channel.read()).await.ok().and_then(Result::ok)
                } else {
                    None
                };
            }
            StreamRequest::KeyringMerge { keyring } => {
                let merged = merge(shared, channel.peer, keyring).await?;
                return channel.write(&StreamReply::Keyring { keyring: Some(Keyring::clone(&merged)) }).await;
            }
            _ => return Err(StreamError::Unexpected("a request that does not belong here")),
        }
    }
    Ok(())
}

/// The other host may compare keyrings now, or hang up, which is no error.
pub(super) async fn serve_after_sync(shared: &Shared, channel: &mut Channel<'_>) {
    if channel.version < SINCE {
        return;
    }
    let Ok(Ok(request)) = timeout(shared.deadlines.handshake, channel.read()).await else { return };
    if let Err(error) = serve(shared, channel, request).await {
        debug!(peer = %channel.peer, %error, "keyrings not compared");
    }
}

/// Hands another host's keyring to the keeper; gives the one that is in force then.
async fn merge(shared: &Shared, peer: NodeId, keyring: Keyring) -> Result<Arc<Keyring>, StreamError> {
    let (reply, merged) = oneshot::channel();
    let asking = async {
        let told = shared.keyring.told.send(KeyringTold::Merge { peer, keyring, reply }).await;
        told.map_err(|_| StreamError::OwnerGone)?;
        merged
            .await
            .map_err(|_| StreamError::Unexpected("the keyring could not be taken over; this agent's log says why"))
    };
    timeout(shared.deadlines.owner, asking).await.map_err(|_| StreamError::Deadline("this agent's own answer"))?
}
