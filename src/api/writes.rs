//! What changes something: which `PUT` is which [`Command`]. Pure: paths, parameters and bodies in, a checked command
//! or a refusal out; nothing is changed by what is refused.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::answer::Answer;
use super::connect;
use super::request::Asked;
use super::{Command, Refused, Reply};
use crate::config::{check_registration, service_registration};
use crate::model::{Health, NodeName, ServiceId};

/// Of a check's output or note; what is beyond is cut, as in Consul.
const OUTPUT_BYTES_MAX: usize = 4096;
/// A reason is a sentence.
const REASON_BYTES_MAX: usize = 1024;
/// A DNS name's limit, with a port.
const ADDRESS_BYTES_MAX: usize = 255 + 6;
/// Where other hosts gossip, if nothing else is said.
const GOSSIP_PORT: u16 = 7946;

/// A write, as its path and parameters tell; its body is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    Leave,
    Register { replace_checks: bool },
    Deregister(ServiceId),
    RegisterCheck,
    DeregisterCheck(String),
    Report { id: String, health: Health, output: String },
    UpdateCheck(String),
    Maintain { service: Option<ServiceId>, reason: Option<String> },
    Join(String),
    ForceLeave { node: NodeName, prune: bool },
    Reload,
    Decide,
}

/// The write that is asked for. `None`: the path is none that writes.
pub(super) fn decide(asked: &Asked) -> Option<Result<Write, Answer>> {
    if let Some(refused) = connect::refuse_write(asked) {
        return Some(Err(refused));
    }
    if let Some(is_put) = connect::is_decision(asked) {
        return Some(if is_put { Ok(Write::Decide) } else { Err(Answer::method_not_allowed("GET, PUT")) });
    }
    let segments = asked.segments();
    let ["v1", "agent", path @ ..] = segments.as_slice() else { return None };
    let write = match path {
        ["leave"] => Ok(Write::Leave),
        ["reload"] => Ok(Write::Reload),
        ["maintenance"] => maintenance(asked, None),
        ["join", address] => join(asked, address),
        ["force-leave", node] => force_leave(asked, node),
        ["service", "register"] => register(asked),
        ["service", "deregister", id @ ..] => service_id(id).map(Write::Deregister),
        ["service", "maintenance", id @ ..] => service_id(id).and_then(|id| maintenance(asked, Some(id))),
        ["check", "register"] => Ok(Write::RegisterCheck),
        ["check", "deregister", id @ ..] => check_id(id).map(Write::DeregisterCheck),
        ["check", "pass", id @ ..] => report(asked, id, Health::Passing),
        ["check", "warn", id @ ..] => report(asked, id, Health::Warning),
        ["check", "fail", id @ ..] => report(asked, id, Health::Critical),
        ["check", "update", id @ ..] => check_id(id).map(Write::UpdateCheck),
        _ => return None,
    };
    Some(if asked.method == Method::PUT { write } else { Err(Answer::method_not_allowed("PUT")) })
}

fn bad(sentence: impl AsRef<str>) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, sentence.as_ref())
}

/// Ids may hold slashes, and Consul's clients do not escape them.
fn joined(id: &[&str], what: &str) -> Result<String, Answer> {
    match id.join("/") {
        id if id.is_empty() => Err(bad(format!("Missing {what} ID"))),
        id => Ok(id),
    }
}

fn check_id(id: &[&str]) -> Result<String, Answer> {
    joined(id, "check")
}

fn service_id(id: &[&str]) -> Result<ServiceId, Answer> {
    let id = joined(id, "service")?;
    ServiceId::parse(&id).map_err(|error| bad(error.to_string()))
}

fn switch(asked: &Asked, key: &str) -> Result<bool, Answer> {
    asked.query.switch(key).map_err(|value| bad(format!("Invalid value for {key}: {value:?} is no boolean")))
}

fn register(asked: &Asked) -> Result<Write, Answer> {
    Ok(Write::Register { replace_checks: switch(asked, "replace-existing-checks")? })
}

fn report(asked: &Asked, id: &[&str], health: Health) -> Result<Write, Answer> {
    let output = cut(asked.query.first("note").unwrap_or_default());
    Ok(Write::Report { id: check_id(id)?, health, output })
}

/// At most 4 KiB, at the end of a character.
fn cut(output: &str) -> String {
    let end = (0..=output.len().min(OUTPUT_BYTES_MAX)).rev().find(|&end| output.is_char_boundary(end));
    output[..end.unwrap_or(0)].to_owned()
}

fn maintenance(asked: &Asked, service: Option<ServiceId>) -> Result<Write, Answer> {
    let Some(text) = asked.query.first("enable").filter(|text| !text.is_empty()) else {
        return Err(bad("Missing value for enable: say ?enable=true or ?enable=false"));
    };
    let enable = asked.query.switch("enable").map_err(|_| bad(format!("Invalid value for enable: {text:?}")))?;
    let reason = asked.query.first("reason").unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        return Err(bad(format!("the reason is one line of at most {REASON_BYTES_MAX} bytes")));
    }
    let of = if service.is_some() { "service" } else { "node" };
    let reason = match reason {
        "" => {
            format!("Maintenance mode is enabled for this {of}, but no reason was provided. This is a default message.")
        }
        reason => reason.to_owned(),
    };
    Ok(Write::Maintain { service, reason: enable.then_some(reason) })
}

fn join(asked: &Asked, address: &str) -> Result<Write, Answer> {
    if switch(asked, "wan")? {
        return Err(bad("Weft has no WAN pool: a mesh is one cluster"));
    }
    let advice =
        || bad(format!("{address:?} is no address to join; write HOST:PORT, with an IPv6 address in brackets"));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || !address.chars().all(allowed) {
        return Err(advice());
    }
    if let Ok(ip) = address.parse() {
        return Ok(Write::Join(std::net::SocketAddr::new(ip, GOSSIP_PORT).to_string()));
    }
    match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let port: u16 = port.parse().map_err(|_| advice())?;
            let fits = !host.is_empty() && port > 0 && (bracketed || !host.contains([':', '[', ']']));
            if fits { Ok(Write::Join(address.to_owned())) } else { Err(advice()) }
        }
        _ => Ok(Write::Join(format!("{address}:{GOSSIP_PORT}"))),
    }
}

fn force_leave(asked: &Asked, node: &str) -> Result<Write, Answer> {
    let prune = switch(asked, "prune")?;
    let name = node.to_ascii_lowercase();
    let name = name.split('.').next().unwrap_or_default();
    let node = NodeName::parse(name).map_err(|error| bad(error.to_string()))?;
    Ok(Write::ForceLeave { node, prune })
}

impl Write {
    pub(super) fn takes_body(&self) -> bool {
        matches!(self, Write::Register { .. } | Write::RegisterCheck | Write::UpdateCheck(_) | Write::Decide)
    }

    /// The command, with the body read and checked. `Leave` is answered by another road and is none.
    pub(super) fn command(self, body: Bytes, reply: Reply) -> Result<Option<Command>, Answer> {
        let command = match self {
            Write::Leave => return Ok(None),
            Write::Register { replace_checks } => {
                let definition = service_registration(&body).map_err(|errors| bad(errors.to_string()))?;
                Command::Register { definition: Box::new(definition), body, replace_checks, reply }
            }
            Write::Deregister(id) => Command::Deregister { id, reply },
            Write::RegisterCheck => {
                let registration = check_registration(&body).map_err(|errors| bad(errors.to_string()))?;
                Command::RegisterCheck { registration: Box::new(registration), body, reply }
            }
            Write::DeregisterCheck(id) => Command::DeregisterCheck { id, reply },
            Write::Report { id, health, output } => Command::UpdateCheck { id, health, output, reply },
            Write::UpdateCheck(id) => {
                let (health, output) = read_update(&body).map_err(bad)?;
                Command::UpdateCheck { id, health, output, reply }
            }
            Write::Maintain { service, reason } => Command::Maintain { service, reason, reply },
            Write::Join(address) => Command::Join { address, reply },
            Write::ForceLeave { node, prune } => Command::ForceLeave { node, prune, reply },
            Write::Reload => Command::Reload { reply },
            Write::Decide => Command::Decide { policy: connect::decision_in(&body)?, reply },
        };
        Ok(Some(command))
    }
}

/// The body of `check/update`: `{"Status": "passing", "Output": "..."}`, keys in any case as Go reads them.
fn read_update(body: &[u8]) -> Result<(Health, String), String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("Request decode failed: {error}"))?;
    let object = value.as_object().ok_or("Request decode failed: the body is no JSON object")?;
    let field = |name: &str| match object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
        None | Some((_, Value::Null)) => Ok(""),
        Some((_, Value::String(text))) => Ok(text.as_str()),
        Some(_) => Err(format!("Request decode failed: {name} is no string")),
    };
    let status = field("Status")?;
    let healths = [Health::Passing, Health::Warning, Health::Critical];
    let health = healths.into_iter().find(|health| health.as_str() == status);
    let health = health.ok_or_else(|| format!("Invalid check status: '{status}'; say passing, warning or critical"))?;
    Ok((health, cut(field("Output")?)))
}

/// The answer to a refusal of the agent's.
pub(super) fn refused(refused: &Refused) -> Answer {
    let status = match refused {
        Refused::NotFound(_) => StatusCode::NOT_FOUND,
        Refused::Invalid(_) => StatusCode::BAD_REQUEST,
        Refused::NotGranted(_) => StatusCode::FORBIDDEN,
        Refused::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Answer::error(status, &refused.to_string())
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
