//! The listeners, on loopback: UDP, TCP, their limits, and the wait for a VIP to be bound.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::super::limits::Limits;
use super::super::{Counters, DnsError, Settings, Upstreams, VipAsked, bind};
use super::fleet::{BIG, data, fleet, question};

/// Longer than anything here takes; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running shim.
pub(super) struct Shim {
    pub(super) address: SocketAddr,
    pub(super) counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub(super) fn settings(upstreams: Upstreams) -> Settings {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    Settings { listen, domain: "mesh.internal".into(), consul_alias: true, upstreams }
}

impl Shim {
    pub(super) async fn start(upstreams: Upstreams) -> Shim {
        Shim::start_with(upstreams, Limits::default(), None).await
    }

    pub(super) async fn start_with(upstreams: Upstreams, limits: Limits, vip_asked: Option<VipAsked>) -> Shim {
        let mut bound = bind(settings(upstreams)).await.unwrap();
        bound.lobby = limits.lobby();
        bound.limits = limits;
        let (address, counters) = (bound.local_addrs()[0], bound.counters());
        let (stop, shutdown) = watch::channel(false);
        let directory = Arc::new(ArcSwap::from_pointee(fleet()));
        let task = tokio::spawn(bound.run(directory, vip_asked, shutdown));
        Shim { address, counters, stop, task }
    }

    pub(super) async fn ask(&self, query: &Message) -> Message {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&query.to_vec().unwrap(), self.address).await.unwrap();
        let mut reply = [0; 4096];
        let (bytes, from) = timeout(PATIENCE, client.recv_from(&mut reply)).await.expect("a reply").unwrap();
        assert_eq!(from, self.address);
        Message::from_vec(&reply[..bytes]).unwrap()
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(&self.counters).load(Ordering::Relaxed)
    }
}

pub(super) fn framed(query: &Message) -> Vec<u8> {
    let query = query.to_vec().unwrap();
    [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat()
}

pub(super) async fn read_reply(stream: &mut TcpStream) -> Message {
    let read = async {
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        Message::from_vec(&reply).unwrap()
    };
    timeout(PATIENCE, read).await.expect("a reply")
}

/// Waits until the shim closes the connection.
async fn wait_for_close(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed");
}

fn none() -> Upstreams {
    Upstreams::List(Vec::new())
}

#[tokio::test]
async fn udp_answers_mesh_names_and_refuses_foreign_ones_without_upstreams() {
    let shim = Shim::start(none()).await;
    let reply = shim.ask(&question("billing.mesh.internal.", RecordType::A)).await;
    assert_eq!(data(&reply.answers), ["127.64.0.1"]);
    let reply = shim.ask(&question("example.com.", RecordType::A)).await;
    assert_eq!(reply.response_code, ResponseCode::Refused);
    assert_eq!((shim.count(|c| &c.answered), shim.count(|c| &c.forward_refused)), (1, 1));
}

#[tokio::test]
async fn a_truncated_answer_is_whole_over_tcp() {
    let shim = Shim::start(none()).await;
    let query = question("big.service.mesh.internal.", RecordType::A);
    assert!(shim.ask(&query).await.truncation);
    assert_eq!(shim.count(|c| &c.truncated), 1);
    let mut stream = shim.connect().await;
    stream.write_all(&framed(&query)).await.unwrap();
    assert_eq!(read_reply(&mut stream).await.answers.len(), usize::from(BIG));
}

#[tokio::test]
async fn pipelined_queries_are_all_answered_even_in_odd_pieces_and_after_a_half_close() {
    let shim = Shim::start(none()).await;
    let mut stream = shim.connect().await;
    let mut bytes = Vec::new();
    for id in 0..100 {
        let mut query = question("billing.mesh.internal.", RecordType::A);
        query.metadata.id = id;
        bytes.extend(framed(&query));
    }
    for piece in bytes.chunks(701) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    for id in 0..100 {
        assert_eq!(read_reply(&mut stream).await.id, id);
    }
    wait_for_close(stream).await;
    assert_eq!(shim.count(|c| &c.tcp_cut), 0);
}

#[tokio::test]
async fn a_length_out_of_bounds_and_a_packet_that_is_no_query_end_the_connection() {
    let shim = Shim::start(none()).await;
    for bytes in [&[0xFF, 0xFF][..], &[0, 11], &[0, 0], &[&[0, 12][..], &[0xFF; 12]].concat()] {
        let mut stream = shim.connect().await;
        stream.write_all(bytes).await.unwrap();
        wait_for_close(stream).await;
    }
    assert_eq!(shim.count(|c| &c.tcp_cut), 4);
}

#[tokio::test]
async fn idle_clients_and_clients_that_dribble_are_cut() {
    let (tcp_idle, tcp_progress) = (Duration::from_millis(200), Duration::from_millis(100));
    let limits = Limits { tcp_idle, tcp_progress, ..Limits::default() };
    let shim = Shim::start_with(none(), limits, None).await;
    let idle = shim.connect().await;
    let mut dribbling = shim.connect().await;
    let start = Instant::now();
    let dribble = async {
        for byte in framed(&question("billing.mesh.internal.", RecordType::A)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if dribbling.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        wait_for_close(dribbling).await;
    };
    tokio::join!(wait_for_close(idle), dribble);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(shim.count(|c| &c.tcp_cut), 2);
}

#[tokio::test]
async fn the_connection_that_was_idle_for_longest_makes_room() {
    let limits = Limits { tcp_connections_max: 2, ..Limits::default() };
    let shim = Shim::start_with(none(), limits, None).await;
    let query = framed(&question("billing.mesh.internal.", RecordType::A));
    let mut first = shim.connect().await;
    let mut second = shim.connect().await;
    // The first has asked last.
    for stream in [&mut first, &mut second] {
        stream.write_all(&query).await.unwrap();
        read_reply(stream).await;
    }
    first.write_all(&query).await.unwrap();
    read_reply(&mut first).await;
    let mut third = shim.connect().await;
    third.write_all(&query).await.unwrap();
    read_reply(&mut third).await;
    wait_for_close(second).await;
    assert_eq!((shim.count(|c| &c.tcp_connections), shim.count(|c| &c.tcp_overload)), (3, 1));
    first.write_all(&query).await.unwrap();
    assert_eq!(data(&read_reply(&mut first).await.answers), ["127.64.0.1"]);
}

#[tokio::test]
async fn a_vip_is_asked_for_before_its_answer_is_sent_and_not_again_at_once() {
    let (vip_asked, mut asked) = mpsc::channel(8);
    let shim = Shim::start_with(none(), Limits::default(), Some(vip_asked)).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let query = question("billing.mesh.internal.", RecordType::A).to_vec().unwrap();
    client.send_to(&query, shim.address).await.unwrap();
    let (vip, done) = timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    assert_eq!(vip, Ipv4Addr::new(127, 64, 0, 1));
    let mut reply = [0; 512];
    assert!(client.try_recv_from(&mut reply).is_err(), "answered before it was bound");
    done.send(()).unwrap();
    timeout(PATIENCE, client.recv_from(&mut reply)).await.unwrap().unwrap();

    shim.ask(&question("billing.mesh.internal.", RecordType::A)).await;
    shim.ask(&question("billing.service.mesh.internal.", RecordType::A)).await;
    assert!(asked.try_recv().is_err(), "asked again, or for what is no VIP");
}

#[tokio::test]
async fn a_vip_that_is_not_bound_in_time_is_answered_all_the_same() {
    let (vip_asked, _asked) = mpsc::channel(8);
    let limits = Limits { vip_wait: Duration::from_millis(50), ..Limits::default() };
    let shim = Shim::start_with(none(), limits, Some(vip_asked)).await;
    let query = question("billing.mesh.internal.", RecordType::A);
    assert_eq!(data(&shim.ask(&query).await.answers), ["127.64.0.1"]);
    let mut stream = shim.connect().await;
    stream.write_all(&framed(&query)).await.unwrap();
    assert_eq!(data(&read_reply(&mut stream).await.answers), ["127.64.0.1"]);
}

#[tokio::test]
async fn shutdown_ends_the_shim_and_frees_its_ports() {
    let shim = Shim::start(none()).await;
    let _open = shim.connect().await;
    shim.stop.send(true).unwrap();
    timeout(PATIENCE, shim.task).await.expect("ends").unwrap();
    let mut again = settings(none());
    again.listen = vec![shim.address];
    bind(again).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_reported_with_its_address() {
    let shim = Shim::start(none()).await;
    let mut second = settings(none());
    second.listen = vec![shim.address];
    let error = bind(second).await.err().expect("taken");
    assert!(matches!(error, DnsError::Listen { address, .. } if address == shim.address));
    assert!(error.to_string().contains("ss -lnptu"), "{error}");
}

#[tokio::test]
async fn every_counter_has_a_name_and_says_what_it_counts() {
    let values = Counters::default().values();
    assert!(values.len() > 10);
    assert!(values.iter().all(|(name, help, value)| !name.is_empty() && help.ends_with('.') && *value == 0));
}
