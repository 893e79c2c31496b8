//! Rates as text: two tables, cut to the terminal. Pure.

use super::rates::{Line, Rates};
use crate::cli::output::Table;

/// What a terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// The lines of a screen; all of them without a size. Rows go to services first, up to half, and the rest to edges.
pub(super) fn lines(rates: &Rates, node: &str, size: Option<Size>) -> Vec<String> {
    let title = format!("{node}: calls of the last {:.1} s", rates.seconds);
    let (services, edges) = (services(&rates.services), edges(&rates.edges));
    if services.is_empty() {
        return cut(vec![title, String::new(), "No call has crossed the mesh here yet.".to_owned()], size);
    }
    let mut shown = vec![title, String::new()];
    let services: Vec<String> = services.to_string().lines().map(str::to_owned).collect();
    let edges: Vec<String> = edges.to_string().lines().map(str::to_owned).collect();
    let room = size.map_or(usize::MAX, |size| size.rows.saturating_sub(shown.len() + 1));
    let first = services.len().min((room / 2).max(room.saturating_sub(edges.len())));
    shown.extend(fitted(services, first));
    shown.push(String::new());
    shown.extend(fitted(edges, room - first.min(room)));
    cut(shown, size)
}

/// The first lines; the last of them says how many are not shown.
fn fitted(mut lines: Vec<String>, room: usize) -> Vec<String> {
    if lines.len() > room {
        let hidden = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        if room > 0 {
            lines.push(format!("... {hidden} more"));
        }
    }
    lines
}

fn cut(mut lines: Vec<String>, size: Option<Size>) -> Vec<String> {
    if let Some(Size { columns, rows }) = size {
        lines.truncate(rows);
        lines.iter_mut().for_each(|line| *line = line.chars().take(columns).collect());
    }
    lines
}

fn services(lines: &[Line]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "WAY", "RPS", "SUCCESS", "P50", "P95", "P99", "BUSY", "LIMIT", "RETRIES/S", "EJECTED"]);
    for line in lines {
        let mut cells = vec![line.service.clone(), line.direction.as_str().to_owned()];
        cells.extend(figures(line));
        cells.insert(cells.len() - 1, line.limit.map(|limit| limit.to_string()).unwrap_or_default());
        cells.push(if line.ejected > 0 { line.ejected.to_string() } else { String::new() });
        table.row(cells);
    }
    table
}

fn edges(lines: &[Line]) -> Table {
    let headings = ["CALLER -> CALLEE", "SERVICE", "RPS", "SUCCESS", "P50", "P95", "P99", "BUSY", "RETRIES/S"];
    let mut table = Table::new(&headings);
    for line in lines {
        let Some(ends) = &line.edge else { continue };
        let callee = match (ends.node.as_str(), ends.instance.as_str()) {
            ("", _) => "nobody".to_owned(),
            (node, instance) if instance.is_empty() || instance == line.service => node.to_owned(),
            (node, instance) => format!("{node}/{instance}"),
        };
        let ejected = if line.ejected > 0 { " (ejected)" } else { "" };
        let edge = format!("{} -> {callee}{ejected}", ends.caller);
        table.row([edge, line.service.clone()].into_iter().chain(figures(line)));
    }
    table
}

fn figures(line: &Line) -> [String; 7] {
    let latency = |us: Option<u64>| us.map(duration).unwrap_or_default();
    [
        format!("{:.1}", line.rps),
        line.success.map(|success| format!("{:.2}%", success * 100.0)).unwrap_or_default(),
        latency(line.p50_us),
        latency(line.p95_us),
        latency(line.p99_us),
        line.in_flight.to_string(),
        format!("{:.1}", line.retries_per_second),
    ]
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..10_000 => format!("{:.1}ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0}ms", us as f64 / 1e3),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::{Direction, Ends};
    use super::*;

    fn line(service: &str, edge: Option<Ends>) -> Line {
        Line {
            direction: Direction::Out,
            service: service.into(),
            protocol: "http".into(),
            edge,
            rps: 12.5,
            success: Some(0.9987),
            p50_us: Some(750),
            p95_us: Some(3_750),
            p99_us: Some(1_200_000),
            in_flight: 3,
            retries_per_second: 0.0,
            ejected: 0,
            limit: None,
        }
    }

    fn rates(services: usize, edges: usize) -> Rates {
        let ends = |number| Ends { caller: "web-01".into(), node: format!("db-{number}"), instance: "pg".into() };
        Rates {
            seconds: 2.0,
            services: (0..services).map(|number| line(&format!("svc-{number}"), None)).collect(),
            edges: (0..edges).map(|number| line("pg", Some(ends(number)))).collect(),
        }
    }

    #[test]
    fn a_screen_never_exceeds_the_terminal() {
        for (columns, rows) in [(80, 24), (20, 5), (1, 1), (0, 0), (200, 100)] {
            let shown = lines(&rates(30, 40), "web-01", Some(Size { columns, rows }));
            assert!(shown.len() <= rows, "{} lines in {rows} rows", shown.len());
            assert!(shown.iter().all(|line| line.chars().count() <= columns));
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let shown = lines(&rates(30, 40), "web-01", Some(Size { columns: 120, rows: 24 }));
        let more: Vec<&String> = shown.iter().filter(|line| line.ends_with(" more")).collect();
        assert_eq!(more, ["... 22 more", "... 31 more"]);
        assert_eq!(lines(&rates(30, 40), "web-01", None).len(), 2 + 31 + 1 + 41);
    }

    #[test]
    fn a_few_services_leave_their_room_to_the_edges() {
        let shown = lines(&rates(2, 40), "web-01", Some(Size { columns: 120, rows: 24 }));
        assert_eq!(shown.iter().filter(|line| line.contains("db-")).count(), 16);
    }

    #[test]
    fn latencies_are_short() {
        assert_eq!([750, 3_750, 42_000, 1_200_000].map(duration), ["750us", "3.8ms", "42ms", "1.2s"]);
    }
}
