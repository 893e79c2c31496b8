//! What each path is answered with, key by key against Consul's API documentation (v1.20, `/api-docs`).

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::{Value, json};

use super::*;
use crate::api::specimen::{directory, with_view};
use crate::model::{CheckStatus, Directory, Freshness, Node, NodeId};

fn asked_of(directory: &Directory, method: Method, target: &str) -> Outcome {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    with_view(directory, |view| route(&Asked::new(method, path, query, false), view))
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
fn members_tell_which_versions_of_the_protocol_they_speak() {
    let member = &get("/v1/agent/members")[0];
    let tags = &member["Tags"];
    assert_eq!((&tags["vsn"], &tags["vsn_min"], &tags["vsn_max"]), (&json!("2"), &json!("1"), &json!("3")));
    assert_eq!((&member["ProtocolCur"], &member["ProtocolMax"]), (&json!(2), &json!(3)));
    assert_eq!((&member["Weft"]["protocol"], &member["Weft"]["protocol_max"]), (&json!(2), &json!(3)));
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
    assert_eq!(keys(&services), BTreeSet::from(["billing", "billing-2", "worker"]), "announced or not");
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
    assert_eq!(entries[0]["Checks"][1]["Output"], "output of service:billing");
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
    for path in ["/v1/catalog/register", "/v1/catalog/deregister", "/v1/agent/host", "/v1/health/connect/billing"] {
        assert_eq!(answer(Method::PUT, path).status, StatusCode::NOT_IMPLEMENTED, "{path}");
    }
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405_with_the_right_ones() {
    for path in ["/", "/v1", "/v2/agent/self", "/v1/agent/self/x", "/v1/catalog/service/", "//v1/agent/self"] {
        assert_eq!(status(path), 404, "{path}");
    }
    let refused = answer(Method::POST, "/v1/agent/self");
    assert_eq!((refused.status.as_u16(), refused.allow), (405, Some("GET, HEAD")));
    assert_eq!(answer(Method::DELETE, "/metrics").status.as_u16(), 405);
    let metrics = |target| asked_of(&directory(), Method::GET, target);
    assert_eq!(metrics("/metrics"), Outcome::Metrics(MetricsForm::OpenMetrics));
    assert_eq!(metrics("/v1/agent/metrics"), Outcome::Metrics(MetricsForm::Consul { pretty: false }));
    assert_eq!(metrics("/v1/agent/metrics?format=prometheus"), Outcome::Metrics(MetricsForm::Prometheus));
}

#[test]
fn another_datacenter_is_refused_in_consuls_words() {
    assert_eq!(status("/v1/catalog/nodes?dc=prod"), 200);
    let refused = answer(Method::GET, "/v1/catalog/nodes?dc=elsewhere");
    assert_eq!(refused.status.as_u16(), 500);
    assert!(String::from_utf8(refused.body).unwrap().contains("No path to datacenter"));
}

#[test]
fn a_filter_keeps_the_elements_that_it_holds_for() {
    let named = |target: &str| nodes_of(&get(target), "/Node/Node");
    assert_eq!(named("/v1/health/service/billing?filter=Node.Meta.rack+==+r2"), ["web-02"]);
    assert_eq!(named("/v1/health/service/billing?filter=Checks.Status+==+critical&passing"), [""; 0]);
    assert_eq!(named("/v1/weft/watch?name=billing&filter=v1+in+Service.Tags"), ["web-02"]);
    let own = get("/v1/agent/services?filter=Service+==+worker");
    assert_eq!(keys(&own), BTreeSet::from(["worker"]));
    let checks = get("/v1/agent/checks?filter=Status+!=+passing");
    assert_eq!(keys(&checks), BTreeSet::from(["service:billing-2", "service:worker"]));
    assert_eq!(get("/v1/catalog/services?filter=ServicePort+==+1"), json!({}));
    let here = get("/v1/catalog/node/web-01?filter=Port+==+1");
    assert_eq!((&here["Node"]["Node"], &here["Services"]), (&json!("web-01"), &json!({})));
    assert_eq!(nodes_of(&get("/v1/agent/members?filter=Status+==+4"), "/Name"), ["dead-01"]);
    assert_eq!(nodes_of(&get("/v1/catalog/nodes?filter=Meta.rack+!=+r2"), "/Node"), ["db-01", "dead-01", "web-01"]);
    for wrong in ["Nothing+==+1", "Service.ID+matches+x", "(("] {
        assert_eq!(status(&format!("/v1/health/service/billing?filter={wrong}")), 400, "{wrong}");
    }
}

#[test]
fn near_puts_the_node_first_then_its_zone_then_the_rest() {
    let mut directory = directory();
    let moved = |zone: &str, node: &Node| {
        let mut node = node.clone();
        node.facts.zone = zone.into();
        std::sync::Arc::new(node)
    };
    let mut billing = (*directory.services["billing"]).clone();
    for (node, _) in &mut billing.instances {
        let zone = if node.facts.name.as_str() == "web-01" { "eu-1b" } else { "eu-1a" };
        *node = moved(zone, node);
        directory.nodes.insert(node.id, node.clone());
    }
    directory.services.insert(billing.name.clone(), std::sync::Arc::new(billing));
    let order = |near: &str| {
        let target = format!("/v1/health/service/billing?near={near}");
        let Outcome::Answer(answer) = asked_of(&directory, Method::GET, &target) else { panic!() };
        nodes_of(&serde_json::from_slice(&answer.body).unwrap(), "/Node/Node")
    };
    assert_eq!(order("db-01"), ["db-01", "web-02", "dead-01", "web-01"]);
    assert_eq!(order("_agent"), ["web-01", "web-02", "db-01", "dead-01"]);
    assert_eq!(order("nobody"), ["web-01", "web-02", "db-01", "dead-01"]);
}

#[test]
fn a_nodes_checks_are_its_own_and_its_services() {
    let ids = |target: &str| nodes_of(&get(target), "/CheckID");
    assert_eq!(ids("/v1/health/node/web-02"), ["serfHealth", "service:billing"]);
    assert_eq!(ids(&format!("/v1/health/node/{}", "03".repeat(16))), ["serfHealth", "weftMesh"]);
    assert_eq!(get("/v1/health/node/old-01"), json!([]), "it left");
    assert_eq!(ids("/v1/health/checks/billing"), ["service:billing", "service:billing"]);
    assert_eq!(ids("/v1/health/state/critical"), ["weftMesh", "serfHealth", "service:billing"]);
    assert_eq!(get("/v1/health/state/warning"), json!([]));
    assert_eq!(status("/v1/health/state/sad"), 400);
    assert_eq!(get("/v1/catalog/node/nobody"), Value::Null);
    assert_eq!(get("/v1/catalog/node-services/nobody"), json!({ "Node": null, "Services": [] }));
}

#[test]
fn a_hosts_own_checks_are_told_and_count_for_its_instances() {
    let mut directory = directory();
    let mut node = (*directory.nodes[&directory.local]).clone();
    node.facts.checks.push(CheckStatus {
        id: "_node_maintenance".into(),
        name: "Node Maintenance Mode".into(),
        kind: "maintenance".into(),
        health: Health::Critical,
    });
    let node = std::sync::Arc::new(node);
    let mut billing = (*directory.services["billing"]).clone();
    billing.instances[0].0 = node.clone();
    directory.nodes.insert(node.id, node);
    directory.services.insert(billing.name.clone(), std::sync::Arc::new(billing));
    let of = |target: &str| -> Value {
        let Outcome::Answer(answer) = asked_of(&directory, Method::GET, target) else { panic!() };
        serde_json::from_slice(&answer.body).unwrap()
    };
    assert_eq!(nodes_of(&of("/v1/health/node/web-01"), "/CheckID")[1], "_node_maintenance");
    assert_eq!(of("/v1/health/service/billing?passing"), json!([]));
    assert_eq!(of("/v1/weft/services?name=billing")[0]["instances"][0]["reason"], "critical: _node_maintenance");
}

#[test]
fn a_local_check_tells_what_it_does_but_no_secret() {
    let checks = get("/v1/agent/checks");
    let billing = &checks["service:billing"];
    assert_eq!((&billing["Interval"], &billing["Notes"]), (&json!("10s"), &json!("ask the pay team")));
    assert_eq!(billing["Definition"]["HTTP"], "http://127.0.0.1:8080/health");
    assert_eq!(billing["Definition"]["DeregisterCriticalServiceAfter"], "1h30m0s");
    assert_eq!(billing["Definition"]["Header"], json!({ "Authorization": ["(not shown)"] }));
    assert!(!checks.to_string().contains("secret"), "{checks}");
    assert_eq!(checks["service:billing-2"]["Definition"]["TTL"], "30s");
    assert_eq!(checks["service:worker"]["Definition"]["TCP"], "[::1]:9");
}

#[test]
fn the_health_of_a_local_service_is_a_status_code_and_a_word() {
    let text = |target: &str| {
        let answer = answer(Method::GET, target);
        (answer.status.as_u16(), answer.content_type, String::from_utf8(answer.body).unwrap())
    };
    let plain = "text/plain; charset=utf-8";
    assert_eq!(text("/v1/agent/health/service/id/billing?format=text"), (200, plain, "passing".into()));
    assert_eq!(text("/v1/agent/health/service/name/billing?format=text"), (429, plain, "warning".into()));
    assert_eq!(text("/v1/agent/health/service/id/worker?format=text"), (503, plain, "critical".into()));
    let missing = text("/v1/agent/health/service/id/nothing?format=text");
    assert_eq!(missing, (404, plain, "ServiceId nothing not found".into()));
    assert_eq!(text("/v1/agent/service/nothing"), (404, plain, "unknown service ID: nothing".into()));
    let answer = answer(Method::GET, "/v1/agent/service/worker");
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["ContentHash"].as_str(), answer.content_hash.as_deref());
}

#[test]
fn indexes_are_each_resources_own() {
    assert_eq!(get("/v1/catalog/nodes")[0]["ModifyIndex"], 40);
    let entry = &get("/v1/health/service/billing")[0];
    assert_eq!((&entry["Node"]["ModifyIndex"], &entry["Service"]["ModifyIndex"]), (&json!(40), &json!(41)));
    assert_eq!((&entry["Checks"][0]["ModifyIndex"], &entry["Checks"][1]["ModifyIndex"]), (&json!(40), &json!(41)));
}

#[test]
fn conflicting_consistency_is_refused_and_either_alone_is_taken() {
    assert_eq!(status("/v1/catalog/nodes?stale&consistent"), 400);
    for alone in ["stale", "consistent", "cached"] {
        assert_eq!(status(&format!("/v1/catalog/nodes?{alone}")), 200);
    }
}

#[test]
fn a_call_is_explained_from_its_name_to_the_chosen_instance() {
    let told = get("/v1/weft/explain?name=billing");
    assert_eq!(
        (&told["service"], &told["vip"], &told["capture"]),
        (&json!("billing"), &json!("127.64.0.1"), &json!("redirect"))
    );
    let first = &told["candidates"][0];
    assert_eq!((&first["node"], &first["usable"], &first["local"]), (&json!("web-01"), &json!(true), &json!(true)));
    assert_eq!((&first["ewma_us"], &first["in_flight"], &first["score"]), (&json!(500), &json!(2), &json!(1500)));
    assert_eq!((&first["chance"], &first["weight"]), (&json!(1.0), &json!(1)));
    assert_eq!(told["chosen"]["node"], "web-01");
    assert_eq!(told["candidates"][1]["usable"], false);
    let tagged = get("/v1/weft/explain?name=v2.billing.mesh.internal");
    assert_eq!((&tagged["tag"], &tagged["vip"]), (&json!("v2"), &json!("127.64.1.1")));
    assert_eq!(get("/v1/weft/explain?name=legacy")["chosen"], Value::Null, "its host has left");
    assert_eq!(get("/v1/weft/explain?name=billing&tag=v2")["tag"], "v2");
    assert_eq!((status("/v1/weft/explain"), status("/v1/weft/explain?name=nothing")), (400, 404));
    assert_eq!(status("/v1/weft/explain?name=web-01.node"), 400);
}

#[test]
fn traffic_is_told_as_it_was_counted() {
    let told = get("/v1/weft/traffic");
    assert_eq!((&told["seconds"], &told["edges"][0]["direction"]), (&json!(12.5), &json!("out")));
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
fn the_status_names_records_in_quarantine_by_their_host_if_it_is_known() {
    let told = get("/v1/weft/status");
    let listed = told["quarantined"].as_array().unwrap();
    let expected = json!({ "node": "db-01", "id": "03".repeat(16), "version": "3.7", "hash": "5e".repeat(16),
        "reason": "judging it ended in a panic" });
    assert_eq!(listed[0], expected);
    assert_eq!((listed.len(), &listed[1]["node"], &listed[1]["id"]), (2, &Value::Null, &json!("ee".repeat(16))));
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
