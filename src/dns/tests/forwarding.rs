//! Foreign names: fake upstreams on loopback, honest, dead, silent and forging.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use super::super::limits::Limits;
use super::super::{DnsError, Upstreams, bind};
use super::fleet::{data, question, with_edns};
use super::servers::{Shim, framed, read_reply, settings};

/// What an upstream got: from where, and what.
type Got = (SocketAddr, Message);

/// An upstream that sends back whatever `answer` makes of a query, which it also reports.
async fn upstream(
    answer: impl Fn(Message) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<Got>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (report, reports) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut packet = [0; 4096];
        while let Ok((bytes, from)) = socket.recv_from(&mut packet).await {
            let query = Message::from_vec(&packet[..bytes]).unwrap();
            let _ = report.send((from, query.clone()));
            for reply in answer(query) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    (address, reports)
}

fn reply_to(query: Message, address: [u8; 4]) -> Message {
    let mut reply = query;
    reply.metadata.message_type = MessageType::Response;
    let name = reply.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(name, 60, RData::A(A(address.into()))));
    reply
}

fn code(query: Message, code: ResponseCode) -> Vec<Vec<u8>> {
    let mut reply = query;
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.response_code = code;
    vec![reply.to_vec().unwrap()]
}

fn honest(query: Message) -> Vec<Vec<u8>> {
    vec![reply_to(query, [192, 0, 2, 1]).to_vec().unwrap()]
}

/// A port on which nobody listens.
async fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn impatient() -> Limits {
    Limits { upstream_timeout: Duration::from_millis(150), ..Limits::default() }
}

#[tokio::test]
async fn a_foreign_name_is_asked_of_the_upstream_under_another_id_and_port_each_time() {
    let (server, mut got) = upstream(honest).await;
    let shim = Shim::start(Upstreams::List(vec![server])).await;
    let (mut ids, mut ports) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let reply = shim.ask(&question("example.com.", RecordType::A)).await;
        assert_eq!((reply.id, data(&reply.answers)), (0x5eed, vec!["192.0.2.1".to_owned()]));
        let (from, query) = got.recv().await.unwrap();
        ids.push(query.id);
        ports.push(from.port());
    }
    for seen in [&mut ids, &mut ports] {
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= 6, "{seen:?}");
    }
    assert_eq!(shim.count(|c| &c.forwarded), 8);
}

#[tokio::test]
async fn mesh_names_never_reach_an_upstream() {
    let (server, mut got) = upstream(honest).await;
    let shim = Shim::start(Upstreams::List(vec![server])).await;
    for name in ["nosuch.mesh.internal.", "a.b.c.d.e.mesh.internal.", "nosuch.service.consul.", "mesh.internal."] {
        shim.ask(&question(name, RecordType::A)).await;
    }
    assert!(got.try_recv().is_err());
}

#[tokio::test]
async fn the_clients_spelling_and_edns_go_up_and_its_spelling_comes_back() {
    let lowering = |query: Message| {
        let mut reply = reply_to(query, [192, 0, 2, 1]);
        let lower = reply.queries[0].name().to_lowercase();
        reply.queries[0].set_name(lower);
        vec![reply.to_vec().unwrap()]
    };
    let (server, mut got) = upstream(lowering).await;
    let shim = Shim::start(Upstreams::List(vec![server])).await;
    let reply = shim.ask(&with_edns(question("eXaMple.COM.", RecordType::A), 1400)).await;
    assert_eq!(reply.queries[0].name().to_string(), "eXaMple.COM.");
    let (_, query) = got.recv().await.unwrap();
    assert_eq!(query.queries[0].name().to_string(), "eXaMple.COM.");
    assert_eq!(query.edns.as_ref().unwrap().max_payload(), 1400);
}

#[tokio::test]
async fn replies_with_another_id_question_or_type_and_garbage_are_passed_over() {
    let forging = |query: Message| {
        let forged = reply_to(query.clone(), [203, 0, 113, 66]);
        let (mut id, mut name, mut kind, mut not_a_reply) = (forged.clone(), forged.clone(), forged.clone(), forged);
        id.metadata.id ^= 1;
        name.queries[0].set_name("evil.com.".parse().unwrap());
        // As bytes, types 65 and 97 differ like upper and lower case.
        kind.queries[0].set_query_type(RecordType::from(97));
        not_a_reply.metadata.message_type = MessageType::Query;
        let forgeries = [id, name, kind, not_a_reply].map(|message| message.to_vec().unwrap());
        [forgeries.to_vec(), vec![vec![], vec![0xFF; 700]], honest(query)].concat()
    };
    let (server, _got) = upstream(forging).await;
    let shim = Shim::start(Upstreams::List(vec![server])).await;
    let reply = shim.ask(&question("example.com.", RecordType::from(65))).await;
    assert_eq!(data(&reply.answers), ["192.0.2.1"]);
    assert_eq!(shim.count(|c| &c.forward_mismatched), 6);
}

#[tokio::test]
async fn a_reply_from_elsewhere_is_not_heard() {
    let (silent, mut got) = upstream(|_| Vec::new()).await;
    let shim = Shim::start_with(Upstreams::List(vec![silent]), impatient(), None).await;
    let forger = async {
        let (port_of_shim, query) = got.recv().await.unwrap();
        let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let forged = reply_to(query, [203, 0, 113, 66]).to_vec().unwrap();
        let mut target = port_of_shim;
        target.set_ip("127.0.0.1".parse().unwrap());
        let _ = elsewhere.send_to(&forged, target).await;
    };
    let query = question("example.com.", RecordType::A);
    let (reply, ()) = tokio::join!(shim.ask(&query), forger);
    assert_eq!((reply.response_code, reply.answers.len()), (ResponseCode::ServFail, 0));
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_is_dead_silent_or_refuses_and_the_dead_then_rest() {
    let (silent, mut silent_got) = upstream(|_| Vec::new()).await;
    let (refusing, mut refusing_got) = upstream(|query| code(query, ResponseCode::Refused)).await;
    let (good, _got) = upstream(honest).await;
    let shim = Shim::start_with(Upstreams::List(vec![silent, refusing, good]), impatient(), None).await;
    for _ in 0..2 {
        let reply = shim.ask(&question("example.com.", RecordType::A)).await;
        assert_eq!(data(&reply.answers), ["192.0.2.1"]);
    }
    assert!(silent_got.recv().await.is_some());
    assert!(silent_got.try_recv().is_err(), "asked again at once");
    assert!(refusing_got.recv().await.is_some() && refusing_got.recv().await.is_some(), "it does answer");

    let shim = Shim::start(Upstreams::List(vec![closed().await, good])).await;
    let reply = shim.ask(&question("example.com.", RecordType::A)).await;
    assert_eq!(data(&reply.answers), ["192.0.2.1"]);
}

#[tokio::test]
async fn when_no_upstream_answers_the_client_is_told_over_udp_and_tcp() {
    let shim = Shim::start(Upstreams::List(vec![closed().await])).await;
    let query = with_edns(question("Example.com.", RecordType::A), 1232);
    let mut stream = shim.connect().await;
    stream.write_all(&framed(&query)).await.unwrap();
    for reply in [shim.ask(&query).await, read_reply(&mut stream).await] {
        assert_eq!((reply.id, reply.response_code), (0x5eed, ResponseCode::ServFail));
        assert_eq!(reply.queries[0].name().to_string(), "Example.com.");
        assert!(reply.edns.is_some() && reply.recursion_available && !reply.authoritative);
    }
    assert_eq!(shim.count(|c| &c.forward_failed), 2);
}

#[tokio::test]
async fn an_upstreams_own_failure_is_passed_on_when_nobody_knows_better() {
    let (failing, _got) = upstream(|query| code(query, ResponseCode::Refused)).await;
    let shim = Shim::start(Upstreams::List(vec![failing, closed().await])).await;
    let reply = shim.ask(&question("example.com.", RecordType::A)).await;
    assert_eq!((reply.id, reply.response_code), (0x5eed, ResponseCode::Refused));
}

#[tokio::test]
async fn one_too_many_under_way_fails_at_once_and_mesh_names_go_on() {
    let (silent, mut got) = upstream(|_| Vec::new()).await;
    let limits = Limits { forwards_max: 1, upstream_timeout: Duration::from_secs(10), ..Limits::default() };
    let shim = Shim::start_with(Upstreams::List(vec![silent]), limits, None).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let query = question("example.com.", RecordType::A);
    client.send_to(&query.to_vec().unwrap(), shim.address).await.unwrap();
    got.recv().await.unwrap();
    assert_eq!(shim.ask(&query).await.response_code, ResponseCode::ServFail);
    assert_eq!(shim.count(|c| &c.forward_overload), 1);
    let reply = shim.ask(&question("billing.mesh.internal.", RecordType::A)).await;
    assert_eq!(data(&reply.answers), ["127.64.0.1"]);
}

#[tokio::test]
async fn a_slow_foreign_name_does_not_hold_up_mesh_names_on_the_same_connection() {
    let (silent, _got) = upstream(|_| Vec::new()).await;
    let shim = Shim::start_with(Upstreams::List(vec![silent]), impatient(), None).await;
    let mut stream = shim.connect().await;
    let (mut slow, mut fast) = (question("example.com.", RecordType::A), question("pg.mesh.internal.", RecordType::A));
    (slow.metadata.id, fast.metadata.id) = (1, 2);
    stream.write_all(&[framed(&slow), framed(&fast)].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    let replies = [read_reply(&mut stream).await, read_reply(&mut stream).await];
    assert_eq!(replies.map(|reply| reply.id), [2, 1]);
}

#[tokio::test]
async fn more_than_a_connections_share_of_foreign_names_are_all_answered() {
    let (server, _got) = upstream(honest).await;
    let shim = Shim::start(Upstreams::List(vec![server])).await;
    let mut stream = shim.connect().await;
    let queries = (0..50_u16).flat_map(|id| {
        let mut query = question("example.com.", RecordType::A);
        query.metadata.id = id;
        framed(&query)
    });
    stream.write_all(&queries.collect::<Vec<u8>>()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(read_reply(&mut stream).await.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..50).collect::<Vec<u16>>());
}

/// An upstream whose UDP says "truncated" and whose TCP, on the same port, says it all.
async fn truncating_upstream() -> SocketAddr {
    let (listener, socket) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, socket);
        }
    };
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 4096];
        while let Ok((bytes, from)) = socket.recv_from(&mut packet).await {
            let mut reply = Message::from_vec(&packet[..bytes]).unwrap();
            reply.metadata.message_type = MessageType::Response;
            reply.metadata.truncation = true;
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let mut reply = reply_to(Message::from_vec(&query).unwrap(), [192, 0, 2, 1]);
            let name = reply.queries[0].name().clone();
            let text = TXT::new(vec!["x".repeat(250); 40]);
            reply.add_answer(Record::from_rdata(name, 60, RData::TXT(text)));
            stream.write_all(&framed(&reply)).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_truncated_reply_is_passed_on_over_udp_and_fetched_whole_over_tcp() {
    let shim = Shim::start(Upstreams::List(vec![truncating_upstream().await])).await;
    let query = question("example.com.", RecordType::A);
    let reply = shim.ask(&query).await;
    assert!(reply.truncation && reply.answers.is_empty());
    let mut stream = shim.connect().await;
    stream.write_all(&framed(&query)).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!((reply.id, reply.answers.len(), reply.truncation), (0x5eed, 2, false));
}

#[tokio::test]
async fn an_oversize_datagram_from_an_upstream_is_passed_on_as_truncated() {
    let (server, _got) = upstream(|query| {
        let mut reply = reply_to(query, [192, 0, 2, 1]);
        let record = Record::from_rdata("x.".parse().unwrap(), 60, RData::TXT(TXT::new(vec!["x".repeat(250); 40])));
        reply.add_answer(record);
        vec![reply.to_vec().unwrap()]
    })
    .await;
    let shim = Shim::start(Upstreams::List(vec![server])).await;
    let reply = shim.ask(&question("example.com.", RecordType::A)).await;
    assert!(reply.truncation && reply.answers.is_empty());
    assert_eq!(reply.queries[0].name().to_string(), "example.com.");
}

#[tokio::test]
async fn an_upstream_that_is_the_agent_itself_is_refused() {
    let free = closed().await;
    let mut own = settings(Upstreams::List(vec!["192.0.2.53:53".parse().unwrap(), free]));
    own.listen = vec![free];
    let error = bind(own).await.err().expect("a loop");
    assert!(matches!(error, DnsError::OwnUpstream { address } if address == free), "{error}");
}
