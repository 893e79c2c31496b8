//! Small programs that must run inside a namespace: the test binary starts itself there and does one of these.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::host::Host;
use crate::{
    attack, attest, backend, ca_life, grpc, idlers, insider, keep_alive, keyring, load, parts, raw, thief, websocket,
};

/// Names the job; unset in an ordinary run of the tests.
const JOB: &str = "WEFT_NETNS_JOB";
/// A file of the job's arguments, JSON: recorded traffic is more than a process may be given in its environment.
const ARGUMENTS: &str = "WEFT_NETNS_ARGUMENTS";

/// A command that does `job` on `host`.
pub(crate) fn command(host: &Host, job: &str, arguments: &Value) -> Command {
    let this = std::env::current_exe().expect("the test binary's own path");
    let mut command = host.command(this.to_str().expect("a path in UTF-8"));
    command.args(["--exact", "helper::a_process_inside_a_namespace_does_its_job", "--nocapture", "--test-threads=1"]);
    static COMMANDS: AtomicUsize = AtomicUsize::new(0);
    let file = host.folder().join(format!("{job}-{}.json", COMMANDS.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&file, arguments.to_string()).expect("the job's arguments");
    command.env(JOB, job).env(ARGUMENTS, file);
    command
}

/// The way in for those processes. In an ordinary run there is no job.
#[test]
fn a_process_inside_a_namespace_does_its_job() {
    let Ok(job) = std::env::var(JOB) else { return };
    let arguments = std::fs::read(std::env::var(ARGUMENTS).expect("arguments")).expect("arguments");
    let arguments: Value = serde_json::from_slice(&arguments).expect("arguments in JSON");
    match job.as_str() {
        "load" => load::client(&arguments),
        "greeter" => parts::greeter(&arguments),
        "greeted" => parts::greeted(&arguments),
        "backend" => backend::server(&arguments),
        "raw" => raw::client(&arguments),
        "grpc_server" => grpc::server(&arguments),
        "grpc_client" => grpc::client(&arguments),
        "websocket_server" => websocket::server(&arguments),
        "websocket_client" => websocket::client(&arguments),
        "keep_alive" => keep_alive::client(&arguments),
        "datagrams" => attack::datagrams(&arguments),
        "streams" => attack::streams(&arguments),
        "one_port" => attest::one_port(&arguments),
        "closes" => attest::closes(&arguments),
        "echo" => ca_life::echo(&arguments),
        "held" => ca_life::held_open(&arguments),
        "liar" => attest::liar(&arguments),
        "idlers" => idlers::hold(&arguments),
        "stolen" => keyring::send(&arguments),
        "thief" => thief::run(&arguments),
        "insider" => insider::lie(&arguments),
        other => panic!("no job {other}"),
    }
}
