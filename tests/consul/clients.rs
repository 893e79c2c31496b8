//! Programs written for Consul, against an agent of Weft. What each does is in `clients/`; here they are run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::fleet::Fleet;
use crate::host::Host;
use crate::packages::{node_modules, python, victoria_metrics};
use crate::process::{Process, wait_for};

/// VictoriaMetrics looks for targets every second here, and scrapes every second.
const SCRAPED_DEADLINE: Duration = Duration::from_secs(30);

/// What the package gave, or the reason why the test cannot run, printed.
fn have<T>(package: Result<T, String>) -> Option<T> {
    let reason = match package {
        Ok(package) => return Some(package),
        Err(reason) => format!("this client cannot be had here: {reason}"),
    };
    assert!(std::env::var("WEFT_NETNS").as_deref() != Ok("require"), "{reason}");
    eprintln!("{reason}");
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consul/clients").join(name)
}

/// One host with an agent and a service from a file: VictoriaMetrics' own port, which needs no check.
fn agent() -> Option<Fleet> {
    let fleet = Fleet::raise(&["consul-01"])?;
    let host = &fleet["consul-01"];
    host.service("metrics", "[[service]]\nname = \"metrics\"\nport = 8428\ntags = [\"primary\", \"v1\"]\n");
    fleet.mesh(&["consul-01"]);
    host.sees_passing("metrics", &["consul-01"]);
    Some(fleet)
}

/// What a client shows to change something: a token that its operator made for it.
fn token(host: &Host) -> String {
    let data = host.data_dir();
    let words = ["acl", "create", "client", "--role", "operator", "--data-dir", text(&data)];
    host.run(env!("CARGO_BIN_EXE_weft"), words).expect("weft acl create").trim().to_owned()
}

/// Runs a client's script on the host to its end; its own assertions are the test's.
fn runs(host: &Host, program: &str, arguments: &[&str]) {
    print!("{}", host.run(program, arguments).expect(arguments[0]));
    host.assert_agent_runs();
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn py_consul_reads_the_catalog_health_and_waits() {
    let Some(python) = have(python()) else { return };
    let Some(fleet) = agent() else { return };
    runs(&fleet["consul-01"], text(&python), &[text(&script("py_consul.py")), "read"]);
}

#[test]
fn py_consul_registers_reports_maintains_and_deregisters() {
    let Some(python) = have(python()) else { return };
    let Some(fleet) = agent() else { return };
    let host = &fleet["consul-01"];
    runs(host, text(&python), &[text(&script("py_consul.py")), "write", &token(host)]);
}

fn runs_node(host: &Host, part: &str) {
    let Some(modules) = have(node_modules()) else { return };
    let path = format!("NODE_PATH={}", text(&modules));
    runs(host, "env", &[&path, "node", text(&script("npm_consul.js")), part, &token(host)]);
}

#[test]
fn npm_consul_reads_the_catalog_health_and_waits() {
    let Some(fleet) = agent() else { return };
    runs_node(&fleet["consul-01"], "read");
}

#[test]
fn npm_consul_registers_reports_maintains_watches_and_deregisters() {
    let Some(fleet) = agent() else { return };
    runs_node(&fleet["consul-01"], "write");
}

/// The targets of VictoriaMetrics that are up, by what Consul's discovery says of each.
fn targets(host: &Host) -> Result<Vec<Value>, String> {
    let done = host.curl("http://127.0.0.1:8428/api/v1/targets");
    if !done.ok {
        return Err(done.stderr);
    }
    let told: Value = serde_json::from_str(&done.stdout).map_err(|error| format!("{error}: {}", done.stdout))?;
    let active = told["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
    Ok(active.into_iter().filter(|target| target["health"] == "up").collect())
}

#[test]
fn victoria_metrics_discovers_targets_and_scrapes_them() {
    let Some(program) = have(victoria_metrics()) else { return };
    let Some(fleet) = agent() else { return };
    let host = &fleet["consul-01"];
    let mut command = host.command(program);
    command.arg(format!("-promscrape.config={}", text(&script("victoria-metrics.yml"))));
    command.args(["-promscrape.consulSDCheckInterval=1s", "-httpListenAddr=:8428", "-storageDataPath=vm"]);
    let _metrics = Process::start("victoria-metrics", &mut command, &host.folder().join("victoria-metrics.log"));
    let target = wait_for("VictoriaMetrics scrapes the service", SCRAPED_DEADLINE, || {
        targets(host)?.pop().ok_or_else(|| "no target is up".to_owned())
    });
    assert_eq!(target["scrapeUrl"], "http://10.77.0.1:8428/metrics");
    let told = |label: &str| target["discoveredLabels"][format!("__meta_consul_{label}")].clone();
    assert_eq!((told("service"), told("node")), ("metrics".into(), "consul-01".into()));
    assert_eq!((told("dc"), told("health")), ("proving".into(), "passing".into()));
    assert_eq!(told("tags"), ",primary,v1,");
    assert_eq!(target["labels"]["job"], "metrics");
    // The service goes: so does the target.
    std::fs::remove_file(host.folder().join("services.d/metrics.toml")).expect("the service file");
    host.reload();
    wait_for("the target is gone", SCRAPED_DEADLINE, || match targets(host)?.len() {
        0 => Ok(()),
        some => Err(format!("{some} targets")),
    });
}
