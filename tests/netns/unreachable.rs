//! A host that is alive by gossip but whose mesh port does not answer: no call goes there, everybody is shown why, and
//! it is used again once it answers.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::parts;
use crate::process::wait_for;

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nvip_port = 80\nprotocol = \"http\"\n";

#[test]
fn a_host_whose_mesh_port_does_not_answer_is_no_candidate_and_is_shown_as_such() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let serve = |name: &str| {
        fleet[name].service("web", WEB);
        parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
    };
    let _web = ["a", "b"].map(serve);
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("web", &["a", "b"]);

    let wall = "add table inet wall; add chain inet wall input { type filter hook input priority 0; }; \
                add rule inet wall input tcp dport 7947 drop";
    fleet["b"].run("nft", [wall]).expect("a wall");
    // Warm connections die too; every call is answered all the same.
    for _ in 0..20 {
        assert_eq!(call(&fleet), "a");
    }
    wait_for("the host is shown as unreachable", Duration::from_secs(10), || {
        let (_, members) = fleet["c"].api("/v1/agent/members")?;
        let members = members.as_array().cloned().unwrap_or_default();
        let b = members.iter().find(|member| member["Name"] == "b").ok_or("b is gone")?;
        let shown = b["Weft"]["state"] == "alive" && b["Weft"]["mesh_reachable"] == false;
        if shown { Ok(()) } else { Err(b.to_string()) }
    });
    fleet["c"].sees_passing("web", &["a"]);

    fleet["b"].run("nft", ["delete table inet wall"]).expect("no wall");
    fleet["c"].sees_passing("web", &["a", "b"]);
    wait_for("the host is used again", Duration::from_secs(10), || match call(&fleet).as_str() {
        "b" => Ok(()),
        other => Err(format!("{other} answers")),
    });
}

#[track_caller]
fn call(fleet: &Fleet) -> String {
    fleet["c"].curl("http://web.mesh.internal/").expect("a call by name").trim().to_owned()
}
