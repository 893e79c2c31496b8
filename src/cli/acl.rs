//! `weft acl`: tokens of this host's API. They are made and deleted in the agent's files, which it reads again by itself.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::audit::tell;
use super::output::{CliError, EXIT_NOT_FOUND, EXIT_USAGE, Globals, Table, print, print_json};
use crate::access::{AclError, Role, ServiceGlob, Token, acl_create, acl_delete, acl_list};

/// Make, list and delete tokens of this host's API
///
/// Programs of this host read its API without a token. To change something they show one (X-Consul-Token, or Authorization:
/// Bearer), or come over the unix socket as root or as a member of the group weft. Each host has its own tokens. These are not
/// the tokens that hosts join with: those are `weft token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft acl create web-deploy --role register --service 'web-*' > /etc/web/weft-token
  weft acl create backup --role read --ttl 30d
  weft acl list
  weft acl delete web-deploy
  weft --api 127.0.0.1:8500 --api-token /etc/web/weft-token register --name web-1 --port 8080")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token; it alone is printed, and kept nowhere
    Create(Create),
    /// List the tokens
    List(Home),
    /// Delete a token; it opens nothing from then on
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
struct Home {
    /// The agent's data directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What it is called, here and in `weft audit`
    name: String,
    /// What it is good for
    #[arg(long, value_enum)]
    role: Word,
    /// Of `register`: a service that it may register, or a glob; may be given several times
    #[arg(long = "service", value_name = "GLOB")]
    services: Vec<ServiceGlob>,
    /// How long it is good [default: until it is deleted]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    home: Home,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// As `weft acl list` shows it
    name: String,
    #[command(flatten)]
    home: Home,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    /// Read, where reading needs a token
    Read,
    /// Register, deregister and maintain the services of --service, and their checks
    Register,
    /// Everything
    Operator,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    #[serde(flatten)]
    role: &'a Role,
    created_unix_s: u64,
    expires_unix_s: Option<u64>,
}

#[derive(Serialize)]
struct Made<'a> {
    token: &'a str,
    #[serde(flatten)]
    shown: Shown<'a>,
}

#[derive(Serialize)]
struct Listing<'a> {
    tokens: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Deleted<'a> {
    name: &'a str,
    deleted: bool,
}

fn shown(token: &Token) -> Shown<'_> {
    Shown {
        name: &token.name,
        role: &token.role,
        created_unix_s: token.created_unix_s,
        expires_unix_s: token.expires_unix_s,
    }
}

fn failed(error: &AclError) -> CliError {
    let told = CliError::failed(error.to_string(), "");
    match error {
        AclError::Invalid(_) => told.exiting(EXIT_USAGE),
        AclError::NotFound(_) => told.exiting(EXIT_NOT_FOUND),
        _ => told,
    }
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::Create(args) => create(args, globals),
        Verb::List(home) => list(home, globals),
        Verb::Delete(args) => delete(args, globals),
    }
}

fn create(args: &Create, globals: &Globals) -> Result<(), CliError> {
    let usage = |message: &str| Err(CliError::failed(message, "").exiting(EXIT_USAGE));
    let role = match args.role {
        Word::Register => Role::Register { services: args.services.clone() },
        _ if !args.services.is_empty() => return usage("--service goes with --role register only"),
        Word::Read => Role::Read,
        Word::Operator => Role::Operator,
    };
    let made = acl_create(&args.home.data_dir, &args.name, role, args.ttl).map_err(|error| failed(&error))?;
    tell(&args.home.data_dir, "acl create", format!("token {} ({})", made.token.name, made.token.role));
    if globals.json {
        return print_json(&Made { token: &made.secret, shown: shown(&made.token) });
    }
    print(&format_args!("{}\n", made.secret))
}

fn list(home: &Home, globals: &Globals) -> Result<(), CliError> {
    let tokens = acl_list(&home.data_dir).map_err(|error| failed(&error))?;
    if globals.json {
        return print_json(&Listing { tokens: tokens.iter().map(shown).collect() });
    }
    let mut table = Table::new(&["NAME", "ROLE", "CREATED", "EXPIRES"]);
    let time = |unix_s: u64| {
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(unix_s.min(253_402_300_799)));
        humantime::format_rfc3339_seconds(at.unwrap_or(UNIX_EPOCH)).to_string()
    };
    for token in &tokens {
        let expires = token.expires_unix_s.map(time).unwrap_or_default();
        table.row([token.name.clone(), token.role.to_string(), time(token.created_unix_s), expires]);
    }
    print(&table)
}

fn delete(args: &Delete, globals: &Globals) -> Result<(), CliError> {
    let token = acl_delete(&args.home.data_dir, &args.name).map_err(|error| failed(&error))?;
    tell(&args.home.data_dir, "acl delete", format!("token {} ({})", token.name, token.role));
    if globals.json {
        return print_json(&Deleted { name: &token.name, deleted: true });
    }
    print(&format_args!("{} is deleted: it opens nothing from now on\n", token.name))
}
