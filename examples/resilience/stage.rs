//! Where the experiments run: namespaces of the program's own for network, processes and mounts, so that nothing listens on the
//! machine and nothing stays, however the program ends; and a folder for logs, which is removed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::process::{must, run};

/// Set inside.
const INSIDE: &str = "WEFT_RESILIENCE_INSIDE";
/// Descriptors that a process may have open: thousands of connections, and two ends of each.
const FILES_MAX: u64 = 16_384;

/// What every experiment is given.
pub(crate) struct Stage {
    weft: PathBuf,
    folder: TempDir,
    seconds: Option<u32>,
    rate_percent: u32,
}

impl Stage {
    /// Goes inside: starts the program again in namespaces of its own, or returns where it is.
    pub(crate) fn enter() -> Result<(), String> {
        if std::env::var_os(INSIDE).is_some() {
            must("ip link set lo up");
            end_on_signals();
            return Ok(());
        }
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(FILES_MAX, |most| most.min(FILES_MAX));
        let raised = Rlimit { current: Some(wanted.max(limit.current.unwrap_or(0))), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| format!("the limit of open files: {error}"))?;
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        // The first process inside ends with this one, and all others with it.
        command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command.arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        Err(format!("cannot start unshare: {}; next: apt-get install util-linux", command.exec()))
    }

    pub(crate) fn new(weft: PathBuf, seconds: Option<u32>, rate_percent: u32) -> std::io::Result<Stage> {
        Ok(Stage { weft, folder: TempDir::with_prefix("weft-resilience-")?, seconds, rate_percent })
    }

    /// The agent's program.
    pub(crate) fn weft(&self) -> &Path {
        &self.weft
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// True if the agent knows policies about traffic; if not it is said that something is left out.
    pub(crate) fn has_policies(&self) -> bool {
        let knows = run(Command::new(&self.weft).args(["apply", "--help"])).ok;
        if !knows {
            eprintln!("left out: what needs `weft apply`, which this agent does not have");
        }
        knows
    }

    /// How long the experiment runs, if nothing else was asked for.
    pub(crate) fn seconds(&self, usual: u32) -> u32 {
        self.seconds.unwrap_or(usual)
    }

    /// What was asked for that makes its figures drafts.
    pub(crate) fn shortened(&self) -> String {
        let seconds = self.seconds.map(|seconds| format!("; shortened to {seconds} s")).unwrap_or_default();
        let rate = (self.rate_percent != 100).then(|| format!("; at {} % of the rate", self.rate_percent));
        seconds + &rate.unwrap_or_default()
    }

    /// How many calls it makes a second, less where less was asked for.
    pub(crate) fn rate(&self, usual_per_second: u32) -> u32 {
        (usual_per_second * self.rate_percent / 100).max(1)
    }
}

/// How much of each log is shown when an experiment fails.
const LOG_LINES_SHOWN: usize = 20;

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(self.folder.path());
        }
    }
}

fn show_logs(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            show_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("---- {}\n{}", path.display(), shown.join("\n"));
        }
    }
}

/// The first process of a namespace is not ended by signals that it does not take.
fn end_on_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM");
            let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT");
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        std::process::exit(130);
    });
}
