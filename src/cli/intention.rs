//! `weft intention`: who may call whom. What changes something is signed here, with the operator's key, and brought to the
//! agent; the key never leaves this process.

use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, encode};
use super::decide::{Decision, Key, POLICY, Signer, usage};
use super::output::{CliError, Globals, Plain, Table, print, print_json};
use crate::identity::Operator;
use crate::model::{Action, Change, Intention, PathPattern, Pattern, Permission, PolicyId};

/// Say who may call whom, in the whole cluster
///
/// An intention is from a source to a destination, each a service's name or a glob like `web-*`; the source `*` also means
/// callers of whom nothing is known. The more precise destination decides, then the more precise source; where none fits,
/// the default policy does, which is `allow` until it is set. The host that is called enforces it, within a second and for
/// connections that are open. Changes need an operator's key, made by `weft ca operator`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft intention deny '*' billing --operator ~/anna.pem
  weft intention allow web billing --operator ~/anna.pem
  weft intention allow '*' users --method GET --path '/v1/*'
  weft intention check web billing
  weft intention default deny")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let a service call another, or with --method and --path only make such requests
    Allow(Decide),
    /// Keep a service from calling another, or with --method and --path from making such requests
    Deny(Decide),
    /// Delete an intention
    Delete(Delete),
    /// List the intentions in force, the most precise first, and the default policy
    List,
    /// Say whether a call would be let through, and the rule that decides
    Check(Check),
    /// Tell the default policy, or set it
    Default(Default),
}

#[derive(Debug, clap::Args)]
struct Decide {
    /// Who calls: a service, or a glob
    source: Pattern,
    /// Who is called: a service, or a glob
    destination: Pattern,
    /// Only requests with this method; may be given several times
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Only requests for this path, or with `*` at its end for all that begin so
    #[arg(long, value_name = "PATH")]
    path: Option<PathPattern>,
    /// Keep the permissions that the intention has, and put this one behind them
    #[arg(long)]
    append: bool,
    /// What it is for, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// As `weft intention list` shows it
    source: Pattern,
    /// As `weft intention list` shows it
    destination: Pattern,
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Who calls; `*` is a caller of whom nothing is known
    source: Pattern,
    /// Who is called
    destination: Pattern,
    /// The request's method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The request's path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Default {
    /// What to set it to
    action: Option<Word>,
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Word {
    Allow,
    Deny,
}

impl From<Word> for Action {
    fn from(word: Word) -> Action {
        match word {
            Word::Allow => Action::Allow,
            Word::Deny => Action::Deny,
        }
    }
}

/// What a decision has to name, as the agent tells it.
#[derive(Debug, Deserialize)]
struct Form {
    #[serde(flatten)]
    decision: Decision,
    default: Action,
    default_is_set: bool,
    current: Option<Intention>,
}

/// An intention as the agent lists it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    source_name: String,
    destination_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    permissions: Vec<Value>,
    #[serde(default)]
    description: String,
    updated_at: String,
    weft: Provenance,
}

#[derive(Debug, Serialize, Deserialize)]
struct Provenance {
    operator: String,
    conflicts: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Listing {
    default: Action,
    default_is_set: bool,
    intentions: Vec<Listed>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checked {
    allowed: bool,
    weft: Reasoned,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reasoned {
    rule: String,
    intention: Option<(String, String)>,
    default: Action,
}

#[derive(Debug, Serialize)]
struct Done<'a> {
    what: String,
    operator: &'a str,
    done: bool,
}

const INTENTIONS: &str = "/v1/connect/intentions";

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::Allow(decide) => decide.run(Action::Allow, globals),
        Verb::Deny(decide) => decide.run(Action::Deny, globals),
        Verb::Delete(delete) => delete.run(globals),
        Verb::List => list(globals),
        Verb::Check(asked) => check(asked, globals),
        Verb::Default(default) => default.run(globals),
    }
}

fn form_path(source: &Pattern, destination: &Pattern) -> String {
    format!("{POLICY}?source={}&destination={}", encode(source.as_str()), encode(destination.as_str()))
}

impl Decide {
    fn run(&self, action: Action, globals: &Globals) -> Result<(), CliError> {
        let operator = self.key.load()?;
        let client = Client::connect(globals.api.clone())?;
        let form: Form = client.get_json(&form_path(&self.source, &self.destination))?.value;
        let is_permission = !self.methods.is_empty() || self.path.is_some();
        if self.append && !is_permission {
            return Err(usage("--append is for permissions", "say which requests: --method, --path"));
        }
        let current = form.current.as_ref();
        let mut permissions = match current.filter(|_| self.append) {
            Some(current) if current.permissions.is_empty() => {
                let sentence = format!(
                    "intention {current} {}s every call, and a permission behind that says nothing",
                    current.action
                );
                return Err(usage(sentence, "leave --append out to replace it"));
            }
            Some(current) => current.permissions.clone(),
            None => Vec::new(),
        };
        if is_permission {
            let methods = self.methods.iter().map(|method| method.to_ascii_uppercase()).collect();
            permissions.push(Permission { action, methods, path: self.path.clone() });
        }
        let description = self.description.clone().or_else(|| current.map(|current| current.description.clone()));
        let intention = Intention {
            source: self.source.clone(),
            destination: self.destination.clone(),
            action,
            permissions,
            description: description.unwrap_or_default(),
        };
        let what = if is_permission {
            format!("{} may {} by request", self.source, if action == Action::Allow { "call" } else { "not call" })
        } else {
            format!("{} may{} call", self.source, if action == Action::Allow { "" } else { " not" })
        };
        let what = format!("{what} {}", self.destination);
        bring(&client, &operator, &form, Change::Intention(intention), what, globals)
    }
}

impl Delete {
    fn run(&self, globals: &Globals) -> Result<(), CliError> {
        let operator = self.key.load()?;
        let client = Client::connect(globals.api.clone())?;
        let form: Form = client.get_json(&form_path(&self.source, &self.destination))?.value;
        let (source, destination) = (self.source.clone(), self.destination.clone());
        let what = format!("intention {source} -> {destination} is deleted");
        if form.current.is_none() {
            let sentence = format!("there is no intention {source} -> {destination}");
            let not_found = CliError::failed(sentence, "`weft intention list` shows them; quote a `*`");
            return Err(not_found.exiting(super::output::EXIT_NOT_FOUND));
        }
        let change = Change::Delete(PolicyId::Intention { source, destination });
        bring(&client, &operator, &form, change, what, globals)
    }
}

impl Default {
    fn run(&self, globals: &Globals) -> Result<(), CliError> {
        let Some(word) = self.action else {
            let client = Client::connect(globals.api.clone())?;
            let form: Form = client.get_json(POLICY)?.value;
            if globals.json {
                return print_json(&json!({ "default": form.default, "is_set": form.default_is_set }));
            }
            let by = if form.default_is_set { "" } else { ", because nobody has set it" };
            return print(&format_args!("{}{by}\n", form.default));
        };
        let operator = self.key.load()?;
        let client = Client::connect(globals.api.clone())?;
        let form: Form = client.get_json(POLICY)?.value;
        let action = Action::from(word);
        let what = format!("calls that no intention is about: {action}");
        bring(&client, &operator, &form, Change::Default(action), what, globals)
    }
}

/// Signs the decision, brings it to the agent, and says so.
fn bring(
    client: &Client,
    operator: &Operator,
    form: &Form,
    change: Change,
    what: String,
    globals: &Globals,
) -> Result<(), CliError> {
    form.decision.bring(client, Signer::Operator(operator), change)?;
    if globals.json {
        return print_json(&Done { what, operator: operator.name(), done: true });
    }
    print(&format_args!("{what}\n"))
}

fn list(globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let intentions: Vec<Listed> = client.get_json(INTENTIONS)?.value;
    let form: Form = client.get_json(POLICY)?.value;
    if globals.json {
        let (default, default_is_set) = (form.default, form.default_is_set);
        return print_json(&Listing { default, default_is_set, intentions });
    }
    let mut table = Table::new(&["SOURCE", "DESTINATION", "ACTION", "OPERATOR", "DESCRIPTION"]);
    let mut conflicts = String::new();
    for listed in &intentions {
        let (source, destination) = (&listed.source_name, &listed.destination_name);
        let mut rows = listed.permissions.iter().map(in_words);
        let action = listed.action.map(|action| action.to_string()).or_else(|| rows.next()).unwrap_or_default();
        table.row([source, destination, &action, &listed.weft.operator, &listed.description]);
        rows.for_each(|row| table.row(["", "", &row, "", ""]));
        for (operator, what) in &listed.weft.conflicts {
            conflicts.push_str(&format!(
                "{source} -> {destination}: {} decided \"{}\" at the same time elsewhere; decide again to settle it\n",
                Plain(operator),
                Plain(what)
            ));
        }
    }
    let by = if form.default_is_set { "" } else { ", because nobody has set it" };
    let table = if table.is_empty() { "There are no intentions\n".to_owned() } else { table.to_string() };
    print(&format_args!("{table}{conflicts}\nEverything else: {}{by}\n", form.default))
}

/// A permission in Consul's shape.
fn in_words(permission: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let http = &permission["HTTP"];
    let methods: Vec<String> = http["Methods"].as_array().into_iter().flatten().map(text).collect();
    let path = match (&http["PathExact"], &http["PathPrefix"]) {
        (Value::String(exact), _) => exact.clone(),
        (_, Value::String(prefix)) => format!("{prefix}*"),
        _ => String::new(),
    };
    let words = [text(&permission["Action"]), methods.join(","), path];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn check(asked: &Check, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let (source, destination) = (asked.source.as_str(), asked.destination.as_str());
    let mut path = format!("{INTENTIONS}/check?source={}&destination={}", encode(source), encode(destination));
    for (key, value) in [("method", &asked.method), ("path", &asked.path)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encode(value)));
        }
    }
    let checked: Checked = client.get_json(&path)?.value;
    if globals.json {
        return print_json(&checked);
    }
    let word = if checked.allowed { "allowed" } else { "denied" };
    print(&format_args!("{word}: {}\n", Plain(&checked.weft.rule)))
}
