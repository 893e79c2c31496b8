//! One check, in Weft's own form or in Consul's, to a [`CheckDefinition`]: its name, its times and how many attempts make
//! a verdict. What it does is `check_kind`'s.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::model::{Health, Instance, ServiceId};

use super::document::Place;
use super::section::{Fault, Section, Spot};
use super::service::Form;
use super::{CheckDefinition, CheckKind, ConfigError, check_kind, consul, duration, reading, value};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Consul's, in its form.
const CONSUL_TIMEOUT: Duration = Duration::from_secs(10);
/// Ten attempts a second are as many as a check may cost.
const INTERVAL_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
/// A local answer takes a fraction of this.
const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const DEREGISTER_AFTER_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Consul's least; what is shorter counts as this, as there.
const DEREGISTER_AFTER_MIN: Duration = Duration::from_secs(60);
/// With more in a row than this the check never speaks.
const THRESHOLD_MAX: u32 = 1000;
/// Ids and names of checks travel in the record; `rules` holds their sum to what fits.
const NAME_BYTES_MAX: usize = 255;
/// Notes stay on this host.
const NOTES_BYTES_MAX: usize = 4096;

/// A check that may not have its id yet: that takes the service's.
#[derive(Debug)]
pub(super) struct CheckRead {
    /// Where it begins.
    pub(super) place: Place,
    id: Option<String>,
    name: Option<String>,
    /// Without a name: that is given in the end.
    definition: CheckDefinition,
}

/// A check that stands beside services, not within one.
#[derive(Debug)]
pub(super) struct LooseCheck {
    /// Where it begins.
    pub(super) place: Place,
    /// The id of its service; `None` is the host's.
    pub(super) service: Option<Spot<ServiceId>>,
    /// The check.
    pub(super) definition: CheckDefinition,
}

/// Reads one table. `None` if there is no saying what to do; the reasons are among the errors then.
pub(super) fn read(mut section: Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<CheckRead> {
    let place = section.place().clone();
    if form.is_consul() {
        consul::set_aside_check_keys(&mut section, errors);
    }
    let id = section.text("id", errors, check_id);
    let name = section.text("name", errors, short_text);
    let notes = section.text("notes", errors, notes);
    let kind = check_kind::read(&mut section, form, errors);
    if let Some(kind @ (CheckKind::Ttl { .. } | CheckKind::Alias { .. })) = &kind {
        refuse_keys_of_attempts(&mut section, form, kind, errors);
    }
    let (interval, timeout) = times(&mut section, form, errors);
    let [success_before_passing, failures_before_warning, failures_before_critical] =
        thresholds(&mut section, form, errors);
    let initial = section.text(if form.is_consul() { "status" } else { "initial" }, errors, health);
    let deregister_after = deregister_after(&mut section, form, errors);
    section.finish(errors);
    let definition = CheckDefinition {
        id: String::new(),
        name: String::new(),
        notes: notes.map(|spot| spot.value).unwrap_or_default(),
        kind: kind?,
        interval,
        timeout,
        success_before_passing,
        failures_before_warning,
        failures_before_critical,
        initial: initial.map_or(Health::Critical, |spot| spot.value),
        deregister_after,
    };
    Some(CheckRead { place, id: id.map(|spot| spot.value), name: name.map(|spot| spot.value), definition })
}

/// Reads a check that stands beside services: it has to say its name, and may say whose it is.
pub(super) fn read_loose(mut section: Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<LooseCheck> {
    // Within Weft's own form it is the host's: a service's stands in its `[[service.check]]`.
    let service = match form.is_consul() {
        true => section.text("service_id", errors, value::name::<ServiceId>),
        false => None,
    };
    let advice = format!("add {}", section.written("name", r#""disk""#));
    let CheckRead { place, id, name, definition } = read(section, form, errors)?;
    let (id, name) = match (id, name) {
        (Some(id), Some(name)) => (id, name),
        (None, Some(name)) => match check_id(&name) {
            Ok(id) => (id, name),
            Err(Fault { message, advice }) => {
                errors.push(place.error(message, advice));
                return None;
            }
        },
        // Consul asks for it in its API, and does without in its own examples of files.
        (Some(id), None) if form != Form::Api => (id.clone(), id),
        _ => {
            errors.push(place.error("a check without `name`", advice));
            return None;
        }
    };
    Some(LooseCheck { place, service, definition: CheckDefinition { id, name, ..definition } })
}

/// Gives every check its id and name, as Consul does where the file gives none.
pub(super) fn named(reads: Vec<CheckRead>, instance: &Instance) -> Vec<CheckDefinition> {
    let alone = reads.len() == 1;
    let named = |(index, read): (usize, CheckRead)| CheckDefinition {
        id: read.id.unwrap_or_else(|| default_id(&instance.id, (!alone).then_some(index + 1))),
        name: read.name.unwrap_or_else(|| format!("Service '{}' check", instance.service)),
        ..read.definition
    };
    reads.into_iter().enumerate().map(named).collect()
}

fn default_id(service: &ServiceId, number: Option<usize>) -> String {
    match number {
        Some(number) => format!("service:{service}:{number}"),
        None => format!("service:{service}"),
    }
}

/// Ids that this agent and Consul's clients know by themselves.
fn check_id(text: &str) -> Result<String, Fault> {
    const RESERVED: [&str; 2] = ["serfHealth", "_node_maintenance"];
    if RESERVED.contains(&text) || text.starts_with("_service_maintenance:") {
        let message = format!("{:?} is the id of a check that the agent makes", value::start_of(text));
        return Err(Fault::new(message, "choose another, or leave the key out"));
    }
    short_text(text)
}

fn short_text(text: &str) -> Result<String, Fault> {
    if !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    let advice = format!("write 1 to {NAME_BYTES_MAX} printable bytes, or leave the key out");
    Err(Fault::new(format!("{:?} cannot name a check", value::start_of(text)), advice))
}

fn notes(text: &str) -> Result<String, Fault> {
    if text.len() <= NOTES_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{} bytes of notes", text.len()), format!("keep at most {NOTES_BYTES_MAX}")))
}

/// Nothing is tried for these: what would say how often and how many in a row is a mistake. Consul ignores most of it.
fn refuse_keys_of_attempts(section: &mut Section, form: Form, kind: &CheckKind, errors: &mut Vec<ConfigError>) {
    const KEYS: [&str; 5] =
        ["interval", "timeout", "success_before_passing", "failures_before_warning", "failures_before_critical"];
    for key in KEYS {
        let Some(field) = section.set_aside(key) else { continue };
        let refused_by_consul = key == "interval" && matches!(kind, CheckKind::Ttl { .. });
        if !form.is_consul() || (refused_by_consul && !duration::is_zero(&field.node.value)) {
            let message = format!("`{}` in a check of the kind {}", section.named(key), kind.as_str());
            errors.push(field.place.error(message, "remove it: nothing is tried for such a check"));
        }
    }
}

fn times(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> (Duration, Duration) {
    if form.is_consul() {
        // Consul's timeouts may outlast the interval; the next attempt then waits for the last.
        let interval = section.go_duration("interval", INTERVAL_RANGE, errors).map_or(INTERVAL, |spot| spot.value);
        let timeout = section.go_duration("timeout", TIMEOUT_RANGE, errors).map_or(CONSUL_TIMEOUT, |spot| spot.value);
        return (interval, timeout);
    }
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
    (interval, timeout)
}

/// Successes before passing, failures before warning, failures before critical.
fn thresholds(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> [u32; 3] {
    // Consul counts "0 failures before" and "1 failure before" alike.
    let least = if form.is_consul() { 0 } else { 1 };
    let mut number = |key| section.number(key, least..=THRESHOLD_MAX, errors);
    let success = number("success_before_passing").map_or(1, |spot| spot.value);
    let critical = number("failures_before_critical").map_or(1, |spot| spot.value).max(1);
    let warning = match number("failures_before_warning") {
        Some(Spot { value, place }) if value > critical => {
            let message = format!("failures_before_warning = {value} comes after critical at {critical}");
            errors.push(place.error(message, "make it at most `failures_before_critical`"));
            critical
        }
        // In Consul's form 0 is what its clients write for nothing.
        Some(Spot { value: 0, .. }) | None => critical,
        Some(spot) => spot.value,
    };
    [success.max(1), warning, critical]
}

fn deregister_after(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<Duration> {
    const KEY: &str = "deregister_critical_service_after";
    if form == Form::Api {
        let after = section.go_duration(KEY, Duration::ZERO..=DEREGISTER_AFTER_MAX, errors)?;
        return Some(after.value.max(DEREGISTER_AFTER_MIN));
    }
    let field = section.set_aside(KEY)?;
    let message = format!("`{}` in a file", section.named(KEY));
    let advice = "remove it: a critical service takes no calls, and stays until its file goes";
    errors.push(field.place.error(message, advice));
    None
}

fn health(text: &str) -> Result<Health, Fault> {
    let healths = [Health::Passing, Health::Warning, Health::Critical];
    let found = healths.into_iter().find(|health| health.as_str() == text);
    found.ok_or_else(|| reading::one_of(text, "state of health", &healths.map(Health::as_str)))
}
