//! The API over real sockets: what gets in, what does not, and that bad clients cost nothing but themselves.

use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::api::{Limits, Refused, specimen};

const PATIENCE: Duration = Duration::from_secs(10);

/// An API on a port of its own.
struct Agent {
    address: SocketAddr,
    directory: Arc<ArcSwap<Directory>>,
    changes: watch::Sender<u64>,
    counters: Arc<Counters>,
    commands: mpsc::Receiver<Command>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

async fn agent_with(limits: Limits, socket: Option<PathBuf>) -> Agent {
    agent_of(Settings { limits, socket, ..specimen::settings() }).await
}

async fn agent_of(settings: Settings) -> Agent {
    let bound = bind(settings).await.unwrap();
    let (address, counters) = (bound.local_addr(), bound.counters());
    let directory = Arc::new(ArcSwap::from_pointee(specimen::directory()));
    let (sender, commands) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let (changes, changed) = watch::channel(0);
    let metrics: Metrics = Arc::new(|text: &mut String| text.push_str("# TYPE weft_up gauge\nweft_up 1\n# EOF\n"));
    let running = tokio::spawn(bound.run(directory.clone(), changed, metrics, sender, stopped));
    Agent { address, directory, changes, counters, commands, stop, running }
}

async fn agent() -> Agent {
    agent_with(Limits::default(), None).await
}

impl Agent {
    /// Sends bytes, and reads until the other side closes or is silent.
    async fn send(&self, bytes: &[u8]) -> String {
        exchange(TcpStream::connect(self.address).await.unwrap(), bytes).await
    }

    fn publish(&self, directory: Directory) {
        let index = directory.index;
        self.directory.store(Arc::new(directory));
        self.changes.send_replace(index);
    }

    /// Sends a PUT while the agent answers one command in this way; returns what was answered and what was asked.
    async fn put(&mut self, target: &str, body: &str, outcome: Result<(), Refused>) -> (String, Option<Command>) {
        let length = body.len();
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let stream = TcpStream::connect(self.address).await.unwrap();
        let request = head + body;
        let client = exchange(stream, request.as_bytes());
        tokio::pin!(client);
        tokio::select! {
            answer = &mut client => (answer, None),
            Some(mut command) = self.commands.recv() => {
                take_reply(&mut command).send(outcome).unwrap();
                (client.await, Some(command))
            }
        }
    }

    async fn get(&self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await
    }
}

fn take_reply(command: &mut Command) -> crate::api::Reply {
    let (Command::Register { reply, .. }
    | Command::Deregister { reply, .. }
    | Command::RegisterCheck { reply, .. }
    | Command::DeregisterCheck { reply, .. }
    | Command::UpdateCheck { reply, .. }
    | Command::Maintain { reply, .. }
    | Command::Join { reply, .. }
    | Command::ForceLeave { reply, .. }
    | Command::Reload { reply }) = command
    else {
        panic!("{command} is answered otherwise")
    };
    std::mem::replace(reply, tokio::sync::oneshot::channel().0)
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    // The server may close before it has taken everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the server closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn an_answer_carries_consuls_headers_and_its_freshness() {
    let agent = agent().await;
    let answer = agent.get("/v1/catalog/services").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let headers = [
        "x-consul-index: 41",
        "x-consul-effective-consistency: default",
        "x-consul-knownleader: true",
        "x-consul-lastcontact: 0",
        "content-type: application/json",
    ];
    for header in headers {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    assert!(answer.contains("x-weft-freshness: live"), "{answer}");
    agent.directory.store(Arc::new(Directory::empty(specimen::directory().local)));
    let stale = agent.get("/v1/nothing").await;
    assert!(stale.contains(" 404 ") && stale.contains("x-weft-freshness: stale"), "{stale}");
    assert!(stale.contains("x-consul-index: 1\r\n"), "never 0: {stale}");
}

#[tokio::test]
async fn metrics_are_rendered_when_asked_for() {
    let answer = agent().await.get("/metrics").await;
    assert!(answer.contains("application/openmetrics-text") && answer.ends_with("weft_up 1\n# EOF\n"), "{answer}");
    let consul = agent().await.get("/v1/agent/metrics").await;
    assert!(consul.contains("application/json") && consul.contains(r#""Gauges":[{"Name":"weft_up""#), "{consul}");
    let older = agent().await.get("/v1/agent/metrics?format=prometheus").await;
    assert!(older.contains("text/plain; version=0.0.4") && older.ends_with("weft_up 1\n"), "{older}");
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_and_counted() {
    let agent = agent().await;
    let rebound = agent.send(b"GET /v1/agent/self HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 403 ") && rebound.contains("x-weft-freshness"), "{rebound}");
    assert!(!rebound.contains("web-01"), "{rebound}");
    let page =
        b"PUT /v1/agent/leave HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n";
    assert!(agent.send(page).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(count(&agent.counters.requests_refused), 2);
}

#[tokio::test]
async fn garbage_is_answered_by_400_or_nothing_and_the_next_client_is_served() {
    let agent = agent().await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", &[0xff; 4096]] {
        let answer = agent.send(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(count(&agent.counters.malformed), 4);
    assert!(agent.get("/v1/status/leader").await.contains(" 200 OK"));
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let agent = agent().await;
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES_MAX));
    assert!(agent.send(head.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert!(agent.send(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(count(&agent.counters.malformed), 2);
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_cut_off() {
    let limits = Limits { head_timeout: Duration::from_millis(100), ..Limits::default() };
    let agent = agent_with(limits, None).await;
    let answer = agent.send(b"GET /v1/agent/self HTTP/1.1\r\nHost: local").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    assert_eq!(count(&agent.counters.timed_out), 1);
}

#[tokio::test]
async fn a_byte_now_and_then_does_not_put_the_deadline_of_a_head_off() {
    let limits = Limits { head_timeout: Duration::from_millis(300), ..Limits::default() };
    let agent = agent_with(limits, None).await;
    let mut client = TcpStream::connect(agent.address).await.unwrap();
    let dribble = async {
        while client.write_all(b"G").await.is_ok() && count(&agent.counters.timed_out) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dribble).await.unwrap();
    assert_eq!(count(&agent.counters.timed_out), 1);
}

#[tokio::test]
async fn who_has_been_idle_for_longest_makes_room_and_who_waits_for_an_answer_stays() {
    let agent = agent_with(Limits { waiting_max: 2, ..Limits::default() }, None).await;
    let watch = b"GET /v1/health/service/billing?index=41&wait=60s HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut watcher = TcpStream::connect(agent.address).await.unwrap();
    watcher.write_all(watch).await.unwrap();
    while count(&agent.counters.requests) == 0 {
        tokio::task::yield_now().await;
    }
    let mut idle = TcpStream::connect(agent.address).await.unwrap();
    for _ in 0..5 {
        assert!(agent.get("/v1/status/leader").await.contains(" 200 OK"));
        let _half = TcpStream::connect(agent.address).await.unwrap().write_all(b"GET /").await;
    }
    let more: Vec<_> = [TcpStream::connect(agent.address).await, TcpStream::connect(agent.address).await].into();
    assert_eq!(tokio::time::timeout(PATIENCE, idle.read(&mut [0; 8])).await.unwrap().unwrap(), 0, "closed");
    let quiet = tokio::time::timeout(Duration::from_millis(100), watcher.read_u8()).await;
    assert!(quiet.is_err(), "the one that waits for an answer is still there");
    drop(more);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_large_answer_is_cut_off() {
    let limits = Limits { write_timeout: Duration::from_millis(100), ..Limits::default() };
    let bound = bind(Settings { limits, ..specimen::settings() }).await.unwrap();
    let (address, counters) = (bound.local_addr(), bound.counters());
    let large: Metrics = Arc::new(|text: &mut String| *text = "x".repeat(32 * 1024 * 1024));
    let (_stop, stopped) = watch::channel(false);
    let directory = Arc::new(ArcSwap::from_pointee(specimen::directory()));
    tokio::spawn(bound.run(directory, watch::channel(0).1, large, mpsc::channel(1).0, stopped));
    let mut idler = TcpStream::connect(address).await.unwrap();
    idler.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let cut = async {
        while count(&counters.timed_out) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_a_freed_place_is_used_again() {
    let agent = agent_with(Limits { connections_max: 1, ..Limits::default() }, None).await;
    let mut first = TcpStream::connect(agent.address).await.unwrap();
    first.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    first.read_u8().await.unwrap();
    assert_eq!(agent.get("/v1/status/leader").await, "");
    assert_eq!(count(&agent.counters.connections_refused), 1);
    drop(first);
    let served = async { while !agent.get("/v1/status/leader").await.contains(" 200 OK") {} };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
}

#[tokio::test]
async fn the_unix_socket_serves_whatever_the_host_header_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let agent = agent_with(Limits::default(), Some(path.clone())).await;
    let stream = UnixStream::connect(&path).await.unwrap();
    let answer = exchange(stream, b"GET /v1/status/leader HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains(" 200 OK"), "{answer}");
    agent.stop.send(true).unwrap();
    agent.running.await.unwrap();
    assert!(BlockingUnixStream::connect(&path).is_err() && !path.exists());
}

#[tokio::test]
async fn leaving_is_asked_of_the_agent_and_answered_when_it_is_done() {
    let mut agent = agent().await;
    let leaving = async {
        let Some(Command::Leave { reply }) = agent.commands.recv().await else { panic!("no command") };
        reply.send(()).unwrap();
    };
    let address = agent.address;
    let client = async move {
        let stream = TcpStream::connect(address).await.unwrap();
        exchange(stream, b"PUT /v1/agent/leave HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await
    };
    let (answer, ()) = tokio::join!(client, leaving);
    assert!(answer.contains(" 200 OK") && answer.contains(r#"{"left":true}"#), "{answer}");
}

#[tokio::test]
async fn writes_are_asked_of_the_agent_and_answered_with_its_outcome() {
    let mut agent = agent().await;
    let (answer, command) = agent.put("/v1/agent/service/deregister/web", "", Ok(())).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\n"), "an empty body: {answer}");
    assert_eq!(command.unwrap().to_string(), "deregister web");
    let unknown = Refused::NotFound("unknown check c".into());
    let (answer, command) = agent.put("/v1/agent/check/update/c", r#"{"Status":"warning"}"#, Err(unknown)).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("unknown check c"), "{answer}");
    assert_eq!(command.unwrap().to_string(), "check c is warning");
    let (answer, command) = agent.put("/v1/agent/check/update/c", r#"{"Status":"sad"}"#, Ok(())).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && command.is_none(), "{answer}");
    let (answer, command) = agent.put("/v1/agent/service/register", "no JSON", Ok(())).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && command.is_none(), "{answer}");
}

#[tokio::test]
async fn writes_of_pages_and_where_they_are_not_wanted_are_refused() {
    let mut agent = agent().await;
    let page = "PUT /v1/agent/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    for header in
        ["Origin: http://localhost", "Referer: http://x/\r\nContent-Type: text/plain", "Sec-Fetch-Site: cross-site"]
    {
        let answer = agent.send(format!("{page}{header}\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{header}: {answer}");
    }
    assert!(agent.commands.try_recv().is_err());
    assert_eq!(count(&agent.counters.requests_refused), 3);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let settings = Settings { writes_over_tcp: false, socket: Some(path.clone()), ..specimen::settings() };
    let mut closed = agent_of(settings).await;
    let (answer, command) = closed.put("/v1/agent/reload", "", Ok(())).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("unix socket") && command.is_none(), "{answer}");
    let stream = UnixStream::connect(&path).await.unwrap();
    let client = exchange(stream, b"PUT /v1/agent/reload HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n");
    let owner = async { take_reply(&mut closed.commands.recv().await.unwrap()).send(Ok(())).unwrap() };
    let (answer, ()) = tokio::join!(client, owner);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_body_too_large_or_too_slow_is_refused() {
    let limits = Limits { body_timeout: Duration::from_millis(100), ..Limits::default() };
    let agent = agent_with(limits, None).await;
    let head = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let told = agent.send(format!("{head}Content-Length: 300000\r\n\r\n").as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
    let chunk = format!("{:x}\r\n{}\r\n", 300_000, "x".repeat(300_000));
    let untold = agent.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n").as_bytes()).await;
    assert!(untold.starts_with("HTTP/1.1 413 ") || untold.is_empty(), "{untold}");
    let slow = agent.send(format!("{head}Content-Length: 10\r\n\r\n{{").as_bytes()).await;
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    assert!(agent.get("/v1/status/leader").await.contains(" 200 OK"));
}

#[tokio::test]
async fn a_blocking_query_is_answered_when_its_service_changes() {
    let agent = agent().await;
    let mut stream = TcpStream::connect(agent.address).await.unwrap();
    let request =
        b"GET /v1/health/service/billing?index=41&wait=60s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    agent.publish(Directory { index: 43, ..specimen::directory() });
    let early = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(early.is_err(), "billing has not changed");
    agent.publish(changed("billing", 44));
    let answer = exchange(stream, b"").await;
    assert!(answer.contains("x-consul-index: 44"), "{answer}");
}

/// The specimen with one service that changed at `index`.
fn changed(service: &str, index: u64) -> Directory {
    let mut directory = Directory { index, ..specimen::directory() };
    Arc::make_mut(directory.services.get_mut(service).unwrap()).index = index;
    directory
}

#[tokio::test]
async fn shutdown_ends_waiting_queries_and_idle_connections() {
    let agent = agent().await;
    let _idle = TcpStream::connect(agent.address).await.unwrap();
    let mut waiting = TcpStream::connect(agent.address).await.unwrap();
    waiting.write_all(b"GET /v1/catalog/nodes?index=40 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    while count(&agent.counters.requests) == 0 {
        tokio::task::yield_now().await;
    }
    agent.stop.send(true).unwrap();
    let answer = exchange(waiting, b"").await;
    assert!(answer.contains(" 200 OK"), "{answer}");
    tokio::time::timeout(PATIENCE, agent.running).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(agent.address).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let agent = agent().await;
    let error = bind(Settings { listen: agent.address, ..specimen::settings() }).await.err().unwrap().to_string();
    assert!(error.contains(&agent.address.to_string()) && error.contains("[api] listen"), "{error}");
}

#[tokio::test]
async fn the_keyring_is_told_over_tcp_and_changed_over_the_socket() {
    use crate::api::{KeyringOrder, KeyringRefusal, KeyringRefused};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weft.sock");
    let mut agent = agent_with(Limits::default(), Some(socket.clone())).await;
    let request = |method: &str, body: &str| {
        let length = body.len();
        format!(
            "{method} /v1/operator/keyring HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let body = r#"{"Key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}"#;
    for method in ["POST", "PUT", "DELETE"] {
        let answer = agent.send(request(method, body).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("unix socket, by root"), "{answer}");
    }
    assert!(agent.commands.try_recv().is_err());
    let refused = |refusal, sentence: &str| Err(KeyringRefused { refusal, sentence: sentence.into(), report: None });
    let cases = [
        (KeyringRefusal::NotFound, "404"),
        (KeyringRefusal::Conflict, "409"),
        (KeyringRefusal::Failed, "500"),
        (KeyringRefusal::Incomplete, "500"),
    ];
    for (refusal, status) in cases {
        let stream = UnixStream::connect(&socket).await.unwrap();
        let text = request("POST", body);
        let (answer, _) = tokio::join!(exchange(stream, text.as_bytes()), async {
            let Some(Command::Keyring { order: KeyringOrder::Install(_), reply }) = agent.commands.recv().await else {
                panic!("another command")
            };
            reply.send(refused(refusal, "why")).unwrap();
        });
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(r#""error":"why""#), "{answer}");
    }
    let stream = TcpStream::connect(agent.address).await.unwrap();
    let text = request("GET", "");
    let (answer, _) = tokio::join!(exchange(stream, text.as_bytes()), async {
        let Some(Command::Keyring { order: KeyringOrder::List, reply }) = agent.commands.recv().await else {
            panic!("another command")
        };
        reply.send(refused(KeyringRefusal::Failed, "why")).unwrap();
    });
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
}

#[tokio::test]
async fn a_token_lets_a_program_change_what_it_covers_until_it_is_deleted_and_the_audit_log_says_it() {
    use crate::access::{Outcome, Role, ServiceGlob, acl_create, acl_delete, read_audit};
    let home = tempfile::tempdir().unwrap();
    let services = vec![ServiceGlob::parse("web-*").unwrap()];
    let secret = acl_create(home.path(), "ci", Role::Register { services }, None).unwrap().secret;
    let settings = Settings { writes_over_tcp: false, data_dir: Some(home.path().to_owned()), ..specimen::settings() };
    let mut agent = agent_of(settings).await;
    let register = |name: &str, token: &str| {
        let body = format!(r#"{{"Name": "{name}", "Port": 80}}"#);
        let length = body.len();
        format!(
            "PUT /v1/agent/service/register?x=secret HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}Content-Length: \
             {length}\r\n\r\n{body}"
        )
    };
    let header = format!("X-Consul-Token: {secret}\r\n");
    let stream = TcpStream::connect(agent.address).await.unwrap();
    let text = register("web-1", &header);
    let (answer, ()) = tokio::join!(exchange(stream, text.as_bytes()), async {
        take_reply(&mut agent.commands.recv().await.unwrap()).send(Ok(())).unwrap();
    });
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let billing = agent.send(register("billing", &header).as_bytes()).await;
    assert!(
        billing.starts_with("HTTP/1.1 403 ") && billing.contains("does not cover the service billing"),
        "{billing}"
    );
    acl_delete(home.path(), "ci").unwrap();
    let deleted = agent.send(register("web-1", &header).as_bytes()).await;
    assert!(deleted.starts_with("HTTP/1.1 403 ") && deleted.contains("ACL not found"), "{deleted}");
    let nobody = agent.send(register("web-1", "").as_bytes()).await;
    assert!(nobody.starts_with("HTTP/1.1 403 ") && nobody.contains("there is none"), "{nobody}");
    assert!(agent.commands.try_recv().is_err(), "nothing of that reached the agent");
    assert_eq!(count(&agent.counters.denied), 3);
    assert!(agent.get("/v1/catalog/services").await.starts_with("HTTP/1.1 200 "), "reading is open");

    agent.stop.send_replace(true);
    agent.running.await.unwrap();
    let (entries, _) = read_audit(home.path()).unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.outcome, entry.token.as_deref(), entry.status)).collect();
    let refused = (Outcome::Refused, None, Some(403));
    assert_eq!(
        told,
        [(Outcome::Done, Some("ci"), Some(200)), (Outcome::Refused, Some("ci"), Some(403)), refused, refused]
    );
    assert_eq!(entries[0].subject, "register web-1 of the service web-1");
    assert_eq!((entries[0].via.as_str(), entries[0].path.as_str()), ("http", "/v1/agent/service/register"));
    assert!(entries[0].address.as_deref().unwrap().starts_with("127.0.0.1:"));
    let text = std::fs::read_to_string(home.path().join("audit.log")).unwrap();
    assert!(!text.contains(&secret) && !text.contains("x=secret"), "{text}");
}

#[tokio::test]
async fn beyond_loopback_it_listens_with_tls_and_a_token_or_not_at_all() {
    use crate::access::{Role, acl_create};
    use crate::api::TlsFiles;
    let home = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["weft.example".into()]).unwrap();
    let files = TlsFiles { cert: home.path().join("cert.pem"), key: home.path().join("key.pem") };
    std::fs::write(&files.cert, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    let everywhere = |tls| Settings {
        listen: "0.0.0.0:0".parse().unwrap(),
        tls,
        writes_over_tcp: true,
        data_dir: Some(home.path().to_owned()),
        ..specimen::settings()
    };
    let refused = |settings| async { bind(settings).await.err().unwrap().to_string() };
    assert!(refused(everywhere(None)).await.contains("there is no TLS: set `tls_cert`"));
    assert!(refused(everywhere(Some(files.clone()))).await.contains("there is no token: make one"));
    let secret = acl_create(home.path(), "prom", Role::Read, None).unwrap().secret;
    let broken = TlsFiles { cert: files.key.clone(), key: files.key.clone() };
    assert!(refused(everywhere(Some(broken))).await.contains("key.pem"));

    let agent = agent_of(everywhere(Some(files))).await;
    let port = agent.address.port();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let ask = async |line: &str, token: &str| {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let stream = connector.connect("weft.example".try_into().unwrap(), stream).await.unwrap();
        let head = format!("{line} HTTP/1.1\r\nHost: weft.example\r\nConnection: close\r\n{token}\r\n");
        exchange(stream, head.as_bytes()).await
    };
    let token = format!("Authorization: Bearer {secret}\r\n");
    let nobody = ask("GET /v1/catalog/services", "").await;
    assert!(nobody.starts_with("HTTP/1.1 403 ") && nobody.contains("Permission denied"), "{nobody}");
    assert!(ask("GET /metrics", "").await.starts_with("HTTP/1.1 403 "), "metrics too");
    assert!(ask("GET /v1/catalog/services", &token).await.starts_with("HTTP/1.1 200 "));
    assert!(ask("PUT /v1/agent/reload", &token).await.starts_with("HTTP/1.1 403 "), "whatever `writes` says");
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(b"GET /v1/catalog/services HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _closed = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "nothing in the clear");
}
