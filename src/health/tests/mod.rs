//! The runner as its callers see it, on paused time: definitions and reports in, events out.

mod alias;
mod told;

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Event, Runner, Settings};
use crate::config::{CheckDefinition, CheckKind};
use crate::model::{Health, ServiceId};

fn service(id: &str) -> ServiceId {
    ServiceId::parse(id).unwrap()
}

fn definition(id: &str, kind: CheckKind) -> CheckDefinition {
    CheckDefinition {
        id: id.into(),
        name: id.into(),
        kind,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        success_before_passing: 1,
        failures_before_warning: 1,
        failures_before_critical: 1,
        initial: Health::Critical,
        notes: String::new(),
        deregister_after: None,
    }
}

fn ttl(id: &str, seconds: u64) -> CheckDefinition {
    definition(id, CheckKind::Ttl { ttl: Duration::from_secs(seconds) })
}

fn runner() -> (Runner, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel(64);
    (Runner::new(Settings::default(), sender), events)
}

/// The next event, if one comes within `patience` of paused time.
async fn within(events: &mut mpsc::Receiver<Event>, patience: Duration) -> Option<Event> {
    tokio::time::timeout(patience, events.recv()).await.ok().flatten()
}

/// The verdict and output of the next event, which must be one.
async fn verdict(events: &mut mpsc::Receiver<Event>) -> (Health, String) {
    match within(events, Duration::from_secs(3600)).await {
        Some(Event::Verdict { health, output, .. }) => (health, output),
        other => panic!("{other:?} is no verdict"),
    }
}
