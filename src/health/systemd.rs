//! systemd checks: `systemctl is-active UNIT`. An active unit passes, one that is on its way there warns.

use std::time::Duration;

use super::Attempt;
use super::program::{self, Ended, Slots};
use crate::model::Health;

/// Where every distribution of today has it; not looked up in a PATH.
const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// One attempt.
pub(super) async fn attempt(unit: &str, timeout: Duration, slots: &Slots) -> Attempt {
    let args = [SYSTEMCTL, "is-active", "--", unit].map(str::to_owned);
    judge(unit, timeout, program::run(&args, timeout, slots).await)
}

fn judge(unit: &str, timeout: Duration, ended: Ended) -> Attempt {
    match ended {
        // By the word: the exit code tells activating and failed apart only in newer versions.
        Ended::Exited { output, .. } => {
            let state = output.lines().next().unwrap_or_default();
            let health = match state {
                "active" => Health::Passing,
                "activating" | "reloading" | "refreshing" => Health::Warning,
                _ => Health::Critical,
            };
            Attempt::new(health, format!("{unit} is {}", if state.is_empty() { "unknown" } else { state }))
        }
        Ended::Late { .. } => Attempt::critical(format!("{unit}: {SYSTEMCTL} did not answer within {timeout:?}")),
        Ended::NotStarted(error) => Attempt::critical(format!("{unit}: {SYSTEMCTL} cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_the_verdict() {
        let judged = |code, output: &str| {
            judge(
                "nginx.service",
                Duration::from_secs(1),
                Ended::Exited { code: Some(code), output: output.to_owned() },
            )
        };
        assert_eq!(judged(0, "active"), Attempt::new(Health::Passing, "nginx.service is active".into()));
        assert_eq!(judged(3, "activating").health, Health::Warning);
        assert_eq!(judged(0, "reloading").health, Health::Warning);
        assert_eq!(judged(3, "inactive"), Attempt::critical("nginx.service is inactive".into()));
        assert_eq!(judged(3, "failed").health, Health::Critical);
        assert_eq!(judged(1, "").output, "nginx.service is unknown");
    }
}
