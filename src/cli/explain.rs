//! `weft explain`: the road of a call, from the name to the certificate of whoever would answer it.

use std::fmt::Write;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::client::{Client, encode};
use super::names::{self, Named};
use super::output::{CliError, Globals, Plain, Table, print, print_json, warn_if_stale};
use super::status::span;
use crate::model::{Health, Protocol};

/// Explain where a call to a service goes from this host, and why
///
/// From the name to its address (VIP), to how calls to that are captured, to every candidate with what speaks for and
/// against it, to the one that would be chosen now, and the certificate that it must show.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft explain billing
  weft explain primary.pg.mesh.internal
  weft explain billing --json | jq '.candidates[] | select(.usable | not) | .reason'")]
pub(super) struct Args {
    /// SERVICE or TAG.SERVICE, with or without the domain
    name: String,
}

/// What `/v1/weft/explain` tells.
#[derive(Debug, Serialize, Deserialize)]
struct Explained {
    name: String,
    service: String,
    #[serde(default)]
    tag: Option<String>,
    vip: Option<Ipv4Addr>,
    ports: Vec<u16>,
    protocol: Protocol,
    freshness: String,
    /// `None` if the agent does not know.
    #[serde(default)]
    capture: Option<String>,
    candidates: Vec<Candidate>,
    /// Nothing before the first request, and from agents of older versions.
    #[serde(default)]
    pressure: Option<Pressure>,
    #[serde(default)]
    chosen: Option<Chosen>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Candidate {
    node: String,
    node_id: String,
    instance: String,
    address: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    local: bool,
    health: Health,
    #[serde(default)]
    weight: Option<Number>,
    usable: bool,
    #[serde(default)]
    reason: Option<String>,
    /// 0 or nothing before the first call.
    #[serde(default)]
    ewma_us: Option<Number>,
    #[serde(default)]
    in_flight: Option<u64>,
    /// Lower is better.
    #[serde(default)]
    score: Option<Number>,
    /// From 0 to 1.
    #[serde(default)]
    chance: Option<Number>,
    #[serde(default)]
    certificate: Option<Certificate>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Certificate {
    spiffe_id: String,
    #[serde(default)]
    not_after: serde_json::Value,
    #[serde(default)]
    expires_in_seconds: Option<i64>,
}

/// Of requests, from this host.
#[derive(Debug, Serialize, Deserialize)]
struct Pressure {
    under_way: u64,
    limit: u64,
    retries_left: u64,
    refused: u64,
    retries: u64,
    retries_refused: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Chosen {
    node: String,
    instance: String,
    why: String,
}

fn text(explained: &Explained, painted: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write(&mut text, explained, painted);
    text
}

fn write(text: &mut String, explained: &Explained, painted: bool) -> std::fmt::Result {
    let ports: Vec<String> = explained.ports.iter().map(u16::to_string).collect();
    let vip = explained.vip.map_or_else(|| "no address yet".to_owned(), |vip| vip.to_string());
    writeln!(text, "NAME     {}", Plain(&explained.name))?;
    let protocol = explained.protocol.as_str();
    writeln!(text, "VIP      {vip}, port {} ({protocol})", ports.join(" and "))?;
    let capture = explained.capture.as_deref().unwrap_or("not told by the agent");
    writeln!(text, "CAPTURE  {}", Plain(capture))?;

    let (usable, others): (Vec<&Candidate>, Vec<&Candidate>) =
        explained.candidates.iter().partition(|candidate| candidate.usable);
    if !usable.is_empty() {
        let headings = ["NODE", "INSTANCE", "ADDRESS", "ZONE", "HEALTH", "WEIGHT", "EWMA", "BUSY", "SCORE", "CHANCE"];
        let mut table = Table::new(&headings);
        for candidate in &usable {
            table.row(cells(candidate));
        }
        write!(text, "\nCandidates:\n{}", table.painted(painted))?;
    }
    if !others.is_empty() {
        let mut table = Table::new(&["NODE", "INSTANCE", "ADDRESS", "ZONE", "HEALTH", "WHY NOT"]);
        for Candidate { node, instance, address, zone, health, reason, .. } in &others {
            table.row([&**node, instance, address, zone, health.as_str(), reason.as_deref().unwrap_or_default()]);
        }
        write!(text, "\nNo candidates:\n{}", table.painted(painted))?;
    }

    if let Some(Pressure { under_way, limit, retries_left, refused, retries, retries_refused }) = &explained.pressure {
        writeln!(
            text,
            "\nFrom this host: {under_way} requests under way of {limit} that may be, {refused} refused as too many"
        )?;
        writeln!(
            text,
            "Retries: {retries_left} left now; {retries} made, {retries_refused} not, because the budget was used up"
        )?;
    }

    let Some(chosen) = &explained.chosen else {
        let next = match others.first() {
            Some(candidate) => format!("look at {}: weft status there", Plain(&candidate.node)),
            None => "register an instance: weft register, or a file in /etc/weft/services.d/".to_owned(),
        };
        return writeln!(text, "\nA call can go nowhere now.\n  next: {next}");
    };
    let (node, instance, why) = (Plain(&chosen.node), Plain(&chosen.instance), Plain(&chosen.why));
    writeln!(text, "\nA call now would go to {instance} on {node}: {why}")?;
    let found = usable.iter().find(|candidate| candidate.node == chosen.node && candidate.instance == chosen.instance);
    if found.is_some_and(|candidate| candidate.local) {
        return writeln!(text, "It is on this host: no certificate is asked for");
    }
    let Some(certificate) = found.and_then(|candidate| candidate.certificate.as_ref()) else { return Ok(()) };
    let life = match certificate.expires_in_seconds {
        Some(left) if left <= 0 => ", which has expired".to_owned(),
        Some(left) => format!(", for another {}", span(left)),
        None => String::new(),
    };
    writeln!(text, "It must show the certificate of {}{life}", Plain(&certificate.spiffe_id))
}

fn cells(candidate: &Candidate) -> [String; 10] {
    let number = |value: &Option<Number>| value.as_ref().map(Number::to_string).unwrap_or_default();
    let float = |value: &Option<Number>| value.as_ref().and_then(Number::as_f64);
    let ewma = float(&candidate.ewma_us).filter(|us| *us > 0.0).map(|us| format!("{:.1} ms", us / 1000.0));
    [
        format!("{}{}", candidate.node, if candidate.local { " (this host)" } else { "" }),
        candidate.instance.clone(),
        candidate.address.clone(),
        candidate.zone.clone(),
        candidate.health.as_str().to_owned(),
        number(&candidate.weight),
        ewma.unwrap_or_default(),
        candidate.in_flight.map(|busy| busy.to_string()).unwrap_or_default(),
        number(&candidate.score),
        float(&candidate.chance).map(|chance| format!("{:.0} %", chance * 100.0)).unwrap_or_default(),
    ]
}

/// Runs the verb.
pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let Named { service, tag } = names::service(&client, &args.name)?;
    let name = tag.map(|tag| format!("{tag}.{service}")).unwrap_or(service);
    let told = client.get_json::<Explained>(&format!("/v1/weft/explain?name={}", encode(&name)))?;
    if globals.json {
        return print_json(&told.value);
    }
    warn_if_stale(told.stale || told.value.freshness == "stale");
    print(&text(&told.value, globals.color.shown()))
}
