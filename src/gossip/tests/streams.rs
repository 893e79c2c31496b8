//! What the TCP side promises.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::{Header, RecordKind, Version};
use crate::wire::stream::{self, CLAIMS_MAX, MESSAGE_BYTES_MAX, StreamRequest};

/// Real sockets need real time: short enough to wait for, long enough for a handshake on a busy machine.
const HASTY: Deadlines = Deadlines {
    handshake: Duration::from_millis(500),
    message: Duration::from_millis(800),
    owner: Duration::from_millis(500),
};

fn record(sequence: u64) -> Record {
    let header = Header {
        origin: NodeId([1; 16]),
        version: Version { epoch: 1, sequence },
        kind: RecordKind::SERVICE,
        format: 1,
        tombstone: false,
        key: Bytes::from_static(b"web"),
    };
    Record::sign(&header, &[0; 60_000], |_| [0; 64]).unwrap()
}

fn want(sequence: u64) -> Want {
    Want { origin: NodeId([1; 16]), after: Version { epoch: 1, sequence } }
}

#[tokio::test]
async fn a_sync_exchanges_members_even_if_they_fill_several_messages() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    let ours: Vec<_> = (0..CLAIMS_MAX as u64 * 2 + 1).map(claim).collect();
    let theirs: Vec<_> = (0..CLAIMS_MAX as u64 + 1).map(claim).collect();
    alice.command(Command::Sync { to: bob.address, expect: Some(bob.node), claims: ours.clone() }).await;
    match bob.event().await {
        Event::SyncRequest { peer, claims, reply } => {
            assert_eq!(peer, alice.node);
            assert!(claims == ours, "{} claims", claims.len());
            reply.send(theirs.clone()).unwrap();
        }
        event => panic!("{event:?}"),
    }
    match alice.event().await {
        Event::Synced { peer, claims, .. } => {
            assert_eq!(peer, bob.node);
            assert!(claims == theirs, "{} claims", claims.len());
        }
        event => panic!("{event:?}"),
    }
    assert_eq!((alice.counters.streams_out.get(), bob.counters.streams_in.get()), (1, 1));
    bob.counted("stream_bytes_in", alice.counters.stream_bytes_out.get()).await;
}

#[tokio::test]
async fn a_pull_brings_records_part_by_part_and_asks_the_owner_for_each_part() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    alice.command(Command::Pull { from: bob.node, to: bob.address, wants: vec![want(0)] }).await;
    for part in 0..4 {
        match bob.event().await {
            Event::PullRequest { peer, wants, reply } => {
                assert_eq!((peer, wants), (alice.node, vec![want(part)]));
                let left = if part < 3 { vec![want(part + 1)] } else { Vec::new() };
                reply.send((vec![record(part); 4], left)).unwrap();
            }
            event => panic!("{event:?}"),
        }
        match alice.event().await {
            Event::Pulled { from, records, done } => {
                assert_eq!((from, done), (bob.node, part == 3));
                assert_eq!(records, vec![record(part); 4]);
            }
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test]
async fn a_pull_of_what_the_owner_does_not_have_ends_with_an_empty_part() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    alice.command(Command::Pull { from: bob.node, to: bob.address, wants: vec![want(0)] }).await;
    match bob.event().await {
        Event::PullRequest { wants, reply, .. } => reply.send((Vec::new(), wants)).unwrap(),
        event => panic!("{event:?}"),
    }
    assert!(matches!(alice.event().await, Event::Pulled { done: true, records, .. } if records.is_empty()));
}

#[tokio::test]
async fn a_stream_probe_tells_whether_the_target_itself_answers() {
    let ca = Ca::new();
    let (mut alice, bob) = (ca.host().await, ca.host().await);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let cases = [(bob.node, bob.address, true), (NodeId([5; 16]), bob.address, false), (bob.node, nobody, false)];
    for (number, (target, to, expected)) in (1..).zip(cases) {
        alice.command(Command::StreamProbe { target, to, number }).await;
        match alice.event().await {
            Event::StreamProbe { target: answered, number: of, alive } => {
                assert_eq!((answered, of, alive), (target, number, expected));
            }
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test]
async fn a_host_of_another_ca_gets_in_nowhere_and_is_asked_nothing() {
    let (ca, other_ca) = (Ca::new(), Ca::new());
    let (mut alice, mut stranger) = (ca.host().await, other_ca.host().await);
    stranger.command(sync(alice.address)).await;
    assert!(stranger.sync_failure().await.contains("same CA"));
    alice.counted("streams_refused", 1).await;
    alice.command(sync(stranger.address)).await;
    assert!(alice.sync_failure().await.contains("same CA"));
    stranger.counted("streams_refused", 1).await;
    assert!(alice.events.try_recv().is_err() && stranger.events.try_recv().is_err());
    assert_eq!((alice.counters.streams_in.get(), alice.counters.streams_out.get()), (0, 0));
}

#[tokio::test]
async fn a_server_refuses_clients_without_certificate_with_another_ca_or_another_protocol() {
    let (ca, other_ca) = (Ca::new(), Ca::new());
    let mut host = ca.host().await;
    let (leaf, other_leaf) = (ca.leaf(), other_ca.leaf());
    // The client itself trusts the server in each case, so that the refusal is the server's.
    let configs =
        [ca.client(None, ALPN[0]), ca.client(Some(&other_leaf), ALPN[0]), ca.client(Some(&leaf), b"weft-mesh")];
    for (refused, config) in (1..).zip(configs) {
        if let Ok(mut tls) = connect(config, host.address).await {
            // In TLS 1.3 the client is done before the server has judged it.
            let request = stream::encode(&StreamRequest::Sync { claims: Vec::new(), more: false }).unwrap();
            let _ = tls.write_all(&request).await;
            assert!(!matches!(tls.read(&mut [0; 16]).await, Ok(1..)), "case {refused} was answered");
        }
        host.counted("streams_refused", refused).await;
    }
    assert!(host.events.try_recv().is_err());
    assert_eq!(host.counters.streams_in.get(), 0);
}

#[tokio::test]
async fn an_address_that_changed_hands_or_is_our_own_is_named_as_such() {
    let ca = Ca::new();
    let (mut alice, bob) = (ca.host().await, ca.host().await);
    let expect = Some(NodeId([5; 16]));
    alice.command(Command::Sync { to: bob.address, expect, claims: Vec::new() }).await;
    assert!(alice.sync_failure().await.contains("changed hands"));
    alice.command(Command::Pull { from: NodeId([5; 16]), to: bob.address, wants: vec![want(0)] }).await;
    assert!(matches!(alice.event().await, Event::PullFailed { error, .. } if error.contains("changed hands")));
    alice.command(sync(alice.address)).await;
    assert!(alice.sync_failure().await.contains("own"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_before_and_after_its_handshake() {
    let ca = Ca::new();
    let host = Host::start(Settings { deadlines: HASTY, ..ca.settings() }, 64).await;
    let mut silent = TcpStream::connect(host.address).await.unwrap();
    assert!(!matches!(timeout(PATIENCE, silent.read(&mut [0; 16])).await.unwrap(), Ok(1..)));
    host.counted("streams_refused", 1).await;
    let mut idle = connect(ca.client(Some(&ca.leaf()), ALPN[0]), host.address).await.unwrap();
    assert!(!matches!(timeout(PATIENCE, idle.read(&mut [0; 16])).await.unwrap(), Ok(1..)));
    host.counted("stream_errors", 1).await;
}

#[tokio::test]
async fn a_client_that_drips_its_request_is_cut_by_the_deadline_of_the_whole() {
    let ca = Ca::new();
    let mut host = Host::start(Settings { deadlines: HASTY, ..ca.settings() }, 64).await;
    let mut tls = connect(ca.client(Some(&ca.leaf()), ALPN[0]), host.address).await.unwrap();
    let request = stream::encode(&StreamRequest::Sync { claims: vec![claim(1); 100], more: false }).unwrap();
    let dripping = async {
        for byte in request.chunks(1) {
            tls.write_all(byte).await?;
            tls.flush().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::io::Result::Ok(())
    };
    assert!(timeout(PATIENCE, dripping).await.expect("the drip went on").is_err());
    assert_eq!(host.counters.stream_errors.get(), 1);
    assert!(host.events.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_never_answers_ends_the_call_by_the_deadline() {
    let ca = Ca::new();
    let mut host = Host::start(Settings { deadlines: HASTY, ..ca.settings() }, 64).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.command(sync(silent.local_addr().unwrap())).await;
    assert!(host.sync_failure().await.contains("connecting took too long"));
}

#[tokio::test]
async fn an_owner_that_does_not_answer_or_refuses_costs_the_stream_only() {
    let ca = Ca::new();
    let mut mute = Host::start(Settings { deadlines: HASTY, ..ca.settings() }, 64).await;
    let mut other = ca.host().await;
    other.command(sync(mute.address)).await;
    let Event::SyncRequest { reply: unanswered, .. } = mute.event().await else { panic!("no request") };
    assert!(other.sync_failure().await.contains("broke while reading"));
    assert!(unanswered.is_closed());
    other.command(sync(mute.address)).await;
    let Event::SyncRequest { reply, .. } = mute.event().await else { panic!("no request") };
    drop(reply);
    assert!(other.sync_failure().await.contains("broke while reading"));
    mute.counted("stream_errors", 2).await;
}

#[tokio::test]
async fn garbage_on_the_port_is_refused_and_a_members_garbage_ends_its_stream() {
    let ca = Ca::new();
    let mut host = ca.host().await;
    let mut plain = TcpStream::connect(host.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    host.counted("streams_refused", 1).await;
    let too_long = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    let cut_short = [&1000u32.to_be_bytes()[..], b"\x01\x00"].concat();
    let unreadable = [&3u32.to_be_bytes()[..], b"\x01\x63\x63"].concat();
    let wrong_target = stream::encode(&StreamRequest::Ping { number: 1, target: NodeId([5; 16]) }).unwrap();
    let endless = stream::encode(&StreamRequest::Sync { claims: Vec::new(), more: true }).unwrap().repeat(8);
    let leaf = ca.leaf();
    for (ended, garbage) in (1..).zip([too_long, cut_short, unreadable, wrong_target, endless]) {
        let mut tls = connect(ca.client(Some(&leaf), ALPN[0]), host.address).await.unwrap();
        let _ = tls.write_all(&garbage).await;
        let _ = tls.shutdown().await;
        assert!(!matches!(timeout(PATIENCE, tls.read(&mut [0; 16])).await.unwrap(), Ok(1..)), "garbage {ended}");
        host.counted("stream_errors", ended).await;
    }
    assert!(host.events.try_recv().is_err());
}

#[tokio::test]
async fn of_more_idle_connections_than_an_address_may_have_the_oldest_are_closed_and_counted() {
    let ca = Ca::new();
    let mut host = ca.host().await;
    let mut held = Vec::new();
    for _ in 0..260 {
        held.push(TcpStream::connect(host.address).await.unwrap());
    }
    host.counted("streams_refused", 260 - 64).await;
    assert_eq!((host.lobby.waiting(), host.lobby.crowded_out()), (64, 260 - 64));
    let oldest = timeout(PATIENCE, held[0].read(&mut [0; 16])).await.expect("closed");
    assert!(!matches!(oldest, Ok(1..)));
    drop(held);
    host.counted("streams_refused", 260).await;
    host.command(sync(host.address)).await;
    assert!(host.sync_failure().await.contains("own"), "the port serves again");
}
