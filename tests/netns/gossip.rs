//! Forty-eight hosts: they join at once, lose one, bear loss and standstill, are cut apart and heal. Bounds are three times
//! the product's targets, for these agents are debug builds that share a small machine; the figures are printed.

use std::thread::sleep;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::process::{clock_us, run, wait_for};
use crate::timeline::{all_settled, ever, median, seconds, settled, timeline};

const HOSTS: usize = 48;

/// From starting the processes to all knowing all; the target is 3 s.
const JOIN_DEADLINE: Duration = Duration::from_secs(9);
const JOIN_ATTEMPTS: usize = 3;
/// Of the clock that `/proc` counts in: `USER_HZ` is 100 on every Linux.
const TICK_MS: u64 = 10;
/// From kill -9 to the median of the others knowing; the target is 3 s.
const DEATH_MEDIAN: Duration = Duration::from_secs(9);
/// From SIGCONT to being alive everywhere; the target is 5 s.
const RESUMED_DEADLINE: Duration = Duration::from_secs(15);
/// From the end of a partition to all seeing all; the target is 10 s.
const HEALED_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at the logs, and how long to go on looking.
const LOOK_INTERVAL: Duration = Duration::from_millis(700);
const LOOKED_FOR: Duration = Duration::from_secs(120);
/// Of loss, and of a partition.
const TROUBLE: Duration = Duration::from_secs(60);

/// Names `n01` to `n48`.
fn names() -> Vec<String> {
    (1..=HOSTS).map(|number| format!("n{number:02}")).collect()
}

/// All enrolled, none running.
fn enrolled(fleet: &Fleet, names: &[&str]) {
    let issuer = &fleet[names[0]];
    issuer.found_mesh();
    issuer.start_agent();
    let tokens: Vec<String> = names[1..].iter().map(|_| issuer.token(&[])).collect();
    for (name, token) in names[1..].iter().zip(&tokens) {
        fleet[name].enrol_with(token).expect("enrolment");
    }
    issuer.stop_agent();
}

/// Starts all agents together; returns when that was.
fn start_all(fleet: &Fleet, names: &[&str]) -> u64 {
    let start_us = clock_us();
    names.iter().for_each(|name| fleet[name].spawn_agent());
    start_us
}

/// Looks at the logs now and then until `done`: looking costs as much as the agents do. The agents' own times say how long
/// it took.
#[track_caller]
fn look<T>(what: &str, done: impl Fn() -> Result<T, String>) -> T {
    wait_for(what, LOOKED_FOR, || {
        sleep(LOOK_INTERVAL);
        done()
    })
}

/// Waits until all of `names` hold each other for alive; gives the last time at which somebody came to.
#[track_caller]
fn all_alive(fleet: &Fleet, names: &[&str]) -> u64 {
    look("all see all alive", || all_settled(&timeline(fleet, names, 0), names, "alive"))
}

/// How long this machine's processors have been idle, each counted, in clock ticks.
#[track_caller]
fn idle_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
    let (total, _) = stat.split_once('\n').expect("a line of all processors");
    total.split_whitespace().nth(4).expect("the idle time").parse().expect("ticks")
}

/// A fleet of which all know all, and when it was started. Joining is bound by the processors, which others may use for a
/// while, other machines on the same hardware among them. So the bound is on the time in which they were the agents' or
/// nobody's, and only three fleets that are all late are wrong.
#[track_caller]
fn joined_at_once(names: &[&str]) -> Option<(Fleet, u64)> {
    let processors = std::thread::available_parallelism().expect("a number of processors").get() as f64;
    let mut late = Vec::new();
    for _ in 0..JOIN_ATTEMPTS {
        let fleet = Fleet::raise_routed(names)?;
        enrolled(&fleet, names);
        let idle_before = idle_ticks();
        let start_us = start_all(&fleet, names);
        let took = seconds(start_us, all_alive(&fleet, names));
        let (idle, ours) =
            (idle_ticks() - idle_before, names.iter().map(|name| fleet[name].agent_cpu_ticks()).sum::<u64>());
        let (idle, ours) = (Duration::from_millis(idle * TICK_MS), Duration::from_millis(ours * TICK_MS));
        println!("48 hosts join at once, all know all: {took:.2} s; processors: agents {ours:.1?}, idle {idle:.1?}");
        let had = (ours + idle).as_secs_f64() / processors;
        if took.min(had) <= JOIN_DEADLINE.as_secs_f64() {
            return Some((fleet, start_us));
        }
        late.push((took, had));
    }
    panic!(
        "48 hosts took (seconds, and those in which they had the processors) {late:.2?} to join, more than {JOIN_DEADLINE:?}"
    );
}

/// Waits until no agent doubts itself (Lifeguard's local health) nor waits longer than usual for answers. Where the
/// processors were short, as they are while all start, agents are patient for a while: deaths are to be noticed later then.
/// Gives the time from which they were.
#[track_caller]
fn all_calm(fleet: &Fleet, names: &[&str]) -> u64 {
    let start_us = clock_us();
    look("all agents are calm", || {
        let metric = |name: &str, metric| fleet[name].metric(metric, "");
        let is_calm = |name: &str| {
            metric(name, "weft_gossip_health_score") == 0.0 && metric(name, "weft_gossip_patience_ratio") <= 1.0
        };
        match names.iter().filter(|name| !is_calm(name)).count() {
            0 => Ok(()),
            others => Err(format!("{others} are not")),
        }
    });
    let calm_us = clock_us();
    println!("all agents are calm after {:.2} s", seconds(start_us, calm_us));
    calm_us
}

/// Fails if `what` took longer than `most` from one time to the other.
#[track_caller]
fn within(what: &str, from_us: u64, to_us: u64, most: Duration) {
    let took = seconds(from_us, to_us);
    println!("{what}: {took:.2} s");
    assert!(took <= most.as_secs_f64(), "{what}: {took:.2} s, more than {most:?}");
}

/// One table on every host, that drops what `rule` says among what comes in from outside.
fn drop_on_arrival(fleet: &Fleet, names: &[&str], rule: impl Fn(usize) -> String) {
    for (number, name) in (1..).zip(names) {
        let table = format!(
            "table inet trouble {{ chain arrival {{ type filter hook input priority 0; iifname \"eth0\" {} drop; }}; }}",
            rule(number)
        );
        let done = run(fleet[name].command("nft").arg(table));
        done.expect("nft");
    }
}

fn no_more_drops(fleet: &Fleet, names: &[&str]) {
    names.iter().for_each(|name| _ = fleet[name].run("nft", ["delete", "table", "inet", "trouble"]).expect("nft"));
}

#[test]
fn forty_eight_hosts_join_at_once_miss_a_killed_one_and_forgive_one_that_stood_still() {
    let names = names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some((fleet, start_us)) = joined_at_once(&names) else { return };
    names.iter().for_each(|name| fleet[name].await_agent());
    let memory: Vec<u64> = names.iter().map(|name| fleet[name].agent_rss_kib()).collect();
    println!("memory of an agent: {} MiB in the median", median(memory) / 1024);
    // Who was called failed while all started and the processors were short is printed; from now on nobody may be.
    println!("called failed while all started: {:?}", ever(&timeline(&fleet, &names, start_us), &["failed"]));
    let calm_us = all_calm(&fleet, &names);

    let (victim, others) = (names[30], [&names[..30], &names[31..]].concat());
    let killed_us = clock_us();
    fleet[victim].kill_agent();
    let others_know = || settled(&timeline(&fleet, &others, killed_us), &others, victim, "failed");
    let times = look("the others know", others_know);
    within("kill -9 of one, the last host's knowing", killed_us, times.iter().copied().max().unwrap_or(0), LOOKED_FOR);
    within("kill -9 of one, the median host's knowing", killed_us, median(times), DEATH_MEDIAN);
    buried_at_most(&fleet, &others, calm_us, &[victim]);

    let (sleeper, awake) = (others[12], [&others[..12], &others[13..]].concat());
    fleet[sleeper].pause_agent();
    sleep(Duration::from_secs(15));
    let resumed_us = clock_us();
    fleet[sleeper].resume_agent();
    let is_alive = || settled(&timeline(&fleet, &awake, start_us), &awake, sleeper, "alive");
    let back_us = look("it is alive everywhere again", is_alive).into_iter().max().unwrap_or(0);
    within("alive everywhere after 15 s of standstill", resumed_us, back_us, RESUMED_DEADLINE);
    sleep(Duration::from_secs(10));
    buried_at_most(&fleet, &others, calm_us, &[victim, sleeper]);
    let accused = timeline(&fleet, &[sleeper], resumed_us);
    let accused = ever(&accused, &["suspect", "failed"]);
    assert!(accused.keys().all(|name| *name == victim), "it accused healthy hosts when it went on: {accused:?}");
}

/// Fails if anybody but `gone` was ever called failed. Who was only suspected, and refuted it, is printed: forty-eight debug
/// builds that start at once on two processors keep each other waiting.
#[track_caller]
fn buried_at_most(fleet: &Fleet, viewers: &[&str], since_us: u64, gone: &[&str]) {
    let seen = timeline(fleet, viewers, since_us);
    println!("suspected since all were calm: {:?}", ever(&seen, &["suspect"]));
    let buried = ever(&seen, &["failed"]);
    assert!(buried.keys().all(|name| gone.contains(name)), "healthy hosts were called failed: {buried:?}");
}

#[test]
fn forty_eight_hosts_bear_a_fifth_of_all_packets_lost_and_heal_after_a_cut() {
    let names = names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(fleet) = Fleet::raise_routed(&names) else { return };
    enrolled(&fleet, &names);
    let start_us = start_all(&fleet, &names);
    all_alive(&fleet, &names);
    names.iter().for_each(|name| fleet[name].await_agent());

    drop_on_arrival(&fleet, &names, |_| "numgen random mod 100 < 20".to_owned());
    let lossy_us = clock_us();
    sleep(TROUBLE);
    no_more_drops(&fleet, &names);
    let seen = timeline(&fleet, &names, lossy_us);
    let suspected = ever(&seen, &["suspect"]).values().sum::<usize>();
    println!("{} s of 20 % loss: {suspected} times a host was held for suspect", TROUBLE.as_secs());
    assert!(ever(&seen, &["failed"]).is_empty(), "no false death: {:?}", ever(&seen, &["failed"]));
    all_alive(&fleet, &names);

    let half = HOSTS / 2;
    let (low, high) = (format!("10.77.0.1-10.77.0.{half}"), format!("10.77.0.{}-10.77.0.{HOSTS}", half + 1));
    drop_on_arrival(&fleet, &names, |number| format!("ip saddr {}", if number <= half { &high } else { &low }));
    sleep(TROUBLE);
    let cut = timeline(&fleet, &names, start_us);
    assert!(!ever(&cut, &["failed"]).is_empty(), "the cut is noticed");
    no_more_drops(&fleet, &names);
    let healed_us = clock_us();
    within("all see all after 60 s of partition", healed_us, all_alive(&fleet, &names), HEALED_DEADLINE);
}
