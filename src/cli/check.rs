//! `weft check`: a report for a TTL check, from a cron job or a script; `weft check intentions` looks for ways around them.

use clap::ValueEnum;
use serde::Serialize;

use super::client::{Client, encode};
use super::open_ports;
use super::output::{CliError, EXIT_USAGE, Globals, print, print_json};

/// Report for a TTL check of this host, or look for ways around intentions
///
/// A TTL check is critical when nothing is reported for its time. `weft check intentions` takes no id: it tells which services of
/// this host are open beyond loopback, and the firewall rule that closes them.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft check pass service:billing
  weft check fail backup --note 'last backup is 30 h old'
  backup.sh && weft check pass backup || weft check fail backup
  weft check intentions")]
pub(super) struct Args {
    /// What is reported
    #[arg(value_enum)]
    verdict: Verdict,
    /// The check's id
    #[arg(required_if_eq_any([("verdict", "pass"), ("verdict", "warn"), ("verdict", "fail")]))]
    id: Option<String>,
    /// For people; at most 4 KiB are kept
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verdict {
    /// It works
    Pass,
    /// It works; somebody should look
    Warn,
    /// It does not work
    Fail,
    /// Nothing: tell which services of this host can be called around intentions
    Intentions,
}

#[derive(Debug, Serialize)]
struct Done<'a> {
    check: &'a str,
    health: &'static str,
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let (word, health) = match args.verdict {
        Verdict::Pass => ("pass", "passing"),
        Verdict::Warn => ("warn", "warning"),
        Verdict::Fail => ("fail", "critical"),
        Verdict::Intentions => return open_ports::run(globals),
    };
    let Some(id) = &args.id else {
        return Err(CliError::failed("which check?", "give its id; `weft status` shows those that do not pass")
            .exiting(EXIT_USAGE));
    };
    let note = if args.note.is_empty() { String::new() } else { format!("?note={}", encode(&args.note)) };
    let client = Client::connect(globals.api.clone())?;
    client.put(&format!("/v1/agent/check/{word}/{}{note}", encode(id)))?;
    if globals.json {
        return print_json(&Done { check: id, health });
    }
    print(&format_args!("{id} is {health}\n"))
}
