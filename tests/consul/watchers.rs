//! A thousand clients that wait for one service, over real loopback sockets: what does not concern them wakes none of
//! them, what does wakes all at once, and each costs little memory while it waits.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use weft::api::{Counters, Limits, Settings, bind};
use weft::model::{
    CheckStatus, Directory, Freshness, Health, Instance, MemberState, Node, NodeFacts, NodeId, NodeName, Protocol,
    Service, ServiceId, ServiceName, Weights,
};

const WATCHERS: u64 = 1000;
/// What one may cost.
const WATCHER_BYTES_MAX: u64 = 16 * 1024;
/// The client's end is in this process too: a task and a socket.
const CLIENT_BYTES: u64 = 4 * 1024;
/// What all may take to wake is 100 ms; a debug build gets three times that. On a machine that does much else the clock
/// tells of the others: then it is the processor's time, of both ends together, that must keep within it.
const WAKE_MAX: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);
/// Services that change while nobody who waits is concerned.
const OTHERS: usize = 500;

fn node(number: u8) -> Arc<Node> {
    let address = Ipv4Addr::new(10, 0, 0, number);
    Arc::new(Node {
        id: NodeId([number; 16]),
        facts: NodeFacts {
            name: NodeName::parse(&format!("host-{number}")).expect("a name"),
            address: address.into(),
            mesh: (address, 7947).into(),
            gossip: (address, 7946).into(),
            zone: String::new(),
            meta: BTreeMap::new(),
            version: "0.1.0".into(),
            checks: Vec::new(),
            certificates: Vec::new(),
        },
        state: MemberState::Alive,
        mesh_reachable: true,
        incarnation: 1,
        index: 1,
    })
}

fn service(name: &str, nodes: &[Arc<Node>], index: u64) -> (ServiceName, Arc<Service>) {
    let name = ServiceName::parse(name).expect("a name");
    let check =
        CheckStatus { id: format!("service:{name}"), name: "c".into(), kind: "ttl".into(), health: Health::Passing };
    let instance = Arc::new(Instance {
        id: ServiceId::from(&name),
        service: name.clone(),
        address: None,
        port: 8080,
        protocol: Protocol::Http,
        vip_port: None,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        weights: Weights::default(),
        request_timeout: None,
        checks: vec![check],
    });
    let service = Service {
        name: name.clone(),
        vip: Ipv4Addr::new(127, 64, 0, 1),
        vip_port: 8080,
        disputed: false,
        protocol: Protocol::Http,
        tag_vips: BTreeMap::new(),
        instances: nodes.iter().map(|node| (node.clone(), instance.clone())).collect(),
        index,
    };
    (name, Arc::new(service))
}

fn other(number: usize) -> String {
    format!("other-{number}")
}

fn directory() -> Directory {
    let nodes = [node(1), node(2), node(3)];
    let others = (0..OTHERS).map(|number| service(&other(number), &nodes[..1], 1));
    Directory {
        local: nodes[0].id,
        index: 1,
        nodes_index: 1,
        services_index: 1,
        absent_index: 1,
        freshness: Freshness::Live,
        services: others.chain([service("billing", &nodes, 1)]).collect(),
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        vips: HashMap::new(),
        intentions: Default::default(),
        traffic: Default::default(),
    }
}

/// The API, and the hand that publishes what it serves.
struct Published {
    directory: Arc<ArcSwap<Directory>>,
    changes: watch::Sender<u64>,
}

impl Published {
    /// The next view, in which one service has changed.
    fn change(&self, service: &str) -> u64 {
        let mut next = Directory::clone(&self.directory.load());
        next.index += 1;
        let index = next.index;
        Arc::make_mut(next.services.get_mut(service).expect("the service")).index = index;
        self.directory.store(Arc::new(next));
        self.changes.send_replace(index);
        index
    }
}

/// A client that waits, on a connection that it keeps; it says when its answer begins, and returns it.
async fn watcher(address: SocketAddr, woken: Arc<AtomicU64>) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = "GET /v1/health/service/billing?index=1&wait=5m HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("the request is taken");
    let mut answer = vec![stream.read_u8().await.expect("an answer")];
    woken.fetch_add(1, Ordering::Relaxed);
    while !is_whole(&answer) {
        let read = stream.read_buf(&mut answer).await.expect("the whole answer");
        assert!(read > 0, "the connection was closed");
    }
    String::from_utf8(answer).expect("UTF-8")
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
    body.len() == length
}

/// All of them, on a thread of their own, as clients are processes of their own.
fn watchers(address: SocketAddr, woken: Arc<AtomicU64>) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut all = JoinSet::new();
            for _ in 0..WATCHERS {
                all.spawn(watcher(address, woken.clone()));
            }
            all.join_all().await
        })
    })
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    // Of 4 KiB on the machines that these tests run on; where they are larger the bound is only stricter.
    pages * 4096
}

/// Processor time of this process, in steps of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    // After the name in parentheses: state is field 3, utime 14, stime 15 (proc_pid_stat(5)).
    let fields = stat.rsplit_once(") ").expect("a name").1.split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

fn requests(counters: &Counters) -> u64 {
    counters.requests.load(Ordering::Relaxed)
}

#[test]
fn a_thousand_watchers_sleep_through_a_storm_and_wake_together() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let settings = Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            socket: None,
            roots: Vec::new(),
            cluster: "proving".into(),
            node: NodeName::parse("host-1").expect("a name"),
            domain: "mesh.internal".into(),
            version: "0.1.0".into(),
            tls: None,
            writes_over_tcp: true,
            data_dir: None,
            capture: None,
            limits: Limits::default(),
        };
        let bound = bind(settings).await.expect("the API");
        let (address, counters) = (bound.local_addr(), bound.counters());
        let (changes, changed) = watch::channel(0);
        let published = Published { directory: Arc::new(ArcSwap::from_pointee(directory())), changes };
        let (_stop, stopped) = watch::channel(false);
        let serving = bound.run(published.directory.clone(), changed, Arc::new(|_| {}), mpsc::channel(1).0, stopped);
        tokio::spawn(serving);

        let before = resident_bytes();
        let woken = Arc::new(AtomicU64::new(0));
        let clients = watchers(address, woken.clone());
        until("all wait", || requests(&counters) == WATCHERS).await;
        // The last of them is counted before it has begun to wait.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let each = resident_bytes().saturating_sub(before) / WATCHERS;

        for number in 0..OTHERS {
            published.change(&other(number));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(woken.load(Ordering::Relaxed), 0, "the storm did not concern them");

        let idle = processor_time();
        let index = published.change("billing");
        let took = until("all wake", || woken.load(Ordering::Relaxed) == WATCHERS).await;
        let worked = processor_time() - idle;
        for answer in clients.join().expect("the clients") {
            assert!(answer.contains(&format!("x-consul-index: {index}\r\n")), "{answer}");
            assert!(answer.contains(r#""ServiceID":"billing""#), "{answer}");
        }
        println!(
            "{each} bytes a watcher, its client included; all of {WATCHERS} woken in {took:?}, {worked:?} of work"
        );
        assert!(each <= WATCHER_BYTES_MAX + CLIENT_BYTES, "{each} bytes a watcher");
        assert!(took.min(worked) <= WAKE_MAX, "{took:?}, {worked:?} of work");
    });
}
