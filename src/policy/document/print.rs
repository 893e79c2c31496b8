//! Checked types back to a document: only what differs from the defaults is said.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::{
    Algorithm, Balance, HashKey, Limits, Outlier, Retries, Route, Share, Subset, Timeouts, TrafficPolicy,
};

/// A table that is filled with what is worth saying.
#[derive(Default)]
struct Said(Map<String, Value>);

impl Said {
    fn put(&mut self, key: &str, value: Value) {
        let is_empty = match &value {
            Value::Null => true,
            Value::Object(fields) => fields.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !is_empty {
            self.0.insert(key.to_owned(), value);
        }
    }

    fn differing<T: PartialEq + Copy + Into<Value>>(&mut self, key: &str, value: T, default: T) {
        if value != default {
            self.put(key, value.into());
        }
    }

    fn optional<T: Into<Value>>(&mut self, key: &str, value: Option<T>) {
        self.put(key, value.map_or(Value::Null, Into::into));
    }

    fn length(&mut self, key: &str, value: Duration, default: Duration) {
        if value != default {
            self.put(key, duration(value));
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn duration(value: Duration) -> Value {
    Value::String(humantime::format_duration(value).to_string())
}

pub(super) fn said(policy: &TrafficPolicy) -> Map<String, Value> {
    let TrafficPolicy { timeouts: times, retries: again, balance: pick, outlier: out, limits: most, routes, split } =
        policy;
    let mut said = Said::default();
    said.put("timeouts", timeouts(times));
    said.put("retries", retries(again));
    said.put("balance", balance(pick));
    said.put("outlier", outlier(out));
    said.put("limits", limits(most));
    said.put("route", routes.iter().map(route).collect());
    said.put("split", split.iter().map(share).collect());
    said.0
}

fn timeouts(timeouts: &Timeouts) -> Value {
    let mut said = Said::default();
    said.optional("request", timeouts.request.map(duration));
    said.optional("per_try", timeouts.per_try.map(duration));
    said.done()
}

fn retries(retries: &Retries) -> Value {
    let (mut said, default) = (Said::default(), Retries::default());
    said.differing("max", retries.max, default.max);
    said.differing("on_server_error", retries.on_server_error, default.on_server_error);
    said.differing("on_reset", retries.on_reset, default.on_reset);
    said.differing("budget_percent", retries.budget_percent, default.budget_percent);
    said.differing("budget_per_second", retries.budget_per_second, default.budget_per_second);
    said.length("backoff", retries.backoff, default.backoff);
    said.length("backoff_max", retries.backoff_max, default.backoff_max);
    said.done()
}

fn balance(balance: &Balance) -> Value {
    let (mut said, default) = (Said::default(), Balance::default());
    match &balance.algorithm {
        Algorithm::PeakEwma => {}
        Algorithm::LeastRequest => said.put("algorithm", json!("least-request")),
        Algorithm::RoundRobin => said.put("algorithm", json!("round-robin")),
        Algorithm::RingHash(key) => {
            said.put("algorithm", json!("ring-hash"));
            let key = match key {
                HashKey::Header(name) => json!({ "header": name }),
                HashKey::Cookie(name) => json!({ "cookie": name }),
                HashKey::Source => json!("source"),
            };
            said.put("hash", key);
        }
    }
    said.length("slow_start", balance.slow_start, default.slow_start);
    said.differing("zone_first", balance.zone_first, default.zone_first);
    said.differing("zone_spill_percent", balance.zone_spill_percent, default.zone_spill_percent);
    said.differing("panic_percent", balance.panic_percent, default.panic_percent);
    said.done()
}

fn outlier(outlier: &Outlier) -> Value {
    let (mut said, default) = (Said::default(), Outlier::default());
    said.differing("consecutive_failures", outlier.consecutive_failures, default.consecutive_failures);
    said.differing("success_rate_stdev_tenths", outlier.success_rate_stdev_tenths, default.success_rate_stdev_tenths);
    said.differing("success_rate_requests_min", outlier.success_rate_requests_min, default.success_rate_requests_min);
    said.length("interval", outlier.interval, default.interval);
    said.length("ejection", outlier.ejection, default.ejection);
    said.length("ejection_max", outlier.ejection_max, default.ejection_max);
    said.differing("ejected_percent_max", outlier.ejected_percent_max, default.ejected_percent_max);
    said.done()
}

fn limits(limits: &Limits) -> Value {
    let (mut said, default) = (Said::default(), Limits::default());
    said.optional("instance_concurrency", limits.instance_concurrency);
    said.differing("queue", limits.queue, default.queue);
    said.length("queue_wait", limits.queue_wait, default.queue_wait);
    said.differing("service_concurrency", limits.service_concurrency, default.service_concurrency);
    said.optional("caller_rate_per_second", limits.caller_rate_per_second);
    said.differing("caller_burst", limits.caller_burst, default.caller_burst);
    said.optional("connections", limits.connections);
    said.done()
}

fn route(route: &Route) -> Value {
    let Route { name, methods, path, headers, service, subset, set_headers, remove_headers, timeouts: own } = route;
    let mut said = Said::default();
    said.put("name", json!(name));
    said.put("methods", json!(methods));
    said.optional("path", path.as_ref().map(|path| path.as_str()));
    let is_there = |value: &Option<String>| value.as_ref().map_or(Value::Bool(true), |text| json!(text));
    said.put("headers", headers.iter().map(|(name, value)| (name.clone(), is_there(value))).collect());
    let mut to = Said::default();
    to.optional("service", service.as_ref().map(|service| service.as_str()));
    if let Some(subset) = subset {
        put_subset(&mut to, subset);
    }
    said.put("to", to.done());
    said.put("set_headers", json!(set_headers));
    said.put("remove_headers", json!(remove_headers));
    if let Some(own) = own {
        // An empty table says that the service's own do not count here.
        said.0.insert("timeouts".to_owned(), timeouts(own));
    }
    said.done()
}

fn share(share: &Share) -> Value {
    let mut said = Said::default();
    said.put("weight", json!(share.weight));
    put_subset(&mut said, &share.subset);
    said.done()
}

fn put_subset(said: &mut Said, subset: &Subset) {
    let Subset { tag, zone, platform, meta } = subset;
    said.optional("tag", tag.as_ref().map(|tag| tag.as_str()));
    said.optional("zone", zone.as_deref());
    said.optional("platform", platform.as_deref());
    let meta: BTreeMap<&str, &str> = meta.iter().map(|(key, value)| (&**key, &**value)).collect();
    said.put("meta", json!(meta));
}
