//! What is made of figures: the tables of `docs/gossip.md`, between the marks that stand there, and the plots beside it. All
//! that was measured is kept in `docs/gossip/figures.json`, so that one scenario can be measured again alone.

use std::path::Path;

use crate::figures::{Column, Figure, table};
use crate::plot::{Plot, Scale, Series};
use crate::protocol::{MemberlistAgents, Protocol, SwimAgents, WeftAgents};
use crate::{cost, crash, half, partition, quiet, registration, stalls};

/// Each scenario's name and the columns of its table.
pub(crate) const TABLES: [(&str, &[Column]); 8] = [
    (registration::NAME, registration::COLUMNS),
    (crash::NAME, crash::COLUMNS),
    (quiet::NAME, quiet::COLUMNS),
    (stalls::NAME, stalls::COLUMNS),
    (half::NAME, half::COLUMNS),
    (partition::NAME, partition::COLUMNS),
    (cost::IDLE, cost::IDLE_COLUMNS),
    (cost::LOAD, cost::LOAD_COLUMNS),
];

const PROTOCOLS: [&str; 3] = [WeftAgents::NAME, MemberlistAgents::NAME, SwimAgents::NAME];

/// One line a protocol, over the fleet's size.
fn over_size(figures: &[Figure], scenario: &str, case: &str, value: &str) -> Vec<Series> {
    let line = |protocol: &&str| {
        let of = |figure: &&Figure| figure.scenario == scenario && figure.case == case && figure.protocol == **protocol;
        let point = |figure: &Figure| figure.get(value).map(|value| (f64::from(figure.hosts), value));
        let mut points: Vec<(f64, f64)> = figures.iter().filter(of).filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: (*protocol).to_owned(), points }
    };
    PROTOCOLS.iter().map(line).collect()
}

fn curves(figures: &[Figure], hosts: u32) -> Vec<Series> {
    let line = |protocol: &&str| {
        let of = |figure: &&Figure| {
            figure.scenario == registration::NAME
                && figure.case == "LAN"
                && figure.protocol == **protocol
                && figure.hosts == hosts
        };
        let curve = figures.iter().find(of).map(|figure| figure.curve.clone()).unwrap_or_default();
        Series {
            name: (*protocol).to_owned(),
            points: curve.into_iter().map(|(at, share)| (at * 1000.0, share)).collect(),
        }
    };
    PROTOCOLS.iter().map(line).collect()
}

/// All plots, by file name.
pub(crate) fn plots(figures: &[Figure]) -> Vec<(&'static str, String)> {
    let size = ("hosts", Scale::Logarithmic);
    let in_ms = |mut series: Vec<Series>| {
        series.iter_mut().flat_map(|series| &mut series.points).for_each(|point| point.1 *= 1000.0);
        series
    };
    let plots = [
        (
            "registration.svg",
            Plot {
                title: "A registration is known everywhere, 99th percentile".into(),
                x: size,
                y: ("milliseconds", Scale::Logarithmic),
                series: in_ms(over_size(figures, registration::NAME, "LAN", "p99")),
                limits: vec![(300.0, "300 ms, to be reached at 1,000".into())],
                spans: Vec::new(),
                marks: true,
            },
        ),
        (
            "spread.svg",
            Plot {
                title: "A registration among 1,000 hosts: who knows it, over time".into(),
                x: ("milliseconds since the registration", Scale::Linear),
                y: ("percent of all hosts", Scale::Linear),
                series: curves(figures, 1_000),
                limits: Vec::new(),
                spans: Vec::new(),
                marks: false,
            },
        ),
        (
            "crash.svg",
            Plot {
                title: "A crash is known everywhere, median".into(),
                x: size,
                y: ("seconds", Scale::Linear),
                series: over_size(figures, crash::NAME, "LAN", "p50"),
                limits: vec![(5.0, "5 s, to be reached at 1,000".into())],
                spans: Vec::new(),
                marks: true,
            },
        ),
        (
            "idle.svg",
            Plot {
                title: "Idle: bytes sent by each host".into(),
                x: size,
                y: ("bytes per second, with IP and UDP headers", Scale::Logarithmic),
                series: over_size(figures, cost::IDLE, "LAN", "sent"),
                limits: vec![(1_000.0, "1 kB/s, to be kept at 1,000".into())],
                spans: Vec::new(),
                marks: true,
            },
        ),
    ];
    plots.into_iter().filter_map(|(name, plot)| plot.svg().map(|svg| (name, svg))).collect()
}

/// Puts each table between its marks: `<!-- table NAME -->` and `<!-- end -->`.
fn fill(document: &str, figures: &[Figure]) -> String {
    let mut document = document.to_owned();
    for (name, columns) in TABLES {
        let begin = format!("<!-- table {name} -->\n");
        let Some(from) = document.find(&begin).map(|at| at + begin.len()) else { continue };
        let Some(to) = document[from..].find("<!-- end -->").map(|at| at + from) else { continue };
        document.replace_range(from..to, &format!("\n{}\n", table(figures, name, columns)));
    }
    document
}

/// Figures kept from earlier runs.
pub(crate) fn kept(directory: &Path) -> Vec<Figure> {
    let text = std::fs::read_to_string(directory.join("figures.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Writes plots and figures to `directory`, and the tables into the document beside it, if there is one.
pub(crate) fn write(directory: &Path, figures: &[Figure]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(directory.join("figures.json"), text + "\n")?;
    for (name, svg) in plots(figures) {
        std::fs::write(directory.join(name), svg)?;
    }
    let document = directory.with_extension("md");
    if let Ok(text) = std::fs::read_to_string(&document) {
        std::fs::write(&document, fill(&text, figures))?;
    }
    Ok(())
}
