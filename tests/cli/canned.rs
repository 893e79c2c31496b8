//! What the agents of these tests answer: a cluster of four hosts in which something is wrong, and one in which nothing is.

pub(crate) const STATUS: &str = r#"{"node":"web-01","id":"01010101","cluster":"prod","domain":"mesh.internal","version":"0.1.0",
    "freshness":"live","index":42,"members":{"alive":3,"failed":1},"members_unreachable":1,"services":2,"instances":4,
    "instances_usable":1,"certificate":{"not_after":"2026-12-01T00:00:00Z","expires_in_seconds":529500}}"#;

fn member(number: u8, name: &str, state: &str, reachable: bool) -> String {
    format!(
        r#"{{"Name":"{name}","Addr":"10.0.0.{number}","Port":7946,"Tags":{{}},"Status":1,"Weft":{{"id":"{number:02}",
        "state":"{state}","zone":"eu-1a","mesh_reachable":{reachable},"mesh":"10.0.0.{number}:7947","version":"0.1.0",
        "protocol":2,"protocol_max":2,"incarnation":1,"local":{}}}}}"#,
        number == 1
    )
}

pub(crate) fn members() -> String {
    let members = [
        member(1, "web-01", "alive", true),
        member(2, "web-02", "alive", true),
        member(3, "db-01", "alive", false),
        member(4, "old-01", "failed", true),
    ];
    format!("[{}]", members.join(","))
}

pub(crate) fn members_well() -> String {
    format!("[{},{}]", member(1, "web-01", "alive", true), member(2, "web-02", "alive", true))
}

fn instance(number: u8, node: &str, state: &str, health: &str, reason: Option<&str>) -> String {
    let told = reason.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
    format!(
        r#"{{"node":"{node}","node_id":"{number:02}","node_state":"{state}","zone":"eu-1a","local":{},"id":"billing",
        "address":"10.0.0.{number}:8080","tags":["v{number}"],"health":"{health}","usable":{},"reason":{told}}}"#,
        number == 1,
        reason.is_none()
    )
}

fn service(name: &str, last: u8, instances: &[String]) -> String {
    format!(
        r#"{{"name":"{name}","vip":"127.64.0.{last}","ports":[8080,80],"protocol":"http","disputed":false,
        "tag_vips":{{"v1":"127.64.1.{last}"}},"instances":[{}]}}"#,
        instances.join(",")
    )
}

pub(crate) fn services() -> String {
    let cut_off = "the mesh port of its host, 10.0.0.3:7947, does not answer this host";
    let billing = [
        instance(1, "web-01", "alive", "passing", None),
        instance(2, "web-02", "alive", "critical", Some("critical: service:billing")),
        instance(3, "db-01", "alive", "passing", Some(cut_off)),
    ];
    let legacy = [instance(4, "old-01", "failed", "critical", Some("its host has failed"))];
    format!("[{},{}]", service("billing", 1, &billing), service("legacy", 2, &legacy))
}

pub(crate) fn services_well() -> String {
    let both = [instance(1, "web-01", "alive", "passing", None), instance(2, "web-02", "alive", "passing", None)];
    format!("[{}]", service("billing", 1, &both))
}

pub(crate) const CHECKS: &str = r#"{
    "service:billing":{"Node":"web-01","CheckID":"service:billing","Name":"billing answers","Status":"passing","Notes":"",
        "Output":"HTTP GET http://127.0.0.1:8080/health: 200 OK","ServiceID":"billing","ServiceName":"billing",
        "ServiceTags":[],"Type":"http"},
    "disk":{"Node":"web-01","CheckID":"disk","Name":"room on /","Status":"critical","Notes":"",
        "Output":"DISK CRITICAL - 1% free\n/dev/sda1 99%\n","ServiceID":"","ServiceName":"","ServiceTags":[],"Type":"ttl"},
    "_service_maintenance:billing":{"Node":"web-01","CheckID":"_service_maintenance:billing","Name":"Service Maintenance Mode",
        "Status":"critical","Notes":"schema change","Output":"","ServiceID":"billing","ServiceName":"billing",
        "ServiceTags":[],"Type":"maintenance"}}"#;

pub(crate) const CHECKS_WELL: &str = "{}";

pub(crate) const EXPLAIN: &str = r#"{"name":"billing.mesh.internal","service":"billing","tag":null,"vip":"127.64.0.1",
    "ports":[8080,80],"protocol":"http","freshness":"live","capture":"redirect","candidates":[
    {"node":"web-02","node_id":"02","instance":"billing","address":"10.0.0.2:8080","zone":"eu-1a","local":false,
     "health":"passing","weight":1,"usable":true,"reason":null,"ewma_us":1250,"in_flight":2,"score":3750,"chance":0.75,
     "certificate":{"spiffe_id":"spiffe://prod/node/web-02","not_after":"2026-12-01T00:00:00Z","expires_in_seconds":529500}},
    {"node":"web-01","node_id":"01","instance":"billing","address":"10.0.0.1:8080","zone":"eu-1a","local":true,
     "health":"warning","weight":1,"usable":true,"reason":null,"ewma_us":0,"in_flight":0,"score":5000,"chance":0.25,
     "certificate":{"spiffe_id":"spiffe://prod/node/web-01","not_after":"2026-12-01T00:00:00Z","expires_in_seconds":-5}},
    {"node":"db-01","node_id":"03","instance":"billing","address":"10.0.0.3:8080","zone":"eu-1b","local":false,
     "health":"critical","weight":1,"usable":false,"reason":"critical: service:billing","ewma_us":0,"in_flight":0,
     "score":null,"chance":0,"certificate":null}],
    "pressure":{"service":"billing","under_way":3,"limit":4096,"retries_left":12,"refused":0,"retries":7,"retries_refused":1},
    "chosen":{"node":"web-02","instance":"billing","why":"its score is the lowest"}}"#;

pub(crate) const EXPLAIN_NOWHERE: &str = r#"{"name":"v9.legacy.mesh.internal","service":"legacy","tag":"v9","vip":"127.64.0.2",
    "ports":[9000],"protocol":"tcp","freshness":"live","capture":null,"candidates":[
    {"node":"old-01","node_id":"04","instance":"legacy","address":"10.0.0.4:9000","zone":"","local":false,
     "health":"critical","weight":1,"usable":false,"reason":"its host has failed","ewma_us":0,"in_flight":0,"score":0,
     "chance":0.0,"certificate":null}],"chosen":null}"#;

fn edge(direction: &str, caller: &str, node: &str, codes: [u64; 6], latency: [u64; 18]) -> String {
    format!(
        r#"{{"direction":"{direction}","caller":"{caller}","node":"{node}","service":"billing","instance":"billing",
        "protocol":"http","codes":{codes:?},"in_flight":3,"retries":{},"latency":{latency:?},"latency_sum_us":1,
        "ewma_us":900,"ejected_for_ms":0}}"#,
        codes[0]
    )
}

/// Totals after `seconds`, in which a hundred calls a second went out and ten came in.
pub(crate) fn traffic(seconds: u64) -> String {
    let latency = |number: u64| [0, 0, number, number, 0, number / 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let out = edge("out", "web-01", "web-02", [0, 0, 95 * seconds, 0, 4 * seconds, seconds], latency(40 * seconds));
    let nowhere = edge("out", "web-01", "", [seconds, 0, 0, 0, 0, 0], latency(0));
    let inward = edge("in", "db-01", "web-01", [0, 0, 10 * seconds, 0, 0, 0], latency(4 * seconds));
    let pressures = r#"[{"service":"billing","under_way":3,"limit":4096,"retries_left":12,"refused":0,"retries":7,"retries_refused":1}]"#;
    format!(r#"{{"seconds":{seconds}.0,"edges":[{inward},{out},{nowhere}],"pressures":{pressures}}}"#)
}

pub(crate) fn health(nodes: &[(&str, &str)]) -> String {
    let entry = |(at, (node, status)): (usize, &(&str, &str))| {
        let number = at + 1;
        format!(
            r#"{{"Node":{{"ID":"0{number}","Node":"{node}","Address":"10.0.0.{number}","Datacenter":"prod"}},
            "Service":{{"ID":"billing","Service":"billing","Tags":["v2"],"Address":"","Port":8080,"Meta":{{"team":"pay"}},
            "Weights":{{"Passing":1,"Warning":1}}}},
            "Checks":[{{"Node":"{node}","CheckID":"serfHealth","Name":"Serf Health Status","Status":"passing","Output":"",
            "ServiceID":""}},{{"Node":"{node}","CheckID":"service:billing","Name":"billing answers","Status":"{status}",
            "Output":"","ServiceID":"billing"}}]}}"#
        )
    };
    format!("[{}]", nodes.iter().enumerate().map(entry).collect::<Vec<_>>().join(","))
}

pub(crate) const RESOLVED: &str = r#"{"name":"billing.mesh.internal","kind":"vip","freshness":"live","service":"billing",
    "tag":null,"vip":"127.64.0.1","ports":[8080,80],"protocol":"http","disputed":false,"node":null,"instances":[
    {"node":"web-01","node_id":"01","node_state":"alive","zone":"eu-1a","local":true,"id":"billing",
     "address":"10.0.0.1:8080","tags":[],"health":"passing","usable":true,"reason":null}]}"#;

fn call(direction: &str, method: &str, path: &str, status: u16, more: &str) -> String {
    let mut call = serde_json::json!({
        "time": "2026-01-02T03:04:05.678Z", "direction": direction, "protocol": "HTTP/1.1", "caller": "web",
        "caller_node": "web-01", "service": "billing", "instance": "billing", "node": "web-02", "method": method,
        "path": path, "status": status, "error": "", "rule": "", "tries": 1, "milliseconds": 1.25, "bytes_up": 0,
        "bytes_down": 512,
    });
    let more: serde_json::Value = serde_json::from_str(more).expect("JSON");
    more.as_object().expect("an object").iter().for_each(|(key, value)| call[key] = value.clone());
    format!("{call}\n")
}

/// A request that went well, one that Weft answered itself, one of another host, a connection; and that some were lost.
pub(crate) fn calls() -> String {
    let denied = r#"{"error": "denied", "rule": "deny web -> billing", "caller": "", "bytes_down": null, "tries": 2}"#;
    let tcp = r#"{"protocol": "tcp", "service": "db", "instance": "db", "node": "db-01", "milliseconds": 60250.4, "bytes_up": 93}"#;
    [
        call("out", "GET", "/v1/users", 200, "{}"),
        call("out", "POST", "/v1/\u{1b}[2J", 403, denied),
        "\n{\"lost\":12}\n".to_owned(),
        call("in", "GET", "/", 500, r#"{"protocol": "HTTP/2", "caller_node": "web-03"}"#),
        call("out", "", "", 0, tcp),
    ]
    .concat()
}

/// The keyrings of three hosts, one of which does not answer, in the middle of a rotation.
pub(crate) fn keyring_installing() -> String {
    let report = serde_json::json!({
        "state": "installing",
        "sentence": "a4e61f9b7d20c853 is installed, but not on web-02",
        "next": "weft keyring list, until every host has answered",
        "members": 3,
        "answered": 2,
        "keys": [
            { "fingerprint": "90ab12cd34ef5678", "held": 2, "primary": 2, "lacking": [] },
            { "fingerprint": "a4e61f9b7d20c853", "held": 1, "primary": 0, "lacking": ["web-02"] },
        ],
        "silent": [{ "node": "db-01", "why": "connecting took too long" }],
        "away": ["old-01"],
    });
    report.to_string()
}

pub(crate) const KEYRING_SWITCHED: &str = r#"{"state": "switched",
    "sentence": "a4e61f9b7d20c853 seals on every host that answered; 90ab12cd34ef5678 is still accepted",
    "next": "weft keyring remove 90ab12cd34ef5678", "members": 3, "answered": 3,
    "keys": [{"fingerprint": "a4e61f9b7d20c853", "held": 3, "primary": 3, "lacking": []},
             {"fingerprint": "90ab12cd34ef5678", "held": 3, "primary": 0, "lacking": []}],
    "silent": [], "away": []}"#;
