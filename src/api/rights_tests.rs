//! What each caller may do, and what the refusals say.

use std::net::Ipv4Addr;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderValue;
use tokio::sync::oneshot;

use super::*;
use crate::access::{ServiceGlob, acl_create};
use crate::api::specimen;
use crate::config::{check_registration, service_registration};
use crate::model::Health;

const CLOSED: Openness = Openness { on_loopback: true, writes: false };
const OPEN: Openness = Openness { on_loopback: true, writes: true };
const ABROAD: Openness = Openness { on_loopback: false, writes: true };

fn over_tcp() -> Client {
    Client { via: Via::Tcp(Ipv4Addr::LOCALHOST.into()), ends: None, peer: None }
}

fn over_socket(is_operator: bool) -> Client {
    Client { via: Via::Unix, ends: None, peer: Some(Peer { uid: 1000, gid: 1000, pid: None, is_operator }) }
}

/// With these headers; `?token=` where the query says so.
fn asker(client: Client, headers: &[(&'static str, &str)], query: &str, tokens: &Tokens, open: Openness) -> Asker {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let asked = Asked::new(Method::PUT, "/v1/agent/reload", query, false);
    Asker::of(&client, &map, &asked, Some(tokens), open)
}

struct Home {
    dir: tempfile::TempDir,
    tokens: Tokens,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::of(dir.path());
    Home { dir, tokens }
}

impl Home {
    fn token(&self, name: &str, role: Role) -> String {
        acl_create(self.dir.path(), name, role, None).unwrap().secret
    }

    fn with(&self, secret: &str, open: Openness) -> Asker {
        asker(over_tcp(), &[("x-consul-token", secret)], "", &self.tokens, open)
    }
}

fn register(globs: &[&str]) -> Role {
    Role::Register { services: globs.iter().map(|glob| ServiceGlob::parse(glob).unwrap()).collect() }
}

fn refusal(answer: Result<(), Answer>) -> String {
    let answer = answer.unwrap_err();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    String::from_utf8(answer.body).unwrap()
}

fn reply() -> crate::api::Reply {
    oneshot::channel().0
}

fn registering(name: &str, more: &str) -> Command {
    let body = format!(r#"{{"Name": "{name}", "Port": 80{more}}}"#);
    let definition = service_registration(body.as_bytes()).unwrap();
    Command::Register { definition: Box::new(definition), body: Bytes::new(), replace_checks: false, reply: reply() }
}

fn deregistering(id: &str) -> Command {
    Command::Deregister { id: ServiceId::parse(id).unwrap(), reply: reply() }
}

fn reporting(id: &str) -> Command {
    Command::UpdateCheck { id: id.into(), health: Health::Passing, output: String::new(), reply: reply() }
}

#[test]
fn without_a_token_programs_of_this_host_read_and_change_nothing_unless_writes_are_open() {
    let home = home();
    let nobody = |open| asker(over_tcp(), &[], "", &home.tokens, open);
    assert_eq!(nobody(CLOSED).may_read(), Ok(()));
    let sentence = refusal(nobody(CLOSED).may_write());
    assert!(sentence.contains("X-Consul-Token") && sentence.contains("weft acl create"), "{sentence}");
    assert!(nobody(CLOSED).may_operate("this").is_err());
    assert!(nobody(CLOSED).may_do(&registering("billing", ""), &specimen::local()).is_err());
    assert_eq!(nobody(OPEN).may_write(), Ok(()));
    assert_eq!(nobody(OPEN).may_do(&registering("billing", ""), &specimen::local()), Ok(()));
    assert!(nobody(OPEN).may_change_keys().is_err(), "no switch opens the keyring");
    let abroad = nobody(ABROAD);
    assert!(abroad.may_read().is_err() && abroad.may_write().is_err(), "nor anything beyond loopback");
}

#[test]
fn the_socket_is_an_operators_unless_its_file_was_opened_to_others() {
    let home = home();
    let member = asker(over_socket(true), &[], "", &home.tokens, CLOSED);
    assert_eq!((member.may_write(), member.may_change_keys()), (Ok(()), Ok(())));
    let other = asker(over_socket(false), &[], "", &home.tokens, CLOSED);
    assert_eq!(other.may_read(), Ok(()));
    assert!(other.may_write().is_err() && other.may_change_keys().is_err());
    let local = asker(over_socket(false), &[], "", &home.tokens, ABROAD);
    assert_eq!(local.may_read(), Ok(()), "it is a program of this host all the same");
}

#[test]
fn each_role_may_what_it_says() {
    let home = home();
    let (read, web) = (home.token("r", Role::Read), home.token("w", register(&["web-*"])));
    let operator = home.token("o", Role::Operator);
    let read = home.with(&read, ABROAD);
    assert_eq!(read.may_read(), Ok(()));
    assert!(refusal(read.may_write()).contains(r#"the token \"r\" (read) does not cover changes"#));
    let web = home.with(&web, CLOSED);
    assert_eq!(web.token.as_deref(), Some("w"));
    assert_eq!(web.may_write(), Ok(()));
    assert!(web.may_operate("the host").is_err() && web.may_change_keys().is_err());
    let operator = home.with(&operator, ABROAD);
    assert_eq!((operator.may_read(), operator.may_write(), operator.may_change_keys()), (Ok(()), Ok(()), Ok(())));
    assert_eq!(operator.may_do(&Command::Reload { reply: reply() }, &specimen::local()), Ok(()));
}

#[test]
fn a_token_registers_its_services_and_takes_nothing_from_others() {
    let home = home();
    let secret = home.token("worker", register(&["work*"]));
    let (worker, local) = (home.with(&secret, CLOSED), specimen::local());
    assert_eq!(worker.may_do(&registering("worker", ""), &local), Ok(()));
    assert_eq!(worker.may_do(&deregistering("worker"), &local), Ok(()));
    assert_eq!(worker.may_do(&reporting("service:worker"), &local), Ok(()));
    let check = |body: &str| Command::RegisterCheck {
        registration: Box::new(check_registration(body.as_bytes()).unwrap()),
        body: Bytes::new(),
        reply: reply(),
    };
    let own = r#"{"Name": "up", "CheckID": "up", "ServiceID": "worker", "TTL": "9s"}"#;
    assert_eq!(worker.may_do(&check(own), &local), Ok(()));
    let refused = [
        registering("billing", ""),
        // Under the id of another's service, or with the id of another's check.
        registering("worker", r#", "ID": "billing""#),
        registering("worker", r#", "Check": {"CheckID": "service:billing", "TTL": "9s"}"#),
        deregistering("billing"),
        deregistering("billing-2"),
        reporting("service:billing"),
        Command::DeregisterCheck { id: "service:billing".into(), reply: reply() },
        Command::Maintain { service: Some(ServiceId::parse("billing").unwrap()), reason: None, reply: reply() },
        Command::Maintain { service: None, reason: None, reply: reply() },
        check(r#"{"Name": "up", "CheckID": "up", "TTL": "9s"}"#),
        check(r#"{"Name": "up", "CheckID": "up", "ServiceID": "billing", "TTL": "9s"}"#),
        check(r#"{"Name": "up", "CheckID": "service:billing", "ServiceID": "worker", "TTL": "9s"}"#),
        Command::Reload { reply: reply() },
        Command::Join { address: "x:1".into(), reply: reply() },
        Command::Decide { policy: Vec::new(), reply: reply() },
    ];
    for command in refused {
        let sentence = refusal(worker.may_do(&command, &local));
        assert!(sentence.contains("(register work*) does not cover"), "{command}: {sentence}");
    }
    for unknown in [deregistering("nothing"), reporting("nothing")] {
        assert_eq!(worker.may_do(&unknown, &local).unwrap_err().status, StatusCode::NOT_FOUND, "{unknown}");
    }
}

#[test]
fn a_token_comes_in_either_header_and_never_in_the_url() {
    let home = home();
    let secret = home.token("o", Role::Operator);
    let bearer = format!("bearer {secret}");
    let may = |headers: &[(&'static str, &str)], query: &str| {
        asker(over_tcp(), headers, query, &home.tokens, CLOSED).may_write()
    };
    assert_eq!(may(&[("x-consul-token", &secret)], ""), Ok(()));
    assert_eq!(may(&[("authorization", &bearer)], ""), Ok(()));
    assert_eq!(may(&[("authorization", &bearer), ("x-consul-token", &secret)], ""), Ok(()));
    assert_eq!(may(&[("authorization", "Basic eDp5"), ("x-consul-token", &secret)], ""), Ok(()));
    let in_url = refusal(may(&[], &format!("token={secret}")));
    assert!(in_url.contains("?token=") && !in_url.contains(&secret), "{in_url}");
    let long = "x".repeat(TOKEN_CHARS_MAX + 1);
    for headers in [
        &[("x-consul-token", secret.as_str()), ("x-consul-token", "other")][..],
        &[("x-consul-token", "other"), ("authorization", &bearer)],
        &[("x-consul-token", &long)],
    ] {
        assert!(refusal(may(headers, "")).contains("send one token, once"), "{headers:?}");
    }
    let unknown = refusal(may(&[("x-consul-token", "5cc5d4d0-0000-0000-0000-000000000000")], ""));
    assert!(unknown.contains("ACL not found"), "{unknown}");
    assert!(refusal(may(&[("x-consul-token", "")], "")).contains("there is none"));
}
