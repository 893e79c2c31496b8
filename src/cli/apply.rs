//! `weft apply` and `weft plan`: what a file says of services against what is stated. What the file says of a group of keys
//! takes the place of that group; groups that it does not name stay as they are.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::decide::{Key, usage};
use super::output::{CliError, EXIT_CHANGES, EXIT_NOT_FOUND, Globals, Plain, print, print_json};
use super::traffic::{Form, in_words, now_unix_s, read, when};
use crate::config::PolicyFile;
use crate::model::{ServiceName, TRIAL_SECONDS_MAX, Trial};
use crate::policy::document::{Difference, Document};

/// A trial that is shorter than it takes to look at it shows nothing.
const BAKE_MIN: Duration = Duration::from_secs(5);

/// State how calls of services are carried, as a file says it
///
/// The file has [service.NAME] with timeouts, retries, balance, outlier and limits, and [[route]] and [[split]] with service =
/// "NAME"; docs/policies.md has every key. A group of keys that the file names becomes what the file says, an empty one is
/// taken out, and groups that it does not name stay. Services that would not change are left alone. In force on every host
/// within a second.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft plan -f billing.toml
  weft apply -f billing.toml --operator ~/anna.pem
  weft apply -f billing.toml --zone eu-1a --bake 10m
  weft apply -f billing.toml --confirm")]
pub(super) struct Args {
    /// What is to hold
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Try it in this zone only, for the time of --bake; then every host there goes back by itself
    #[arg(long, value_name = "ZONE", requires = "bake")]
    zone: Option<String>,
    /// How long to try it, like 10m
    #[arg(long, value_name = "DURATION", requires = "zone", value_parser = humantime::parse_duration)]
    bake: Option<Duration>,
    /// Let what is on trial hold everywhere; the file must say what is tried
    #[arg(long, conflicts_with = "zone")]
    confirm: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    key: Key,
}

/// Show what `weft apply` would change
///
/// Tells key by key, and needs no key of an operator. Exits 0 if nothing would change, and 5 if something would.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// What is to hold
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

/// One service of the file.
struct Planned {
    service: ServiceName,
    form: Form,
    document: Document,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Shown<'a> {
    service: &'a str,
    changed: bool,
    differences: &'a [Difference],
    /// Its number, once it is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    document: &'a serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Listing<'a> {
    applied: bool,
    services: Vec<Shown<'a>>,
}

pub(super) fn plan(args: &PlanArgs, globals: &Globals) -> Result<(), CliError> {
    let file = load(&args.file)?;
    let planned = against(&Client::connect(globals.api.clone())?, file)?;
    show(&planned, globals)?;
    if planned.iter().all(|each| each.differences.is_empty()) { Ok(()) } else { Err(CliError::silent(EXIT_CHANGES)) }
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let file = load(&args.file)?;
    let trial = args.trial()?;
    let operator = if args.dry_run { None } else { Some(args.key.load()?) };
    let client = Client::connect(globals.api.clone())?;
    if let Some((zone, _)) = &trial {
        must_be_a_zone(&client, zone)?;
    }
    let planned = against(&client, file)?;
    for each in &planned {
        args.refuse(each, trial.as_ref().map(|(zone, _)| zone.as_str()))?;
    }
    let Some(operator) = operator else { return show(&planned, globals) };
    let mut numbers = Vec::new();
    for each in &planned {
        let (service, form) = (&each.service, &each.form);
        if each.differences.is_empty() {
            numbers.push(None);
            continue;
        }
        let number = match &trial {
            None => form.state(&client, &operator, service, Some(&each.document), None)?,
            Some((zone, bake)) => {
                let ends_unix_s = now_unix_s().saturating_add(bake.as_secs());
                let trial = Trial { zone: zone.clone(), document: each.document.text(), ends_unix_s };
                form.state(&client, &operator, service, Some(&form.document(service)?), Some(trial))?
            }
        };
        numbers.push(Some(number));
    }
    if globals.json {
        let shown = planned.iter().zip(&numbers).map(|(each, number)| each.shown(*number));
        return print_json(&Listing { applied: true, services: shown.collect() });
    }
    let mut text = String::new();
    for (each, number) in planned.iter().zip(&numbers) {
        text.push_str(&each.in_words(*number));
    }
    if let (Some((zone, bake)), true) = (&trial, numbers.iter().any(Option::is_some)) {
        let bake = humantime::format_duration(Duration::from_secs(bake.as_secs()));
        text.push_str(&format!("\nOn trial in {} for {bake}; to keep it: weft apply --confirm\n", Plain(zone)));
    }
    print(&text)
}

impl Args {
    fn trial(&self) -> Result<Option<(String, Duration)>, CliError> {
        let Some((zone, bake)) = self.zone.clone().zip(self.bake) else { return Ok(None) };
        if bake < BAKE_MIN || bake.as_secs() > TRIAL_SECONDS_MAX {
            let least = humantime::format_duration(BAKE_MIN);
            return Err(usage(format!("--bake takes {least} to 7d"), "choose how long it is to be tried"));
        }
        Ok(Some((zone, bake)))
    }

    /// A trial that is on is not ended unasked, and only what is on trial is confirmed.
    fn refuse(&self, planned: &Planned, zone: Option<&str>) -> Result<(), CliError> {
        let (service, form) = (&planned.service, &planned.form);
        let changes = !planned.differences.is_empty();
        match form.trial() {
            Some(trial) if self.confirm => {
                let tried = read(service, &trial.document)?;
                if tried == planned.document {
                    return Ok(());
                }
                let sentence = format!("{service} is on trial with something else than {}", self.file.display());
                let advice = "apply what is tried, or end the trial first: weft policy revert";
                Err(CliError::failed(
                    format!("{sentence}\n{}", in_words(&tried.differences(&planned.document))),
                    advice,
                ))
            }
            Some(trial) if changes && zone != Some(trial.zone.as_str()) => form.refuse_on_trial(service),
            None if self.confirm && changes => {
                let ended = form.traffic.as_ref().and_then(|stated| stated.trial.as_ref());
                let sentence = match ended {
                    Some(trial) => format!("the trial of {service} ended {}", when(trial.ends_unix_s)),
                    None => format!("{service} is not on trial"),
                };
                Err(CliError::failed(sentence, "leave --confirm out to state it for every zone"))
            }
            _ => Ok(()),
        }
    }
}

fn load(path: &std::path::Path) -> Result<PolicyFile, CliError> {
    PolicyFile::load(path).map_err(|errors| {
        let count = errors.0.len();
        let what = if count == 1 { "mistake" } else { "mistakes" };
        CliError::failed(format!("{count} {what} in {}\n{errors}", path.display()), "correct them and try again")
    })
}

/// What the file says beside what is stated.
fn against(client: &Client, file: PolicyFile) -> Result<Vec<Planned>, CliError> {
    let plan = |(service, groups): (ServiceName, _)| {
        let form = Form::fetch(client, &service)?;
        let before = form.document(&service)?;
        let document = before.with(&groups).map_err(|error| {
            let sentence = format!("{service}: with what is stated already it is no document: {error}");
            CliError::failed(sentence, format!("look at it: weft policy show {service}"))
        })?;
        let differences = before.differences(&document);
        Ok(Planned { service, form, document, differences })
    };
    file.0.into_iter().map(plan).collect()
}

/// A trial in a zone that nobody is in tries nothing.
fn must_be_a_zone(client: &Client, zone: &str) -> Result<(), CliError> {
    #[derive(Deserialize)]
    struct Member {
        #[serde(rename = "Weft")]
        weft: Host,
    }
    #[derive(Deserialize)]
    struct Host {
        zone: String,
    }
    let members: Vec<Member> = client.get_json("/v1/agent/members")?.value;
    if members.iter().any(|member| member.weft.zone == zone) {
        return Ok(());
    }
    let sentence = format!("no host is in the zone {zone}");
    Err(CliError::failed(sentence, "`weft members` shows the zones").exiting(EXIT_NOT_FOUND))
}

impl Planned {
    fn shown(&self, number: Option<u64>) -> Shown<'_> {
        Shown {
            service: self.service.as_str(),
            changed: !self.differences.is_empty(),
            differences: &self.differences,
            number,
            document: self.document.said(),
        }
    }

    fn in_words(&self, number: Option<u64>) -> String {
        if self.differences.is_empty() {
            return format!("{}: nothing changes\n", self.service);
        }
        let stated = number.map_or(String::new(), |number| format!(" is stated, number {number}"));
        format!("{}{stated}:\n{}", self.service, in_words(&self.differences))
    }
}

fn show(planned: &[Planned], globals: &Globals) -> Result<(), CliError> {
    if globals.json {
        let services = planned.iter().map(|each| each.shown(None)).collect();
        return print_json(&Listing { applied: false, services });
    }
    print(&planned.iter().map(|each| each.in_words(None)).collect::<String>())
}
