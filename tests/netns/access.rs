//! Who may use a host's API: reading is open to programs of the host; what changes something takes the socket, as root or its
//! group, or a token whose role covers it. What was done and what was refused stands in the audit log. Beyond loopback there
//! is no API without TLS and a token.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::answer::{Answer, ask};
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::host::Host;
use crate::process::{Done, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const SHOP: &str = "[[service]]\nname = \"shop\"\nport = 8080\nprotocol = \"http\"\n";
const API: &str = "http://127.0.0.1:8500";
/// The audit log is written beside the answer.
const WRITTEN_DEADLINE: Duration = Duration::from_secs(5);
const TRAFFIC_DEADLINE: Duration = Duration::from_secs(10);

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `weft VERB... --data-dir`, as root.
#[track_caller]
fn files(host: &Host, words: &[&str]) -> Done {
    let data = host.data_dir();
    host.run(WEFT, [words, &["--data-dir", text(&data)]].concat())
}

/// Makes a token; the file that holds it.
#[track_caller]
fn token(host: &Host, name: &str, more: &[&str]) -> PathBuf {
    let made = files(host, &[&["acl", "create", name], more].concat()).expect("weft acl create");
    let path = host.folder().join(format!("{name}.token"));
    fs::write(&path, made).expect("the token's file");
    path
}

fn header(token: &Path) -> String {
    format!("X-Consul-Token: {}", fs::read_to_string(token).expect("the token").trim())
}

fn service(name: &str, more: &str) -> String {
    format!(r#"{{"Name": "{name}", "Port": 9001{more}}}"#)
}

/// A PUT over loopback.
#[track_caller]
fn put(host: &Host, path: &str, body: &str, headers: &[&str]) -> Answer {
    let url = format!("{API}{path}");
    let mut words = vec!["-X", "PUT", "-d", body];
    headers.iter().for_each(|header| words.extend(["-H", header]));
    words.push(&url);
    ask(host, &words)
}

/// A PUT over the socket as this user, with these groups beside its own; `Err` is why curl did not get through.
fn by_socket(host: &Host, uid: &str, groups: &str, path: &str) -> Result<u16, String> {
    let socket = host.folder().join("weft.sock");
    let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    let url = format!("http://localhost{path}");
    let mut words = vec![reuid.as_str(), regid.as_str(), groups.as_str(), "--", "curl", "--silent", "--show-error"];
    words.extend(["--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20", "-X", "PUT"]);
    words.extend(["--unix-socket", text(&socket), url.as_str()]);
    let done = host.run("setpriv", words);
    if done.ok { Ok(done.stdout.parse().expect("a status")) } else { Err(done.stderr) }
}

#[track_caller]
fn assert_refused(answer: &Answer, part: &str) {
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains(part), "{part:?} is not in {}", answer.body);
}

#[test]
fn what_changes_something_takes_the_socket_or_a_token_that_covers_it_and_is_in_the_audit_log() {
    let Some(fleet) = Fleet::raise(&["a", "c"]) else { return };
    let a = &fleet["a"];
    a.service("shop", SHOP);
    let _shop = Backend::start(a, 8080);
    fleet.mesh(&["a", "c"]);
    fleet["c"].sees_passing("shop", &["a"]);
    a.api("/v1/catalog/services").expect("reading is open");

    // Nobody, whoever it is.
    let refused = put(a, "/v1/agent/service/register", &service("web-1", ""), &[]);
    assert_refused(&refused, "Permission denied: this takes a token");
    assert_refused(&put(a, "/v1/agent/maintenance?enable=true", "", &[]), "weft acl create");
    assert_eq!(ask(a, &[&format!("{API}/v1/agent/leave")]).status, 405, "no write, and not in the log");
    assert_refused(&put(a, "/v1/agent/leave?token=x", "", &[]), "URLs are kept in logs");

    by_the_socket(&fleet, a);
    let deploy = token(a, "deploy", &["--role", "register", "--service", "web-*"]);
    by_a_token(a, &deploy);
    let deleted = header(&deploy);
    files(a, &["acl", "delete", "deploy"]).expect("weft acl delete");
    assert_refused(&put(a, "/v1/agent/service/deregister/web-1", "", &[&deleted]), "ACL not found");

    let boss = token(a, "boss", &["--role", "operator", "--ttl", "1h"]);
    for (path, status) in [("/v1/agent/service/deregister/web-1", 200), ("/v1/agent/reload", 200)] {
        let bearer = header(&boss).replace("X-Consul-Token: ", "Authorization: Bearer ");
        assert_eq!(put(a, path, "", &[&bearer]).status, status, "{path}");
    }
    let listed = files(a, &["acl", "list"]).expect("weft acl list");
    assert!(listed.contains("boss") && !listed.contains("deploy") && !listed.contains("weft-acl-"), "{listed}");
    audited(a);
    reported(&fleet);
}

fn by_the_socket(fleet: &Fleet, a: &Host) {
    // The way to it is the tests' own, which nobody else may walk.
    for folder in [fleet.folder(), a.folder()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).expect("permissions");
    }
    let on = "/v1/agent/maintenance?enable=true&reason=proving";
    assert_eq!(by_socket(a, "0", "", on), Ok(200), "root");
    let off = "/v1/agent/maintenance?enable=false";
    // The socket is root's and of root's group here, as it is weft's and of the group weft where systemd runs the agent.
    assert_eq!(by_socket(a, "2002", "0", off), Ok(200), "a member of the group");
    let stranger = by_socket(a, "2001", "", on).expect_err("it may not connect");
    assert!(stranger.contains("onnect"), "{stranger}");
    let socket = a.folder().join("weft.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("permissions");
    assert_eq!(by_socket(a, "2001", "", on), Ok(403), "a socket that somebody opened to all makes nobody an operator");
    assert_eq!(by_socket(a, "0", "", off), Ok(200));
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).expect("permissions");
}

fn by_a_token(a: &Host, deploy: &Path) {
    let register = |name: &str| {
        let words =
            ["--api", "127.0.0.1:8500", "--api-token", text(deploy), "register", "--name", name, "--port", "9001"];
        a.run(WEFT, words)
    };
    register("web-1").expect("a service that the token covers");
    let refused = register("billing");
    assert!(!refused.ok && refused.stderr.contains("does not cover the service billing"), "{}", refused.stderr);
    let header = header(deploy);
    let put = |path: &str, body: &str| put(a, path, body, &[&header]);
    let with_check = service("web-2", r#", "Check": {"CheckID": "beat", "TTL": "60s"}"#);
    assert_eq!(put("/v1/agent/service/register", &with_check).status, 200);
    for _ in 0..3 {
        assert_eq!(put("/v1/agent/check/pass/beat", "").status, 200);
    }
    assert_eq!(put("/v1/agent/service/maintenance/web-1?enable=true", "").status, 200);
    assert_eq!(put("/v1/agent/service/maintenance/web-1?enable=false", "").status, 200);
    let refused = [
        ("/v1/agent/service/register", service("billing", "")),
        ("/v1/agent/service/register", service("web-3", r#", "ID": "shop""#)),
        ("/v1/agent/service/deregister/shop", String::new()),
        ("/v1/agent/maintenance?enable=true", String::new()),
        ("/v1/agent/leave", String::new()),
        ("/v1/weft/policy", r#"{"Policy": "AQID"}"#.to_owned()),
    ];
    for (path, body) in refused {
        assert_refused(&put(path, &body), "(register web-*) does not cover");
    }
    let key = r#"{"Key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}"#;
    assert_refused(&put("/v1/operator/keyring", key), "the gossip keyring is changed over");
}

fn entries(host: &Host) -> Vec<Value> {
    let printed = files(host, &["audit", "--json", "--since", "1h"]).expect("weft audit");
    printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn audited(a: &Host) {
    let all = wait_for("the last write is in the audit log", WRITTEN_DEADLINE, || {
        let all = entries(a);
        let last = all.last().map(|entry| entry["subject"].as_str().unwrap_or_default().to_owned());
        if last.as_deref() == Some("reload") { Ok(all) } else { Err(format!("{last:?}")) }
    });
    let find = |part: &str, outcome: &str| {
        let fits = |entry: &&Value| {
            entry["subject"].as_str().is_some_and(|subject| subject.contains(part)) && entry["outcome"] == outcome
        };
        all.iter().find(fits).unwrap_or_else(|| panic!("no {outcome} {part:?} in {all:#?}"))
    };
    let registered = find("register web-1 of the service web-1", "done");
    assert_eq!((&registered["via"], &registered["token"]), (&"http".into(), &"deploy".into()), "{registered}");
    assert_eq!(registered["uid"], 0, "the kernel says whose the connection is: {registered}");
    let refused = find("register billing of the service billing", "refused");
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("does not cover")), "{refused}");
    let by_root = find("maintenance of this host on", "done");
    assert_eq!((&by_root["via"], &by_root["uid"]), (&"socket".into(), &0.into()), "{by_root}");
    assert_eq!(by_root["program"], "curl", "{by_root}");
    assert_eq!(find("maintenance of this host off", "done")["uid"], 2002);
    let stranger = all.iter().find(|entry| entry["uid"] == 2001).expect("the stranger");
    assert_eq!((&stranger["outcome"], &stranger["status"]), (&"refused".into(), &403.into()), "{stranger}");
    assert_eq!(find("token deploy (register web-*)", "done")["path"], "acl create");
    let beats = all.iter().filter(|entry| entry["subject"] == "check beat is passing").count();
    assert_eq!(beats, 1, "a report that says the same again changes nothing");
    let keyring = all.iter().find(|entry| entry["path"] == "/v1/operator/keyring").expect("the keyring");
    assert_eq!((&keyring["outcome"], &keyring["token"]), (&"refused".into(), &"deploy".into()), "{keyring}");
    assert!(all.iter().all(|entry| entry["method"] != "GET"), "reading is no change");
    let log = fs::read_to_string(a.data_dir().join("audit.log")).expect("the audit log");
    assert!(!log.contains("weft-acl-") && !log.contains("AQEB"), "no secret is in it");
    let table = files(a, &["audit", "-n", "2"]).expect("weft audit");
    assert_eq!(table.lines().count(), 3, "{table}");
}

/// `weft report access`, of the host that serves.
fn reported(fleet: &Fleet) {
    fleet["c"].curl("http://shop.mesh.internal/head").expect("a call");
    let socket = fleet["a"].folder().join("weft.sock");
    wait_for("the call is in the report", TRAFFIC_DEADLINE, || {
        let words = ["--api", text(&socket), "report", "access", "shop", "--json"];
        let report: Value =
            serde_json::from_str(&fleet["a"].run(WEFT, words).expect("weft report access")).expect("JSON");
        let may = report["may"].as_array().expect("pairs");
        let anonymous = may.iter().find(|pair| pair["source"].is_null() && pair["destination"] == "shop");
        assert_eq!(anonymous.expect("a verdict")["verdict"], "allow");
        let did = report["did"].as_array().expect("calls");
        let called = did.iter().any(|call| call["node"] == "c" && call["calls"] == 1 && call["source"].is_null());
        if called { Ok(()) } else { Err(report.to_string()) }
    });
}

/// `weft.toml` with more under `[api]`.
fn api_section(host: &Host, more: &str) {
    let path = host.folder().join("weft.toml");
    let whole = fs::read_to_string(&path).expect("weft.toml");
    let (before, after) = whole.split_once("[api]\n").expect("[api]");
    let socket = after.lines().find(|line| line.starts_with("socket")).expect("the socket");
    fs::write(&path, format!("{before}[api]\n{more}{socket}\n")).expect("weft.toml");
}

/// Starts an agent that must not start; what it says.
#[track_caller]
fn does_not_start(host: &Host) -> String {
    let (config, data) = (host.folder().join("weft.toml"), host.data_dir());
    let done = host.run(WEFT, ["agent", "--config", text(&config), "--data-dir", text(&data)]);
    assert!(!done.ok, "it started");
    done.stdout + &done.stderr
}

#[test]
fn beyond_loopback_the_api_is_not_served_without_tls_and_a_token() {
    let Some(fleet) = Fleet::raise(&["a"]) else { return };
    let a = &fleet["a"];
    a.found_mesh();
    let listen = format!("listen = \"{}:8500\"\n", a.address());
    api_section(a, &listen);
    let said = does_not_start(a);
    assert!(said.contains("there is no TLS") && said.contains("set tls_cert and tls_key under [api]"), "{said}");

    let made = rcgen::generate_simple_self_signed([a.address()]).expect("a certificate");
    let (cert, key) = (a.folder().join("api.pem"), a.folder().join("api.key"));
    fs::write(&cert, made.cert.pem()).expect("the certificate");
    fs::write(&key, made.signing_key.serialize_pem()).expect("the key");
    let tls = format!("{listen}tls_cert = {cert:?}\ntls_key = {key:?}\n");
    api_section(a, &format!("{tls}writes = \"open\"\n"));
    let said = does_not_start(a);
    assert!(said.contains("while api.listen is not on loopback"), "{said}");
    api_section(a, &tls);
    let said = does_not_start(a);
    assert!(said.contains("there is no token: make one first (weft acl create"), "{said}");

    let reader = token(a, "prometheus", &["--role", "read"]);
    a.start_agent();
    let url = format!("https://{}:8500/v1/catalog/services", a.address());
    let (header, trust) = (header(&reader), ["--cacert", text(&cert)]);
    assert_refused(&ask(a, &[&trust[..], &[&url]].concat()), "Permission denied: this takes a token");
    assert_eq!(ask(a, &[&trust[..], &["-H", &header, &url]].concat()).status, 200);
    let reload = format!("https://{}:8500/v1/agent/reload", a.address());
    let refused = ask(a, &[&trust[..], &["-X", "PUT", "-H", &header, &reload]].concat());
    assert_refused(&refused, "(read) does not cover changes");
    let plain = a.run("curl", ["--silent", "--max-time", "3", &url.replace("https", "http")]);
    assert!(!plain.ok, "nothing in the clear: {}", plain.stdout);
    files(a, &["acl", "delete", "prometheus"]).expect("weft acl delete");
    assert_refused(&ask(a, &[&trust[..], &["-H", &header, &url]].concat()), "ACL not found");
    let socket = a.folder().join("weft.sock");
    let local = ask(a, &["--unix-socket", text(&socket), "http://localhost/v1/catalog/services"]);
    assert_eq!(local.status, 200, "the host's own operators have the socket");
    a.stop_agent();
}
