//! Script checks: a program's exit code is the verdict, as with Nagios plugins: 0 passes, 1 warns, all else fails.

use std::time::Duration;

use super::Attempt;
use super::program::{self, Ended, Slots};
use crate::model::Health;

/// One attempt.
pub(super) async fn attempt(args: &[String], timeout: Duration, slots: &Slots) -> Attempt {
    let program = args.first().map_or("", String::as_str);
    match program::run(args, timeout, slots).await {
        Ended::Exited { code: Some(0), output } => Attempt::new(Health::Passing, output),
        Ended::Exited { code: Some(1), output } => Attempt::new(Health::Warning, output),
        Ended::Exited { code: Some(code), output } => {
            Attempt::critical(format!("{program} exited with {code}: {output}"))
        }
        Ended::Exited { code: None, output } => Attempt::critical(format!("{program} was killed: {output}")),
        Ended::Late { output } => Attempt::critical(format!("{program} did not end within {timeout:?}: {output}")),
        Ended::NotStarted(error) => Attempt::critical(format!("{program} cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn attempt_of(script: &str) -> Attempt {
        let args = ["/bin/sh", "-c", script].map(str::to_owned);
        attempt(&args, Duration::from_secs(10), &Slots::default()).await
    }

    #[tokio::test]
    async fn the_exit_code_is_the_verdict_and_both_outputs_are_kept() {
        let passing = attempt_of("echo 12% used").await;
        assert_eq!((passing.health, passing.output.as_str()), (Health::Passing, "12% used"));
        assert_eq!(attempt_of("echo 85% used >&2; exit 1").await.output, "85% used");
        assert_eq!(attempt_of("exit 1").await.health, Health::Warning);
        assert_eq!(attempt_of("echo full; exit 2").await.output, "/bin/sh exited with 2: full");
        assert_eq!(attempt_of("kill -9 $$").await.output, "/bin/sh was killed: ");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_fails_with_its_name() {
        let args = ["/nonexistent/check".to_owned()];
        let made = attempt(&args, Duration::from_secs(10), &Slots::default()).await;
        assert_eq!(made.health, Health::Critical);
        assert!(made.output.starts_with("/nonexistent/check cannot be run: No such file"), "{}", made.output);
    }
}
