//! A mesh whose hosts know each other by IPv6 only: enrolment, gossip, mesh traffic and plain discovery. Both agents run
//! in one namespace, on two addresses of its loopback interface.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fleet::Fleet;
use crate::host::Host;
use crate::parts;
use crate::process::{Process, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const DEADLINE: Duration = Duration::from_secs(20);

/// Agent `number`: on fd00::N towards other hosts, on 127.0.0.N towards its own.
fn write_configuration(folder: &Path, number: u8, service: Option<&str>) -> PathBuf {
    let home = folder.join(format!("six-{number}"));
    std::fs::create_dir_all(home.join("services.d")).expect("a folder");
    // The namespace has the redirect rule, which leads to the first agent.
    let (capture, vips) = if number == 1 { ("redirect", 64) } else { ("bind", 96) };
    let mut text = format!("data_dir = {:?}\n", home.join("data"));
    write!(
        text,
        "[node]\nname = \"six-{number}\"\nadvertise = \"fd00::{number}\"\n[cluster]\nname = \"six\"\nseeds = \
         [\"[fd00::1]:7946\"]\n[dns]\nlisten = [\"127.0.0.{number}:8600\"]\nupstreams = []\n[gossip]\nlisten = \
         \"[fd00::{number}]:7946\"\n[mesh]\nlisten = \"[fd00::{number}]:7947\"\n[proxy]\ncapture = \
         \"{capture}\"\nvip_range = \"127.{vips}.0.0/11\"\n[api]\nlisten = \"127.0.0.{number}:8500\"\nsocket = {:?}\n",
        home.join("sock")
    )
    .expect("text");
    std::fs::write(home.join("weft.toml"), text).expect("a configuration");
    if let Some(service) = service {
        std::fs::write(home.join("services.d/web.toml"), service).expect("a service file");
    }
    home
}

fn start(host: &Host, home: &Path) -> Process {
    let log = home.join("agent.log");
    let mut command = host.command(WEFT);
    let agent = Process::start("agent", command.args(["agent", "--config"]).arg(home.join("weft.toml")), &log);
    wait_for("the agent is ready", DEADLINE, || {
        let printed = agent.printed();
        if printed.contains("weft is ready") { Ok(()) } else { Err(printed) }
    });
    agent
}

fn data(home: &Path) -> String {
    home.join("data").to_str().expect("UTF-8").to_owned()
}

#[test]
fn hosts_that_know_each_other_by_ipv6_enrol_meet_and_call() {
    let Some(fleet) = Fleet::raise(&["a"]) else { return };
    let host = &fleet["a"];
    for number in [1, 2] {
        host.run("ip", ["addr", "add", &format!("fd00::{number}/128"), "dev", "lo"]).expect("an address");
    }
    let service = "[[service]]\nname = \"web\"\nport = 8081\nvip_port = 80\nprotocol = \"http\"\n";
    let _web = parts::nginx(host, "web", "127.0.0.1:8081", "six");
    let first = write_configuration(host.folder(), 1, None);
    let second = write_configuration(host.folder(), 2, Some(service));

    host.run(WEFT, ["ca", "init", "--cluster", "six", "--node", "six-1", "--data-dir", &data(&first)]).expect("a CA");
    let _one = start(host, &first);
    let token = host.run(WEFT, ["token", "create", "--issuer", "[fd00::1]:7947", "--data-dir", &data(&first)]);
    let token = token.expect("a token");
    let words = ["enroll", "--token", token.trim(), "--node", "six-2", "--data-dir", &data(&second)];
    host.run(WEFT, words).expect("enrolment over IPv6");
    let _two = start(host, &second);

    let vip = wait_for("the service has an address at the first host", DEADLINE, || {
        let found = host.run("dig", ["@127.0.0.1", "-p", "8600", "+short", "web.mesh.internal"]).stdout;
        if found.trim().is_empty() { Err("none yet".to_owned()) } else { Ok(found.trim().to_owned()) }
    });
    assert_eq!(host.curl(&format!("http://{vip}/")).expect("a call over IPv6").trim(), "six");
    let real = host.run("dig", ["@127.0.0.1", "-p", "8600", "+short", "AAAA", "web.service.mesh.internal"]);
    assert_eq!(real.stdout.trim(), "fd00::2");
}
