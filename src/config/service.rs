//! One service definition, in Weft's own form or in Consul's, to a checked [`ServiceDefinition`].

use std::collections::BTreeMap;

use crate::model::{Instance, Protocol, ServiceId, ServiceName, Tag};

use super::check::{self, CheckRead};
use super::document::Place;
use super::section::{Fault, Section, Spot};
use super::{ConfigError, ServiceDefinition, consul, reading, value};

/// An instance's record must fit its envelope (64 KiB) whatever its tags, metadata and checks say.
const TEXT_BYTES_MAX: usize = 48 * 1024;
/// Each check is a task on this host and a verdict in the record.
const CHECKS_MAX: usize = 64;
/// What Consul users have is a handful; each tag that is a DNS label costs an address on every host.
const TAGS_MAX: usize = 64;

/// Which keys a definition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `services.d/*.toml`.
    Weft,
    /// `services.d/*.json`, keys already in lower case with underscores.
    Consul,
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
    if form == Form::Consul {
        consul::set_aside_service_keys(&mut section, errors);
    }
    required(&section, "name", r#"add name = "billing""#, errors);
    let name = section.text("name", errors, value::name::<ServiceName>);
    let id = section.text("id", errors, value::name::<ServiceId>);
    required(&section, "port", "add port = 8080, where the process listens", errors);
    let port = section.number("port", 1..=u16::MAX, errors);
    let address = section.text("address", errors, |text| match (form, text) {
        (Form::Consul, "") => Ok(None),
        _ => value::service_address(text).map(Some),
    });
    let protocol = section.text("protocol", errors, protocol).map(|spot| spot.value).unwrap_or_default();
    let vip_port = section.number("vip_port", 1..=u16::MAX, errors).map(|spot| spot.value);
    let tags = tags(&mut section, errors);
    let meta = reading::meta(&mut section, errors);
    let reads = checks(&mut section, form, errors);
    section.finish(errors);

    let (name, port) = (name?, port?);
    let named = id.as_ref().map_or(name.place, |id| id.place.clone());
    let id = id.map_or_else(|| ServiceId::from(&name.value), |spot| spot.value);
    let listens = address.as_ref().map_or(port.place, |spot| spot.place.clone());
    check_size(&place, &tags, &meta, errors);
    let checks = reads.iter().map(|read| read.place.clone()).collect();
    let instance = Instance {
        id,
        service: name.value,
        address: address.and_then(|spot| spot.value),
        port: port.value,
        protocol,
        vip_port,
        tags,
        meta,
        weights: crate::model::Weights::default(),
        request_timeout: None,
        checks: Vec::new(),
    };
    let checks_named = check::named(reads, &instance);
    let definition = ServiceDefinition { instance, checks: checks_named, source: place.source() };
    Some(ServiceRead { definition, named, listens, checks })
}

fn required(section: &Section, key: &str, advice: &str, errors: &mut Vec<ConfigError>) {
    if !section.has(key) {
        errors.push(section.place().error(format!("a service without `{key}`"), advice));
    }
}

fn protocol(text: &str) -> Result<Protocol, Fault> {
    let protocols = [Protocol::Tcp, Protocol::Http, Protocol::Http2, Protocol::Grpc];
    let found = protocols.into_iter().find(|protocol| protocol.as_str() == text);
    found.ok_or_else(|| reading::one_of(text, "protocol", &protocols.map(Protocol::as_str)))
}

fn tags(section: &mut Section, errors: &mut Vec<ConfigError>) -> Vec<Tag> {
    let name = section.named("tags");
    let spots = section.texts("tags", errors, value::name::<Tag>).unwrap_or_default();
    if let Some(first_over) = spots.get(TAGS_MAX) {
        let message = format!("{name} has {} tags", spots.len());
        errors.push(first_over.place.error(message, format!("keep at most {TAGS_MAX}; `meta` takes key-value pairs")));
    }
    let mut tags: Vec<Tag> = Vec::new();
    for Spot { value, place } in spots {
        match tags.contains(&value) {
            true => errors.push(place.error(format!("the tag {value:?} is there twice"), "keep one of the two")),
            false => tags.push(value),
        }
    }
    tags
}

fn checks(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Vec<CheckRead> {
    let mut sections = section.sections("check", errors);
    if form == Form::Consul {
        sections.extend(section.sections("checks", errors));
    }
    if let Some(first_over) = sections.get(CHECKS_MAX) {
        let message = format!("a service with {} checks", sections.len());
        errors.push(first_over.place().error(message, format!("keep at most {CHECKS_MAX}")));
    }
    sections.into_iter().filter_map(|section| check::read(section, form, errors)).collect()
}

fn check_size(place: &Place, tags: &[Tag], meta: &BTreeMap<String, String>, errors: &mut Vec<ConfigError>) {
    let tag_bytes: usize = tags.iter().map(|tag| tag.as_str().len()).sum();
    let meta_bytes: usize = meta.iter().map(|(key, text)| key.len() + text.len()).sum();
    if tag_bytes + meta_bytes > TEXT_BYTES_MAX {
        let message = format!("tags and meta of this service take {} bytes", tag_bytes + meta_bytes);
        errors.push(place.error(message, format!("keep them under {TEXT_BYTES_MAX}: every host holds a copy")));
    }
}
