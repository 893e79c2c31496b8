//! `/v1/agent/metrics`: the same figures as `/metrics`, in the JSON of Consul's agent or in Prometheus's older text.
//! Pure: the OpenMetrics text that this agent rendered comes in.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

/// Consul's form. A counter's sum is its value; of a histogram, least and most are not kept and are told as the mean.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Telemetry {
    timestamp: String,
    gauges: Vec<Gauge>,
    points: Vec<()>,
    counters: Vec<Sampled>,
    samples: Vec<Sampled>,
}

type Labels = BTreeMap<String, String>;

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Gauge {
    name: String,
    value: f64,
    labels: Labels,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Sampled {
    name: String,
    count: u64,
    rate: f64,
    sum: f64,
    min: f64,
    max: f64,
    mean: f64,
    stddev: f64,
    labels: Labels,
}

fn sampled(name: &str, count: u64, sum: f64, labels: Labels) -> Sampled {
    // Counts are far below 2^53.
    let mean = if count == 0 { 0.0 } else { sum / count as f64 };
    Sampled { name: name.to_owned(), count, rate: 0.0, sum, min: mean, max: mean, mean, stddev: 0.0, labels }
}

/// Reads the text line by line; what is no sample is passed over.
pub(super) fn telemetry(open_metrics: &str, now: SystemTime) -> Telemetry {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut told = Telemetry {
        timestamp: timestamp(now),
        gauges: Vec::new(),
        points: Vec::new(),
        counters: Vec::new(),
        samples: Vec::new(),
    };
    let mut histograms: BTreeMap<(&str, Labels), (u64, f64)> = BTreeMap::new();
    for line in open_metrics.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            kinds.extend(kind.split_once(' '));
            continue;
        }
        let Some((name, labels, value)) = sample(line) else { continue };
        if kinds.get(name) == Some(&"gauge") {
            told.gauges.push(Gauge { name: name.to_owned(), value, labels });
        } else if let Some(name) = of_kind(&kinds, name, "_total", "counter") {
            told.counters.push(sampled(name, 1, value, labels));
        } else if let Some(name) = of_kind(&kinds, name, "_sum", "histogram") {
            histograms.entry((name, labels)).or_default().1 = value;
        } else if let Some(name) = of_kind(&kinds, name, "_count", "histogram") {
            // Counts are whole and not negative; a float cast saturates.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = value as u64;
            histograms.entry((name, labels)).or_default().0 = count;
        }
    }
    let samples = histograms.into_iter().map(|((name, labels), (count, sum))| sampled(name, count, sum, labels));
    told.samples = samples.collect();
    told
}

fn of_kind<'a>(kinds: &BTreeMap<&str, &str>, name: &'a str, suffix: &str, kind: &str) -> Option<&'a str> {
    name.strip_suffix(suffix).filter(|name| kinds.get(name) == Some(&kind))
}

/// Go's form of a time: `2017-08-08 02:55:10 +0000 UTC`.
fn timestamp(now: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(now).to_string();
    format!("{} +0000 UTC", text.trim_end_matches('Z').replace('T', " "))
}

/// `name{label="value"} 1.5`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Labels::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (end, '"') => break end,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = &after[end + 1..];
    }
}

/// Prometheus's text format 0.0.4: counters carry `_total` in their names, and there is neither unit nor end.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut described: Option<&str> = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // OpenMetrics has HELP before TYPE, and only TYPE tells what name HELP must have.
        if line.starts_with("# HELP ") {
            described = Some(line);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = described.take().and_then(|line| line.strip_prefix("# HELP ")?.split_once(' '));
            if let Some((_, help)) = help {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# HELP weft_members Hosts by state.\n# TYPE weft_members gauge\n\
        weft_members{state=\"alive\"} 3\nweft_members{state=\"fa\\\"iled\"} 0\n\
        # HELP weft_requests Calls.\n# TYPE weft_requests counter\nweft_requests_total{code=\"2xx\"} 7\n\
        # HELP weft_wait_seconds Waits.\n# TYPE weft_wait_seconds histogram\n# UNIT weft_wait_seconds seconds\n\
        weft_wait_seconds_sum 3.0\nweft_wait_seconds_count 2\nweft_wait_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n";

    #[test]
    fn gauges_counters_and_histograms_find_their_lists() {
        let told = telemetry(TEXT, UNIX_EPOCH + Duration::from_secs(1_502_160_910));
        assert_eq!(told.timestamp, "2017-08-08 02:55:10 +0000 UTC");
        let gauges: Vec<(&str, f64)> = told.gauges.iter().map(|g| (g.labels["state"].as_str(), g.value)).collect();
        assert_eq!(gauges, [("alive", 3.0), ("fa\"iled", 0.0)]);
        assert_eq!((told.counters[0].name.as_str(), told.counters[0].sum), ("weft_requests", 7.0));
        let [sample] = told.samples.as_slice() else { panic!("{told:?}") };
        assert_eq!((sample.name.as_str(), sample.count, sample.sum, sample.mean), ("weft_wait_seconds", 2, 3.0, 1.5));
    }

    #[test]
    fn the_older_text_names_counters_by_their_samples() {
        let text = prometheus(TEXT);
        assert!(text.contains("# HELP weft_requests_total Calls.\n# TYPE weft_requests_total counter\n"), "{text}");
        assert!(text.contains("# TYPE weft_members gauge\n"), "{text}");
        assert!(!text.contains("EOF") && !text.contains("UNIT"), "{text}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z_{}=\",\\\\#0-9. \n]{0,80}") {
            telemetry(&text, UNIX_EPOCH);
            prometheus(&text);
        }
    }
}
