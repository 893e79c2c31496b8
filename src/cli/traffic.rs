//! How calls of services are carried, as an agent tells it and as operators state it anew: what `weft apply`, `plan`, `shift`
//! and `policy` share. A document is read, changed and signed here; the agent that it is brought to tells when it is in force.

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{Client, encode};
use super::decide::{Decision, POLICY, Signer};
use super::output::{CliError, Plain};
use crate::identity::Operator;
use crate::model::{Change, PolicyId, ServiceName, TrafficStatement, Trial};
use crate::policy::document::{Difference, Document};

/// What is stated of every service.
pub(super) const TRAFFIC_POLICIES: &str = "/v1/weft/traffic-policies";
/// A statement is in force on the host that took it within milliseconds; who waits longer is told.
const IN_FORCE_MAX: Duration = Duration::from_secs(5);
const IN_FORCE_INTERVAL: Duration = Duration::from_millis(20);

/// What is stated of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stated {
    pub(super) document: String,
    pub(super) trial: Option<Tried>,
}

/// A trial, and what becomes of it on the agent's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Tried {
    pub(super) zone: String,
    pub(super) document: String,
    pub(super) ends_unix_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) here: Option<String>,
}

impl Tried {
    /// Its time is not over.
    pub(super) fn is_on(&self) -> bool {
        self.ends_unix_s > now_unix_s()
    }
}

/// What the next statement about a service has to name, and what holds.
#[derive(Debug, Deserialize)]
pub(super) struct Form {
    #[serde(flatten)]
    decision: Decision,
    pub(super) traffic: Option<Stated>,
}

/// One service, as the agent tells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) service: String,
    pub(super) number: u64,
    pub(super) operator: String,
    pub(super) at_unix_s: u64,
    pub(super) stated: Option<Stated>,
    pub(super) in_force: bool,
    pub(super) applied: Option<u64>,
    pub(super) not_understood: Option<String>,
    pub(super) conflicts: Vec<Conflict>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) history: Vec<Past>,
}

/// What was stated at the same time elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Conflict {
    pub(super) operator: String,
    pub(super) at_unix_s: u64,
    pub(super) document: Option<String>,
}

/// What was stated before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) number: u64,
    pub(super) writer: String,
    pub(super) operator: String,
    pub(super) at_unix_s: u64,
    pub(super) stated: Option<Stated>,
    pub(super) holds: bool,
    pub(super) applied: bool,
}

pub(super) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time as people read it.
pub(super) fn when(unix_s: u64) -> String {
    // The year 9999 is the last that has this form.
    let at = UNIX_EPOCH + Duration::from_secs(unix_s.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Everything that is said of a service.
pub(super) fn told(client: &Client, service: &ServiceName) -> Result<Told, CliError> {
    Ok(client.get_json(&format!("{TRAFFIC_POLICIES}/{}", encode(service.as_str())))?.value)
}

/// Reads a document that an agent told.
pub(super) fn read(service: &ServiceName, document: &str) -> Result<Document, CliError> {
    Document::parse(document).map_err(|error| {
        let sentence = format!("what is stated of {service} cannot be read by this version of weft: {error}");
        CliError::failed(sentence, format!("upgrade it, or begin anew: weft policy delete {service}"))
    })
}

impl Form {
    /// Asks the agent.
    pub(super) fn fetch(client: &Client, service: &ServiceName) -> Result<Form, CliError> {
        Ok(client.get_json(&format!("{POLICY}?traffic={}", encode(service.as_str())))?.value)
    }

    /// The document that holds, but for trials; an empty one where nothing is stated.
    pub(super) fn document(&self, service: &ServiceName) -> Result<Document, CliError> {
        self.traffic.as_ref().map_or_else(|| Ok(Document::default()), |stated| read(service, &stated.document))
    }

    /// The trial that is on.
    pub(super) fn trial(&self) -> Option<&Tried> {
        self.traffic.as_ref()?.trial.as_ref().filter(|trial| trial.is_on())
    }

    /// Refuses where a trial is on: who changes the document under it would end it unasked.
    pub(super) fn refuse_on_trial(&self, service: &ServiceName) -> Result<(), CliError> {
        let Some(trial) = self.trial() else { return Ok(()) };
        let sentence = format!("{service} is on trial in {} until {}", trial.zone, when(trial.ends_unix_s));
        let advice = "confirm it (weft apply --confirm), end it (weft policy revert), or wait until it is over";
        Err(CliError::failed(sentence, advice))
    }

    /// States a document, or that there is none, and waits until it is in force on the agent's host. Tells its number.
    pub(super) fn state(
        &self,
        client: &Client,
        operator: &Operator,
        service: &ServiceName,
        document: Option<&Document>,
        trial: Option<Trial>,
    ) -> Result<u64, CliError> {
        let change = match document {
            Some(document) => {
                Change::Traffic(TrafficStatement { service: service.clone(), document: document.text(), trial })
            }
            None => Change::Delete(PolicyId::Traffic(service.clone())),
        };
        self.decision.bring(client, Signer::Operator(operator), change)?;
        let number = self.decision.lamport();
        self.wait(client, service, number)?;
        Ok(number)
    }

    fn wait(&self, client: &Client, service: &ServiceName, number: u64) -> Result<(), CliError> {
        let begun = Instant::now();
        loop {
            let told = told(client, service)?;
            if told.number >= number && told.in_force {
                return Ok(());
            }
            if told.number == number && told.stated.is_some() {
                // It has been taken in; what it could not do it never will.
                let why = told.not_understood.unwrap_or_else(|| "its trial is not understood".to_owned());
                let sentence = format!("{service} is stated, but this host's agent does not understand it: {why}");
                return Err(CliError::failed(sentence, "upgrade the agent; what it understood last stays in force"));
            }
            if begun.elapsed() > IN_FORCE_MAX {
                let sentence = format!("{service} is stated, but is not in force on this host yet");
                return Err(CliError::failed(sentence, "look again: weft policy list"));
            }
            std::thread::sleep(IN_FORCE_INTERVAL);
        }
    }
}

/// What changes, a line a key.
pub(super) fn in_words(differences: &[Difference]) -> String {
    let mut text = String::new();
    for Difference { key, from, to } in differences {
        let line = match (from, to) {
            (None, Some(to)) => format!("  + {key} = {}", toml(to)),
            (Some(from), None) => format!("  - {key} = {}", toml(from)),
            (Some(from), Some(to)) => format!("  ~ {key} = {} -> {}", toml(from), toml(to)),
            (None, None) => continue,
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", Plain(&line));
    }
    text
}

/// A value as the file has it.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{} = {}", bare(key), toml(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

/// A key, in quotes where it needs them.
fn bare(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_bare { key.to_owned() } else { Value::from(key).to_string() }
}

/// A document as a file that `weft apply` takes.
pub(super) fn file_of(service: &ServiceName, document: &Document) -> String {
    let mut text = format!("[service.{service}]\n");
    let mut lists = String::new();
    for (group, value) in document.said() {
        match value {
            Value::Array(entries) => {
                for entry in entries.iter().filter_map(Value::as_object) {
                    let _ = writeln!(lists, "\n[[{group}]]\nservice = \"{service}\"");
                    for (key, value) in entry {
                        let _ = writeln!(lists, "{} = {}", bare(key), toml(value));
                    }
                }
            }
            value => {
                let _ = writeln!(text, "{group} = {}", toml(value));
            }
        }
    }
    // Values come from other hosts; line ends are its own.
    (text + &lists).lines().map(|line| format!("{}\n", Plain(line))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::PolicyFile;

    #[test]
    fn what_is_shown_is_a_file_that_says_the_same() {
        let service = ServiceName::parse("billing").unwrap();
        let text = r#"{"balance":{"algorithm":"ring-hash","hash":{"header":"x-user"}},"retries":{"max":1},
            "route":[{"headers":{"x-a":true,"x-b":"c\"d"},"path":"/v2/*","to":{"tag":"v2","meta":{"a b":"é"}}}],
            "split":[{"tag":"a","weight":9},{"tag":"b","weight":1}],"timeouts":{"request":"2s"}}"#;
        let document = Document::parse(text).unwrap();
        let file = PolicyFile::from_text(&file_of(&service, &document), Path::new("x")).unwrap();
        assert_eq!(Document::check(file.0[&service].clone()), Ok(document));
    }

    #[test]
    fn changes_are_told_a_line_a_key() {
        let parse = |text| Document::parse(text).unwrap();
        let old = parse(r#"{"limits":{"queue":7},"timeouts":{"request":"2s"}}"#);
        let new = parse(r#"{"timeouts":{"request":"3s"},"split":[{"weight":1,"platform":"vm"}]}"#);
        let expected = "  - limits.queue = 7\n  + split[0] = { platform = \"vm\", weight = 1 }\n\
                        \x20 ~ timeouts.request = \"2s\" -> \"3s\"\n";
        assert_eq!(in_words(&old.differences(&new)), expected);
    }
}
