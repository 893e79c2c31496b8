//! `weft token`: join tokens, made, listed and revoked on the issuer whose ledger they are in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::audit::tell;
use super::output::{CliError, EXIT_NOT_FOUND, Globals, Table, print, print_json};
use crate::identity::{TokenInfo, token_create, token_list, token_revoke};
use crate::model::NodeName;

/// Make, list and revoke join tokens, on an issuer
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token; it alone is printed, so that scripts can take it
    #[command(after_help = "Example:\n  weft token create --issuer 10.0.0.10:7947 --ttl 1h --service 'billing'")]
    Create(Create),
    /// List the tokens of the last month; their secrets are kept nowhere
    List(List),
    /// Let nobody enrol with a token any more
    #[command(after_help = "Example:\n  weft token revoke 0123456789abcdef")]
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// This host's mesh address, as the new host reaches it
    #[arg(long, value_name = "IP:PORT")]
    issuer: SocketAddr,
    /// How long the token may be used
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How many hosts may enrol with it
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    uses: u32,
    /// A service that the new host may run, or a pattern; may be given several times [default: any]
    #[arg(long = "service", value_name = "PATTERN")]
    services: Vec<String>,
    /// The only host name that may enrol with it
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The token's id, as `weft token list` shows it
    id: String,
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Serialize)]
struct Created {
    token: String,
    #[serde(flatten)]
    info: TokenInfo,
}

#[derive(Serialize)]
struct Listing {
    tokens: Vec<TokenInfo>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::Create(args) => create(args, globals),
        Verb::List(args) => list(args, globals),
        Verb::Revoke(args) => revoke(args, globals),
    }
}

fn revoke(args: &Revoke, globals: &Globals) -> Result<(), CliError> {
    let found = token_revoke(&args.data_dir, &args.id).map_err(|error| CliError::failed(error.to_string(), ""))?;
    if !found {
        let sentence = format!("there is no token {}", args.id);
        return Err(CliError::failed(sentence, "weft token list shows those of this issuer").exiting(EXIT_NOT_FOUND));
    }
    tell(&args.data_dir, "token revoke", format!("join token {}", args.id));
    if globals.json {
        return print_json(&serde_json::json!({ "id": args.id, "revoked": true }));
    }
    print(&format_args!("token {} is revoked; hosts that have enrolled with it stay\n", args.id))
}

fn create(args: &Create, globals: &Globals) -> Result<(), CliError> {
    let services = if args.services.is_empty() { vec!["*".to_owned()] } else { args.services.clone() };
    let (token, info) = token_create(&args.data_dir, args.issuer, args.ttl, args.uses, services, args.node.clone())
        .map_err(|error| CliError::failed(error.to_string(), ""))?;
    let only = info.node.as_ref().map(|node| format!(" as {node}")).unwrap_or_default();
    let (services, uses) = (info.services.join(" "), info.uses_left);
    tell(&args.data_dir, "token create", format!("join token {}, uses {uses}, services {services}{only}", info.id));
    if globals.json {
        return print_json(&Created { token, info });
    }
    print(&format_args!("{token}\n"))
}

fn list(args: &List, globals: &Globals) -> Result<(), CliError> {
    let tokens = token_list(&args.data_dir).map_err(|error| CliError::failed(error.to_string(), ""))?;
    if globals.json {
        return print_json(&Listing { tokens });
    }
    let mut table = Table::new(&["ID", "EXPIRES", "USES LEFT", "SERVICES", "NODE", "ENROLLED"]);
    for token in &tokens {
        let expires = std::time::UNIX_EPOCH + Duration::from_secs(token.expires_unix_s);
        let enrolled: Vec<&str> = token.enrolled.iter().map(NodeName::as_str).collect();
        table.row([
            token.id.clone(),
            humantime::format_rfc3339_seconds(expires).to_string(),
            token.uses_left.to_string(),
            token.services.join(" "),
            token.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            enrolled.join(" "),
        ]);
    }
    print(&table)
}
