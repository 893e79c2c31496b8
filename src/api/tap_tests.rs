//! The stream of a tap over real sockets: what is told, what is lost, and when it ends.

use std::net::SocketAddr;
use std::sync::Mutex;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::api::{Limits, Metrics, Settings, bind, specimen};
use crate::model::TapCode;

const PATIENCE: Duration = Duration::from_secs(10);

/// Who tells calls to the one tap that there may be.
struct Teller {
    filter: TapFilter,
    lines: mpsc::Sender<Bytes>,
    lost: Arc<AtomicU64>,
}

struct Agent {
    address: SocketAddr,
    teller: Arc<Mutex<Option<Teller>>>,
    stop: watch::Sender<bool>,
}

async fn agent(limits: Limits) -> Agent {
    let teller: Arc<Mutex<Option<Teller>>> = Arc::default();
    let place = teller.clone();
    let source: TapSource = Arc::new(move |filter| {
        let mut place = place.lock().unwrap();
        if place.as_ref().is_some_and(|teller| !teller.lines.is_closed()) {
            return Err(1);
        }
        let (lines, receiver) = mpsc::channel(8);
        let lost = Arc::new(AtomicU64::new(0));
        *place = Some(Teller { filter, lines, lost: lost.clone() });
        Ok(Tapped { lines: receiver, lost })
    });
    let bound = bind(Settings { limits, ..specimen::settings() }).await.unwrap().with_taps(source);
    let address = bound.local_addr();
    let (stop, stopped) = watch::channel(false);
    let metrics: Metrics = Arc::new(|_| {});
    let directory = Arc::new(ArcSwap::from_pointee(specimen::directory()));
    tokio::spawn(bound.run(directory, watch::channel(0).1, metrics, mpsc::channel(1).0, stopped));
    Agent { address, teller, stop }
}

impl Agent {
    async fn tap(&self, query: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /v1/weft/tap{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    fn teller(&self) -> Teller {
        self.teller.lock().unwrap().take().expect("a tap")
    }
}

/// Reads until that has come.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(end) {
        let more = tokio::time::timeout(PATIENCE, stream.read_buf(&mut read)).await.expect("in time").unwrap();
        assert_ne!(more, 0, "closed after {}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

async fn to_end(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("in time").unwrap();
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn calls_are_told_as_they_come_with_those_that_were_lost_until_the_client_goes() {
    let agent = agent(Limits::default()).await;
    let mut client = agent.tap("?service=billing&code=5xx&errors").await;
    let head = until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-type: application/x-ndjson"), "{head}");
    let Teller { filter, lines, lost } = agent.teller();
    let expected = TapFilter {
        service: Some("billing".into()),
        code: Some(TapCode::Class(5)),
        errors: true,
        ..TapFilter::default()
    };
    assert_eq!(filter, expected);
    lines.send(Bytes::from_static(b"{\"status\":503}\n")).await.unwrap();
    until(&mut client, "{\"status\":503}\n").await;
    lost.store(7, Ordering::Relaxed);
    lines.send(Bytes::from_static(b"{\"status\":500}\n")).await.unwrap();
    let told = until(&mut client, "{\"lost\":7}\n").await;
    assert!(told.contains("{\"status\":500}\n{\"lost\":7}\n"), "{told}");
    assert_eq!(lost.load(Ordering::Relaxed), 0, "told once");
    drop(client);
    tokio::time::timeout(PATIENCE, lines.closed()).await.expect("the tap ends with its client");
}

#[tokio::test]
async fn one_tap_too_many_is_refused_with_what_to_do_and_words_that_are_no_filter_too() {
    let agent = agent(Limits::default()).await;
    let mut first = agent.tap("").await;
    until(&mut first, "\r\n\r\n").await;
    let refused = until(&mut agent.tap("").await, "}\n").await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("1 taps are open on this host"), "{refused}");
    assert!(refused.contains("end one of them and try again"), "{refused}");
    let wrong = until(&mut agent.tap("?code=teapot").await, "}\n").await;
    assert!(wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("give a status like 503, or 5xx"), "{wrong}");
}

#[tokio::test]
async fn a_tap_ends_after_as_many_as_were_asked_for_and_its_connection_with_it() {
    let agent = agent(Limits::default()).await;
    let mut client = agent.tap("?limit=2").await;
    until(&mut client, "\r\n\r\n").await;
    let Teller { lines, .. } = agent.teller();
    for number in 0..3 {
        lines.send(Bytes::from(format!("{{\"number\":{number}}}\n"))).await.unwrap();
    }
    let told = to_end(&mut client).await;
    assert!(told.contains("{\"number\":1}\n") && !told.contains("{\"number\":2}"), "{told}");
}

#[tokio::test]
async fn an_agent_that_stops_ends_its_taps_in_order() {
    let agent = agent(Limits::default()).await;
    let mut client = agent.tap("").await;
    until(&mut client, "\r\n\r\n").await;
    agent.stop.send_replace(true);
    assert_eq!(to_end(&mut client).await, "0\r\n\r\n", "the last chunk, not a broken connection");
}

#[tokio::test]
async fn a_quiet_tap_is_no_idle_connection() {
    let agent = agent(Limits { waiting_max: 1, ..Limits::default() }).await;
    let mut client = agent.tap("").await;
    until(&mut client, "\r\n\r\n").await;
    for _ in 0..4 {
        let mut other = TcpStream::connect(agent.address).await.unwrap();
        other.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        until(&mut other, "\r\n\r\n").await;
    }
    agent.teller().lines.send(Bytes::from_static(b"{}\n")).await.unwrap();
    until(&mut client, "{}\n").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_and_its_tap_ends() {
    let agent = agent(Limits { write_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let mut client = agent.tap("").await;
    until(&mut client, "\r\n\r\n").await;
    let Teller { lines, .. } = agent.teller();
    let line = Bytes::from(vec![b'x'; 64 * 1024]);
    let telling = async { while lines.send(line.clone()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, telling).await.expect("the tap ends");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_shows_now_and_then_that_it_is_there() {
    let (_lines, receiver) = mpsc::channel(1);
    let tapped = Tapped { lines: receiver, lost: Arc::default() };
    let stopping = Box::pin(std::future::pending());
    let mut calls = Calls { tapped, left: None, alive: Box::pin(sleep(ALIVE_INTERVAL)), stopping };
    let begun = Instant::now();
    for number in 1..4 {
        let frame = std::future::poll_fn(|cx| calls.poll(cx)).await;
        assert_eq!((frame, begun.elapsed()), (Some(Bytes::from_static(b"\n")), ALIVE_INTERVAL * number));
    }
}
