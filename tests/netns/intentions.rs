//! Who may call whom, on real hosts: an operator's word holds on every host within a second, for calls that are under way
//! too; it outlives restarts of all agents and the leave of the host where it was said; and nobody but an operator of this
//! cluster has such a word.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::{VERSIONS, ask};
use crate::fleet::Fleet;
use crate::host::Host;
use crate::parts;
use crate::process::{Done, Process, holds_for, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n";
const CACHE: &str = "[[service]]\nname = \"cache\"\nport = 6379\n";

/// From the end of the verb to its effect on every host.
const EFFECT_DEADLINE: Duration = Duration::from_secs(1);
/// A host that leaves, or restarts, is given up and its policies are taken over within this.
const CARE_DEADLINE: Duration = Duration::from_secs(30);

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `weft` with this host's agent.
fn weft(host: &Host, words: &[&str]) -> Done {
    let socket = host.folder().join("weft.sock");
    host.run(WEFT, [&["--api", text(&socket)], words].concat())
}

/// Makes an operator on the host that keeps the CA.
#[track_caller]
fn operator(host: &Host, name: &str) -> PathBuf {
    let path = host.folder().join(format!("{name}.pem"));
    let (data, out) = (host.data_dir(), path.clone());
    let made = host.run(WEFT, ["ca", "operator", name, "--data-dir", text(&data), "--out", text(&out)]);
    made.expect("weft ca operator");
    path
}

#[track_caller]
fn decide(host: &Host, key: &Path, words: &[&str]) {
    let words = [&["intention"], words, &["--operator", text(key)]].concat();
    weft(host, &words).expect(&words.join(" "));
}

/// The status of a request to `web`, and its `weft-error`.
fn status(host: &Host, more: &[&str], target: &str) -> (u16, String, String) {
    let url = format!("http://web.mesh.internal{target}");
    let answer = ask(host, &[more, &[url.as_str()]].concat());
    (answer.status, answer.error().to_owned(), answer.body)
}

#[track_caller]
fn answers(host: &Host, expected: u16) {
    wait_for(&format!("requests of {} are answered {expected}", host.name), EFFECT_DEADLINE, || {
        let (found, _, body) = status(host, &[], "/");
        if found == expected { Ok(()) } else { Err(format!("{found}: {body}")) }
    });
}

/// A connection to Redis that stays open; its log says what it heard and how it ended.
fn session(host: &Host) -> Process {
    let script = "exec 3<>/dev/tcp/cache.mesh.internal/6379 && printf 'PING\\r\\n' >&3 && cat <&3; echo ended";
    let mut command = host.command("bash");
    command.args(["-c", script]);
    Process::start("a session", &mut command, &host.folder().join("session.log"))
}

fn pings(host: &Host) -> Result<(), String> {
    let done = host.run("redis-cli", ["-h", "cache.mesh.internal", "ping"]);
    if done.ok && done.stdout.trim() == "PONG" { Ok(()) } else { Err(format!("{} {}", done.stdout, done.stderr)) }
}

/// A fleet of `a` (with CA, web and cache), and the others; and an operator's key.
fn raise(hosts: &[&str]) -> Option<(Fleet, Vec<Process>, PathBuf)> {
    let fleet = Fleet::raise(hosts)?;
    let a = &fleet["a"];
    a.service("web", WEB);
    a.service("cache", CACHE);
    let parts = vec![parts::nginx(a, "web", "127.0.0.1:8081", "a"), parts::redis(a)];
    a.run("redis-cli", ["-h", "127.0.0.1", "config", "set", "protected-mode", "no"]).expect("a local setting");
    fleet.mesh(hosts);
    for host in hosts {
        fleet[host].sees_passing("web", &["a"]);
        fleet[host].sees_passing("cache", &["a"]);
    }
    let key = operator(a, "anna");
    Some((fleet, parts, key))
}

#[test]
fn a_denied_call_is_refused_and_one_under_way_is_broken_off_within_a_second() {
    let Some((fleet, _parts, key)) = raise(&["a", "b", "c"]) else { return };
    let (a, b, c) = (&fleet["a"], &fleet["b"], &fleet["c"]);
    answers(b, 200);
    pings(b).expect("a ping");
    let mut sessions = [session(b), session(a)];
    for session in &sessions {
        wait_for("the session is open", Duration::from_secs(5), || {
            if session.printed().contains("PONG") { Ok(()) } else { Err(session.printed()) }
        });
    }

    // Said on c, it holds on a, for callers there and elsewhere.
    let said = Instant::now();
    decide(c, &key, &["deny", "*", "cache"]);
    println!("the verb took {:?}", said.elapsed());
    for session in &mut sessions {
        wait_for("the session is broken off", EFFECT_DEADLINE, || match session.ended() {
            Some(_) => Ok(()),
            None => Err("it goes on".to_owned()),
        });
        println!("a session was seen to have ended {:?} after the verb had begun", said.elapsed());
        assert!(session.printed().contains("reset by peer"), "{}", session.printed());
    }
    decide(c, &key, &["deny", "*", "web"]);
    answers(b, 403);
    answers(a, 403);
    for caller in [a, b, c] {
        for version in VERSIONS {
            let (found, error, body) = status(caller, &[version], "/");
            assert_eq!((found, error.as_str()), (403, "denied"), "{}: {body}", caller.name);
            assert!(body.contains("intention * -> web: deny"), "{body}");
        }
        assert!(pings(caller).is_err(), "{} is let through", caller.name);
    }
    let retries = b.metric("weft_proxy_connect_retries_total", "");
    assert_eq!(retries, 0.0, "what is denied is not tried elsewhere");
    assert!(a.metric("weft_calls_denied_total", "source=\"anonymous\",destination=\"web\"") >= 6.0);
    assert!(a.metric("weft_calls_denied_total", "destination=\"cache\"") >= 5.0);

    // Requests one by one: reading is allowed, and nobody gets around it by writing the path in another way.
    decide(b, &key, &["allow", "*", "web", "--method", "GET", "--path", "/open/*"]);
    decide(b, &key, &["default", "deny"]);
    wait_for("what is open is open", EFFECT_DEADLINE, || match status(b, &[], "/open/x") {
        (403, _, body) => Err(body),
        _ => Ok(()),
    });
    let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: x"];
    for (more, target) in [
        (&["-X", "POST"][..], "/open/x"),
        // What goes over to another protocol is a GET, on the service's own host as elsewhere; this is a POST.
        (&[&["-X", "POST"][..], &upgrade].concat(), "/open/x"),
        (&[], "/"),
        (&["--path-as-is"], "/open/../secret"),
        (&["--path-as-is"], "/open/%2e%2e/secret"),
        (&["--path-as-is"], "/open/..%2fsecret"),
    ] {
        for caller in [a, c] {
            assert_eq!(status(caller, more, target).0, 403, "{more:?} {target} of {}", caller.name);
        }
    }
    let check = weft(c, &["intention", "check", "*", "web", "--method", "GET", "--path", "/open/x", "--json"]);
    let check: Value = serde_json::from_str(&check.expect("a check")).expect("JSON");
    assert_eq!(
        (&check["Allowed"], &check["Weft"]["rule"]),
        (&true.into(), &"intention * -> web, permission 1: allow".into())
    );

    // And back: one intention under a default that denies.
    decide(a, &key, &["allow", "*", "cache"]);
    wait_for("redis is let through", EFFECT_DEADLINE, || pings(b));
    decide(a, &key, &["delete", "*", "web"]);
    answers(b, 403);
    let (_, _, body) = status(b, &[], "/");
    assert!(body.contains("the default policy is deny"), "{body}");
    decide(b, &key, &["default", "allow"]);
    answers(b, 200);
    answers(a, 200);
}

#[test]
fn a_policy_outlives_all_restarts_and_the_host_where_it_was_said() {
    let Some((fleet, _parts, key)) = raise(&["a", "b", "c", "d"]) else { return };
    let hosts = ["a", "b", "c"];
    decide(&fleet["d"], &key, &["deny", "*", "web"]);
    answers(&fleet["b"], 403);

    // The host where it was said leaves, and its disk is gone.
    fleet["d"].stop_agent();
    fs::remove_dir_all(fleet["d"].data_dir()).expect("the disk of d");
    weft(&fleet["b"], &["force-leave", "d", "--prune"]).expect("force-leave");
    answers(&fleet["b"], 403);
    // So does the issuer's, which carries whatever holds.
    fleet["a"].stop_agent();
    wait_for("somebody carries the policy", CARE_DEADLINE, || {
        let logs = ["b", "c"].map(|host| fleet[host].agent_log_text());
        if logs.iter().any(|log| log.contains("no other host carries this policy")) {
            Ok(())
        } else {
            Err("nobody".into())
        }
    });
    fleet["a"].start_agent();

    // All agents at once: nobody is there to tell the others.
    for host in hosts {
        fleet[host].stop_agent();
    }
    for host in hosts {
        fleet[host].spawn_agent();
    }
    hosts.iter().for_each(|host| fleet[host].await_agent());
    fleet.all_alive(&hosts);
    fleet["b"].sees_passing("web", &["a"]);
    // Beyond the floors that void what the last start said.
    holds_for("the policy holds", Duration::from_secs(15), || match status(&fleet["b"], &[], "/") {
        (403, _, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A host that has lost everything, and one that is new, learn it from the others.
    let d = &fleet["d"];
    d.enrol(&fleet["a"]).expect("enrolment");
    d.start_agent();
    wait_for("the new d knows the policy", CARE_DEADLINE, || {
        let list = weft(d, &["intention", "list"]).stdout;
        if list.contains("deny") { Ok(()) } else { Err(list) }
    });
    decide(d, &key, &["delete", "*", "web"]);
    answers(&fleet["b"], 200);
}

#[test]
fn nobody_but_an_operator_of_this_cluster_decides() {
    let Some((fleet, _parts, key)) = raise(&["a", "b"]) else { return };
    let (a, b) = (&fleet["a"], &fleet["b"]);
    // Another CA of the same name.
    let stranger = b.folder().join("stranger");
    let made = ["ca", "init", "--data-dir", text(&stranger), "--cluster", "proving", "--node", "b"];
    b.run(WEFT, made).expect("another CA");
    let (foreign, mine) = (b.folder().join("foreign.pem"), operator(a, "berta"));
    let made = ["ca", "operator", "anna", "--data-dir", text(&stranger), "--out", text(&foreign)];
    b.run(WEFT, made).expect("another CA's operator");
    let refused = weft(b, &["intention", "deny", "*", "web", "--operator", text(&foreign)]);
    assert!(!refused.ok && refused.stderr.contains("operator's certificate is not accepted"), "{}", refused.stderr);
    assert!(b.agent_log_text().contains("a policy that was brought to this host is refused"));

    // Consul's way, and a signed one that was changed.
    let put = |path: &str, body: &str| {
        let (socket, url) = (b.folder().join("weft.sock"), format!("http://localhost{path}"));
        ask(b, &["--unix-socket", text(&socket), "-X", "PUT", "-d", body, &url])
    };
    let answer = put("/v1/connect/intentions/exact?source=web&destination=cache", r#"{"Action": "allow"}"#);
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("operator's signature"), "{}", answer.body);
    assert_eq!(put("/v1/weft/policy", r#"{"Policy": "AQID"}"#).status, 400);
    answers(b, 200);

    // An operator of this one.
    decide(b, &mine, &["deny", "*", "web"]);
    answers(a, 403);
    decide(a, &key, &["allow", "*", "web"]);
    answers(b, 200);
    let left = weft(b, &["intention", "allow", "*", "web"]);
    assert!(!left.ok && left.stderr.contains("WEFT_OPERATOR"), "{}", left.stderr);
}

/// The status of a request to `web` by a program of that user, and what Redis says to it.
fn as_user(host: &Host, uid: &str) -> (String, bool) {
    let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let user = [reuid.as_str(), regid.as_str(), "--clear-groups", "--"];
    let curl =
        ["curl", "--silent", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://web.mesh.internal/"];
    let ping = ["redis-cli", "-h", "cache.mesh.internal", "ping"];
    let status = host.run("setpriv", [&user[..], &curl].concat()).stdout;
    let pong = host.run("setpriv", [&user[..], &ping].concat()).stdout.trim() == "PONG";
    (status, pong)
}

#[test]
fn of_two_services_of_one_host_one_is_let_through_and_the_other_is_not() {
    let Some((fleet, _parts, key)) = raise(&["a", "b"]) else { return };
    let (a, b) = (&fleet["a"], &fleet["b"]);
    let callers = "[[service]]\nname = \"billing\"\nport = 9001\nuser = \"2001\"\n\
                   [[service]]\nname = \"reports\"\nport = 9002\nuser = \"2002\"\n";
    b.service("callers", callers);
    b.reload();
    let (let_through, refused) = (("200".to_owned(), true), ("403".to_owned(), false));
    for uid in ["2001", "2002", "2003"] {
        assert_eq!(as_user(b, uid), let_through, "{uid}");
    }
    for service in ["web", "cache"] {
        decide(a, &key, &["deny", "*", service]);
        decide(a, &key, &["allow", "billing", service]);
    }
    // 2001 is billing, 2002 reports, and nobody knows 2003.
    for (uid, expected) in [("2001", &let_through), ("2002", &refused), ("2003", &refused)] {
        wait_for(&format!("{uid} gets {expected:?}"), EFFECT_DEADLINE, || match as_user(b, uid) {
            found if found == *expected => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }
    let denied = |source: &str| a.metric("weft_calls_denied_total", &format!("source=\"{source}\""));
    assert!(denied("reports") >= 2.0 && denied("anonymous") >= 2.0);
    let metrics = a.curl("http://127.0.0.1:8500/metrics").expect("/metrics");
    assert!(!metrics.contains("source=\"billing\""), "billing was denied:\n{metrics}");
    decide(b, &key, &["allow", "reports", "web"]);
    wait_for("requests of reports are let through", EFFECT_DEADLINE, || match as_user(b, "2002") {
        (status, false) if status == "200" => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn a_service_that_is_open_beyond_loopback_is_named_and_the_rule_that_is_printed_closes_it() {
    let Some(fleet) = Fleet::raise(&["a", "b"]) else { return };
    let (a, b) = (&fleet["a"], &fleet["b"]);
    a.service("web", WEB);
    let _nginx = parts::nginx(a, "web", "0.0.0.0:8081", "a");
    fleet.mesh(&["a", "b"]);
    b.sees_passing("web", &["a"]);
    let closed = weft(b, &["check", "intentions"]).expect("weft check intentions");
    assert!(closed.contains("No service of this host is open beyond loopback"), "{closed}");
    let direct = format!("http://{}:8081/", a.address());
    assert!(b.curl(&direct).ok, "the service is open to other hosts");
    let open = weft(a, &["check", "intentions"]).expect("weft check intentions");
    assert!(open.contains("0.0.0.0:8081"), "{open}");
    let rule: Vec<&str> = open.lines().filter(|line| line.starts_with("nft ")).collect();
    assert_eq!(rule.len(), 3, "{open}");
    a.run("sh", ["-c", &rule.join("\n")]).expect("the rule as it is printed");
    assert!(!b.run("curl", ["-s", "--max-time", "2", &direct]).ok, "the rule closes the port to other hosts");
    answers(b, 200);
    answers(a, 200);
}
