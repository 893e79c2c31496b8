//! One event: what happened, to whom, and its words for people. The words are made where it happens, so that whoever reads
//! the file, of whatever version, need not know how.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::model::{Change, CheckStatus, Health, Instance, Intention, NodeName, Statement};

/// Checks that an event names; the rest is counted.
const CHECKS_NAMED: usize = 3;
/// Of a text that somebody else chose.
const TEXT_CHARS_MAX: usize = 160;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// This agent: it started or stopped, lost contact with the others or has it again.
    Agent,
    /// A host joined, failed, left, or is alive again.
    Member,
    /// The verdict on an instance, or on a host, is another one.
    Health,
    /// An operator has decided something.
    Policy,
    /// The data plane of this host spares an instance its calls, or sends it some again.
    Ejection,
    /// A certificate was renewed, is about to end, or counts no more.
    Certificate,
}

impl Kind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Agent => "agent",
            Kind::Member => "member",
            Kind::Health => "health",
            Kind::Policy => "policy",
            Kind::Ejection => "ejection",
            Kind::Certificate => "certificate",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// What it is about.
    pub kind: Kind,
    /// What happened, in a word that stays: `joined`, `failed`, `critical`, `renewed`, ...
    pub what: String,
    /// The host's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The instance's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// What a policy is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Who decided it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// All of it, for people.
    pub words: String,
    /// Events of the same subject before this one that have no line of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

impl Event {
    /// One about nothing yet, at no time yet.
    pub fn new(kind: Kind, what: &str) -> Event {
        Event {
            time: String::new(),
            kind,
            what: what.to_owned(),
            node: String::new(),
            service: String::new(),
            instance: String::new(),
            subject: String::new(),
            operator: String::new(),
            words: String::new(),
            omitted: 0,
        }
    }

    /// When; `None` if its time cannot be read.
    pub fn at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.time).ok()
    }

    /// About this agent.
    pub fn agent(what: &str, node: &NodeName, words: impl Into<String>) -> Event {
        Event { node: node.to_string(), words: words.into(), ..Event::new(Kind::Agent, what) }
    }

    /// About a host.
    pub fn member(what: &str, node: &NodeName, words: &str) -> Event {
        Event { node: node.to_string(), words: format!("{node} {words}"), ..Event::new(Kind::Member, what) }
    }

    /// The verdict on an instance is another one.
    pub fn instance_health(node: &str, instance: &Instance, before: Health) -> Event {
        let (now, checks) = (instance.health(), decisive(&instance.checks));
        let (id, service) = (&instance.id, &instance.service);
        let name = if id.as_str() == service.as_str() { service.to_string() } else { format!("{service} ({id})") };
        Event {
            node: node.to_owned(),
            service: service.to_string(),
            instance: id.to_string(),
            words: format!("{name} on {node} is {now}, was {before}{checks}"),
            ..Event::new(Kind::Health, now.as_str())
        }
    }

    /// The verdict on a host, and so on all that runs there, is another one.
    pub fn host_health(node: &NodeName, checks: &[CheckStatus], before: Health) -> Event {
        let now = checks.iter().map(|check| check.health).max().unwrap_or(Health::Passing);
        let words = format!("{node} itself is {now}, was {before}{}", decisive(checks));
        Event { node: node.to_string(), words, ..Event::new(Kind::Health, now.as_str()) }
    }

    /// An operator has decided. `holds`: nothing that was decided at the same time elsewhere prevails.
    pub fn policy(statement: &Statement, holds: bool) -> Event {
        let Statement { operator, change, .. } = statement;
        let (kind, what, decision) = decision(change);
        let loses = if holds { "" } else { "; another decision, made at the same time, prevails" };
        let node = match change {
            Change::Revocation(revocation) => revocation.name.to_string(),
            _ => String::new(),
        };
        Event {
            node,
            subject: change.id().to_string(),
            operator: operator.clone(),
            words: format!("{} has decided: {decision}{loses}", short(operator)),
            ..Event::new(kind, what)
        }
    }

    /// This host's data plane spares an instance its calls, or sends it some again.
    pub fn ejection(what: &str, (node, service, instance): (&str, &str, &str), words: &str) -> Event {
        Event {
            node: node.to_owned(),
            service: service.to_owned(),
            instance: instance.to_owned(),
            words: format!("{instance} of {service} on {node} {words}"),
            ..Event::new(Kind::Ejection, what)
        }
    }

    /// About this host's certificate.
    pub fn certificate(what: &str, node: &NodeName, words: String) -> Event {
        Event { node: node.to_string(), words, ..Event::new(Kind::Certificate, what) }
    }
}

/// The checks that a verdict rests on: `: http, disk and 2 more`.
fn decisive(checks: &[CheckStatus]) -> String {
    let Some(worst) = checks.iter().map(|check| check.health).max().filter(|worst| *worst != Health::Passing) else {
        return String::new();
    };
    let named: Vec<String> =
        checks.iter().filter(|check| check.health == worst).map(|check| short(&check.id)).collect();
    let more = named.len().saturating_sub(CHECKS_NAMED);
    let shown = named.iter().take(CHECKS_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { format!(": {shown}") } else { format!(": {shown} and {more} more") }
}

fn decision(change: &Change) -> (Kind, &'static str, String) {
    match change {
        Change::Default(action) => (Kind::Policy, "decided", format!("calls are, where no intention fits, {action}")),
        Change::Intention(Intention { source, destination, action, permissions, .. }) => {
            let what = match permissions.len() {
                0 => format!("{action} {source} -> {destination}"),
                count => format!("{source} -> {destination} by {count} permissions"),
            };
            (Kind::Policy, "decided", what)
        }
        Change::Traffic(traffic) => {
            let trial = traffic.trial.as_ref().map(|trial| format!(", with a trial in {}", short(&trial.zone)));
            let words = format!("how calls of {} are carried{}", traffic.service, trial.unwrap_or_default());
            (Kind::Policy, "decided", words)
        }
        Change::Delete(id) => (Kind::Policy, "deleted", format!("{id} is deleted")),
        Change::Revocation(revocation) => {
            let why =
                if revocation.reason.is_empty() { String::new() } else { format!(": {}", short(&revocation.reason)) };
            (Kind::Certificate, "revoked", format!("{} is revoked{why}", revocation.name))
        }
        Change::Trust(trust) => {
            let (roots, issuers) = (trust.roots.len(), trust.issuers.len());
            (Kind::Policy, "decided", format!("{roots} roots are believed, {issuers} hosts issue certificates"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Dot, NodeId, Pattern, PolicyId};

    fn check(id: &str, health: Health) -> CheckStatus {
        CheckStatus { id: id.into(), name: id.into(), kind: "http".into(), health }
    }

    #[test]
    fn a_verdict_names_the_checks_that_it_rests_on() {
        let node = NodeName::parse("web-01").unwrap();
        let red = |id| check(id, Health::Critical);
        let checks = [red("a"), check("b", Health::Warning), red("c"), red("d"), red("e")];
        let event = Event::host_health(&node, &checks, Health::Passing);
        assert_eq!(event.words, "web-01 itself is critical, was passing: a, c, d and 1 more");
        let event = Event::host_health(&node, &[], Health::Critical);
        assert_eq!((event.words.as_str(), event.what.as_str()), ("web-01 itself is passing, was critical", "passing"));
    }

    #[test]
    fn a_decision_is_told_with_who_decided() {
        let statement = |change| Statement {
            dot: Dot { lamport: 1, writer: NodeId([1; 16]) },
            seen: Vec::new(),
            operator: "anna".into(),
            at_unix_s: 0,
            change,
        };
        let (source, destination) = (Pattern::parse("web").unwrap(), Pattern::parse("billing").unwrap());
        let id = PolicyId::Intention { source: source.clone(), destination: destination.clone() };
        let intention = Intention {
            source,
            destination,
            action: Action::Deny,
            permissions: Vec::new(),
            description: String::new(),
        };
        let event = Event::policy(&statement(Change::Intention(intention)), true);
        assert_eq!(event.words, "anna has decided: deny web -> billing");
        assert_eq!((event.subject.as_str(), event.operator.as_str()), ("intention web -> billing", "anna"));
        let event = Event::policy(&statement(Change::Delete(id)), false);
        assert_eq!(
            event.words,
            "anna has decided: intention web -> billing is deleted; another decision, made at the same time, prevails"
        );
    }

    #[test]
    fn a_line_has_only_what_there_is_to_say_and_unknown_keys_are_skipped() {
        let event = Event { time: "2026-01-01T00:00:00.000Z".into(), ..Event::new(Kind::Agent, "started") };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"time":"2026-01-01T00:00:00.000Z","kind":"agent","what":"started","words":""}"#);
        let newer = line.replace("\"words\"", "\"colour\":1,\"words\"");
        assert_eq!(serde_json::from_str::<Event>(&newer).unwrap(), event);
    }
}
