//! What operators load into other programs agrees with what is documented: every metric that the alert rules and the
//! dashboard name is in docs/metrics.md, and so is every one that an agent exposes; the rules are complete, and real tools
//! accept them where they are installed.

use std::collections::{BTreeMap, BTreeSet};
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

/// The names in the first column of the tables of docs/metrics.md, each with its type, the second.
fn documented() -> BTreeMap<String, String> {
    let page = text("metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `weft_")).map(|row| format!("weft_{row}"));
    rows.flat_map(|row| {
        let mut columns = row.split(" | ");
        let (names, kind) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default().to_owned());
        metric_names(names).into_iter().map(move |name| (name, kind.clone())).collect::<Vec<_>>()
    })
    .collect()
}

/// Those of the names that the page does not explain.
fn unexplained(names: BTreeSet<String>, page: &BTreeMap<String, String>) -> Vec<String> {
    let family = |name: &str| HISTOGRAM_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned);
    let known =
        |name: &String| page.contains_key(name) || family(name).is_some_and(|family| page.contains_key(&family));
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

/// One agent, alone in a network namespace, for as long as it takes to read its metrics.
const ASK: &str = r#"
ip link set lo up && "$WEFT" ca init --cluster alone --node alone --data-dir "$DATA" >&2 || exit 1
"$WEFT" agent --config "$CONFIG" --data-dir "$DATA" >&2 & agent=$!
for _ in $(seq 200); do curl -sf http://127.0.0.1:8500/metrics && break; sleep 0.1; done
kill $agent; wait $agent
"#;

#[test]
fn every_metric_that_an_agent_exposes_is_documented_with_its_type() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("weft.toml");
    let lines = format!(
        "[node]\nname = \"alone\"\nadvertise = \"127.0.0.1\"\n[cluster]\nname = \"alone\"\n[dns]\nupstreams = []\n\
         [proxy]\ncapture = \"bind\"\n[api]\nsocket = \"{}/socket\"\n",
        folder.path().display()
    );
    fs::write(&config, lines).expect("weft.toml");
    let allowed = Command::new("unshare").args(["--net", "true"]).output().is_ok_and(|output| output.status.success());
    if !allowed {
        let reason = "no network namespace can be made here; next: run the tests as root, or by tests/run";
        assert!(std::env::var("WEFT_NETNS").as_deref() != Ok("require"), "{reason}");
        return eprintln!("{reason}");
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "timeout", "60", "sh", "-c", ASK]).env("WEFT", env!("CARGO_BIN_EXE_weft"));
    let output = command.env("CONFIG", &config).env("DATA", folder.path().join("data")).output().expect("unshare");
    let exposed = String::from_utf8_lossy(&output.stdout).into_owned();

    let types = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    // OpenMetrics types a family without its suffix; who asks for it writes the suffix.
    let full = |(name, kind): (&str, &str)| match kind {
        "counter" => (format!("{name}_total"), kind.to_owned()),
        _ => (name.to_owned(), kind.to_owned()),
    };
    let families: BTreeMap<String, String> = types.map(full).collect();
    assert!(families.len() > 50, "{exposed}{}", String::from_utf8_lossy(&output.stderr));
    let page = documented();
    let wrong: Vec<_> = families.iter().filter(|(name, kind)| page.get(*name) != Some(*kind)).collect();
    assert!(wrong.is_empty(), "docs/metrics.md does not have these, or with another type: {wrong:?}");
}
