//! The controller: a pinned ansible-core in a folder of its own, and what a run of the playbook printed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// Everything that this test brings beside the role.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ansible");
const ANSIBLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ansible");
/// A hang must end before the test runner's patience does.
const PLAY_SECONDS_MAX: &str = "240";

pub(crate) struct Controller {
    programs: PathBuf,
    folder: PathBuf,
}

/// A run of the playbook.
pub(crate) struct Played {
    pub(crate) printed: String,
    /// By host: ok, changed, unreachable, failed, skipped, rescued, ignored.
    pub(crate) recap: BTreeMap<String, BTreeMap<String, u32>>,
    ok: bool,
}

impl Controller {
    /// Installs Ansible below target/ unless that was done before; the error is why it could not be.
    pub(crate) fn prepare(folder: &Path) -> Result<Controller, String> {
        let requirements = Path::new(HERE).join("requirements.txt");
        let wanted = fs::read_to_string(&requirements).expect("requirements.txt");
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ansible");
        fs::create_dir_all(&home).expect("a folder for Ansible");
        let lock = File::create(home.join("lock")).expect("a lock file");
        flock(&lock, FlockOperation::LockExclusive).expect("a lock");
        let (programs, mark) = (home.join("venv/bin"), home.join("venv/installed"));
        if fs::read_to_string(&mark).ok().as_deref() != Some(&wanted) {
            let venv = home.join("venv");
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
            let mut install = Command::new(programs.join("pip"));
            run(install.args(["install", "--quiet", "--no-deps", "--requirement"]).arg(&requirements))?;
            fs::write(&mark, wanted).expect("the mark");
        }
        Ok(Controller { programs, folder: folder.to_owned() })
    }

    /// `ansible-playbook site.yml` with this inventory.
    pub(crate) fn play(&self, inventory: &str, arguments: &[&str]) -> Played {
        let file = self.folder.join("hosts.json");
        fs::write(&file, inventory).expect("the inventory");
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PLAY_SECONDS_MAX]).arg(self.programs.join("ansible-playbook"));
        command.arg("--inventory").arg(&file).args(arguments).arg(Path::new(ANSIBLE).join("playbooks/site.yml"));
        command.current_dir(&self.folder).env("ANSIBLE_CONFIG", Path::new(ANSIBLE).join("ansible.cfg"));
        command.env("ANSIBLE_CONNECTION_PLUGINS", Path::new(HERE).join("connection"));
        command.env("ANSIBLE_HOME", self.folder.join("ansible")).env("ANSIBLE_NOCOLOR", "1").env("LC_ALL", "C.UTF-8");
        let output = command.stdin(Stdio::null()).output().expect("ansible-playbook");
        let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Played { recap: recap(&printed), printed, ok: output.status.success() }
    }
}

impl Played {
    #[track_caller]
    pub(crate) fn expect_ok(&self) {
        assert!(self.ok, "{}", self.printed);
    }

    #[track_caller]
    fn count(&self, host: &str, word: &str) -> u32 {
        let counts = self.recap.get(host).unwrap_or_else(|| panic!("no recap of {host}: {}", self.printed));
        counts.get(word).copied().unwrap_or_else(|| panic!("no {word} of {host}: {}", self.printed))
    }

    #[track_caller]
    pub(crate) fn changed(&self, host: &str) -> u32 {
        self.count(host, "changed")
    }

    #[track_caller]
    pub(crate) fn failed(&self, host: &str) -> u32 {
        self.count(host, "failed")
    }
}

/// The lines after `PLAY RECAP`: `web-01 : ok=20 changed=0 ...`.
fn recap(printed: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let lines = printed.lines().skip_while(|line| !line.starts_with("PLAY RECAP")).skip(1);
    let hosts = lines.filter_map(|line| line.split_once(" : "));
    let count = |pair: &str| pair.split_once('=').and_then(|(word, n)| Some((word.to_owned(), n.parse().ok()?)));
    hosts
        .map(|(host, counts)| (host.trim().to_owned(), counts.split_whitespace().filter_map(count).collect()))
        .collect()
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}
