//! `weft force-leave`: says of a failed host that it will not come back.

use serde::Serialize;

use super::client::{Client, encode};
use super::output::{CliError, Globals, print, print_json};

/// Say of a failed host that it will not come back
///
/// It counts as left on every host. A host that is alive refutes it and stays.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft force-leave web-03
  weft force-leave --prune web-03    # and forget it at once")]
pub(super) struct Args {
    /// The host's name, with or without .node and the domain
    node: String,
    /// Forget it at once, not after days
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    node: String,
    pruned: bool,
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    // Host names are one label, so all from the first dot on is DNS.
    let node = args.node.split('.').next().unwrap_or_default().to_owned();
    let query = if args.prune { "?prune" } else { "" };
    let client = Client::connect(globals.api.clone())?;
    client.put(&format!("/v1/agent/force-leave/{}{query}", encode(&node)))?;
    if globals.json {
        return print_json(&Done { node, pruned: args.prune });
    }
    print(&format_args!("{node} counts as left\n"))
}
