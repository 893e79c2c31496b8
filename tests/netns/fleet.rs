//! A fleet of hosts: one network namespace each, and one more that holds the bridge between them.
//!
//! Addresses are 10.77.0.1, .2, ... in the order of the names. Nothing here touches the machine's own network. What a
//! test run that was killed left behind is removed by the next.

use std::fs::{self, File};
use std::ops::Index;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::Host;
use crate::process::{must, run, wait_for};

/// Every namespace's name starts so, then the id of the process that made it.
const PREFIX: &str = "weft-";

/// The programs that the tests call, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("openssl", "openssl"),
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("psql", "postgresql"),
    ("h2load", "nghttp2-client"),
    ("nghttp", "nghttp2-client"),
    ("wrk", "wrk"),
];

/// The router's address on every line.
const ROUTER: &str = "10.77.255.254";

/// How many lines of each log a failing test shows.
const LOG_LINES_SHOWN: usize = 120;

/// Agents in debug builds on two busy cores join within a second or two; this is for a machine that does much else.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);

static FLEETS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Fleet {
    folder: TempDir,
    switch: String,
    /// The switch is a router.
    routed: bool,
    hosts: Vec<Host>,
    /// One fleet at a time has the machine, whatever runs the tests and in however many processes.
    _machine: File,
}

impl Fleet {
    /// Hosts joined by a bridge, without agents. `None`, with the reason printed, where this machine does not allow it.
    pub(crate) fn raise(names: &[&str]) -> Option<Fleet> {
        Fleet::raise_as(names, false)
    }

    /// As [`Fleet::raise`], each host on a line of its own to one router. The kernel's table of neighbours is one for all
    /// namespaces: with more than thirty hosts on one bridge it overflows, and packets are lost (1,024 entries, gc_thresh3).
    pub(crate) fn raise_routed(names: &[&str]) -> Option<Fleet> {
        Fleet::raise_as(names, true)
    }

    fn raise_as(names: &[&str], routed: bool) -> Option<Fleet> {
        if let Err(reason) = can_run() {
            let reason = format!("namespace tests cannot run here: {reason}");
            assert!(std::env::var("WEFT_NETNS").as_deref() != Ok("require"), "{reason}");
            eprintln!("{reason}");
            return None;
        }
        let machine = take_machine();
        sweep();
        let folder = TempDir::with_prefix("weft-netns-").expect("a temporary folder");
        // PostgreSQL runs as another user and must reach its own folder below.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("permissions of the temporary folder");
        let tag = format!("{PREFIX}{}-{}", std::process::id(), FLEETS.fetch_add(1, Ordering::Relaxed));
        let switch = format!("{tag}-switch");
        must(&format!("ip netns add {switch}"));
        let mut fleet = Fleet { folder, switch, routed, hosts: Vec::new(), _machine: machine };
        if routed {
            must(&format!("ip netns exec {} sysctl --quiet --write net.ipv4.ip_forward=1", fleet.switch));
        } else {
            must(&format!("ip -n {} link add br0 type bridge", fleet.switch));
            must(&format!("ip -n {} link set br0 up", fleet.switch));
        }
        for (name, number) in names.iter().zip(1..) {
            let host = Host::new(name, number, &format!("{tag}-{name}"), fleet.folder.path());
            fleet.hosts.push(host);
            fleet.connect(name);
        }
        Some(fleet)
    }

    /// Makes the named hosts one mesh: the first has the CA, the others enrol with it; returns when each sees all alive.
    pub(crate) fn mesh(&self, names: &[&str]) {
        let issuer = &self[names[0]];
        issuer.found_mesh();
        issuer.start_agent();
        for name in &names[1..] {
            self[name].enrol(issuer).expect("enrolment");
            self[name].start_agent();
        }
        self.all_alive(names);
    }

    /// Waits until each of the named hosts sees each of them alive.
    #[track_caller]
    pub(crate) fn all_alive(&self, names: &[&str]) {
        for seer in names {
            let what = format!("{seer} sees {names:?} alive");
            wait_for(&what, JOIN_DEADLINE, || {
                let members = self[seer].members()?;
                let alive = |name: &&str| members.get(*name).is_some_and(|state| state == "alive");
                if names.iter().all(alive) { Ok(()) } else { Err(format!("{members:?}")) }
            });
        }
    }

    /// Gives a host its namespace and plugs it into the bridge.
    fn connect(&self, name: &str) {
        let Host { namespace, number, .. } = &self[name];
        let switch = &self.switch;
        must(&format!("ip netns add {namespace}"));
        must(&format!("ip -n {namespace} link set lo up"));
        must(&format!("ip -n {switch} link add p{number} type veth peer name eth0 netns {namespace}"));
        let address = self[name].address();
        if self.routed {
            must(&format!("ip -n {switch} address add {ROUTER}/32 dev p{number}"));
            must(&format!("ip -n {switch} link set p{number} up"));
            must(&format!("ip -n {switch} route add {address}/32 dev p{number}"));
            must(&format!("ip -n {namespace} address add {address}/32 dev eth0"));
            must(&format!("ip -n {namespace} link set eth0 up"));
            must(&format!("ip -n {namespace} route add {ROUTER}/32 dev eth0"));
            must(&format!("ip -n {namespace} route add default via {ROUTER} dev eth0 src {address}"));
        } else {
            must(&format!("ip -n {switch} link set p{number} master br0 up"));
            must(&format!("ip -n {namespace} address add {address}/24 dev eth0"));
            must(&format!("ip -n {namespace} link set eth0 up"));
        }
        let rule = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/weft-redirect.nft");
        must(&format!("ip netns exec {namespace} nft -f {}", rule.display()));
        let etc = Path::new("/etc/netns").join(namespace);
        fs::create_dir_all(&etc).expect("/etc/netns");
        fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:2\n").expect("resolv.conf");
    }

    /// Pulls the host's cable.
    pub(crate) fn cut(&self, name: &str) {
        must(&format!("ip -n {} link set p{} down", self.switch, self[name].number));
    }

    /// Plugs it in again.
    pub(crate) fn heal(&self, name: &str) {
        must(&format!("ip -n {} link set p{} up", self.switch, self[name].number));
    }

    /// The host dies: its cable goes dead, so that no goodbye of any kind gets out, then every process in it is killed,
    /// then the namespace goes.
    pub(crate) fn destroy(&self, name: &str) {
        self.cut(name);
        remove_namespace(&self[name].namespace);
        self[name].kill_agent();
        // Connections that were never closed keep the namespace, and its end of the cable, for minutes.
        must(&format!("ip -n {} link del p{}", self.switch, self[name].number));
    }

    /// The same host comes back, with its disk as it was and nothing running.
    pub(crate) fn rebuild(&self, name: &str) {
        self.connect(name);
    }

    /// A command that runs where the bridge is.
    pub(crate) fn at_switch(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.switch, program]);
        command
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Index<&str> for Fleet {
    type Output = Host;

    fn index(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("no host {name} in this fleet"))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.kill_agent();
        }
        let logs = logs_below(self.folder.path());
        let failed = std::thread::panicking();
        for log in logs.iter().filter(|_| failed) {
            let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            let name = log.strip_prefix(self.folder.path()).unwrap_or(log);
            eprintln!("---- {} (last {} of {} lines)\n{}", name.display(), shown.len(), lines.len(), shown.join("\n"));
        }
        for host in &self.hosts {
            remove_namespace(&host.namespace);
        }
        remove_namespace(&self.switch);
        if !failed {
            let panicked =
                |log: &&PathBuf| String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).contains("panicked at");
            if let Some(log) = logs.iter().find(panicked) {
                panic!("an agent panicked: {}", String::from_utf8_lossy(&fs::read(log).unwrap_or_default()));
            }
        }
    }
}

fn logs_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(logs_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Ends what runs in a namespace that a fleet made, by process id, and removes it.
fn remove_namespace(namespace: &str) {
    assert!(namespace.starts_with(PREFIX), "{namespace} is not ours");
    let pids = run(Command::new("ip").args(["netns", "pids", namespace])).stdout;
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = run(Command::new("ip").args(["netns", "delete", namespace]));
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(namespace));
}

/// Removes the namespaces of test processes that were killed.
fn sweep() {
    for line in must("ip netns list").lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse().ok());
        if let Some(pid) = maker.and_then(|pid: u32| (pid != std::process::id()).then_some(pid))
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            remove_namespace(name);
        }
    }
}

fn take_machine() -> File {
    let path = std::env::temp_dir().join("weft-netns.lock");
    // Another user may have made it; reading is enough to lock it.
    let file = File::open(&path).or_else(|_| File::create(&path));
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flock(&file, FlockOperation::LockExclusive).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file
}

/// Why the tests cannot run here, in a sentence that says what to do.
fn can_run() -> Result<(), String> {
    let found = |program: &&(&str, &str)| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program.0).is_file())
    };
    if let Some((program, package)) = PROGRAMS.iter().find(|program| !found(program)) {
        return Err(format!("no `{program}`; next: apt-get install {package}, or let tests/run do it"));
    }
    let probe = format!("{PREFIX}{}-probe-{}", std::process::id(), FLEETS.fetch_add(1, Ordering::Relaxed));
    let added = run(Command::new("ip").args(["netns", "add", &probe]));
    if !added.ok {
        let advice = "next: run them as root, or by tests/run, which makes a user namespace";
        return Err(format!("`ip netns add` says: {}; {advice}", added.stderr.trim()));
    }
    let rule = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/weft-redirect.nft");
    let loaded = run(Command::new("ip").args(["netns", "exec", &probe, "nft", "-f"]).arg(rule));
    remove_namespace(&probe);
    if loaded.ok { Ok(()) } else { Err(format!("the kernel refuses the redirect rule: {}", loaded.stderr.trim())) }
}
