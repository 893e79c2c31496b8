//! `weft keyring`: the gossip keys of every host, looked at and rotated without a pause.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::Client;
use super::output::{CliError, EXIT_USAGE, Globals, Plain, Table, print, print_json, remark};
use super::secret::Typed;
use crate::identity::new_gossip_key;
use crate::wire::keyring::Fingerprint;
use crate::wire::seal::GossipKey;

/// See and change the keys that seal gossip, on every host
///
/// A rotation is three steps, and packets flow throughout: `install` gives every host a new key, `use` has every host
/// seal with it, `remove` ends the old one. Hosts that are away get the keyring when they come back. Keys are told by
/// fingerprint, from which they cannot be guessed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft keyring install --generate
  weft keyring list
  weft keyring use 4f1e6d0c2b8a9735
  weft keyring remove 90ab12cd34ef5678")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell which keys there are, who lacks one, who did not answer, and how far a rotation is
    List,
    /// Give every host a key, for opening packets; none is sealed with it yet
    ///
    /// Fails if a host that counts as a member does not have it in the end.
    #[command(after_help = "\
Examples:
  weft keyring install --generate
  openssl rand -base64 32 | weft keyring install -
  weft keyring install --file /root/gossip.key")]
    Install(Install),
    /// Have every host seal with a key that all hold
    Use(Named),
    /// Have every host forget a key that is nobody's primary
    Remove(Named),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Install {
    /// 32 bytes in base64, or - for standard input. On the command line every user of this host can see it (ps): prefer
    /// the others
    #[arg(value_name = "KEY")]
    key: Option<Typed>,
    /// Make a new key; it is shown nowhere
    #[arg(long)]
    generate: bool,
    /// Read the key from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Its fingerprint, as `weft keyring list` shows it, or the key itself
    #[arg(value_name = "FINGERPRINT|KEY")]
    key: Typed,
    /// Go on even if a host that counts as a member does not answer, or lacks the key
    #[arg(long)]
    force: bool,
}

/// A file with a key has 44 bytes and perhaps a line end.
const KEY_TEXT_BYTES_MAX: u64 = 1024;
const PATH: &str = "/v1/operator/keyring";

/// The keyrings of all hosts, as the agent tells them.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    state: String,
    sentence: String,
    next: Option<String>,
    members: usize,
    answered: usize,
    keys: Vec<Key>,
    silent: Vec<Silent>,
    away: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Key {
    fingerprint: String,
    held: usize,
    primary: usize,
    lacking: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Silent {
    node: String,
    why: String,
}

/// An element of Consul's list of rings; there is one.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ring {
    weft: Report,
}

#[derive(Serialize)]
struct Done {
    fingerprint: String,
    done: bool,
    #[serde(flatten)]
    report: Option<Report>,
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::List => list(globals),
        Verb::Install(install) => {
            let key = install.key()?;
            let fingerprint = Fingerprint::of(&key);
            let body = json!({ "Key": data_encoding::BASE64.encode(&key.0) });
            order(globals, Method::POST, PATH, &body, fingerprint, "is installed on")
        }
        Verb::Use(named) => {
            let (path, body, fingerprint) = named.request()?;
            order(globals, Method::PUT, &path, &body, fingerprint, "is the primary key of")
        }
        Verb::Remove(named) => {
            let (path, body, fingerprint) = named.request()?;
            order(globals, Method::DELETE, &path, &body, fingerprint, "is gone from")
        }
    }
}

impl Install {
    fn key(&self) -> Result<GossipKey, CliError> {
        if self.generate {
            return new_gossip_key().map_err(|error| CliError::failed(error.to_string(), ""));
        }
        match (&self.key, &self.file) {
            (Some(text), _) if &**text == "-" => parse(&read(io::stdin().lock(), "standard input")?),
            (Some(text), _) => {
                remark(
                    "the key was on the command line, where every user of this host could see it; prefer - or --file\n",
                );
                parse(text)
            }
            (None, Some(path)) => {
                let name = path.display().to_string();
                let file = File::open(path).map_err(|error| unreadable(path, &error))?;
                parse(&read(file, &name)?)
            }
            (None, None) => Err(usage("no key is given", "give --generate, --file FILE, or - for standard input")),
        }
    }
}

impl Named {
    fn request(&self) -> Result<(String, Value, Fingerprint), CliError> {
        let fingerprint = match self.key.parse::<Fingerprint>() {
            Ok(fingerprint) => fingerprint,
            Err(_) => {
                let key: GossipKey = self.key.parse().map_err(|_| {
                    usage(
                        "this is neither a fingerprint (16 hex digits) nor a key",
                        "`weft keyring list` shows the fingerprints",
                    )
                })?;
                Fingerprint::of(&key)
            }
        };
        let query = if self.force { "?force" } else { "" };
        Ok((format!("{PATH}{query}"), json!({ "Key": fingerprint.to_string() }), fingerprint))
    }
}

fn usage(message: &str, advice: &str) -> CliError {
    CliError::failed(message, advice).exiting(EXIT_USAGE)
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("cannot read {}: {error}", path.display()), "give a file that holds a key in base64")
}

fn read(from: impl Read, name: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let read = from.take(KEY_TEXT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| CliError::failed(format!("cannot read a key from {name}: {error}"), ""))?;
    Ok(text)
}

/// What cannot be read as a key is not repeated: it may be one with a letter missing.
fn parse(text: &str) -> Result<GossipKey, CliError> {
    text.parse().map_err(|_| {
        usage(
            "this is no gossip key: one is 32 random bytes in base64, 44 characters",
            "let weft make one: weft keyring install --generate",
        )
    })
}

fn list(globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let rings: Vec<Ring> = client.get_json(PATH)?.value;
    let Some(Ring { weft: report }) = rings.into_iter().next() else {
        return Err(CliError::failed("the agent told of no keyring", "see its log: journalctl -u weft"));
    };
    if globals.json {
        return print_json(&report);
    }
    let mut table = Table::new(&["FINGERPRINT", "HELD", "PRIMARY", "LACKING"]);
    for key in &report.keys {
        let of_all = |count: usize| format!("{count}/{}", report.members);
        table.row([key.fingerprint.clone(), of_all(key.held), of_all(key.primary), key.lacking.join(",")]);
    }
    print(&format_args!("{table}\n{}\n{}", Plain(&report.sentence), report.rest()))
}

impl Report {
    /// Who did not answer, who is away, and what comes next, a line each.
    fn rest(&self) -> String {
        let mut rest = String::new();
        for Silent { node, why } in &self.silent {
            rest.push_str(&format!("No answer from {}: {}\n", Plain(node), Plain(why)));
        }
        if !self.away.is_empty() {
            let away = self.away.join(", ");
            rest.push_str(&format!("Away, and told when they come back: {}\n", Plain(&away)));
        }
        if let Some(next) = &self.next {
            rest.push_str(&format!("  next: {}\n", Plain(next)));
        }
        rest
    }
}

fn order(
    globals: &Globals,
    method: Method,
    path: &str,
    body: &Value,
    fingerprint: Fingerprint,
    done: &str,
) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let (answer, error) = client.send_json(method, path, body)?;
    let report = answer.get("Weft").and_then(|report| serde_json::from_value::<Report>(report.clone()).ok());
    if globals.json && (error.is_none() || report.is_some()) {
        print_json(&Done { fingerprint: fingerprint.to_string(), done: error.is_none(), report })?;
        return error.map_or(Ok(()), Err);
    }
    if let Some(error) = error {
        for Silent { node, why } in report.iter().flat_map(|report| &report.silent) {
            remark(&format!("No answer from {}: {}\n", Plain(node), Plain(why)));
        }
        return Err(error);
    }
    let report = report.ok_or_else(|| {
        let advice = "the agent is of another version; compare `weft --version`";
        CliError::failed("the agent did not tell what came of it", advice)
    })?;
    let hosts = if report.members == 1 { "1 host".to_owned() } else { format!("{} hosts", report.members) };
    print(&format_args!("{fingerprint} {done} {hosts}\n{}", report.rest()))
}
