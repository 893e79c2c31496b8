//! `weft maint`: takes a service, or the whole host, out of calls for a while.

use clap::Subcommand;
use serde::Serialize;

use super::checks::{self, Maintained};
use super::client::{Client, encode};
use super::names;
use super::output::{CliError, Globals, Table, print, print_json};

/// Take a service or this host out of calls for a while
///
/// Other hosts stop calling it at once; calls under way end in their own time. It survives restarts of the agent.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft maint on billing --reason 'schema change'
  weft maint off billing
  weft maint on                # the whole host
  weft maint status")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

/// Consul's words where nobody gave a reason.
const NO_REASON: &str = "Maintenance mode is enabled for this ";

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Begin it
    On {
        /// The service's id [default: the whole host]
        id: Option<String>,
        /// Why, for whoever looks
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// End it
    Off {
        /// The service's id [default: the whole host]
        id: Option<String>,
    },
    /// Tell what is in maintenance on this host
    Status {
        /// Only this service
        id: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct Done {
    /// `None` is the host.
    service: Option<String>,
    maintenance: bool,
    reason: Option<String>,
}

/// One thing that is in maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    /// `None` is the host.
    pub(super) service: Option<String>,
    pub(super) reason: String,
}

#[derive(Debug, Serialize)]
struct Listing {
    maintenance: Vec<Line>,
}

/// What these checks say is in maintenance, the host first.
pub(super) fn lines(checks: &[checks::Check]) -> Vec<Line> {
    let line = |check: &checks::Check| {
        let service = match check.maintained()? {
            Maintained::Host => None,
            Maintained::Service(id) => Some(id),
        };
        let given = !check.notes.starts_with(NO_REASON);
        Some(Line { service, reason: if given { check.notes.clone() } else { String::new() } })
    };
    let mut lines: Vec<Line> = checks.iter().filter_map(line).collect();
    lines.sort_by(|a, b| a.service.cmp(&b.service));
    lines
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    match &args.verb {
        Verb::On { id, reason } => switch(&client, id.as_deref(), true, reason.clone(), globals),
        Verb::Off { id } => switch(&client, id.as_deref(), false, None, globals),
        Verb::Status { id } => status(&client, id.as_deref(), globals),
    }
}

fn switch(
    client: &Client,
    id: Option<&str>,
    on: bool,
    reason: Option<String>,
    globals: &Globals,
) -> Result<(), CliError> {
    let service = id.map(|id| names::id(client, id)).transpose()?;
    let path = match &service {
        Some(id) => format!("/v1/agent/service/maintenance/{}", encode(id)),
        None => "/v1/agent/maintenance".to_owned(),
    };
    let why = reason.as_ref().map(|reason| format!("&reason={}", encode(reason))).unwrap_or_default();
    client.put(&format!("{path}?enable={on}{why}"))?;
    if globals.json {
        return print_json(&Done { service, maintenance: on, reason });
    }
    let what = service.as_deref().unwrap_or("this host");
    let undo = service.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    match on {
        true => {
            print(&format_args!("{what} is in maintenance and takes no new calls; to end it: weft maint off{undo}\n"))
        }
        false => print(&format_args!("{what} is not in maintenance\n")),
    }
}

fn status(client: &Client, id: Option<&str>, globals: &Globals) -> Result<(), CliError> {
    let id = id.map(|id| names::id(client, id)).transpose()?;
    let mut maintenance = lines(&checks::of_this_host(client)?);
    maintenance.retain(|line| id.is_none() || line.service == id);
    if globals.json {
        return print_json(&Listing { maintenance });
    }
    if maintenance.is_empty() {
        return print(&format_args!(
            "{} in maintenance\n",
            id.map_or("Nothing here is".into(), |id| format!("{id} is not"))
        ));
    }
    let mut table = Table::new(&["WHAT", "REASON"]);
    for line in &maintenance {
        table.row([line.service.as_deref().unwrap_or("this host"), &line.reason]);
    }
    print(&table)
}
