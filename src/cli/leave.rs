//! `weft leave`: takes this host out of the cluster gracefully.

use serde::Serialize;

use super::client::Client;
use super::output::{CliError, Globals, print, print_json};

/// Take this host out of the cluster gracefully
///
/// The agent tells the others that it leaves, so that they stop sending calls here at once instead of finding out by
/// failed probes, and then stops. Its identity and services stay on disk: when the agent is started again, the host is
/// back.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft leave
  weft leave --api 127.0.0.2:8500    # another agent on this machine, as in `weft dev`")]
pub(super) struct Args {}

#[derive(Debug, Serialize)]
struct Done {
    left: bool,
}

/// Runs the verb.
pub(super) fn run(_args: Args, globals: &Globals) -> Result<(), CliError> {
    Client::connect(globals.api.clone())?.put("/v1/agent/leave")?;
    if globals.json {
        return print_json(&Done { left: true });
    }
    print(&"This host has left the cluster. To bring it back: systemctl start weft\n")
}
