//! Requests through two workers over real sockets on loopback: one that applications call, one that serves, with mutual
//! TLS between them. Services are plain sockets that answer what the test says and show what they were sent.

mod resilience;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::{Target, serve_application};
use crate::config::{AccessLog, Capture};
use crate::identity::{CaOptions, Identity, TlsContexts, ca_init};
use crate::lobby::Source;
use crate::model::{
    Directory, Freshness, Instance, MemberState, Node, NodeFacts, NodeId, NodeName, Protocol, Service, ServiceId,
    ServiceName, TapFilter, VipTarget, Weights,
};
use crate::proxy::caller;
use crate::proxy::link::{Incoming, Link};
use crate::proxy::scratch::Scratch;
use crate::proxy::traffic::Registry;
use crate::proxy::worker::{Parts, Worker};
use crate::proxy::{Listening, Lobbies, Settings};
use crate::wire::frame::{Open, RstReason};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a test can wait for; the others send their requests at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
const NEAR: NodeId = NodeId([1; 16]);

/// A service on loopback: answers each request with its name and keeps the bytes that it was sent.
struct Backend {
    port: u16,
    seen: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Backend {
    /// Every connection gets `answer` after each request of no body, or after `body_bytes` of one.
    async fn start(answer: &'static [u8], body_bytes: usize) -> Backend {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen_sender, seen) = mpsc::unbounded_channel();
        spawn_local(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let seen = seen_sender.clone();
                spawn_local(async move {
                    while let Some(request) = read_request(&mut tcp, body_bytes).await {
                        let _ = seen.send(request);
                        if tcp.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Backend { port, seen }
    }

    async fn next(&mut self) -> String {
        let request = timeout(PATIENCE, self.seen.recv()).await.expect("a request").expect("a backend");
        String::from_utf8_lossy(&request).into_owned()
    }
}

async fn read_request(tcp: &mut TcpStream, body_bytes: usize) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            && request.len() >= end + 4 + body_bytes
        {
            return Some(request);
        }
        if tcp.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

fn tls() -> (NodeId, TlsContexts) {
    let home = tempfile::tempdir().unwrap();
    ca_init(home.path(), "test", &NodeName::parse("far").unwrap(), &CaOptions::default()).unwrap();
    let identity = Identity::load(home.path()).unwrap();
    (identity.node, identity.tls().unwrap())
}

fn node(id: NodeId, name: &str, mesh: SocketAddr) -> Arc<Node> {
    let facts = NodeFacts {
        name: NodeName::parse(name).unwrap(),
        address: "10.0.0.1".parse().unwrap(),
        mesh,
        gossip: mesh,
        zone: String::new(),
        meta: BTreeMap::new(),
        version: "0".into(),
        checks: Vec::new(),
        certificates: Vec::new(),
    };
    Arc::new(Node { id, facts, state: MemberState::Alive, mesh_reachable: true, incarnation: 1, index: 1 })
}

fn instance(id: &str, port: u16, request_timeout: Option<Duration>) -> Arc<Instance> {
    Arc::new(Instance {
        id: ServiceId::parse(id).unwrap(),
        service: ServiceName::parse("web").unwrap(),
        address: None,
        port,
        protocol: Protocol::Http,
        vip_port: None,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        weights: Weights::default(),
        request_timeout,
        checks: Vec::new(),
    })
}

fn directory(local: NodeId, instances: Vec<(Arc<Node>, Arc<Instance>)>) -> Arc<ArcSwap<Directory>> {
    let name = ServiceName::parse("web").unwrap();
    let nodes: HashMap<NodeId, Arc<Node>> = instances.iter().map(|(node, _)| (node.id, node.clone())).collect();
    let service = Service {
        name: name.clone(),
        vip: Ipv4Addr::new(127, 64, 0, 9),
        vip_port: 80,
        disputed: false,
        protocol: Protocol::Http,
        tag_vips: BTreeMap::new(),
        instances,
        index: 1,
    };
    let directory = Directory {
        local,
        index: 1,
        nodes_index: 1,
        services_index: 1,
        absent_index: 1,
        freshness: Freshness::Live,
        nodes,
        services: BTreeMap::from([(name, Arc::new(service))]),
        vips: HashMap::new(),
        intentions: Default::default(),
        traffic: Default::default(),
    };
    Arc::new(ArcSwap::from_pointee(directory))
}

struct Mesh {
    near: Rc<Worker>,
    far: Rc<Worker>,
    traffic: Arc<Registry>,
    stop_near: watch::Sender<bool>,
    /// A host whose agent has gone takes no streams.
    _stop_far: watch::Sender<bool>,
    _changes: watch::Sender<u64>,
}

fn worker(
    local: NodeId,
    tls: &TlsContexts,
    directory: Arc<ArcSwap<Directory>>,
    changes: &watch::Sender<u64>,
) -> (Rc<Worker>, Arc<Registry>, watch::Sender<bool>) {
    let (stop, shutdown) = watch::channel(false);
    let traffic = Arc::new(Registry::default());
    let settings = Settings {
        local,
        cluster: "test".into(),
        workers: 1,
        mesh_listen: "127.0.0.1:0".parse().unwrap(),
        capture_listen: "127.0.0.1:0".parse().unwrap(),
        capture: Capture::Bind,
        vip_range: "127.64.0.0/10".parse().unwrap(),
        connect_timeout: PATIENCE,
        accept_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        drain_timeout: PATIENCE,
        delivery_timeout: PATIENCE,
        request_timeout: PATIENCE,
        head_timeout: HEAD_TIMEOUT,
        access_log: AccessLog::Off,
    };
    let parts = Parts {
        index: 1,
        settings: Arc::new(settings),
        directory,
        changes: changes.subscribe(),
        tls: tls.clone(),
        counters: Arc::default(),
        lobbies: Lobbies::default(),
        traffic: traffic.clone(),
        taps: Arc::default(),
        access_log: None,
        attest: crate::proxy::attest::Shared::new(Arc::default(), crate::identity::Groups::find()),
        admission: Arc::default(),
        events: mpsc::channel(8).0,
        enroll: mpsc::channel(1).0,
        listeners: mpsc::unbounded_channel().1,
        shutdown,
        rng: ChaCha8Rng::seed_from_u64(1),
    };
    (Worker::new(parts), traffic, stop)
}

/// A host that calls and one that serves `instances` on these ports.
async fn mesh(instances: Vec<Arc<Instance>>) -> Mesh {
    let (far_id, tls) = tls();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let serving = node(far_id, "far", listener.local_addr().unwrap());
    let placed: Vec<_> = instances.into_iter().map(|instance| (serving.clone(), instance)).collect();
    let changes = watch::channel(0).0;
    let (near, traffic, stop_near) = worker(NEAR, &tls, directory(NEAR, placed.clone()), &changes);
    let (far, _, stop_far) = worker(far_id, &tls, directory(far_id, placed), &changes);
    let serving = far.clone();
    spawn_local(async move {
        while let Ok((tcp, from)) = listener.accept().await {
            spawn_local(crate::proxy::serving::serve(serving.clone(), tcp, from.ip()));
        }
    });
    Mesh { near, far, traffic, stop_near, _stop_far: stop_far, _changes: changes }
}

impl Mesh {
    /// A connection of an application.
    async fn application(&self) -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (application, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let place = self.near.lobbies.calls.enter(Source::SOCKET);
        let target = Target::new(ServiceName::parse("web").unwrap(), None, None, "test", place);
        spawn_local(serve_application(self.near.clone(), accepted.unwrap().0, target));
        application.unwrap()
    }

    /// Sends bytes and reads until the connection closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut application = self.application().await;
        application.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, application.read_to_end(&mut answer)).await.expect("an end").expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Reads one answer whose body is `body`.
async fn read_answer(tcp: &mut TcpStream, body: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(body.as_bytes()) || !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = timeout(PATIENCE, tcp.read_buf(&mut answer)).await.expect("an answer in time").unwrap();
        assert_ne!(read, 0, "closed after {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=60\r\nweft-error: forged\r\n\r\nok";

#[test]
fn requests_of_one_connection_go_to_every_instance_and_the_heads_are_clean() {
    run(async {
        let (mut one, mut two) = (Backend::start(OK, 0).await, Backend::start(OK, 0).await);
        let mesh = mesh(vec![instance("one", one.port, None), instance("two", two.port, None)]).await;
        let mut application = mesh.application().await;
        for _ in 0..40 {
            let request =
                b"GET /a?b HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                weft-instance: forged\r\nX-Weft-Client: spiffe://test/service/boss\r\nX_weft-client: boss\r\n\
                weft-caller: boss\r\ntraceparent: 00-1-2-01\r\nx-forwarded-for: 192.0.2.1\r\n\r\n";
            application.write_all(request).await.unwrap();
            let answer = read_answer(&mut application, "ok").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(!answer.contains("weft-error") && !answer.contains("keep-alive"), "{answer}");
        }
        for backend in [&mut one, &mut two] {
            let request = backend.next().await;
            assert!(request.starts_with("GET /a?b HTTP/1.1\r\n"), "{request}");
            for header in ["host: web.mesh.internal\r\n", "traceparent: 00-1-2-01\r\n", "x-forwarded-for: 192.0.2.1, "]
            {
                assert!(request.contains(header), "{request}");
            }
            assert!(request.contains("\r\nx-weft-client: spiffe://test/anonymous\r\n"), "{request}");
            for gone in ["x-hop", "connection", "\nweft-", "boss"] {
                assert!(!request.contains(gone), "{gone} in {request}");
            }
        }
        let edges = mesh.traffic.snapshot().edges;
        assert_eq!(edges.iter().map(|edge| edge.codes[2]).sum::<u64>(), 40);
        assert!(edges.iter().all(|edge| edge.in_flight == 0), "{edges:?}");
    });
}

#[test]
fn a_stream_to_a_service_of_requests_is_refused_and_brings_it_nothing() {
    run(async {
        let mut backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        let far = mesh.near.directory.load().nodes[&mesh.far.local].facts.mesh;
        let (tls, scratch) = (&mesh.near.tls, Scratch::new());
        let connect = Link::connect(far, tls.mesh_client.clone(), tls.server_name.clone(), PATIENCE, &scratch);
        let mut link = connect.await.unwrap();
        let (service, instance) = (ServiceName::parse("web").unwrap(), ServiceId::parse("one").unwrap());
        link.send(&Open { service, instance, tag: None, caller: None }.encode().unwrap()).unwrap();
        let answer = async {
            loop {
                if let Some(incoming) = link.next().unwrap() {
                    return incoming;
                }
                std::future::poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
                std::future::poll_fn(|cx| link.poll_recv(cx, &scratch)).await.unwrap();
            }
        };
        let answer = timeout(PATIENCE, answer).await.expect("an answer");
        assert!(matches!(answer, Incoming::Rst(RstReason::NoSuchInstance)), "{answer:?}");
        assert_eq!(mesh.far.counters.streams_refused.get(), 1);
        assert!(backend.seen.try_recv().is_err(), "the service was sent bytes");
    });
}

#[test]
fn a_host_that_says_a_service_is_tcp_brings_nobodys_bytes_to_the_requests_of_others() {
    run(async {
        let mut backend = Backend::start(OK, 0).await;
        let mesh = mesh(Vec::new()).await;
        // The lowest node id's word is that the service is `tcp`; this host's own instance speaks HTTP.
        let here = node(NEAR, "near", "127.0.0.1:1".parse().unwrap());
        let directory = directory(NEAR, vec![(here, instance("one", backend.port, None))]);
        let mut directory = Directory::clone(&directory.load());
        let service = directory.services.get_mut("web").map(Arc::make_mut).unwrap();
        (service.protocol, service.disputed) = (Protocol::Tcp, true);
        let (vip, name) = (service.vip, service.name.clone());
        directory.vips.insert(vip, VipTarget { service: name, tag: None });
        mesh.near.directory.store(Arc::new(directory));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (application, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut application, (taken, client)) = (application.unwrap(), accepted.unwrap());
        let place = mesh.near.lobbies.calls.enter(Source::SOCKET);
        let forged = b"GET / HTTP/1.1\r\nHost: web\r\nX-Weft-Client: spiffe://test/service/boss\r\n\r\n";
        application.write_all(forged).await.unwrap();
        spawn_local(caller::serve(mesh.near.clone(), taken, client, (vip, 80), place));
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, application.read_to_end(&mut answer)).await.expect("an end");
        assert!(ended.is_err() && answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        assert!(backend.seen.try_recv().is_err(), "the service was sent bytes");
    });
}

#[test]
fn a_request_that_no_instance_has_seen_goes_to_another_with_its_body() {
    run(async {
        let mut alive = Backend::start(OK, 5).await;
        let dead = closed_port().await;
        let mesh = mesh(vec![instance("dead", dead, None), instance("alive", alive.port, None)]).await;
        for _ in 0..10 {
            let request = b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
            let answer = mesh.exchange(request).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(alive.next().await.ends_with("\r\n\r\nhello"));
        }
        assert!(mesh.near.counters.retries.get() > 0, "the dead instance was never tried");
        assert!(alive.seen.try_recv().is_err(), "each was delivered once");
    });
}

#[test]
fn weft_says_why_it_answers_itself() {
    run(async {
        let dead = mesh(vec![instance("dead", closed_port().await, None)]).await;
        let answer = dead.exchange(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("weft-error: connect-failed\r\n"), "{answer}");
        let none = mesh(Vec::new()).await;
        let answer = none.exchange(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("weft-error: no-instance\r\n"), "{answer}");
        // It is given one byte of a body that never comes, and so never answers.
        let slow = Backend::start(OK, 1).await;
        let slow = mesh(vec![instance("slow", slow.port, Some(Duration::from_millis(100)))]).await;
        let answer = slow.exchange(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("weft-error: timeout\r\n"), "{answer}");
        assert_eq!(slow.traffic.failures(), [(("web".to_owned(), "timeout"), 1)]);
    });
}

#[test]
fn a_host_that_stops_serving_an_instance_refuses_and_the_request_goes_elsewhere() {
    run(async {
        let backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("gone", backend.port, None), instance("here", backend.port, None)]).await;
        // The serving host has let go of one; the caller's has not heard yet.
        let there = mesh.far.directory.load_full();
        let placed = there.services["web"].instances[1..].to_vec();
        mesh.far.directory.store(directory(mesh.far.local, placed).load_full());
        for _ in 0..10 {
            let answer = mesh.exchange(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        assert!(mesh.far.counters.streams_refused.get() > 0);
    });
}

#[test]
fn an_application_is_told_to_go_when_the_agent_stops() {
    run(async {
        let backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        let mut application = mesh.application().await;
        application.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        read_answer(&mut application, "ok").await;
        mesh.stop_near.send_replace(true);
        let mut rest = Vec::new();
        timeout(PATIENCE, application.read_to_end(&mut rest)).await.expect("a close").unwrap();
        assert_eq!(rest, b"");
    });
}

#[test]
fn upgraded_connections_carry_bytes_both_ways() {
    run(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn_local(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let request = String::from_utf8(read_request(&mut tcp, 0).await.unwrap()).unwrap();
            assert!(request.contains("upgrade: echo\r\n") && request.contains("connection: upgrade\r\n"), "{request}");
            let switch =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\nx-key: 7\r\n\r\n";
            tcp.write_all(switch).await.unwrap();
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let mesh = mesh(vec![instance("one", port, None)]).await;
        let mut application = mesh.application().await;
        let request = b"GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        application.write_all(request).await.unwrap();
        let head = read_answer(&mut application, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: echo\r\n"), "{head}");
        assert!(head.contains("x-key: 7\r\n"), "{head}");
        application.write_all(b"over there").await.unwrap();
        let mut echo = [0; 10];
        timeout(PATIENCE, application.read_exact(&mut echo)).await.expect("an echo").unwrap();
        assert_eq!(&echo, b"over there");
        application.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, application.read_to_end(&mut rest)).await.expect("an end").unwrap();
        assert_eq!(rest, b"");
    });
}

#[test]
fn what_is_not_a_get_is_carried_as_it_is_and_goes_over_to_nothing() {
    run(async {
        let mut backend = Backend::start(OK, 5).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        let request = b"POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nConnection: Upgrade, close\r\n\
            Upgrade: echo\r\n\r\nhello";
        let answer = mesh.exchange(request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let seen = backend.next().await;
        assert!(seen.starts_with("POST /a HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nhello"), "{seen}");
        assert!(!seen.contains("upgrade"), "{seen}");
    });
}

#[test]
fn a_head_that_drips_in_has_its_connection_closed_and_reaches_nobody() {
    run(async {
        let mut backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        // One that says nothing, one that says too little to be told apart, one that drips.
        for begun in [&b""[..], b"PRI", b"GET / HTTP/1.1\r\nHost: web\r\n"] {
            let mut application = mesh.application().await;
            application.write_all(begun).await.unwrap();
            let mut answer = Vec::new();
            let dripping = async {
                let (mut read, mut write) = application.split();
                let drip = async {
                    // Until the other side has closed.
                    while !begun.is_empty() && begun != b"PRI" && write.write_all(b"x: y\r\n").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    ended = read.read_to_end(&mut answer) => drop(ended),
                    () = drip => {}
                }
            };
            timeout(PATIENCE, dripping).await.expect("a close");
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
        }
        assert!(backend.seen.try_recv().is_err());
    });
}

#[test]
fn a_head_of_one_byte_at_a_time_is_cut_off_at_its_deadline() {
    run(async {
        let mesh = mesh(Vec::new()).await;
        // All that a client may do to seem alive: HTTP/1.1 by letters, and the beginning of HTTP/2 without its end.
        for head in [&b"GET / HTTP/1.1\r\nHost: web\r\nX-Slow: ........................................"[..], b"PRI *"]
        {
            let begun = tokio::time::Instant::now();
            let mut application = mesh.application().await;
            for byte in head {
                if application.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(HEAD_TIMEOUT / 20).await;
            }
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, application.read_to_end(&mut answer)).await.expect("an end");
            let took = begun.elapsed();
            assert!(took >= HEAD_TIMEOUT && took < PATIENCE / 2, "{took:?}");
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
            assert_eq!(mesh.near.lobbies.calls.waiting(), 0);
        }
    });
}

/// What a tap was told.
fn told(listening: &mut Listening) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    while let Ok(line) = listening.lines.try_recv() {
        lines.push(serde_json::from_slice(&line).unwrap());
    }
    lines
}

#[test]
fn a_tap_shows_requests_on_both_sides_with_what_became_of_them_and_without_their_queries() {
    run(async {
        let backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        let all = TapFilter::default;
        let (mut near, mut far) = (mesh.near.taps.listen(all()).unwrap(), mesh.far.taps.listen(all()).unwrap());
        let failures = TapFilter { errors: true, ..all() };
        let mut failed = mesh.near.taps.listen(failures).unwrap();
        mesh.exchange(b"GET /a?secret=1 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        for (listening, direction, protocol, caller) in
            [(&mut near, "out", "HTTP/1.1", ""), (&mut far, "in", "HTTP/2", "far")]
        {
            let lines = told(listening);
            let [line] = lines.as_slice() else { panic!("{lines:?}") };
            let expected = serde_json::json!({
                "direction": direction, "protocol": protocol, "caller": "", "caller_node": caller, "service": "web",
                "instance": "one", "node": "far", "method": "GET", "path": "/a", "status": 200, "error": "", "rule": "",
                "tries": 1, "bytes_up": 0, "bytes_down": 2,
            });
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&line[key], value, "{key} of {line}");
            }
            assert!(line["milliseconds"].as_f64().is_some_and(|took| took > 0.0), "{line}");
        }
        assert!(told(&mut failed).is_empty());
        let none = self::mesh(Vec::new()).await;
        let mut failed = none.near.taps.listen(TapFilter { errors: true, ..all() }).unwrap();
        none.exchange(b"GET /b HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        let lines = told(&mut failed);
        assert_eq!((&lines[0]["status"], &lines[0]["error"]), (&503.into(), &"no-instance".into()));
    });
}
