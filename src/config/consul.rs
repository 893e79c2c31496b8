//! Consul's form, in files of `services.d/` and in bodies of its API, to the keys that are read here: one spelling a key,
//! nothing where Consul's clients write null or "". Keys that change nothing here are set aside; keys that ask for
//! something Weft does not do are refused with what does it instead.

use std::collections::HashSet;

use super::check::{self, LooseCheck};
use super::document::{Field, Node, Place, Value};
use super::section::Section;
use super::service::{self, Form, ServiceRead};
use super::{ConfigError, ServiceDefinition, duration};

/// True of Consul without meaning here: ACL tokens, and the catalog's write rule.
const SERVICE_KEYS_WITHOUT_MEANING: [&str; 4] =
    ["token", "enable_tag_override", "locality", "locally_registered_as_sidecar"];
/// Redirects are never followed, and outputs have one limit. `service_id` within a service says nothing new.
const CHECK_KEYS_WITHOUT_MEANING: [&str; 4] = ["token", "disable_redirects", "output_max_size", "service_id"];

const SERVICE_KEYS_REFUSED: [(&str, &str); 6] = [
    ("connect", "remove it: Weft carries every call over mutual TLS, without sidecars"),
    ("proxy", "remove it: Weft carries every call over mutual TLS, without sidecars"),
    ("kind", "remove it: gateways and sidecars of Consul have no part in Weft"),
    ("tagged_addresses", "remove it, and give `advertise` in weft.toml where NAT maps this host"),
    ("socket_path", "give the port that the process listens on"),
    ("ports", "give one `port`, or make a service of each"),
];
const CHECK_KEYS_REFUSED: [(&str, &str); 8] = [
    ("script", "give the program and its arguments as a list, `args`"),
    ("shell", "give the program and its arguments as a list, `args`"),
    ("docker_container_id", "use an http or tcp check"),
    ("h2ping", "use a grpc or tcp check"),
    ("h2ping_use_tls", "use a grpc or tcp check"),
    ("os_service", r#"use "systemd": "nginx.service""#),
    ("proxy_http", "remove it"),
    ("proxy_grpc", "remove it"),
];
/// Consul's enterprise edition; its free one has these two only.
const ENTERPRISE_KEYS: [&str; 2] = ["namespace", "partition"];

/// Keys of several words, which Consul finds by their letters alone: `ServiceID`, `service_id` and `serviceid` are one.
const KEYS_OF_WORDS: [&str; 28] = [
    "alias_node",
    "alias_service",
    "check_id",
    "deregister_critical_service_after",
    "disable_redirects",
    "docker_container_id",
    "enable_tag_override",
    "failures_before_critical",
    "failures_before_warning",
    "grpc_use_tls",
    "h2ping",
    "h2ping_use_tls",
    "locally_registered_as_sidecar",
    "os_service",
    "output_max_size",
    "proxy_grpc",
    "proxy_http",
    "script_args",
    "service_id",
    "service_name",
    "socket_path",
    "success_before_passing",
    "tagged_addresses",
    "tcp_use_tls",
    "tls_server_name",
    "tls_skip_verify",
    "vip_port",
    "request_timeout",
];
/// Tables whose keys are the user's own.
const TABLES_OF_THE_USER: [&str; 2] = ["meta", "header"];

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its services, with the checks within them.
    pub(super) services: Vec<ServiceRead>,
    /// Checks that stand beside services.
    pub(super) checks: Vec<LooseCheck>,
}

/// Reads `{"service": {...}}`, `{"services": [...]}`, `{"check": {...}}`, `{"checks": [...]}`.
pub(super) fn read(place: &Place, fields: Vec<Field>, errors: &mut Vec<ConfigError>) -> Found {
    let before = errors.len();
    let mut top = Section::new("", place.clone(), normal(fields, errors)).in_json();
    let mut services = top.sections("service", errors);
    services.extend(top.sections("services", errors));
    let mut checks = top.sections("check", errors);
    checks.extend(top.sections("checks", errors));
    let is_empty = services.is_empty() && checks.is_empty();
    top.finish(errors);
    if is_empty && errors.len() == before {
        errors.push(place.error("no service in this file", r#"write {"service": {"name": "...", "port": ...}}"#));
    }
    Found {
        services: services.into_iter().filter_map(|section| service::read(section, Form::Consul, errors)).collect(),
        checks: checks.into_iter().filter_map(|section| check::read_loose(section, Form::Consul, errors)).collect(),
    }
}

/// Gives loose checks of services to them; what is left is the host's.
pub(super) fn attach(
    checks: Vec<LooseCheck>,
    services: &mut [ServiceRead],
    errors: &mut Vec<ConfigError>,
) -> Vec<LooseCheck> {
    let mut of_host = Vec::new();
    for check in checks {
        let Some(id) = &check.service else {
            of_host.push(check);
            continue;
        };
        let is_its = |service: &&mut ServiceRead| service.definition.instance.id == id.value;
        match services.iter_mut().find(is_its) {
            Some(ServiceRead { definition: ServiceDefinition { checks, .. }, checks: places, .. }) => {
                checks.push(check.definition);
                places.push(check.place);
            }
            None => {
                let message = format!("no service of this host has the id {:?}", id.value.as_str());
                errors.push(id.place.error(message, "correct `service_id`, or leave it out for a check of the host"));
            }
        }
    }
    of_host
}

/// Takes the keys of a service that Weft has no use for.
pub(super) fn set_aside_service_keys(section: &mut Section, errors: &mut Vec<ConfigError>) {
    set_aside(section, &SERVICE_KEYS_WITHOUT_MEANING, &SERVICE_KEYS_REFUSED, errors);
}

/// Takes the keys of a check that Weft has no use for.
pub(super) fn set_aside_check_keys(section: &mut Section, errors: &mut Vec<ConfigError>) {
    set_aside(section, &CHECK_KEYS_WITHOUT_MEANING, &CHECK_KEYS_REFUSED, errors);
    section.rename("check_id", "id");
    section.set_aside("check_id");
    section.rename("script_args", "args");
    section.set_aside("script_args");
    // Clients that write every key write these for a check of another kind.
    section.set_aside_if("ttl", duration::is_zero);
    section.set_aside_if("args", |value| matches!(value, Value::List(nodes) if nodes.is_empty()));
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
        if let Some(field) = section.set_aside(key)
            && says_something(&field.node.value)
        {
            errors.push(field.place.error(format!("`{}` is not supported", section.named(key)), *advice));
        }
    }
    for key in ENTERPRISE_KEYS {
        if let Some(field) = section.set_aside(key)
            && !matches!(&field.node.value, Value::Text(text) if text == "default")
        {
            let message = format!("`{}` is not supported", section.named(key));
            errors.push(field.place.error(message, r#"remove it: a cluster of Weft has one namespace, "default""#));
        }
    }
}

/// False for what Consul's clients write where nothing is meant.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Text(text) => !text.is_empty(),
        Value::Integer(number) => *number != 0,
        Value::Boolean(boolean) => *boolean,
        Value::List(nodes) => nodes.iter().any(|node| says_something(&node.value)),
        // `{"SidecarService": {}}` asks for one with nothing special about it.
        Value::Table(fields) => fields.iter().any(|field| match &field.node.value {
            Value::Table(_) => true,
            other => says_something(other),
        }),
        Value::Foreign(kind) => *kind != "null",
    }
}

/// The fields under the keys that are read here; those that hold null or an empty text are left out, as Consul has it.
pub(super) fn normal(fields: Vec<Field>, errors: &mut Vec<ConfigError>) -> Vec<Field> {
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for mut field in fields {
        let key = normal_key(&field.key);
        if !seen.insert(key.clone()) {
            let message = format!("the key {:?} is there twice, in two spellings", field.key);
            errors.push(field.place.error(message, "keep one of the two"));
            continue;
        }
        if is_nothing(&field.node.value) {
            continue;
        }
        field.node = match TABLES_OF_THE_USER.contains(&key.as_str()) {
            true => without_nulls(field.node),
            false => normal_node(field.node, errors),
        };
        field.key = key;
        kept.push(field);
    }
    kept
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.is_empty(),
        Value::Foreign(kind) => *kind == "null",
        _ => false,
    }
}

fn normal_node(node: Node, errors: &mut Vec<ConfigError>) -> Node {
    let value = match node.value {
        Value::Table(fields) => Value::Table(normal(fields, errors)),
        Value::List(nodes) => Value::List(nodes.into_iter().map(|node| normal_node(node, errors)).collect()),
        other => other,
    };
    Node { value, ..node }
}

fn without_nulls(node: Node) -> Node {
    let value = match node.value {
        Value::Table(mut fields) => {
            fields.retain(|field| !matches!(field.node.value, Value::Foreign("null")));
            Value::Table(fields)
        }
        other => other,
    };
    Node { value, ..node }
}

/// Consul takes `ID`, `SuccessBeforePassing`, `TLSSkipVerify` as well as `id`, `success_before_passing`,
/// `tls_skip_verify`, and any mixture of capitals.
fn normal_key(key: &str) -> String {
    let letters: String = key.chars().filter(|&c| c != '_').map(|c| c.to_ascii_lowercase()).collect();
    let same = |known: &&&str| known.chars().filter(|&c| c != '_').eq(letters.chars());
    match KEYS_OF_WORDS.iter().find(same) {
        Some(known) => (*known).to_owned(),
        None => snake(key),
    }
}

/// A capital begins a word after a small letter or a digit, and as the last of a run before a small letter.
fn snake(key: &str) -> String {
    let chars: Vec<char> = key.chars().collect();
    let small = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut text = String::new();
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| chars.get(before));
        let after_small = before.is_some_and(small);
        let ends_run = before.is_some_and(char::is_ascii_uppercase) && chars.get(at + 1).is_some_and(small);
        if c.is_ascii_uppercase() && (after_small || ends_run) {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_snake_and_camel_case_and_by_their_letters() {
        for (key, normal) in [
            ("ServiceID", "service_id"),
            ("serviceid", "service_id"),
            ("CheckID", "check_id"),
            ("ID", "id"),
            ("HTTP", "http"),
            ("TLSSkipVerify", "tls_skip_verify"),
            ("TLSServerName", "tls_server_name"),
            ("DeregisterCriticalServiceAfter", "deregister_critical_service_after"),
            ("GRPCUseTLS", "grpc_use_tls"),
            ("grpc_use_tls", "grpc_use_tls"),
            ("H2PING", "h2ping"),
            ("OSService", "os_service"),
            ("EnableTagOverride", "enable_tag_override"),
            ("SomethingNew", "something_new"),
            ("HTTPThing2Go", "http_thing2_go"),
        ] {
            assert_eq!(normal_key(key), normal, "{key}");
        }
    }
}
