//! `weft join`: asks other hosts for the mesh, as seeds are asked.

use serde::Serialize;

use super::client::{Client, encode};
use super::output::{CliError, Globals, Plain, print, print_json, remark};

/// Ask hosts for the mesh, as if they were seeds
///
/// One that answers is enough. It is not remembered: `cluster.seeds` in weft.toml is asked again after a restart.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft join 10.0.0.10
  weft join db-01.example.net:7946 db-02.example.net:7946")]
pub(super) struct Args {
    /// Gossip addresses, HOST or HOST:PORT
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Done {
    joined: Vec<String>,
    failed: Vec<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    address: String,
    error: String,
}

/// Runs the verb. Fails if no address answered, or with JSON after telling so.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let mut done = Done { joined: Vec::new(), failed: Vec::new() };
    let mut last = None;
    for address in &args.addresses {
        match client.put(&format!("/v1/agent/join/{}", encode(address))) {
            Ok(()) => done.joined.push(address.clone()),
            Err(error) => {
                done.failed.push(Failure { address: address.clone(), error: error.message.clone() });
                last = Some(error);
            }
        }
    }
    if globals.json {
        print_json(&done)?;
    } else {
        for failure in done.failed.iter().filter(|_| !done.joined.is_empty()) {
            remark(&format!("{}: {}\n", Plain(&failure.address), Plain(&failure.error)));
        }
    }
    match last {
        Some(error) if done.joined.is_empty() => {
            let advice =
                "give gossip addresses (port 7946) of hosts of this cluster; `weft members` shows who is there";
            Err(CliError { advice: advice.into(), ..error })
        }
        _ if globals.json => Ok(()),
        _ => print(&format_args!("Asked {}; `weft members` shows who is there\n", done.joined.join(" and "))),
    }
}
