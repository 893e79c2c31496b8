//! Hosts come and go as they should: joining by one seed, joining late, leaving with a goodbye.

use std::time::Duration;

use crate::engine::observe::Traffic;
use crate::engine::{Kind, State};
use crate::{fleet, joined};

#[test]
fn three_hosts_join_by_one_seed() {
    for seed in 0..20 {
        let mut fleet = fleet(seed, 3);
        (0..3).for_each(|host| fleet.start(host));
        fleet.run_until_all_see_all_alive(Duration::from_secs(3));
        assert!(fleet.running().all(|host| fleet.swim(host).in_contact()));
    }
}

#[test]
fn fifty_hosts_that_start_together_know_each_other_within_ten_seconds() {
    for seed in 0..5 {
        let mut fleet = fleet(seed, 50);
        (0..50).for_each(|host| fleet.start(host));
        let time = fleet.run_until_all_see_all_alive(Duration::from_secs(10));
        println!("seed {seed}: {time:?}");
        fleet.assert_never(State::Suspect);
    }
}

#[test]
fn a_host_joins_though_its_seed_comes_up_a_minute_later() {
    for seed in 0..5 {
        let mut fleet = fleet(seed, 3);
        fleet.start(1);
        fleet.start(2);
        fleet.run_for(Duration::from_secs(60));
        assert!(!fleet.swim(1).in_contact());
        fleet.start(0);
        fleet.run_until_all_see_all_alive(Duration::from_secs(45));
    }
}

#[test]
fn hosts_join_through_a_lossy_network() {
    for seed in 0..5 {
        let mut fleet = fleet(seed, 20);
        fleet.network().loss = 0.2;
        (0..20).for_each(|host| fleet.start(host));
        fleet.run_until_all_see_all_alive(Duration::from_secs(20));
    }
}

#[test]
fn a_host_that_says_goodbye_is_left_and_never_failed() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 10);
        fleet.leave(4);
        fleet.run_until(Duration::from_secs(5), "all see the goodbye", |fleet| fleet.all_see(4, State::Left));
        fleet.run_until(Duration::from_secs(5), "the goodbye ends", |fleet| fleet.machines[4].left);
        fleet.run_for(Duration::from_secs(60));
        assert!(fleet.all_see(4, State::Left), "seed {seed}");
        fleet.assert_never(State::Failed);
    }
}

#[test]
fn a_host_that_left_is_welcome_again() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 5);
        fleet.leave(4);
        fleet.run_for(Duration::from_secs(10));
        fleet.start(4);
        fleet.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn the_last_host_leaves_at_once() {
    let mut fleet = fleet(1, 1);
    fleet.start(0);
    fleet.run_for(Duration::from_secs(1));
    fleet.leave(0);
    fleet.run_for(Duration::from_millis(1));
    assert!(fleet.machines[0].left);
}

#[test]
fn an_idle_fleet_says_little() {
    let mut fleet = joined(1, 50);
    fleet.run_for(Duration::from_secs(120));
    (0..50).for_each(|host| fleet.world.host_mut(host).traffic = Traffic::default());
    fleet.run_for(Duration::from_secs(60));
    for host in 0..50 {
        let traffic = &fleet.world.host(host).traffic;
        assert!(traffic.datagrams_sent < 60 * 6, "{} datagrams a minute", traffic.datagrams_sent);
        assert_eq!(traffic.sent[Kind::Gossip as usize], 0, "no news, no gossip");
        // A ping is below 90 bytes, and a claim would add 54 at least.
        let largest = traffic.largest[Kind::Probe as usize];
        assert!(largest < 90, "no news, no claims: {largest} bytes");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut fleet = fleet(7, 10);
        fleet.network().loss = 0.1;
        (0..10).for_each(|host| fleet.start(host));
        fleet.run_for(Duration::from_secs(20));
        fleet.crash_unsaved(3);
        fleet.run_for(Duration::from_secs(20));
        fleet.history().to_vec()
    };
    assert_eq!(run(), run());
}
