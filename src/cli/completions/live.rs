//! `weft complete`: names for a shell that waits with its prompt. Quick, or nothing.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::client::Client;
use crate::cli::output::{Api, CliError, Globals, print};

/// A prompt that hangs for longer is worse than no names.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// More than anybody looks through.
const NAMES_MAX: usize = 10_000;

/// Print the names that the agent knows, one a line
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Args {
    /// Names of what
    #[arg(value_enum)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Services of the mesh
    Services,
    /// Hosts of the mesh
    Nodes,
    /// Ids of this host's services
    Ids,
    /// Ids of this host's checks
    Checks,
}

/// Runs the verb. Never fails: an error would be printed over the prompt.
pub(in crate::cli) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let (told, answer) = mpsc::channel();
    let (kind, api) = (args.kind, globals.api.clone());
    // Left alone when it is too slow; it ends with the process.
    std::thread::spawn(move || {
        let _nobody_waits = told.send(names(kind, api));
    });
    let names = answer.recv_timeout(ANSWER_MAX).ok().and_then(Result::ok).unwrap_or_default();
    let lines: String =
        names.iter().filter(|name| is_plain(name)).take(NAMES_MAX).map(|name| format!("{name}\n")).collect();
    print(&lines)
}

fn names(kind: Kind, api: Api) -> Result<Vec<String>, CliError> {
    #[derive(Deserialize)]
    struct Member {
        #[serde(rename = "Name")]
        name: String,
    }
    let client = Client::connect(api)?;
    let keys =
        |path| client.get_json::<BTreeMap<String, IgnoredAny>>(path).map(|told| told.value.into_keys().collect());
    match kind {
        Kind::Services => keys("/v1/catalog/services"),
        Kind::Ids => keys("/v1/agent/services"),
        Kind::Checks => keys("/v1/agent/checks"),
        Kind::Nodes => {
            let members = client.get_json::<Vec<Member>>("/v1/agent/members")?.value;
            Ok(members.into_iter().map(|member| member.name).collect())
        }
    }
}

/// Shells give meaning to nearly everything else.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@' | '+');
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_shell_could_read_as_more_are_not_offered() {
        for name in ["billing", "service:web:2", "web.blue-1"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "-rf", "$(reboot)", "a b", "a;b", "a\nb", "a*", "'", "\u{1b}[2J"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
