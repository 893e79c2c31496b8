//! Families of metrics, gathered at one moment and written as OpenMetrics text. Knows nothing of what they mean.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What one line shows.
#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(u64),
    Ratio(f64),
    Histogram(Histogram),
}

/// Observations by buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Of all observations.
    pub(super) sum: f64,
    /// Upper bounds and counts, not cumulative; the last bound is infinity.
    pub(super) buckets: Vec<(f64, u64)>,
}

type Labels = Vec<(String, String)>;

/// Lines under one name, all of one kind.
#[derive(Debug)]
struct Family {
    help: String,
    kind: MetricType,
    lines: Vec<(Labels, Value)>,
}

/// Every family, by name.
#[derive(Debug, Default)]
pub(super) struct Sample(BTreeMap<String, Family>);

impl Sample {
    pub(super) fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name, help, MetricType::Counter, labels, Value::Counter(value));
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name, help, MetricType::Gauge, labels, Value::Gauge(value));
    }

    pub(super) fn ratio(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.add(name, help, MetricType::Gauge, labels, Value::Ratio(value));
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: Histogram) {
        self.add(name, help, MetricType::Histogram, labels, Value::Histogram(value));
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, labels: &[(&str, &str)], value: Value) {
        // The encoder adds the full stop, and `_total` to counters.
        let help = help.trim_end_matches('.').to_owned();
        let family = self.0.entry(name.to_owned()).or_insert(Family { help, kind, lines: Vec::new() });
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        family.lines.push((labels, value));
    }
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, family) in &self.0 {
            let mut lines = encoder.encode_descriptor(name, &family.help, None, family.kind)?;
            match family.lines.as_slice() {
                [(labels, value)] if labels.is_empty() => write_value(value, lines)?,
                labelled => {
                    for (labels, value) in labelled {
                        write_value(value, lines.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_value(value: &Value, mut line: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    match value {
        Value::Counter(value) => ConstCounter::new(*value).encode(line),
        Value::Gauge(value) => ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(line),
        Value::Ratio(value) => ConstGauge::new(*value).encode(line),
        Value::Histogram(Histogram { sum, buckets }) => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            line.encode_histogram::<[(&str, &str); 0]>(*sum, count, buckets, None)
        }
    }
}
