//! A check turns red: its instance gets no new call from any host, and gets them again when it is green.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::load::{Call, Load, tally};
use crate::parts;
use crate::process::{clock_us, wait_for};

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n";

/// From the check's own verdict to the last call that starts toward its instance, on every host.
const SPREAD_US_MAX: u64 = 2_000_000;

#[test]
fn a_red_instance_gets_no_calls_until_it_is_green() {
    let hosts = ["a", "b", "c"];
    let Some(fleet) = Fleet::raise(&hosts) else { return };
    let serve = |name: &str| {
        fleet[name].service("web", WEB);
        parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
    };
    let _web = ["a", "b"].map(serve);
    fleet.mesh(&hosts);
    for host in hosts {
        fleet[host].sees_passing("web", &["a", "b"]);
    }
    let loads = hosts.map(|host| Load::start(&fleet, host, "web", 60));
    let reached = |since_us: u64| {
        for (load, caller) in loads.iter().zip(hosts) {
            wait_for(&format!("calls from {caller} reach b"), Duration::from_secs(20), || {
                let calls: Vec<Call> = load.calls().into_iter().filter(|call| call.start_us > since_us).collect();
                let reached = calls.iter().any(|call| call.served_by("b"));
                if reached { Ok(()) } else { Err(format!("{:?} since then", tally(&calls))) }
            });
        }
    };
    let verdict = |status: &str| {
        wait_for(&format!("b's own check says {status}"), Duration::from_secs(20), || {
            let seen = fleet["b"].instances("web")?;
            if seen.get("b").is_some_and(|seen| seen == status) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        clock_us()
    };
    reached(0);

    let sickness = parts::sickness(&fleet["b"], "web");
    fs::write(&sickness, "").expect("the mark of sickness");
    let red_us = verdict("critical");
    sleep(Duration::from_secs(7));
    let seen_us = clock_us();
    fs::remove_file(&sickness).expect("the mark of sickness");
    let green_us = verdict("passing");
    reached(green_us);

    for (load, caller) in loads.into_iter().zip(hosts) {
        let calls = load.stop();
        println!("from {caller}: {:?}", tally(&calls));
        let failed: Vec<&Call> = calls.iter().filter(|call| call.outcome.is_err()).take(10).collect();
        assert!(failed.is_empty(), "calls from {caller} failed: {failed:#?}");
        let while_red = |call: &&Call| call.start_us > red_us + SPREAD_US_MAX && call.start_us < seen_us;
        let late: Vec<&Call> = calls.iter().filter(while_red).filter(|call| call.served_by("b")).collect();
        assert!(late.is_empty(), "verdict at {red_us} µs; calls from {caller} went there later: {late:#?}");
        assert!(calls.iter().filter(while_red).count() > 100, "too few calls from {caller} to show anything");
    }
}
