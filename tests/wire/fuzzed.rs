//! What the fuzzer begins with, and what once broke something: every kept input goes through its target here, without a
//! fuzzer, in every run of the tests.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

use weft::model::{Action, Change, Dot, NodeId, ServiceName, Statement, TrafficStatement, Trial};
use weft::wire::packet::Datagram;
use weft::wire::policy::{self, Proof};
use weft::wire::protocol::PROTOCOL_MAX;
use weft::wire::stream::StreamRequest;
use weft::wire::{body, stream};

use super::messages;

/// Every group of keys.
const DOCUMENT: &str = r#"{"timeouts":{"request":"2s","per_try":"500ms"},"retries":{"max":1,"on_server_error":true,"backoff":"9ms"},
"balance":{"algorithm":"ring-hash","hash":{"header":"x-user"},"zone_first":false},"outlier":{"ejection":"1s"},
"limits":{"queue":7,"connections":9},"split":[{"weight":9,"tag":"v1"},{"weight":1,"platform":"kubernetes","meta":{"a":"b"}}],
"route":[{"methods":["GET"],"path":"/v2/*","headers":{"x-a":true,"x-b":"1"},"to":{"service":"web"},"set_headers":{"x-c":"d"}}]}"#;
const WRONG_DOCUMENT: &str = r#"{"timeouts":{"reqest":5},"retries":[],"split":[{"weight":-1}],"route":{"to":null}}"#;

fn folder(kept: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kept).join(target)
}

#[test]
fn every_kept_input_is_taken_by_its_target() {
    every_message_is_a_seed();
    for (target, run) in targets::TARGETS {
        let folders = [folder("seeds", target), folder("regressions", target)];
        let mut inputs = 0;
        // A target that nothing ever broke has no regressions.
        for entry in folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let taken = std::panic::catch_unwind(|| run(&input));
            assert!(taken.is_ok(), "{} breaks {target}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{target} has no seeds; WEFT_FIXTURES=write cargo test --test wire makes them");
    }
}

/// Writes the seeds that are missing, if fixtures are to be written.
fn every_message_is_a_seed() {
    let write = std::env::var("WEFT_FIXTURES").is_ok_and(|asked| asked == "write");
    for (target, name, input) in seeds() {
        let path = folder("seeds", target).join(name);
        if write && !path.exists() {
            std::fs::create_dir_all(folder("seeds", target)).unwrap();
            std::fs::write(&path, input).unwrap();
        }
        assert!(path.exists(), "{} is missing", path.display());
    }
}

fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds: Vec<(&str, String, Vec<u8>)> = Vec::new();
    let (mut catalog, mut swim) = (Vec::new(), Vec::new());
    for (name, datagram) in messages::datagrams() {
        for version in 1..=PROTOCOL_MAX {
            let payload = datagram.encode_in(version, PROTOCOL_MAX).unwrap();
            seeds.push(("datagram", format!("{name}-{version}"), payload));
        }
        // Without the versions and the kind: as the cores take it.
        let message = datagram.encode_in(2, 2).unwrap().split_off(3);
        let (target, whole) = match &datagram {
            Datagram::Swim(_) => ("swim", &mut swim),
            Datagram::Catalog(_) => ("catalog", &mut catalog),
        };
        seeds.push((target, name.to_owned(), step(0, 2, &message)));
        whole.extend(step(0, 2, &message));
        whole.extend(step(if target == "swim" { 3 } else { 5 }, 200, b""));
    }
    for (name, datagram) in messages::since2::datagrams() {
        let payload = datagram.encode_in(2, 2).unwrap();
        seeds.push(("catalog", name.to_owned(), step(0, 2, &payload[3..])));
        catalog.extend(step(0, 2, &payload[3..]));
        seeds.push(("datagram", format!("{name}-2"), payload));
    }
    seeds.push(("packet", "swim-ping".to_owned(), messages::datagrams()[0].1.encode().unwrap()));
    for record in [messages::record(), messages::tombstone(), messages::floor(), messages::unheard_of()] {
        let name = format!("kind-{}-{}", record.header().kind.0, record.header().tombstone);
        catalog.extend(step(3, 3, record.encoded()));
        seeds.push(("record", name, record.encoded().to_vec()));
    }
    seeds.push(("catalog", "all".to_owned(), catalog));
    seeds.push(("swim", "all".to_owned(), swim));
    for version in 1..=PROTOCOL_MAX {
        let bare = |bytes: Vec<u8>| bytes[stream::PREFIX_BYTES..].to_vec();
        for (name, request) in messages::requests() {
            seeds.push(("stream", format!("{name}-{version}"), bare(stream::encode_in(&request, version).unwrap())));
        }
        for (name, reply) in messages::replies() {
            seeds.push(("stream", format!("{name}-{version}"), bare(stream::encode_in(&reply, version).unwrap())));
        }
    }
    for (name, request) in messages::since2::requests() {
        let message = stream::encode(&request).unwrap().split_off(stream::PREFIX_BYTES);
        if let StreamRequest::KeyringMerge { keyring } = request {
            let both = keyring.encode().unwrap().repeat(2);
            seeds.push(("keyring", "two".to_owned(), both));
        }
        seeds.push(("stream", format!("{name}-2"), message));
    }
    for (name, reply) in messages::since2::replies() {
        seeds.push(("stream", format!("{name}-2"), stream::encode(&reply).unwrap().split_off(stream::PREFIX_BYTES)));
    }
    let (facts, instance) = (messages::facts(), messages::instance());
    for format in 1..=body::FORMAT_READ_MAX {
        let node = body::encode_node_in(&facts, format).unwrap();
        seeds.push(("body", format!("node-{format}"), [&[u8::try_from(format).unwrap()], &node[..]].concat()));
    }
    let instance = body::encode_instance(&instance).unwrap();
    seeds.push(("body", "instance-1".to_owned(), [&[1], &instance[..]].concat()));
    seeds.push(("body", "instance-2".to_owned(), [&[2], &instance[1..]].concat()));
    let statement = Statement {
        dot: Dot { lamport: 2, writer: NodeId([2; 16]) },
        seen: vec![(NodeId([3; 16]), 1)],
        operator: "anna".into(),
        at_unix_s: 1,
        change: Change::Default(Action::Deny),
    };
    let proof = Proof { certificates: vec![vec![0x30, 0x03]], is_vouched: false, signature: [7; 64] };
    // It travels on one line.
    let document = DOCUMENT.replace('\n', "");
    let trial = Trial { zone: "eu-1a".into(), document: "{}".into(), ends_unix_s: 9 };
    let traffic = TrafficStatement { service: ServiceName::parse("billing").unwrap(), document, trial: Some(trial) };
    let of_traffic = Statement { change: Change::Traffic(traffic), ..statement.clone() };
    for (name, statement) in [("default", statement), ("traffic", of_traffic)] {
        let policy = policy::encode_policy(&proof, &policy::encode_statement(&statement).unwrap()).unwrap();
        // Eight times the bytes that fill up the last unit: they are cut off again.
        let padding = policy.len().next_multiple_of(targets::STEP_BYTES) - policy.len();
        let held = step(u8::try_from(padding * 8).unwrap(), 2, &policy);
        seeds.push(("policy", name.to_owned(), held.repeat(2)));
    }
    for (name, document) in [("all", DOCUMENT), ("nothing", "{}"), ("wrong", WRONG_DOCUMENT)] {
        seeds.push(("document", name.to_owned(), document.as_bytes().to_vec()));
    }
    seeds.push(("frame", "open".to_owned(), messages::open().encode().unwrap()));
    seeds
}

/// One step of a core, padded to the unit of lengths; what follows a message is passed over.
fn step(what: u8, who: u8, argument: &[u8]) -> Vec<u8> {
    let units = argument.len().div_ceil(targets::STEP_BYTES);
    let mut bytes = vec![what, who, u8::try_from(units).unwrap()];
    bytes.extend(argument);
    bytes.resize(3 + units * targets::STEP_BYTES, 0);
    bytes
}
