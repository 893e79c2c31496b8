//! What the UDP side promises.

use tokio::net::UdpSocket;

use super::*;
use crate::wire::packet::DATAGRAM_BYTES_MAX;
use crate::wire::seal::Sealer;

const PEER: NodeId = NodeId([9; 16]);

fn sealed(sealer: &mut Sealer, incarnation: u64) -> Vec<u8> {
    sealer.seal(&Datagram::Swim(gossip(incarnation)).encode().unwrap()).unwrap()
}

async fn raw(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

async fn incarnation_heard(host: &mut Host) -> u64 {
    match host.event().await {
        Event::Swim { message, .. } => message.claims[0].incarnation,
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn datagrams_flow_both_ways_and_name_their_sender() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    alice.command(Command::Send { to: bob.address, node: None, datagram: Datagram::Swim(gossip(1)) }).await;
    match bob.event().await {
        Event::Swim { sender, from, message } => {
            assert_eq!((sender, from, message), (alice.node, alice.address, gossip(1)));
        }
        event => panic!("{event:?}"),
    }
    let digest = CatalogMessage::Digest(vec![3; 64]);
    bob.command(Command::Send { to: alice.address, node: None, datagram: Datagram::Catalog(digest.clone()) }).await;
    match alice.event().await {
        Event::Catalog { sender, message } => assert_eq!((sender, message), (bob.node, digest)),
        event => panic!("{event:?}"),
    }
    assert_eq!((alice.counters.packets_in.get(), alice.counters.packets_out.get()), (1, 1));
    assert_eq!(alice.counters.bytes_out.get(), bob.counters.bytes_in.get());
}

#[tokio::test]
async fn a_host_that_listens_on_every_address_speaks_ipv4_under_ipv4_addresses() {
    let ca = Ca::new();
    let any = Settings { listen: "[::]:0".parse().unwrap(), ..ca.settings() };
    let (mut any, mut v4) = (Host::start(any, 64).await, ca.host().await);
    let to = SocketAddr::from(([127, 0, 0, 1], any.address.port()));
    v4.command(Command::Send { to, node: None, datagram: Datagram::Swim(gossip(1)) }).await;
    match any.event().await {
        Event::Swim { from, .. } => assert_eq!(from, v4.address),
        event => panic!("{event:?}"),
    }
    any.command(Command::Send { to: v4.address, node: None, datagram: Datagram::Swim(gossip(2)) }).await;
    match v4.event().await {
        Event::Swim { from, .. } => assert_eq!(from, to),
        event => panic!("{event:?}"),
    }
    v4.command(Command::StreamProbe { target: any.node, to, number: 5 }).await;
    assert!(matches!(v4.event().await, Event::StreamProbe { number: 5, alive: true, .. }));
}

#[tokio::test]
async fn strangers_packets_are_counted_and_dropped() {
    let ca = Ca::new();
    let mut host = ca.host().await;
    let stranger = raw(host.address).await;
    let mut other_key = Sealer::new(&GossipKey([8; 32]), CLUSTER, PEER, 1);
    let mut other_cluster = Sealer::new(&KEY, "test", PEER, 1);
    let mut own_id = Sealer::new(&KEY, CLUSTER, host.node, 1);
    let mut member = Sealer::new(&KEY, CLUSTER, PEER, 1);
    let unreadable = member.seal(b"\x01\x07no datagram").unwrap();
    let genuine = sealed(&mut member, 4);
    let mut oversize = genuine.clone();
    oversize.resize(DATAGRAM_BYTES_MAX + 300, 0);
    let packets = [
        sealed(&mut other_key, 1),
        sealed(&mut other_cluster, 2),
        sealed(&mut own_id, 3),
        unreadable,
        oversize,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        Vec::new(),
        genuine[..genuine.len() - 1].to_vec(),
        genuine,
    ];
    for packet in &packets {
        stranger.send(packet).await.unwrap();
    }
    assert_eq!(incarnation_heard(&mut host).await, 4, "only the genuine packet is heard");
    let counters = &host.counters;
    assert_eq!(counters.packets_in.get(), 9);
    assert_eq!(counters.rejected_unauthenticated.get(), 3);
    assert_eq!(counters.rejected_own_id.get(), 1);
    assert_eq!(counters.rejected_oversize.get(), 1);
    assert_eq!(counters.rejected_malformed.get(), 3);
    assert!(host.events.try_recv().is_err());
}

#[tokio::test]
async fn replayed_packets_and_packets_of_an_older_start_are_counted_and_dropped() {
    let ca = Ca::new();
    let mut host = ca.host().await;
    let recorder = raw(host.address).await;
    let (mut first, mut second) = (Sealer::new(&KEY, CLUSTER, PEER, 1), Sealer::new(&KEY, CLUSTER, PEER, 2));
    let old = sealed(&mut first, 1);
    for packet in [&old, &old, &sealed(&mut second, 2), &sealed(&mut first, 3), &old] {
        recorder.send(packet).await.unwrap();
    }
    for incarnation in 1..=3 {
        assert_eq!(incarnation_heard(&mut host).await, incarnation, "that it started again may be a lie");
    }
    host.counted("rejected_replayed", 2).await;
    let own = Claim { node: PEER, from: PEER, proof: vec![2], ..claim(4) };
    let word = Datagram::Swim(SwimMessage { probe: Probe::Gossip, claims: vec![own] });
    for packet in [&second.seal(&word.encode().unwrap()).unwrap(), &sealed(&mut first, 9), &sealed(&mut second, 5)] {
        recorder.send(packet).await.unwrap();
    }
    for incarnation in 4..=5 {
        assert_eq!(incarnation_heard(&mut host).await, incarnation, "it has signed its new start");
    }
    assert_eq!(host.counters.rejected_old_epoch.get(), 1);
}

#[tokio::test]
async fn a_claim_that_its_host_did_not_sign_reaches_no_owner() {
    let ca = Ca::new();
    let (mut alice, mut bob) = (ca.host().await, ca.host().await);
    let forged = Claim { proof: b"forged".to_vec(), ..claim(7) };
    let mut message = gossip(8);
    message.claims.push(forged.clone());
    alice.command(Command::Send { to: bob.address, node: None, datagram: Datagram::Swim(message) }).await;
    match bob.event().await {
        Event::Swim { message, .. } => assert_eq!(message, gossip(8)),
        event => panic!("{event:?}"),
    }
    let theirs = vec![forged.clone(), claim(2)];
    alice.command(Command::Sync { to: bob.address, expect: None, claims: theirs }).await;
    match bob.event().await {
        Event::SyncRequest { peer, claims, reply } => {
            assert_eq!((peer, claims), (alice.node, vec![claim(2)]));
            reply.send(vec![claim(3), forged]).unwrap();
        }
        event => panic!("{event:?}"),
    }
    match alice.event().await {
        Event::Synced { claims, .. } => assert_eq!(claims, vec![claim(3)]),
        event => panic!("{event:?}"),
    }
    assert_eq!((alice.counters.claims_refused_signature.get(), bob.counters.claims_refused_signature.get()), (1, 2));
}

#[tokio::test]
async fn an_owner_that_is_behind_loses_datagrams_and_nothing_else() {
    let ca = Ca::new();
    let (mut owner_behind, mut other) = (Host::start(ca.settings(), 1).await, ca.host().await);
    for incarnation in 0..20 {
        let datagram = Datagram::Swim(gossip(incarnation));
        other.command(Command::Send { to: owner_behind.address, node: None, datagram }).await;
    }
    owner_behind.counted("packets_dropped", 19).await;
    other.command(Command::StreamProbe { target: owner_behind.node, to: owner_behind.address, number: 1 }).await;
    assert!(matches!(other.event().await, Event::StreamProbe { alive: true, .. }), "a probe needs no owner");
    other.command(sync(owner_behind.address)).await;
    owner_behind.counted("streams_in", 2).await;
    assert_eq!(incarnation_heard(&mut owner_behind).await, 0);
    match owner_behind.event().await {
        Event::SyncRequest { reply, .. } => reply.send(vec![claim(3)]).unwrap(),
        event => panic!("{event:?}"),
    }
    assert!(matches!(other.event().await, Event::Synced { claims, .. } if claims == [claim(3)]));
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_not_sent_and_counted() {
    let ca = Ca::new();
    let mut host = ca.host().await;
    let message = SwimMessage { probe: Probe::Gossip, claims: vec![claim(1); 100] };
    host.command(Command::Send { to: host.address, node: None, datagram: Datagram::Swim(message) }).await;
    host.counted("packets_unsent", 1).await;
    assert!(host.events.try_recv().is_err());
}

#[tokio::test]
async fn the_last_datagrams_leave_before_the_driver_ends() {
    let ca = Ca::new();
    let (leaving, mut staying) = (ca.host().await, ca.host().await);
    for incarnation in 0..10 {
        let datagram = Datagram::Swim(gossip(incarnation));
        leaving.command(Command::Send { to: staying.address, node: None, datagram }).await;
    }
    leaving.stop.send(true).unwrap();
    timeout(PATIENCE, leaving.running).await.unwrap().unwrap();
    assert!(bind(Settings { listen: leaving.address, ..ca.settings() }).await.is_ok(), "the port is free again");
    for incarnation in 0..10 {
        assert_eq!(incarnation_heard(&mut staying).await, incarnation);
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_what_to_do() {
    let ca = Ca::new();
    let host = ca.host().await;
    let error = bind(Settings { listen: host.address, ..ca.settings() }).await.err().unwrap().to_string();
    assert!(error.contains(&host.address.to_string()) && error.contains("another agent"), "{error}");
}
