//! The gossip key is rotated on live hosts: no call fails and nobody is called failed; who was away comes back; a key that
//! was removed, stolen or not, opens nothing any more.

use std::net::UdpSocket;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::load::{Load, tally};
use crate::parts;
use crate::process::{Done, run, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n";
const CALLS_PER_SECOND: u32 = 50;

/// Beyond the reconnects to a failed host, which come every few seconds.
const RETURN_DEADLINE: Duration = Duration::from_secs(40);

fn keyring(host: &Host, words: &[&str]) -> Done {
    let socket = host.folder().join("weft.sock");
    host.run(WEFT, [&["--api", socket.to_str().expect("a path in UTF-8"), "keyring"], words].concat())
}

/// What `weft keyring list` tells.
#[track_caller]
fn list(host: &Host) -> Value {
    let text = keyring(host, &["list", "--json"]).expect("weft keyring list");
    serde_json::from_str(&text).expect("JSON")
}

/// Fingerprints, the primary first.
#[track_caller]
fn keys(host: &Host) -> Vec<String> {
    let list = list(host);
    let keys = list["keys"].as_array().expect("keys").iter();
    keys.map(|key| key["fingerprint"].as_str().expect("a fingerprint").to_owned()).collect()
}

/// Makes and installs a key; gives its fingerprint.
#[track_caller]
fn install(host: &Host) -> String {
    let text = keyring(host, &["install", "--generate", "--json"]).expect("weft keyring install");
    let done: Value = serde_json::from_str(&text).expect("JSON");
    done["fingerprint"].as_str().expect("a fingerprint").to_owned()
}

/// Waits until a host's own keyring is this one, and no other host says otherwise.
#[track_caller]
fn all_hold(fleet: &Fleet, hosts: &[&str], primary: &str, count: usize) {
    for host in hosts {
        wait_for(&format!("{host} seals with {primary}"), RETURN_DEADLINE, || {
            let page = fleet[host].curl("http://127.0.0.1:8500/metrics");
            let sealing = format!("weft_gossip_primary_key{{fingerprint=\"{primary}\"}} 1");
            let held = format!("weft_gossip_keys {count}\n");
            let holds = page.stdout.contains(&sealing) && page.stdout.contains(&held);
            let shown = page.stdout.lines().filter(|line| line.starts_with("weft_gossip_"));
            if holds { Ok(()) } else { Err(shown.collect::<Vec<_>>().join("\n")) }
        });
    }
}

/// The state changes that the agents' logs tell of, to `failed`.
fn deaths(fleet: &Fleet, hosts: &[&str]) -> Vec<String> {
    let logs = hosts.iter().map(|host| std::fs::read_to_string(fleet[host].folder().join("agent.log")));
    let lines = logs.flat_map(|log| log.expect("a log").lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| line.contains("member changed") && line.contains("failed")).collect()
}

#[test]
fn a_rotation_under_steady_calls_costs_no_call_and_no_member() {
    let hosts = ["a", "b", "c", "d"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    for name in ["a", "b"] {
        fleet[name].service("web", WEB);
    }
    let _web = ["a", "b"].map(|name| parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name));
    fleet.mesh(&hosts);
    fleet["c"].sees_passing("web", &["a", "b"]);
    let load = Load::start(&fleet, "c", "web", CALLS_PER_SECOND);
    let old = keys(&fleet["c"]).remove(0);
    let new = install(&fleet["c"]);
    let listed = list(&fleet["d"]);
    assert_eq!(
        (&listed["state"], &listed["members"], &listed["answered"]),
        (&json!("installed"), &json!(4), &json!(4))
    );
    assert_eq!(listed["keys"][1]["held"], 4);
    std::thread::sleep(Duration::from_secs(2));

    let told = keyring(&fleet["d"], &["use", &new]).expect("weft keyring use");
    assert!(
        told.starts_with(&format!("{new} is the primary key of 4 hosts\n  next: weft keyring remove {old}")),
        "{told}"
    );
    all_hold(&fleet, &hosts, &new, 2);
    std::thread::sleep(Duration::from_secs(2));
    let refused = keyring(&fleet["a"], &["remove", &new, "--force"]);
    assert!(!refused.ok && refused.stderr.contains("primary key of a, b, c, d"), "{}", refused.stderr);

    keyring(&fleet["a"], &["remove", &old]).expect("weft keyring remove");
    all_hold(&fleet, &hosts, &new, 1);
    assert_eq!(list(&fleet["b"])["state"], "settled");
    // Long enough for every host to have probed every other, and to have called it failed.
    std::thread::sleep(Duration::from_secs(8));
    fleet.all_alive(&hosts);
    assert_eq!(deaths(&fleet, &hosts), Vec::<String>::new());
    let unopened: f64 =
        hosts.iter().map(|host| fleet[host].metric("weft_gossip_rejected_total", "unauthenticated")).sum();
    println!("{unopened} datagrams of the whole rotation could not be opened");
    assert_eq!(unopened, 0.0, "at every step each host could open what each other sent");

    let calls = load.stop();
    println!("{} calls, {:?}", calls.len(), tally(&calls));
    let failed: Vec<_> = calls.iter().filter(|call| call.outcome.is_err()).take(10).collect();
    assert!(failed.is_empty() && calls.len() > 100, "of {} calls: {failed:#?}", calls.len());

    // A newcomer gets the keyring of today, and a restart keeps it.
    fleet["b"].stop_agent();
    fleet["b"].start_agent();
    fleet.all_alive(&hosts);
    all_hold(&fleet, &hosts, &new, 1);
}

#[test]
fn hosts_that_were_away_during_a_rotation_come_back_and_bring_nothing_back() {
    // A host that loses more than half of the others doubts itself, and calls nobody failed.
    let hosts = ["a", "b", "c", "d", "e"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    fleet.mesh(&hosts);
    let old = keys(&fleet["a"]).remove(0);
    // One is off, the other runs and hears nobody.
    fleet["c"].kill_agent();
    fleet.cut("d");
    for gone in ["c", "d"] {
        wait_for(&format!("a holds {gone} for failed"), Duration::from_secs(40), || {
            let members = fleet["a"].members()?;
            if members.get(gone).is_some_and(|state| state == "failed") { Ok(()) } else { Err(format!("{members:?}")) }
        });
    }
    let new = install(&fleet["a"]);
    assert_eq!(list(&fleet["a"])["away"], json!(["c", "d"]));
    keyring(&fleet["a"], &["use", &new]).expect("weft keyring use");
    keyring(&fleet["a"], &["remove", &old]).expect("weft keyring remove");
    all_hold(&fleet, &["a", "b", "e"], &new, 1);
    all_hold(&fleet, &["d"], &old, 1);

    fleet["c"].start_agent();
    fleet.heal("d");
    all_hold(&fleet, &hosts, &new, 1);
    fleet.all_alive(&hosts);
    let listed = list(&fleet["d"]);
    assert_eq!((&listed["state"], &listed["answered"]), (&json!("settled"), &json!(5)), "{listed}");
}

#[test]
fn a_host_that_stood_still_during_a_rotation_goes_on_with_the_new_key() {
    let hosts = ["a", "b", "c", "d"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    fleet.mesh(&hosts);
    let old = keys(&fleet["a"]).remove(0);
    fleet["c"].pause_agent();
    wait_for("a holds c for failed", Duration::from_secs(40), || {
        let members = fleet["a"].members()?;
        if members.get("c").is_some_and(|state| state == "failed") { Ok(()) } else { Err(format!("{members:?}")) }
    });
    let new = install(&fleet["a"]);
    keyring(&fleet["b"], &["use", &new]).expect("weft keyring use");
    keyring(&fleet["d"], &["remove", &old]).expect("weft keyring remove");
    fleet["c"].resume_agent();
    all_hold(&fleet, &hosts, &new, 1);
    fleet.all_alive(&hosts);
    let others = ["node=a ", "node=b ", "node=d "];
    let buried: Vec<String> = deaths(&fleet, &hosts);
    let wrongly = buried.iter().filter(|line| others.iter().any(|other| line.contains(other)));
    assert_eq!(wrongly.count(), 0, "somebody else was called failed: {buried:#?}");
}

#[test]
fn a_member_that_does_not_answer_is_named_and_holds_the_rotation_up() {
    let hosts = ["a", "b", "c"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    fleet.mesh(&hosts);
    // Its agent is there for membership, and closes no connection, but takes none either.
    let rule = "table inet deaf {\nchain in {\ntype filter hook input priority 0\ntcp dport 7946 drop\n}\n}";
    fleet["c"].run("nft", [rule]).expect("nft");
    let installed = keyring(&fleet["a"], &["install", "--generate", "--json"]);
    assert!(!installed.ok && installed.stderr.contains("is not installed on c"), "{}", installed.stderr);
    let done: Value = serde_json::from_str(&installed.stdout).expect("JSON");
    assert_eq!((&done["done"], &done["silent"][0]["node"]), (&json!(false), &json!("c")));
    let new = done["fingerprint"].as_str().expect("a fingerprint");
    let refused = keyring(&fleet["b"], &["use", new]);
    assert!(!refused.ok && refused.stderr.contains(": c;") && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(keys(&fleet["a"])[1], new, "it is still the second");
    // Nobody changes it over TCP without a token of an operator's.
    let refused = fleet["a"].run(WEFT, ["--api", "127.0.0.1:8500", "keyring", "use", new, "--force"]);
    assert!(!refused.ok && refused.stderr.contains("unix socket, by root"), "{}", refused.stderr);
    let listed = fleet["a"].run(WEFT, ["--api", "127.0.0.1:8500", "keyring", "list"]).expect("but look at it");
    assert!(listed.contains(new), "{listed}");

    fleet["c"].run("nft", ["delete table inet deaf"]).expect("nft");
    keyring(&fleet["b"], &["use", new]).expect("the host answers again");
    all_hold(&fleet, &hosts, new, 2);
}

/// The job `stolen`: datagrams that somebody recorded, or made with a key that was stolen, are sent to a host.
pub(crate) fn send(arguments: &Value) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let target = arguments["target"].as_str().expect("target");
    for packet in arguments["packets"].as_array().expect("packets") {
        let bytes = HEXLOWER.decode(packet.as_str().expect("hex").as_bytes()).expect("hex");
        socket.send_to(&bytes, target).expect("a datagram");
    }
}

#[test]
fn a_stolen_key_is_of_no_use_once_it_is_removed() {
    use weft::model::NodeId;
    use weft::wire::seal::{GossipKey, Sealer};

    let Some(fleet) = Fleet::raise(&["a", "b", "x"]) else { return };
    fleet.mesh(&["a", "b"]);
    let stolen = std::fs::read_to_string(fleet["a"].data_dir().join("identity/gossip.key")).expect("the theft");
    let stolen: GossipKey = stolen.parse().expect("a key");
    let mut thief = Sealer::new(&stolen, "proving", NodeId([0xee; 16]), 1);
    // Of a version that is known, and nothing else: what cannot be read is counted as malformed.
    let nonsense = [&[1][..], &[0xff; 39]].concat();
    let mut attack = || {
        let packets: Vec<String> =
            (0..20).map(|_| HEXLOWER.encode(&thief.seal(&nonsense).expect("a packet"))).collect();
        let arguments = json!({ "target": "10.77.0.1:7946", "packets": packets });
        let count = |reason: &str| fleet["a"].metric("weft_gossip_rejected_total", reason);
        let before = (count("malformed"), count("unauthenticated"));
        run(&mut helper::command(&fleet["x"], "stolen", &arguments)).expect("the thief");
        wait_for("all of the thief's datagrams are judged", Duration::from_secs(10), || {
            let (read, refused) = (count("malformed") - before.0, count("unauthenticated") - before.1);
            if read + refused >= 20.0 { Ok((read, refused)) } else { Err(format!("{read} and {refused}")) }
        })
    };
    assert_eq!(attack().0, 20.0, "with the key they are opened, and what they say is read");
    let old = keys(&fleet["a"]).remove(0);
    let new = install(&fleet["a"]);
    keyring(&fleet["a"], &["use", &new]).expect("weft keyring use");
    assert_eq!(attack().0, 20.0, "as long as the old key is accepted");
    keyring(&fleet["a"], &["remove", &old]).expect("weft keyring remove");
    all_hold(&fleet, &["a", "b"], &new, 1);
    assert_eq!(attack(), (0.0, 20.0), "none of them is opened");
    for host in ["a", "b"] {
        let read = |file| std::fs::read_to_string(fleet[host].data_dir().join(file)).expect(file);
        assert!(!read("identity/gossip.key").contains(&BASE64.encode(&stolen.0)), "{host} still has the old key");
        let kept: Value = serde_json::from_str(&read("keyring.json")).expect("JSON");
        let bytes = BASE64.decode(kept["keyring"].as_str().expect("a keyring").as_bytes()).expect("base64");
        assert!(!bytes.windows(32).any(|window| window == stolen.0), "{host} still has the old key");
    }
    fleet.all_alive(&["a", "b"]);
}
