//! What a check does: exactly one of the keys that name a kind, and the keys that belong to it.

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::Method;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

use crate::model::{NodeName, ServiceId};

use super::section::{Fault, Section, Spot};
use super::service::Form;
use super::{CheckKind, CheckTls, ConfigError, reading, value};

/// A service that has not reported for a month is not watched by its reports.
const TTL_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30 * 86_400);
/// Kept in memory, and for a service of the API on disk.
const BODY_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 4096;
const ARGS_MAX: usize = 64;
const ARG_BYTES_MAX: usize = 4096;
const GRPC_SERVICE_BYTES_MAX: usize = 255;
/// systemd's own limit of a unit's name.
const UNIT_BYTES_MAX: usize = 255;

/// The keys that name a kind; `alias_node` alone does too.
const KINDS: [&str; 9] = ["http", "tcp", "udp", "grpc", "ttl", "args", "alias_service", "alias_node", "systemd"];
const HTTP_KEYS: [&str; 3] = ["method", "header", "body"];
const TLS_KEYS: [&str; 3] = ["tls_server_name", "tls_skip_verify", "tls_roots"];

/// Headers that frame the request: the check's own sending decides them.
const HEADERS_OF_FRAMING: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Takes the keys. `None` if there is no saying what to do; the reasons are among the errors then.
pub(super) fn read(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<CheckKind> {
    let given: Vec<&str> = KINDS.into_iter().filter(|key| section.has(key)).collect();
    let place = section.place().clone();
    let kind = match given.as_slice() {
        ["http"] => http(section, form, errors),
        ["tcp"] => {
            let use_tls = section.boolean("tcp_use_tls", errors).unwrap_or(false);
            let target = section.text("tcp", errors, value::tcp_target);
            let tls = tls(section, form, use_tls, errors);
            target.map(|spot| CheckKind::Tcp { target: spot.value, tls })
        }
        ["grpc"] => {
            let use_tls = section.boolean("grpc_use_tls", errors).unwrap_or(false);
            let asked = section.text("grpc", errors, grpc);
            let tls = tls(section, form, use_tls, errors);
            asked.map(|Spot { value: (target, service), .. }| CheckKind::Grpc { target, service, tls })
        }
        ["udp"] => section.text("udp", errors, |text| Ok(CheckKind::Udp { target: value::tcp_target(text)? })).value(),
        ["ttl"] => {
            let ttl = match form.is_consul() {
                true => section.go_duration("ttl", TTL_RANGE, errors),
                false => section.duration("ttl", TTL_RANGE, errors),
            };
            ttl.map(|spot| CheckKind::Ttl { ttl: spot.value })
        }
        ["args"] => script(section, errors),
        ["alias_service" | "alias_node"] | ["alias_service", "alias_node"] => {
            let told = errors.len();
            let service = section.text("alias_service", errors, value::name::<ServiceId>).value();
            let node = section.text("alias_node", errors, value::name::<NodeName>).value();
            (errors.len() == told).then_some(CheckKind::Alias { node, service })
        }
        [] => {
            let http = section.written("http", r#""http://127.0.0.1:8080/health""#);
            let tcp = section.written("tcp", r#""127.0.0.1:8080""#);
            errors.push(place.error("a check that does nothing", format!("give it {http} or {tcp}")));
            None
        }
        // The one that is left.
        [_] => section.text("systemd", errors, unit).map(|spot| CheckKind::Systemd { unit: spot.value }),
        [first, second, ..] => {
            let message = format!("a check with both `{first}` and `{second}`");
            errors.push(place.error(message, "make two checks of it"));
            None
        }
    };
    refuse_left_over(section, form, &given, errors);
    kind
}

/// What belongs to another kind says nothing here. Consul ignores it; in Weft's own form it is a mistake. With several
/// kinds, or none, only that is told.
fn refuse_left_over(section: &mut Section, form: Form, given: &[&str], errors: &mut Vec<ConfigError>) {
    if given.len() != 1 {
        KINDS.iter().for_each(|key| drop(section.set_aside(key)));
    }
    let owners = [("http", &HTTP_KEYS[..]), ("http, tcp or grpc", &TLS_KEYS), ("tcp", &["tcp_use_tls"])]
        .into_iter()
        .chain([("grpc", &["grpc_use_tls"][..])]);
    for (owner, keys) in owners {
        for key in keys {
            if form.is_consul() && *key == "tls_roots" {
                continue; // not a key of Consul's: unknown
            }
            let Some(field) = section.set_aside(key) else { continue };
            if !form.is_consul() && given.len() == 1 {
                let message = format!("`{}` in a check of another kind", section.named(key));
                errors.push(field.place.error(message, format!("remove it: it belongs to {owner}")));
            }
        }
    }
}

trait Value<T> {
    fn value(self) -> Option<T>;
}

impl<T> Value<T> for Option<Spot<T>> {
    fn value(self) -> Option<T> {
        self.map(|spot| spot.value)
    }
}

fn http(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> Option<CheckKind> {
    let read = section.text("http", errors, |text| Ok((text.to_owned(), value::http_url(text)?)));
    let method = section.text("method", errors, method).value();
    let headers = headers(section, errors);
    let body = section.text("body", errors, body).value();
    let is_https = read.as_ref().is_none_or(|spot| spot.value.1.is_https);
    let tls = tls(section, form, is_https, errors);
    let (url, value::HttpUrl { target, path, .. }) = read?.value;
    let (method, body) = (method.unwrap_or_else(|| "GET".to_owned()), body.unwrap_or_default());
    Some(CheckKind::Http { url, target, path, method, headers, body, tls })
}

fn method(text: &str) -> Result<String, Fault> {
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(upper.as_bytes()) {
        Ok(Method::CONNECT) | Err(_) => {
            Err(Fault::new(format!("{:?} is no method for a check", value::start_of(text)), r#"write "GET" or "HEAD""#))
        }
        Ok(_) => Ok(upper),
    }
}

fn body(text: &str) -> Result<String, Fault> {
    if text.len() <= BODY_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("a body of {} bytes", text.len()), format!("keep at most {BODY_BYTES_MAX}")))
}

fn headers(section: &mut Section, errors: &mut Vec<ConfigError>) -> Vec<(String, String)> {
    let name = section.named("header");
    let spots = section.text_lists("header", errors).unwrap_or_default();
    if let Some(first_over) = spots.get(HEADERS_MAX) {
        let message = format!("{name} has {} headers", spots.len());
        errors.push(first_over.place.error(message, format!("keep at most {HEADERS_MAX}")));
    }
    let mut headers = Vec::new();
    for Spot { value: (key, text), place } in spots {
        let fault = match (HeaderName::from_bytes(key.as_bytes()), HeaderValue::from_str(&text)) {
            (Err(_), _) => Some(("is no name of a header", "use letters, digits and '-'")),
            (Ok(found), _) if HEADERS_OF_FRAMING.contains(&found) => Some(("is not the check's to set", "remove it")),
            (_, Err(_)) => {
                Some(("has a value that no header can have", "write it in one line, without control characters"))
            }
            _ if text.len() > HEADER_BYTES_MAX => Some(("is too long", "keep it under 4 KiB")),
            _ => None,
        };
        match fault {
            Some((what, advice)) => {
                errors.push(place.error(format!("{name}: {:?} {what}", value::start_of(&key)), advice));
            }
            None => headers.push((key, text)),
        }
    }
    headers
}

/// The TLS keys, if TLS is spoken; else they are left for [`refuse_left_over`].
fn tls(section: &mut Section, form: Form, is_spoken: bool, errors: &mut Vec<ConfigError>) -> Option<CheckTls> {
    if !is_spoken {
        return None;
    }
    let server_name = section.text("tls_server_name", errors, server_name).value();
    let skip_verify = section.boolean("tls_skip_verify", errors).unwrap_or(false);
    // Not for the API: whoever reaches it has no business with files that the agent can read.
    let roots = match form {
        Form::Weft => section.text("tls_roots", errors, reading::absolute_path).value(),
        Form::Consul | Form::Api => None,
    };
    Some(CheckTls { server_name, skip_verify, roots })
}

fn server_name(text: &str) -> Result<String, Fault> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            let message = format!("{:?} is no name of a certificate", value::start_of(text));
            Err(Fault::new(message, r#"write it like "billing.example.com""#))
        }
    }
}

fn grpc(text: &str) -> Result<(super::CheckTarget, String), Fault> {
    let (target, service) = text.split_once('/').unwrap_or((text, ""));
    if service.len() > GRPC_SERVICE_BYTES_MAX || !service.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{:?} is no gRPC service", value::start_of(service));
        return Err(Fault::new(message, r#"write it like "127.0.0.1:9000/my.package.Service""#));
    }
    Ok((value::tcp_target(target)?, service.to_owned()))
}

fn script(section: &mut Section, errors: &mut Vec<ConfigError>) -> Option<CheckKind> {
    let (name, place) = (section.named("args"), section.place().clone());
    let told = errors.len();
    let args = section.texts("args", errors, |text| match text {
        _ if text.len() > ARG_BYTES_MAX => {
            Err(Fault::new(format!("an argument of {} bytes", text.len()), format!("keep at most {ARG_BYTES_MAX}")))
        }
        _ if text.contains('\0') => Err(Fault::new("an argument with a NUL", "remove it")),
        _ => Ok(text.to_owned()),
    })?;
    let example = r#"write it like ["/usr/lib/nagios/plugins/check_disk", "-w", "10%"]"#;
    match args.first() {
        None => errors.push(place.error(format!("{name} has no program"), example)),
        Some(program) if !program.value.starts_with('/') => {
            let message = format!("{name}: {:?} is not a whole path", value::start_of(&program.value));
            errors.push(program.place.error(message, format!("begin it with /; there is no shell: {example}")));
        }
        Some(_) if args.len() > ARGS_MAX => {
            errors.push(place.error(format!("{name} has {} texts", args.len()), format!("keep at most {ARGS_MAX}")));
        }
        Some(_) => {}
    }
    (errors.len() == told).then(|| CheckKind::Script { args: args.into_iter().map(|spot| spot.value).collect() })
}

pub(super) fn unit(text: &str) -> Result<String, Fault> {
    const SUFFIXES: [&str; 8] = [".service", ".socket", ".target", ".timer", ".mount", ".automount", ".path", ".scope"];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    let named = SUFFIXES.iter().any(|suffix| text.len() > suffix.len() && text.ends_with(suffix));
    if named && text.len() <= UNIT_BYTES_MAX && text.chars().all(plain) && !text.starts_with(['-', '.']) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{:?} is no systemd unit", value::start_of(text)), r#"write it like "nginx.service""#))
}
