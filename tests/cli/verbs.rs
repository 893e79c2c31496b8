//! Each verb against an agent of canned answers: what it asks, what it prints as text and as JSON, how it ends. What is
//! printed is an interface, so it is compared byte for byte with `snapshots/`; WEFT_SNAPSHOTS=write writes them anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::canned;
use crate::fake::{Agent, Canned};

/// The binary, with nothing of the surroundings that could change what it prints.
pub(crate) fn weft(agent: &Agent, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(words).env("WEFT_API", &agent.address).env_remove("NO_COLOR").env("TERM", "xterm");
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// One run as a snapshot shows it.
fn shown(agent: &Agent, words: &[&str], output: &Output) -> String {
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (text(stdout), text(stderr));
    let quoted = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
    let words: Vec<String> = words.iter().map(quoted).collect();
    let mut shown = format!("$ weft {}\n{stdout}", words.join(" "));
    if !stderr.is_empty() {
        shown.push_str(&format!("[standard error]\n{stderr}"));
    }
    shown.push_str(&format!("[exit code {}]\n", status.code().unwrap_or(-1)));
    let asked = agent.asked();
    if !asked.is_empty() {
        shown.push_str(&format!("[asked]\n{asked}"));
    }
    shown.replace(&agent.address, "AGENT")
}

/// Runs each command line against an agent of its own, and holds all of it against `snapshots/NAME.txt`.
#[track_caller]
pub(crate) fn assert_snapshot(name: &str, answers: &[(&str, Vec<Canned>)], command_lines: &[&[&str]]) {
    let mut runs = Vec::new();
    for words in command_lines {
        let agent = Agent::start(answers);
        let output = weft(&agent, words).output().expect("the weft binary");
        runs.push(shown(&agent, words, &output));
    }
    let found = runs.join("\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("WEFT_SNAPSHOTS").is_some_and(|value| value == "write") {
        fs::write(&path, &found).expect("the snapshot");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} differs; WEFT_SNAPSHOTS=write takes this over:\n{found}", path.display());
}

pub(crate) fn once(body: &str) -> Vec<Canned> {
    vec![Canned::ok(body)]
}

fn done() -> Vec<Canned> {
    once("")
}

fn cluster() -> Vec<(&'static str, Vec<Canned>)> {
    vec![
        ("GET /v1/weft/status", once(canned::STATUS)),
        ("GET /v1/agent/members", once(&canned::members())),
        ("GET /v1/weft/services", once(&canned::services())),
        ("GET /v1/agent/checks", once(canned::CHECKS)),
    ]
}

#[test]
fn status() {
    assert_snapshot("status", &cluster(), &[&["status"], &["status", "--json"]]);
}

#[test]
fn status_of_a_mesh_that_is_well() {
    let answers = [
        ("GET /v1/weft/status", once(canned::STATUS)),
        ("GET /v1/agent/members", once(&canned::members_well())),
        ("GET /v1/weft/services", once(&canned::services_well())),
        ("GET /v1/agent/checks", once(canned::CHECKS_WELL)),
    ];
    assert_snapshot("status_well", &answers, &[&["status"], &["status", "--color", "always"]]);
}

#[test]
fn members() {
    assert_snapshot("members", &cluster(), &[&["members"], &["members", "--json", "--state", "failed"]]);
}

#[test]
fn services() {
    let one = canned::services_well();
    let answers = [
        ("GET /v1/weft/services", once(&canned::services())),
        ("GET /v1/weft/services?name=billing", once(&one)),
        ("GET /v1/weft/services?name=nothing", once("[]")),
        ("GET /v1/weft/status", once(canned::STATUS)),
    ];
    let lines: &[&[&str]] = &[
        &["services"],
        &["services", "--color", "always"],
        &["services", "v1.billing.mesh.internal"],
        &["services", "billing", "--json"],
        &["services", "nothing"],
    ];
    assert_snapshot("services", &answers, lines);
}

#[test]
fn resolve() {
    let answers = [("GET /v1/weft/resolve?name=billing", once(canned::RESOLVED))];
    assert_snapshot("resolve", &answers, &[&["resolve", "billing"], &["resolve", "billing", "--json"]]);
}

#[test]
fn explain() {
    let answers = [
        ("GET /v1/weft/explain?name=billing", once(canned::EXPLAIN)),
        ("GET /v1/weft/explain?name=v9.legacy", once(canned::EXPLAIN_NOWHERE)),
        (
            "GET /v1/weft/explain?name=nothing",
            vec![Canned::refused("404 Not Found", "no service named nothing is known")],
        ),
        ("GET /v1/weft/status", once(canned::STATUS)),
    ];
    let lines: &[&[&str]] = &[
        &["explain", "billing.mesh.internal"],
        &["explain", "billing", "--json"],
        &["explain", "v9.legacy"],
        &["explain", "nothing"],
    ];
    assert_snapshot("explain", &answers, lines);
}

#[test]
fn whoami() {
    let billing = r#"{"service":"billing","client":"spiffe://prod/service/billing","uid":1001,
                      "cgroup":"/system.slice/billing.service","why":"it is a program of billing"}"#;
    let nobody = r#"{"service":null,"client":"spiffe://prod/anonymous","uid":null,"cgroup":null,
                     "why":"the kernel does not find its socket"}"#;
    let answers = [("GET /v1/weft/whoami", vec![Canned::ok(billing)])];
    assert_snapshot("whoami", &answers, &[&["whoami"], &["whoami", "--json"]]);
    let answers = [("GET /v1/weft/whoami", vec![Canned::ok(nobody)])];
    assert_snapshot("whoami_nobody", &answers, &[&["whoami"]]);
}

#[test]
fn top() {
    let answers = [
        ("GET /v1/weft/status", once(canned::STATUS)),
        ("GET /v1/weft/traffic", vec![Canned::ok(&canned::traffic(100)), Canned::ok(&canned::traffic(110))]),
    ];
    let lines: &[&[&str]] = &[
        &["top", "--once", "--interval", "100ms"],
        &["top", "--once", "--interval", "100ms", "--json"],
        &["top", "--interval", "1ms"],
    ];
    assert_snapshot("top", &answers, lines);
}

#[test]
fn register() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a service file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let toml = path(
        "pg.toml",
        "[[service]]\nname = \"pg\"\nport = 5432\ntags = [\"primary\"]\n[[service.check]]\ntcp = \"127.0.0.1:5432\"\n\
         [[service]]\nname = \"web\"\nid = \"web-2\"\nport = 8080\nprotocol = \"http\"\n",
    );
    let json = path("web.json", r#"{"Service": {"Name": "web", "ID": "web-1", "Port": 80}}"#);
    let put = "PUT /v1/agent/service/register?replace-existing-checks=true";
    let answers = [(put, done())];
    let run = |answers: &[(&str, Vec<Canned>)], words: &[&str]| {
        let agent = Agent::start(answers);
        let output = weft(&agent, words).output().expect("the weft binary");
        (output.status.code(), text(&output.stdout), text(&output.stderr), agent.asked())
    };
    let (code, out, _, asked) = run(&answers, &["register", &toml]);
    let expected = "pg is registered; it is announced after its first passing check\n\
                    web-2, an instance of web, is registered\nTo see it: weft services pg\n";
    assert_eq!((code, out.as_str()), (Some(0), expected));
    assert_eq!(asked.matches(put).count(), 2);
    assert!(asked.contains("\"tcp\":\"127.0.0.1:5432\""), "{asked}");
    let (_, _, _, asked) = run(&answers, &["register", &json]);
    assert_eq!(asked, format!("{put}\n{{\"ID\":\"web-1\",\"Name\":\"web\",\"Port\":80}}\n"));
    let refused = [(put, vec![Canned::ok(""), Canned::refused("400 Bad Request", "port 8080 is the agent's own")])];
    let (code, _, err, _) = run(&refused, &["register", &toml]);
    assert_eq!(code, Some(2));
    let expected = "error: web-2 is not registered: port 8080 is the agent's own; before it were registered: pg\n";
    assert_eq!(err, expected);

    let words =
        "register --name web --port 8080 --tag v2 --meta team=pay --check http=http://127.0.0.1:8080/ --interval 2s";
    let words: Vec<&str> = words.split(' ').collect();
    let lines: &[&[&str]] = &[&words, &[&words[..], &["--json"]].concat(), &["register", "--name", "web"]];
    assert_snapshot("register", &answers, lines);
}

#[test]
fn deregister() {
    let answers = [
        ("PUT /v1/agent/service/deregister/billing", done()),
        ("PUT /v1/agent/service/deregister/a.b", done()),
        (
            "PUT /v1/agent/service/deregister/of-a-file",
            vec![Canned::refused(
                "400 Bad Request",
                "of-a-file comes from services.d/x.toml:1; remove it there and reload",
            )],
        ),
        ("GET /v1/agent/services", once(r#"{"billing":{},"a.b":{}}"#)),
        ("GET /v1/weft/status", once(canned::STATUS)),
    ];
    let lines: &[&[&str]] = &[
        &["deregister", "billing"],
        &["deregister", "billing.mesh.internal", "--json"],
        &["deregister", "a.b"],
        &["deregister", "of-a-file"],
    ];
    assert_snapshot("deregister", &answers, lines);
}

#[test]
fn maint() {
    let answers = [
        ("PUT /v1/agent/maintenance?enable=true&reason=new%20disks", done()),
        ("PUT /v1/agent/maintenance?enable=false", done()),
        ("PUT /v1/agent/service/maintenance/billing?enable=true", done()),
        ("GET /v1/agent/checks", once(canned::CHECKS)),
    ];
    let lines: &[&[&str]] = &[
        &["maint", "on", "--reason", "new disks"],
        &["maint", "off", "--json"],
        &["maint", "on", "billing"],
        &["maint", "status"],
        &["maint", "status", "web"],
        &["maint", "status", "--json"],
    ];
    assert_snapshot("maint", &answers, lines);
}

#[test]
fn join_leave_reload_check() {
    let nobody = "no host answers at 10.0.0.9:7946";
    let answers = [
        ("PUT /v1/agent/join/10.0.0.2%3A7946", done()),
        ("PUT /v1/agent/join/10.0.0.9", vec![Canned::refused("500 Internal Server Error", nobody)]),
        ("PUT /v1/agent/leave", done()),
        ("PUT /v1/agent/force-leave/old-01?prune", done()),
        ("PUT /v1/agent/force-leave/old-01", done()),
        ("PUT /v1/agent/reload", vec![Canned::refused("400 Bad Request", "weft.toml:3: unknown key `nmae`")]),
        ("PUT /v1/agent/check/fail/disk?note=1%25%20free", done()),
        ("PUT /v1/agent/check/pass/disk", done()),
    ];
    let lines: &[&[&str]] = &[
        &["join", "10.0.0.2:7946", "10.0.0.9"],
        &["join", "10.0.0.2:7946", "10.0.0.9", "--json"],
        &["join", "10.0.0.9"],
        &["leave"],
        &["leave", "--json"],
        &["force-leave", "old-01.node.mesh.internal", "--prune"],
        &["force-leave", "old-01", "--json"],
        &["reload"],
        &["check", "fail", "disk", "--note", "1% free"],
        &["check", "pass", "disk", "--json"],
    ];
    assert_snapshot("orders", &answers, lines);
}

#[test]
fn keyring() {
    let (old, new, missing) = ("90ab12cd34ef5678", "a4e61f9b7d20c853", "0000000000000000");
    let path = "/v1/operator/keyring";
    let told = canned::keyring_installing();
    let lists = once(&format!("[{{\"Keys\":{{}},\"Weft\":{told}}}]"));
    let done = |report: &str| once(&format!("{{\"Weft\":{report}}}"));
    let held = "a4e61f9b7d20c853 is the primary key of a, b, and was not removed; make another key the primary first: weft \
                keyring use FINGERPRINT";
    let incomplete = "730dfa2d5d102701 is not installed on db-01; it will be as soon as they meet any other host";
    let answers = [
        (format!("GET {path}"), lists),
        (format!("POST {path}"), vec![Canned::refused("500 Internal Server Error", incomplete).beside("Weft", &told)]),
        (format!("PUT {path}"), done(canned::KEYRING_SWITCHED)),
        (format!("PUT {path}?force"), done(canned::KEYRING_SWITCHED)),
        (format!("DELETE {path}"), vec![Canned::refused("409 Conflict", held)]),
        (
            format!("DELETE {path}?force"),
            vec![Canned::refused("404 Not Found", "no key 0000000000000000 is in the keyring")],
        ),
    ];
    let answers: Vec<(&str, Vec<Canned>)> =
        answers.iter().map(|(asked, canned)| (asked.as_str(), canned.clone())).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    fs::write(&file, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n").expect("a key file");
    let lines: &[&[&str]] = &[
        &["keyring", "list"],
        &["keyring", "list", "--json"],
        &["keyring", "install", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="],
        &["keyring", "install", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "--json"],
        &["keyring", "install", "AQEBAQ=="],
        &["keyring", "install"],
        &["keyring", "use", new],
        &["keyring", "use", new, "--force", "--json"],
        &["keyring", "use", "4711"],
        &["keyring", "remove", old],
        &["keyring", "remove", missing, "--force"],
    ];
    assert_snapshot("keyring", &answers, lines);

    // A key that comes by a file or by standard input is asked for in the same words, and nothing is remarked.
    let agent = Agent::start(&[("POST /v1/operator/keyring", done(canned::KEYRING_SWITCHED))]);
    let run = |words: &[&str], stdin: Stdio| weft(&agent, words).stdin(stdin).output().expect("the weft binary");
    let by_file = run(&["keyring", "install", "--file", file.to_str().expect("UTF-8")], Stdio::null());
    let by_stdin = run(&["keyring", "install", "-"], Stdio::from(fs::File::open(&file).expect("the key file")));
    for output in [&by_file, &by_stdin] {
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
        assert!(
            text(&output.stdout).starts_with("730dfa2d5d102701 is installed on 3 hosts\n"),
            "{}",
            text(&output.stdout)
        );
    }
    let generated = run(&["keyring", "install", "--generate"], Stdio::null());
    assert!(generated.status.success());
    let asked = agent.asked();
    let bodies: Vec<&str> = asked.lines().filter(|line| line.starts_with('{')).collect();
    assert!(bodies[0].contains("AQEBAQ") && bodies[0] == bodies[1] && bodies[2] != bodies[0], "{asked}");
    let key = bodies[2].trim_start_matches("{\"Key\":\"").trim_end_matches("\"}");
    let shown = text(&generated.stdout) + &text(&generated.stderr);
    assert!(key.len() == 44 && !shown.contains(key), "a generated key is shown nowhere");
}

#[test]
fn watch_once() {
    let both = canned::health(&[("web-01", "passing"), ("web-02", "warning")]);
    let answers = [
        ("GET /v1/health/service/billing?stale", vec![Canned::ok(&both).with("X-Consul-Index: 7")]),
        (
            "GET /v1/health/service/billing?stale&passing&tag=blue&tag=v2",
            vec![Canned::ok("[]").with("X-Consul-Index: 7")],
        ),
        ("GET /v1/weft/status", once(canned::STATUS)),
    ];
    let lines: &[&[&str]] = &[
        &["watch", "billing", "--once"],
        &["watch", "v2.billing", "--once", "--passing", "--tag", "blue"],
        &["watch", "billing", "--once", "--", "/bin/cat"],
        &["watch", "billing", "--once", "--", "/bin/false"],
        &["watch", "billing", "--once", "--", "/nonexistent/program"],
        &["watch", "web-01.node", "--once"],
    ];
    assert_snapshot("watch", &answers, lines);
}

#[test]
fn history() {
    let dir = "tests/cli/history";
    let lines: &[&[&str]] = &[
        &["history", "--data-dir", dir],
        &["history", "--data-dir", dir, "--kind", "member,health", "--node", "web-02"],
        &["history", "--data-dir", dir, "--service", "billing", "-n", "2", "--json"],
        &["history", "--data-dir", dir, "--since", "1s"],
        &["history", "--data-dir", "/nonexistent"],
        &["history", "--kind", "weather"],
    ];
    assert_snapshot("history", &[], lines);
}

#[test]
fn tap() {
    let full = "16 taps are open on this host, as many as there may be; end one of them and try again";
    let filtered = "GET /v1/weft/tap?service=billing&caller=web&path=%2Fv1%2F&method=GET&code=5xx&errors=true&direction=in\
                    &sample=10&limit=4";
    let answers = [
        ("GET /v1/weft/tap", once(&canned::calls())),
        ("GET /v1/weft/tap?limit=4", once(&canned::calls())),
        (filtered, once(&canned::calls())),
        ("GET /v1/weft/tap?errors=true", vec![Canned::refused("429 Too Many Requests", full)]),
        ("GET /v1/weft/status", once(canned::STATUS)),
    ];
    let lines: &[&[&str]] = &[
        &["tap", "--limit", "4"],
        &["tap", "--limit", "4", "--json"],
        &[
            "tap",
            "billing.mesh.internal",
            "--caller",
            "web",
            "--path",
            "/v1/",
            "--method",
            "GET",
            "--code",
            "5xx",
            "--errors",
            "--direction",
            "in",
            "--sample",
            "10",
            "--limit",
            "4",
        ],
        &["tap"],
        &["tap", "--errors"],
        &["tap", "v2.billing"],
        &["tap", "--code", "6xx"],
    ];
    assert_snapshot("tap", &answers, lines);
}

#[test]
fn names_for_completion() {
    let answers = [
        ("GET /v1/catalog/services", once(r#"{"billing":["v2"],"$(reboot)":[],"web":[]}"#)),
        ("GET /v1/agent/members", once(&canned::members())),
        ("GET /v1/agent/services", once(r#"{"billing":{}}"#)),
    ];
    let lines: &[&[&str]] =
        &[&["complete", "services"], &["complete", "nodes"], &["complete", "ids"], &["complete", "checks"]];
    assert_snapshot("complete", &answers, lines);
}

#[test]
fn an_agent_that_is_not_there_is_exit_code_three_for_every_verb() {
    let api = "/nonexistent/weft.sock";
    let lines = [
        "status",
        "members",
        "services",
        "explain x",
        "top --once",
        "tap",
        "whoami",
        "watch x",
        "deregister x",
        "maint on",
        "join x",
        "report access",
        "keyring list",
        "keyring install --generate",
        "reload",
        "plan -f tests/cli/files/billing.toml",
        "policy list",
    ];
    for line in lines {
        let words: Vec<&str> = line.split(' ').chain(["--api", api]).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_weft")).args(&words).output().expect("the weft binary");
        assert_eq!(output.status.code(), Some(3), "{line}");
        let told = text(&output.stderr);
        assert!(
            told.starts_with("error: no agent answers at /nonexistent/weft.sock") && told.contains("\n  next: "),
            "{told}"
        );
    }
}
