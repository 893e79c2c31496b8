//! Who asks, and what that one may do: by the unix socket, by a token, or as any program of this host. Pure but for the look
//! at the tokens.
//!
//! Reading is open to programs of this host. What changes something takes the socket, which its file's mode keeps for root
//! and the group `weft`, or a token whose role covers it; `[api] writes = "open"` opens all but the keyring. Where the API
//! listens beyond loopback, reading takes a token too. A token is looked at only where one is needed.

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};

use super::answer::Answer;
use super::guard::Via;
use super::request::Asked;
use super::whoami::Ends;
use super::{Command, Local};
use crate::access::{Role, TOKEN_CHARS_MAX, Tokens};
use crate::model::{ServiceId, ServiceName};

const CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const HOW: &str = "send a token in the header X-Consul-Token, or as Authorization: Bearer (root makes one with `weft acl \
                   create`), or use the unix socket as root or as a member of the group weft";

/// The process at the other end of the unix socket, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: Option<i32>,
    /// The socket's file lets nobody in but root and the group, or this is one of those.
    pub(super) is_operator: bool,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) via: Via,
    /// Over TCP.
    pub(super) ends: Option<Ends>,
    /// Over the unix socket.
    pub(super) peer: Option<Peer>,
}

/// What holds for everybody, as the configuration says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Openness {
    /// The API listens on loopback only.
    pub(super) on_loopback: bool,
    /// Programs of this host may write without a token.
    pub(super) writes: bool,
}

/// Who asks, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asker {
    role: Result<Role, String>,
    /// The name of the token that was shown.
    pub(super) token: Option<String>,
    reads: bool,
    writes: bool,
}

fn denied(sentence: &str) -> Answer {
    Answer::error(StatusCode::FORBIDDEN, sentence)
}

/// The token in the headers. `Err`: they contradict each other, or hold none that could be one.
fn presented(headers: &HeaderMap) -> Result<Option<&str>, String> {
    let wrong = || "Permission denied: the token's header cannot be read; send one token, once".to_owned();
    let mut tokens = Vec::new();
    for value in headers.get_all(CONSUL_TOKEN) {
        tokens.push(value.to_str().map_err(|_| wrong())?.trim());
    }
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| wrong())?.trim();
        match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => tokens.push(token.trim()),
            // Of another scheme, for a proxy on the way.
            _ => {}
        }
    }
    tokens.retain(|token| !token.is_empty());
    match tokens.as_slice() {
        [] => Ok(None),
        [first, rest @ ..] if rest.iter().all(|token| token == first) && first.len() <= TOKEN_CHARS_MAX => {
            Ok(Some(*first))
        }
        _ => Err(wrong()),
    }
}

impl Asker {
    /// Looks at the connection, and at the token.
    pub(super) fn of(
        client: &Client,
        headers: &HeaderMap,
        asked: &Asked,
        tokens: Option<&Tokens>,
        open: Openness,
    ) -> Asker {
        let is_local = client.via == Via::Unix || open.on_loopback;
        let asker = |role, token| Asker { role, token, reads: is_local, writes: is_local && open.writes };
        if client.peer.is_some_and(|peer| peer.is_operator) {
            return asker(Ok(Role::Operator), None);
        }
        let shown = match presented(headers) {
            Ok(shown) => shown,
            Err(sentence) => return asker(Err(sentence), None),
        };
        let Some(shown) = shown else {
            let sentence = match asked.query.first("token") {
                Some(_) => format!(
                    "Permission denied: a token in the URL (?token=) is not taken, URLs are kept in logs; {HOW}"
                ),
                None => format!("Permission denied: this takes a token, and there is none; {HOW}"),
            };
            return asker(Err(sentence), None);
        };
        match tokens.map(|tokens| tokens.find(shown)) {
            Some(Ok(token)) => asker(Ok(token.role), Some(token.name)),
            // Consul's words, which programs know.
            Some(Err(unknown)) => asker(Err(format!("ACL not found: {unknown}")), None),
            None => asker(Err("ACL not found: this agent keeps no tokens".to_owned()), None),
        }
    }

    fn lacks(&self, what: &str, next: &str) -> Answer {
        match &self.role {
            Err(sentence) => denied(sentence),
            Ok(role) => {
                let name = self.token.as_deref().unwrap_or_default();
                denied(&format!("Permission denied: the token {name:?} ({role}) does not cover {what}; {next}"))
            }
        }
    }

    /// Reading.
    pub(super) fn may_read(&self) -> Result<(), Answer> {
        if self.reads || self.role.is_ok() { Ok(()) } else { Err(self.lacks("reading", HOW)) }
    }

    /// Whether anything may be changed at all: asked before a body is read.
    pub(super) fn may_write(&self) -> Result<(), Answer> {
        match &self.role {
            _ if self.writes => Ok(()),
            Ok(Role::Operator | Role::Register { .. }) => Ok(()),
            Ok(Role::Read) | Err(_) => Err(self.lacks("changes", "use a token of the role register or operator")),
        }
    }

    /// What concerns the whole host, or more.
    pub(super) fn may_operate(&self, what: &str) -> Result<(), Answer> {
        if self.writes || self.role == Ok(Role::Operator) {
            return Ok(());
        }
        Err(self.lacks(what, "use a token of the role operator, or the unix socket"))
    }

    /// The gossip keys of all hosts, which no switch opens.
    pub(super) fn may_change_keys(&self) -> Result<(), Answer> {
        if self.role == Ok(Role::Operator) {
            return Ok(());
        }
        Err(denied(
            "Permission denied: the gossip keyring is changed over the agent's unix socket, by root and the group weft \
             (weft keyring, with --api /run/weft/weft.sock), or with a token of the role operator",
        ))
    }

    /// One command, as it was read.
    pub(super) fn may_do(&self, command: &Command, local: &Local) -> Result<(), Answer> {
        let role = match &self.role {
            _ if self.writes => return Ok(()),
            Ok(Role::Operator) => return Ok(()),
            Ok(role) => role,
            Err(_) => return self.may_write(),
        };
        for touched in touched(command, local)? {
            match touched {
                Touched::Service(service) if role.covers(service) => {}
                Touched::Service(service) => {
                    let next =
                        format!("`weft acl create NAME --role register --service {service}` makes one that does");
                    return Err(self.lacks(&format!("the service {service}"), &next));
                }
                Touched::Host => return self.may_operate("what concerns the whole host"),
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touched<'a> {
    Service(&'a ServiceName),
    Host,
}

/// Everything that a command would change; what it takes the place of too. `Err`: there is no such thing.
fn touched<'a>(command: &'a Command, local: &'a Local) -> Result<Vec<Touched<'a>>, Answer> {
    let service = |id: &ServiceId| local.services.get(id).map(|service| &service.instance.service);
    let unknown = |what: &str, id: &str| {
        Answer::error(StatusCode::NOT_FOUND, &format!("no {what} with the id {id:?} is registered on this host"))
    };
    let known = |id: &ServiceId| service(id).map(Touched::Service).ok_or_else(|| unknown("service", id.as_str()));
    let of_check = |id: &str| {
        let check = local.checks.get(id)?;
        Some(check.service.as_ref().and_then(service).map_or(Touched::Host, Touched::Service))
    };
    let touched = match command {
        Command::Register { definition, .. } => {
            let instance = &definition.instance;
            let replaced = service(&instance.id).map(Touched::Service);
            let checks = definition.checks.iter().filter_map(|check| of_check(&check.id));
            [Touched::Service(&instance.service)].into_iter().chain(replaced).chain(checks).collect()
        }
        Command::Deregister { id, .. } | Command::Maintain { service: Some(id), .. } => vec![known(id)?],
        Command::RegisterCheck { registration, .. } => {
            let whose = registration.service.as_ref().map_or(Ok(Touched::Host), known)?;
            [whose].into_iter().chain(of_check(&registration.check.id)).collect()
        }
        Command::DeregisterCheck { id, .. } | Command::UpdateCheck { id, .. } => {
            vec![of_check(id).ok_or_else(|| unknown("check", id))?]
        }
        Command::Leave { .. }
        | Command::Maintain { service: None, .. }
        | Command::Join { .. }
        | Command::ForceLeave { .. }
        | Command::Reload { .. }
        | Command::Decide { .. }
        | Command::Keyring { .. } => vec![Touched::Host],
    };
    Ok(touched)
}

#[cfg(test)]
#[path = "rights_tests.rs"]
mod tests;
