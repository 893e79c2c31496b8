//! `weft history`: what has happened, as this host saw it. Reads the files itself, so it works with the agent dead.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::output::{CliError, EXIT_NOT_FOUND, Globals, Table, json_line, print, print_line, remark};
use crate::history::{Event, HISTORY_FILE, Kind, read_history};

/// Show what has happened in the mesh, as this host saw it; works while the agent is dead
///
/// Hosts that joined, failed, left or came back; instances whose verdict changed, on any host; what operators decided;
/// instances that this host's calls were kept from; certificates; starts and stops of the agent, and contact lost. One
/// event a line, the oldest first. A subject that changes all the time has twenty lines and then one in ten minutes, which
/// says how many were left out. The history is bounded (two files of 4 MiB), and this host's only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft history --since 2h
  weft history --kind member,health --service billing
  weft history --json | jq 'select(.what == \"failed\")'")]
pub(super) struct Args {
    /// Only of the last time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only these, with commas between them
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_enum)]
    kinds: Vec<Word>,
    /// Only about this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only about this host
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only so many, the latest
    #[arg(short = 'n', long = "lines", value_name = "COUNT")]
    lines: Option<usize>,
    /// The agent's data directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Word {
    /// The agent of this host
    Agent,
    /// Hosts
    Member,
    /// Verdicts of checks
    Health,
    /// Decisions of operators
    Policy,
    /// Instances that are kept from calls
    Ejection,
    /// Certificates, revoked ones too
    Certificate,
}

impl From<Word> for Kind {
    fn from(word: Word) -> Kind {
        match word {
            Word::Agent => Kind::Agent,
            Word::Member => Kind::Member,
            Word::Health => Kind::Health,
            Word::Policy => Kind::Policy,
            Word::Ejection => Kind::Ejection,
            Word::Certificate => Kind::Certificate,
        }
    }
}

impl Args {
    fn shows(&self, event: &Event, start: Option<SystemTime>) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        event.at() >= start
            && (self.kinds.is_empty() || self.kinds.iter().any(|word| Kind::from(*word) == event.kind))
            && is(&self.service, &event.service)
            && is(&self.node, &event.node)
    }
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let path = args.data_dir.join(HISTORY_FILE);
    let read = read_history(&args.data_dir).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        CliError::failed(message, "run it as root or as the user weft, or name the agent's --data-dir")
    });
    let (mut events, unreadable) = read?;
    if events.is_empty() && unreadable == 0 && !path.exists() {
        let message = format!("there is no history in {}", args.data_dir.display());
        let advice = "name the data directory of an agent that has run, with --data-dir";
        return Err(CliError::failed(message, advice).exiting(EXIT_NOT_FOUND));
    }
    let start = args.since.and_then(|since| SystemTime::now().checked_sub(since));
    events.retain(|event| args.shows(event, start));
    if let Some(lines) = args.lines {
        events.drain(..events.len().saturating_sub(lines));
    }
    if unreadable > 0 {
        remark(&format!("remark: {unreadable} lines of {} cannot be read\n", path.display()));
    }
    if globals.json {
        for event in &events {
            if !print_line(&json_line(event)?)? {
                break;
            }
        }
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "KIND", "WHAT"]);
    for Event { time, kind, words, omitted, .. } in &events {
        let words = match omitted {
            0 => words.clone(),
            count => format!("{words} (and {count} more before it that were left out)"),
        };
        table.row([time.as_str(), kind.as_str(), &words]);
    }
    print(&table)
}
