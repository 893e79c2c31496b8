//! `weft issuer`: which hosts issue certificates. Decided where the root's key is kept, and done by the agents.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::ca::{Keeper, when};
use super::client::Client;
use super::output::{CliError, Globals, Table, print, print_json};
use super::trust::TrustView;
use crate::model::{ISSUERS_MAX, Trust};

/// Say which hosts issue certificates
///
/// Two are enough: while one is away the other enrols and renews. A host that is made an issuer gets a certificate of its own to
/// issue with; its key is made there and stays there.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make another host an issuer; run where the root's key is
    #[command(after_help = "Example:\n  weft issuer add db-01")]
    Add(Change),
    /// Let a host issue no more; hosts whose certificates it made get new ones from others at once
    Remove(Change),
    /// List the hosts that issue
    List,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The host: its name, or its id
    host: String,
    /// How long to wait until it is done everywhere
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Serialize)]
struct Done {
    host: String,
    done: bool,
}

#[derive(Serialize)]
struct Listed {
    node: String,
    name: String,
    state: String,
    not_after_unix_s: u64,
    issued_for: usize,
}

#[derive(Serialize)]
struct Listing {
    issuers: Vec<Listed>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::Add(change) => add(change, globals),
        Verb::Remove(change) => remove(change, globals),
        Verb::List => list(globals),
    }
}

fn add(change: &Change, globals: &Globals) -> Result<(), CliError> {
    let keeper = Keeper::open(&change.data_dir)?;
    let client = Client::connect(globals.api.clone())?;
    let view = TrustView::fetch(&client)?;
    let host = view.host(&change.host)?;
    let mut issuers = view.issuers(keeper.node())?;
    keeper.check_is_first(&issuers, &view)?;
    keeper.check_root_key()?;
    let id = host.id()?;
    if !issuers.contains(&id) {
        if issuers.len() >= ISSUERS_MAX {
            let sentence = format!("there are {ISSUERS_MAX} issuers, as many as there may be");
            return Err(CliError::failed(sentence, "let another go first: weft issuer remove HOST"));
        }
        issuers.push(id);
        keeper.decide(&client, Trust { roots: view.roots()?, issuers })?;
    }
    let node = host.node.clone();
    let issues = |view: &TrustView| {
        let done = view.nodes.iter().any(|host| host.node == node && host.issues());
        if done { Ok(()) } else { Err("it does not issue yet; its log says why".to_owned()) }
    };
    keeper.wait(&client, change.wait, issues)?;
    if globals.json {
        return print_json(&Done { host: host.name.clone(), done: true });
    }
    print(&format_args!(
        "{0} issues certificates from now on\n\nNext: make tokens there as well: weft token create --issuer {1}\n",
        host.name, host.mesh
    ))
}

fn remove(change: &Change, globals: &Globals) -> Result<(), CliError> {
    let keeper = Keeper::open(&change.data_dir)?;
    let client = Client::connect(globals.api.clone())?;
    let view = TrustView::fetch(&client)?;
    let host = view.host(&change.host)?;
    let id = host.id()?;
    let mut issuers = view.issuers(keeper.node())?;
    keeper.check_is_first(&issuers, &view)?;
    if id == keeper.node() {
        let sentence = format!("{} keeps the root's key, and with it the say over issuers", host.name);
        return Err(CliError::failed(sentence, "the last issuer cannot be removed"));
    }
    if issuers.contains(&id) {
        issuers.retain(|issuer| *issuer != id);
        keeper.decide(&client, Trust { roots: view.roots()?, issuers })?;
    }
    let node = host.node.clone();
    let released = |view: &TrustView| {
        let living = view.nodes.iter().filter(|host| host.state == "alive" && host.issuer.as_ref() == Some(&node));
        let names: Vec<&str> = living.map(|host| host.name.as_str()).collect();
        if names.is_empty() { Ok(()) } else { Err(format!("these have certificates of it: {}", names.join(", "))) }
    };
    keeper.wait(&client, change.wait, released)?;
    if globals.json {
        return print_json(&Done { host: host.name.clone(), done: true });
    }
    print(&format_args!(
        "{0} issues no certificates any more; it still holds a key that could. If it is not to be trusted:\n  \
         weft ca revoke {0}\n",
        host.name
    ))
}

fn list(globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let view = TrustView::fetch(&client)?;
    let listed: Vec<Listed> = view
        .issuing()
        .into_iter()
        .map(|host| Listed {
            node: host.node.clone(),
            name: host.name.clone(),
            state: host.state.clone(),
            not_after_unix_s: host.not_after_unix_s,
            issued_for: view.nodes.iter().filter(|other| other.issuer.as_ref() == Some(&host.node)).count(),
        })
        .collect();
    if globals.json {
        return print_json(&Listing { issuers: listed });
    }
    let mut table = Table::new(&["ISSUER", "STATE", "HOSTS", "CERTIFICATE ENDS", "ID"]);
    for issuer in listed {
        let hosts = issuer.issued_for.to_string();
        table.row([&issuer.name, &issuer.state, &hosts, &when(issuer.not_after_unix_s), &issuer.node]);
    }
    print(&table)
}
