//! `weft audit`: what was changed by the API of this host, and what was refused.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::output::{CliError, Globals, Table, json_line, print, print_line, remark};
use crate::access::{AUDIT_FILE, Entry, Outcome, append, read_audit};

/// Show who changed what by this host's API, and who was refused
///
/// Each write that the API was asked for is one line: when, who (the user and program behind the unix socket; the token; the
/// address and user of a program of this host), what, and what became of it. Reports for TTL checks have a line when they
/// say something else than before. The log is bounded (two files of 8 MiB), and this host's only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft audit --since 1h
  weft audit -n 20
  weft audit --json | jq 'select(.outcome == \"refused\")'")]
pub(super) struct Args {
    /// Only of the last time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only so many, the latest
    #[arg(short = 'n', long = "lines", value_name = "COUNT")]
    lines: Option<usize>,
    /// The agent's data directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

fn who(entry: &Entry) -> String {
    let mut parts = Vec::new();
    parts.extend(entry.token.as_ref().map(|token| format!("token {token}")));
    parts.extend(entry.uid.map(|uid| format!("uid {uid}")));
    parts.extend(entry.program.clone());
    parts.extend(entry.cgroup.as_deref().and_then(|cgroup| cgroup.rsplit('/').next()).map(str::to_owned));
    parts.extend(entry.address.clone());
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn outcome(entry: &Entry) -> String {
    let word = match entry.outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
    };
    match (&entry.reason, entry.omitted) {
        (Some(reason), 0) => format!("{word}: {reason}"),
        (Some(reason), omitted) => format!("{word}: {reason} (and {omitted} more before it that were not done)"),
        (None, _) => word.to_owned(),
    }
}

fn is_after(entry: &Entry, start: SystemTime) -> bool {
    humantime::parse_rfc3339(&entry.time).is_ok_and(|at| at >= start)
}

/// What a verb did to the files of this host has a line in its audit log: the API was not asked. A log that takes none is told
/// of, and stops nothing.
pub(super) fn tell(data_dir: &Path, verb: &str, subject: String) {
    let entry = Entry {
        via: "command".to_owned(),
        uid: Some(rustix::process::getuid().as_raw()),
        gid: Some(rustix::process::getgid().as_raw()),
        program: std::env::var("SUDO_USER").ok().map(|user| format!("sudo by {user}")),
        method: "weft".to_owned(),
        path: verb.to_owned(),
        subject,
        ..Entry::default()
    };
    if let Err(error) = append(data_dir, entry) {
        remark(&format!("remark: this is not in the audit log: {error}\n"));
    }
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let path = args.data_dir.join(AUDIT_FILE);
    let read = read_audit(&args.data_dir).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        CliError::failed(message, "run it as root or as the user weft, or name the agent's --data-dir")
    });
    let (mut entries, unreadable) = read?;
    if let Some(start) = args.since.and_then(|since| SystemTime::now().checked_sub(since)) {
        entries.retain(|entry| is_after(entry, start));
    }
    if let Some(lines) = args.lines {
        entries.drain(..entries.len().saturating_sub(lines));
    }
    if unreadable > 0 {
        remark(&format!("remark: {unreadable} lines of {} cannot be read\n", path.display()));
    }
    if globals.json {
        for entry in &entries {
            if !print_line(&json_line(entry)?)? {
                break;
            }
        }
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "VIA", "WHO", "WHAT", "OUTCOME"]);
    for entry in &entries {
        let what = match entry.subject.as_str() {
            "" => format!("{} {}", entry.method, entry.path),
            subject => subject.to_owned(),
        };
        table.row([entry.time.clone(), entry.via.clone(), who(entry), what, outcome(entry)]);
    }
    print(&table)
}
