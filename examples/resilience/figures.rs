//! Measured figures: how they are kept, and written as tables. Every experiment gives [`Figure`]s, one a row; tables and plots
//! are made of them alone, so that the page can be written again without measuring again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::load::Report;
use crate::plot::{Series, grouped};

/// What one run gave of one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) experiment: String,
    pub(crate) case: String,
    /// Who carried the calls.
    pub(crate) peer: String,
    /// By the names that the experiment's table asks for.
    pub(crate) values: BTreeMap<String, f64>,
    /// What it was measured with.
    #[serde(default)]
    pub(crate) with: String,
    /// What was said besides, in words: kinds of failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) remark: String,
    /// By what is drawn: points over seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// From, to, and what was done meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) spans: Vec<(f64, f64, String)>,
}

/// Of the 99th percentile; twenty times what an idle machine gives, and a twentieth of the callers' patience.
const LATE_MS_MAX: f64 = 50.0;

/// Each second's failed calls.
pub(crate) const FAILED: &str = "failed";
/// Each second's 99th percentile of good answers, in milliseconds.
pub(crate) const P99: &str = "p99";

impl Figure {
    pub(crate) fn new(experiment: &str, case: &str, peer: &str) -> Figure {
        Figure {
            experiment: experiment.into(),
            case: case.into(),
            peer: peer.into(),
            values: BTreeMap::new(),
            with: String::new(),
            remark: String::new(),
            curves: BTreeMap::new(),
            spans: Vec::new(),
        }
    }

    /// What every load gives: how many calls, how many of them well, how fast.
    pub(crate) fn of(experiment: &str, case: &str, report: &Report) -> Figure {
        let mut figure = Figure::new(experiment, case, &report.peer);
        let sum = report.sum();
        figure.set("offered", sum.offered as f64);
        figure.set("failed", sum.failed() as f64);
        figure.set("success", sum.success_percent());
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            figure.set_some(name, sum.latency.percentile_ms(share));
        }
        figure.set_late(report);
        figure.remark = sum.told();
        figure.curves.insert(FAILED.into(), report.curve(|slice| Some(slice.failed() as f64)));
        figure.curves.insert(P99.into(), report.curve(|slice| slice.latency.percentile_ms(0.99)));
        figure
    }

    /// How late the generator was.
    pub(crate) fn set_late(&mut self, report: &Report) {
        self.set_some("late", report.late.percentile_ms(0.99));
    }

    /// False if the generator was so late that this says more of the machine than of who is measured.
    pub(crate) fn can_be_kept(&self) -> bool {
        self.values.get("late").is_none_or(|late_ms| *late_ms <= LATE_MS_MAX)
    }

    pub(crate) fn set(&mut self, name: &str, value: f64) {
        self.values.insert(name.into(), value);
    }

    pub(crate) fn set_some(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }
}

/// How a column's values are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Count,
    /// With two digits, more where it is nearly 100.
    Percent,
    Milliseconds,
    Seconds,
    Ratio,
}

fn written(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => grouped(value),
        Unit::Percent => format!("{value:.2} %"),
        Unit::Milliseconds if value < 10.0 => format!("{value:.1} ms"),
        Unit::Milliseconds => format!("{} ms", grouped(value)),
        Unit::Seconds => format!("{value:.1} s"),
        Unit::Ratio => format!("{value:.2}"),
    }
}

/// One column: heading, the value's name, how it is written.
pub(crate) type Column = (&'static str, &'static str, Unit);

/// A markdown table of one experiment's figures, in the order in which they were measured.
pub(crate) fn table(figures: &[Figure], experiment: &str, columns: &[Column]) -> String {
    let rows: Vec<&Figure> = figures.iter().filter(|figure| figure.experiment == experiment).collect();
    let has_case = rows.iter().any(|row| !row.case.is_empty());
    let has_remark = rows.iter().any(|row| !row.remark.is_empty());
    let mut text = String::from(if has_case { "| case | |" } else { "| |" });
    for (heading, ..) in columns {
        let _infallible = write!(text, " {heading} |");
    }
    text.push_str(if has_remark { " what failed |\n" } else { "\n" });
    text.push_str(if has_case { "|---|---|" } else { "|---|" });
    columns.iter().for_each(|_| text.push_str("---:|"));
    text.push_str(if has_remark { "---|\n" } else { "\n" });
    for row in rows {
        let case = if has_case { format!("| {} ", row.case) } else { String::new() };
        let _infallible = write!(text, "{case}| {} |", row.peer);
        for (_, name, unit) in columns {
            let value = row.values.get(*name).map_or(String::new(), |value| written(*value, *unit));
            let _infallible = write!(text, " {value} |");
        }
        if has_remark {
            let _infallible = write!(text, " {} |", row.remark);
        }
        text.push('\n');
    }
    text
}

/// Lines to draw: one a figure of this experiment and case that has the curve, by peer.
pub(crate) fn series(figures: &[Figure], experiment: &str, case: &str, curve: &str) -> Vec<Series> {
    let of = figures.iter().filter(|figure| figure.experiment == experiment && figure.case == case);
    let line = |figure: &Figure| {
        let points = figure.curves.get(curve)?.clone();
        Some(Series { name: figure.peer.clone(), points })
    };
    of.filter_map(line).collect()
}

/// What was done meanwhile, of the first figure of this experiment and case.
pub(crate) fn spans(figures: &[Figure], experiment: &str, case: &str) -> Vec<(f64, f64, String)> {
    let found = figures.iter().find(|figure| figure.experiment == experiment && figure.case == case);
    found.map(|figure| figure.spans.clone()).unwrap_or_default()
}

/// Puts the figures of an experiment in the place of its older ones.
pub(crate) fn replace(figures: &mut Vec<Figure>, new: Vec<Figure>) {
    figures.retain(|old| new.iter().all(|figure| figure.experiment != old.experiment));
    figures.extend(new);
}
