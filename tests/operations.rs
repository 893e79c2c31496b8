//! What operators load into other programs agrees with what is documented: every metric that the alert rules and the
//! dashboard name is in docs/metrics.md, the rules are complete, and real tools accept them where they are installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What OpenMetrics adds to a histogram's name.
const HISTOGRAM_SUFFIXES: &[&str] = &["_bucket", "_sum", "_count"];

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(docs(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every word that begins with `weft_`.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("weft_")).map(str::to_owned).collect()
}

/// The names in the first column of the tables of docs/metrics.md.
fn documented() -> BTreeSet<String> {
    let page = text("metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `weft_"));
    rows.flat_map(|row| metric_names(&format!("weft_{}", row.split(" | ").next().unwrap_or_default()))).collect()
}

/// Those of the names that the page does not explain.
fn unexplained(names: BTreeSet<String>, page: &BTreeSet<String>) -> Vec<String> {
    let family = |name: &str| HISTOGRAM_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned);
    let known = |name: &String| page.contains(name) || family(name).is_some_and(|family| page.contains(&family));
    names.into_iter().filter(|name| !known(name)).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&text("grafana/weft.json")).expect("docs/grafana/weft.json is JSON")
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect()
}

#[test]
fn the_alert_rules_name_only_documented_metrics() {
    let (rules, page) = (metric_names(&text("alerts/weft.rules.yml")), documented());
    assert!(rules.len() > 15 && page.len() > 70, "{} names in the rules, {} in the page", rules.len(), page.len());
    assert_eq!(
        unexplained(rules, &page),
        Vec::<String>::new(),
        "in docs/alerts/weft.rules.yml, not in docs/metrics.md"
    );
    let tested = metric_names(&text("alerts/weft.test.yml"));
    assert_eq!(
        unexplained(tested, &page),
        Vec::<String>::new(),
        "in docs/alerts/weft.test.yml, not in docs/metrics.md"
    );
}

#[test]
fn the_dashboard_names_only_documented_metrics() {
    let dashboard = dashboard();
    let (expressions, page) = (expressions(&dashboard), documented());
    let variables = dashboard["templating"]["list"].as_array().expect("variables").iter();
    let queries = variables.filter_map(|variable| variable["definition"].as_str().map(str::to_owned));
    let all: Vec<String> = expressions.iter().cloned().chain(queries).collect();
    assert!(expressions.len() > 40, "only {} expressions", expressions.len());
    let names = metric_names(&all.join(" "));
    assert_eq!(unexplained(names, &page), Vec::<String>::new(), "in docs/grafana/weft.json, not in docs/metrics.md");
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "panels share an id");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}: bound to one data source", panel["title"]);
    }
    let rows: Vec<&str> =
        panels.iter().filter(|panel| panel["type"] == "row").filter_map(|row| row["title"].as_str()).collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let rules = text("alerts/weft.rules.yml");
    let tests = text("alerts/weft.test.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 15, "only {} alerts", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        for part in ["expr:", "severity:", "summary:", "action:"] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "no test in weft.test.yml expects {name}");
    }
}

#[test]
fn real_tools_accept_the_alert_rules() {
    let folder = docs("alerts");
    let tools = [
        ("vmalert", vec!["-dryRun", "-rule=weft.rules.yml"], "victoria-metrics"),
        ("promtool", vec!["check", "rules", "weft.rules.yml"], "prometheus"),
        ("promtool", vec!["test", "rules", "weft.test.yml"], "prometheus"),
    ];
    for (tool, arguments, package) in tools {
        match Command::new(tool).args(&arguments).current_dir(&folder).output() {
            Ok(output) => assert!(
                output.status.success(),
                "{tool} {arguments:?}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => eprintln!("{tool} cannot run here: {error}; next: apt-get install {package}"),
        }
    }
}
