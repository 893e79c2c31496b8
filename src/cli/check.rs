//! `weft check`: a report for a TTL check, from a cron job or a script.

use clap::ValueEnum;
use serde::Serialize;

use super::client::{Client, encode};
use super::output::{CliError, Globals, print, print_json};

/// Report for a TTL check of this host
///
/// A TTL check is critical when nothing is reported for its time.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft check pass service:billing
  weft check fail backup --note 'last backup is 30 h old'
  backup.sh && weft check pass backup || weft check fail backup")]
pub(super) struct Args {
    /// What is reported
    #[arg(value_enum)]
    verdict: Verdict,
    /// The check's id
    id: String,
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
    };
    let note = if args.note.is_empty() { String::new() } else { format!("?note={}", encode(&args.note)) };
    let client = Client::connect(globals.api.clone())?;
    client.put(&format!("/v1/agent/check/{word}/{}{note}", encode(&args.id)))?;
    if globals.json {
        return print_json(&Done { check: &args.id, health });
    }
    print(&format_args!("{} is {health}\n", args.id))
}
