//! May this call be made? Asked where calls are delivered, on the host of the service that is called: of streams when they
//! are opened and again whenever the directory changes, of requests one by one. What is refused is counted for each pair of
//! caller and service, and told in the log, each pair once in a while.
//!
//! The verdict itself is `model::Intentions`'; who the caller is comes with the call.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::{Method, Uri};
use tokio::time::Instant;
use tracing::info;

use super::worker::Worker;
use crate::model::{ServiceName, Verdict};
use crate::wire::frame::Open;

/// Pairs that are counted apart; those beyond are counted together.
const PAIRS_MAX: usize = 1024;
/// A pair that is refused over and over has a line this often.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);
/// A caller of whom nothing is known.
const ANONYMOUS: &str = "anonymous";
/// Both sides of the pairs that had no place.
const OTHERS: &str = "others";

/// Calls refused, by caller and service.
#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<BTreeMap<(String, String), Denial>>);

#[derive(Debug, Default)]
struct Denial {
    count: u64,
    told: Option<Instant>,
}

impl Denials {
    /// Counts one. True if it is to be told.
    fn count(&self, caller: &str, service: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (caller.to_owned(), service.to_owned());
        let has_place = all.len() < PAIRS_MAX || all.contains_key(&pair);
        let pair = if has_place { pair } else { (OTHERS.to_owned(), OTHERS.to_owned()) };
        let denial = all.entry(pair).or_default();
        denial.count += 1;
        let is_due = denial.told.is_none_or(|told| told.elapsed() >= TOLD_INTERVAL);
        if is_due {
            denial.told = Some(Instant::now());
        }
        is_due
    }

    /// Caller, service and how often.
    pub(super) fn all(&self) -> Vec<(String, String, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|((caller, service), denial)| (caller.clone(), service.clone(), denial.count)).collect()
    }
}

/// A call, as far as it matters whether it may be made.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Who calls; `None`: nobody knows.
    pub(super) caller: Option<ServiceName>,
    pub(super) service: ServiceName,
    /// Method and target, where it is a request.
    pub(super) request: Option<(String, String)>,
}

impl Wanted {
    /// A stream that another host's agent opens.
    pub(super) fn of(open: &Open) -> Wanted {
        Wanted { caller: open.caller.clone(), service: open.service.clone(), request: None }
    }

    /// A request that goes over to another protocol: a GET to its service, however it comes (RFC 8441 §5).
    pub(super) fn upgrade(caller: Option<ServiceName>, service: &ServiceName, uri: &Uri) -> Wanted {
        let method = Method::GET;
        let request = Some((method.as_str().to_owned(), uri.path().to_owned()));
        Wanted { caller, service: service.clone(), request }
    }
}

/// Why not.
#[derive(Debug)]
pub(super) struct Denied {
    /// The rule, in words.
    pub(super) rule: String,
}

/// Judges a call, and counts it if it is refused.
pub(super) fn admit(
    worker: &Worker,
    caller: Option<&ServiceName>,
    service: &ServiceName,
    request: Option<(&str, &str)>,
) -> Result<(), Denied> {
    let Verdict { allowed, rule } = worker.directory.load().intentions.judge(caller, service, request);
    if allowed {
        return Ok(());
    }
    let name = caller.map_or(ANONYMOUS, ServiceName::as_str);
    let rule = rule.to_string();
    if worker.traffic.denials.count(name, service.as_str()) {
        info!(caller = name, %service, rule, "a call was denied");
    }
    Err(Denied { rule })
}

/// [`admit`] of a request. One that is to go over to another protocol comes from another host as a CONNECT.
pub(super) fn admit_request(
    worker: &Worker,
    caller: Option<&ServiceName>,
    service: &ServiceName,
    (method, uri): (&Method, &Uri),
) -> Result<(), Denied> {
    let method = if method == Method::CONNECT { &Method::GET } else { method };
    admit(worker, caller, service, Some((method.as_str(), uri.path())))
}

/// [`admit`] of a call that may last.
pub(super) fn admit_wanted(worker: &Worker, wanted: &Wanted) -> Result<(), Denied> {
    let request = wanted.request.as_ref().map(|(method, target)| (method.as_str(), target.as_str()));
    admit(worker, wanted.caller.as_ref(), &wanted.service, request)
}

/// Ends when a call that was let through must not go on, because an intention has changed. It is counted by then.
pub(super) async fn turned(worker: &Worker, wanted: &Wanted) {
    loop {
        // Begun before the verdict, so that no change goes by between the two.
        let changed = worker.intentions_changed.notified();
        if admit_wanted(worker, wanted).is_err() {
            return;
        }
        changed.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_bounded_and_told_once_in_a_while() {
        let denials = Denials::default();
        assert!(denials.count("web", "billing"));
        assert!(!denials.count("web", "billing"));
        assert!(denials.count(ANONYMOUS, "billing"));
        for number in 0..2 * PAIRS_MAX {
            denials.count(&format!("s{number}"), "billing");
        }
        let all = denials.all();
        assert_eq!(all.len(), PAIRS_MAX + 1);
        assert!(all.contains(&("web".into(), "billing".into(), 2)));
        let others = all.iter().find(|(caller, ..)| caller == OTHERS).map(|(.., count)| *count);
        assert_eq!(others, Some(PAIRS_MAX as u64 + 2));
    }
}
