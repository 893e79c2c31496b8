//! `weft whoami`: which service a program calls as, asked by a program that runs as it does.

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::output::{Api, CliError, Globals, print, print_json};

/// The unix socket does not carry what the kernel is asked by.
const API_DEFAULT: &str = "127.0.0.1:8500";

/// Tell which service a program like this one calls as
///
/// The agent asks the kernel who this very command is, as it does of every program that calls a service: its user, and its
/// control group, which is its systemd unit. Run it as the service runs: with its user, or within its unit.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft whoami
  runuser -u billing -- weft whoami
  systemd-run --pipe --uid=billing weft whoami     # a unit of its own: only `user` can hold")]
pub(super) struct Args {}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    service: Option<String>,
    client: String,
    uid: Option<u32>,
    cgroup: Option<String>,
    why: String,
}

/// Runs the verb.
pub(super) fn run(_args: &Args, globals: &Globals) -> Result<(), CliError> {
    let is_given = globals.api.address.is_some() || std::env::var("WEFT_API").is_ok_and(|text| !text.is_empty());
    let address = if is_given { globals.api.address.clone() } else { Some(API_DEFAULT.to_owned()) };
    let api = Api { address, ..globals.api.clone() };
    let told: Told = Client::connect(api)?.get_json("/v1/weft/whoami")?.value;
    if globals.json {
        return print_json(&told);
    }
    let service = told.service.as_deref().unwrap_or("anonymous");
    let uid = told.uid.map_or("unknown".to_owned(), |uid| uid.to_string());
    let cgroup = told.cgroup.as_deref().unwrap_or("unknown");
    print(&format!(
        "{service}: {}\n  user    {uid}\n  cgroup  {cgroup}\n  sent    x-weft-client: {}\n",
        told.why, told.client
    ))
}
