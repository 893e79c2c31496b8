//! HAProxy as Debian ships it, beside Weft in the same run: one process, a port for each way to choose a server.
//!
//! What is not said here is as HAProxy has it by default; how many connections it takes follows from the files it may open. A connect that fails is tried elsewhere (`option redispatch`), as
//! Weft does. There are no health checks where Weft has none.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Process, run, wait_for};

const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// The first listener's port; the others follow.
const PORT: u16 = 18_000;

/// One way to choose.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    /// `leastconn`, `roundrobin`.
    pub(crate) balance: &'static str,
    pub(crate) ports: Vec<u16>,
    /// Servers that are used when none of the others is up.
    pub(crate) backups: Vec<u16>,
    /// More lines of its section.
    pub(crate) more: &'static str,
    /// More words for each server.
    pub(crate) server: &'static str,
}

impl Listener {
    pub(crate) fn plain(balance: &'static str, ports: &[u16]) -> Listener {
        Listener { balance, ports: ports.to_vec(), backups: Vec::new(), more: "", server: "" }
    }
}

/// A process that runs until this is dropped.
pub(crate) struct HaProxy {
    process: Process,
    listeners: usize,
}

impl HaProxy {
    /// Starts it; returns when it listens.
    pub(crate) fn start(folder: &Path, listeners: &[Listener]) -> HaProxy {
        let mut config = String::from(
            "defaults\n    mode http\n    timeout connect 1s\n    timeout client 60s\n    \
             timeout server 60s\n    option redispatch\n",
        );
        for (listener, port) in listeners.iter().zip(PORT..) {
            let Listener { balance, more, server, .. } = listener;
            let _infallible =
                writeln!(config, "listen on-{port}\n    bind 127.0.0.1:{port}\n    balance {balance}\n    {more}");
            for to in &listener.ports {
                let _infallible = writeln!(config, "    server s{to} 127.0.0.1:{to} {server}");
            }
            for to in &listener.backups {
                let _infallible = writeln!(config, "    server s{to} 127.0.0.1:{to} backup {server}");
            }
        }
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, config).expect("haproxy.cfg");
        // As its unit has it: a master, which is told to reload, and a worker. Both end with this program's namespace.
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f"]).arg(&file);
        let process = Process::start("HAProxy", &mut command, &folder.join("haproxy.log"));
        let haproxy = HaProxy { process, listeners: listeners.len() };
        for index in 0..listeners.len() {
            wait_for("HAProxy listens", LISTEN_DEADLINE, || {
                TcpStream::connect(haproxy.address(index)).map(drop).map_err(|error| error.to_string())
            });
        }
        haproxy
    }

    /// SIGUSR2 to the master: a new worker takes over, the old one ends what it has.
    pub(crate) fn reload(&mut self) {
        self.process.signal(Signal::USR2);
    }

    /// Where the listener of this place in the list is.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        assert!(index < self.listeners, "no listener {index}");
        let port = (PORT..).nth(index).expect("a port");
        (Ipv4Addr::LOCALHOST, port).into()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        // The master ends its workers when it is asked to, not when it is killed.
        if !std::thread::panicking() {
            self.process.stop(STOP_DEADLINE);
        }
    }
}

/// What it calls itself.
pub(crate) fn version() -> String {
    let told = run(Command::new("haproxy").arg("-v")).stdout;
    told.lines().next().unwrap_or_default().trim_end_matches(" - https://haproxy.org/").to_owned()
}
