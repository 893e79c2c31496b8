//! How calls of services are carried, on real hosts by the real command line: what is stated on one host is in force on all
//! within a second and over restarts; a trial holds in its zone alone and goes back by itself; and every way back works.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::Fleet;
use crate::host::Host;
use crate::process::{Done, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const HOSTS: [&str; 3] = ["a", "b", "c"];
/// From the end of the verb to its effect on every host.
const EFFECT_DEADLINE: Duration = Duration::from_secs(1);

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `weft` with this host's agent.
fn weft(host: &Host, words: &[&str]) -> Done {
    let socket = host.folder().join("weft.sock");
    host.run(WEFT, [&["--api", text(&socket)], words].concat())
}

/// The same as JSON.
#[track_caller]
fn json(host: &Host, words: &[&str]) -> Value {
    let printed = weft(host, &[words, &["--json"]].concat()).expect(&words.join(" "));
    serde_json::from_str(&printed).expect("JSON")
}

/// A verb that an operator signs.
#[track_caller]
fn sign(host: &Host, key: &Path, words: &[&str]) -> String {
    weft(host, &[words, &["--operator", text(key)]].concat()).expect(&words.join(" "))
}

/// A file to apply.
fn file(host: &Host, name: &str, contents: &str) -> PathBuf {
    let path = host.folder().join(name);
    fs::write(&path, contents).expect("a file to apply");
    path
}

/// What `host` says of `billing`.
fn told(host: &Host) -> Result<Value, String> {
    Ok(host.api("/v1/weft/traffic-policies/billing")?.1)
}

/// Waits until every host has that statement in force.
#[track_caller]
fn in_force(fleet: &Fleet, number: u64, since: Instant) {
    for host in HOSTS {
        wait_for(&format!("{number} is in force on {host}"), EFFECT_DEADLINE, || {
            let told = told(&fleet[host])?;
            if told["number"] == number && told["in_force"] == true { Ok(()) } else { Err(told.to_string()) }
        });
    }
    println!("{number} was seen in force on all hosts {:?} after the verb had begun", since.elapsed());
}

/// Waits until each host says that of the trial.
#[track_caller]
fn trial_is(fleet: &Fleet, expected: [&str; 3], deadline: Duration) {
    for (host, expected) in HOSTS.iter().zip(expected) {
        wait_for(&format!("{host} says of the trial: {expected}"), deadline, || {
            let told = told(&fleet[host])?;
            let here = &told["stated"]["trial"]["here"];
            if here == expected { Ok(()) } else { Err(told.to_string()) }
        });
    }
}

/// Three hosts, of which a and b are in one zone and c in another; `billing` is a VM's on a and Kubernetes' on b. And an
/// operator's key.
fn raise() -> Option<(Fleet, PathBuf)> {
    let fleet = Fleet::raise(&HOSTS)?;
    for (host, zone) in [("a", "eu-1a"), ("b", "eu-1a"), ("c", "eu-1b")] {
        let path = fleet[host].folder().join("weft.toml");
        let config = fs::read_to_string(&path).expect("weft.toml");
        fs::write(&path, config.replace("[node]\n", &format!("[node]\nzone = \"{zone}\"\n"))).expect("weft.toml");
    }
    let billing = "[[service]]\nname = \"billing\"\nport = 8081\nprotocol = \"http\"\n";
    fleet["a"].service("billing", billing);
    fleet["b"].service("billing", &format!("{billing}meta = {{ platform = \"kubernetes\" }}\n"));
    fleet.mesh(&HOSTS);
    for host in HOSTS {
        fleet[host].sees_passing("billing", &["a", "b"]);
    }
    let (a, key) = (&fleet["a"], fleet["a"].folder().join("anna.pem"));
    let data_dir = a.data_dir();
    let made = ["ca", "operator", "anna", "--data-dir", text(&data_dir), "--out", text(&key)];
    a.run(WEFT, made).expect("weft ca operator");
    Some((fleet, key))
}

#[test]
fn what_is_stated_on_one_host_is_in_force_on_all_and_every_way_back_works() {
    let Some((fleet, key)) = raise() else { return };
    let (a, b, c) = (&fleet["a"], &fleet["b"], &fleet["c"]);
    let wanted = file(c, "billing.toml", "[service.billing]\ntimeouts = { request = \"2s\" }\nretries = { max = 1 }\n");
    let plan = ["plan", "-f", text(&wanted)];
    let planned = weft(c, &plan);
    assert!(!planned.ok && planned.stdout.contains("+ timeouts.request = \"2s\""), "{}", planned.stdout);

    // Nobody but an operator.
    let unsigned = weft(c, &["apply", "-f", text(&wanted)]);
    assert!(!unsigned.ok && unsigned.stderr.contains("WEFT_OPERATOR"), "{}", unsigned.stderr);

    let since = Instant::now();
    sign(c, &key, &["apply", "-f", text(&wanted)]);
    in_force(&fleet, 1, since);
    assert!(weft(a, &plan).ok, "what holds is no change on any host");
    assert!(sign(b, &key, &["apply", "-f", text(&wanted)]).contains("billing: nothing changes"));
    assert_eq!(told(a).unwrap()["number"], 1, "nothing was stated");

    // A share moves to the other world, and what else was said stays.
    let since = Instant::now();
    sign(a, &key, &["shift", "billing", "--to", "platform=kubernetes", "--percent", "10"]);
    in_force(&fleet, 2, since);
    let shown = weft(b, &["policy", "show", "billing"]).expect("policy show");
    for part in ["request = \"2s\"", "weight = 10", "weight = 90", "platform = \"vm\"", "number 2, by anna"] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let nowhere = weft(a, &["shift", "billing", "--to", "tag=v9", "--percent", "5", "--operator", text(&key)]);
    assert!(!nowhere.ok && nowhere.stderr.contains("nowhere to go"), "{}", nowhere.stderr);
    // What is shown is a file, and applying it is no change.
    let same = file(b, "same.toml", &shown);
    assert!(weft(b, &["plan", "-f", text(&same)]).ok);
    // Groups that a file does not name stay: the split outlives the file's next version.
    let wanted = file(c, "billing.toml", "[service.billing]\ntimeouts = { request = \"3s\" }\nretries = {}\n");
    sign(c, &key, &["apply", "-f", text(&wanted)]);
    sign(b, &key, &["shift", "billing", "--to", "platform=kubernetes", "--percent", "100"]);
    in_force(&fleet, 4, Instant::now());
    let document = r#"{"split":[{"platform":"kubernetes","weight":100},{"platform":"vm","weight":0}],"timeouts":{"request":"3s"}}"#;
    assert_eq!(told(a).unwrap()["stated"]["document"], document);

    // Back by one, and to any.
    sign(a, &key, &["policy", "revert", "billing"]);
    in_force(&fleet, 5, Instant::now());
    let history = json(c, &["policy", "history", "billing"]);
    let said = |at: usize| &history["history"][at]["stated"]["document"];
    assert_eq!(said(0), said(2), "5 says what 3 said");
    sign(c, &key, &["policy", "revert", "billing", "--to", "1"]);
    in_force(&fleet, 6, Instant::now());
    assert_eq!(told(b).unwrap()["stated"]["document"], r#"{"retries":{"max":1},"timeouts":{"request":"2s"}}"#);
    sign(c, &key, &["policy", "delete", "billing"]);
    in_force(&fleet, 7, Instant::now());
    assert!(weft(a, &["policy", "list"]).expect("policy list").contains("the defaults hold"));

    // All of it is there after all agents have restarted at once.
    sign(b, &key, &["policy", "revert", "billing"]);
    in_force(&fleet, 8, Instant::now());
    for host in HOSTS {
        fleet[host].stop_agent();
    }
    for host in HOSTS {
        fleet[host].spawn_agent();
    }
    HOSTS.iter().for_each(|host| fleet[host].await_agent());
    for host in HOSTS {
        let told = told(&fleet[host]).expect("what is stated");
        let numbers: Vec<u64> =
            told["history"].as_array().unwrap().iter().filter_map(|past| past["number"].as_u64()).collect();
        assert_eq!((&told["in_force"], numbers), (&true.into(), vec![8, 7, 6, 5, 4, 3, 2, 1]), "{host}");
    }
}

#[test]
fn a_trial_holds_in_its_zone_alone_and_goes_back_by_itself_unless_it_is_confirmed() {
    let Some((fleet, key)) = raise() else { return };
    let (a, b, c) = (&fleet["a"], &fleet["b"], &fleet["c"]);
    let wanted = file(a, "billing.toml", "[service.billing]\nlimits = { instance_concurrency = 5 }\n");
    let wanted = text(&wanted);
    let nobody = weft(a, &["apply", "-f", wanted, "--zone", "moon", "--bake", "10s", "--operator", text(&key)]);
    assert!(!nobody.ok && nobody.stderr.contains("no host is in the zone moon"), "{}", nobody.stderr);

    let since = Instant::now();
    let bake = Duration::from_secs(6);
    sign(c, &key, &["apply", "-f", wanted, "--zone", "eu-1a", "--bake", "6s"]);
    trial_is(&fleet, ["applied", "applied", "elsewhere"], EFFECT_DEADLINE);
    println!("on trial {:?} after the verb had begun", since.elapsed());
    let refused = weft(b, &["shift", "billing", "--to", "platform=vm", "--percent", "50", "--operator", text(&key)]);
    assert!(!refused.ok && refused.stderr.contains("on trial in eu-1a"), "{}", refused.stderr);
    // Every host goes back at that time, by its own clock and to the second that it is told in.
    trial_is(&fleet, ["ended", "ended", "ended"], bake + EFFECT_DEADLINE);
    let after = since.elapsed();
    println!("over {after:?} after the verb had begun");
    assert!(after >= bake - Duration::from_secs(1), "{after:?}");
    let late = weft(a, &["apply", "-f", wanted, "--confirm", "--operator", text(&key)]);
    assert!(!late.ok && late.stderr.contains("the trial of billing ended"), "{}", late.stderr);

    // Confirmed while it is on, it holds everywhere, and nothing ends.
    sign(a, &key, &["apply", "-f", wanted, "--zone", "eu-1a", "--bake", "1h"]);
    trial_is(&fleet, ["applied", "applied", "elsewhere"], EFFECT_DEADLINE);
    sign(b, &key, &["apply", "-f", wanted, "--confirm"]);
    in_force(&fleet, 3, Instant::now());
    for host in HOSTS {
        let stated = &told(&fleet[host]).expect("what is stated")["stated"];
        assert_eq!(stated["document"], r#"{"limits":{"instance_concurrency":5}}"#, "{host}");
        assert_eq!(stated["trial"], Value::Null, "{host}");
    }
}
