//! Documents that are read, refused and printed.

use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{
    Algorithm, Balance, HashKey, Limits, Outlier, PathPattern, Retries, Route, ServiceName, Share, Subset, Tag,
    Timeouts,
};

fn mistakes(text: &str) -> Vec<String> {
    Document::parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

fn policy(text: &str) -> TrafficPolicy {
    Document::parse(text).unwrap().policy().clone()
}

#[test]
fn what_is_not_said_is_as_it_is_without_a_document() {
    assert_eq!(policy("{}"), TrafficPolicy::default());
    let said = policy(r#"{"timeouts":{"request":"2s"},"retries":{"max":1},"limits":{"queue":7}}"#);
    let default = TrafficPolicy::default();
    assert_eq!(said.timeouts.request, Some(Duration::from_secs(2)));
    assert_eq!(said.retries, Retries { max: 1, ..default.retries });
    assert_eq!(said.limits, Limits { queue: 7, ..default.limits });
    assert_eq!((said.balance, said.outlier), (default.balance, default.outlier));
}

#[test]
fn every_group_of_keys_is_read() {
    let document = json!({
        "timeouts": { "request": "2s", "per_try": "500ms" },
        "balance": { "algorithm": "ring-hash", "hash": { "header": "x-user" }, "slow_start": "30s", "zone_first": false },
        "outlier": { "consecutive_failures": 0, "success_rate_stdev_tenths": 25, "ejection": "1s" },
        "route": [
            { "name": "beta", "methods": ["GET"], "path": "/v2/*", "headers": { "x-beta": "1", "x-any": true },
              "to": { "service": "billing-next", "tag": "v2" }, "set_headers": { "x-world": "new" },
              "remove_headers": ["x-old"], "timeouts": { "request": "9s" } },
        ],
        "split": [{ "weight": 90, "platform": "vm" }, { "weight": 10, "platform": "kubernetes", "meta": { "a": "b" } }],
    });
    let policy = policy(&document.to_string());
    assert_eq!(policy.balance.algorithm, Algorithm::RingHash(HashKey::Header("x-user".into())));
    assert_eq!((policy.outlier.consecutive_failures, policy.outlier.success_rate_stdev_tenths), (0, 25));
    let route = &policy.routes[0];
    assert_eq!(route.headers, [("x-any".into(), None), ("x-beta".into(), Some("1".into()))]);
    assert_eq!(route.service, Some(ServiceName::parse("billing-next").unwrap()));
    assert_eq!(route.subset.as_ref().unwrap().tag, Some(Tag::parse("v2").unwrap()));
    assert_eq!(route.timeouts.unwrap().request, Some(Duration::from_secs(9)));
    assert_eq!(policy.split.iter().map(|share| share.weight).collect::<Vec<_>>(), [90, 10]);
    assert_eq!(policy.split[1].subset.meta["a"], "b");
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_key_and_what_is_allowed() {
    let document = json!({
        "timeouts": { "request": 5, "per_try": "0ms", "reqest": "1s" },
        "retries": { "max": 11, "on_reset": "yes" },
        "balance": { "algorithm": "random", "panic_percent": 101 },
        "limits": { "queue": 1.5 },
        "route": [{ "path": "v2", "methods": ["get"], "to": { "service": "Billing" }, "remove_headers": ["weft-x"] }],
        "split": [{ "weight": 1 }, { "tag": "v2" }],
        "tiemouts": {},
    });
    let expected = [
        r#"timeouts.request = 5 has no unit; write request = "5s" if seconds are meant"#,
        r#"timeouts.per_try: "0ms" is out of range; choose one from 1ms to 1h"#,
        "unknown key `timeouts.reqest`; did you mean `request`?",
        "retries.max = 11 is out of range; choose a whole one from 0 to 10",
        "retries.on_reset must be true or false, not text; write on_reset = true, without quotes",
        r#"balance.algorithm: "random" is no algorithm; use one of peak-ewma, least-request, round-robin, ring-hash"#,
        "balance.panic_percent = 101 is out of range; choose a whole one from 0 to 100",
        "limits.queue = 1.5 is out of range; choose a whole one from 0 to 100000",
        r#"route[0].methods[0]: "get" is no method; use one like GET, in capitals"#,
        r#"route[0].path: "v2" is no path for a route; begin with '/', end with '*' for all that begins so, without '//', '.', '..', '%', ';' and '?'"#,
        r#"route[0].to.service: service name "Billing" has the character 'B'; use lower-case letters, digits, '-' and '_', a letter or digit first and last; write the name as it is registered"#,
        r#"route[0].remove_headers[0]: "weft-x" is not for a policy to name; choose another: those of connections, of framing and of Weft itself are as they are"#,
        "split[0] is for no subset; write which instances it is for: tag, zone, platform or meta",
        "split[1] has no weight; write weight = 10: its part of the sum of all weights",
        "unknown key `tiemouts`; did you mean `timeouts`?",
    ];
    assert_eq!(mistakes(&document.to_string()), expected);
}

#[test]
fn keys_that_contradict_each_other_are_mistakes() {
    for (document, key) in [
        (json!({ "timeouts": { "request": "1s", "per_try": "2s" } }), "timeouts.per_try"),
        (json!({ "retries": { "backoff": "1s" } }), "retries.backoff"),
        (json!({ "outlier": { "ejection_max": "1s" } }), "outlier.ejection_max"),
        (json!({ "balance": { "algorithm": "ring-hash" } }), "balance.algorithm"),
        (json!({ "balance": { "hash": "source" } }), "balance.hash"),
        (json!({ "balance": { "algorithm": "ring-hash", "hash": { "header": "a", "cookie": "b" } } }), "balance.hash"),
        (json!({ "split": [{ "weight": 0, "tag": "a" }, { "weight": 0, "tag": "b" }] }), "split[0]"),
        (json!({ "split": [{ "weight": 1, "tag": "a" }, { "weight": 2, "tag": "a" }] }), "split[1]"),
    ] {
        let error = Document::parse(&document.to_string()).unwrap_err();
        assert_eq!(error.0.iter().map(|mistake| &*mistake.path).collect::<Vec<_>>(), [key], "{document}");
    }
}

#[test]
fn what_is_no_document_is_refused_whatever_its_size() {
    for bad in ["", "[]", "3", "{", "null", r#"{"route": {}}"#, r#"{"split": [1]}"#, &"[".repeat(9000)] {
        assert!(Document::parse(bad).is_err(), "{bad}");
    }
    let too_long = format!("{{}}{}", " ".repeat(TRAFFIC_DOCUMENT_BYTES_MAX));
    assert_eq!(mistakes(&too_long), ["a document of 16386 bytes; keep at most 16384"]);
    let many: Vec<_> = (0..100).map(|_| json!({ "path": "x" })).collect();
    let told = mistakes(&json!({ "route": many }).to_string());
    assert_eq!((told.len(), &*told[0]), (table::MISTAKES_MAX, "100 route tables; keep at most 64"));
}

#[test]
fn groups_take_the_place_of_groups_and_empty_ones_go() {
    let before = Document::parse(r#"{"timeouts":{"request":"2s"},"split":[{"weight":1,"tag":"a"}]}"#).unwrap();
    let Value::Object(groups) = json!({ "timeouts": {}, "retries": { "max": 1 } }) else { unreachable!() };
    let after = before.with(&groups).unwrap();
    assert_eq!(after.text(), r#"{"retries":{"max":1},"split":[{"tag":"a","weight":1}]}"#);
    assert!(after.with(&groups).unwrap() == after && before.with(&Map::new()).unwrap() == before);
}

#[test]
fn differences_are_told_key_by_key() {
    let old = Document::parse(r#"{"timeouts":{"request":"2s"},"split":[{"weight":1,"tag":"a"}]}"#).unwrap();
    let new = Document::parse(
        r#"{"timeouts":{"request":"3s","per_try":"1s"},"split":[{"weight":1,"tag":"a"},{"weight":2,"tag":"b"}]}"#,
    );
    let new = new.unwrap();
    let told: Vec<_> = old.differences(&new).into_iter().map(|each| (each.key, each.from, each.to)).collect();
    let expected = [
        ("split[1]".to_owned(), None, Some(json!({ "weight": 2, "tag": "b" }))),
        ("timeouts.per_try".to_owned(), None, Some(json!("1s"))),
        ("timeouts.request".to_owned(), Some(json!("2s")), Some(json!("3s"))),
    ];
    assert_eq!(told, expected);
    assert_eq!(new.differences(&new), []);
}

fn length(ms_max: u64) -> impl Strategy<Value = Duration> {
    (1000..=ms_max).prop_map(Duration::from_millis)
}

fn subset() -> impl Strategy<Value = Subset> {
    let meta = btree_map("[a-z]{1,4}", "[ -~é]{1,8}", 0..3);
    (of("[a-z0-9=é]{1,9}"), of("[!-~]{1,9}"), of("[a-z0-9-]{1,9}"), meta)
        .prop_map(|(tag, zone, platform, meta)| Subset {
            tag: tag.map(|tag| Tag::parse(&tag).unwrap()),
            zone,
            platform,
            meta,
        })
        .prop_filter("says something", |subset| *subset != Subset::default())
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (of(length(3_600_000)), of(length(3_600_000))).prop_map(|(request, per_try)| Timeouts {
        request,
        per_try: per_try.filter(|per_try| request.is_none_or(|request| *per_try <= request)),
    })
}

fn route() -> impl Strategy<Value = Route> {
    let headers = btree_map("x-[a-z]{1,5}", of("[!-~]{0,6}"), 0..3).prop_map(|headers| headers.into_iter().collect());
    let path = of("/[a-z]{0,6}\\*?").prop_map(|path| path.map(|path| PathPattern::parse(&path).unwrap()));
    let service = of("[a-z]{9}").prop_map(|name| name.map(|name| ServiceName::parse(&name).unwrap()));
    let changed = (btree_map("x-[a-z]{1,5}", "[!-~]{0,6}", 0..3), vec("x-[a-z]{1,5}", 0..3));
    let what = ("[!-~]{0,6}", vec("[A-Z]{1,7}", 0..3), path, headers);
    (what, service, of(subset()), changed, of(timeouts())).prop_map(
        |((name, methods, path, headers), service, subset, (set_headers, remove_headers), timeouts)| Route {
            name,
            methods,
            path,
            headers,
            service,
            subset,
            set_headers,
            remove_headers,
            timeouts,
        },
    )
}

fn balance() -> impl Strategy<Value = Balance> {
    let algorithm = prop_oneof![
        Just(Algorithm::PeakEwma),
        Just(Algorithm::LeastRequest),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::RingHash(HashKey::Source)),
        "x-[a-z]{1,5}".prop_map(|name| Algorithm::RingHash(HashKey::Header(name))),
        "[A-Za-z]{1,5}".prop_map(|name| Algorithm::RingHash(HashKey::Cookie(name))),
    ];
    (algorithm, length(900_000), any::<bool>(), 0..=100_u8, 0..=100_u8).prop_map(
        |(algorithm, slow_start, zone_first, zone_spill_percent, panic_percent)| Balance {
            algorithm,
            slow_start,
            zone_first,
            zone_spill_percent,
            panic_percent,
        },
    )
}

fn any_policy() -> impl Strategy<Value = TrafficPolicy> {
    let retries = (0..=10_u8, any::<bool>(), any::<bool>(), 0..=100_u16, 0..=1000_u16, length(10_000)).prop_map(
        |(max, on_server_error, on_reset, budget_percent, budget_per_second, backoff)| Retries {
            max,
            on_server_error,
            on_reset,
            budget_percent,
            budget_per_second,
            backoff,
            backoff_max: backoff * 2,
        },
    );
    let outlier = (0..=1000_u16, 0..=100_u16, 1..=10_000_u16, length(300_000), length(3_600_000), 0..=100_u8).prop_map(
        |(failures, stdev, requests, interval, ejection, percent)| Outlier {
            consecutive_failures: failures,
            success_rate_stdev_tenths: stdev,
            success_rate_requests_min: requests,
            interval,
            ejection,
            ejection_max: ejection * 3,
            ejected_percent_max: percent,
        },
    );
    let calls = 1..=1_000_000_u32;
    let limits = (of(calls.clone()), 0..=100_000_u32, length(60_000), calls.clone(), of(calls.clone()), of(calls))
        .prop_map(
            |(instance_concurrency, queue, queue_wait, service_concurrency, caller_rate_per_second, connections)| {
                Limits {
                    instance_concurrency,
                    queue,
                    queue_wait,
                    service_concurrency,
                    caller_rate_per_second,
                    caller_burst: queue,
                    connections,
                }
            },
        );
    let split = vec((subset(), 1..=1000_u32), 0..4).prop_map(|shares| {
        let mut seen = std::collections::BTreeSet::new();
        let shares = shares.into_iter().filter(|(subset, _)| seen.insert(subset.clone()));
        shares.map(|(subset, weight)| Share { subset, weight }).collect()
    });
    (timeouts(), retries, balance(), outlier, limits, vec(route(), 0..4), split).prop_map(
        |(timeouts, retries, balance, outlier, limits, routes, split)| TrafficPolicy {
            timeouts,
            retries,
            balance,
            outlier,
            limits,
            routes,
            split,
        },
    )
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        prop::sample::select(GROUPS.to_vec()).prop_map(str::to_owned),
        prop::sample::select(vec![
            "request", "max", "hash", "header", "weight", "tag", "to", "meta", "headers", "path"
        ])
        .prop_map(str::to_owned),
        ".{0,5}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
        "[0-9]{1,25}(ms|s|y)".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let object = btree_map(key.clone(), inner.clone(), 0..6).prop_map(|fields| fields.into_iter().collect());
        prop_oneof![vec(inner, 0..6).prop_map(Value::Array), object.prop_map(Value::Object)]
    })
}

proptest! {
    #[test]
    fn every_policy_is_printed_as_a_document_that_says_the_same(policy in any_policy()) {
        let document = Document::of(policy.clone());
        let read = Document::parse(&document.text());
        prop_assert_eq!(read.as_ref(), Ok(&document));
        prop_assert_eq!(document.policy(), &policy);
        prop_assert_eq!(Document::default().with(document.said()), read);
    }

    #[test]
    fn no_json_makes_the_reader_panic_and_what_is_read_reads_again(json in any_json()) {
        match Document::parse(&json.to_string()) {
            Ok(document) => prop_assert_eq!(Document::parse(&document.text()), Ok(document)),
            Err(error) => prop_assert!((1..=table::MISTAKES_MAX).contains(&error.0.len())),
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = Document::parse(&text);
    }
}
