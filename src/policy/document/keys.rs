//! Every key of a document, with what it may be and why: groups of keys to the checked types of `model/resilience.rs`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::table::{Fault, Mistakes, Table, kind, quoted};
use crate::model::{
    Algorithm, Balance, HashKey, Limits, METHODS_MAX, NameError, Outlier, PathPattern, Retries, Route, ServiceName,
    Share, Subset, Tag, Timeouts, TrafficPolicy, is_method,
};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Below a millisecond is below the timer's grain; beyond an hour a call is a stream, and has no deadline.
const TIMEOUT: RangeInclusive<Duration> = ms(1)..=s(3600);
/// A service that fails ten times in a row does not answer the eleventh.
const RETRIES: RangeInclusive<u8> = 0..=10;
/// At one retry for each request a failing service already gets twice its load.
const BUDGET_PERCENT: RangeInclusive<u16> = 0..=100;
/// A floor for services with few requests; with many the share decides.
const BUDGET_PER_SECOND: RangeInclusive<u16> = 0..=1000;
/// Callers wait while a retry does.
const BACKOFF: RangeInclusive<Duration> = ms(0)..=s(10);
const BACKOFF_MAX: RangeInclusive<Duration> = ms(0)..=s(60);
/// A cache that takes longer to warm is to be warmed before it is registered.
const SLOW_START: RangeInclusive<Duration> = ms(0)..=s(900);
const PERCENT: RangeInclusive<u8> = 0..=100;
/// Beyond it nothing is ever ejected, which zero says.
const FAILURES: RangeInclusive<u16> = 0..=1000;
/// Ten deviations below the mean is nobody.
const STDEV_TENTHS: RangeInclusive<u16> = 0..=100;
const STDEV_REQUESTS: RangeInclusive<u16> = 1..=10_000;
/// Counts of shorter times say little, and of longer ones nothing of now.
const OUTLIER_INTERVAL: RangeInclusive<Duration> = s(1)..=s(300);
/// Shorter ones come to nothing, for longer ones there is maintenance.
const EJECTION: RangeInclusive<Duration> = ms(100)..=s(3600);
const EJECTION_MAX: RangeInclusive<Duration> = ms(100)..=s(24 * 3600);
/// Beyond what a host can hold. Zero would be a way to say that nothing may call it, and there are intentions for that.
const CALLS: RangeInclusive<u32> = 1..=1_000_000;
/// Each waits with its request in memory.
const QUEUE: RangeInclusive<u32> = 0..=100_000;
/// Who waits longer for a place had better be told no.
const QUEUE_WAIT: RangeInclusive<Duration> = ms(0)..=s(60);
const BURST: RangeInclusive<u32> = 0..=1_000_000;
/// Each is looked at for each request.
const ROUTES_MAX: usize = 64;
/// A subset each.
const SHARES_MAX: usize = 16;
/// Shares of a hundred thousandth are finer than anybody can measure.
const WEIGHT: RangeInclusive<u32> = 0..=100_000;
/// Of one route: matched, set or removed.
const HEADERS_MAX: usize = 16;
const HEADER_NAME_BYTES_MAX: usize = 64;
const HEADER_VALUE_BYTES_MAX: usize = 512;
/// Conditions of one subset.
const META_MAX: usize = 16;
const META_BYTES_MAX: usize = 255;
/// Zones, platforms and names of routes are words.
const WORD_BYTES_MAX: usize = 63;
/// Names of headers that belong to a connection, to a message's framing or to Weft: a route has no say in them.
const RESERVED_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-weft-client",
];
/// ... and all that begin so.
const RESERVED_HEADER_PREFIX: &str = "weft-";

/// Reads the whole document.
pub(super) fn read(mut top: Table<'_>, mistakes: &mut Mistakes) -> TrafficPolicy {
    let timeouts = timeouts(top.table("timeouts", mistakes), mistakes);
    let retries = retries(top.table("retries", mistakes), mistakes);
    let balance = balance(top.table("balance", mistakes), mistakes);
    let outlier = outlier(top.table("outlier", mistakes), mistakes);
    let limits = limits(top.table("limits", mistakes), mistakes);
    let routes = top.tables("route", ROUTES_MAX, mistakes).into_iter().map(|table| route(table, mistakes)).collect();
    let split = split(top.tables("split", SHARES_MAX, mistakes), mistakes);
    top.finish(mistakes);
    TrafficPolicy { timeouts, retries, balance, outlier, limits, routes, split }
}

fn timeouts(mut table: Table<'_>, mistakes: &mut Mistakes) -> Timeouts {
    let request = table.duration("request", &TIMEOUT, mistakes);
    let per_try = table.duration("per_try", &TIMEOUT, mistakes);
    if let (Some(request), Some(per_try)) = (request, per_try)
        && per_try > request
    {
        let path = table.named("per_try");
        let message = format!("{path} is longer than {}, so that it never ends a try", table.named("request"));
        mistakes.note(&path, message, "make it shorter, or leave it out");
    }
    table.finish(mistakes);
    Timeouts { request, per_try }
}

fn retries(mut table: Table<'_>, mistakes: &mut Mistakes) -> Retries {
    let default = Retries::default();
    let retries = Retries {
        max: table.number("max", &RETRIES, mistakes).unwrap_or(default.max),
        on_server_error: table.boolean("on_server_error", mistakes).unwrap_or(default.on_server_error),
        on_reset: table.boolean("on_reset", mistakes).unwrap_or(default.on_reset),
        budget_percent: table.number("budget_percent", &BUDGET_PERCENT, mistakes).unwrap_or(default.budget_percent),
        budget_per_second: table
            .number("budget_per_second", &BUDGET_PER_SECOND, mistakes)
            .unwrap_or(default.budget_per_second),
        backoff: table.duration("backoff", &BACKOFF, mistakes).unwrap_or(default.backoff),
        backoff_max: table.duration("backoff_max", &BACKOFF_MAX, mistakes).unwrap_or(default.backoff_max),
    };
    ordered(&table, ("backoff", retries.backoff), ("backoff_max", retries.backoff_max), mistakes);
    table.finish(mistakes);
    retries
}

/// The first of two lengths of time is not to be longer than the second, said or not.
fn ordered(table: &Table<'_>, less: (&str, Duration), more: (&str, Duration), mistakes: &mut Mistakes) {
    if less.1 <= more.1 {
        return;
    }
    let at = table.named(if table.has(less.0) { less.0 } else { more.0 });
    let (least, most) = (humantime::format_duration(less.1), humantime::format_duration(more.1));
    let message = format!("{} is {least}, longer than {}, which is {most}", table.named(less.0), table.named(more.0));
    mistakes.note(&at, message, format!("set {} too, or make {} shorter", more.0, less.0));
}

fn balance(mut table: Table<'_>, mistakes: &mut Mistakes) -> Balance {
    let default = Balance::default();
    let names = ["peak-ewma", "least-request", "round-robin", "ring-hash"];
    let name = table.text("algorithm", mistakes, |text| {
        let known = names.into_iter().find(|name| *name == text);
        known.ok_or_else(|| {
            Fault::new(format!("{} is no algorithm", quoted(text)), format!("use one of {}", names.join(", ")))
        })
    });
    let is_ring = name == Some("ring-hash");
    let path = table.named("hash");
    let hash = hash(&mut table, mistakes);
    if is_ring && !table.has("hash") {
        let message = format!("{} is ring-hash, which needs a key", table.named("algorithm"));
        let advice = r#"write hash = "source", { header = "x-user" } or { cookie = "session" }"#;
        mistakes.note(&table.named("algorithm"), message, advice);
    }
    if !is_ring && table.has("hash") {
        let message = format!("{path} says nothing without the algorithm ring-hash");
        mistakes.note(&path, message, r#"write algorithm = "ring-hash", or leave it out"#);
    }
    let algorithm = match (name, hash) {
        (Some("ring-hash"), Some(key)) => Algorithm::RingHash(key),
        (Some("least-request"), _) => Algorithm::LeastRequest,
        (Some("round-robin"), _) => Algorithm::RoundRobin,
        _ => Algorithm::PeakEwma,
    };
    let mut percent = |key, default| table.number(key, &PERCENT, mistakes).unwrap_or(default);
    let zone_spill_percent = percent("zone_spill_percent", default.zone_spill_percent);
    let panic_percent = percent("panic_percent", default.panic_percent);
    let slow_start = table.duration("slow_start", &SLOW_START, mistakes).unwrap_or(default.slow_start);
    let zone_first = table.boolean("zone_first", mistakes).unwrap_or(default.zone_first);
    table.finish(mistakes);
    Balance { algorithm, slow_start, zone_first, zone_spill_percent, panic_percent }
}

fn hash(table: &mut Table<'_>, mistakes: &mut Mistakes) -> Option<HashKey> {
    let path = table.named("hash");
    let advice = r#"write hash = "source", { header = "x-user" } or { cookie = "session" }"#;
    match table.take("hash")? {
        Value::String(text) if text == "source" => Some(HashKey::Source),
        Value::Object(fields) => {
            let mut inner = Table::top(fields).at(&path);
            let header = inner.text("header", mistakes, header_name);
            let cookie = inner.text("cookie", mistakes, token);
            let is_one = inner.has("header") != inner.has("cookie");
            if !is_one {
                mistakes.note(&path, format!("{path} names neither a header nor a cookie, or both"), advice);
            }
            inner.finish(mistakes);
            header.map(HashKey::Header).or(cookie.map(HashKey::Cookie)).filter(|_| is_one)
        }
        value => {
            mistakes.note(&path, format!("{path} is no key for a hash ({})", kind(value)), advice);
            None
        }
    }
}

fn outlier(mut table: Table<'_>, mistakes: &mut Mistakes) -> Outlier {
    let default = Outlier::default();
    let outlier = Outlier {
        consecutive_failures: table
            .number("consecutive_failures", &FAILURES, mistakes)
            .unwrap_or(default.consecutive_failures),
        success_rate_stdev_tenths: table
            .number("success_rate_stdev_tenths", &STDEV_TENTHS, mistakes)
            .unwrap_or(default.success_rate_stdev_tenths),
        success_rate_requests_min: table
            .number("success_rate_requests_min", &STDEV_REQUESTS, mistakes)
            .unwrap_or(default.success_rate_requests_min),
        interval: table.duration("interval", &OUTLIER_INTERVAL, mistakes).unwrap_or(default.interval),
        ejection: table.duration("ejection", &EJECTION, mistakes).unwrap_or(default.ejection),
        ejection_max: table.duration("ejection_max", &EJECTION_MAX, mistakes).unwrap_or(default.ejection_max),
        ejected_percent_max: table
            .number("ejected_percent_max", &PERCENT, mistakes)
            .unwrap_or(default.ejected_percent_max),
    };
    ordered(&table, ("ejection", outlier.ejection), ("ejection_max", outlier.ejection_max), mistakes);
    table.finish(mistakes);
    outlier
}

fn limits(mut table: Table<'_>, mistakes: &mut Mistakes) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        instance_concurrency: table.number("instance_concurrency", &CALLS, mistakes),
        queue: table.number("queue", &QUEUE, mistakes).unwrap_or(default.queue),
        queue_wait: table.duration("queue_wait", &QUEUE_WAIT, mistakes).unwrap_or(default.queue_wait),
        service_concurrency: table
            .number("service_concurrency", &CALLS, mistakes)
            .unwrap_or(default.service_concurrency),
        caller_rate_per_second: table.number("caller_rate_per_second", &CALLS, mistakes),
        caller_burst: table.number("caller_burst", &BURST, mistakes).unwrap_or(default.caller_burst),
        connections: table.number("connections", &CALLS, mistakes),
    };
    table.finish(mistakes);
    limits
}

fn route(mut table: Table<'_>, mistakes: &mut Mistakes) -> Route {
    let name = table.text("name", mistakes, word).unwrap_or_default();
    let methods = table.texts("methods", METHODS_MAX, mistakes, |text| {
        if is_method(text) {
            return Ok(text.to_owned());
        }
        Err(Fault::new(format!("{} is no method", quoted(text)), "use one like GET, in capitals"))
    });
    let path = table.text("path", mistakes, |text| {
        let advice = "begin with '/', end with '*' for all that begins so, without '//', '.', '..', '%', ';' and '?'";
        PathPattern::parse(text).map_err(|_| Fault::new(format!("{} is no path for a route", quoted(text)), advice))
    });
    let headers = table.pairs("headers", HEADERS_MAX, mistakes, |name, value| {
        plain_header_name(name)?;
        match value {
            Value::Bool(true) => Ok(None),
            value => header_value(value, r#"write its value, or true for any"#).map(Some),
        }
    });
    let mut to = table.table("to", mistakes);
    let service = to.text("service", mistakes, |text| ServiceName::parse(text).map_err(|error| name_fault(&error)));
    let subset = subset(&mut to, mistakes);
    to.finish(mistakes);
    let set_headers = table.pairs("set_headers", HEADERS_MAX, mistakes, |name, value| {
        header_name(name)?;
        header_value(value, "write its value as text")
    });
    let remove_headers = table.texts("remove_headers", HEADERS_MAX, mistakes, header_name);
    let own_timeouts = table.has("timeouts");
    let timeouts = timeouts(table.table("timeouts", mistakes), mistakes);
    table.finish(mistakes);
    Route {
        name,
        methods,
        path,
        headers: headers.into_iter().collect(),
        service,
        subset: (subset != Subset::default()).then_some(subset),
        set_headers,
        remove_headers,
        timeouts: own_timeouts.then_some(timeouts),
    }
}

/// The keys by which a table names a part of a service's instances.
fn subset(table: &mut Table<'_>, mistakes: &mut Mistakes) -> Subset {
    let tag = table.text("tag", mistakes, |text| Tag::parse(text).map_err(|error| name_fault(&error)));
    let zone = table.text("zone", mistakes, word);
    let platform = table.text("platform", mistakes, |text| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        word(text).ok().filter(|text| text.chars().all(plain)).ok_or_else(|| {
            Fault::new(format!("{} is no platform", quoted(text)), r#"write one like "vm" or "kubernetes""#)
        })
    });
    let meta = table.pairs("meta", META_MAX, mistakes, |key, value| match value {
        Value::String(text) if is_printable(text, META_BYTES_MAX) && is_printable(key, META_BYTES_MAX) => {
            Ok(text.clone())
        }
        _ => Err(Fault::new("it is no metadata", r#"write it like meta = { rack = "r12" }"#)),
    });
    Subset { tag, zone, platform, meta }
}

fn split(tables: Vec<Table<'_>>, mistakes: &mut Mistakes) -> Vec<Share> {
    let mut seen: BTreeMap<Subset, String> = BTreeMap::new();
    let (mut split, mut first) = (Vec::new(), None);
    for mut table in tables {
        let path = table.path().to_owned();
        first.get_or_insert_with(|| path.clone());
        let weight = table.number("weight", &WEIGHT, mistakes);
        if weight.is_none() && !table.has("weight") {
            let advice = "write weight = 10: its part of the sum of all weights";
            mistakes.note(&path, format!("{path} has no weight"), advice);
        }
        let known = mistakes.0.len();
        let subset = subset(&mut table, mistakes);
        if subset == Subset::default() && mistakes.0.len() == known {
            let advice = "write which instances it is for: tag, zone, platform or meta";
            mistakes.note(&path, format!("{path} is for no subset"), advice);
        } else if let Some(other) = seen.insert(subset.clone(), path.clone()) {
            mistakes.note(&path, format!("{path} is for the same subset as {other}"), "keep one of the two");
        }
        table.finish(mistakes);
        split.push(Share { subset, weight: weight.unwrap_or(0) });
    }
    if let Some(first) = first.filter(|_| mistakes.0.is_empty() && split.iter().all(|share| share.weight == 0)) {
        mistakes.note(&first, "every weight of the split is 0", "give one more than 0, or leave the split out");
    }
    split
}

fn word(text: &str) -> Result<String, Fault> {
    if !text.is_empty() && text.len() <= WORD_BYTES_MAX && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let advice = format!("write a word of at most {WORD_BYTES_MAX} bytes, without spaces");
    Err(Fault::new(format!("{} is no word", quoted(text)), advice))
}

/// What a header's or cookie's name is made of (RFC 9110 §5.6.2).
fn token(text: &str) -> Result<String, Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.len() <= HEADER_NAME_BYTES_MAX && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    let advice = format!("use letters, digits and '-', at most {HEADER_NAME_BYTES_MAX}");
    Err(Fault::new(format!("{} is no name for it", quoted(text)), advice))
}

fn plain_header_name(text: &str) -> Result<String, Fault> {
    let name = token(text)?;
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let advice = format!("write {:?}", name.to_ascii_lowercase());
        return Err(Fault::new(format!("{} is not in lower case", quoted(text)), advice));
    }
    Ok(name)
}

fn header_name(text: &str) -> Result<String, Fault> {
    let name = plain_header_name(text)?;
    if RESERVED_HEADERS.contains(&&*name) || name.starts_with(RESERVED_HEADER_PREFIX) {
        let advice = "choose another: those of connections, of framing and of Weft itself are as they are";
        return Err(Fault::new(format!("{} is not for a policy to name", quoted(text)), advice));
    }
    Ok(name)
}

fn header_value(value: &Value, advice: &str) -> Result<String, Fault> {
    let Value::String(text) = value else {
        return Err(Fault::new(format!("it must be text, not {}", kind(value)), advice));
    };
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.len() <= HEADER_VALUE_BYTES_MAX && text.trim() == text && text.chars().all(plain) {
        return Ok(text.clone());
    }
    let advice = format!("use printable ASCII, at most {HEADER_VALUE_BYTES_MAX} bytes, no space first or last");
    Err(Fault::new(format!("{} is no value of a header", quoted(text)), advice))
}

fn is_printable(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// What a name's own error says, in two parts.
fn name_fault(error: &NameError) -> Fault {
    Fault::new(error.to_string(), "write the name as it is registered")
}
