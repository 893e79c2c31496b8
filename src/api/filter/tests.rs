//! Expressions as Consul's documentation writes them, and texts that are none.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn entry() -> Value {
    json!({
        "Node": { "Node": "web-01", "Meta": { "rack": "r1", "os.name": "linux" }, "Address": "10.0.0.1" },
        "Service": {
            "ID": "billing", "Service": "billing", "Tags": ["primary", "v2"], "Port": 8080, "Meta": {},
            "EnableTagOverride": false, "Weights": { "Passing": 10, "Warning": 1 },
            "TaggedAddresses": { "virtual": { "Address": "127.64.0.1", "Port": 80 } },
        },
        "Checks": [{ "CheckID": "serfHealth", "Status": "passing" }, { "CheckID": "c", "Status": "warning" }],
    })
}

#[track_caller]
fn holds(expression: &str) -> bool {
    let filter = Filter::compile(expression, &HEALTH_ENTRY).unwrap_or_else(|error| panic!("{expression}: {error}"));
    filter.keeps(&entry())
}

#[test]
fn every_operator_says_yes_and_no() {
    for (yes, no) in [
        ("Node.Node == \"web-01\"", "Node.Node == \"web-02\""),
        ("Node.Node == web-01", "Node.Node != `web-01`"),
        ("Service.Port == 8080", "Service.Port != 8080"),
        ("Service.EnableTagOverride == false", "Service.EnableTagOverride == true"),
        ("Service.Weights.Passing == 10", "Service.Weights.Warning != 1"),
        ("\"primary\" in Service.Tags", "primary not in Service.Tags"),
        ("Service.Tags contains v2", "Service.Tags not contains \"v2\""),
        ("\"rack\" in Node.Meta", "Node.Meta contains zone"),
        ("Node.Meta.rack == r1", "Node.Meta.rack != r1"),
        ("Node.Meta[\"os.name\"] == linux", "Node.Meta[`os.name`] != linux"),
        ("Node.Address contains \"10.0\"", "\"10.1\" in Node.Address"),
        ("Service.Meta is empty", "Service.Meta is not empty"),
        ("Checks is not empty", "Checks is empty"),
        ("Service.TaggedAddresses.virtual.Port == 80", "Service.TaggedAddresses.virtual.Address == x"),
    ] {
        assert!(holds(yes), "{yes}");
        assert!(!holds(no), "{no}");
    }
}

#[test]
fn a_selector_into_a_list_holds_if_it_does_for_one_element() {
    assert!(holds("Checks.Status == passing") && holds("Checks.Status != passing"));
    assert!(!holds("Checks.Status == critical") && holds("not Checks.Status == critical"));
}

#[test]
fn what_is_not_there_has_its_zero_value_and_a_missing_key_equals_nothing() {
    assert!(holds("Service.Kind == \"\"") && holds("Service.Connect.Native == false"));
    assert!(holds("Service.Proxy.Upstreams is empty") && holds("Service.Proxy.LocalServicePort == 0"));
    assert!(holds("Node.Meta.zone != x") && !holds("Node.Meta.zone == \"\""));
}

#[test]
fn not_binds_closest_then_and_then_or() {
    assert!(holds("Service.Port == 1 and Service.Port == 2 or Service.Port == 8080"));
    assert!(!holds("Service.Port == 1 and (Service.Port == 2 or Service.Port == 8080)"));
    assert!(holds("not Service.Port == 1 and Service.Port == 8080"));
    assert!(holds("not (Service.Port == 1 and Service.Port == 8080)"));
    assert!(holds("not not Service.Port == 8080"));
    assert!(holds("( Service.Port==8080 )"));
    assert!(holds(" Service.Port\n==\t8080 "));
}

#[test]
fn what_does_not_fit_is_said_in_consuls_words() {
    let error = |expression: &str| Filter::compile(expression, &HEALTH_ENTRY).unwrap_err().to_string();
    assert!(error("Nothing == 1").contains(r#"Selector "Nothing" is not valid"#));
    assert!(error("Service.Tags.x == 1").contains(r#"Selector "Service.Tags.x" is not valid"#));
    assert!(error("Service.Tags == x").contains(r#"Invalid match operator "Equal" for selector "Service.Tags""#));
    assert!(error("Service.Port == many").contains(r#""many" is no number"#));
    assert!(error("Service.ID matches \"^b\"").contains("regular expressions"));
    assert!(error("Service.ID not matches \"^b\"").contains("regular expressions"));
    for (wrong, what) in [
        ("", "expected a selector"),
        ("Service.ID", "expected =="),
        ("Service.ID ==", "expected a value"),
        ("(Service.ID == x", "Unmatched parentheses"),
        ("Service.ID == x y", "expected `and`, `or` or the end"),
        ("Service.ID == \"x", "Unterminated string"),
        ("Service.Meta[x] == 1", "Invalid index"),
        ("Service.Meta[\"x\" == 1", "Unclosed index"),
        ("Service.Port == 80x", "Invalid number"),
        ("\"x\" == Service.ID", "expected `in`"),
        ("Service.Meta is full", "expected `empty`"),
        ("Service.ID = x", "has no meaning"),
    ] {
        assert!(error(wrong).contains(what), "{wrong}: {}", error(wrong));
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let long = format!("Service.ID == \"{}\"", "x".repeat(EXPRESSION_BYTES_MAX));
    assert!(matches!(Filter::compile(&long, &HEALTH_ENTRY), Err(FilterError::TooLong(_))));
    for deep in [format!("{}x", "(".repeat(1000)), format!("{}x == y", "not ".repeat(1000))] {
        assert_eq!(Filter::compile(&deep, &HEALTH_ENTRY), Err(FilterError::TooDeep));
    }
    let wide = vec!["Service.Port == 8080"; 100].join(" and ");
    assert!(holds(&wide));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        let _ = Filter::compile(&text, &HEALTH_ENTRY);
    }

    #[test]
    fn arbitrary_words_of_the_language_never_panic(words in prop::collection::vec(prop::sample::select(vec![
        "(", ")", "not", "and", "or", "in", "contains", "is", "empty", "==", "!=", "[", "]", ".", "\"x\"", "`y`", "80",
        "Service", "Tags", "Node", "Meta", "Checks", "Status", "Service.Tags", "Service.Port", "Node.Meta.a", "-1.5", "\\", "é",
    ]), 0..24)) {
        if let Ok(filter) = Filter::compile(&words.join(" "), &HEALTH_ENTRY) {
            filter.keeps(&entry());
            filter.keeps(&Value::Null);
        }
    }
}
