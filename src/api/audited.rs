//! What the audit log is told of a write: who, what, and what became of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hyper::StatusCode;

use super::Command;
use super::answer::Answer;
use super::guard::Via;
use super::request::Asked;
use super::responder::Shared;
use super::rights::Client;
use crate::access::{Entry, Outcome};
use crate::identity::Attestor;
use crate::model::{Change, Health};
use crate::wire::policy::{POLICY_FORMAT, decode_policy};

const PATH_CHARS_MAX: usize = 256;
const SENTENCE_CHARS_MAX: usize = 400;
/// Checks whose last report is kept in mind; beyond it all are forgotten, which costs a line each.
const REPORTS_MAX: usize = 4096;

/// The last report of each check. One that says the same again changes nothing, and has no line: there are several a minute
/// for each check, for ever.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<HashMap<String, Health>>);

impl Reports {
    /// Whether it is news.
    fn take(&self, check: &str, health: Health) -> bool {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() >= REPORTS_MAX && !reports.contains_key(check) {
            reports.clear();
        }
        reports.insert(check.to_owned(), health) != Some(health)
    }
}

/// What a write is about.
#[derive(Debug, Default)]
pub(super) struct Subject {
    pub(super) words: String,
    report: Option<(String, Health)>,
}

impl Subject {
    pub(super) fn of(command: &Command) -> Subject {
        let words = match command {
            Command::Register { definition, .. } => {
                format!("register {} of the service {}", definition.instance.id, definition.instance.service)
            }
            Command::RegisterCheck { registration, .. } => match &registration.service {
                Some(service) => format!("register check {} of {service}", registration.check.id),
                None => format!("register check {} of the host", registration.check.id),
            },
            Command::Maintain { reason, .. } => {
                format!("{} {}", command, if reason.is_some() { "on" } else { "off" })
            }
            Command::Decide { policy, .. } => decision(policy),
            command => command.to_string(),
        };
        let report = match command {
            Command::UpdateCheck { id, health, .. } => Some((id.clone(), *health)),
            _ => None,
        };
        Subject { words, report }
    }
}

fn decision(policy: &[u8]) -> String {
    let Ok((policy, _)) = decode_policy(POLICY_FORMAT, policy) else {
        return "a decision that cannot be read".to_owned();
    };
    let operator = &policy.statement.operator;
    let what = match &policy.statement.change {
        Change::Intention(intention) if intention.permissions.is_empty() => {
            format!("intention {} {} -> {}", intention.action, intention.source, intention.destination)
        }
        Change::Intention(intention) => format!(
            "intention {} -> {} with {} permissions",
            intention.source,
            intention.destination,
            intention.permissions.len()
        ),
        Change::Delete(id) => format!("delete {id}"),
        Change::Revocation(revocation) => format!("revocation of {} ({})", revocation.name, revocation.node),
        Change::Trust(_) => policy.id().to_string(),
        Change::Traffic(statement) => match &statement.trial {
            Some(trial) => format!("{}, on trial in {}", policy.id(), trial.zone),
            None => policy.id().to_string(),
        },
        Change::Default(action) => format!("intention default {action}"),
    };
    format!("{what}, signed by {operator}")
}

fn outcome(status: StatusCode) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Done,
        StatusCode::FORBIDDEN => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

fn reason(answer: &Answer) -> Option<String> {
    if answer.status.is_success() {
        return None;
    }
    let value: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let sentence = value.as_ref().and_then(|value| value.get("error")).and_then(serde_json::Value::as_str);
    let sentence = sentence.map_or_else(|| String::from_utf8_lossy(&answer.body).into_owned(), str::to_owned);
    Some(sentence.trim().chars().take(SENTENCE_CHARS_MAX).collect())
}

impl Shared {
    /// Has a line written.
    pub(super) async fn audit(
        &self,
        client: &Client,
        token: Option<&str>,
        asked: &Asked,
        subject: Subject,
        answer: &Answer,
    ) {
        let Some(audit) = &self.audit else { return };
        let outcome = outcome(answer.status);
        if let Some((check, health)) = &subject.report
            && outcome == Outcome::Done
            && !self.reports.take(check, *health)
        {
            return;
        }
        let Some(omitted) = audit.admits(outcome) else { return };
        let mut entry = Entry {
            omitted,
            token: token.map(str::to_owned),
            method: asked.method.to_string(),
            path: format!("/{}", asked.segments.join("/")).chars().take(PATH_CHARS_MAX).collect(),
            subject: subject.words.chars().take(SENTENCE_CHARS_MAX).collect(),
            outcome,
            status: Some(answer.status.as_u16()),
            reason: reason(answer),
            ..Entry::default()
        };
        match client.via {
            Via::Unix => "socket",
            Via::Tcp(_) => "http",
            Via::Tls => "https",
        }
        .clone_into(&mut entry.via);
        if let Some(peer) = client.peer {
            entry.uid = Some(peer.uid);
            entry.gid = Some(peer.gid);
            entry.pid = peer.pid;
            entry.program = peer.pid.and_then(program);
        }
        if let Some(ends) = client.ends {
            entry.address = Some(ends.local.to_string());
            if let Some(who_asks) = self.who_asks.as_ref().filter(|_| ends.local.ip().is_loopback()) {
                let found = Attestor::open(who_asks.groups.clone()).program(ends.local, ends.remote).await;
                entry.uid = found.as_ref().map(|program| program.uid);
                entry.cgroup = found.and_then(|program| program.cgroup).map(|cgroup| cgroup.to_string());
            }
        }
        audit.record(entry);
    }
}

/// A process's own name for itself, where it may be seen (systemd's `ProtectProc=` hides those of other users).
fn program(pid: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().chars().take(64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_says_the_same_again_is_no_news() {
        let reports = Reports::default();
        assert!(reports.take("a", Health::Passing));
        assert!(!reports.take("a", Health::Passing));
        assert!(reports.take("a", Health::Critical) && reports.take("b", Health::Critical));
        assert!((0..REPORTS_MAX * 2).all(|at| reports.take(&format!("{at}"), Health::Passing)));
        assert!(reports.0.lock().unwrap().len() <= REPORTS_MAX);
    }

    #[test]
    fn an_answer_tells_what_became_of_it_and_why() {
        let refused = Answer::error(StatusCode::FORBIDDEN, "no, because");
        assert_eq!((outcome(refused.status), reason(&refused).as_deref()), (Outcome::Refused, Some("no, because")));
        let text = Answer::text(StatusCode::NOT_FOUND, "unknown\n");
        assert_eq!((outcome(text.status), reason(&text).as_deref()), (Outcome::Failed, Some("unknown")));
        assert_eq!((outcome(StatusCode::OK), reason(&Answer::done())), (Outcome::Done, None));
        assert_eq!(decision(b"x"), "a decision that cannot be read");
    }
}
