//! What each path is answered with, key by key against Consul's API documentation (v1.20, `/api-docs`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::api::specimen::{directory, settings};
use crate::model::{Directory, Freshness, NodeId, ServiceId};

fn asked_of(directory: &Directory, method: Method, target: &str) -> Outcome {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let output = |service: &ServiceId, check: &str| Some(format!("output of {check} of {service}"));
    let view = View { directory, settings: &settings(), output: &output };
    route(&Asked::new(method, path, query), &view)
}

fn answer(method: Method, target: &str) -> Answer {
    match asked_of(&directory(), method, target) {
        Outcome::Answer(answer) => answer,
        other => panic!("{target} gave {other:?}"),
    }
}

fn get(target: &str) -> Value {
    let answer = answer(Method::GET, target);
    assert_eq!(answer.status, StatusCode::OK, "{target}");
    serde_json::from_slice(&answer.body).unwrap()
}

fn status(target: &str) -> u16 {
    answer(Method::GET, target).status.as_u16()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn assert_has(value: &Value, documented: &[&str]) {
    for key in documented {
        assert!(keys(value).contains(key), "{key} is missing in {value}");
    }
}

fn nodes_of(list: &Value, pointer: &str) -> Vec<String> {
    let names =
        list.as_array().unwrap().iter().map(|entry| entry.pointer(pointer).unwrap().as_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn members_have_serfs_keys_and_numbers_and_wefts_own_object() {
    let members = get("/v1/agent/members");
    let documented = ["Name", "Addr", "Port", "Tags", "Status", "ProtocolMin", "ProtocolMax", "ProtocolCur"];
    assert_has(&members[0], &documented);
    assert_has(&members[0], &["DelegateMin", "DelegateMax", "DelegateCur"]);
    assert_eq!(nodes_of(&members, "/Name"), ["db-01", "dead-01", "old-01", "web-01", "web-02"]);
    let numbers: Vec<u64> = members.as_array().unwrap().iter().map(|m| m["Status"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 4, 3, 1, 1], "alive, failed, left, alive, and a suspect is alive");
    assert_eq!(members[3]["Port"], 7946);
    let weft = &members[0]["Weft"];
    assert_eq!(
        (&weft["state"], &weft["mesh_reachable"], &weft["zone"]),
        (&json!("alive"), &json!(false), &json!("eu-1a"))
    );
    assert_eq!(weft["id"], "03".repeat(16));
}

#[test]
fn the_agent_tells_of_itself() {
    let told = get("/v1/agent/self");
    assert_has(&told, &["Config", "Member", "Meta"]);
    assert_has(&told["Config"], &["Datacenter", "NodeName", "NodeID", "Server", "Revision", "Version"]);
    assert_eq!((&told["Config"]["Datacenter"], &told["Config"]["NodeName"]), (&json!("prod"), &json!("web-01")));
    assert_eq!(told["Member"]["Weft"]["local"], true);
}

#[test]
fn an_agent_that_knows_of_nobody_yet_still_answers() {
    let empty = Directory::empty(NodeId([1; 16]));
    for target in ["/v1/agent/self", "/v1/status/leader", "/v1/catalog/nodes", "/v1/weft/status"] {
        let Outcome::Answer(answer) = asked_of(&empty, Method::GET, target) else { panic!("{target}") };
        assert_eq!(answer.status, StatusCode::OK, "{target}");
    }
}

#[test]
fn an_agents_services_are_this_hosts_only() {
    let services = get("/v1/agent/services");
    assert_eq!(keys(&services), BTreeSet::from(["billing"]));
    let documented =
        ["ID", "Service", "Tags", "Meta", "Port", "Address", "TaggedAddresses", "Weights", "EnableTagOverride"];
    assert_has(&services["billing"], &documented);
}

#[test]
fn the_catalog_lists_services_with_their_tags_and_forgets_hosts_that_left() {
    assert_eq!(get("/v1/catalog/services"), json!({ "billing": ["traefik.enable=true", "v1", "v2"] }));
    assert_eq!(get("/v1/catalog/service/legacy"), json!([]));
    assert_eq!(nodes_of(&get("/v1/catalog/nodes"), "/Node"), ["db-01", "dead-01", "web-01", "web-02"]);
}

#[test]
fn a_service_in_the_catalog_has_consuls_keys() {
    let entries = get("/v1/catalog/service/billing");
    let documented = [
        "ID",
        "Node",
        "Address",
        "Datacenter",
        "TaggedAddresses",
        "NodeMeta",
        "ServiceID",
        "ServiceName",
        "ServiceTags",
        "ServiceAddress",
        "ServiceTaggedAddresses",
        "ServiceWeights",
        "ServiceMeta",
        "ServicePort",
        "ServiceEnableTagOverride",
        "CreateIndex",
        "ModifyIndex",
    ];
    assert_has(&entries[0], &documented);
    let entry = &entries[0];
    assert_eq!(
        (&entry["Address"], &entry["ServiceAddress"], &entry["ServicePort"]),
        (&json!("10.0.0.1"), &json!(""), &json!(8080))
    );
    assert_eq!(entry["ServiceTaggedAddresses"]["virtual"], json!({ "Address": "127.64.0.1", "Port": 8080 }));
}

#[test]
fn tags_and_node_metadata_narrow_a_list_and_all_must_match() {
    assert_eq!(nodes_of(&get("/v1/catalog/service/billing?tag=v2"), "/Node"), ["web-01", "db-01", "dead-01"]);
    let both = get("/v1/catalog/service/billing?tag=v2&tag=traefik.enable%3Dtrue");
    assert_eq!(nodes_of(&both, "/Node"), ["web-01"]);
    assert_eq!(nodes_of(&get("/v1/catalog/nodes?node-meta=rack:r2"), "/Node"), ["web-02"]);
    assert_eq!(get("/v1/catalog/service/billing?tag=none"), json!([]));
}

#[test]
fn health_has_consuls_keys_and_the_output_of_local_checks_only() {
    let entries = get("/v1/health/service/billing");
    assert_eq!(nodes_of(&entries, "/Node/Node"), ["web-01", "web-02", "db-01", "dead-01"]);
    assert_eq!(keys(&entries[0]), BTreeSet::from(["Checks", "Node", "Service"]));
    assert_has(&entries[0]["Node"], &["ID", "Node", "Address", "Datacenter", "TaggedAddresses", "Meta"]);
    assert_has(&entries[0]["Service"], &["ID", "Service", "Tags", "Address", "Meta", "Port", "Weights"]);
    let documented =
        ["Node", "CheckID", "Name", "Status", "Notes", "Output", "ServiceID", "ServiceName", "ServiceTags", "Type"];
    assert_has(&entries[0]["Checks"][0], &documented);
    let checks = |entry: usize| nodes_of(&entries[entry]["Checks"], "/CheckID");
    assert_eq!(checks(0), ["serfHealth", "service:billing"]);
    assert_eq!(entries[0]["Checks"][1]["Output"], "output of service:billing of billing");
    assert_eq!(entries[1]["Checks"][1]["Output"], "", "another host's");
    assert_eq!(checks(2), ["serfHealth", "weftMesh"]);
    assert_eq!(entries[3]["Checks"][0]["Status"], "critical");
}

#[test]
fn passing_lists_only_instances_all_of_whose_checks_pass() {
    for target in ["/v1/health/service/billing?passing", "/v1/health/service/billing?passing=1&tag=v2"] {
        assert_eq!(nodes_of(&get(target), "/Node/Node"), ["web-01"], "{target}");
    }
    assert_eq!(nodes_of(&get("/v1/health/service/billing?passing=false"), "/Node/Node").len(), 4);
    assert_eq!(status("/v1/health/service/billing?passing=perhaps"), 400);
    assert_eq!(get("/v1/health/service/unheard-of?passing"), json!([]));
}

#[test]
fn every_agent_is_its_own_leader() {
    assert_eq!(get("/v1/status/leader"), json!("10.0.0.1:7946"));
    assert_eq!(get("/v1/status/peers"), json!(["10.0.0.1:7946"]));
}

#[test]
fn what_weft_does_not_keep_is_501_with_a_sentence_never_404() {
    for path in ["/v1/kv/lock", "/v1/session/create", "/v1/txn", "/v1/query", "/v1/acl/login"] {
        for method in [Method::GET, Method::PUT] {
            let answer = answer(method, path);
            assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{path}");
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(body["error"].as_str().unwrap().contains("Weft"), "{body}");
        }
    }
    assert_eq!(status("/v1/health/service/billing?filter=Checks.Status==passing"), 501);
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405_with_the_right_ones() {
    for path in ["/", "/v1", "/v2/agent/self", "/v1/agent/self/x", "/v1/catalog/service/", "//v1/agent/self"] {
        assert_eq!(status(path), 404, "{path}");
    }
    let refused = answer(Method::POST, "/v1/agent/self");
    assert_eq!((refused.status.as_u16(), refused.allow), (405, Some("GET, HEAD")));
    assert_eq!(answer(Method::DELETE, "/metrics").status.as_u16(), 405);
    let leave = answer(Method::GET, "/v1/agent/leave");
    assert_eq!((leave.status.as_u16(), leave.allow), (405, Some("PUT")));
    assert_eq!(asked_of(&directory(), Method::PUT, "/v1/agent/leave"), Outcome::Leave);
    assert_eq!(asked_of(&directory(), Method::GET, "/metrics"), Outcome::Metrics);
}

#[test]
fn another_datacenter_is_refused_in_consuls_words() {
    assert_eq!(status("/v1/catalog/nodes?dc=prod"), 200);
    let refused = answer(Method::GET, "/v1/catalog/nodes?dc=elsewhere");
    assert_eq!(refused.status.as_u16(), 500);
    assert!(String::from_utf8(refused.body).unwrap().contains("No path to datacenter"));
}

#[test]
fn the_status_counts_members_and_usable_instances() {
    let told = get("/v1/weft/status");
    assert_eq!(told["members"], json!({ "alive": 2, "suspect": 1, "left": 1, "failed": 1 }));
    assert_eq!((&told["members_unreachable"], &told["freshness"]), (&json!(1), &json!("live")));
    assert_eq!((&told["instances"], &told["instances_usable"]), (&json!(5), &json!(1)));
    let stale = Directory { freshness: Freshness::Stale, ..directory() };
    let Outcome::Answer(answer) = asked_of(&stale, Method::GET, "/v1/weft/status") else { panic!() };
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(told["freshness"], "stale");
}

#[test]
fn a_name_resolves_to_its_vip_and_says_why_an_instance_takes_no_calls() {
    let told = get("/v1/weft/resolve?name=billing.mesh.internal.");
    assert_eq!((&told["name"], &told["kind"]), (&json!("billing.mesh.internal"), &json!("vip")));
    assert_eq!((&told["vip"], &told["ports"]), (&json!("127.64.0.1"), &json!([8080, 80])));
    assert_eq!(nodes_of(&told["instances"], "/node"), ["web-01", "web-02", "db-01", "dead-01"]);
    let reasons: Vec<&Value> = told["instances"].as_array().unwrap().iter().map(|entry| &entry["reason"]).collect();
    assert_eq!(reasons[0], &Value::Null);
    assert_eq!(reasons[1], "critical: service:billing");
    assert_eq!(reasons[2], "the mesh port of its host, 10.0.0.3:7947, does not answer this host");
    assert_eq!(reasons[3], "its host has failed");
}

#[test]
fn an_instance_is_called_usable_exactly_where_the_directory_calls_it_a_candidate() {
    let directory = directory();
    for service in directory.services.values() {
        for tag in [None, Some(&crate::model::Tag::parse("v2").unwrap())] {
            let candidates = service.candidates(tag).count();
            let view = crate::api::own::service_view(&directory, service, tag);
            assert_eq!(view.instances.iter().filter(|instance| instance.usable()).count(), candidates);
        }
    }
}

#[test]
fn tagged_plain_and_node_names_resolve_too() {
    let tagged = get("/v1/weft/resolve?name=V2.billing");
    assert_eq!((&tagged["vip"], &tagged["tag"]), (&json!("127.64.1.1"), &json!("v2")));
    assert!(tagged["instances"][1]["reason"].as_str().is_some());
    let plain = get("/v1/weft/resolve?name=billing.service");
    assert_eq!((&plain["kind"], &plain["vip"]), (&json!("addresses"), &Value::Null));
    assert_eq!(get("/v1/weft/resolve?name=web-02.node")["node"]["address"], "10.0.0.2");
}

#[test]
fn a_name_that_stands_for_nothing_is_404_and_one_that_is_none_400() {
    for name in ["nothing", "v9.billing", "nobody.node", "v9.billing.service"] {
        assert_eq!(status(&format!("/v1/weft/resolve?name={name}")), 404, "{name}");
    }
    assert_eq!(status("/v1/weft/resolve?name=a.b.c.d"), 400);
    assert_eq!(status("/v1/weft/resolve"), 400);
}
