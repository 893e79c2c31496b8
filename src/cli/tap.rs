//! `weft tap`: the calls that this host carries, one line each as they end.

use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, encode};
use super::names::{self, Named};
use super::output::{CliError, EXIT_UNREACHABLE, EXIT_USAGE, Globals, Plain, json_line, print_line, remark};
use crate::model::TapCode;

/// Look at the calls that this host carries, one line each as they end
///
/// Requests of this host's programs (out) and of others to instances here (in): a request when its response begins, a
/// connection of a service that speaks no HTTP when it ends. Paths are shown without their queries. What comes faster than it
/// can be told is counted and told as lost; the calls themselves never wait. At most sixteen may look at once. Ends with
/// 0 on SIGINT and SIGTERM.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft tap billing
  weft tap --errors --direction out
  weft tap billing --caller web --path /v1/ --code 5xx --limit 20
  weft tap --json --sample 100 | jq -r '.path'")]
pub(super) struct Args {
    /// Only calls to this service, with or without the domain
    service: Option<String>,
    /// Only calls by this service, or from this host
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Only requests whose path begins so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests that end with this status, or class of them: 503, 5xx
    #[arg(long, value_name = "CODE", value_parser = code)]
    code: Option<String>,
    /// Only calls that failed: 5xx, no response, or Weft's own answer
    #[arg(long)]
    errors: bool,
    /// Only calls that go this way
    #[arg(long, value_name = "WAY", value_enum)]
    direction: Option<Way>,
    /// Only one of so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// End after so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Way {
    /// Of others, to instances of this host
    In,
    /// Of programs of this host
    Out,
}

fn code(text: &str) -> Result<String, String> {
    TapCode::parse(text)
        .map(|_| text.to_owned())
        .ok_or_else(|| "give a status like 503, or a class like 5xx".to_owned())
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let service = args.service.as_deref().map(|text| whole(&client, text)).transpose()?;
    let path = path(args, service.as_deref());
    let mut shown = 0;
    let print = |line: &str| {
        let told = Told::read(line)?;
        shown += u64::from(matches!(told, Told::Call(_)));
        match (told, globals.json) {
            (Told::Nothing, _) => Ok(true),
            (Told::Call(value), true) => print_line(&json_line(&value)?),
            (Told::Lost(lost), true) => print_line(&json_line(&serde_json::json!({ "lost": lost }))?),
            (Told::Call(value), false) => print_line(&(sentence(value) + "\n")),
            (Told::Lost(lost), false) => {
                remark(&format!("weft tap: {lost} calls are not shown: more came than could be told\n"));
                Ok(true)
            }
        }
    };
    let is_over = client.block_on(async {
        tokio::select! {
            ended = client.lines(&path, print) => ended.map(|()| false),
            ended = until_signal() => ended.map(|()| true),
        }
    })?;
    if is_over || args.limit.is_some_and(|limit| shown >= limit) {
        return Ok(());
    }
    Err(CliError::failed("the agent has ended the tap", "it is stopping; see its log: journalctl -u weft")
        .exiting(EXIT_UNREACHABLE))
}

/// A tap is of a whole service.
fn whole(client: &Client, text: &str) -> Result<String, CliError> {
    match names::service(client, text)? {
        Named { service, tag: None } => Ok(service),
        Named { service, tag: Some(_) } => {
            let advice = format!("weft tap {service}");
            Err(CliError::failed("a tap is of a whole service, not of a tag", advice).exiting(EXIT_USAGE))
        }
    }
}

fn path(args: &Args, service: Option<&str>) -> String {
    let way = args.direction.map(|way| match way {
        Way::In => "in",
        Way::Out => "out",
    });
    let (sample, limit) = (args.sample.map(|n| n.to_string()), args.limit.map(|n| n.to_string()));
    let pairs = [
        ("service", service),
        ("caller", args.caller.as_deref()),
        ("path", args.path.as_deref()),
        ("method", args.method.as_deref()),
        ("code", args.code.as_deref()),
        ("errors", args.errors.then_some("true")),
        ("direction", way),
        ("sample", sample.as_deref()),
        ("limit", limit.as_deref()),
    ];
    let pairs = pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode((*value)?))));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { "/v1/weft/tap".to_owned() } else { format!("/v1/weft/tap?{query}") }
}

async fn until_signal() -> Result<(), CliError> {
    let no_signal = |error| CliError::failed(format!("cannot wait for signals: {error}"), "");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// One line of the stream.
enum Told {
    Call(Value),
    /// So many were not told.
    Lost(u64),
    /// The agent only shows that it is there.
    Nothing,
}

impl Told {
    fn read(line: &str) -> Result<Told, CliError> {
        if line.is_empty() {
            return Ok(Told::Nothing);
        }
        let value: Value = serde_json::from_str(line).map_err(|error| {
            let message = format!("the agent tells a call in a form that this weft does not read: {error}");
            CliError::failed(message, "the agent is of another version; compare `weft --version`")
        })?;
        Ok(value.get("lost").and_then(Value::as_u64).map_or(Told::Call(value), Told::Lost))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Call {
    time: String,
    direction: String,
    protocol: String,
    caller: String,
    caller_node: String,
    service: String,
    instance: String,
    node: String,
    method: String,
    path: String,
    status: u16,
    error: String,
    rule: String,
    tries: u64,
    milliseconds: f64,
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
}

/// One call for people.
fn sentence(value: Value) -> String {
    let call: Call = serde_json::from_value(value).unwrap_or_default();
    let caller = if call.caller.is_empty() { "anonymous" } else { &call.caller };
    // Of this host's own programs it is known where they are.
    let from = if call.direction == "in" { format!("{caller}@{}", call.caller_node) } else { caller.to_owned() };
    let mut words = vec![call.time, call.direction, from, "->".to_owned(), call.service];
    if !call.instance.is_empty() {
        words.push(format!("{}@{}", call.instance, call.node));
    }
    if call.method.is_empty() {
        words.push(call.protocol);
    } else {
        words.extend([call.method, call.path, call.status.to_string()]);
    }
    words.extend(Some(call.error).filter(|error| !error.is_empty()));
    words.push(format!("{:.1}ms", call.milliseconds));
    words.extend((call.tries > 1).then(|| format!("tries={}", call.tries)));
    words.extend(call.bytes_up.map(|bytes| format!("up={bytes}B")));
    words.extend(call.bytes_down.map(|bytes| format!("down={bytes}B")));
    words.extend(Some(call.rule).filter(|rule| !rule.is_empty()).map(|rule| format!("rule: {rule}")));
    Plain(&words.join(" ")).to_string()
}
