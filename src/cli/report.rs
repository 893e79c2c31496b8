//! `weft report access`: who may call what, and who did.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::client::{Client, encode};
use super::output::{CliError, Globals, Table, print, print_json, warn_if_stale};

/// Reports on the mesh
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Who may call what, by the intentions that hold, and who did
    ///
    /// Who may is the same on every host. Who did is what this host has seen: calls to its own instances, since its agent
    /// started; ask on each host that runs the service.
    #[command(after_help = "Examples:\n  weft report access\n  weft report access billing --json")]
    Access(Access),
}

#[derive(Debug, clap::Args)]
struct Access {
    /// Only pairs that it is one of
    service: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    node: String,
    default: String,
    seconds: f64,
    may: Vec<May>,
    did: Vec<Did>,
    /// Of `/metrics`.
    #[serde(default)]
    denied: Vec<Denied>,
}

#[derive(Debug, Serialize, Deserialize)]
struct May {
    source: Option<String>,
    destination: String,
    verdict: String,
    rule: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Did {
    source: Option<String>,
    node: String,
    destination: String,
    calls: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Denied {
    source: Option<String>,
    destination: String,
    calls: u64,
}

const ANONYMOUS: &str = "anonymous";

/// What a line of OpenMetrics says of a label.
fn label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!("{name}=\""))?.1.split('"').next()
}

fn denied(metrics: &str, wanted: Option<&str>) -> Vec<Denied> {
    let lines = metrics.lines().filter(|line| line.starts_with("weft_calls_denied_total{"));
    let all = lines.filter_map(|line| {
        let (source, destination) = (label(line, "source")?, label(line, "destination")?);
        let calls = line.rsplit(' ').next()?.parse::<f64>().ok()?;
        let source = Some(source).filter(|source| !matches!(*source, "" | ANONYMOUS)).map(str::to_owned);
        // A count of calls, whole and not negative; what is none reads as 0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let calls = calls as u64;
        Some(Denied { source, destination: destination.to_owned(), calls })
    });
    all.filter(|each| wanted.is_none_or(|name| each.destination == name || each.source.as_deref() == Some(name)))
        .collect()
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let Verb::Access(Access { service }) = &args.verb;
    let client = Client::connect(globals.api.clone())?;
    let query = service.as_ref().map(|name| format!("?service={}", encode(name))).unwrap_or_default();
    let fetched = client.get_json::<Report>(&format!("/v1/weft/access{query}"))?;
    let mut report = fetched.value;
    report.denied = denied(&client.get_text("/metrics")?, service.as_deref());
    if globals.json {
        return print_json(&report);
    }
    warn_if_stale(fetched.stale);
    print(&text(&report))
}

fn text(report: &Report) -> String {
    let mut calls: BTreeMap<(&str, Option<&str>), (u64, u64)> = BTreeMap::new();
    for did in &report.did {
        calls.entry((&did.destination, did.source.as_deref())).or_default().0 += did.calls;
    }
    for denied in &report.denied {
        calls.entry((&denied.destination, denied.source.as_deref())).or_default().1 += denied.calls;
    }
    let count = |count: u64| if count == 0 { String::new() } else { count.to_string() };
    let mut table = Table::new(&["SOURCE", "DESTINATION", "MAY", "CALLED", "DENIED", "RULE"]);
    let name = |source: Option<&str>| source.unwrap_or(ANONYMOUS).to_owned();
    for May { source, destination, verdict, rule } in &report.may {
        let (called, refused) = calls.remove(&(destination.as_str(), source.as_deref())).unwrap_or_default();
        let source = name(source.as_deref());
        table.row([source, destination.clone(), verdict.clone(), count(called), count(refused), rule.clone()]);
    }
    // Callers that no host registers any more, and services that call themselves.
    for ((destination, source), (called, refused)) in calls {
        let source = name(source);
        table.row([source, destination.to_owned(), String::new(), count(called), count(refused), String::new()]);
    }
    let hours = report.seconds / 3600.0;
    format!(
        "{table}\nCALLED and DENIED are calls to instances on {}, in the {hours:.1} h since its agent started; other hosts \
         have their own. Where nothing fits, the default is {}.\n",
        report.node, report.default
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_calls_are_read_from_the_metrics() {
        let text = "# TYPE weft_calls_denied counter\n\
                    weft_calls_denied_total{source=\"web\",destination=\"billing\"} 3\n\
                    weft_calls_denied_total{source=\"anonymous\",destination=\"web\"} 1\n\
                    weft_requests_total{source=\"x\"} 9\nweft_calls_denied_total{broken\n";
        let of = |source: Option<&str>, destination: &str, calls| Denied {
            source: source.map(str::to_owned),
            destination: destination.to_owned(),
            calls,
        };
        assert_eq!(denied(text, None), [of(Some("web"), "billing", 3), of(None, "web", 1)]);
        assert_eq!(denied(text, Some("billing")), [of(Some("web"), "billing", 3)]);
    }

    #[test]
    fn pairs_say_who_may_and_who_did() {
        let report = Report {
            node: "web-01".into(),
            default: "allow".into(),
            seconds: 7200.0,
            may: vec![May {
                source: None,
                destination: "billing".into(),
                verdict: "deny".into(),
                rule: "deny * -> billing".into(),
            }],
            did: vec![Did {
                source: Some("old".into()),
                node: "web-02".into(),
                destination: "billing".into(),
                calls: 4,
            }],
            denied: vec![Denied { source: None, destination: "billing".into(), calls: 2 }],
        };
        let text = text(&report);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][..5], ["anonymous", "billing", "deny", "-", "2"], "{text}");
        assert_eq!(rows[2][..5], ["old", "billing", "-", "4", "-"], "{text}");
        assert!(text.contains("on web-01, in the 2.0 h"), "{text}");
    }
}
