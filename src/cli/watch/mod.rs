//! `weft watch`: follows one service, and prints its state or runs a command at each change.
//!
//! `follow` asks the agent, `command` runs what is to be run; between them is one slot that holds the latest state, so a
//! slow command sees the newest and none of those that it missed.

mod command;
mod state;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::state::{Entry, State};
use super::client::{Client, encode};
use super::names::{self, Named};
use super::output::{CliError, EXIT_FAILED, EXIT_UNREACHABLE, Globals, Plain, json_line, print_line, remark};

/// Between tries to reach an agent that does not answer: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// An agent whose answers come without waiting is asked no more often than this.
const PACE: Duration = Duration::from_millis(20);

/// Follow a service: print its state, or run a command, at each change
///
/// One JSON object a line, the first at once. With a command: it is run without a shell, with the JSON on its standard
/// input and WEFT_SERVICE and WEFT_INDEX in its environment; the next run waits for the one before, and sees the latest
/// state. An agent that goes is waited for. Ends with 0 on SIGINT and SIGTERM.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft watch billing
  weft watch billing --passing --once | jq -r '.instances[] | \"\\(.address):\\(.port)\"'
  weft watch v2.billing -- /usr/local/bin/write-upstreams /etc/haproxy/billing.map")]
pub(super) struct Args {
    /// SERVICE or TAG.SERVICE, with or without the domain
    service: String,
    /// Only instances all of whose checks pass
    #[arg(long)]
    passing: bool,
    /// Only instances with this tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// End after the first state; with a command, after its run, and fail if it failed
    #[arg(long)]
    once: bool,
    /// What to run at each change
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

type Latest = watch::Receiver<Option<Arc<State>>>;

/// Runs the verb.
pub(super) fn run(args: Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let Named { service, tag } = names::service(&client, &args.service)?;
    let tags = [args.tags, tag.into_iter().collect()].concat();
    let asked = Asked { service, tags, passing: args.passing };
    client.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let (latest, states) = watch::channel(None);
        let following = follow(&client, &asked, args.once, latest, stopped.clone());
        let consuming = async {
            let ended = match args.command.is_empty() {
                true => print_each(states).await,
                false => command::run_each(&args.command, args.once, states, stopped.clone()).await,
            };
            stop.send_replace(true);
            ended
        };
        let both = async { tokio::try_join!(following, consuming).map(|_| ()) };
        tokio::select! {
            ended = both => ended,
            ended = stop_on_signal(&stop) => ended,
        }
    })
}

/// Tells everybody to stop at the first signal, and waits on: what stops ends the verb.
async fn stop_on_signal(stop: &watch::Sender<bool>) -> Result<(), CliError> {
    let no_signal = |error| CliError::failed(format!("cannot wait for signals: {error}"), "");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.send_replace(true);
    std::future::pending().await
}

/// What is followed.
#[derive(Debug)]
struct Asked {
    service: String,
    tags: Vec<String>,
    passing: bool,
}

impl Asked {
    fn path(&self) -> String {
        let tags: String = self.tags.iter().map(|tag| format!("&tag={}", encode(tag))).collect();
        let passing = if self.passing { "&passing" } else { "" };
        format!("/v1/health/service/{}?stale{passing}{tags}", encode(&self.service))
    }
}

/// Asks for change after change, and keeps the latest state in the slot. Ends at a stop, with `once` at the first state,
/// and where the agent says that the question is wrong.
async fn follow(
    client: &Client,
    asked: &Asked,
    once: bool,
    latest: watch::Sender<Option<Arc<State>>>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), CliError> {
    let path = asked.path();
    let (mut index, mut backoff) = (0, None);
    loop {
        let answer = tokio::select! {
            answer = client.get_changed::<Vec<Entry>>(&path, index) => answer,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let pause = match answer {
            Ok(told) => {
                if backoff.take().is_some() {
                    remark("weft watch: the agent answers again\n");
                }
                // An index that went back is that of an agent that lost its state (Consul's rule).
                index = if told.index < index { 0 } else { told.index };
                let state = State::new(asked, told.index, told.stale, told.value);
                let is_news = latest.borrow().as_ref().is_none_or(|known| !known.same(&state));
                if is_news {
                    latest.send_replace(Some(Arc::new(state)));
                }
                if once {
                    return Ok(());
                }
                PACE
            }
            Err(error) if matches!(error.exit_code, EXIT_UNREACHABLE | EXIT_FAILED) => {
                let pause = backoff.map_or(BACKOFF.0, |last: Duration| (last * 2).min(BACKOFF.1));
                backoff = Some(pause);
                // The agent that comes back may be another: it is asked afresh.
                index = 0;
                let wait = humantime::format_duration(pause);
                remark(&format!("weft watch: {}; trying again in {wait}\n", Plain(&error.message)));
                pause
            }
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        }
    }
}

/// One line a state. A reader that has gone ends it.
async fn print_each(mut states: Latest) -> Result<(), CliError> {
    while states.changed().await.is_ok() {
        let Some(state) = states.borrow_and_update().clone() else { continue };
        if !print_line(&json_line(&*state)?)? {
            break;
        }
    }
    Ok(())
}
