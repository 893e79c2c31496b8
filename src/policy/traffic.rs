//! Which document of each service this host applies, and what was stated before. Pure: what holds in the cluster comes from
//! [`super::Policies`], the host's zone and the time are arguments.
//!
//! A document that this version cannot read leaves in force the last one that it can. What was stated is kept so that this
//! one is there after a restart too, and for people who want to go back: the last [`PAST_MAX`] statements of each service, that
//! one among them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::document::{Document, DocumentError};
use crate::model::{
    Change, Dot, PastStatement, Policy, PolicyId, ServiceName, Standing, TrafficAccount, TrafficPolicies,
    TrafficPolicy, TrafficStatement, TrialHere,
};

/// Statements about one service that are remembered.
pub const PAST_MAX: usize = 20;
/// The documents of those: twenty of the usual kilobyte, or a dozen of the longest with the longest of trials.
const PAST_BYTES_MAX: usize = 384 * 1024;
/// What is remembered of all services together. Beyond it services with the most give the oldest of theirs; two each
/// may have.
const PAST_BYTES_ALL_MAX: usize = 16 * 1024 * 1024;
/// Of a sentence about what is not understood.
const WHY_CHARS_MAX: usize = 400;

/// What is known of one service.
#[derive(Debug, Clone, Default)]
struct Shelf {
    /// The latest last.
    past: Vec<Arc<PastStatement>>,
    account: Option<Arc<TrafficAccount>>,
    policy: Option<Arc<TrafficPolicy>>,
}

/// A document that this host cannot apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Whose traffic it is about.
    pub service: ServiceName,
    /// Who stated it.
    pub operator: String,
    /// The keys, and why not.
    pub why: String,
}

/// What is stated, and what this host makes of it.
#[derive(Debug, Clone, Default)]
pub struct TrafficShelves {
    shelves: BTreeMap<ServiceName, Shelf>,
    bytes: usize,
    /// Services whose past is another than was last taken by [`TrafficShelves::take_changed`].
    changed: BTreeSet<ServiceName>,
}

impl TrafficShelves {
    /// Remembers a statement, in whatever order they come.
    pub fn note(&mut self, policy: &Policy) {
        let PolicyId::Traffic(service) = policy.id() else { return };
        let statement = &policy.statement;
        let said = match &statement.change {
            Change::Traffic(said) => Some(said.clone()),
            _ => None,
        };
        let past = PastStatement {
            number: statement.dot.lamport,
            writer: statement.dot.writer,
            operator: statement.operator.clone(),
            at_unix_s: statement.at_unix_s,
            said,
        };
        if self.remember(&service, past) {
            self.changed.insert(service);
        }
    }

    /// Takes what an earlier run had remembered.
    pub fn recall(&mut self, service: &ServiceName, past: Vec<PastStatement>) {
        for past in past {
            self.remember(service, past);
        }
    }

    /// True if it is news.
    fn remember(&mut self, service: &ServiceName, past: PastStatement) -> bool {
        let shelf = self.shelves.entry(service.clone()).or_default();
        let bytes = bytes_of(&past);
        match shelf.past.binary_search_by_key(&past.dot(), |past| past.dot()) {
            Ok(at) if *shelf.past[at] == past => return false,
            Ok(at) => {
                self.bytes = self.bytes - bytes_of(&shelf.past[at]) + bytes;
                shelf.past[at] = Arc::new(past);
            }
            Err(at) => {
                self.bytes += bytes;
                shelf.past.insert(at, Arc::new(past));
            }
        }
        while shelf.past.len() > PAST_MAX || shelf.bytes() > PAST_BYTES_MAX {
            let Some(freed) = shelf.forget_oldest() else { break };
            self.bytes -= freed;
        }
        while self.bytes > PAST_BYTES_ALL_MAX {
            let can_give = self.shelves.iter_mut().filter(|(_, shelf)| shelf.past.len() > 2);
            let most = can_give.max_by_key(|(_, shelf)| shelf.bytes());
            let Some((service, freed)) =
                most.and_then(|(service, shelf)| Some((service.clone(), shelf.forget_oldest()?)))
            else {
                break;
            };
            self.bytes -= freed;
            self.changed.insert(service);
        }
        true
    }

    /// What was stated about a service, the latest last.
    pub fn past(&self, service: &ServiceName) -> &[Arc<PastStatement>] {
        self.shelves.get(service).map_or(&[], |shelf| &shelf.past)
    }

    /// Services whose past has changed since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed)
    }

    /// Works out what this host applies for a service. `here` is its zone. Tells what it cannot, once for each statement.
    pub fn settle(
        &mut self,
        service: &ServiceName,
        standing: &Standing,
        here: &str,
        now_unix_s: u64,
    ) -> Option<NotUnderstood> {
        let shelf = self.shelves.entry(service.clone()).or_default();
        let statement = &standing.winner.statement;
        let stated = statement.dot;
        let (settled, why) = match &statement.change {
            Change::Traffic(said) => shelf.apply(stated, said, here, now_unix_s),
            _ => (Settled { applied: None, policy: None, not_understood: None, trial: None }, None),
        };
        let account = TrafficAccount {
            past: shelf.past.clone(),
            stated,
            applied: settled.applied,
            not_understood: settled.not_understood,
            trial: settled.trial,
        };
        let was_told = shelf.account.as_ref().is_some_and(|old| {
            old.stated == stated && old.not_understood == account.not_understood && old.trial == account.trial
        });
        if shelf.policy != settled.policy {
            shelf.policy = settled.policy;
        }
        if shelf.account.as_deref() != Some(&account) {
            shelf.account = Some(Arc::new(account));
        }
        let operator = statement.operator.clone();
        why.filter(|_| !was_told).map(|why| NotUnderstood { service: service.clone(), operator, why })
    }

    /// When the next trial ends that is applied here.
    pub fn ends_unix_s(&self) -> Option<u64> {
        self.on_trial().filter_map(|(_, shelf)| shelf.trial()).min()
    }

    /// The services whose trial is over.
    pub fn over(&self, now_unix_s: u64) -> Vec<ServiceName> {
        let is_over = |shelf: &Shelf| shelf.trial().is_none_or(|ends_unix_s| ends_unix_s <= now_unix_s);
        self.on_trial().filter(|(_, shelf)| is_over(shelf)).map(|(service, _)| service.clone()).collect()
    }

    fn on_trial(&self) -> impl Iterator<Item = (&ServiceName, &Shelf)> {
        let applied = |shelf: &Shelf| {
            let trial = shelf.account.as_ref().and_then(|account| account.trial);
            matches!(trial, Some(TrialHere::Applied | TrialHere::NotUnderstood))
        };
        self.shelves.iter().filter(move |(_, shelf)| applied(shelf))
    }

    /// What holds on this host.
    pub fn compile(&self) -> TrafficPolicies {
        let policy = |(service, shelf): (&ServiceName, &Shelf)| Some((service.clone(), shelf.policy.clone()?));
        let account = |(service, shelf): (&ServiceName, &Shelf)| Some((service.clone(), shelf.account.clone()?));
        let policies = TrafficPolicies::new(self.shelves.iter().filter_map(policy).collect());
        policies.accounted(self.shelves.iter().filter_map(account).collect())
    }
}

struct Settled {
    applied: Option<Dot>,
    policy: Option<Arc<TrafficPolicy>>,
    not_understood: Option<String>,
    trial: Option<TrialHere>,
}

impl Shelf {
    fn bytes(&self) -> usize {
        self.past.iter().map(|past| bytes_of(past)).sum()
    }

    /// When the trial ends of the statement that holds.
    fn trial(&self) -> Option<u64> {
        let stated = self.account.as_ref()?.stated;
        let past = self.past.iter().rev().find(|past| past.dot() == stated)?;
        Some(past.said.as_ref()?.trial.as_ref()?.ends_unix_s)
    }

    /// Lets go of the oldest statement but the latest one and the last that is understood. Tells its bytes.
    fn forget_oldest(&mut self) -> Option<usize> {
        let understood = self.past.iter().rposition(|past| understood(past).is_some());
        let last = self.past.len().checked_sub(1)?;
        let oldest = (0..last).find(|at| Some(*at) != understood)?;
        Some(bytes_of(&self.past.remove(oldest)))
    }

    fn apply(&self, stated: Dot, said: &TrafficStatement, here: &str, now_unix_s: u64) -> (Settled, Option<String>) {
        let (mut not_understood, mut why, mut trial_here) = (None, None, None);
        if let Some(trial) = &said.trial {
            trial_here = Some(match () {
                () if trial.ends_unix_s <= now_unix_s => TrialHere::Ended,
                () if trial.zone != here => TrialHere::Elsewhere,
                () => match Document::parse(&trial.document) {
                    Ok(document) => {
                        let policy = Some(self.shared(&document));
                        let trial = Some(TrialHere::Applied);
                        return (Settled { applied: Some(stated), policy, not_understood, trial }, why);
                    }
                    Err(error) => {
                        why = Some(in_words(&error));
                        TrialHere::NotUnderstood
                    }
                },
            });
        }
        let (applied, policy) = match Document::parse(&said.document) {
            Ok(document) => (Some(stated), Some(self.shared(&document))),
            Err(error) => {
                not_understood = Some(in_words(&error));
                why = not_understood.clone();
                let before = self.past.iter().rev().filter(|past| past.dot() < stated);
                match before.filter_map(|past| Some((past, understood(past)?))).next() {
                    Some((past, Some(document))) => (Some(past.dot()), Some(self.shared(&document))),
                    Some((_, None)) | None => (None, None),
                }
            }
        };
        (Settled { applied, policy, not_understood, trial: trial_here }, why)
    }

    /// The document's policy, in the place in memory where the same one is already.
    fn shared(&self, document: &Document) -> Arc<TrafficPolicy> {
        let same = self.policy.as_ref().filter(|policy| ***policy == *document.policy());
        same.cloned().unwrap_or_else(|| Arc::new(document.policy().clone()))
    }
}

/// What a statement comes to: a document, or nothing (`Some(None)`), or it cannot be read (`None`).
fn understood(past: &PastStatement) -> Option<Option<Document>> {
    match &past.said {
        None => Some(None),
        Some(said) => Document::parse(&said.document).ok().map(Some),
    }
}

fn bytes_of(past: &PastStatement) -> usize {
    let said = past.said.as_ref();
    let trial = said.and_then(|said| said.trial.as_ref()).map_or(0, |trial| trial.document.len());
    // The rest of it is about as long as that.
    128 + said.map_or(0, |said| said.document.len()) + trial
}

fn in_words(error: &DocumentError) -> String {
    error.to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(WHY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
