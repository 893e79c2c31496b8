//! A serving host dies under load: only calls in flight on it may fail, the others learn of it, and it is used again when
//! it returns.

use std::thread::sleep;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::load::{Call, Load, tally};
use crate::parts;
use crate::process::{Process, clock_us, wait_for};

const RATE_PER_SECOND: u32 = 200;

/// From the death to `failed` on every host.
const FAILED_DEADLINE: Duration = Duration::from_secs(10);

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n";

fn serve(fleet: &Fleet, name: &str) -> Process {
    fleet[name].service("web", WEB);
    parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
}

/// Waits until calls that started after `since_us` were served by every one of `hosts`.
#[track_caller]
fn served_by_all(load: &Load, since_us: u64, hosts: &[&str]) {
    wait_for(&format!("calls are served by {hosts:?}"), Duration::from_secs(20), || {
        let calls: Vec<Call> = load.calls().into_iter().filter(|call| call.start_us > since_us).collect();
        let served = |host: &&str| calls.iter().any(|call| call.served_by(host));
        if hosts.iter().all(served) { Ok(()) } else { Err(format!("{:?} since then", tally(&calls))) }
    });
}

/// Waits until each of `seers` holds `victim` for failed, `FAILED_DEADLINE` after `since_us` at most.
#[track_caller]
fn failed_everywhere(fleet: &Fleet, seers: &[&str], victim: &str, since_us: u64) {
    for seer in seers {
        let left = FAILED_DEADLINE.saturating_sub(Duration::from_micros(clock_us() - since_us));
        wait_for(&format!("{seer} holds {victim} for failed"), left, || {
            let members = fleet[seer].members()?;
            if members.get(victim).is_some_and(|state| state == "failed") {
                Ok(())
            } else {
                Err(format!("{members:?}"))
            }
        });
    }
}

/// Every call succeeded but those under way while the host died, between the two times.
#[track_caller]
fn only_calls_in_flight_failed(calls: &[Call], death_us: (u64, u64)) {
    let failures: Vec<&Call> = calls.iter().filter(|call| call.outcome.is_err()).collect();
    let in_flight = |call: &&&Call| call.start_us <= death_us.1 && call.end_us >= death_us.0;
    let excused = failures.iter().filter(in_flight).count();
    println!("{} calls, {:?}, {excused} of the failed in flight", calls.len(), tally(calls));
    let unexcused: Vec<_> = failures.iter().filter(|call| !in_flight(call)).take(10).collect();
    assert!(unexcused.is_empty(), "death at {death_us:?} µs; failed without being in flight: {unexcused:#?}");
}

#[test]
fn kill_9_of_a_serving_hosts_agent() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let _web = ["a", "b"].map(|name| serve(&fleet, name));
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("web", &["a", "b"]);
    let load = Load::start(&fleet, "c", "web", RATE_PER_SECOND);
    served_by_all(&load, 0, &["a", "b"]);
    sleep(Duration::from_secs(1));

    let before = clock_us();
    fleet["b"].kill_agent();
    let death_us = (before, clock_us());
    failed_everywhere(&fleet, &["a", "c"], "b", death_us.1);

    fleet["b"].start_agent();
    served_by_all(&load, clock_us(), &["a", "b"]);
    fleet.all_alive(&["a", "b", "c"]);
    only_calls_in_flight_failed(&load.stop(), death_us);
}

#[test]
fn a_failed_host_that_is_sent_away_has_left_everywhere_until_it_starts_again() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    fleet.mesh(&["a", "b", "c"]);
    fleet["b"].kill_agent();
    failed_everywhere(&fleet, &["a", "c"], "b", clock_us());
    let socket = fleet["a"].folder().join("weft.sock");
    let words = ["--api", socket.to_str().expect("a path in UTF-8"), "force-leave", "b"];
    fleet["a"].run(env!("CARGO_BIN_EXE_weft"), words).expect("force-leave");
    for seer in ["a", "c"] {
        wait_for(&format!("{seer} holds b for left"), FAILED_DEADLINE, || {
            let members = fleet[seer].members()?;
            if members.get("b").is_some_and(|state| state == "left") { Ok(()) } else { Err(format!("{members:?}")) }
        });
    }
    fleet["b"].start_agent();
    fleet.all_alive(&["a", "b", "c"]);
}

#[test]
fn kill_9_of_a_whole_serving_host() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let _web_a = serve(&fleet, "a");
    let web_b = serve(&fleet, "b");
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("web", &["a", "b"]);
    let load = Load::start(&fleet, "c", "web", RATE_PER_SECOND);
    served_by_all(&load, 0, &["a", "b"]);
    sleep(Duration::from_secs(1));

    let before = clock_us();
    fleet.destroy("b");
    let death_us = (before, clock_us());
    drop(web_b);
    failed_everywhere(&fleet, &["a", "c"], "b", death_us.1);

    fleet.rebuild("b");
    let _web_b = serve(&fleet, "b");
    fleet["b"].start_agent();
    served_by_all(&load, clock_us(), &["a", "b"]);
    fleet.all_alive(&["a", "b", "c"]);
    only_calls_in_flight_failed(&load.stop(), death_us);
}
