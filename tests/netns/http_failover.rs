//! Requests at a steady rate over two instances while one is killed, returns, is put in maintenance, and its agent stops
//! and starts: nothing fails but what was under way on the instance that was killed.

use std::thread::sleep;
use std::time::Duration;

use crate::answer::curl;
use crate::fleet::Fleet;
use crate::keep_alive::KeptLoad;
use crate::load::{Call, tally};
use crate::parts;
use crate::process::{Process, clock_us};

const RATE_PER_SECOND: u32 = 2000;
/// Below this a run shows nothing.
const RATE_PER_SECOND_MIN: u32 = 500;

/// From a change to the last request that starts toward the instance it takes out.
const SPREAD_US_MAX: u64 = 1_000_000;

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n";

/// Time that the load is watched in each state.
const WATCHED: Duration = Duration::from_millis(2500);

fn serve(fleet: &Fleet, name: &str) -> Process {
    fleet[name].service("web", WEB);
    parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
}

/// `PUT` to the agent of `b` over its unix socket.
#[track_caller]
fn put(fleet: &Fleet, path: &str) {
    let socket = fleet["b"].folder().join("weft.sock");
    let socket = socket.to_str().expect("a path in UTF-8");
    curl(&fleet["b"], &["--fail-with-body", "--unix-socket", socket, "-X", "PUT", &format!("http://localhost{path}")]);
}

/// What happened between two times.
struct Phase {
    name: &'static str,
    from_us: u64,
    to_us: u64,
    /// Whether `b` takes requests all the time, or none after `SPREAD_US_MAX`.
    serving: bool,
}

/// Watches the load for a while.
fn phase(name: &'static str, serving: bool) -> Phase {
    let from_us = clock_us();
    sleep(WATCHED);
    Phase { name, from_us, to_us: clock_us(), serving }
}

impl Phase {
    fn judge(&self, calls: &[Call]) {
        let within = |call: &&Call| (self.from_us + SPREAD_US_MAX..self.to_us).contains(&call.start_us);
        let calls: Vec<Call> = calls.iter().filter(within).cloned().collect();
        println!("{}: {:?}", self.name, tally(&calls));
        let by = |host: &str| calls.iter().filter(|call| call.served_by(host)).count();
        assert!(by("a") > 0, "{}: nothing served by a", self.name);
        match self.serving {
            true => assert!(by("b") > 0, "{}: nothing served by b, of {}", self.name, calls.len()),
            false => assert_eq!(by("b"), 0, "{}: b still serves a second later", self.name),
        }
    }
}

#[test]
fn nothing_fails_but_what_was_in_flight_on_the_instance_that_was_killed() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let _web_a = serve(&fleet, "a");
    let mut web_b = serve(&fleet, "b");
    fleet.mesh(&["a", "b", "c"]);
    let c = &fleet["c"];
    c.sees_passing("web", &["a", "b"]);
    let load = KeptLoad::start(&fleet, "c", "web", RATE_PER_SECOND);
    let rate = load.rate().expect("a rate");
    println!("{rate} requests per second, of {RATE_PER_SECOND} wanted");
    assert!(rate >= RATE_PER_SECOND_MIN, "only {rate} requests per second are possible here");
    let mut phases = vec![phase("both serve", true)];

    let before = clock_us();
    web_b.kill();
    let death_us = (before, clock_us());
    phases.push(phase("b's nginx is killed", false));
    let _web_b = serve(&fleet, "b");
    c.sees_passing("web", &["a", "b"]);
    phases.push(phase("it is back", true));

    put(&fleet, "/v1/agent/service/maintenance/web?enable=true&reason=proving");
    phases.push(phase("b's instance is in maintenance", false));
    put(&fleet, "/v1/agent/service/maintenance/web?enable=false");
    c.sees_passing("web", &["a", "b"]);
    phases.push(phase("it is out of it", true));

    put(&fleet, "/v1/agent/maintenance?enable=true&reason=proving");
    phases.push(phase("b itself is in maintenance", false));
    put(&fleet, "/v1/agent/maintenance?enable=false");
    c.sees_passing("web", &["a", "b"]);
    phases.push(phase("it is out of it, too", true));

    fleet["b"].stop_agent();
    phases.push(phase("b's agent is stopped in order", false));
    fleet["b"].start_agent();
    c.sees_passing("web", &["a", "b"]);
    phases.push(phase("it runs again", true));

    let calls = load.stop();
    for phase in phases {
        phase.judge(&calls);
    }
    let failures: Vec<&Call> = calls.iter().filter(|call| call.outcome.is_err()).collect();
    let in_flight = |call: &&&Call| call.start_us <= death_us.1 && call.end_us >= death_us.0;
    let excused = failures.iter().filter(in_flight).count();
    println!("{} requests, {:?}, {excused} of the failed in flight at the kill", calls.len(), summary(&calls));
    let unexcused: Vec<_> = failures.iter().filter(|call| !in_flight(call)).take(10).collect();
    assert!(
        unexcused.is_empty(),
        "{} failed without being in flight at the kill ({death_us:?}): {unexcused:#?}",
        failures.len() - excused
    );
}

fn summary(calls: &[Call]) -> String {
    let mut times: Vec<u64> = calls.iter().map(|call| call.end_us - call.start_us).collect();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 1000).copied().unwrap_or_default();
    format!("{:?}, p50 {} µs, p99 {} µs, p99.9 {} µs", tally(calls), at(500), at(990), at(999))
}
