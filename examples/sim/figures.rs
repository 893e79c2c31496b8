//! Measured figures: how they are kept, summed up and written. Every scenario gives [`Figure`]s, one a protocol, fleet size and
//! case; tables and plots are made of them alone, so that a document can be written again without simulating again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plot::grouped;

/// What one measurement of one protocol gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) scenario: String,
    pub(crate) case: String,
    pub(crate) protocol: String,
    pub(crate) hosts: u32,
    /// Seeds that it was measured with.
    pub(crate) seeds: u64,
    /// By the names that the scenario's table asks for. What is missing was not reached.
    pub(crate) values: BTreeMap<String, f64>,
    /// A curve, where the scenario draws one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Figure {
    pub(crate) fn new(scenario: &str, case: &str, protocol: &str, hosts: u32, seeds: u64) -> Figure {
        Figure {
            scenario: scenario.into(),
            case: case.into(),
            protocol: protocol.into(),
            hosts,
            seeds,
            values: BTreeMap::new(),
            curve: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.values.insert(name.into(), value);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// Sets `p50`, `p99` and `max` of these, in seconds; those that never came count as later than all others.
    pub(crate) fn set_times(&mut self, prefix: &str, mut times: Vec<Option<Duration>>) {
        times.sort_unstable_by_key(|time| time.unwrap_or(Duration::MAX));
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(Some(time)) = rank(&times, share) {
                self.set(&format!("{prefix}{name}"), time.as_secs_f64());
            }
        }
        let never = times.iter().filter(|time| time.is_none()).count();
        self.set(&format!("{prefix}samples"), times.len() as f64);
        self.set(&format!("{prefix}never"), never as f64);
    }
}

/// The nearest-rank percentile of sorted values.
pub(crate) fn rank<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let mut index = 0;
    while ((index + 1) as f64) < share * sorted.len() as f64 {
        index += 1;
    }
    sorted.get(index).copied()
}

/// How a column's values are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Milliseconds,
    Seconds,
    Count,
    Bytes,
    Ratio,
}

fn write_value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Milliseconds => format!("{:.0} ms", value * 1000.0),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Count => grouped(value),
        Unit::Bytes => format!("{} B", grouped(value)),
        Unit::Ratio => format!("{value:.2}"),
    }
}

/// One column: heading, the value's name, how it is written.
pub(crate) type Column = (&'static str, &'static str, Unit);

/// A markdown table of one scenario's figures, by case, size and protocol. "never" stands where a value was not reached.
pub(crate) fn table(figures: &[Figure], scenario: &str, columns: &[Column]) -> String {
    let mut rows: Vec<&Figure> = figures.iter().filter(|figure| figure.scenario == scenario).collect();
    let place = |protocol: &str| ["Weft", "memberlist"].iter().position(|name| *name == protocol).unwrap_or(9);
    rows.sort_by(|a, b| {
        let key = |figure: &Figure| (figure.case.clone(), figure.hosts, place(&figure.protocol));
        key(a).cmp(&key(b))
    });
    let mut text = String::from("| case | hosts | protocol |");
    for (heading, ..) in columns {
        let _ = write!(text, " {heading} |");
    }
    text.push_str("\n|---|---:|---|");
    columns.iter().for_each(|_| text.push_str("---:|"));
    text.push('\n');
    for row in rows {
        let _ = write!(text, "| {} | {} | {} |", row.case, grouped(f64::from(row.hosts)), row.protocol);
        for (_, name, unit) in columns {
            let value = row.get(name).map_or("never".to_owned(), |value| write_value(value, *unit));
            let _ = write!(text, " {value} |");
        }
        text.push('\n');
    }
    text
}

/// Puts new figures in the place of older ones of the same measurement.
pub(crate) fn replace(figures: &mut Vec<Figure>, new: Vec<Figure>) {
    for figure in new {
        figures.retain(|old| {
            (&old.scenario, &old.case, &old.protocol, old.hosts)
                != (&figure.scenario, &figure.case, &figure.protocol, figure.hosts)
        });
        figures.push(figure);
    }
}
