//! The clients, pinned and installed once, in the target directory, so that later runs need no network.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::process::run;

const PY_CONSUL: &str = "py-consul==1.8.0";
const NPM_CONSUL: &str = "consul@2.0.1";

/// Runs commands that make `folder`, unless it is there whole already.
fn installed(folder: &Path, commands: &mut [Command]) -> Result<(), String> {
    // Tests of one run may ask at once, from processes of their own. Released when the file is closed.
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(root()).map_err(failed)?;
    let alone = File::create(root().join("lock")).map_err(failed)?;
    flock(&alone, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let whole = folder.join("installed");
    if whole.exists() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(failed)?;
    for command in commands {
        let done = run(command);
        if !done.ok {
            return Err(format!("{command:?} says: {}", done.stderr.trim()));
        }
    }
    fs::write(&whole, "").map_err(failed)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("consul-clients")
}

fn folder(name: &str) -> PathBuf {
    root().join(name)
}

fn there(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if found { Ok(()) } else { Err(format!("no `{program}` here")) }
}

/// A Python that has py-consul.
pub(crate) fn python() -> Result<PathBuf, String> {
    there("python3")?;
    let folder = folder(PY_CONSUL);
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(folder.join("venv"));
    let mut pip = Command::new(folder.join("venv/bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", PY_CONSUL]);
    installed(&folder, &mut [venv, pip])?;
    Ok(folder.join("venv/bin/python"))
}

/// The folder whose `node_modules` has `consul`.
pub(crate) fn node_modules() -> Result<PathBuf, String> {
    there("node")?;
    there("npm")?;
    let folder = folder(NPM_CONSUL);
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"]).arg(&folder).arg(NPM_CONSUL);
    installed(&folder, &mut [npm])?;
    Ok(folder.join("node_modules"))
}

/// Debian's VictoriaMetrics; its Prometheus is built without Consul discovery.
pub(crate) fn victoria_metrics() -> Result<&'static str, String> {
    there("victoria-metrics").map_err(|error| format!("{error}; next: apt-get install victoria-metrics"))?;
    Ok("victoria-metrics")
}
