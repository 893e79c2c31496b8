//! `/v1/weft/traffic-policies`: what operators state about how calls of services are carried, what this host makes of it, and
//! what was stated before. Pure: a view in, bodies out.

use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use super::consul::View;
use crate::model::{
    Change, PastStatement, Policy, PolicyId, ServiceName, Standing, TrafficAccount, TrafficStatement, TrialHere,
};

/// What is stated.
#[derive(Serialize)]
pub(super) struct StatedBody<'a> {
    document: &'a str,
    trial: Option<TrialBody<'a>>,
}

#[derive(Serialize)]
struct TrialBody<'a> {
    zone: &'a str,
    document: &'a str,
    ends_unix_s: u64,
    /// What becomes of it on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<TrialHere>,
}

#[derive(Serialize)]
struct PolicyBody<'a> {
    service: &'a str,
    /// Its place among the statements about the service.
    number: u64,
    operator: &'a str,
    at_unix_s: u64,
    /// `null`: deleted.
    stated: Option<StatedBody<'a>>,
    /// This host does as it says.
    in_force: bool,
    /// The statement whose document is applied; `null`: none, everything is as it is without one.
    applied: Option<u64>,
    /// Why the document is not applied here.
    not_understood: Option<&'a str>,
    /// Stated elsewhere at the same time, and not in force anywhere.
    conflicts: Vec<Conflict<'a>>,
}

#[derive(Serialize)]
struct Conflict<'a> {
    operator: &'a str,
    at_unix_s: u64,
    document: Option<&'a str>,
}

#[derive(Serialize)]
struct HistoryBody<'a> {
    #[serde(flatten)]
    policy: PolicyBody<'a>,
    /// As much of it as is kept, the latest first.
    history: Vec<PastBody<'a>>,
}

#[derive(Serialize)]
struct PastBody<'a> {
    number: u64,
    writer: String,
    operator: &'a str,
    at_unix_s: u64,
    stated: Option<StatedBody<'a>>,
    /// It is the statement that holds.
    holds: bool,
    /// Its document is applied on this host.
    applied: bool,
}

/// What the next decision about the service replaces.
pub(super) fn stated<'a>(view: &View<'a>, service: &ServiceName) -> Option<StatedBody<'a>> {
    let standing = view.directory.intentions.subjects().get(&PolicyId::Traffic(service.clone()))?;
    let account = view.directory.traffic.accounts().get(service);
    said_in(&standing.winner).map(|said| body_of(said, account.and_then(|account| account.trial)))
}

/// What is stated of each service, in alphabetical order.
pub(super) fn list<'a>(view: &View<'a>) -> impl Serialize + use<'a> {
    let accounts = view.directory.traffic.accounts().iter();
    let bodies = accounts.filter_map(|(service, account)| {
        let body = policy(view, service, account)?;
        body.stated.is_some().then_some(body)
    });
    bodies.collect::<Vec<_>>()
}

/// The same of one service, with what was stated before.
pub(super) fn one<'a>(view: &View<'a>, name: &str) -> Result<impl Serialize + use<'a>, Answer> {
    let missing = || Answer::error(StatusCode::NOT_FOUND, &format!("nothing was ever stated of {name}"));
    let (service, account) = view.directory.traffic.accounts().get_key_value(name).ok_or_else(missing)?;
    let policy = policy(view, service, account).ok_or_else(missing)?;
    let past = |past: &'a Arc<PastStatement>| PastBody {
        number: past.number,
        writer: past.writer.to_string(),
        operator: &past.operator,
        at_unix_s: past.at_unix_s,
        stated: past.said.as_ref().map(|said| body_of(said, None)),
        holds: past.dot() == account.stated,
        applied: Some(past.dot()) == account.applied,
    };
    Ok(HistoryBody { policy, history: account.past.iter().rev().map(past).collect() })
}

fn policy<'a>(view: &View<'a>, service: &'a ServiceName, account: &'a TrafficAccount) -> Option<PolicyBody<'a>> {
    let Standing { winner, losers } = view.directory.intentions.subjects().get(&PolicyId::Traffic(service.clone()))?;
    let said = said_in(winner);
    let conflict = |loser: &'a Arc<Policy>| Conflict {
        operator: &loser.statement.operator,
        at_unix_s: loser.statement.at_unix_s,
        document: said_in(loser).map(|said| said.document.as_str()),
    };
    let does = if said.is_some() { account.applied == Some(account.stated) } else { account.applied.is_none() };
    Some(PolicyBody {
        service: service.as_str(),
        number: winner.statement.dot.lamport,
        operator: &winner.statement.operator,
        at_unix_s: winner.statement.at_unix_s,
        stated: said.map(|said| body_of(said, account.trial)),
        in_force: does && account.stated == winner.statement.dot && account.trial != Some(TrialHere::NotUnderstood),
        applied: account.applied.map(|dot| dot.lamport),
        not_understood: account.not_understood.as_deref(),
        conflicts: losers.iter().map(conflict).collect(),
    })
}

fn said_in(policy: &Policy) -> Option<&TrafficStatement> {
    match &policy.statement.change {
        Change::Traffic(said) => Some(said),
        _ => None,
    }
}

fn body_of(said: &TrafficStatement, here: Option<TrialHere>) -> StatedBody<'_> {
    let trial = said.trial.as_ref().map(|trial| TrialBody {
        zone: &trial.zone,
        document: &trial.document,
        ends_unix_s: trial.ends_unix_s,
        here,
    });
    StatedBody { document: &said.document, trial }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hyper::Method;
    use serde_json::{Value, json};

    use super::super::request::Asked;
    use super::super::router::{Outcome, route};
    use super::super::specimen::{self, with_view};
    use super::*;
    use crate::model::{Directory, Dot, Intentions, NodeId, Statement, TrafficPolicies, Trial};
    use crate::policy::{Policies, TrafficShelves};

    fn stated(number: u64, service: &str, document: &str, trial: Option<Trial>) -> Arc<Policy> {
        let service = ServiceName::parse(service).unwrap();
        let change = Change::Traffic(TrafficStatement { service, document: document.into(), trial });
        let writer = NodeId([1; 16]);
        let seen = if number > 1 { vec![(writer, number - 1)] } else { Vec::new() };
        let dot = Dot { lamport: number, writer };
        let statement = Statement { dot, seen, operator: "anna".into(), at_unix_s: 1000 + number, change };
        let signed = format!("{number}{document}").into_bytes().into();
        Arc::new(Policy { statement, is_vouched: false, body: Default::default(), signed })
    }

    /// Of `billing` there were three statements, the last one not understood; of `web` one, on trial in another zone.
    fn directory() -> Directory {
        let trial = Trial { zone: "eu-1b".into(), document: r#"{"retries":{"max":0}}"#.into(), ends_unix_s: 5000 };
        let all = [
            stated(1, "billing", r#"{"retries":{"max":3}}"#, None),
            stated(2, "billing", r#"{"retries":{"max":4}}"#, None),
            stated(3, "billing", r#"{"quotas":{}}"#, None),
            stated(1, "web", "{}", Some(trial)),
        ];
        let (mut policies, mut shelves) = (Policies::default(), TrafficShelves::default());
        for policy in &all {
            policies.hold(policy.statement.dot.writer, policy.clone());
            shelves.note(policy);
        }
        let intentions: Intentions = policies.compile();
        for (id, standing) in intentions.subjects() {
            let PolicyId::Traffic(service) = id else { continue };
            shelves.settle(service, standing, "eu-1a", 2000);
        }
        Directory { intentions: Arc::new(intentions), traffic: Arc::new(shelves.compile()), ..specimen::directory() }
    }

    fn get(target: &str) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let asked = Asked::new(Method::GET, path, query, false);
        with_view(&directory(), |view| match route(&asked, view) {
            Outcome::Answer(answer) => {
                (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default())
            }
            other => panic!("{target} gave {other:?}"),
        })
    }

    #[test]
    fn the_list_says_what_holds_and_what_this_host_makes_of_it() {
        let (status, all) = get("/v1/weft/traffic-policies");
        let all = all.as_array().unwrap();
        assert_eq!((status, all.len()), (200, 2));
        let (billing, web) = (&all[0], &all[1]);
        assert_eq!((&billing["service"], &billing["number"]), (&json!("billing"), &json!(3)));
        assert_eq!((&billing["in_force"], &billing["applied"]), (&json!(false), &json!(2)));
        assert!(billing["not_understood"].as_str().unwrap().starts_with("unknown key `quotas`"));
        assert_eq!((&web["in_force"], &web["stated"]["trial"]["here"]), (&json!(true), &json!("elsewhere")));
        assert_eq!(web.get("history"), None);
    }

    #[test]
    fn of_one_service_everything_is_told_that_is_kept_the_latest_first() {
        let (status, billing) = get("/v1/weft/traffic-policies/billing");
        let past = billing["history"].as_array().unwrap();
        let told: Vec<_> = past.iter().map(|past| (&past["number"], &past["holds"], &past["applied"])).collect();
        let (yes, no) = (&json!(true), &json!(false));
        assert_eq!(status, 200);
        assert_eq!(told, [(&json!(3), yes, no), (&json!(2), no, yes), (&json!(1), no, no)]);
        assert_eq!(past[1]["stated"]["document"], r#"{"retries":{"max":4}}"#);
        assert_eq!(get("/v1/weft/traffic-policies/nothing").0, 404);
    }

    #[test]
    fn a_form_names_what_a_decision_about_a_services_traffic_replaces() {
        let (_, form) = get("/v1/weft/policy?traffic=billing");
        assert_eq!((&form["lamport"], &form["traffic"]["document"]), (&json!(4), &json!(r#"{"quotas":{}}"#)));
        let (_, form) = get("/v1/weft/policy?traffic=legacy");
        assert_eq!((&form["lamport"], &form["traffic"]), (&json!(1), &Value::Null));
        assert_eq!(get("/v1/weft/policy?traffic=Not+a+name").0, 400);
    }

    #[test]
    fn nothing_is_told_where_nothing_is_stated() {
        let none = TrafficPolicies::new(BTreeMap::new());
        let directory = Directory { traffic: Arc::new(none), ..specimen::directory() };
        let told = with_view(&directory, |view| serde_json::to_value(list(view)).unwrap());
        assert_eq!(told, json!([]));
    }
}
