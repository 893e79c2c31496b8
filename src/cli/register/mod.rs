//! `weft register`: hands a service to this host's agent, from a file or from what stands on the command line.

mod body;
mod file;
mod flags;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::client::Client;
use super::output::{CliError, Globals, print, print_json};

/// Register a service on this host
///
/// From a file in Weft's form (TOML, `[[service]]`) or Consul's (JSON), or from options. The agent keeps it over
/// restarts, until `weft deregister`. A service of the same id that came this way is replaced, with its checks. With
/// checks it is announced after the first that passes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft register billing.toml
  consul-template-made.sh | weft register -
  weft register --name web --port 8080 --protocol http --check http=http://127.0.0.1:8080/health
  weft register --name pg --port 5432 --tag primary --check tcp=127.0.0.1:5432 --interval 2s
  weft register --name backup --port 9000 --check ttl=30s    # then: weft check pass service:backup")]
pub(super) struct Args {
    /// A service file, or - for standard input
    #[arg(required_unless_present = "name", conflicts_with = "Described")]
    file: Option<PathBuf>,
    #[command(flatten)]
    described: flags::Described,
}

#[derive(Debug, Serialize)]
struct Done {
    registered: Vec<Registered>,
}

#[derive(Debug, Serialize)]
struct Registered {
    id: String,
    name: String,
    checks: usize,
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let bodies = match &args.file {
        Some(path) => file::read(path)?,
        None => vec![args.described.body()?],
    };
    let client = Client::connect(globals.api.clone())?;
    let mut registered = Vec::new();
    for body in &bodies {
        let service = told(body);
        client.put_json("/v1/agent/service/register?replace-existing-checks=true", body).map_err(|error| {
            let mut message = format!("{} is not registered: {}", service.id, error.message);
            let others: Vec<&str> = registered.iter().map(|done: &Registered| done.id.as_str()).collect();
            if !others.is_empty() {
                message.push_str(&format!("; before it were registered: {}", others.join(", ")));
            }
            CliError { message, ..error }
        })?;
        registered.push(service);
    }
    if globals.json {
        return print_json(&Done { registered });
    }
    for Registered { id, name, checks } in &registered {
        let when = if *checks == 0 { "" } else { "; it is announced after its first passing check" };
        let whose = if id == name { String::new() } else { format!(", an instance of {name},") };
        print(&format_args!("{id}{whose} is registered{when}\n"))?;
    }
    let first = registered.first().map_or("", |service| service.name.as_str());
    print(&format_args!("To see it: weft services {first}\n"))
}

/// What a body says of itself; keys in whatever case Consul takes.
fn told(body: &Value) -> Registered {
    let text = |key| field(body, key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text("name");
    let id = Some(text("id")).filter(|id| !id.is_empty()).unwrap_or_else(|| name.clone());
    let one = usize::from(field(body, "check").is_some_and(|check| !check.is_null()));
    let checks = one + field(body, "checks").and_then(Value::as_array).map_or(0, Vec::len);
    Registered { id, name, checks }
}

fn field<'a>(body: &'a Value, key: &str) -> Option<&'a Value> {
    body.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}
