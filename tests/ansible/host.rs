//! Hosts that live in namespaces of this machine, joined by a bridge, and the commands that are run on them.
//!
//! Addresses are 10.78.0.1, .2, ... Nothing here touches the machine's own network, services or files. Whatever was
//! started is ended when the hosts are dropped, also when a test fails; then the agents' logs are printed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The programs that hosts are made of, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("python3", "python3-venv"),
    ("systemctl", "systemd"),
];
/// The names of namespaces and control groups: this, the id of the process that made them, the suffix.
const PREFIX: &str = "weft-";
const SUFFIX: &str = "-ansible";

const SYSTEMD: &str = "/lib/systemd/systemd";

const BOOT_DEADLINE: Duration = Duration::from_secs(20);
const COMMAND_SECONDS_MAX: &str = "30";
/// A control group is busy until the processes that were just killed are gone.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);

/// What runs first on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    Systemd,
    /// Nothing that starts services.
    None,
}

/// What a command that ran to its end left.
pub(crate) struct Done {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn expect(self, what: &str) -> String {
        assert!(self.ok, "{what} failed\nstdout: {}\nstderr: {}", self.stdout.trim(), self.stderr.trim());
        self.stdout
    }
}

struct Host {
    name: String,
    number: usize,
    runs_systemd: bool,
    namespace: String,
    /// Its namespaces' first process, as this machine numbers it, and the `unshare` that made it.
    init: i32,
    unshare: Child,
    /// What runs on it and is not started by its init.
    others: Vec<Child>,
}

pub(crate) struct Hosts {
    hosts: Vec<Host>,
    tag: String,
    cgroup: PathBuf,
    folder: TempDir,
    /// Tests with namespaces have the machine one at a time, whatever runs them and in however many processes.
    _machine: File,
}

impl Hosts {
    /// `None`, with the reason printed, where this machine does not allow it.
    pub(crate) fn raise(names: &[(&str, Init)]) -> Option<Hosts> {
        can_run().map_err(|reason| cannot_run(&reason)).ok()?;
        let machine = take_machine();
        let folder = TempDir::with_prefix("weft-ansible-").expect("a temporary folder");
        let tag = format!("{PREFIX}{}{SUFFIX}", std::process::id());
        let root = cgroup_root(folder.path());
        sweep(&root);
        let cgroup = root.join(&tag);
        fs::create_dir_all(&cgroup).expect("a control group");
        must(&format!("ip netns add {tag}"));
        let mut hosts = Hosts { hosts: Vec::new(), tag, cgroup, folder, _machine: machine };
        must(&format!("ip -n {} link add br0 type bridge", hosts.tag));
        must(&format!("ip -n {} link set br0 up", hosts.tag));
        for (index, (name, init)) in names.iter().enumerate() {
            hosts.boot(name, index + 1, *init);
        }
        for host in hosts.hosts.iter().filter(|host| host.runs_systemd) {
            let start = Instant::now();
            // "degraded" is running too: a unit of this machine's disk that fails in a namespace is none of ours.
            while !matches!(hosts.run(&host.name, "systemctl is-system-running").stdout.trim(), "running" | "degraded")
            {
                assert!(start.elapsed() < BOOT_DEADLINE, "{} does not boot: {}", host.name, hosts.boot_log(host));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Some(hosts)
    }

    fn boot(&mut self, name: &str, number: usize, init: Init) {
        let (namespace, switch) = (format!("{}-{name}", self.tag), &self.tag);
        must(&format!("ip netns add {namespace}"));
        must(&format!("ip -n {namespace} link set lo up"));
        must(&format!("ip -n {switch} link add p{number} type veth peer name eth0 netns {namespace}"));
        must(&format!("ip -n {switch} link set p{number} master br0 up"));
        must(&format!("ip -n {namespace} address add 10.78.0.{number}/24 dev eth0"));
        must(&format!("ip -n {namespace} link set eth0 up"));
        let (disk, cgroup) = (self.folder.path().join(name), self.cgroup.join(name));
        fs::create_dir(&disk).expect("a folder for the disk");
        fs::create_dir_all(&cgroup).expect("a control group");
        let log = File::create(self.folder.path().join(format!("{name}.boot"))).expect("a log");
        // The shell moves itself into the control group first, so that the host's view of control groups begins there.
        let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-c", script, "boot"]).arg(&cgroup).args(["ip", "netns", "exec", &namespace]);
        command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--cgroup"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ansible/boot")).arg(&disk).arg(name);
        match init {
            Init::Systemd => command.args([SYSTEMD, "--system", "--unit=multi-user.target", "--log-target=console"]),
            Init::None => command.args(["/bin/sleep", "infinity"]),
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let unshare = command.spawn().expect("unshare");
        let init_pid = first_child(unshare.id());
        self.hosts.push(Host {
            name: name.to_owned(),
            number,
            runs_systemd: init == Init::Systemd,
            namespace,
            init: init_pid,
            unshare,
            others: Vec::new(),
        });
        // Until the new root is in place, commands would run on the machine's own.
        let start = Instant::now();
        while !self
            .run(name, "test -d /.machine || test ! -e /etc/hostname || cat /etc/hostname")
            .stdout
            .trim()
            .eq(name)
        {
            let host = self.hosts.last().expect("just pushed");
            assert!(start.elapsed() < BOOT_DEADLINE, "{name} does not boot: {}", self.boot_log(host));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.name.as_str())
    }

    /// The process whose namespaces are the host.
    pub(crate) fn init(&self, name: &str) -> i32 {
        self.host(name).init
    }

    pub(crate) fn address(&self, name: &str) -> String {
        format!("10.78.0.{}", self.host(name).number)
    }

    pub(crate) fn runs_systemd(&self, name: &str) -> bool {
        self.host(name).runs_systemd
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", COMMAND_SECONDS_MAX, "nsenter"]);
        command.args(enter(self.host(name).init)).stdin(Stdio::null());
        command
    }

    /// A shell's command line on this host.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, line: &str) -> Done {
        let output = self.command(name).args(["/bin/sh", "-c", line]).output().expect("nsenter");
        Done {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The agent's process id, as the host numbers it.
    #[track_caller]
    pub(crate) fn main_pid(&self, name: &str) -> String {
        self.run(name, "systemctl show --property=MainPID --value weft.service").expect("systemctl").trim().to_owned()
    }

    /// Where nothing starts services, somebody has to: as the user that the role made.
    pub(crate) fn start_agent_by_hand(&mut self, name: &str) {
        self.run(name, "install -d -m 750 -o weft -g weft /run/weft").expect("/run/weft");
        let mut command = Command::new("nsenter");
        command.args(enter(self.host(name).init)).args(["setpriv", "--reuid=weft", "--regid=weft", "--clear-groups"]);
        command.args(["weft", "agent"]).stdin(Stdio::null());
        let log = File::create(self.folder.path().join(format!("{name}.boot"))).expect("a log");
        let agent = command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("nsenter");
        self.keep(name, agent);
    }

    fn keep(&mut self, name: &str, process: Child) {
        let host = self.hosts.iter_mut().find(|host| host.name == name).expect("a host");
        host.others.push(process);
    }

    /// A web server that the host can reach and that has the binary: its URL and checksum there.
    pub(crate) fn offer_binary(&mut self, name: &str, binary: &Path) -> (String, String) {
        let folder = binary.parent().expect("a folder").display().to_string();
        let file = binary.file_name().expect("a name").to_string_lossy().into_owned();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(name).namespace, "python3", "-m", "http.server", "8099"]);
        command.args(["--bind", "127.0.0.1", "--directory", &folder]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.keep(name, server.expect("a web server"));
        let sum = Command::new("sha256sum").arg(binary).output().expect("sha256sum").stdout;
        let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
        (format!("http://127.0.0.1:8099/{file}"), format!("sha256:{sum}"))
    }

    fn boot_log(&self, host: &Host) -> String {
        fs::read_to_string(self.folder.path().join(format!("{}.boot", host.name))).unwrap_or_default()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in &self.hosts {
                let journal = self.run(&host.name, "journalctl --no-pager --lines=60 --unit=weft 2>/dev/null").stdout;
                eprintln!("---- {}\n{}{journal}", host.name, self.boot_log(host));
            }
        }
        for host in &mut self.hosts {
            // The end of its first process is the end of everything in the namespace.
            if let Some(pid) = Pid::from_raw(host.init) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = host.unshare.wait();
            for other in &mut host.others {
                let _ = other.kill();
                let _ = other.wait();
            }
            let _ = Command::new("ip").args(["netns", "delete", &host.namespace]).output();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.tag]).output();
        remove_group(&self.cgroup);
        let mounted = self.folder.path().join("cgroup");
        if mounted.is_dir() {
            let _ = Command::new("umount").arg(&mounted).output();
        }
    }
}

/// The words after `nsenter`.
fn enter(init: i32) -> Vec<String> {
    let words = format!(
        "--target {init} --mount --uts --ipc --net --pid --cgroup --root --wd -- /usr/bin/env -i HOME=/root \
         LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    words.split_whitespace().map(str::to_owned).collect()
}

/// Ends what is left in a control group of ours and removes it.
fn remove_group(group: &Path) {
    let start = Instant::now();
    // Nothing of ours is left if this file is missing: the kernel is too old for it, or the group is gone.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    while remove_tree(group).is_err() && start.elapsed() < REMOVE_DEADLINE {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends and removes what test processes that were killed have left.
fn sweep(cgroup_root: &Path) {
    let is_left = |name: &str| {
        let maker = name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok()?;
        (name.contains(SUFFIX) && !Path::new(&format!("/proc/{maker}")).exists()).then_some(())
    };
    for group in fs::read_dir(cgroup_root).into_iter().flatten().flatten() {
        if is_left(&group.file_name().to_string_lossy()).is_some() {
            remove_group(&group.path());
        }
    }
    let listed = Command::new("ip").args(["netns", "list"]).output().map(|output| output.stdout).unwrap_or_default();
    for line in String::from_utf8_lossy(&listed).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if is_left(name).is_some() {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

/// A control group can only be removed from its leaves on; its files are not files.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(folder)
}

/// A mount of cgroup2 of our own: where the machine has its own differs.
fn cgroup_root(folder: &Path) -> PathBuf {
    let root = folder.join("cgroup");
    fs::create_dir(&root).expect("a folder for control groups");
    must(&format!("mount -t cgroup2 cgroup2 {}", root.display()));
    root
}

#[track_caller]
fn first_child(parent: u32) -> i32 {
    let start = Instant::now();
    loop {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
            return child;
        }
        assert!(start.elapsed() < BOOT_DEADLINE, "unshare starts nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command of words separated by single spaces, which must succeed.
#[track_caller]
fn must(words: &str) {
    let mut parts = words.split(' ');
    let output = Command::new(parts.next().expect("a program")).args(parts).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{words}: {error}"));
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn take_machine() -> File {
    let path = std::env::temp_dir().join("weft-netns.lock");
    // Another user may have made it; reading is enough to lock it.
    let file = File::open(&path).or_else(|_| File::create(&path));
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flock(&file, FlockOperation::LockExclusive).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file
}

/// Says why, or fails where that is no excuse.
pub(crate) fn cannot_run(reason: &str) {
    let reason = format!("the test of the Ansible role cannot run here: {reason}");
    assert!(std::env::var("WEFT_NETNS").as_deref() != Ok("require"), "{reason}");
    eprintln!("{reason}");
}

/// Why the test cannot run here, in a sentence that says what to do.
fn can_run() -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if let Some((program, package)) = PROGRAMS.iter().find(|(program, _)| !found(program)) {
        return Err(format!("no `{program}`; next: apt-get install {package}"));
    }
    for (file, package) in [(SYSTEMD, "systemd"), ("/usr/bin/python3", "python3")] {
        if !Path::new(file).exists() {
            return Err(format!("no {file}; next: apt-get install {package}"));
        }
    }
    // A host has files of root and of the agent's user; a user namespace of one user has room for one of them.
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root; next: run the tests as root".to_owned());
    }
    let probe = ["--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "true"];
    let unshared = Command::new("unshare").args(probe).output().map_err(|error| error.to_string())?;
    if !unshared.status.success() {
        return Err(format!("`unshare` says: {}", String::from_utf8_lossy(&unshared.stderr).trim()));
    }
    Ok(())
}
