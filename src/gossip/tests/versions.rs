//! Hosts that speak different versions of the protocol, in one cluster, over real sockets.

use super::*;
use crate::model::{Header, Record, RecordKind, RecordRef, Version, Want};
use crate::wire::seal::{Opener, Sealer};
use tokio::net::UdpSocket;

/// Hosts of version 1, as they always were, and hosts of version 2.
async fn both() -> (Host, Host) {
    let ca = Ca::new();
    let old = Host::start(Settings { protocol_max: 1, ..ca.settings() }, 64).await;
    (old, ca.host().await)
}

fn unheard_of() -> Record {
    let header = Header {
        origin: NodeId([3; 16]),
        version: Version { epoch: 1, sequence: 2 },
        kind: RecordKind(0x7777),
        format: 0x0909,
        tombstone: false,
        key: bytes::Bytes::from_static(b"\xff"),
    };
    Record::sign(&header, &[0xee; 300], |_| [7; 64]).unwrap()
}

fn to(host: &Host, datagram: Datagram) -> Command {
    Command::Send { to: host.address, node: Some(host.node), datagram }
}

/// Sends a datagram and waits until it has come.
async fn says(from: &Host, host: &mut Host, incarnation: u64) {
    from.command(to(host, Datagram::Swim(gossip(incarnation)))).await;
    match host.event().await {
        Event::Swim { message, .. } => assert_eq!(message, gossip(incarnation)),
        event => panic!("{event:?}"),
    }
}

fn spoken(host: &Host, other: &Host) -> Option<(u8, u8)> {
    host.peers.versions(other.node).map(|versions| (versions.current, versions.highest))
}

#[tokio::test]
async fn two_hosts_of_version_2_soon_speak_it() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    says(&alice, &mut bob, 1).await;
    assert_eq!(
        (spoken(&bob, &alice), spoken(&alice, &bob)),
        (Some((2, 2)), None),
        "a stranger is told how far this host reads"
    );
    says(&bob, &mut alice, 2).await;
    assert_eq!(spoken(&alice, &bob), Some((2, 2)));
    says(&alice, &mut bob, 3).await;
    assert_eq!((alice.counters.hellos_out.get(), bob.counters.hellos_out.get()), (1, 0));
}

#[tokio::test]
async fn hosts_of_both_versions_exchange_datagrams_for_ever() {
    let (mut old, mut new) = both().await;
    for round in 0..5 {
        says(&old, &mut new, round).await;
        says(&new, &mut old, round).await;
    }
    let digest = CatalogMessage::Digest(vec![3; 64]);
    new.command(to(&old, Datagram::Catalog(digest.clone()))).await;
    assert!(matches!(old.event().await, Event::Catalog { message, .. } if message == digest));
    let delta = CatalogMessage::Delta(vec![unheard_of()]);
    old.command(to(&new, Datagram::Catalog(delta.clone()))).await;
    assert!(matches!(new.event().await, Event::Catalog { message, .. } if message == delta));
    assert_eq!((spoken(&new, &old), spoken(&old, &new)), (None, None), "version 1 does not tell");
    assert_eq!(old.counters.rejected_malformed.get(), 1, "one hello, as any newer packet, and no more of them");
}

#[tokio::test]
async fn what_the_others_version_has_no_word_for_is_not_sent_and_counted() {
    let (mut old, new) = both().await;
    let named = RecordRef { origin: NodeId([3; 16]), version: Version { epoch: 1, sequence: 2 } };
    for _ in 0..3 {
        new.command(to(&old, Datagram::Catalog(CatalogMessage::Fresh(vec![named])))).await;
    }
    says(&new, &mut old, 1).await;
    assert_eq!(new.counters.packets_not_in_version.get(), 3);
    assert_eq!((new.counters.packets_unsent.get(), old.counters.rejected_malformed.get()), (0, 1), "only the hello");
}

#[tokio::test]
async fn hosts_of_both_versions_exchange_members_records_and_probes_over_streams() {
    let (mut old, mut new) = both().await;
    for turn in 0..2 {
        let (caller, called) = if turn == 0 { (&mut old, &mut new) } else { (&mut new, &mut old) };
        caller.command(Command::Sync { to: called.address, expect: Some(called.node), claims: vec![claim(1)] }).await;
        let Event::SyncRequest { claims, reply, .. } = called.event().await else { panic!("no request") };
        assert_eq!(claims, [claim(1)]);
        reply.send(vec![claim(2)]).unwrap();
        assert!(matches!(caller.event().await, Event::Synced { claims, .. } if claims == [claim(2)]));
        let wants = vec![Want { origin: NodeId([3; 16]), after: Version::ZERO }];
        caller.command(Command::Pull { from: called.node, to: called.address, wants }).await;
        let Event::PullRequest { reply, .. } = called.event().await else { panic!("no request") };
        reply.send((vec![unheard_of()], Vec::new())).unwrap();
        match caller.event().await {
            Event::Pulled { records, .. } => assert_eq!(records[0].encoded(), unheard_of().encoded()),
            event => panic!("{event:?}"),
        }
        caller.command(Command::StreamProbe { target: called.node, to: called.address, number: 5 }).await;
        assert!(matches!(caller.event().await, Event::StreamProbe { number: 5, alive: true, .. }));
    }
    assert_eq!(spoken(&new, &old), Some((1, 1)), "the handshake tells");
    says(&new, &mut old, 1).await;
    assert_eq!(new.counters.hellos_out.get(), 0, "who is known to be old is not told");
}

#[tokio::test]
async fn a_stream_between_hosts_of_version_2_lets_both_know_before_any_datagram() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    alice.command(Command::StreamProbe { target: bob.node, to: bob.address, number: 1 }).await;
    assert!(matches!(alice.event().await, Event::StreamProbe { alive: true, .. }));
    assert_eq!((spoken(&alice, &bob), spoken(&bob, &alice)), (Some((2, 2)), Some((2, 2))));
    says(&alice, &mut bob, 1).await;
    assert_eq!(alice.counters.hellos_out.get(), 0);
}

#[tokio::test]
async fn a_host_of_a_later_version_is_heard_as_far_as_it_can_be_and_told_what_is_read_here() {
    let ca = Ca::new();
    let mut host = ca.host().await;
    let later = NodeId([9; 16]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut sealer = Sealer::new(&KEY, CLUSTER, later, 1);
    let mut send = async |payload: &[u8]| {
        socket.send_to(&sealer.seal(payload).unwrap(), host.address).await.unwrap();
    };
    send(&[3, 3, 77, 1, 2, 3]).await;
    let mut longer = Datagram::Swim(gossip(4)).encode_in(2, 3).unwrap();
    longer.extend(b"what version 3 adds");
    send(&longer).await;
    match host.event().await {
        Event::Swim { message, .. } => assert_eq!(message, gossip(4)),
        event => panic!("{event:?}"),
    }
    assert_eq!((host.counters.packets_newer.get(), host.counters.rejected_malformed.get()), (1, 0));
    assert_eq!(host.peers.versions(later).map(|versions| (versions.current, versions.highest)), Some((2, 3)));
    let there = socket.local_addr().unwrap();
    host.command(Command::Send { to: there, node: Some(later), datagram: Datagram::Swim(gossip(5)) }).await;
    let mut packet = [0; 1200];
    let (length, _) = timeout(PATIENCE, socket.recv_from(&mut packet)).await.unwrap().unwrap();
    let (_, payload) = Opener::new(&[KEY], CLUSTER, later).open(&packet[..length]).unwrap();
    assert_eq!(payload[..2], [2, 2], "in the highest version that both read");
}

#[tokio::test]
async fn a_host_put_back_to_version_1_is_understood_by_its_next_word_or_stream() {
    let ca = Ca::new();
    let settings = ca.settings();
    let (mut host, mut upgraded) = (ca.host().await, Host::start(settings.clone(), 64).await);
    says(&upgraded, &mut host, 1).await;
    assert_eq!(spoken(&host, &upgraded), Some((2, 2)));
    let address = upgraded.address;
    upgraded.stop.send(true).unwrap();
    timeout(PATIENCE, &mut upgraded.running).await.unwrap().unwrap();
    let put_back = Settings { listen: address, protocol_max: 1, epoch: 2, ..settings };
    let mut put_back = Host::start(put_back, 64).await;
    host.command(Command::StreamProbe { target: put_back.node, to: address, number: 1 }).await;
    assert!(matches!(host.event().await, Event::StreamProbe { alive: true, .. }));
    says(&host, &mut put_back, 2).await;
    says(&put_back, &mut host, 3).await;
    says(&host, &mut put_back, 4).await;
    assert_eq!(put_back.counters.rejected_malformed.get(), 1, "the hello after its first word in a new start");
}
