//! `weft policy`: what is stated about how calls of services are carried, by whom, and what was stated before; and the ways
//! back.

use clap::Subcommand;
use serde::Serialize;
use serde_json::{Map, Value};

use super::client::Client;
use super::decide::Key;
use super::output::{CliError, EXIT_NOT_FOUND, Globals, Plain, Table, print, print_json};
use super::traffic::{Form, Past, Stated, TRAFFIC_POLICIES, Told, file_of, in_words, read, told, when};
use crate::model::ServiceName;
use crate::policy::document::{Difference, Document};

/// Keys of a change that a row shows.
const KEYS_SHOWN_MAX: usize = 4;

/// See how calls of services are carried, and go back to what was stated before
///
/// `weft apply` and `weft shift` state it; every host keeps the last twenty statements of each service, under numbers that
/// are the same everywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft policy list
  weft policy show billing > billing.toml
  weft policy history billing
  weft policy revert billing --operator ~/anna.pem")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the services that something is stated of, and whether it is in force on this host
    List,
    /// Show what is stated of a service, as a file that `weft apply` takes
    Show(Named),
    /// List what was stated of a service, the latest first
    History(Named),
    /// State again what was stated before
    Revert(Revert),
    /// Take everything back that is stated of a service: the defaults hold
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The service
    service: ServiceName,
}

#[derive(Debug, clap::Args)]
struct Revert {
    /// The service
    service: ServiceName,
    /// The statement to go back to, by its number in `weft policy history` [default: the one before]
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// The service
    service: ServiceName,
    #[command(flatten)]
    key: Key,
}

#[derive(Serialize)]
struct Listing {
    policies: Vec<Told>,
}

#[derive(Serialize)]
struct Done<'a> {
    service: &'a str,
    changed: bool,
    /// Its number, where something was stated.
    number: Option<u64>,
    /// The number of the statement that was gone back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    differences: Vec<Difference>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = || Client::connect(globals.api.clone());
    match &args.verb {
        Verb::List => list(&client()?, globals),
        Verb::Show(named) => show(&client()?, &named.service, globals),
        Verb::History(named) => history(&client()?, &named.service, globals),
        Verb::Revert(revert) => revert.run(globals),
        Verb::Delete(delete) => delete.run(globals),
    }
}

fn list(client: &Client, globals: &Globals) -> Result<(), CliError> {
    let policies: Vec<Told> = client.get_json(TRAFFIC_POLICIES)?.value;
    if globals.json {
        return print_json(&Listing { policies });
    }
    if policies.is_empty() {
        return print(&"Nothing is stated of any service: the defaults hold\n");
    }
    let mut table = Table::new(&["SERVICE", "NUMBER", "OPERATOR", "AT", "SAYS", "STATE"]);
    let mut remarks = String::new();
    for told in &policies {
        let (service, number) = (&told.service, told.number.to_string());
        let says = told.stated.as_ref().map(groups).unwrap_or_default();
        table.row([service, &number, &told.operator, &when(told.at_unix_s), &says, &state(told)]);
        remarks.push_str(&remarks_on(told));
    }
    print(&format_args!("{table}{remarks}"))
}

/// What this host makes of it, in a few words.
fn state(told: &Told) -> String {
    let trial = told.stated.as_ref().and_then(|stated| stated.trial.as_ref());
    match trial.map(|trial| (trial.here.as_deref(), trial)) {
        _ if told.not_understood.is_some() => match told.applied {
            Some(number) => format!("not understood, {number} holds here"),
            None => "not understood, the defaults hold here".to_owned(),
        },
        Some((Some("applied"), trial)) => format!("on trial here until {}", when(trial.ends_unix_s)),
        Some((Some("elsewhere"), trial)) => {
            format!("in force; on trial in {} until {}", trial.zone, when(trial.ends_unix_s))
        }
        Some((Some("not-understood"), _)) => "in force; its trial is not understood here".to_owned(),
        _ if told.in_force => "in force".to_owned(),
        _ => "not in force yet".to_owned(),
    }
}

fn remarks_on(told: &Told) -> String {
    let mut remarks = String::new();
    if let Some(why) = &told.not_understood {
        remarks.push_str(&format!("{}: not understood here: {}\n", Plain(&told.service), Plain(why)));
    }
    for conflict in &told.conflicts {
        remarks.push_str(&format!(
            "{}: {} stated something else at the same time elsewhere; state it anew to settle it\n",
            Plain(&told.service),
            Plain(&conflict.operator)
        ));
    }
    remarks
}

/// The groups of keys that it says something of.
fn groups(stated: &Stated) -> String {
    let said: Map<String, Value> = serde_json::from_str(&stated.document).unwrap_or_default();
    let groups: Vec<&str> = said.keys().map(String::as_str).collect();
    if groups.is_empty() { "nothing".to_owned() } else { groups.join(",") }
}

fn show(client: &Client, service: &ServiceName, globals: &Globals) -> Result<(), CliError> {
    let told = told(client, service)?;
    if globals.json {
        return print_json(&Told { history: Vec::new(), ..told });
    }
    let Some(stated) = &told.stated else { return Err(nothing(service)) };
    let (operator, at) = (&told.operator, when(told.at_unix_s));
    let mut text = format!("# number {}, by {} at {at}: {}\n", told.number, Plain(operator), Plain(&state(&told)));
    text.push_str(&file_of(service, &read(service, &stated.document)?));
    if let Some(trial) = &stated.trial {
        let tried = read(service, &trial.document)?;
        let (zone, until) = (Plain(&trial.zone), when(trial.ends_unix_s));
        text.push_str(&format!("\n# on trial in {zone} until {until}:\n"));
        file_of(service, &tried).lines().for_each(|line| text.push_str(&format!("# {line}\n")));
    }
    print(&format_args!("{text}{}", remarks_on(&told)))
}

fn nothing(service: &ServiceName) -> CliError {
    let advice = format!("what was is in `weft policy history {service}`");
    CliError::failed(format!("nothing is stated of {service} any more"), advice).exiting(EXIT_NOT_FOUND)
}

fn history(client: &Client, service: &ServiceName, globals: &Globals) -> Result<(), CliError> {
    let told = told(client, service)?;
    if globals.json {
        return print_json(&told);
    }
    let mut table = Table::new(&["NUMBER", "OPERATOR", "AT", "HOLDS", "WHAT"]);
    for (at, past) in told.history.iter().enumerate() {
        let before = told.history.get(at + 1);
        let holds = if past.holds { "yes" } else { "no" };
        let number = past.number.to_string();
        table.row([&*number, &past.operator, &when(past.at_unix_s), holds, &what(past, before)]);
    }
    print(&table)
}

/// What a statement changed, in a few words.
fn what(past: &Past, before: Option<&Past>) -> String {
    let Some(stated) = &past.stated else { return "deleted".to_owned() };
    let document = |past: &Past| match &past.stated {
        Some(stated) => Document::parse(&stated.document).ok(),
        None => Some(Document::default()),
    };
    let new = Document::parse(&stated.document).ok();
    let changed = match (new, before.map_or_else(|| Some(Document::default()), document)) {
        (Some(new), Some(old)) => keys(&old.differences(&new)),
        _ => groups(stated),
    };
    match &stated.trial {
        Some(trial) => format!("{changed}; trial in {} until {}", trial.zone, when(trial.ends_unix_s)),
        None => changed,
    }
}

fn keys(differences: &[Difference]) -> String {
    let mut keys: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    let more = keys.len().saturating_sub(KEYS_SHOWN_MAX);
    keys.truncate(KEYS_SHOWN_MAX);
    match more {
        _ if keys.is_empty() => "no change".to_owned(),
        0 => keys.join(", "),
        more => format!("{} and {more} more", keys.join(", ")),
    }
}

impl Revert {
    fn run(&self, globals: &Globals) -> Result<(), CliError> {
        let operator = self.key.load()?;
        let client = Client::connect(globals.api.clone())?;
        let service = &self.service;
        let told = told(&client, service)?;
        let past = self.target(&told)?;
        let form = Form::fetch(&client, service)?;
        let document = past.stated.as_ref().map(|stated| read(service, &stated.document)).transpose()?;
        let ends_trial = form.trial().is_some();
        // What is not understood can be gone back from all the same.
        let before = form.document(service).unwrap_or_default();
        let is_deleted = form.traffic.is_none();
        let differences = before.differences(document.as_ref().unwrap_or(&Document::default()));
        let is_same = differences.is_empty() && is_deleted == document.is_none() && told.not_understood.is_none();
        let number = match is_same && !ends_trial {
            true => None,
            false => Some(form.state(&client, &operator, service, document.as_ref(), None)?),
        };
        let to = Some(past.number);
        report(&Done { service: service.as_str(), changed: number.is_some(), number, to, differences }, globals)
    }

    fn target<'t>(&self, told: &'t Told) -> Result<&'t Past, CliError> {
        let found = match self.to {
            // Of statements made at once, the one that held comes first.
            Some(number) => told.history.iter().find(|past| past.number == number),
            None => told.history.iter().find(|past| past.number < told.number),
        };
        found.ok_or_else(|| {
            let service = &self.service;
            let sentence = match self.to {
                Some(number) => format!("no statement {number} of {service} is kept on this host"),
                None => format!("nothing was stated of {service} before, as far as this host knows"),
            };
            let advice = format!(
                "see what there is: weft policy history {service}; or take it all back: weft policy delete {service}"
            );
            CliError::failed(sentence, advice).exiting(EXIT_NOT_FOUND)
        })
    }
}

impl Delete {
    fn run(&self, globals: &Globals) -> Result<(), CliError> {
        let operator = self.key.load()?;
        let client = Client::connect(globals.api.clone())?;
        let service = &self.service;
        let form = Form::fetch(&client, service)?;
        if form.traffic.is_none() {
            return Err(nothing(service));
        }
        let differences = form.document(service).unwrap_or_default().differences(&Document::default());
        let number = Some(form.state(&client, &operator, service, None, None)?);
        report(&Done { service: service.as_str(), changed: true, number, to: None, differences }, globals)
    }
}

fn report(done: &Done<'_>, globals: &Globals) -> Result<(), CliError> {
    if globals.json {
        return print_json(done);
    }
    let service = done.service;
    match (done.number, done.to) {
        (None, _) => print(&format_args!("{service}: nothing changes\n")),
        (Some(number), Some(to)) => {
            print(&format_args!("{service} is stated as in {to}, number {number}:\n{}", in_words(&done.differences)))
        }
        (Some(_), None) => print(&format_args!("{service}: the defaults hold\n{}", in_words(&done.differences))),
    }
}
