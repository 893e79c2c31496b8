//! Two samples of the data plane's totals to rates: calls a second, success, latency percentiles. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::BUCKET_BOUNDS_US;

/// The bounds, and one bucket beyond them.
const BUCKETS: usize = BUCKET_BOUNDS_US.len() + 1;

/// What `/v1/weft/traffic` tells: totals since the agent's start.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Sample {
    seconds: f64,
    edges: Vec<Counted>,
    /// An agent of an older version does not tell.
    #[serde(default)]
    pressures: Vec<Pressed>,
}

/// How many requests of this host may be under way at a service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Pressed {
    service: String,
    limit: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Counted {
    direction: Direction,
    caller: String,
    /// An agent of an older version does not tell.
    #[serde(default)]
    caller_service: String,
    node: String,
    service: String,
    instance: String,
    protocol: String,
    /// 0 without a response, then 1xx to 5xx.
    codes: [u64; 6],
    in_flight: u64,
    retries: u64,
    latency: [u64; BUCKETS],
    #[serde(default)]
    ejected_for_ms: u64,
}

/// Which way a call went, seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    /// A program of this host called.
    Out,
    /// Another host called an instance of this host.
    In,
}

impl Direction {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Direction::Out => "out",
            Direction::In => "in",
        }
    }
}

/// What happened between two samples: the JSON of `weft top`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Rates {
    /// From one sample to the next.
    pub(super) seconds: f64,
    /// By direction and service, the busiest first.
    pub(super) services: Vec<Line>,
    /// By caller and instance too, the busiest first.
    pub(super) edges: Vec<Line>,
}

/// One service, or one caller and callee of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) direction: Direction,
    pub(super) service: String,
    pub(super) protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) edge: Option<Ends>,
    /// Calls that ended, a second.
    pub(super) rps: f64,
    /// Of those, the part that ended well: a response that is no 5xx, or a connection that did. `None` without calls.
    pub(super) success: Option<f64>,
    pub(super) p50_us: Option<u64>,
    pub(super) p95_us: Option<u64>,
    pub(super) p99_us: Option<u64>,
    pub(super) in_flight: u64,
    /// Tries beyond the first, a second.
    pub(super) retries_per_second: f64,
    /// Instances that get no calls from here, because they failed.
    pub(super) ejected: u64,
    /// How many requests of this host may be under way; of a service that is called from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<u64>,
}

/// Who called whom: a host, or `SERVICE@HOST` where the service is known. `node` and `instance` are empty where no instance took the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Ends {
    pub(super) caller: String,
    pub(super) node: String,
    pub(super) instance: String,
}

/// Totals of some edges, or their difference.
#[derive(Debug, Clone, Default)]
struct Sum {
    protocol: String,
    codes: [u64; 6],
    in_flight: u64,
    retries: u64,
    ejected: u64,
    latency: [u64; BUCKETS],
}

type Key<'a> = (Direction, &'a str, [&'a str; 2], &'a str, &'a str);

impl Counted {
    fn key(&self) -> Key<'_> {
        (self.direction, &self.service, [&self.caller, &self.caller_service], &self.node, &self.instance)
    }
}

/// The rates from `before` to `after`. An agent that was restarted in between began anew: then all of `after` counts.
pub(super) fn between(before: &Sample, after: &Sample) -> Rates {
    let restarted = after.seconds < before.seconds;
    let known: BTreeMap<Key<'_>, &Counted> =
        if restarted { BTreeMap::new() } else { before.edges.iter().map(|edge| (edge.key(), edge)).collect() };
    let seconds = if restarted { after.seconds } else { after.seconds - before.seconds };
    let mut services: BTreeMap<(Direction, &str), Sum> = BTreeMap::new();
    let mut edges = Vec::new();
    for edge in &after.edges {
        let sum = difference(edge, known.get(&edge.key()).copied());
        services.entry((edge.direction, &edge.service)).or_default().add(&sum);
        let caller = match edge.caller_service.as_str() {
            "" => edge.caller.clone(),
            service => format!("{service}@{}", edge.caller),
        };
        let ends = Ends { caller, node: edge.node.clone(), instance: edge.instance.clone() };
        edges.push(line(edge.direction, &edge.service, Some(ends), &sum, seconds));
    }
    let services = services.iter().map(|((direction, service), sum)| line(*direction, service, None, sum, seconds));
    let mut rates = Rates { seconds, services: services.collect(), edges };
    for line in rates.services.iter_mut().filter(|line| line.direction == Direction::Out) {
        let pressed = after.pressures.iter().find(|pressed| pressed.service == line.service);
        line.limit = pressed.map(|pressed| pressed.limit);
    }
    busiest_first(&mut rates.services);
    busiest_first(&mut rates.edges);
    rates
}

fn busiest_first(lines: &mut [Line]) {
    let name = |line: &Line| {
        let ends = line.edge.as_ref().map(|ends| (ends.caller.clone(), ends.node.clone(), ends.instance.clone()));
        (line.direction, line.service.clone(), ends)
    };
    lines.sort_by(|a, b| {
        let busier = b.rps.total_cmp(&a.rps).then_with(|| b.in_flight.cmp(&a.in_flight));
        busier.then_with(|| name(a).cmp(&name(b)))
    });
}

fn difference(edge: &Counted, before: Option<&Counted>) -> Sum {
    let mut sum = Sum {
        protocol: edge.protocol.clone(),
        codes: edge.codes,
        in_flight: edge.in_flight,
        retries: edge.retries,
        ejected: u64::from(edge.ejected_for_ms > 0),
        latency: edge.latency,
    };
    if let Some(before) = before {
        // An edge that was dropped and came again counts from 0; nothing goes below that.
        less(&mut sum.codes, &before.codes);
        less(&mut sum.latency, &before.latency);
        sum.retries = sum.retries.saturating_sub(before.retries);
    }
    sum
}

fn less(counts: &mut [u64], before: &[u64]) {
    for (count, before) in counts.iter_mut().zip(before) {
        *count = count.saturating_sub(*before);
    }
}

impl Sum {
    fn add(&mut self, other: &Sum) {
        self.protocol.clone_from(&other.protocol);
        let more = |counts: &mut [u64], others: &[u64]| {
            counts.iter_mut().zip(others).for_each(|(count, other)| *count = count.saturating_add(*other));
        };
        more(&mut self.codes, &other.codes);
        more(&mut self.latency, &other.latency);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.retries = self.retries.saturating_add(other.retries);
        self.ejected = self.ejected.saturating_add(other.ejected);
    }
}

fn line(direction: Direction, service: &str, edge: Option<Ends>, sum: &Sum, seconds: f64) -> Line {
    let calls: u64 = sum.codes.iter().fold(0, |calls, count| calls.saturating_add(*count));
    let failed = sum.codes[0].saturating_add(sum.codes[5]);
    let a_second = |count: u64| if seconds > 0.0 { round(count as f64 / seconds, 100.0) } else { 0.0 };
    Line {
        direction,
        service: service.to_owned(),
        protocol: sum.protocol.clone(),
        edge,
        rps: a_second(calls),
        success: (calls > 0).then(|| round(1.0 - failed as f64 / calls as f64, 10_000.0)),
        p50_us: percentile(&sum.latency, 0.50),
        p95_us: percentile(&sum.latency, 0.95),
        p99_us: percentile(&sum.latency, 0.99),
        in_flight: sum.in_flight,
        retries_per_second: a_second(sum.retries),
        ejected: sum.ejected,
        limit: None,
    }
}

fn round(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

/// The latency that the part `share` of all calls did not exceed, taking those of a bucket as spread evenly over it (as
/// Prometheus' `histogram_quantile`). Beyond the last bound nothing is known, so that bound is told.
fn percentile(latency: &[u64; BUCKETS], share: f64) -> Option<u64> {
    let total: u64 = latency.iter().fold(0, |total, count| total.saturating_add(*count));
    if total == 0 {
        return None;
    }
    let rank = share * total as f64;
    let (mut below, mut lower) = (0_u64, 0_u64);
    for (count, bound) in latency.iter().zip(BUCKET_BOUNDS_US) {
        let upto = below.saturating_add(*count);
        if *count > 0 && upto as f64 >= rank {
            let part = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
            return Some(lower + microseconds(part * (bound - lower) as f64));
        }
        (below, lower) = (upto, bound);
    }
    Some(lower)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the largest bound")]
fn microseconds(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(service: &str, instance: &str, ok: u64, failed: u64, latency: &[(usize, u64)]) -> Counted {
        let mut buckets = [0; BUCKETS];
        latency.iter().for_each(|(at, count)| buckets[*at] = *count);
        Counted {
            direction: Direction::Out,
            caller: "web-01".into(),
            caller_service: String::new(),
            node: "db-01".into(),
            service: service.into(),
            instance: instance.into(),
            protocol: "http".into(),
            codes: [0, 0, ok, 0, 0, failed],
            in_flight: 2,
            retries: failed,
            latency: buckets,
            ejected_for_ms: failed,
        }
    }

    fn sample(seconds: f64, edges: Vec<Counted>) -> Sample {
        let pressures = vec![Pressed { service: "pg".into(), limit: 7 }];
        Sample { seconds, edges, pressures }
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let before = sample(100.0, vec![edge("pg", "a", 1_000, 10, &[(4, 1_010)])]);
        let after = sample(102.0, vec![edge("pg", "a", 1_180, 30, &[(4, 1_210)])]);
        let rates = between(&before, &after);
        let line = &rates.services[0];
        assert_eq!((line.rps, line.success, line.in_flight), (100.0, Some(0.9), 2));
        assert_eq!(line.retries_per_second, 10.0);
        assert_eq!((line.ejected, line.limit), (1, Some(7)));
        assert_eq!(rates.edges[0].edge.as_ref().map(|ends| ends.node.as_str()), Some("db-01"));
    }

    #[test]
    fn a_services_line_is_the_sum_of_its_edges_and_the_busiest_is_first() {
        let empty = sample(0.0, Vec::new());
        let after =
            sample(1.0, vec![edge("pg", "a", 10, 0, &[]), edge("pg", "b", 30, 0, &[]), edge("web", "c", 50, 0, &[])]);
        let rates = between(&empty, &after);
        let services: Vec<_> = rates.services.iter().map(|line| (&*line.service, line.rps, line.in_flight)).collect();
        assert_eq!(services, [("web", 50.0, 2), ("pg", 40.0, 4)]);
        let edges: Vec<f64> = rates.edges.iter().map(|line| line.rps).collect();
        assert_eq!(edges, [50.0, 30.0, 10.0]);
    }

    #[test]
    fn an_agent_that_was_restarted_counts_from_its_start() {
        let before = sample(5_000.0, vec![edge("pg", "a", 1_000_000, 0, &[(0, 1_000_000)])]);
        let after = sample(2.0, vec![edge("pg", "a", 20, 0, &[(0, 20)])]);
        let rates = between(&before, &after);
        assert_eq!((rates.seconds, rates.services[0].rps), (2.0, 10.0));
    }

    #[test]
    fn without_calls_nothing_is_said_of_success_and_latency() {
        let same = sample(1.0, vec![edge("pg", "a", 5, 0, &[(0, 5)])]);
        let line = between(&same, &same).services.remove(0);
        assert_eq!((line.rps, line.success, line.p50_us, line.p99_us), (0.0, None, None, None));
    }

    #[test]
    fn percentiles_are_interpolated_inside_their_bucket() {
        let mut latency = [0; BUCKETS];
        latency[2] = 100; // 500 to 1,000 us
        assert_eq!(percentile(&latency, 0.50), Some(750));
        assert_eq!(percentile(&latency, 0.99), Some(995));
        latency[4] = 100; // 2,500 to 5,000 us
        assert_eq!(percentile(&latency, 0.50), Some(1_000));
        assert_eq!(percentile(&latency, 0.75), Some(3_750));
    }

    #[test]
    fn beyond_the_last_bound_that_bound_is_told() {
        let mut latency = [0; BUCKETS];
        latency[BUCKETS - 1] = 3;
        assert_eq!(percentile(&latency, 0.5), Some(60_000_000));
    }
}
