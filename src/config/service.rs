//! One service definition, in Weft's own form or in Consul's, to a checked [`ServiceDefinition`].

use std::time::Duration;

use crate::model::{Instance, Protocol, ServiceId, ServiceName, Tag, Weights};

use super::check::{self, CheckRead};
use super::document::Place;
use super::section::{Fault, Section, Spot};
use super::{ConfigError, ServiceDefinition, callers, consul, reading, value};

/// What Consul users have is a handful; each tag that is a DNS label costs an address on every host.
const TAGS_MAX: usize = 64;

/// Which keys a definition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `services.d/*.toml`.
    Weft,
    /// `services.d/*.json`, keys already in lower case with underscores.
    Consul,
    /// The same as a body of the API.
    Api,
}

impl Form {
    /// True if the keys are Consul's.
    pub(super) fn is_consul(self) -> bool {
        matches!(self, Form::Consul | Form::Api)
    }
}

/// A service and where its parts stood, for the rules between services.
#[derive(Debug)]
pub(super) struct ServiceRead {
    /// The service.
    pub(super) definition: ServiceDefinition,
    /// Where its id (or the name that stands for it) stood.
    pub(super) named: Place,
    /// Where the address, or without one the port, stood.
    pub(super) listens: Place,
    /// Where each check begins, in the order of `definition.checks`.
    pub(super) checks: Vec<Place>,
}

/// Reads one table. `None` if there was no saying what it is; the reasons are among the errors then.
pub(super) fn read(mut section: Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<ServiceRead> {
    let place = section.place().clone();
    if form.is_consul() {
        consul::set_aside_service_keys(&mut section, errors);
    }
    required(&section, "name", r#""billing""#, errors);
    let name = section.text("name", errors, value::name::<ServiceName>);
    let id = section.text("id", errors, value::name::<ServiceId>);
    let port = port(&mut section, form, errors);
    let address = section.text("address", errors, value::service_address);
    let protocol = section.text("protocol", errors, protocol).map(|spot| spot.value).unwrap_or_default();
    let vip_port = section.number("vip_port", 1..=u16::MAX, errors);
    let request_timeout = request_timeout(&mut section, form, protocol, errors);
    let tags = tags(&mut section, form, errors);
    let meta = reading::meta(&mut section, errors);
    let weights = weights(&mut section, errors);
    let reads = checks(&mut section, form, errors);
    let callers = callers::read(&mut section, form, errors);
    section.finish(errors);

    let (name, port) = (name?, port?);
    if let (Spot { value: 0, .. }, Some(vip_port)) = (&port, &vip_port) {
        errors.push(vip_port.place.error("a `vip_port` without a port", "add the `port` that the process listens on"));
    }
    let named = id.as_ref().map_or(name.place, |id| id.place.clone());
    let id = id.map_or_else(|| ServiceId::from(&name.value), |spot| spot.value);
    let listens = address.as_ref().map_or(port.place, |spot| spot.place.clone());
    let checks = reads.iter().map(|read| read.place.clone()).collect();
    let instance = Instance {
        id,
        service: name.value,
        address: address.map(|spot| spot.value),
        port: port.value,
        protocol,
        vip_port: vip_port.map(|spot| spot.value),
        tags,
        meta,
        weights,
        request_timeout,
        checks: Vec::new(),
    };
    let checks_named = check::named(reads, &instance);
    let definition = ServiceDefinition { instance, checks: checks_named, callers, source: place.source() };
    Some(ServiceRead { definition, named, listens, checks })
}

/// Consul's services may have none: they are found by name, and called by other means than the mesh.
fn port(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<Spot<u16>> {
    if form.is_consul() {
        let none = (!section.has("port")).then(|| Spot { value: 0, place: section.place().clone() });
        return section.number("port", 0..=u16::MAX, errors).or(none);
    }
    if !section.has("port") {
        let advice = format!("add {}, where the process listens", section.written("port", "8080"));
        errors.push(section.place().error("a service without `port`", advice));
    }
    section.number("port", 1..=u16::MAX, errors)
}

fn request_timeout(
    section: &mut Section,
    form: Form,
    protocol: Protocol,
    errors: &mut Vec<ConfigError>,
) -> Option<Duration> {
    let timeout = match form.is_consul() {
        true => section.go_duration("timeout", reading::REQUEST_TIMEOUT_RANGE, errors),
        false => section.duration("timeout", reading::REQUEST_TIMEOUT_RANGE, errors),
    }?;
    if !protocol.is_http() {
        let advice = format!("add {} if it speaks HTTP, or remove it", section.written("protocol", r#""http""#));
        errors.push(timeout.place.error("a `timeout` of requests for a service of the protocol tcp", advice));
    }
    Some(timeout.value)
}

fn weights(section: &mut Section, errors: &mut Vec<ConfigError>) -> Weights {
    let mut weights = section.section("weights", errors);
    let mut number = |key, range| weights.number(key, range, errors).map_or(1, |spot| spot.value);
    // As Consul: a passing instance that takes no part is one to be taken out, not weighed.
    let found = Weights { passing: number("passing", 1..=u16::MAX), warning: number("warning", 0..=u16::MAX) };
    weights.finish(errors);
    found
}

fn required(section: &Section, key: &str, example: &str, errors: &mut Vec<ConfigError>) {
    if !section.has(key) {
        let advice = format!("add {}", section.written(key, example));
        errors.push(section.place().error(format!("a service without `{key}`"), advice));
    }
}

fn protocol(text: &str) -> Result<Protocol, Fault> {
    let protocols = [Protocol::Tcp, Protocol::Http, Protocol::Http2, Protocol::Grpc];
    let found = protocols.into_iter().find(|protocol| protocol.as_str() == text);
    found.ok_or_else(|| reading::one_of(text, "protocol", &protocols.map(Protocol::as_str)))
}

fn tags(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Vec<Tag> {
    let name = section.named("tags");
    let spots = section.texts("tags", errors, value::name::<Tag>).unwrap_or_default();
    if let Some(first_over) = spots.get(TAGS_MAX) {
        let message = format!("{name} has {} tags", spots.len());
        errors.push(first_over.place.error(message, format!("keep at most {TAGS_MAX}; `meta` takes key-value pairs")));
    }
    let mut tags: Vec<Tag> = Vec::new();
    for Spot { value, place } in spots {
        match tags.contains(&value) {
            // Consul takes them; once is as good as twice.
            true if form.is_consul() => {}
            true => errors.push(place.error(format!("the tag {value:?} is there twice"), "keep one of the two")),
            false => tags.push(value),
        }
    }
    tags
}

fn checks(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Vec<CheckRead> {
    let mut sections = section.sections("check", errors);
    if form.is_consul() {
        sections.extend(section.sections("checks", errors));
        // Consul's clients write `"Check": {}` where they mean none.
        sections.retain(|section| !section.is_empty());
    }
    sections.into_iter().filter_map(|section| check::read(section, form, errors)).collect()
}
