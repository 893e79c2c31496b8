//! `weft dev`: a mesh on one machine, by one command, without root, that goes on when a host is killed and leaves
//! nothing behind. Runs in a host of the fleet, so that it has a loopback interface of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::Fleet;
use crate::host::Host;
use crate::process::{Process, run, wait_for};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
/// Debian's user for those who own nothing.
const NOBODY: &str = "65534";

/// A command without root, with a folder of its own for temporary files.
fn without_root(host: &Host, temporary: &str, program: &[&str]) -> std::process::Command {
    let mut command = host.command("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    command.args(program).env("TMPDIR", temporary);
    command
}

fn call(host: &Host, url: &str) -> Result<String, String> {
    let done = host.curl(url);
    if done.ok { Ok(done.stdout.trim().to_owned()) } else { Err(done.stderr) }
}

#[test]
fn weft_dev_runs_the_main_job_without_root_survives_a_kill_and_leaves_nothing_behind() {
    let Some(fleet) = Fleet::raise(&["a"]) else { return };
    let host = &fleet["a"];
    let temporary = host.folder().join("tmp");
    std::fs::create_dir_all(&temporary).expect("a folder");
    // The way to it is the tests' own, which nobody else may walk: it is opened for the time of this test.
    for folder in [fleet.folder(), host.folder(), temporary.as_path()] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    }
    // The program may lie where only root can go.
    let program = temporary.join("weft");
    std::fs::copy(WEFT, &program).expect("a copy of the program");
    let (program, temporary) = (program.to_str().expect("UTF-8"), temporary.to_str().expect("UTF-8"));

    let log = host.folder().join("dev.log");
    let mut dev = Process::start("weft dev", &mut without_root(host, temporary, &[program, "dev", "--json"]), &log);
    let screen: Value = wait_for("weft dev is up", Duration::from_secs(60), || {
        serde_json::from_str(&dev.printed()).map_err(|_| dev.printed())
    });
    let service = &screen["service"];
    let url = format!("http://{}:{}/", service["vip"].as_str().expect("vip"), service["port"]);
    let answers: BTreeSet<String> = (0..40).map(|_| call(host, &url).expect("a call")).collect();
    assert_eq!(answers.len(), 2, "two hosts serve: {answers:?}");
    assert_eq!(host.api("/v1/agent/members").expect("members").1.as_array().map(Vec::len), Some(3));

    let listening = host.run("ss", ["-H", "-l", "-n", "-t", "-u"]).expect("ss");
    for line in listening.lines() {
        let address = line.split_whitespace().nth(4).expect("a local address");
        let on_loopback = ["127.", "0.0.0.0%lo:"].iter().any(|start| address.starts_with(start));
        assert!(on_loopback, "listens off loopback: {line}");
    }

    let victim = screen["hosts"].as_array().and_then(|hosts| hosts.last()).expect("hosts");
    run(host.command("kill").args(["-9", &victim["pid"].to_string()])).expect("kill");
    let left: BTreeSet<String> = (0..40).map(|_| call(host, &url).expect("a call after the kill")).collect();
    assert_eq!(left, BTreeSet::from(["hello from host-2".to_owned()]));

    dev.signal(Signal::INT);
    dev.finish(Duration::from_secs(20));
    let kept: Vec<_> =
        std::fs::read_dir(temporary).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(kept, ["weft"], "only the program's copy is left");
    let listening = host.run("ss", ["-H", "-l", "-n", "-t", "-u"]).expect("ss");
    assert_eq!(listening.trim(), "", "something still listens");
}
