//! What the driver promises about keyrings: compared after members were exchanged, merged on both sides, taken over while
//! packets flow; and that datagrams that cannot be opened are told of.

use super::*;
use crate::gossip::{KeyringAsk, KeyringCall, KeyringTold};
use crate::wire::keyring::Fingerprint;

const OTHER: GossipKey = GossipKey([9; 32]);
const WRITER: NodeId = NodeId([1; 16]);

/// A host whose keyring is kept as an agent keeps it, in memory.
struct Kept {
    host: Host,
    current: watch::Receiver<Arc<Keyring>>,
    calls: mpsc::Sender<KeyringCall>,
    unopened: mpsc::Receiver<NodeId>,
}

async fn kept(ca: &Ca, keyring: Keyring) -> Kept {
    let (sender, current) = watch::channel(Arc::new(keyring));
    let (told, mut inlet) = mpsc::channel(8);
    let (unopened_sender, unopened) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(told) = inlet.recv().await {
            match told {
                KeyringTold::Merge { keyring, reply, .. } => {
                    let merged = sender.borrow().merge(&keyring).unwrap();
                    sender.send_replace(Arc::new(merged));
                    let _ = reply.send(sender.borrow().clone());
                }
                KeyringTold::Unopened { sender } => unopened_sender.send(sender).await.unwrap(),
            }
        }
    });
    let settings = Settings { keyring: KeyringLink { current: current.clone(), told }, ..ca.settings() };
    let node = settings.local;
    let bound = bind(settings).await.unwrap();
    let (address, counters, calls) = (bound.local_addr(), bound.counters(), bound.keyring_calls());
    let (peers, lobby) = (bound.peers(), bound.lobby());
    let (events, received) = mpsc::channel(64);
    let (commands, commanded) = mpsc::channel(64);
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(bound.run(events, commanded, stopping));
    let host = Host { node, address, events: received, commands, counters, lobby, peers, stop, running };
    Kept { host, current, calls, unopened }
}

impl Kept {
    async fn call(&self, to: &Kept, ask: KeyringAsk) -> Result<Vec<Fingerprint>, String> {
        let (reply, answer) = oneshot::channel();
        let call = KeyringCall { node: to.host.node, to: to.host.address, ask, deadline: PATIENCE, reply };
        self.calls.send(call).await.unwrap();
        answer.await.unwrap().map(|status| status.keys)
    }

    /// Waits until the keyring is this one.
    async fn comes_to(&mut self, keyring: &Keyring) {
        let reached = self.current.wait_for(|current| **current == *keyring);
        assert!(timeout(PATIENCE, reached).await.is_ok_and(|reached| reached.is_ok()));
    }

    /// A datagram to `to` arrives and is opened.
    async fn is_heard_by(&self, to: &mut Kept) {
        let datagram = Datagram::Swim(gossip(1));
        self.host.command(Command::Send { to: to.host.address, node: None, datagram }).await;
        match to.host.event().await {
            Event::Swim { sender, .. } => assert_eq!(sender, self.host.node),
            event => panic!("{event:?}"),
        }
    }
}

fn rotated() -> Keyring {
    let keyring = Keyring::new(KEY).install(OTHER, WRITER).unwrap();
    let keyring = keyring.choose(Fingerprint::of(&OTHER), WRITER).unwrap();
    keyring.remove(Fingerprint::of(&KEY), WRITER).unwrap()
}

#[tokio::test]
async fn hosts_without_a_common_key_have_one_after_they_exchanged_members() {
    let ca = Ca::new();
    for away_asks in [true, false] {
        let (mut away, mut there) = (kept(&ca, Keyring::new(KEY)).await, kept(&ca, rotated()).await);
        let (asking, asked) = if away_asks { (&mut away, &mut there) } else { (&mut there, &mut away) };
        asking.host.command(sync(asked.host.address)).await;
        let Event::SyncRequest { reply, .. } = asked.host.event().await else { panic!("no request") };
        reply.send(Vec::new()).unwrap();
        assert!(matches!(asking.host.event().await, Event::Synced { .. }));
        away.comes_to(&rotated()).await;
        assert_eq!(**there.current.borrow(), rotated(), "nothing that was removed comes back");
        away.is_heard_by(&mut there).await;
        there.is_heard_by(&mut away).await;
    }
}

#[tokio::test]
async fn a_key_that_is_removed_opens_nothing_from_then_on_and_that_is_told() {
    let ca = Ca::new();
    let (away, mut there) = (kept(&ca, Keyring::new(KEY)).await, kept(&ca, rotated()).await);
    let datagram = Datagram::Swim(gossip(1));
    away.host.command(Command::Send { to: there.host.address, node: None, datagram }).await;
    let told = timeout(PATIENCE, there.unopened.recv()).await.unwrap();
    assert_eq!(told, Some(away.host.node));
    assert_eq!(there.host.counters.rejected_unauthenticated.get(), 1);
    // A flood of them is not.
    for _ in 0..20 {
        away.host
            .command(Command::Send { to: there.host.address, node: None, datagram: Datagram::Swim(gossip(1)) })
            .await;
    }
    there.host.counted("rejected_unauthenticated", 21).await;
    assert!(there.unopened.try_recv().is_err() || there.unopened.try_recv().is_err());
}

#[tokio::test]
async fn both_sides_of_a_cut_end_with_the_changes_of_both() {
    let ca = Ca::new();
    let (one, two) = (Keyring::new(KEY).install(OTHER, WRITER).unwrap(), rotated());
    let third = GossipKey([8; 32]);
    let one = one.install(third, NodeId([2; 16])).unwrap();
    let merged = one.merge(&two).unwrap();
    let (mut alice, mut bob) = (kept(&ca, one).await, kept(&ca, two).await);
    assert_eq!(alice.call(&bob, KeyringAsk::List).await, Ok(rotated().status().keys), "asking changes nothing");
    assert_eq!(alice.call(&bob, KeyringAsk::Reconcile).await, Ok(merged.status().keys));
    alice.comes_to(&merged).await;
    bob.comes_to(&merged).await;
    assert_eq!(alice.call(&bob, KeyringAsk::Reconcile).await, Ok(merged.status().keys), "once more, without effect");
    alice.is_heard_by(&mut bob).await;
    bob.is_heard_by(&mut alice).await;
}

#[tokio::test]
async fn an_older_key_opens_and_is_counted() {
    let ca = Ca::new();
    let both = Keyring::new(KEY).install(OTHER, WRITER).unwrap();
    let used = both.choose(Fingerprint::of(&OTHER), WRITER).unwrap();
    let (mut alice, mut bob) = (kept(&ca, both).await, kept(&ca, used).await);
    alice.is_heard_by(&mut bob).await;
    bob.is_heard_by(&mut alice).await;
    assert_eq!(bob.host.counters.packets_older_key.get(), 1);
}

#[tokio::test]
async fn a_keyring_is_shown_only_to_the_host_that_is_asked_and_to_hosts_of_the_cluster() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (alice, bob) = (kept(&ca, Keyring::new(KEY)).await, kept(&ca, rotated()).await);
    let stranger = kept(&other, Keyring::new(KEY)).await;
    assert!(stranger.call(&bob, KeyringAsk::Reconcile).await.is_err());
    assert!(bob.call(&stranger, KeyringAsk::Reconcile).await.is_err());
    let (reply, answer) = oneshot::channel();
    let wrong = NodeId([5; 16]);
    let ask = KeyringAsk::Reconcile;
    let call = KeyringCall { node: wrong, to: bob.host.address, ask, deadline: PATIENCE, reply };
    alice.calls.send(call).await.unwrap();
    assert!(answer.await.unwrap().unwrap_err().contains("changed hands"));
    assert_eq!(**alice.current.borrow(), Keyring::new(KEY));
    assert_eq!(**bob.current.borrow(), rotated());
}
