//! `weft reload`: the agent reads its files again.

use serde::Serialize;

use super::client::Client;
use super::output::{CliError, Globals, print, print_json};

/// Have the agent read its files again
///
/// The same as SIGHUP and `systemctl reload weft`, but a mistake in a file is told here, and nothing changes then.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  weft validate && weft reload")]
pub(super) struct Args {}

#[derive(Debug, Serialize)]
struct Done {
    reloaded: bool,
}

/// Runs the verb.
pub(super) fn run(_args: &Args, globals: &Globals) -> Result<(), CliError> {
    Client::connect(globals.api.clone())?.put("/v1/agent/reload").map_err(|error| match error.advice.is_empty() {
        true => {
            CliError { advice: "correct the files; `weft validate` tells every mistake with its line".into(), ..error }
        }
        false => error,
    })?;
    if globals.json {
        return print_json(&Done { reloaded: true });
    }
    print(&"The files are read and taken over; what waits for a restart is in the log: journalctl -u weft\n")
}
