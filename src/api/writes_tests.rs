//! Which request is which command, and what is refused before anything changes.

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;

fn put(target: &str) -> Option<Result<Write, Answer>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    decide(&Asked::new(Method::PUT, path, query, false))
}

#[track_caller]
fn accepted(target: &str) -> Write {
    put(target).unwrap_or_else(|| panic!("{target} writes nothing")).unwrap_or_else(|answer| panic!("{answer:?}"))
}

#[track_caller]
fn refusal(target: &str) -> (u16, String) {
    let answer = put(target).unwrap_or_else(|| panic!("{target} writes nothing")).unwrap_err();
    (answer.status.as_u16(), String::from_utf8(answer.body).unwrap())
}

fn id(id: &str) -> ServiceId {
    ServiceId::parse(id).unwrap()
}

#[test]
fn each_path_is_its_command() {
    assert_eq!(accepted("/v1/agent/leave"), Write::Leave);
    assert_eq!(accepted("/v1/agent/reload"), Write::Reload);
    assert_eq!(accepted("/v1/agent/service/register"), Write::Register { replace_checks: false });
    let replacing = accepted("/v1/agent/service/register?replace-existing-checks");
    assert_eq!(replacing, Write::Register { replace_checks: true });
    assert_eq!(accepted("/v1/agent/service/deregister/web"), Write::Deregister(id("web")));
    assert_eq!(accepted("/v1/agent/service/deregister/a/b%20c"), Write::Deregister(id("a/b c")));
    assert_eq!(accepted("/v1/agent/check/register"), Write::RegisterCheck);
    assert_eq!(accepted("/v1/agent/check/deregister/service:web:1"), Write::DeregisterCheck("service:web:1".into()));
    let reports = [("pass", Health::Passing), ("warn", Health::Warning), ("fail", Health::Critical)];
    for (word, health) in reports {
        let write = accepted(&format!("/v1/agent/check/{word}/c?note=all+well"));
        assert_eq!(write, Write::Report { id: "c".into(), health, output: "all well".into() });
    }
    assert_eq!(accepted("/v1/agent/check/update/c"), Write::UpdateCheck("c".into()));
    assert_eq!(
        accepted("/v1/agent/force-leave/web-02?prune"),
        Write::ForceLeave { node: NodeName::parse("web-02").unwrap(), prune: true }
    );
    assert!(put("/v1/agent/self").is_none() && put("/v1/catalog/register").is_none());
}

#[test]
fn maintenance_needs_to_be_told_on_or_off() {
    let on = accepted("/v1/agent/service/maintenance/web?enable=true&reason=new+disk");
    assert_eq!(on, Write::Maintain { service: Some(id("web")), reason: Some("new disk".into()) });
    assert_eq!(accepted("/v1/agent/maintenance?enable=false"), Write::Maintain { service: None, reason: None });
    let Write::Maintain { reason: Some(default), .. } = accepted("/v1/agent/maintenance?enable=1") else { panic!() };
    assert!(default.contains("no reason was provided"), "{default}");
    assert!(refusal("/v1/agent/maintenance").1.contains("Missing value for enable"));
    assert!(refusal("/v1/agent/maintenance?enable=perhaps").1.contains("Invalid value for enable"));
    assert_eq!(refusal(&format!("/v1/agent/maintenance?enable=1&reason={}", "x".repeat(2000))).0, 400);
}

#[test]
fn an_address_to_join_gets_the_gossip_port_if_it_has_none() {
    for (given, joined) in [
        ("10.0.0.1", "10.0.0.1:7946"),
        ("10.0.0.1:17946", "10.0.0.1:17946"),
        ("web-02.example", "web-02.example:7946"),
        ("web-02:7946", "web-02:7946"),
        ("::1", "[::1]:7946"),
        ("%5B::1%5D:7946", "[::1]:7946"),
        ("%5B::1%5D", "[::1]:7946"),
    ] {
        assert_eq!(accepted(&format!("/v1/agent/join/{given}")), Write::Join(joined.into()), "{given}");
    }
    for wrong in ["a:b:c", "host:0", "host:99999", ":7946", "a%20b", "%5B::1", ""] {
        assert_eq!(refusal(&format!("/v1/agent/join/{wrong}/")).0, 400, "{wrong}");
    }
    assert!(refusal("/v1/agent/join/10.0.0.1?wan=true").1.contains("WAN"));
}

#[test]
fn only_put_writes() {
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let asked = Asked::new(method, "/v1/agent/service/deregister/web", "", false);
        let answer = decide(&asked).unwrap().unwrap_err();
        assert_eq!((answer.status.as_u16(), answer.allow), (405, Some("PUT")));
    }
}

#[test]
fn what_is_missing_or_malformed_is_said() {
    assert!(refusal("/v1/agent/service/deregister").1.contains("Missing service ID"));
    assert!(refusal("/v1/agent/check/pass").1.contains("Missing check ID"));
    assert!(refusal("/v1/agent/service/register?replace-existing-checks=perhaps").1.contains("no boolean"));
    assert_eq!(refusal("/v1/agent/force-leave/NOT%20A%20NAME").0, 400);
}

#[test]
fn a_report_in_json_is_read_in_any_case_and_capped() {
    let read = |text: &str| read_update(text.as_bytes());
    let passing = read(r#"{"status":"passing","OUTPUT":"fine","More":1}"#);
    assert_eq!(passing, Ok((Health::Passing, "fine".into())));
    assert_eq!(read(r#"{"Status":"critical","Output":null}"#), Ok((Health::Critical, String::new())));
    let long = format!(r#"{{"Status":"warning","Output":"{}"}}"#, "é".repeat(4096));
    assert_eq!(read(&long).unwrap().1.len(), OUTPUT_BYTES_MAX);
    for (wrong, what) in [
        (r#"{"Status":"great"}"#, "Invalid check status: 'great'"),
        ("{}", "Invalid check status"),
        (r#"{"Status":1}"#, "Status is no string"),
        ("[]", "no JSON object"),
        ("", "decode failed"),
    ] {
        assert!(read(wrong).unwrap_err().contains(what), "{wrong}");
    }
}

#[test]
fn a_body_that_is_no_registration_is_refused_before_the_agent_hears_of_it() {
    for write in [Write::Register { replace_checks: false }, Write::RegisterCheck, Write::UpdateCheck("c".into())] {
        let answer = write.command(Bytes::from_static(b"{"), oneshot::channel().0).unwrap_err();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn each_refusal_has_its_status() {
    let status = |refusal| refused(&refusal).status.as_u16();
    assert_eq!(status(Refused::NotFound("x".into())), 404);
    assert_eq!(status(Refused::Invalid("x".into())), 400);
    assert_eq!(status(Refused::NotGranted("x".into())), 403);
    assert_eq!(status(Refused::Failed("x".into())), 500);
}

proptest! {
    #[test]
    fn no_path_and_no_body_panics(path in "/v1/agent/[a-z:%/?=&.\\[\\]-]{0,60}", body in "\\PC{0,60}") {
        let _ = put(&path);
        let _ = read_update(body.as_bytes());
    }
}
