//! `/v1/weft/access`: who may call what, by the intentions that hold, and who did, as far as this host has served it. Pure.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use super::consul::View;
use super::request::Asked;
use super::{Direction, Edge};
use crate::model::{Action, ServiceName};

/// Of pairs without `?service=`, there is one of each service with each other: 90,000 in some 10 MiB.
const SERVICES_MAX: usize = 300;

#[derive(Serialize)]
struct Report<'a> {
    /// This host: who did is its view alone.
    node: &'a str,
    /// What holds where no intention fits.
    default: Action,
    /// Since when calls are counted.
    seconds: f64,
    may: Vec<May<'a>>,
    did: Vec<Did<'a>>,
}

#[derive(Serialize)]
struct May<'a> {
    /// `None`: anybody of whom nothing is known.
    source: Option<&'a str>,
    destination: &'a str,
    /// `allow`, `deny`, or `requests`: some of them, by method and path.
    verdict: &'static str,
    /// What decides, in words.
    rule: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Did<'a> {
    source: Option<&'a str>,
    /// The host that called.
    node: &'a str,
    destination: &'a str,
    /// That have ended.
    calls: u64,
}

fn did<'a>(edges: &'a [Edge], wanted: Option<&str>) -> Vec<Did<'a>> {
    let mut calls: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let concerns = |edge: &&Edge| wanted.is_none_or(|name| edge.service == name || edge.caller_service == name);
    for edge in edges.iter().filter(|edge| edge.direction == Direction::In).filter(concerns) {
        *calls.entry((&edge.service, &edge.caller_service, &edge.caller)).or_default() +=
            edge.codes.iter().sum::<u64>();
    }
    let told = calls.into_iter().filter(|(_, calls)| *calls > 0);
    told.map(|((destination, source, node), calls)| {
        let source = Some(source).filter(|source| !source.is_empty());
        Did { source, node, destination, calls }
    })
    .collect()
}

/// The answer. `?service=`: only pairs that it is one of.
pub(super) fn access(asked: &Asked, view: &View<'_>) -> Answer {
    let wanted = asked.query.first("service").filter(|name| !name.is_empty()).map(str::to_ascii_lowercase);
    let wanted = match wanted.as_deref().map(ServiceName::parse).transpose() {
        Ok(wanted) => wanted,
        Err(error) => return Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let mut services: Vec<&ServiceName> = view.directory.services.values().map(|service| &service.name).collect();
    services.sort();
    if let Some(name) = &wanted
        && !services.contains(&name)
    {
        return Answer::error(StatusCode::NOT_FOUND, &format!("no service is called {name}"));
    }
    if wanted.is_none() && services.len() > SERVICES_MAX {
        let sentence = format!("{} services are too many for one answer; name one: ?service=NAME", services.len());
        return Answer::error(StatusCode::BAD_REQUEST, &sentence);
    }
    let intentions = &view.directory.intentions;
    let mut may = Vec::new();
    for destination in &services {
        for source in [None].into_iter().chain(services.iter().map(|source| Some(*source))) {
            let concerned = wanted.as_ref().is_none_or(|name| *destination == name || source == Some(name));
            if !concerned || source == Some(destination) {
                continue;
            }
            let verdict = intentions.judge(source, destination, None);
            let by_request = verdict.rule.intention().filter(|intention| !intention.permissions.is_empty());
            let (word, rule) = match (by_request, verdict.allowed) {
                (Some(intention), _) => ("requests", format!("intention {intention}: by method and path")),
                (None, true) => ("allow", verdict.rule.to_string()),
                (None, false) => ("deny", verdict.rule.to_string()),
            };
            let (source, destination) = (source.map(ServiceName::as_str), destination.as_str());
            may.push(May { source, destination, verdict: word, rule });
        }
    }
    let traffic = (view.traffic)();
    let report = Report {
        node: view.settings.node.as_str(),
        default: intentions.default_action(),
        seconds: traffic.seconds,
        may,
        did: did(&traffic.edges, wanted.as_ref().map(ServiceName::as_str)),
    };
    Answer::json(&report, asked.query.switch("pretty").unwrap_or(false))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
