//! Forty-eight hosts: they join at once, lose one, bear loss and standstill, are cut apart and heal. Bounds are three times
//! the product's targets, for these agents are debug builds that share a small machine; the figures are printed.

use std::thread::sleep;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::process::{clock_us, run, wait_for};
use crate::timeline::{Seen, ever, median, seconds, settled, timeline};

const HOSTS: usize = 48;

/// From starting the processes to all knowing all; the target is 3 s.
const JOIN_DEADLINE: Duration = Duration::from_secs(9);
/// From kill -9 to the median of the others knowing; the target is 3 s.
const DEATH_MEDIAN_MAX_S: f64 = 9.0;
/// From SIGCONT to being alive everywhere; the target is 5 s.
const RESUMED_DEADLINE: Duration = Duration::from_secs(15);
/// From the end of a partition to all seeing all; the target is 10 s.
const HEALED_DEADLINE: Duration = Duration::from_secs(30);
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

/// Waits until all of `names` hold each other for alive; gives the last time at which somebody came to.
#[track_caller]
fn all_hold_all_alive(fleet: &Fleet, names: &[&str], since_us: u64, deadline: Duration) -> u64 {
    wait_for("all see all alive", deadline, || {
        let seen = timeline(fleet, names, since_us);
        let mut last = 0;
        for name in names {
            last = last.max(settled(&seen, names, name, "alive")?.into_values().max().unwrap_or(0));
        }
        Ok(last)
    })
}

/// As before, for what somebody held at the time and has not changed since.
#[track_caller]
fn all_alive_again(fleet: &Fleet, names: &[&str], deadline: Duration) {
    wait_for("all see all alive again", deadline, || {
        let seen = timeline(fleet, names, 0);
        names.iter().try_for_each(|name| settled(&seen, names, name, "alive").map(|_| ()))
    });
}

fn since(seen: &[Seen], since_us: u64) -> Vec<Seen> {
    seen.iter().filter(|seen| seen.at_us >= since_us).cloned().collect()
}

/// One table on every host, that drops what `rule` says among what comes in from outside.
fn drop_on_arrival(fleet: &Fleet, names: &[&str], rule: impl Fn(usize) -> String) {
    for (number, name) in (1..).zip(names) {
        let table = format!(
            "table inet trouble {{ chain arrival {{ type filter hook input priority 0; iifname \"eth0\" {} drop; }} }}",
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
    let Some(fleet) = Fleet::raise(&names) else { return };
    enrolled(&fleet, &names);

    let start_us = start_all(&fleet, &names);
    let joined_us = all_hold_all_alive(&fleet, &names, start_us, JOIN_DEADLINE);
    println!("{HOSTS} hosts joined at once: all know all after {:.2} s", seconds(start_us, joined_us));
    names.iter().for_each(|name| fleet[name].await_agent());
    let memory: Vec<u64> = names.iter().map(|name| fleet[name].agent_rss_kib()).collect();
    println!("memory of an agent: {} MiB in the median", median(memory) / 1024);
    sleep(Duration::from_secs(5));

    let (victim, others) = (names[30], [&names[..30], &names[31..]].concat());
    let killed_us = clock_us();
    fleet[victim].kill_agent();
    let times = wait_for("the others know", Duration::from_secs(30), || {
        settled(&timeline(&fleet, &others, killed_us), &others, victim, "failed")
    });
    let (first, last) = (times.values().min().copied(), times.values().max().copied());
    let middle = seconds(killed_us, median(times.into_values()));
    let ends = [first, last].map(|at_us| seconds(killed_us, at_us.unwrap_or_default()));
    println!("kill -9 of one: known after {:.2} s, {middle:.2} s in the median, {:.2} s at last", ends[0], ends[1]);
    assert!(middle <= DEATH_MEDIAN_MAX_S, "known after {middle} s");
    let accused = timeline(&fleet, &others, start_us);
    let accused = ever(&accused, &["suspect", "failed"]).into_keys().collect::<Vec<_>>();
    assert_eq!(accused, [victim], "nobody else was ever accused");

    let (sleeper, awake) = (others[12], [&others[..12], &others[13..]].concat());
    fleet[sleeper].pause_agent();
    sleep(Duration::from_secs(15));
    let resumed_us = clock_us();
    fleet[sleeper].resume_agent();
    let is_alive = || settled(&timeline(&fleet, &awake, start_us), &awake, sleeper, "alive");
    let back = wait_for("it is alive everywhere again", RESUMED_DEADLINE, is_alive);
    let back_us = back.into_values().max().unwrap_or(0);
    println!("15 s of standstill: alive everywhere {:.2} s after its end", seconds(resumed_us, back_us));
    sleep(Duration::from_secs(10));
    let accused = since(&timeline(&fleet, &others, start_us), killed_us);
    let accused = ever(&accused, &["suspect", "failed"]);
    assert!(accused.keys().all(|name| *name == victim || *name == sleeper), "nobody healthy was accused: {accused:?}");
}

#[test]
fn forty_eight_hosts_bear_a_fifth_of_all_packets_lost_and_heal_after_a_cut() {
    let names = names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(fleet) = Fleet::raise(&names) else { return };
    enrolled(&fleet, &names);
    let start_us = start_all(&fleet, &names);
    all_hold_all_alive(&fleet, &names, start_us, JOIN_DEADLINE);
    names.iter().for_each(|name| fleet[name].await_agent());

    drop_on_arrival(&fleet, &names, |_| "numgen random mod 100 < 20".to_owned());
    let lossy_us = clock_us();
    sleep(TROUBLE);
    no_more_drops(&fleet, &names);
    let seen = timeline(&fleet, &names, lossy_us);
    let suspected = ever(&seen, &["suspect"]).values().sum::<usize>();
    println!("{} s of 20 % loss: {suspected} times a host was held for suspect", TROUBLE.as_secs());
    assert!(ever(&seen, &["failed"]).is_empty(), "no false death: {:?}", ever(&seen, &["failed"]));
    all_alive_again(&fleet, &names, HEALED_DEADLINE);

    let half = HOSTS / 2;
    let (low, high) = (format!("10.77.0.1-10.77.0.{half}"), format!("10.77.0.{}-10.77.0.{HOSTS}", half + 1));
    drop_on_arrival(&fleet, &names, |number| format!("ip saddr {}", if number <= half { &high } else { &low }));
    sleep(TROUBLE);
    let cut = timeline(&fleet, &names, start_us);
    assert!(!ever(&cut, &["failed"]).is_empty(), "the cut is noticed");
    no_more_drops(&fleet, &names);
    let healed_us = clock_us();
    all_alive_again(&fleet, &names, HEALED_DEADLINE);
    let last = timeline(&fleet, &names, healed_us).last().map_or(healed_us, |seen| seen.at_us);
    println!("{} s of partition: all see all {:.2} s after its end", TROUBLE.as_secs(), seconds(healed_us, last));
}
