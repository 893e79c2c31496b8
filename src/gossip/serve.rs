//! Streams from other hosts: accepted, authenticated, and one request answered from the owner.
//!
//! Connections come in; `SyncRequest` and `PullRequest` events go to the owner, and its replies go out. How many are
//! served at once, and how long each part takes, is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsStream;
use tracing::{debug, warn};

use super::Event;
use super::driver::Shared;
use super::keyring;
use super::message::{Channel, StreamError};
use super::socket::canonical;
use crate::lobby::{Limits, Place, Source};
use crate::model::{Claim, NodeId, Want};
use crate::wire::stream::{CLAIMS_MAX, StreamReply, StreamRequest};

/// Requests answered at once. Each holds at most one message of 1 MiB, and nearly always far less.
const STREAMS_MAX: usize = 256;
/// Connections without a request yet. A host has one to another at most times, a few when much has happened; hundreds call
/// at once when a host of a large fleet comes back. Only who has a certificate gets as far as to send a message.
pub(super) const WAITING: Limits = Limits { total: 512, each: 64 };
/// Pause after a failed accept: what fails is nearly always a shortage of file descriptors, which a loop would not end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Parts of a list of members: 24,576 of them in all.
pub(super) const SYNC_MESSAGES_MAX: usize = 8;
/// Parts of one pull, 256 KiB each. What is more than 1 GiB is asked for again.
pub(super) const PULL_MESSAGES_MAX: usize = 4096;

/// Accepts until it is dropped.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(STREAMS_MAX));
    let mut serving = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = serving.join_next() => continue,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if shared.lobby.accept_failed() {
                    warn!(%error, "a gossip stream could not be accepted; if files ran out, raise LimitNOFILE");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let from = canonical(from);
        let place = shared.lobby.enter(Source::of(from.ip()));
        let (shared, slots) = (shared.clone(), slots.clone());
        serving.spawn(async move { serve(&shared, tcp, from, &place, &slots).await });
    }
}

async fn serve(shared: &Shared, tcp: TcpStream, from: SocketAddr, place: &Place, slots: &Semaphore) {
    // On the heap, so that a connection that says nothing costs little.
    let shaken = tokio::select! {
        shaken = Box::pin(handshake(shared, tcp)) => shaken,
        () = place.shown_out() => return shared.counters.streams_refused.increment(),
    };
    let mut channel = match shaken {
        Ok(channel) => channel,
        Err(error) => {
            shared.counters.streams_refused.increment();
            debug!(%from, %error, "gossip stream refused");
            return;
        }
    };
    shared.counters.streams_in.increment();
    let request = tokio::select! {
        request = channel.read() => request,
        () = place.shown_out() => return shared.counters.streams_refused.increment(),
    };
    place.prove();
    let Ok(_slot) = slots.try_acquire() else {
        shared.counters.streams_refused.increment();
        return;
    };
    let answered = match request {
        Ok(request) => answer(shared, &mut channel, request).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(()) => channel.close().await,
        Err(error) => {
            shared.counters.stream_errors.increment();
            debug!(%from, peer = %channel.peer, %error, "gossip stream ended early");
        }
    }
}

async fn handshake(shared: &Shared, tcp: TcpStream) -> Result<Channel<'_>, StreamError> {
    let _ = tcp.set_nodelay(true);
    let tls = timeout(shared.deadlines.handshake, shared.acceptor.accept(tcp)).await;
    let tls = tls.map_err(|_| StreamError::Deadline("the handshake"))?.map_err(StreamError::Handshake)?;
    shared.channel(TlsStream::from(tls))
}

async fn answer(shared: &Shared, channel: &mut Channel<'_>, request: StreamRequest) -> Result<(), StreamError> {
    match request {
        StreamRequest::Sync { claims, more } => {
            answer_sync(shared, channel, claims, more).await?;
            keyring::serve_after_sync(shared, channel).await;
            Ok(())
        }
        StreamRequest::Pull { wants } => answer_pull(shared, channel, wants).await,
        StreamRequest::Ping { number, target } if target == shared.local => {
            channel.write(&StreamReply::Pong { number }).await
        }
        StreamRequest::Ping { .. } => Err(StreamError::Unexpected("a ping for another host")),
        request => keyring::serve(shared, channel, request).await,
    }
}

async fn answer_sync(
    shared: &Shared,
    channel: &mut Channel<'_>,
    mut claims: Vec<Claim>,
    mut more: bool,
) -> Result<(), StreamError> {
    for _ in 1..SYNC_MESSAGES_MAX {
        if !more {
            break;
        }
        let StreamRequest::Sync { claims: next, more: further } = channel.read().await? else {
            return Err(StreamError::Unexpected("another request within a sync"));
        };
        claims.extend(next);
        more = further;
    }
    if more {
        return Err(StreamError::Unexpected("a list of members without end"));
    }
    let peer = channel.peer;
    let claims = shared.claims.of_stream(peer, claims).await;
    let ours = ask(shared, |reply| Event::SyncRequest { peer, claims, reply }).await?;
    for (claims, more) in parts(ours)? {
        channel.write(&StreamReply::Sync { claims, more }).await?;
    }
    Ok(())
}

async fn answer_pull(shared: &Shared, channel: &mut Channel<'_>, mut wants: Vec<Want>) -> Result<(), StreamError> {
    let peer: NodeId = channel.peer;
    for _ in 0..PULL_MESSAGES_MAX {
        let (records, left) = ask(shared, |reply| Event::PullRequest { peer, wants, reply }).await?;
        // An owner that hands out nothing has nothing to hand out, whatever it calls left.
        let more = !left.is_empty() && !records.is_empty();
        channel.write(&StreamReply::Records { records, more }).await?;
        if !more {
            return Ok(());
        }
        wants = left;
    }
    Err(StreamError::Unexpected("a pull without end"))
}

/// Asks the owner, which may be behind but not for ever: the other host has stopped waiting by then.
async fn ask<T>(shared: &Shared, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, StreamError> {
    let (reply, answer) = oneshot::channel();
    let asking = async {
        shared.events.send(event(reply)).await.map_err(|_| StreamError::OwnerGone)?;
        answer.await.map_err(|_| StreamError::OwnerGone)
    };
    timeout(shared.deadlines.owner, asking).await.map_err(|_| StreamError::Deadline("this agent's own answer"))?
}

/// The list in parts of [`CLAIMS_MAX`], each with whether more follow; one empty part for an empty list.
pub(super) fn parts(claims: Vec<Claim>) -> Result<impl Iterator<Item = (Vec<Claim>, bool)>, StreamError> {
    let count = claims.len().div_ceil(CLAIMS_MAX).max(1);
    if count > SYNC_MESSAGES_MAX {
        return Err(StreamError::Unexpected("more members than one sync can tell"));
    }
    let mut rest = claims;
    Ok((1..=count).map(move |part| {
        let later = rest.split_off(rest.len().min(CLAIMS_MAX));
        (std::mem::replace(&mut rest, later), part < count)
    }))
}
