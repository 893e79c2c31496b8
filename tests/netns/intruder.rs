//! A host without the keys, or with another CA, gets in nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::load::{Load, tally};
use crate::parts;
use crate::process::{Process, clock_us, holds_for, wait_for};
use crate::timeline::{ever, median, seconds, timeline};

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n";
const TROJAN: &str = "[[service]]\nname = \"trojan\"\nport = 8081\nprotocol = \"http\"\n";

/// Long enough for many gossip rounds and several attempts at the seed.
const WATCHED: Duration = Duration::from_secs(10);

/// The members other than itself whom a host has ever heard of.
fn others(host: &Host) -> Result<BTreeMap<String, String>, String> {
    let mut members = host.members()?;
    members.remove(&host.name);
    Ok(members)
}

/// Neither the intruder's services nor its answers are seen in the mesh.
fn keeps_out_of(host: &Host) -> Result<(), String> {
    let (_, services) = host.api("/v1/catalog/services")?;
    if services.get("trojan").is_some() {
        return Err(format!("{} lists the intruder's service: {services}", host.name));
    }
    let instances = host.instances("web")?;
    if instances.contains_key("x") {
        return Err(format!("{} lists the intruder's instance: {instances:?}", host.name));
    }
    let answer = host.curl("http://web.mesh.internal/");
    if answer.ok && answer.stdout.trim() == "a" { Ok(()) } else { Err(answer.stdout + &answer.stderr) }
}

#[test]
fn a_host_with_another_ca_and_other_keys() {
    let Some(fleet) = Fleet::raise(&["a", "b", "x"]) else { return };
    fleet["a"].service("web", WEB);
    fleet["x"].service("web", WEB);
    fleet["x"].service("trojan", TROJAN);
    let _web = ["a", "x"].map(|name| parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name));
    fleet.mesh(&["a", "b"]);
    fleet["b"].sees_passing("web", &["a"]);
    // The same cluster name, the same seed; everything else is its own.
    fleet["x"].found_mesh();
    fleet["x"].start_agent();
    holds_for("the mesh keeps the intruder out", WATCHED, || {
        for host in ["a", "b"] {
            keeps_out_of(&fleet[host])?;
            let members = others(&fleet[host])?;
            if members.len() != 1 {
                return Err(format!("{host} has members {members:?}"));
            }
        }
        let heard = others(&fleet["x"])?;
        if heard.is_empty() { Ok(()) } else { Err(format!("the intruder knows {heard:?}")) }
    });
    // Its own mesh still works for itself: what kept it out was not that it was broken.
    assert_eq!(fleet["x"].curl("http://web.mesh.internal/").expect("its own call").trim(), "x");
}

#[test]
fn a_host_with_the_stolen_gossip_key_but_another_ca() {
    let Some(fleet) = Fleet::raise(&["a", "b", "x"]) else { return };
    fleet["a"].service("web", WEB);
    fleet["x"].service("web", WEB);
    fleet["x"].service("trojan", TROJAN);
    let _web = ["a", "x"].map(|name| parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name));
    fleet.mesh(&["a", "b"]);
    fleet["b"].sees_passing("web", &["a"]);
    fleet["x"].found_mesh();
    let key = "identity/gossip.key";
    fs::copy(fleet["a"].data_dir().join(key), fleet["x"].data_dir().join(key)).expect("the theft");
    fleet["x"].start_agent();
    // It may show as a member (whoever has the key can speak), but it serves nobody and learns of no service.
    holds_for("the mesh keeps the intruder out", WATCHED, || {
        for host in ["a", "b"] {
            keeps_out_of(&fleet[host])?;
        }
        let instances = fleet["x"].instances("web")?;
        if instances.contains_key("a") { Err(format!("the intruder learned {instances:?}")) } else { Ok(()) }
    });
}

/// How long the thief goes on.
const THEFT: Duration = Duration::from_secs(30);

/// Services that are registered on the victim meanwhile.
const LATE: usize = 5;
/// Fresh records are everywhere in a few milliseconds; a digest goes to one host in five seconds.
const EAGER_US: u64 = 1_000_000;

/// Registers a service on `b`, and says after how many microseconds all viewers know it.
#[track_caller]
fn registered(fleet: &Fleet, viewers: &[&str], name: &str) -> u64 {
    let b = &fleet["b"];
    b.service(name, &format!("[[service]]\nname = \"{name}\"\nport = 9000\n"));
    let begun = clock_us();
    b.reload();
    for viewer in viewers {
        wait_for(&format!("{viewer} knows {name}"), Duration::from_secs(20), || {
            let instances = fleet[viewer].instances(name)?;
            if instances.contains_key("b") { Ok(()) } else { Err(format!("{instances:?}")) }
        });
    }
    clock_us() - begun
}

/// A host's id as its own agent knows it.
#[track_caller]
pub(crate) fn id_of(host: &Host) -> String {
    let (_, this) = host.api("/v1/agent/self").expect("/v1/agent/self");
    let id = this["Config"]["NodeID"].as_str().unwrap_or_default().replace('-', "");
    assert_eq!(id.len(), 32, "{this}");
    id
}

/// How often, and how long each time, the viewers held `node` for suspect before they held it for alive again.
fn suspicions(fleet: &Fleet, viewers: &[&str], node: &str, since_us: u64) -> Vec<u64> {
    let mut times = Vec::new();
    for viewer in viewers {
        let mut since = None;
        for seen in timeline(fleet, &[viewer], since_us).iter().filter(|seen| seen.node == node) {
            match seen.state.as_str() {
                "suspect" => since = since.or(Some(seen.at_us)),
                _ => times.extend(since.take().map(|since| seen.at_us - since)),
            }
        }
    }
    times
}

#[test]
fn who_has_the_gossip_key_alone_makes_nobody_alive_gone_or_mute() {
    let hosts = ["a", "b", "c", "d", "e"];
    let Some(fleet) = Fleet::raise(&["a", "b", "c", "d", "e", "x"]) else { return };
    fleet["b"].service("web", WEB);
    let _web = parts::nginx(&fleet["b"], "web", "127.0.0.1:8081", "b");
    fleet.mesh(&hosts);
    fleet["c"].sees_passing("web", &["b"]);
    let key = fs::read_to_string(fleet["a"].data_dir().join("identity/gossip.key")).expect("the theft");
    let orders = json!({
        "key": key.trim(), "cluster": "proving", "address": fleet["x"].address(), "seconds": THEFT.as_secs(),
        "hosts": hosts.map(|host| fleet[host].address()),
        "victim": id_of(&fleet["b"]), "dead": id_of(&fleet["d"]),
    });
    // He listens as hosts come: so he knows what the victim, and the dead, said of themselves.
    let log = fleet["x"].folder().join("thief.out");
    let mut thief = Process::start("the thief", &mut helper::command(&fleet["x"], "thief", &orders), &log);
    wait_for("the thief is talked to", Duration::from_secs(10), || {
        let log = fleet["c"].agent_log_text();
        if log.contains("node=nobody") { Ok(()) } else { Err(log) }
    });
    for host in ["b", "d"] {
        fleet[host].stop_agent();
        fleet[host].start_agent();
    }
    fleet["c"].sees_passing("web", &["b"]);
    fleet["d"].kill_agent();
    let viewers = ["a", "c", "e"];
    for viewer in viewers {
        wait_for("the dead host is known as such, whatever the thief says", Duration::from_secs(20), || {
            let members = fleet[viewer].members()?;
            if members.get("d").is_some_and(|state| state == "failed") { Ok(()) } else { Err(format!("{members:?}")) }
        });
    }
    let since_us = clock_us();
    let old_epochs = |host: &str| fleet[host].metric("weft_gossip_rejected_total", "old_epoch");
    let before = viewers.map(old_epochs);
    let load = Load::start(&fleet, "c", "web", 50);
    holds_for("the thief goes on", Duration::from_secs(10), || {
        for viewer in viewers {
            let members = fleet[viewer].members()?;
            let state = |name: &str| members.get(name).map(String::as_str);
            let holds = matches!(state("b"), Some("alive" | "suspect")) && state("d") == Some("failed");
            // Without a record that a certificate bears out he is no host that anybody is shown, or calls.
            if !holds || members.contains_key("nobody") {
                return Err(format!("{viewer}: {members:?}"));
            }
        }
        Ok(())
    });
    let mut known: Vec<u64> = (0..LATE).map(|number| registered(&fleet, &viewers, &format!("late-{number}"))).collect();
    known.sort_unstable();
    let calls = load.stop();
    let attacked_us = clock_us();
    let failed: Vec<_> = calls.iter().filter(|call| call.outcome.is_err()).take(10).collect();
    assert!(failed.is_empty() && calls.len() > 100, "of {} calls: {failed:#?}", calls.len());

    let seen = timeline(&fleet, &viewers, since_us);
    assert!(ever(&seen, &["failed", "left"]).is_empty(), "{:?}", ever(&seen, &["failed", "left"]));
    assert!(!ever(&seen, &["alive"]).contains_key("d"), "the dead host was raised");
    let mut times = suspicions(&fleet, &viewers, "b", since_us);
    times.sort_unstable();
    let time = |us: u64| seconds(0, us);
    println!(
        "{:.0} s of theft: {} suspicions on {} hosts, refuted within {:.3} s in the median, {:.3} s at most; {} calls, {:?}",
        seconds(since_us, attacked_us),
        times.len(),
        viewers.len(),
        time(median(times.clone())),
        time(times.last().copied().unwrap_or(0)),
        calls.len(),
        tally(&calls),
    );
    println!("services registered meanwhile were known on all within {known:?} µs");
    assert!(median(known.clone()) < EAGER_US, "what is registered waits for digests: {known:?} µs");
    // The victim is heard itself: none of its packets was taken for one of an older start.
    assert_eq!(viewers.map(old_epochs), before, "the victim's own datagrams are refused");
    for viewer in viewers {
        let host = &fleet[viewer];
        for reason in ["unsigned", "signature"] {
            assert!(host.metric("weft_gossip_claims_refused_total", reason) > 0.0, "{viewer}: {reason}");
        }
        let forged = host.metric("weft_records_refused_total", "signature");
        println!("{viewer} has refused {forged} records");
        assert!(forged > 1_000.0, "{viewer} was sent {forged} false records");
        assert!(host.agent_log_text().contains("claims that this host makes"), "{viewer} names nobody");
        let (_, services) = host.api("/v1/catalog/services").expect("services");
        assert!(services.get("trojan").is_none(), "{services}");
        assert_eq!(host.instances("web").expect("web").keys().collect::<Vec<_>>(), ["b"]);
    }
    thief.finish(THEFT + Duration::from_secs(20));
    let printed = thief.printed();
    let told = printed
        .lines()
        .find_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok())
        .expect("his report");
    println!("the thief: {told}");
    assert!(told["refuted"].as_u64().is_some_and(|refuted| refuted > 3), "he was not answered: {told}");
    wait_for("all is as before", Duration::from_secs(20), || {
        let members = fleet["a"].members()?;
        let alive = |name: &&str| members.get(*name).is_some_and(|state| state == "alive");
        if ["a", "b", "c", "e"].iter().all(alive) { Ok(()) } else { Err(format!("{members:?}")) }
    });
}

/// `openssl s_client` from `host` to the agent of `a`: true if the handshake holds.
#[track_caller]
fn shakes_hands(host: &Host, port: u16, protocol: &str, certificate_of: Option<&Host>) -> bool {
    let address = format!("10.77.0.1:{port}");
    // `-ign_eof`: with nothing on its standard input it would go before the verdict comes.
    let mut words = vec!["3", "openssl", "s_client", "-ign_eof", "-connect", &address, "-alpn", protocol, "-tls1_3"];
    let identity = certificate_of.map(|owner| owner.data_dir().join("identity"));
    let files = identity.map(|folder| [folder.join("node.pem"), folder.join("node.key")]);
    let names = files.as_ref().map(|files| [0, 1].map(|at| files[at].to_str().expect("a path in UTF-8")));
    if let Some([certificate, key]) = names {
        words.extend(["-cert", certificate, "-cert_chain", certificate, "-key", key]);
    }
    // In TLS 1.3 a client's certificate is judged after its own handshake has ended: the verdict comes as an alert, or
    // the connection stays open until `timeout` ends it.
    let done = host.run("timeout", words);
    let printed = done.stdout + &done.stderr;
    assert!(printed.contains("CONNECTED"), "{printed}");
    !(printed.contains("alert") || printed.contains("handshake failure") || printed.contains("unexpected eof"))
}

#[test]
fn only_a_certificate_of_the_meshs_own_ca_opens_a_stream() {
    let Some(fleet) = Fleet::raise(&["a", "b", "x"]) else { return };
    fleet.mesh(&["a", "b"]);
    fleet["x"].found_mesh();
    for (port, protocol) in [(7947, "weft-mesh"), (7946, "weft-gossip")] {
        let b = &fleet["b"];
        assert!(shakes_hands(b, port, protocol, Some(b)), "{protocol}: b's own certificate must do");
        let x = &fleet["x"];
        assert!(!shakes_hands(x, port, protocol, Some(x)), "{protocol}: another CA's certificate was taken");
        assert!(!shakes_hands(x, port, protocol, None), "{protocol}: no certificate was asked for");
    }
    assert!(!shakes_hands(&fleet["b"], 7947, "http/1.1", Some(&fleet["b"])), "an unknown protocol was taken");
}

#[test]
fn a_token_lets_one_host_in_once_and_in_time() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c", "x"]) else { return };
    fleet.mesh(&["a"]);
    let token = fleet["a"].token(&[]);
    let refused = |token: &str, why: &str| {
        let error = fleet["x"].enrol_with(token).expect_err(why);
        println!("{why}: {}", error.trim());
        assert!(!error.trim().is_empty(), "{why}: refused without a word");
        assert!(!fleet["x"].data_dir().join("identity/node.pem").exists(), "{why}: left a certificate");
    };
    let mut bent = token.clone().into_bytes();
    let middle = bent.len() / 2;
    bent[middle] = if bent[middle] == b'A' { b'B' } else { b'A' };
    refused(&String::from_utf8(bent).expect("a token is ASCII"), "a token with one letter changed");
    refused("weft1.AAAA", "no token at all");
    fleet["b"].enrol_with(&token).expect("a good token");
    refused(&token, "a token that was used");
    let short = fleet["a"].token(&["--ttl", "1s"]);
    std::thread::sleep(Duration::from_secs(2));
    refused(&short, "a token that has expired");
    let taken = fleet["a"].token(&[]);
    let data = fleet["a"].data_dir();
    let id = fleet["a"].token_id(&taken);
    let words = ["token", "revoke", &id, "--data-dir", data.to_str().expect("a path in UTF-8")];
    fleet["a"].run(env!("CARGO_BIN_EXE_weft"), words).expect("weft token revoke");
    refused(&taken, "a token that was taken back");
    // An image that finds a token among its credentials needs nobody who types.
    let credentials = fleet["c"].folder().join("credentials");
    std::fs::create_dir(&credentials).expect("a folder");
    std::fs::write(credentials.join("weft.join-token"), fleet["a"].token(&["--node", "c"])).expect("a credential");
    for _ in 0..2 {
        // The second time the token is used up, and not looked at.
        fleet["c"].spawn_agent_with(credentials.to_str().expect("a path in UTF-8"));
        fleet["c"].await_agent();
        fleet.all_alive(&["a", "c"]);
        fleet["c"].stop_agent();
    }
    // The one who was let in belongs to the mesh.
    fleet["b"].start_agent();
    fleet.all_alive(&["a", "b"]);
}
