//! Hosts that boot: systemd as the first process, in containers of systemd-nspawn that are joined by a bridge.
//!
//! Addresses are 10.79.0.1, .2, ... Nothing here touches the machine's own network, services or files. Whatever was
//! started is ended when the hosts are dropped, also when a test fails; then the hosts' journals are printed. What a test
//! run that was killed left behind is removed by the next.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::base;
use crate::process::{Done, Process, must, run, wait_for};

/// The programs that hosts are made of, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
];
/// The names of namespaces and control groups: this, the id of the process that made them, the suffix.
const PREFIX: &str = "weft-";
const SUFFIX: &str = "-nspawn";

/// A host boots in a second or two; this is for a machine that does much else.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);
/// systemd gives units that do not stop 90 seconds.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(100);
/// A control group is busy until the processes that were just killed are gone.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// No command that a test waits for takes longer; a hang must end before the test runner's patience does.
const COMMAND_SECONDS_MAX: &str = "60";

struct Host {
    name: String,
    number: usize,
    namespace: String,
    group: PathBuf,
    /// systemd-nspawn; its end is the host's.
    nspawn: Process,
    /// systemd, as this machine numbers it.
    init: u32,
}

pub(crate) struct Hosts {
    hosts: Vec<Host>,
    /// What every host's disk begins with, and the arguments that show it this machine's files.
    disk: PathBuf,
    shown: Vec<String>,
    tag: String,
    group: PathBuf,
    folder: TempDir,
    /// Tests with namespaces have the machine one at a time, whatever runs them and in however many processes.
    _machine: File,
}

impl Hosts {
    /// Boots hosts; each sees the files of `shown` (here, there) read only. `None`, with the reason printed, where this
    /// machine does not allow it.
    pub(crate) fn boot(names: &[&str], shown: &[(&Path, &str)]) -> Option<Hosts> {
        let root = can_run().map_err(|reason| cannot_run(&reason)).ok()?;
        let disk = base::prepare().map_err(|reason| cannot_run(&reason)).ok()?;
        let machine = take_machine();
        sweep(&root);
        let folder = TempDir::with_prefix("weft-nspawn-").expect("a temporary folder");
        // It is the parent of the hosts' disks, on which not only root has files.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("permissions of the temporary folder");
        let tag = format!("{PREFIX}{}{SUFFIX}", std::process::id());
        let group = root.join(&tag);
        fs::create_dir(&group).expect("a control group");
        let shown = shown.iter().map(|(here, there)| format!("--bind-ro={}:{there}", here.display())).collect();
        let mut hosts = Hosts { hosts: Vec::new(), disk, shown, tag, group, folder, _machine: machine };
        must(&format!("ip netns add {}", hosts.tag));
        must(&format!("ip -n {} link add br0 type bridge", hosts.tag));
        must(&format!("ip -n {} link set br0 up", hosts.tag));
        for name in names {
            if let Err(reason) = hosts.start(name, &[]) {
                cannot_run(&format!("systemd does not start in a container of this machine: {reason}"));
                return None;
            }
        }
        names.iter().for_each(|name| hosts.await_boot(name));
        Some(hosts)
    }

    /// Boots one more host, which its maker hands a credential.
    #[track_caller]
    pub(crate) fn boot_with_credential(&mut self, name: &str, credential: &str, text: &str) {
        let started = self.start(name, &[format!("--set-credential={credential}:{text}")]);
        started.unwrap_or_else(|said| panic!("{name} does not start: {said}"));
        self.await_boot(name);
    }

    /// Starts a host, up to where its systemd has begun; what it says if it does not get there.
    fn start(&mut self, name: &str, more: &[String]) -> Result<(), String> {
        let number = self.hosts.len() + 1;
        let (namespace, switch) = (format!("{}-{name}", self.tag), &self.tag);
        must(&format!("ip netns add {namespace}"));
        must(&format!("ip -n {namespace} link set lo up"));
        must(&format!("ip -n {switch} link add p{number} type veth peer name eth0 netns {namespace}"));
        must(&format!("ip -n {switch} link set p{number} master br0 up"));
        must(&format!("ip -n {namespace} address add 10.79.0.{number}/24 dev eth0"));
        must(&format!("ip -n {namespace} link set eth0 up"));
        let (folder, group) = (self.folder.path().join(name), self.group.join(name));
        fs::create_dir(&folder).expect("a folder for the disk");
        fs::create_dir(&group).expect("a control group");
        let mut command = Command::new("unshare");
        command.args(["--mount", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nspawn/boot")]);
        command.arg(&self.disk).arg(&folder).arg(name).arg(&group);
        command.arg(format!("--network-namespace-path=/run/netns/{namespace}"));
        command.args(&self.shown).args(more);
        let mut nspawn = Process::start(name, &mut command, &folder.join("boot.log"));
        // systemd makes this group for itself before anything else.
        let scope = group.join("payload/init.scope/cgroup.procs");
        let init = wait_for(&format!("{name} starts"), BOOT_DEADLINE, || {
            if nspawn.ended().is_some() {
                return Ok(Err(nspawn.printed()));
            }
            let init = fs::read_to_string(&scope).ok().and_then(|pids| pids.lines().next()?.parse().ok());
            init.map(Ok).ok_or_else(|| nspawn.printed())
        });
        let host = Host { name: name.to_owned(), number, namespace, group, nspawn, init: 0 };
        self.hosts.push(host);
        self.hosts.last_mut().expect("just pushed").init = init?;
        Ok(())
    }

    /// Until everything is started. A unit of Debian's that fails in a container is told by its name.
    #[track_caller]
    fn await_boot(&self, name: &str) {
        wait_for(&format!("{name} boots"), BOOT_DEADLINE, || {
            let state = self.run(name, "systemctl is-system-running").stdout;
            if matches!(state.trim(), "running" | "degraded") { Ok(()) } else { Err(state) }
        });
        let failed = self.failed_units(name);
        println!("{name} has booted; units that failed: {failed:?}");
    }

    /// The units that failed.
    #[track_caller]
    pub(crate) fn failed_units(&self, name: &str) -> Vec<String> {
        let listed = self.run(name, "systemctl list-units --failed --plain --no-legend").expect("systemctl");
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    pub(crate) fn address(&self, name: &str) -> String {
        format!("10.79.0.{}", self.host(name).number)
    }

    /// A shell's command line on this host, outside all its units.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, line: &str) -> Done {
        let init = self.host(name).init.to_string();
        let mut command = Command::new("timeout");
        command.args([
            "--kill-after=1",
            COMMAND_SECONDS_MAX,
            "nsenter",
            "--target",
            &init,
            "--mount",
            "--uts",
            "--ipc",
        ]);
        command.args(["--net", "--pid", "--cgroup", "--root", "--wd", "--", "/usr/bin/env", "-i", "HOME=/root"]);
        command.args(["LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        run(command.args(["/bin/sh", "-ec", line]))
    }

    /// A command line that must succeed; what it printed.
    #[track_caller]
    pub(crate) fn must(&self, name: &str, line: &str) -> String {
        self.run(name, line).expect(&format!("{name}: {line}")).trim().to_owned()
    }

    /// A file of this host as it can be reached from here.
    fn path(&self, name: &str, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.host(name).init))
    }

    #[track_caller]
    pub(crate) fn write(&self, name: &str, path: &str, text: &str) {
        fs::write(self.path(name, path), text).unwrap_or_else(|error| panic!("{name}: {path}: {error}"));
    }

    /// What stands in a file; nothing if there is none.
    pub(crate) fn read(&self, name: &str, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name, path)).unwrap_or_default()).into_owned()
    }

    /// As by its power button: systemd stops every unit, then the host ends.
    #[track_caller]
    pub(crate) fn power_off(&mut self, name: &str) {
        let host = self.hosts.iter_mut().find(|host| host.name == name).expect("a host");
        // To systemd-nspawn SIGTERM means that: it sends SIGRTMIN+4 on.
        host.nspawn.stop(POWER_OFF_DEADLINE);
        // The number may be another process's now; there is none of this number.
        host.init = 0;
    }

    fn print_logs(&self) {
        for host in &self.hosts {
            let journal = self.run(&host.name, "journalctl --no-pager --lines=150 2>&1").stdout;
            eprintln!("---- {}\n{}{journal}", host.name, host.nspawn.printed());
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for host in &mut self.hosts {
            // The kernel ends what systemd-nspawn started with it.
            host.nspawn.kill();
            remove_group(&host.group);
            let _ = run(Command::new("ip").args(["netns", "delete", &host.namespace]));
        }
        let _ = run(Command::new("ip").args(["netns", "delete", &self.tag]));
        remove_group(&self.group);
    }
}

/// Ends what is left in a control group of ours and removes it.
fn remove_group(group: &Path) {
    // Nothing of ours is left if this file is missing: the kernel is too old for it, or the group is gone.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    let start = std::time::Instant::now();
    while remove_tree(group).is_err() && start.elapsed() < REMOVE_DEADLINE {
        std::thread::sleep(Duration::from_millis(50));
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

/// Ends and removes what test processes that were killed have left.
fn sweep(cgroup_root: &Path) {
    let is_left = |name: &str| {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).unwrap_or_default();
        maker.parse::<u32>().is_ok() && name.contains(SUFFIX) && !Path::new("/proc").join(maker).exists()
    };
    for group in fs::read_dir(cgroup_root).into_iter().flatten().flatten() {
        if is_left(&group.file_name().to_string_lossy()) {
            remove_group(&group.path());
        }
    }
    for line in must("ip netns list").lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if is_left(name) {
            let _ = run(Command::new("ip").args(["netns", "delete", name]));
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

/// Says why, or fails where that is no excuse.
fn cannot_run(reason: &str) {
    let reason = format!("the tests on hosts that boot cannot run here: {reason}");
    assert!(std::env::var("WEFT_NETNS").as_deref() != Ok("require"), "{reason}");
    eprintln!("{reason}");
}

/// Where control groups can be made; else why the tests cannot run here, in a sentence that says what to do.
fn can_run() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if let Some((program, package)) = PROGRAMS.iter().find(|(program, _)| !found(program)) {
        return Err(format!("no `{program}`; next: apt-get install {package}, or let tests/run do it"));
    }
    // A host has files of many users; a user namespace of one user has room for one of them.
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root; next: run the tests as root".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let root = PathBuf::from(mount.ok_or("no cgroup2 is mounted; next: mount -t cgroup2 cgroup2 /sys/fs/cgroup")?);
    let probe = root.join(format!("{PREFIX}{}{SUFFIX}-probe", std::process::id()));
    let made = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
    made.map_err(|error| format!("no control groups can be made: {}: {error}", probe.display()))?;
    Ok(root)
}
