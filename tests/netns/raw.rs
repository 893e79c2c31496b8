//! A client without manners: writes given bytes on a connection of its own and keeps what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::helper;
use crate::host::Host;
use crate::process::{clock_us, run};

/// Connections at once, unless all are to be.
const THREADS: usize = 16;
/// Nothing is written or waited for longer.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// What is kept of an answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What is said on one connection, and how long the answer is waited for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Exchange {
    pub(crate) name: String,
    /// Written one after the other.
    pub(crate) pieces: Vec<Vec<u8>>,
    /// Between two pieces.
    pub(crate) pause: Duration,
    /// For the other side to hang up, from the last byte of an answer on.
    pub(crate) patience: Duration,
    /// Whether this side says that it is done, after the last piece.
    pub(crate) half_close: bool,
}

impl Exchange {
    /// All at once; then the answer, until a second has brought no more.
    pub(crate) fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Exchange {
        let patience = Duration::from_secs(1);
        Exchange {
            name: name.to_owned(),
            pieces: vec![bytes.into()],
            pause: Duration::ZERO,
            patience,
            half_close: false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) name: String,
    #[serde(with = "serde_bytes_as_text")]
    pub(crate) answer: Vec<u8>,
    /// Whether the other side hung up, in order or by a reset.
    pub(crate) closed: bool,
    /// From the first byte said to the last heard, or to the close.
    pub(crate) seconds: f64,
}

mod serde_bytes_as_text {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

impl Heard {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.answer).into_owned()
    }

    /// The status of the first answer.
    pub(crate) fn status(&self) -> Option<u16> {
        let text = self.text();
        let rest = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "))?;
        rest.get(..3)?.parse().ok()
    }
}

/// Holds every exchange with `server:port`, from `host`.
#[track_caller]
pub(crate) fn exchange(host: &Host, server: &str, port: u16, exchanges: &[Exchange]) -> Vec<Heard> {
    exchange_by(host, server, port, exchanges, THREADS)
}

/// The same, all at once.
#[track_caller]
pub(crate) fn exchange_at_once(host: &Host, server: &str, port: u16, exchanges: &[Exchange]) -> Vec<Heard> {
    exchange_by(host, server, port, exchanges, exchanges.len())
}

#[track_caller]
fn exchange_by(host: &Host, server: &str, port: u16, exchanges: &[Exchange], threads: usize) -> Vec<Heard> {
    let results = host.folder().join(format!("raw-{}.json", clock_us()));
    let arguments =
        json!({ "server": server, "port": port, "threads": threads, "exchanges": exchanges, "results": results });
    run(&mut helper::command(host, "raw", &arguments)).expect("the raw client");
    let text = std::fs::read(&results).expect("the raw client's results");
    let heard: Vec<Heard> = serde_json::from_slice(&text).expect("the raw client's results");
    assert_eq!(heard.len(), exchanges.len());
    heard
}

/// The job `raw`.
pub(crate) fn client(arguments: &Value) {
    let server = arguments["server"].as_str().expect("server");
    let port = u16::try_from(arguments["port"].as_u64().expect("port")).expect("a port");
    let exchanges: Vec<Exchange> = serde_json::from_value(arguments["exchanges"].clone()).expect("exchanges");
    let results = PathBuf::from(arguments["results"].as_str().expect("results"));
    let address = (server, port).to_socket_addrs().expect("a name").next().expect("an address");
    let count = exchanges.len();
    let threads = usize::try_from(arguments["threads"].as_u64().expect("threads")).expect("a number");
    let (exchanges, next) = (Arc::new(exchanges), Arc::new(AtomicUsize::new(0)));
    let heard = Arc::new(Mutex::new(vec![None; count]));
    let threads: Vec<_> = (0..threads.min(count))
        .map(|_| {
            let (exchanges, next, heard) = (Arc::clone(&exchanges), Arc::clone(&next), Arc::clone(&heard));
            std::thread::spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(exchange) = exchanges.get(index) else { return };
                    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect("a connection");
                    let one = hold(stream, exchange);
                    heard.lock().expect("results")[index] = Some(one);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("an exchange");
    }
    let heard = heard.lock().expect("results");
    let text = serde_json::to_string(&*heard).expect("results in JSON");
    std::fs::write(results, text).expect("the results file");
}

fn hold(mut stream: TcpStream, exchange: &Exchange) -> Heard {
    let start = Instant::now();
    let mut answer = Vec::new();
    let mut closed = false;
    let mut last = start;
    stream.set_write_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    for (index, piece) in exchange.pieces.iter().enumerate() {
        if index > 0 {
            listen(&mut stream, exchange.pause, &mut answer, &mut closed, &mut last);
        }
        if closed || stream.write_all(piece).is_err() {
            break;
        }
    }
    if exchange.half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    if !closed {
        listen(&mut stream, exchange.patience, &mut answer, &mut closed, &mut last);
    }
    Heard { name: exchange.name.clone(), answer, closed, seconds: (last - start).as_secs_f64() }
}

/// Reads until the other side hangs up or `patience` passes without a byte.
fn listen(stream: &mut TcpStream, patience: Duration, answer: &mut Vec<u8>, closed: &mut bool, last: &mut Instant) {
    let end = Instant::now() + PATIENCE_MAX;
    stream.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).expect("a deadline");
    let mut buffer = [0; 1 << 16];
    while Instant::now() < end && !*closed {
        match stream.read(&mut buffer) {
            Ok(0) => *closed = true,
            Ok(read) => {
                let room = ANSWER_BYTES_MAX.saturating_sub(answer.len());
                answer.extend_from_slice(&buffer[..read.min(room)]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Err(_) => *closed = true,
        }
        *last = Instant::now();
    }
}
