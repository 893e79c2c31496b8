//! Runs the command of `weft watch`: no shell, the state on its standard input, one run at a time.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{Latest, State};
use crate::cli::output::{CliError, Plain, json_line, remark};

/// What a run has between SIGTERM and SIGKILL, when the verb is told to end.
const GRACE: Duration = Duration::from_secs(5);

/// Runs it at each state; those that come during a run are one, the latest.
pub(super) async fn run_each(
    command: &[String],
    once: bool,
    mut states: Latest,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), CliError> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    while states.changed().await.is_ok() {
        let Some(state) = states.borrow_and_update().clone() else { continue };
        let text = json_line(&*state)?;
        let ended = run(program, arguments, &state, &text, &mut stopped).await?;
        if *stopped.borrow() {
            break;
        }
        if let Some(status) = ended.filter(|status| !status.success()) {
            let message = format!("{} ended with {status}", Plain(program));
            if once {
                return Err(CliError::failed(message, "its own output says why"));
            }
            remark(&format!("weft watch: {message}, at index {}\n", state.index));
        }
    }
    Ok(())
}

/// One run; `None` if it was told to end.
async fn run(
    program: &str,
    arguments: &[String],
    state: &State,
    text: &str,
    stopped: &mut watch::Receiver<bool>,
) -> Result<Option<ExitStatus>, CliError> {
    let failed = |what: &str, error: std::io::Error| {
        CliError::failed(format!("cannot {what} {program}: {error}"), "give a program by its path, and its arguments")
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("WEFT_SERVICE", &state.service)
        .env("WEFT_INDEX", state.index.to_string())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("run", error))?;
    let stdin = child.stdin.take();
    let feeding = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read is none the worse for it.
            let _unread = stdin.write_all(text.as_bytes()).await;
        }
    };
    let running = async {
        let ((), status) = tokio::join!(feeding, child.wait());
        status
    };
    tokio::select! {
        status = running => return status.map(Some).map_err(|error| failed("wait for", error)),
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    end(&mut child).await;
    Ok(None)
}

async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // It may have ended meanwhile.
        let _gone = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _gone = child.kill().await;
    }
}
