//! What a hostile neighbour sends: garbage, and genuine traffic that was recorded and is truncated, bent, swollen or
//! replayed. Runs as a helper process inside a namespace, against hosts of the same fleet only, and ends by itself.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

use data_encoding::HEXLOWER;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Sizes around every limit: empty, header, sealed datagram, Ethernet, UDP's own.
const GARBAGE_BYTES: &[usize] = &[0, 1, 2, 11, 12, 32, 33, 49, 64, 200, 512, 1199, 1200, 1201, 1472, 9000, 65_507];

/// After this many datagrams the sender breathes, so that the receiver's buffer does not drop what is to be judged.
const DATAGRAMS_AT_ONCE: usize = 8;

/// How long an attacker waits for a peer to answer or hang up before it goes on.
const STREAM_PATIENCE: Duration = Duration::from_millis(200);

/// What an oversized stream sends, unless it is cut off before.
const SWOLLEN_BYTES: usize = 1 << 20;

/// How many connections are opened, told nothing, and held until the end.
const SILENT_STREAMS: usize = 100;

struct Orders {
    target: String,
    genuine: Vec<Vec<u8>>,
    rounds: u64,
}

impl Orders {
    fn read(arguments: &Value) -> Orders {
        let hex = |value: &Value| HEXLOWER.decode(value.as_str().expect("hex").as_bytes()).expect("hex");
        Orders {
            target: arguments["target"].as_str().expect("target").to_owned(),
            genuine: arguments["genuine"].as_array().expect("genuine").iter().map(hex).collect(),
            rounds: arguments["rounds"].as_u64().expect("rounds"),
        }
    }
}

fn garbage(random: &mut ChaCha8Rng, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A number below `limit`, or 0.
fn below(random: &mut ChaCha8Rng, limit: usize) -> usize {
    random.next_u32() as usize % limit.max(1)
}

/// The genuine bytes as they are, cut short, with one bit turned, and with a tail.
fn variants(random: &mut ChaCha8Rng, genuine: &[u8]) -> [Vec<u8>; 4] {
    let cut = genuine[..below(random, genuine.len())].to_vec();
    let mut bent = genuine.to_vec();
    let at = below(random, bent.len());
    if let Some(byte) = bent.get_mut(at) {
        *byte ^= 1 << (random.next_u32() % 8);
    }
    let mut tailed = genuine.to_vec();
    tailed.extend(garbage(random, 100));
    [genuine.to_vec(), cut, bent, tailed]
}

/// The job `datagrams`.
pub(crate) fn datagrams(arguments: &Value) {
    let orders = Orders::read(arguments);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut sent = 0;
    let mut send = |bytes: &[u8]| {
        let _ = socket.send_to(bytes, &orders.target);
        sent += 1;
        if sent % DATAGRAMS_AT_ONCE == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    for round in 0..orders.rounds {
        let random = &mut ChaCha8Rng::seed_from_u64(round);
        for size in GARBAGE_BYTES {
            let mut bytes = garbage(random, *size);
            send(&bytes);
            // Past the version byte, too.
            if let Some(version) = bytes.first_mut() {
                *version = 1;
                send(&bytes);
            }
        }
        for genuine in &orders.genuine {
            for bytes in variants(random, genuine) {
                send(&bytes);
            }
        }
    }
}

/// The job `streams`.
pub(crate) fn streams(arguments: &Value) {
    let orders = Orders::read(arguments);
    let open = || TcpStream::connect(&orders.target).expect("the port listens");
    let silent: Vec<TcpStream> = (0..SILENT_STREAMS).map(|_| open()).collect();
    for round in 0..orders.rounds {
        let random = &mut ChaCha8Rng::seed_from_u64(round);
        tell(open(), &garbage(random, 1));
        tell(open(), &garbage(random, 300));
        tell(open(), &garbage(random, SWOLLEN_BYTES));
        for genuine in &orders.genuine {
            for bytes in variants(random, genuine) {
                tell(open(), &bytes);
            }
            let mut swollen = genuine.clone();
            swollen.resize(SWOLLEN_BYTES, b'A');
            tell(open(), &swollen);
        }
    }
    drop(silent);
}

/// Says it and listens until the other side hangs up or patience ends. What comes back is for others to judge.
fn tell(mut stream: TcpStream, bytes: &[u8]) {
    let _ = stream.set_read_timeout(Some(STREAM_PATIENCE));
    let _ = stream.set_write_timeout(Some(STREAM_PATIENCE));
    if stream.write_all(bytes).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = [0; 4096];
    while matches!(stream.read(&mut answer), Ok(1..)) {}
}
