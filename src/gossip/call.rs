//! Streams to other hosts: the owner's `Sync`, `Pull` and `StreamProbe`, each a task that ends in an event.
//!
//! Commands come in; connections go out; answers and failures go to the owner. Each command gets exactly one last word.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsStream;
use tracing::debug;

use super::driver::Shared;
use super::keyring::{self, KeyringCall};
use super::message::{Channel, StreamError};
use super::serve::{PULL_MESSAGES_MAX, SYNC_MESSAGES_MAX, parts};
use super::socket::canonical;
use super::{Command, Event};
use crate::model::{Claim, NodeId, Want};
use crate::wire::stream::{StreamReply, StreamRequest};

/// Syncs and pulls under way at once: they bring much, and the owner takes one at a time.
const BULK_MAX: usize = 32;
/// Calls under way or waiting. `swim` and `catalog` ask for a handful; more means that the network hangs.
const CALLS_MAX: usize = 1024;

/// The calls under way.
pub(super) struct Calls {
    shared: Arc<Shared>,
    bulk: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Calls {
    pub(super) fn new(shared: Arc<Shared>) -> Calls {
        Calls { shared, bulk: Arc::new(Semaphore::new(BULK_MAX)), tasks: JoinSet::new() }
    }

    /// Starts a call. It never waits; past [`CALLS_MAX`] the call fails at once.
    pub(super) fn start(&mut self, command: Command) {
        while self.tasks.try_join_next().is_some() {}
        if self.tasks.len() >= CALLS_MAX {
            self.shared.counters.calls_refused.increment();
            if let Some(event) = failed(&command, &StreamError::TooManyCalls) {
                // An owner that is behind as well will ask again when its own timers say so.
                let _ = self.shared.events.try_send(event);
            }
            return;
        }
        let (shared, bulk) = (self.shared.clone(), self.bulk.clone());
        self.tasks.spawn(async move {
            // A probe must not wait behind bulk: its answer would come too late to save the probed.
            let probe = matches!(command, Command::StreamProbe { .. });
            let _slot = if probe { None } else { bulk.acquire().await.ok() };
            call(&shared, command).await;
        });
    }
}

impl Calls {
    /// Starts a call about a keyring. Whoever asks bounds how many there are.
    pub(super) fn start_keyring(&mut self, call: KeyringCall) {
        while self.tasks.try_join_next().is_some() {}
        let shared = self.shared.clone();
        self.tasks.spawn(async move { keyring::call(&shared, call).await });
    }
}

async fn call(shared: &Shared, mut command: Command) {
    let result = match &mut command {
        Command::Send { .. } => return,
        Command::Sync { to, expect, claims } => sync(shared, *to, *expect, std::mem::take(claims)).await,
        Command::Pull { from, to, wants } => pull(shared, *from, *to, std::mem::take(wants)).await,
        Command::StreamProbe { target, to, number } => probe(shared, *target, *to, *number).await,
    };
    let last = match result {
        Ok(event) => event,
        Err(error) => {
            shared.counters.stream_errors.increment();
            debug!(%error, "gossip stream failed");
            failed(&command, &error)
        }
    };
    if let Some(event) = last {
        // Closed means that the agent is stopping.
        let _ = shared.events.send(event).await;
    }
}

fn failed(command: &Command, error: &StreamError) -> Option<Event> {
    match command {
        Command::Send { .. } => None,
        Command::Sync { to, .. } => {
            Some(Event::SyncFailed { to: *to, error: format!("members not exchanged with {to}: {error}") })
        }
        Command::Pull { from, to, .. } => {
            Some(Event::PullFailed { from: *from, error: format!("records not pulled from {from} at {to}: {error}") })
        }
        Command::StreamProbe { target, number, .. } => {
            Some(Event::StreamProbe { target: *target, number: *number, alive: false })
        }
    }
}

async fn sync(
    shared: &Shared,
    to: SocketAddr,
    expect: Option<NodeId>,
    ours: Vec<Claim>,
) -> Result<Option<Event>, StreamError> {
    let mut channel = open(shared, to, expect).await?;
    for (claims, more) in parts(ours)? {
        channel.write(&StreamRequest::Sync { claims, more }).await?;
    }
    let mut theirs = Vec::new();
    for _ in 0..SYNC_MESSAGES_MAX {
        let StreamReply::Sync { claims, more } = channel.read().await? else {
            return Err(StreamError::Unexpected("the answer to another request"));
        };
        theirs.extend(claims);
        if !more {
            let peer = channel.peer;
            let theirs = shared.claims.of_stream(peer, theirs).await;
            // Told first: the rest waits for the other host once or twice more.
            let told = shared.events.send(Event::Synced { to, peer, claims: theirs }).await;
            told.map_err(|_| StreamError::OwnerGone)?;
            keyring::after_sync(shared, &mut channel).await;
            channel.close().await;
            return Ok(None);
        }
    }
    Err(StreamError::Unexpected("a list of members without end"))
}

async fn pull(shared: &Shared, from: NodeId, to: SocketAddr, wants: Vec<Want>) -> Result<Option<Event>, StreamError> {
    let mut channel = open(shared, to, Some(from)).await?;
    channel.write(&StreamRequest::Pull { wants }).await?;
    for _ in 0..PULL_MESSAGES_MAX {
        let StreamReply::Records { records, more } = channel.read().await? else {
            return Err(StreamError::Unexpected("the answer to another request"));
        };
        if more && records.is_empty() {
            return Err(StreamError::Unexpected("an empty part that promises more"));
        }
        let done = !more;
        if done {
            channel.close().await;
            return Ok(Some(Event::Pulled { from, records, done }));
        }
        let taken = shared.events.send(Event::Pulled { from, records, done }).await;
        taken.map_err(|_| StreamError::OwnerGone)?;
    }
    Err(StreamError::Unexpected("a pull without end"))
}

async fn probe(shared: &Shared, target: NodeId, to: SocketAddr, number: u64) -> Result<Option<Event>, StreamError> {
    let mut channel = open(shared, to, Some(target)).await?;
    channel.write(&StreamRequest::Ping { number, target }).await?;
    match channel.read().await? {
        StreamReply::Pong { number: answered } if answered == number => {
            channel.close().await;
            Ok(Some(Event::StreamProbe { target, number, alive: true }))
        }
        _ => Err(StreamError::Unexpected("the answer to another request")),
    }
}

pub(super) async fn open(shared: &Shared, to: SocketAddr, expect: Option<NodeId>) -> Result<Channel<'_>, StreamError> {
    let opening = async {
        let tcp = TcpStream::connect(canonical(to)).await.map_err(StreamError::Connect)?;
        let _ = tcp.set_nodelay(true);
        let tls = shared.connector.connect(shared.server_name.clone(), tcp).await;
        shared.channel(TlsStream::from(tls.map_err(StreamError::Handshake)?))
    };
    let opened = timeout(shared.deadlines.handshake, opening).await;
    let channel = opened.map_err(|_| StreamError::Deadline("connecting"))??;
    match expect {
        _ if channel.peer == shared.local => return Err(StreamError::OwnAddress),
        Some(expected) if channel.peer != expected => {
            return Err(StreamError::OtherNode { expected, found: channel.peer });
        }
        _ => {}
    }
    shared.counters.streams_out.increment();
    Ok(channel)
}
