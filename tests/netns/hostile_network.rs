//! Garbage, truncated, oversized and replayed traffic at every port: nothing panics, memory stays flat, counters count,
//! and the mesh goes on working.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::json;

use crate::capture::{Capture, Packet, packets};
use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::parts;
use crate::process::run;

/// What the attack may add to the agent's memory once everything has happened before at least once.
const GROWTH_KIB_MAX: u64 = 8 * 1024;

const ROUNDS_TO_WARM_UP: u64 = 3;
const ROUNDS: u64 = 12;

/// How many genuine datagrams, and genuine openings of streams, are bent and replayed each round.
const GENUINE_DATAGRAMS_MAX: usize = 40;
const GENUINE_STREAMS_MAX: usize = 4;

/// Of a recorded stream: the hello and what follows it.
const STREAM_BYTES_MAX: usize = 4096;

/// One port under attack.
struct Front {
    name: &'static str,
    /// Which host the attack comes from: `x` is a stranger on the network, `a` the victim itself.
    from: &'static str,
    job: &'static str,
    target: &'static str,
    /// The counter that must grow, and a part of the labels of the samples that count.
    counters: &'static [(&'static str, &'static str)],
    genuine: Vec<Vec<u8>>,
}

impl Front {
    /// Sends everything; returns when the attacker has ended.
    #[track_caller]
    fn attack(&self, fleet: &Fleet, rounds: u64) {
        let genuine: Vec<String> = self.genuine.iter().map(|bytes| HEXLOWER.encode(bytes)).collect();
        let orders = json!({ "target": self.target, "genuine": genuine, "rounds": rounds });
        run(&mut helper::command(&fleet[self.from], self.job, &orders)).expect(self.name);
    }

    fn counts(&self, victim: &Host) -> Vec<f64> {
        self.counters.iter().map(|(name, label)| victim.metric(name, label)).collect()
    }
}

fn fronts(recorded: &[Packet]) -> Vec<Front> {
    let http = [
        "GET /v1/catalog/services HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
        "GET /v1/catalog/services HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nOrigin: http://evil.example\r\n\r\n".to_owned(),
        "PUT /v1/agent/service/register HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nContent-Length: 99999999999\r\n\r\n"
            .to_owned(),
        format!("GET /{} HTTP/1.1\r\nHost: 127.0.0.1:8500\r\n\r\n", "long/".repeat(40_000)),
        format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nX-Swollen: {}\r\n\r\n", "s".repeat(200_000)),
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n".to_owned(),
    ];
    // A question for web.mesh.internal A; then with a count that lies, a name that points at itself, and a length that
    // promises more than comes.
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04mesh\x08internal\x00\x00\x01\x00\x01";
    let lying = b"\x12\x34\x01\x00\xff\xff\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";
    let looping = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01";
    let dns = [question.to_vec(), lying.to_vec(), looping.to_vec()];
    let promised = |bytes: &Vec<u8>| [b"\xff\xff".to_vec(), bytes.clone()].concat();
    vec![
        Front {
            name: "gossip datagrams",
            from: "x",
            job: "datagrams",
            target: "10.77.0.1:7946",
            counters: &[
                ("weft_gossip_rejected_total", "malformed"),
                ("weft_gossip_rejected_total", "oversize"),
                ("weft_gossip_rejected_total", "unauthenticated"),
                ("weft_gossip_rejected_total", "replayed"),
            ],
            genuine: datagrams_to(recorded, 7946),
        },
        Front {
            name: "gossip streams",
            from: "x",
            job: "streams",
            target: "10.77.0.1:7946",
            counters: &[("weft_gossip_streams_refused_total", "")],
            genuine: streams_to(recorded, 7946),
        },
        Front {
            name: "mesh streams",
            from: "x",
            job: "streams",
            target: "10.77.0.1:7947",
            counters: &[("weft_mesh_handshakes_failed_total", "")],
            genuine: streams_to(recorded, 7947),
        },
        Front {
            name: "API",
            from: "a",
            job: "streams",
            target: "127.0.0.1:8500",
            counters: &[("weft_api_malformed_total", ""), ("weft_api_requests_refused_total", "")],
            genuine: http.map(String::into_bytes).into(),
        },
        Front {
            name: "DNS datagrams",
            from: "a",
            job: "datagrams",
            target: "127.0.0.1:8600",
            counters: &[("weft_dns_malformed_total", "")],
            genuine: dns.to_vec(),
        },
        Front {
            name: "DNS streams",
            from: "a",
            job: "streams",
            target: "127.0.0.1:8600",
            counters: &[("weft_dns_tcp_cut_total", "")],
            genuine: dns.iter().map(promised).collect(),
        },
        Front {
            name: "capture",
            from: "a",
            job: "streams",
            target: "127.0.0.1:15001",
            counters: &[("weft_proxy_unknown_target_total", "")],
            genuine: vec![b"GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n".to_vec()],
        },
    ]
}

fn datagrams_to(recorded: &[Packet], port: u16) -> Vec<Vec<u8>> {
    let found = recorded.iter().filter(|packet| !packet.is_tcp && packet.to.1 == port);
    let found: Vec<_> = found.map(|packet| packet.payload.clone()).take(GENUINE_DATAGRAMS_MAX).collect();
    assert!(found.len() > 10, "only {} datagrams to port {port} were recorded", found.len());
    found
}

/// What the openers of streams to `port` said first.
fn streams_to(recorded: &[Packet], port: u16) -> Vec<Vec<u8>> {
    let mut streams: BTreeMap<_, BTreeMap<u32, &[u8]>> = BTreeMap::new();
    for packet in recorded.iter().filter(|packet| packet.is_tcp && packet.to.1 == port) {
        streams.entry((packet.from, packet.to)).or_default().insert(packet.sequence, &packet.payload);
    }
    let said = streams.values().map(|segments| segments.values().copied().collect::<Vec<_>>().concat());
    let said: BTreeSet<Vec<u8>> = said.map(|bytes| bytes[..bytes.len().min(STREAM_BYTES_MAX)].to_vec()).collect();
    assert!(!said.is_empty(), "no stream to port {port} was recorded");
    said.into_iter().take(GENUINE_STREAMS_MAX).collect()
}

/// The agents' own conversation from the first hello on, calls included.
#[track_caller]
fn record(fleet: &Fleet) -> Vec<Packet> {
    let capture = Capture::start(fleet);
    fleet.mesh(&["a", "b"]);
    // Calls in both directions, so that both agents open streams.
    for (caller, callee) in [("a", "at-b"), ("b", "at-a")] {
        fleet[caller].sees_passing(callee, &[callee.strip_prefix("at-").expect("a host")]);
        fleet[caller].curl(&format!("http://{callee}.mesh.internal/")).expect("a call");
    }
    std::thread::sleep(Duration::from_secs(5));
    packets(&capture.stop())
}

#[test]
fn hostile_traffic_at_every_port_costs_nothing_and_is_counted() {
    let Some(fleet) = Fleet::raise(&["a", "b", "x"]) else { return };
    let serve = |name: &str| {
        let service = format!("[[service]]\nname = \"at-{name}\"\nport = 8081\nprotocol = \"http\"\n");
        fleet[name].service("web", &service);
        parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
    };
    let _web = ["a", "b"].map(serve);
    let fronts = fronts(&record(&fleet));
    let victim = &fleet["a"];

    for front in &fronts {
        front.attack(&fleet, ROUNDS_TO_WARM_UP);
    }
    std::thread::sleep(Duration::from_secs(2));
    let rss_before_kib = victim.agent_rss_kib();
    for front in &fronts {
        let before = front.counts(victim);
        front.attack(&fleet, ROUNDS);
        victim.assert_agent_runs();
        let after = front.counts(victim);
        for (counter, (before, after)) in front.counters.iter().zip(before.iter().zip(&after)) {
            println!("{}: {counter:?} from {before} to {after}", front.name);
            assert!(after > before, "{}: {counter:?} stays at {before}", front.name);
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let rss_after_kib = victim.agent_rss_kib();
    println!("resident memory from {rss_before_kib} to {rss_after_kib} KiB");
    assert!(
        rss_after_kib <= rss_before_kib + GROWTH_KIB_MAX,
        "resident memory grew from {rss_before_kib} to {rss_after_kib} KiB"
    );

    fleet.all_alive(&["a", "b"]);
    for (caller, callee) in [("a", "b"), ("b", "a")] {
        let answer = fleet[caller].curl(&format!("http://at-{callee}.mesh.internal/")).expect("a call after it all");
        assert_eq!(answer.trim(), callee);
    }
}

#[test]
fn what_is_for_the_host_alone_cannot_be_reached_from_the_network() {
    let Some(fleet) = Fleet::raise(&["a", "x"]) else { return };
    fleet.mesh(&["a"]);
    for port in [53, 8500, 8600, 15001] {
        let refused = fleet["x"].curl(&format!("http://10.77.0.1:{port}/"));
        assert!(!refused.ok && refused.stderr.contains("Couldn't connect"), "port {port}: {}", refused.stderr);
    }
}
