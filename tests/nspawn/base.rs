//! The disk that every host begins with: a Debian of the fewest packages that run the two services and the agent, made once
//! by debootstrap below target/ and never written to again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::process::run;

/// Changes with everything below that decides what is on the disk.
const VERSION: u32 = 1;
/// Beside minbase. nginx is the service that is called; systemd-resolved one of the two ways to ask the agent for names,
/// and nftables what the redirect needs, as README.md says; libpam-systemd gives users managers of their own.
const PACKAGES: &str = "systemd,systemd-sysv,systemd-resolved,dbus,libpam-systemd,nftables,curl,nginx-light";
/// They would look for updates in the middle of a test.
const MASKED: &[&str] = &["apt-daily.timer", "apt-daily-upgrade.timer"];

/// The disk; the error is why it could not be made.
pub(crate) fn prepare() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nspawn");
    fs::create_dir_all(&home).expect("a folder for disks");
    let suite = suite();
    let disk = home.join(format!("{suite}-{VERSION}"));
    let lock = File::create(home.join("lock")).expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    if !disk.exists() {
        // Whole or not at all: what was cut short has another name.
        let unfinished = home.join("unfinished");
        remove(&unfinished)?;
        make(&suite, &unfinished)?;
        fs::rename(&unfinished, &disk).expect("the disk's name");
    }
    Ok(disk)
}

/// The machine's own Debian, since the agent under test is linked against its libraries.
fn suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| release.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_matches('"').to_owned()));
    let debian = value("ID=").as_deref() == Some("debian");
    value("VERSION_CODENAME=").filter(|_| debian).unwrap_or_else(|| "bookworm".to_owned())
}

fn make(suite: &str, disk: &Path) -> Result<(), String> {
    // In a mount namespace, so that a debootstrap that is killed leaves no /proc behind.
    let mut command = Command::new("unshare");
    command.args(["--mount", "debootstrap", "--variant=minbase", &format!("--include={PACKAGES}"), suite]).arg(disk);
    let made = run(command.env("DEBIAN_FRONTEND", "noninteractive"));
    if !made.ok {
        let last: Vec<&str> = made.stdout.lines().rev().take(5).collect();
        return Err(format!("debootstrap says: {} {}", last.join("; "), made.stderr.trim()));
    }
    for unit in MASKED {
        std::os::unix::fs::symlink("/dev/null", disk.join("etc/systemd/system").join(unit)).expect("a masked unit");
    }
    // Empty, not missing: each host gets an id of its own, and none takes this for its first boot.
    fs::write(disk.join("etc/machine-id"), "").expect("machine-id");
    remove(&disk.join("var/cache/apt/archives"))
}

fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}
