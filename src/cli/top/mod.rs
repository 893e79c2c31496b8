//! `weft top`: what this host's data plane carries now, service by service and edge by edge.

mod rates;
mod screen;
mod terminal;

use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::rates::{Rates, Sample, between};
use self::terminal::Terminal;
use super::client::Client;
use super::output::{CliError, EXIT_USAGE, Globals, json_line, print_line};

/// Faster than this shows noise; slower than this nobody watches.
const INTERVAL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// Show live traffic: calls a second, success, latency, by service and by caller and callee
///
/// WAY is `out` for calls of this host's programs and `in` for calls of other hosts to instances here. SUCCESS is the
/// part that ended with a response below 500; of tcp services, the connections that ended well. P50, P95 and P99 are
/// latencies to the response's head, of tcp to the connect. BUSY is calls under way, LIMIT how many requests of this host may be, EJECTED how many
/// instances get no calls from here because they failed. Each sample is compared with the one
/// before. Ends at Ctrl-C.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft top
  weft top --interval 10s
  weft top --once --json | jq '.services[] | select(.success < 0.99)'")]
pub(super) struct Args {
    /// End after the first comparison
    #[arg(long)]
    once: bool,
    /// From one sample to the next
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

#[derive(Debug, Deserialize)]
struct Status {
    node: String,
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    if !INTERVAL_RANGE.contains(&args.interval) {
        let given = humantime::format_duration(args.interval);
        let error = CliError::failed(format!("--interval {given} is not possible"), "give 100ms to 1h");
        return Err(error.exiting(EXIT_USAGE));
    }
    let client = Client::connect(globals.api.clone())?;
    let node = client.get_json::<Status>("/v1/weft/status")?.value.node;
    let mut signals = Signals::new(&client)?;
    // The screen is cleared when this goes, however the verb ends.
    let terminal = (!globals.json && !args.once).then(Terminal::open).flatten();
    let mut before = sample(&client)?;
    while client.block_on(signals.pause(args.interval)) {
        let after = sample(&client)?;
        let rates = between(&before, &after);
        if !show(&rates, &node, terminal.as_ref(), globals.json)? || args.once {
            break;
        }
        before = after;
    }
    Ok(())
}

fn sample(client: &Client) -> Result<Sample, CliError> {
    Ok(client.get_json::<Sample>("/v1/weft/traffic")?.value)
}

/// SIGINT and SIGTERM, from the start on: one that comes during a sample is not lost.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new(client: &Client) -> Result<Signals, CliError> {
        let both = client.block_on(async {
            let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            Ok::<_, std::io::Error>(Signals { interrupt, terminate })
        });
        both.map_err(|error| CliError::failed(format!("cannot wait for signals: {error}"), ""))
    }

    /// False if one came before the time was over.
    async fn pause(&mut self, interval: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(interval) => true,
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => false,
        }
    }
}

/// False if the reader has gone.
fn show(rates: &Rates, node: &str, terminal: Option<&Terminal>, json: bool) -> Result<bool, CliError> {
    if json {
        return print_line(&json_line(rates)?);
    }
    match terminal {
        Some(terminal) => {
            let size = terminal.size();
            terminal.draw(&screen::lines(rates, node, size), size)
        }
        None => print_line(&(screen::lines(rates, node, None).join("\n") + "\n\n")),
    }
}
