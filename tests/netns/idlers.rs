//! Somebody who opens connections by the thousand and asks for nothing, as a program: what is closed is opened again, so that
//! there are always as many. Runs as a helper process inside a namespace of the fleet.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use weft::identity::Identity;

use crate::helper;
use crate::host::Host;
use crate::process::{Process, wait_for};

/// Connecting waits where the other side is slow to accept.
const THREADS: u64 = 8;
/// A connection that nobody accepts for so long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at all connections.
const SWEEP: Duration = Duration::from_secs(1);
/// Descriptors beside the connections.
const OTHER_FILES: u64 = 200;

/// Many idle connections to one port.
pub(crate) struct Idlers {
    what: String,
    process: Process,
}

/// What became of them.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
}

impl Idlers {
    /// Orders: `target` (an address, or the path of a socket), `count`, `per_second` (how many are opened again at most);
    /// `from` (addresses), `first` (what is said at first, in hexadecimal; one after the other), `identity` and `protocol`
    /// (a handshake is made with the certificate in that folder).
    pub(crate) fn start(host: &Host, what: &str, orders: &Value) -> Idlers {
        let log = host.folder().join(format!("idlers-{what}.log"));
        let process = Process::start(what, &mut helper::command(host, "idlers", orders), &log);
        Idlers { what: what.to_owned(), process }
    }

    /// Returns when all have been opened once.
    #[track_caller]
    pub(crate) fn all_opened(&mut self, deadline: Duration) {
        let (what, process) = (self.what.clone(), &mut self.process);
        wait_for(&format!("{what} are opened"), deadline, || {
            let printed = process.printed();
            assert!(process.ended().is_none(), "{what} ended: {printed}");
            if printed.contains("all opened") { Ok(()) } else { Err(printed) }
        });
    }

    /// Closes all.
    #[track_caller]
    pub(crate) fn end(mut self) -> Held {
        self.process.finish(Duration::from_secs(20));
        let printed = self.process.printed();
        let line = printed.lines().find_map(|line| line.strip_prefix("idlers: ")).expect("a report");
        let report: Value = serde_json::from_str(line).expect("a report in JSON");
        let number = |name: &str| report[name].as_u64().expect(name);
        Held { opened: number("opened"), closed: number("closed") }
    }
}

/// One who holds connections.
struct Holder {
    target: SockAddr,
    from: Vec<IpAddr>,
    first: Vec<Vec<u8>>,
    tls: Option<Arc<ClientConfig>>,
    opened: AtomicU64,
    closed: AtomicU64,
    stop: AtomicBool,
}

/// A connection, with its session while there is one.
type Idle = (Socket, Option<ClientConnection>);

/// The job `idlers`.
pub(crate) fn hold(orders: &Value) {
    let (count, per_second) =
        (orders["count"].as_u64().expect("count"), orders["per_second"].as_u64().expect("per_second"));
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(
        maximum.is_none_or(|files| files >= count + OTHER_FILES),
        "{count} connections at once need as many open files, and this machine allows {maximum:?} (`ulimit -Hn`)"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("as many files as are allowed");
    let list = |name: &str| orders[name].as_array().cloned().unwrap_or_default();
    let target = orders["target"].as_str().expect("target");
    let holder = Arc::new(Holder {
        target: match target.parse::<SocketAddr>() {
            Ok(address) => address.into(),
            Err(_) => SockAddr::unix(target).expect("a socket's path"),
        },
        from: list("from")
            .iter()
            .map(|address| address.as_str().expect("an address").parse().expect("an address"))
            .collect(),
        first: list("first")
            .iter()
            .map(|hex| HEXLOWER.decode(hex.as_str().expect("hex").as_bytes()).expect("hex"))
            .collect(),
        tls: orders["identity"].as_str().map(|folder| session(folder, orders["protocol"].as_str().expect("protocol"))),
        opened: AtomicU64::new(0),
        closed: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let holder = holder.clone();
            let share = count / THREADS + u64::from(number < count % THREADS);
            std::thread::spawn(move || holder.keep(share, (per_second / THREADS).max(1)))
        })
        .collect();
    while holder.opened.load(Ordering::Relaxed) < count {
        assert!(!threads.iter().any(std::thread::JoinHandle::is_finished), "a thread ended");
        std::thread::sleep(SWEEP);
    }
    println!("all opened");
    // Until the test closes it.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    holder.stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("idlers: {}", json!({ "opened": read(&holder.opened), "closed": read(&holder.closed) }));
}

fn session(folder: &str, protocol: &str) -> Arc<ClientConfig> {
    let tls = Identity::load(Path::new(folder)).expect("an identity").tls().expect("its certificate");
    let mut config = (*tls.mesh_client).clone();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

impl Holder {
    fn keep(&self, share: u64, per_second: u64) {
        let mut held: Vec<Idle> = Vec::new();
        let (mut begun, mut budget) = (0, 0.0_f64);
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            while (held.len() as u64) < share && (begun < share || budget >= 1.0) && !self.stop.load(Ordering::Relaxed)
            {
                if begun >= share {
                    budget -= 1.0;
                }
                begun += 1;
                // A refusal or a reset at once counts as well: the port was asked.
                held.extend(self.open(begun));
                self.opened.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(SWEEP);
            let before = held.len();
            held.retain(|(socket, _)| is_open(socket));
            self.closed.fetch_add((before - held.len()) as u64, Ordering::Relaxed);
            budget = (budget + last.elapsed().as_secs_f64() * per_second as f64).min(per_second as f64);
            last = Instant::now();
        }
    }

    fn open(&self, number: u64) -> Option<Idle> {
        let at = |length: usize| usize::try_from(number).unwrap_or(0) % length;
        let socket = if self.target.is_unix() {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.connect(&self.target).ok()?;
            socket
        } else {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            if !self.from.is_empty() {
                let from = SocketAddr::new(self.from[at(self.from.len())], 0);
                socket.bind(&from.into()).expect("an address of this host's");
            }
            socket.connect_timeout(&self.target, CONNECT_TIMEOUT).ok()?;
            socket
        };
        let tls = match &self.tls {
            None => None,
            Some(config) => {
                socket.set_read_timeout(Some(CONNECT_TIMEOUT)).ok()?;
                let name = "node.weft.internal".try_into().expect("a name");
                let mut session = ClientConnection::new(config.clone(), name).expect("a session");
                session.complete_io(&mut &socket).ok()?;
                Some(session)
            }
        };
        if !self.first.is_empty() {
            (&socket).write_all(&self.first[at(self.first.len())]).ok()?;
        }
        socket.set_nonblocking(true).expect("a socket that does not block");
        Some((socket, tls))
    }
}

/// Reads what there is; false at the end.
fn is_open(mut socket: &Socket) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
