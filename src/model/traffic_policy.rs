//! What operators state about how calls of a service are carried, as it travels: a document that only `policy/document.rs`
//! reads, so that agents which cannot read it carry it on. And how this host stands to it: whose document it applies, why not
//! a later one, and what was stated before.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Dot, NodeId, PolicyError, ServiceName};

/// The longest document: two of them, a trial's and what holds elsewhere, fit a record with its certificates.
pub const TRAFFIC_DOCUMENT_BYTES_MAX: usize = 16 * 1024;
/// As long as a host's zone may be.
const ZONE_BYTES_MAX: usize = 63;
/// The longest trial. What is right for a week is right, or was forgotten.
pub const TRIAL_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Everything that is said about the traffic of one service.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStatement {
    /// The service that is called.
    pub service: ServiceName,
    /// JSON, without line breaks. Not read here: an agent may be too old to.
    pub document: String,
    /// What holds in one zone for a while instead.
    pub trial: Option<Trial>,
}

/// A document that is tried in one zone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Where.
    pub zone: String,
    /// What holds there.
    pub document: String,
    /// Until when, in seconds since 1970, by each host's own clock.
    pub ends_unix_s: u64,
}

impl TrafficStatement {
    /// Checks what its types do not say.
    pub(super) fn check(&self, at_unix_s: u64) -> Result<(), PolicyError> {
        let wrong = |why| Err(PolicyError::Contradiction(why));
        let documents = [Some(&self.document), self.trial.as_ref().map(|trial| &trial.document)];
        for document in documents.into_iter().flatten() {
            if document.len() > TRAFFIC_DOCUMENT_BYTES_MAX {
                return Err(PolicyError::TooLong { what: "traffic policy", max: TRAFFIC_DOCUMENT_BYTES_MAX });
            }
            // They are logged, listed and kept; JSON needs none.
            if document.is_empty() || document.chars().any(char::is_control) {
                return wrong("its document is empty, or has control characters");
            }
        }
        let Some(trial) = &self.trial else { return Ok(()) };
        let is_word = |text: &str| text.len() <= ZONE_BYTES_MAX && text.chars().all(|c| c.is_ascii_graphic());
        if trial.zone.is_empty() || !is_word(&trial.zone) {
            return wrong("its trial is in no zone");
        }
        if !(1..=TRIAL_SECONDS_MAX).contains(&trial.ends_unix_s.saturating_sub(at_unix_s)) {
            return wrong("its trial ends before it begins, or lasts longer than a week");
        }
        Ok(())
    }
}

/// Without the documents: what is logged is a line.
impl fmt::Debug for TrafficStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TrafficStatement");
        shown.field("service", &self.service).field("document_bytes", &self.document.len());
        shown.field("trial", &self.trial).finish()
    }
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Trial");
        shown.field("zone", &self.zone).field("document_bytes", &self.document.len());
        shown.field("ends_unix_s", &self.ends_unix_s).finish()
    }
}

/// One statement about a service's traffic, as every host remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastStatement {
    /// Its place among those of the service: the same on every host. Statements made at once may share one.
    pub number: u64,
    /// The host where the operator decided.
    pub writer: NodeId,
    /// Who decided.
    pub operator: String,
    /// When, in seconds since 1970, by the clock of where it was signed.
    pub at_unix_s: u64,
    /// What; `None`: that nothing is said any more.
    pub said: Option<TrafficStatement>,
}

impl PastStatement {
    /// Its name.
    pub fn dot(&self) -> Dot {
        Dot { lamport: self.number, writer: self.writer }
    }
}

/// What becomes of a trial on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialHere {
    /// It is applied.
    Applied,
    /// It is another zone's.
    Elsewhere,
    /// Its time is over.
    Ended,
    /// It would be applied if it were understood.
    NotUnderstood,
}

/// How this host stands to what is stated about one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficAccount {
    /// What was stated, the latest last; as much of it as is kept.
    pub past: Vec<Arc<PastStatement>>,
    /// The statement that holds in the cluster.
    pub stated: Dot,
    /// The statement whose document is applied here; `None`: the defaults.
    pub applied: Option<Dot>,
    /// Why the document of the one that holds is not applied here.
    pub not_understood: Option<String>,
    /// What becomes of its trial here.
    pub trial: Option<TrialHere>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(document: &str, trial: Option<Trial>) -> TrafficStatement {
        TrafficStatement { service: ServiceName::parse("billing").unwrap(), document: document.into(), trial }
    }

    #[test]
    fn a_document_is_bounded_text_and_nothing_is_asked_of_its_sense() {
        assert_eq!(statement("what a later version reads", None).check(0), Ok(()));
        assert_eq!(statement(&"x".repeat(TRAFFIC_DOCUMENT_BYTES_MAX), None).check(0), Ok(()));
        for bad in ["", "{\n}", &"x".repeat(TRAFFIC_DOCUMENT_BYTES_MAX + 1)] {
            assert!(statement(bad, None).check(0).is_err());
        }
    }

    #[test]
    fn a_trial_is_in_a_zone_and_ends_within_a_week() {
        let trial = |zone: &str, ends_unix_s| Some(Trial { zone: zone.into(), document: "{}".into(), ends_unix_s });
        let check = |trial| statement("{}", trial).check(1000);
        assert_eq!(check(trial("eu-1a", 1001)), Ok(()));
        assert_eq!(check(trial("eu-1a", 1000 + TRIAL_SECONDS_MAX)), Ok(()));
        for bad in [trial("", 1001), trial("a b", 1001), trial("eu-1a", 1000), trial("eu-1a", u64::MAX)] {
            assert!(check(bad).is_err());
        }
    }
}
