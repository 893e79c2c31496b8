//! TTL checks: nothing is tried; the service reports, and is critical when it has not for too long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::capped;
use super::standing::{Standing, Unheard, until};
use crate::model::Health;

/// Reports on their way to the check. The newest replaces one that was not taken yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Reports(Arc<(Mutex<Option<Report>>, Notify)>);

type Report = (Health, String);

impl Reports {
    pub(super) fn put(&self, health: Health, output: String) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((health, capped(output)));
        self.0.1.notify_one();
    }

    async fn next(&self) -> Report {
        loop {
            if let Some(report) = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return report;
            }
            self.0.1.notified().await;
        }
    }
}

/// Waits for reports, and for their absence.
pub(super) async fn run(mut standing: Standing, ttl: Duration, reports: Reports) -> Result<(), Unheard> {
    let mut expires = Some(Instant::now() + ttl);
    let mut last = String::new();
    loop {
        let due = standing.due();
        tokio::select! {
            (health, output) = reports.next() => {
                expires = Some(Instant::now() + ttl);
                last.clone_from(&output);
                standing.told(health, output).await?;
            }
            () = until(expires) => {
                expires = None;
                let output = match last.as_str() {
                    "" => format!("no report within {}", humantime::format_duration(ttl)),
                    last => format!("no report within {}; the last one said: {last}", humantime::format_duration(ttl)),
                };
                standing.told(Health::Critical, output).await?;
            }
            () = until(due) => standing.on_due().await?,
        }
    }
}
