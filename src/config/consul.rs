//! Consul's service-definition form, so that files written for Consul can be dropped into `services.d/`. Keys that change
//! nothing here are set aside; keys that ask for something Weft does not do are refused with what does it instead.

use super::ConfigError;
use super::document::{Field, Node, Place, Value};
use super::section::Section;
use super::service::{self, Form, ServiceRead};

/// True of Consul without meaning here: ACL tokens, notes, and the catalog's write rule.
const SERVICE_KEYS_WITHOUT_MEANING: [&str; 3] = ["token", "enable_tag_override", "weights"];
const CHECK_KEYS_WITHOUT_MEANING: [&str; 2] = ["notes", "service_id"];

const SERVICE_KEYS_REFUSED: [(&str, &str); 4] = [
    ("connect", "remove it: Weft carries every call over mutual TLS, without sidecars"),
    ("proxy", "remove it: Weft carries every call over mutual TLS, without sidecars"),
    ("kind", "remove it: gateways and sidecars of Consul have no part in Weft"),
    ("tagged_addresses", "remove it, and give `advertise` in weft.toml where NAT maps this host"),
];
const CHECK_KEYS_REFUSED: [(&str, &str); 9] = [
    ("args", "use an http or tcp check"),
    ("script", "use an http or tcp check"),
    ("ttl", "use an http or tcp check"),
    ("grpc", "use a tcp check"),
    ("udp", "use an http or tcp check"),
    ("docker_container_id", "use an http or tcp check"),
    ("header", "let the health path answer without it"),
    ("body", "let the health path answer to GET without a body"),
    (
        "deregister_critical_service_after",
        "remove it: a critical service takes no calls, and stays until its file goes",
    ),
];

/// Reads `{"service": {...}}` or `{"services": [...]}`.
pub(super) fn read(place: &Place, fields: Vec<Field>, errors: &mut Vec<ConfigError>) -> Vec<ServiceRead> {
    let fields = fields.into_iter().map(|field| lower_keys(field, 0)).collect();
    let mut top = Section::new("", place.clone(), fields);
    let mut sections = top.sections("service", errors);
    sections.extend(top.sections("services", errors));
    let is_empty = sections.is_empty() && errors.is_empty();
    top.finish(errors);
    if is_empty && errors.is_empty() {
        errors.push(place.error("no service in this file", r#"write {"service": {"name": "...", "port": ...}}"#));
    }
    sections.into_iter().filter_map(|section| service::read(section, Form::Consul, errors)).collect()
}

/// Takes the keys of a service that Weft has no use for.
pub(super) fn set_aside_service_keys(section: &mut Section, errors: &mut Vec<ConfigError>) {
    set_aside(section, &SERVICE_KEYS_WITHOUT_MEANING, &SERVICE_KEYS_REFUSED, errors);
}

/// Takes the keys of a check that Weft has no use for.
pub(super) fn set_aside_check_keys(section: &mut Section, errors: &mut Vec<ConfigError>) {
    set_aside(section, &CHECK_KEYS_WITHOUT_MEANING, &CHECK_KEYS_REFUSED, errors);
    section.rename("check_id", "id");
    let method = section.set_aside("method");
    if let Some(Field { node: Node { value: Value::Text(text), .. }, place, .. }) = method
        && !text.is_empty()
        && !text.eq_ignore_ascii_case("get")
    {
        errors.push(place.error(format!("a check with the method {text:?}"), "let the health path answer to GET"));
    }
}

fn set_aside(
    section: &mut Section,
    without_meaning: &[&'static str],
    refused: &[(&'static str, &str)],
    errors: &mut Vec<ConfigError>,
) {
    for key in without_meaning {
        section.set_aside(key);
    }
    for (key, advice) in refused {
        if let Some(field) = section.set_aside(key) {
            errors.push(field.place.error(format!("`{}` is not supported", section.named(key)), *advice));
        }
    }
}

/// Levels below which keys are the user's own (`meta`), or nothing that is read.
const KEY_DEPTH_MAX: usize = 4;

/// Consul takes `ID`, `Name`, `SuccessBeforePassing` as well as `id`, `name`, `success_before_passing`.
fn lower_keys(mut field: Field, depth: usize) -> Field {
    let mut key = String::new();
    let mut after_small = false;
    for c in field.key.chars() {
        if c.is_ascii_uppercase() && after_small {
            key.push('_');
        }
        after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        key.push(c.to_ascii_lowercase());
    }
    field.key = key;
    if field.key != "meta" && depth < KEY_DEPTH_MAX {
        field.node = lower_node(field.node, depth + 1);
    }
    field
}

fn lower_node(node: Node, depth: usize) -> Node {
    let value = match node.value {
        Value::Table(fields) => Value::Table(fields.into_iter().map(|field| lower_keys(field, depth)).collect()),
        Value::List(nodes) => Value::List(nodes.into_iter().map(|node| lower_node(node, depth)).collect()),
        other => other,
    };
    Node { value, ..node }
}
