//! `/v1/connect/intentions` in Consul's shapes, to be read, and `/v1/weft/policy`, by which an operator decides: `GET` tells
//! what a decision has to name, `PUT` takes it, signed. Pure: a view and a parsed request in, bodies out.
//!
//! Consul's own writes are refused with a sentence: here an operator's signature decides, and no agent has one.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::answer::Answer;
use super::consul::{View, index};
use super::request::Asked;
use super::traffic_policies::{self, StatedBody};
use crate::model::{
    Action, Change, Dot, Intention, NodeId, Pattern, Permission, PolicyId, ServiceName, Standing, Verdict,
};

const UNSIGNED: &str = "intentions need an operator's signature here, so this request cannot make or change one; use the \
                        command line: weft intention allow|deny|delete SOURCE DESTINATION --operator FILE";
const NOT_KEPT: &str =
    "Weft has no Connect CA or sidecar API, only intentions; every host's certificate comes from `weft enroll`";
/// Names of one `match`.
const NAMES_MAX: usize = 64;

fn bad(sentence: impl AsRef<str>) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, sentence.as_ref())
}

/// Consul's writes of intentions; `None`: the request is none.
pub(super) fn refuse_write(asked: &Asked) -> Option<Answer> {
    match asked.segments().as_slice() {
        ["v1", "connect", "intentions", ..] if !asked.reads() => Some(Answer::error(StatusCode::FORBIDDEN, UNSIGNED)),
        _ => None,
    }
}

/// Whether the request brings a decision; `None`: the path is another.
pub(super) fn is_decision(asked: &Asked) -> Option<bool> {
    (asked.segments() == ["v1", "weft", "policy"] && !asked.reads()).then_some(asked.method == Method::PUT)
}

/// The body of a decision: `{"Policy": base64 of a policy record's body}`.
pub(super) fn decision_in(body: &[u8]) -> Result<Vec<u8>, Answer> {
    let value: Value = serde_json::from_slice(body).map_err(|error| bad(format!("Request decode failed: {error}")))?;
    let text = value.get("Policy").and_then(Value::as_str);
    let text = text.ok_or_else(|| bad("say what is decided: {\"Policy\": \"...\"}, as `weft intention` does"))?;
    data_encoding::BASE64.decode(text.as_bytes()).map_err(|error| bad(format!("the policy is no base64: {error}")))
}

/// The answer to a path below `/v1/connect`; `None` if there is no such path.
pub(super) fn read(path: &[&str], asked: &Asked, view: &View<'_>) -> Option<Answer> {
    let answer = match path {
        ["intentions"] => {
            let all: Vec<_> =
                listed(view).into_iter().map(|(intention, standing)| shape(view, intention, standing)).collect();
            Ok(json(asked, &all))
        }
        ["intentions", "exact"] => exact(asked, view),
        ["intentions", "match"] => matching(asked, view),
        ["intentions", "check"] => check(asked, view),
        ["intentions", _] => Err(Answer::error(StatusCode::NOT_FOUND, "Intention not found")),
        _ => Err(Answer::error(StatusCode::NOT_IMPLEMENTED, NOT_KEPT)),
    };
    Some(answer.unwrap_or_else(|refused| refused))
}

fn json(asked: &Asked, value: &impl Serialize) -> Answer {
    Answer::json(value, asked.query.switch("pretty").unwrap_or(true))
}

/// The most precise first.
fn listed<'a>(view: &View<'a>) -> Vec<(&'a Intention, &'a Standing)> {
    let mut all: Vec<_> = view.directory.intentions.list().collect();
    let precision = |intention: &Intention| (intention.destination.precision(), intention.source.precision());
    all.sort_by_key(|(intention, _)| std::cmp::Reverse(precision(intention)));
    all
}

fn pattern(asked: &Asked, key: &str) -> Result<Pattern, Answer> {
    // Consul's clients may send `default/web`, its only namespace here.
    let text = asked.query.first(key).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| bad(format!("required query parameter '{key}' not set")))?;
    Pattern::parse(text.strip_prefix("default/").unwrap_or(text)).map_err(|error| bad(error.to_string()))
}

fn exact(asked: &Asked, view: &View<'_>) -> Result<Answer, Answer> {
    let (source, destination) = (pattern(asked, "source")?, pattern(asked, "destination")?);
    let mut all = view.directory.intentions.list();
    let found = all.find(|(intention, _)| intention.source == source && intention.destination == destination);
    let (intention, standing) = found.ok_or_else(|| Answer::error(StatusCode::NOT_FOUND, "Intention not found"))?;
    Ok(json(asked, &shape(view, intention, standing)))
}

fn matching(asked: &Asked, view: &View<'_>) -> Result<Answer, Answer> {
    let by_source = match asked.query.first("by") {
        Some("source") => true,
        Some("destination") => false,
        _ => return Err(bad("required query parameter 'by' not set; say source or destination")),
    };
    let names: Vec<&str> = asked.query.all("name").take(NAMES_MAX).collect();
    if names.is_empty() {
        return Err(bad("required query parameter 'name' not set"));
    }
    let mut found = BTreeMap::new();
    for name in names {
        let service = ServiceName::parse(name).map_err(|error| bad(error.to_string()))?;
        let fits = |intention: &Intention| {
            if by_source { intention.source.fits(Some(&service)) } else { intention.destination.fits(Some(&service)) }
        };
        let of: Vec<_> = listed(view).into_iter().filter(|(intention, _)| fits(intention)).collect();
        let shapes: Vec<_> = of.into_iter().map(|(intention, standing)| shape(view, intention, standing)).collect();
        found.insert(name, shapes);
    }
    Ok(json(asked, &found))
}

/// Consul's answer, and which rule it is.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Checked {
    allowed: bool,
    weft: Reasoned,
}

#[derive(Serialize)]
struct Reasoned {
    /// In words.
    rule: String,
    /// The intention's source and destination, where one fits.
    intention: Option<(Pattern, Pattern)>,
    default: Action,
}

fn check(asked: &Asked, view: &View<'_>) -> Result<Answer, Answer> {
    let source = pattern(asked, "source")?;
    let named = |pattern: &Pattern| ServiceName::parse(pattern.as_str()).map_err(|error| bad(error.to_string()));
    // `*` asks for callers of whom nothing is known.
    let caller = if source.is_any() { None } else { Some(named(&source)?) };
    let service = named(&pattern(asked, "destination")?)?;
    let request = match (asked.query.first("method"), asked.query.first("path")) {
        (None, None) => None,
        (method, path) => Some((method.unwrap_or("GET"), path.unwrap_or("/"))),
    };
    let intentions = &view.directory.intentions;
    let Verdict { allowed, rule } = intentions.judge(caller.as_ref(), &service, request);
    let intention = rule.intention().map(|intention| (intention.source.clone(), intention.destination.clone()));
    let weft = Reasoned { rule: rule.to_string(), intention, default: intentions.default_action() };
    Ok(json(asked, &Checked { allowed, weft }))
}

/// What a decision has to name, and what holds now.
#[derive(Serialize)]
struct Form<'a> {
    cluster: &'a str,
    /// Where it is decided.
    writer: String,
    lamport: u64,
    /// What it replaces: host and Lamport time.
    seen: Vec<(String, u64)>,
    /// What holds where no intention fits.
    default: Action,
    /// Whether an operator has said so.
    default_is_set: bool,
    current: Option<&'a Intention>,
    /// What is stated of the traffic of the service that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<StatedBody<'a>>,
}

/// `GET /v1/weft/policy`: of the intention, the trusted roots (`?trust`), the host (`?revocation=ID`) or the traffic of the
/// service (`?traffic=NAME`) that is asked for, else of the default policy.
pub(super) fn form(asked: &Asked, view: &View<'_>) -> Answer {
    let (trust, revocation) = (asked.query.switch("trust") == Ok(true), asked.query.first("revocation"));
    let traffic = asked.query.first("traffic");
    let id = match (asked.query.first("source"), asked.query.first("destination")) {
        _ if trust => PolicyId::Trust,
        _ if revocation.is_some() => match revocation.unwrap_or_default().parse() {
            Ok(node) => PolicyId::Revocation(node),
            Err(_) => return bad("`revocation` takes a host's id, 32 hex digits"),
        },
        _ if traffic.is_some() => match ServiceName::parse(traffic.unwrap_or_default()) {
            Ok(service) => PolicyId::Traffic(service),
            Err(error) => return bad(error.to_string()),
        },
        (None, None) => PolicyId::Default,
        _ => match (pattern(asked, "source"), pattern(asked, "destination")) {
            (Ok(source), Ok(destination)) => PolicyId::Intention { source, destination },
            (Err(refused), _) | (_, Err(refused)) => return refused,
        },
    };
    let intentions = &view.directory.intentions;
    let (Dot { lamport, writer }, seen) = intentions.next(&id, view.directory.local);
    let mut all = intentions.list();
    let text = |node: NodeId| node.to_string();
    let form = Form {
        cluster: &view.settings.cluster,
        writer: text(writer),
        lamport,
        seen: seen.into_iter().map(|(writer, lamport)| (text(writer), lamport)).collect(),
        default: intentions.default_action(),
        default_is_set: intentions.subjects().get(&PolicyId::Default).is_some_and(is_set),
        current: all.find(|(intention, _)| intention.id() == id).map(|(intention, _)| intention),
        traffic: match &id {
            PolicyId::Traffic(service) => traffic_policies::stated(view, service),
            _ => None,
        },
    };
    json(asked, &form)
}

fn is_set(standing: &Standing) -> bool {
    matches!(standing.winner.statement.change, Change::Default(_))
}

/// Consul's form of an intention.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shape<'a> {
    #[serde(rename = "ID")]
    id: String,
    description: &'a str,
    #[serde(rename = "SourceNS")]
    source_ns: &'static str,
    source_name: &'a str,
    #[serde(rename = "DestinationNS")]
    destination_ns: &'static str,
    destination_name: &'a str,
    source_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    permissions: Vec<PermissionShape<'a>>,
    meta: BTreeMap<String, String>,
    precedence: u8,
    created_at: String,
    updated_at: String,
    create_index: u64,
    modify_index: u64,
    weft: Provenance<'a>,
}

/// Where it comes from.
#[derive(Serialize)]
struct Provenance<'a> {
    operator: &'a str,
    /// Decided elsewhere at the same time, and not in force: who, and what.
    conflicts: Vec<(&'a str, String)>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PermissionShape<'a> {
    action: Action,
    #[serde(rename = "HTTP")]
    http: HttpShape<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HttpShape<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path_exact: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_prefix: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    methods: &'a [String],
}

fn shape<'a>(view: &View<'_>, intention: &'a Intention, standing: &'a Standing) -> Shape<'a> {
    let statement = &standing.winner.statement;
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(statement.at_unix_s)).unwrap_or(UNIX_EPOCH);
    // The year 9999 is the last that has this form.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let at = humantime::format_rfc3339_seconds(at.min(last)).to_string();
    let what = |change: &crate::model::Change| match change {
        // Never about an intention.
        Change::Revocation(_) | Change::Trust(_) | Change::Traffic(_) => String::new(),
        Change::Delete(_) => "delete".to_owned(),
        Change::Default(action) => action.to_string(),
        Change::Intention(other) if other.permissions.is_empty() => other.action.to_string(),
        Change::Intention(other) => format!("{} permissions", other.permissions.len()),
    };
    let conflicts = standing.losers.iter().map(|loser| (&*loser.statement.operator, what(&loser.statement.change)));
    Shape {
        id: uuid_of(&intention.id()),
        description: &intention.description,
        source_ns: "default",
        source_name: intention.source.as_str(),
        destination_ns: "default",
        destination_name: intention.destination.as_str(),
        source_type: "consul",
        action: intention.permissions.is_empty().then_some(intention.action),
        permissions: intention.permissions.iter().map(permission).collect(),
        meta: BTreeMap::new(),
        precedence: match (intention.destination.is_exact(), intention.source.is_exact()) {
            (true, true) => 9,
            (true, false) => 8,
            (false, true) => 6,
            (false, false) => 5,
        },
        created_at: at.clone(),
        updated_at: at,
        create_index: index(view.directory),
        modify_index: index(view.directory),
        weft: Provenance { operator: &statement.operator, conflicts: conflicts.collect() },
    }
}

fn permission(permission: &Permission) -> PermissionShape<'_> {
    let (path_exact, path_prefix) = match permission.path.as_ref().map(|path| path.parts()) {
        Some((path, true)) => (None, Some(path)),
        Some((path, false)) => (Some(path), None),
        None => (None, None),
    };
    PermissionShape {
        action: permission.action,
        http: HttpShape { path_exact, path_prefix, methods: &permission.methods },
    }
}

/// Consul's intentions have an id of this form; here it follows from what they are about.
fn uuid_of(id: &PolicyId) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &id.key());
    let hex = data_encoding::HEXLOWER.encode(digest.as_ref());
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
