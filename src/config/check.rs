//! One check of a service definition, in Weft's own form or in Consul's, to a [`CheckDefinition`].

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::model::{Health, Instance, ServiceId};

use super::document::Place;
use super::section::{Fault, Section, Spot};
use super::service::Form;
use super::{CheckDefinition, CheckKind, ConfigError, consul, reading, value};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Ten attempts a second are as many as a check may cost.
const INTERVAL_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
/// A local answer takes a fraction of this.
const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// With more in a row than this the check never speaks.
const THRESHOLD_MAX: u32 = 1000;
/// Ids and names of checks travel in the record, 64 of them at most.
const NAME_BYTES_MAX: usize = 80;

/// A check that may not have its id yet: that takes the service's.
#[derive(Debug)]
pub(super) struct CheckRead {
    /// Where it begins.
    pub(super) place: Place,
    id: Option<String>,
    name: Option<String>,
    kind: CheckKind,
    times: Times,
    thresholds: Thresholds,
}

#[derive(Debug)]
struct Times {
    interval: Duration,
    timeout: Duration,
}

#[derive(Debug)]
struct Thresholds {
    success_before_passing: u32,
    failures_before_warning: u32,
    failures_before_critical: u32,
    initial: Health,
}

/// Reads one table. `None` if there is no saying what to do; the reasons are among the errors then.
pub(super) fn read(mut section: Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<CheckRead> {
    let place = section.place().clone();
    if form == Form::Consul {
        consul::set_aside_check_keys(&mut section, errors);
    }
    let id = section.text("id", errors, short_text);
    let name = section.text("name", errors, short_text);
    let kind = kind(&mut section, errors);
    let times = times(&mut section, errors);
    let thresholds = thresholds(&mut section, form, errors);
    section.finish(errors);
    Some(CheckRead {
        place,
        id: id.map(|spot| spot.value),
        name: name.map(|spot| spot.value),
        kind: kind?,
        times,
        thresholds,
    })
}

/// Gives every check its id and name, as Consul does where the file gives none.
pub(super) fn named(reads: Vec<CheckRead>, instance: &Instance) -> Vec<CheckDefinition> {
    let alone = reads.len() == 1;
    let named = |(index, read): (usize, CheckRead)| {
        let CheckRead { id, name, kind, times, thresholds, .. } = read;
        CheckDefinition {
            id: id.unwrap_or_else(|| default_id(&instance.id, (!alone).then_some(index + 1))),
            name: name.unwrap_or_else(|| format!("Service '{}' check", instance.service)),
            kind,
            interval: times.interval,
            timeout: times.timeout,
            success_before_passing: thresholds.success_before_passing,
            failures_before_warning: thresholds.failures_before_warning,
            failures_before_critical: thresholds.failures_before_critical,
            initial: thresholds.initial,
            notes: String::new(),
            deregister_after: None,
        }
    };
    reads.into_iter().enumerate().map(named).collect()
}

fn default_id(service: &ServiceId, number: Option<usize>) -> String {
    match number {
        Some(number) => format!("service:{service}:{number}"),
        None => format!("service:{service}"),
    }
}

fn short_text(text: &str) -> Result<String, Fault> {
    if !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    let advice = format!("write 1 to {NAME_BYTES_MAX} printable bytes, or leave the key out");
    Err(Fault::new(format!("{text:?} cannot name a check"), advice))
}

fn kind(section: &mut Section, errors: &mut Vec<ConfigError>) -> Option<CheckKind> {
    let given = [section.has("http"), section.has("tcp")];
    let http = section.text("http", errors, |text| {
        let (target, path) = value::http_url(text)?;
        Ok(CheckKind::Http {
            url: text.to_owned(),
            target,
            path,
            method: "GET".into(),
            headers: Vec::new(),
            body: String::new(),
            tls: None,
        })
    });
    let tcp = section.text("tcp", errors, |text| Ok(CheckKind::Tcp { target: value::tcp_target(text)?, tls: None }));
    let advice = r#"give it http = "http://127.0.0.1:8080/health" or tcp = "127.0.0.1:8080""#;
    match given {
        [true, true] => {
            errors.push(section.place().error("a check with both `http` and `tcp`", "make two checks of it"));
        }
        [false, false] => errors.push(section.place().error("a check that does nothing", advice)),
        _ => {}
    }
    http.or(tcp).map(|spot| spot.value)
}

fn times(section: &mut Section, errors: &mut Vec<ConfigError>) -> Times {
    let interval = section.duration("interval", INTERVAL_RANGE, errors).map_or(INTERVAL, |spot| spot.value);
    let timeout = match section.duration("timeout", TIMEOUT_RANGE, errors) {
        Some(Spot { value, place }) if value > interval => {
            let text = humantime::format_duration(value);
            let advice = format!("make it at most the interval, {}", humantime::format_duration(interval));
            errors.push(place.error(format!("a timeout of {text} outlasts the check's interval"), advice));
            interval
        }
        Some(spot) => spot.value,
        None => interval.min(TIMEOUT),
    };
    Times { interval, timeout }
}

fn thresholds(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Thresholds {
    // Consul counts "0 failures before" and "1 failure before" alike.
    let least = if form == Form::Consul { 0 } else { 1 };
    let mut number = |key| section.number(key, least..=THRESHOLD_MAX, errors);
    let success = number("success_before_passing").map_or(1, |spot| spot.value);
    let critical = number("failures_before_critical").map_or(1, |spot| spot.value).max(1);
    let warning = number("failures_before_warning");
    let initial = section.text(if form == Form::Consul { "status" } else { "initial" }, errors, health);
    let warning = match warning {
        Some(Spot { value, place }) if value > critical => {
            let message = format!("failures_before_warning = {value} comes after critical at {critical}");
            errors.push(place.error(message, "make it at most `failures_before_critical`"));
            critical
        }
        Some(spot) => spot.value.max(1),
        None => critical,
    };
    Thresholds {
        success_before_passing: success.max(1),
        failures_before_warning: warning,
        failures_before_critical: critical,
        initial: initial.map_or(Health::Critical, |spot| spot.value),
    }
}

fn health(text: &str) -> Result<Health, Fault> {
    let healths = [Health::Passing, Health::Warning, Health::Critical];
    let found = healths.into_iter().find(|health| health.as_str() == text);
    found.ok_or_else(|| reading::one_of(text, "state of health", &healths.map(Health::as_str)))
}
