//! A host whose agent starts while the network is cut answers from its store, says that it is stale, and accuses nobody.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::parts;
use crate::process::{holds_for, wait_for};

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n";

/// Longer than any suspicion would take to be a burial.
const ALONE: Duration = Duration::from_secs(12);

/// The store is written behind the owner's back, in batches; a kill -9 may cost the last of them.
const WRITE_BEHIND: Duration = Duration::from_secs(3);

#[test]
fn restarted_with_the_network_cut() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let serve = |name: &str| {
        fleet[name].service("web", WEB);
        parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
    };
    let _web = ["a", "b"].map(serve);
    fleet.mesh(&["a", "b", "c"]);
    let client = &fleet["c"];
    client.sees_passing("web", &["a", "b"]);
    assert_eq!(client.freshness().as_deref(), Ok("live"));
    let vip = client.dig("web.mesh.internal");
    assert_eq!(vip.len(), 1, "{vip:?}");
    std::thread::sleep(WRITE_BEHIND);

    fleet.cut("c");
    let answers_from_the_store = || {
        let seen = client.dig("web.mesh.internal");
        (seen == vip).then_some(()).ok_or_else(|| format!("web has moved from {vip:?} to {seen:?}"))?;
        let seen = client.dig("web.service.mesh.internal");
        (seen == ["10.77.0.1", "10.77.0.2"]).then_some(()).ok_or_else(|| format!("web's instances: {seen:?}"))?;
        let (headers, list) = client.api("/v1/health/service/web?passing")?;
        let hosts = list.as_array().map_or(0, Vec::len);
        (hosts == 2).then_some(()).ok_or_else(|| format!("{hosts} passing instances: {list}"))?;
        let freshness = headers.get("x-weft-freshness").map(String::as_str);
        (freshness == Some("stale")).then_some(()).ok_or_else(|| format!("freshness: {freshness:?}"))
    };
    client.stop_agent();
    client.start_agent();
    // At once: `weft is ready` means that it serves.
    answers_from_the_store().expect("after SIGTERM and a start");
    holds_for("answers from the store after SIGTERM and a start", ALONE, answers_from_the_store);
    client.kill_agent();
    client.start_agent();
    answers_from_the_store().expect("after SIGKILL and a start");
    holds_for("answers from the store after SIGKILL and a start", ALONE, answers_from_the_store);

    fleet.heal("c");
    fleet.all_alive(&["a", "b", "c"]);
    wait_for("the view is live again", Duration::from_secs(20), || match client.freshness()?.as_str() {
        "live" => Ok(()),
        other => Err(other.to_owned()),
    });
    client.curl("http://web.mesh.internal/").expect("a call after the cable is back");
}
