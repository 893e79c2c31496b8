//! A call by name from one host is answered by another, nobody on the wire can read it, and Weft takes no port from the
//! host's own servers.

use crate::capture::{Capture, contains};
use crate::fleet::Fleet;
use crate::parts;
use crate::process::Process;

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n";

const ASKED: &str = "marker-of-the-question-5417";
const ANSWERED: &str = "marker-of-the-answer-9083";
/// Sent in the clear on purpose: shows that the capture would have seen the others.
const CLEAR: &str = "marker-in-the-clear-2260";

/// The host's own web server, which has nothing to do with the mesh.
fn own_servers(fleet: &Fleet) -> Vec<Process> {
    ["a", "b", "c"].map(|name| parts::nginx(&fleet[name], "own", "0.0.0.0:80", &format!("own {name} {CLEAR}"))).into()
}

fn mesh_servers(fleet: &Fleet) -> Vec<Process> {
    let serve = |name: &str| {
        fleet[name].service("web", WEB);
        parts::nginx(&fleet[name], "web", "127.0.0.1:8081", &format!("{name} {ANSWERED}"))
    };
    ["a", "b"].map(serve).into()
}

/// The host that answered one call from `c`.
#[track_caller]
fn call(fleet: &Fleet) -> String {
    let answer = fleet["c"].curl(&format!("http://web.mesh.internal/{ASKED}")).expect("a call by name");
    let (host, marker) = answer.trim().split_once(' ').expect("host and marker");
    assert_eq!(marker, ANSWERED, "from {host}");
    host.to_owned()
}

#[track_caller]
fn both_hosts_answer_and_own_servers_are_untouched(fleet: &Fleet) {
    let mut answered: Vec<String> = (0..40).map(|_| call(fleet)).collect();
    answered.sort();
    answered.dedup();
    assert_eq!(answered, ["a", "b"]);
    for name in ["a", "b", "c"] {
        let answer = fleet[name].curl("http://127.0.0.1:80/").expect("a call of the host's own server");
        assert_eq!(answer.trim(), format!("own {name} {CLEAR}"));
    }
}

#[track_caller]
fn the_bridge_has_seen_no_plaintext_of_the_mesh(fleet: &Fleet, capture: Capture) {
    fleet["c"].curl("http://10.77.0.1:80/").expect("a call in the clear");
    let captured = capture.stop();
    assert!(contains(&captured, CLEAR), "the capture must show what went in the clear");
    for marker in [ASKED, ANSWERED] {
        assert!(!contains(&captured, marker), "{marker} can be read on the wire");
    }
}

#[test]
fn where_the_hosts_own_servers_took_port_80_before_the_agents_came() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let _own = own_servers(&fleet);
    let _web = mesh_servers(&fleet);
    let capture = Capture::start(&fleet);
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("web", &["a", "b"]);
    both_hosts_answer_and_own_servers_are_untouched(&fleet);
    the_bridge_has_seen_no_plaintext_of_the_mesh(&fleet, capture);
}

#[test]
fn where_the_hosts_own_servers_take_port_80_after_the_agents_came() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let _web = mesh_servers(&fleet);
    let capture = Capture::start(&fleet);
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("web", &["a", "b"]);
    // The service's address is in use before the host's own server comes.
    call(&fleet);
    let _own = own_servers(&fleet);
    both_hosts_answer_and_own_servers_are_untouched(&fleet);
    the_bridge_has_seen_no_plaintext_of_the_mesh(&fleet, capture);
}

#[test]
fn an_unknown_service_address_or_port_is_reset_and_an_unknown_name_does_not_exist() {
    let Some(fleet) = Fleet::raise(&["a"]) else { return };
    fleet["a"].service("web", WEB);
    let _web = parts::nginx(&fleet["a"], "web", "127.0.0.1:8081", &format!("a {ANSWERED}"));
    fleet.mesh(&["a"]);
    fleet["a"].sees_passing("web", &["a"]);
    let answer = fleet["a"].curl("http://web.mesh.internal:8081/").expect("a call of a local instance by name");
    assert_eq!(answer.trim(), format!("a {ANSWERED}"));
    for url in ["http://127.127.255.254/", "http://web.mesh.internal:8082/"] {
        let refused = fleet["a"].curl(url);
        // The reset may come before curl has seen that it is connected.
        let reset = refused.stderr.contains("reset") || refused.stderr.contains("Couldn't connect");
        assert!(!refused.ok && reset, "{url}: {}", refused.stderr);
    }
    let unknown = fleet["a"].curl("http://nobody.mesh.internal/");
    assert!(!unknown.ok && unknown.stderr.contains("resolve host"), "{}", unknown.stderr);
}

#[test]
fn calls_that_follow_each_other_share_warm_connections() {
    const CALLS: u32 = 60;
    let Some(fleet) = Fleet::raise(&["a", "b"]) else { return };
    fleet["a"].service("web", WEB);
    let _web = parts::nginx(&fleet["a"], "web", "127.0.0.1:8081", &format!("a {ANSWERED}"));
    fleet.mesh(&["a", "b"]);
    fleet["b"].sees_passing("web", &["a"]);
    // Half of them are closed by the client first, half by the server: either way the stream ends by two FINs.
    for _ in 0..CALLS / 2 {
        fleet["b"].curl("http://web.mesh.internal/").expect("a call");
        let words = ["-sS", "-H", "Connection: close", "http://web.mesh.internal/"];
        fleet["b"].run("curl", words).expect("a call that the server ends");
    }
    assert!(fleet["b"].metric("weft_proxy_streams_out_total", "") >= f64::from(CALLS));
    let opened = fleet["b"].metric("weft_mesh_connections_out_total", "");
    assert!(opened <= 6.0, "{opened} connections for {CALLS} calls");
    for host in ["a", "b"] {
        assert_eq!(fleet[host].metric("weft_mesh_protocol_errors_total", ""), 0.0, "on {host}");
    }
}
