//! `weft deregister`: lets go of a service that came by the API.

use serde::Serialize;

use super::client::{Client, encode};
use super::names;
use super::output::{CliError, Globals, print, print_json};

/// Let go of a service of this host
///
/// Other hosts stop calling it at once; calls under way end in their own time. Services of files stay: remove the file
/// and run `weft reload`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft deregister billing
  weft deregister billing-2")]
pub(super) struct Args {
    /// The service's id, which is its name where none was given
    id: String,
}

#[derive(Debug, Serialize)]
struct Done {
    deregistered: String,
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let id = names::id(&client, &args.id)?;
    client.put(&format!("/v1/agent/service/deregister/{}", encode(&id)))?;
    if globals.json {
        return print_json(&Done { deregistered: id });
    }
    print(&format_args!("{id} is deregistered\n"))
}
