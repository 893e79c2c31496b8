//! Hosts come and go as they should: joining by one seed, joining late, leaving with a goodbye.

use std::time::Duration;

use weft::model::MemberState;

use crate::world::World;

#[test]
fn three_hosts_join_by_one_seed() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3);
        (0..3).for_each(|host| world.start(host));
        world.run_until_all_see_all_alive(Duration::from_secs(3));
        assert!(world.running().all(|host| world.swim(host).in_contact()));
    }
}

#[test]
fn fifty_hosts_that_start_together_know_each_other_within_ten_seconds() {
    for seed in 0..5 {
        let mut world = World::new(seed, 50);
        (0..50).for_each(|host| world.start(host));
        let time = world.run_until_all_see_all_alive(Duration::from_secs(10));
        println!("seed {seed}: {time:?}");
        world.assert_never(MemberState::Suspect);
    }
}

#[test]
fn a_host_joins_though_its_seed_comes_up_a_minute_later() {
    for seed in 0..5 {
        let mut world = World::new(seed, 3);
        world.start(1);
        world.start(2);
        world.run_for(Duration::from_secs(60));
        assert!(!world.swim(1).in_contact());
        world.start(0);
        world.run_until_all_see_all_alive(Duration::from_secs(45));
    }
}

#[test]
fn hosts_join_through_a_lossy_network() {
    for seed in 0..5 {
        let mut world = World::new(seed, 20);
        world.network.loss = 0.2;
        (0..20).for_each(|host| world.start(host));
        world.run_until_all_see_all_alive(Duration::from_secs(20));
    }
}

#[test]
fn a_host_that_says_goodbye_is_left_and_never_failed() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 10);
        world.leave(4);
        world.run_until(Duration::from_secs(5), "all see the goodbye", |world| world.all_see(4, MemberState::Left));
        world.run_until(Duration::from_secs(5), "the goodbye ends", |world| world.hosts[4].left);
        world.run_for(Duration::from_secs(60));
        assert!(world.all_see(4, MemberState::Left), "seed {seed}");
        world.assert_never(MemberState::Failed);
    }
}

#[test]
fn a_host_that_left_is_welcome_again() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 5);
        world.leave(4);
        world.run_for(Duration::from_secs(10));
        world.start(4);
        world.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn the_last_host_leaves_at_once() {
    let mut world = World::new(1, 1);
    world.start(0);
    world.run_for(Duration::from_secs(1));
    world.leave(0);
    assert!(world.hosts[0].left);
}

#[test]
fn an_idle_fleet_says_little() {
    let mut world = World::joined(1, 50);
    world.run_for(Duration::from_secs(120));
    let count = |world: &World| world.hosts.iter().map(|host| (host.datagrams_sent, host.claims_sent)).collect();
    let before: Vec<_> = count(&world);
    world.run_for(Duration::from_secs(60));
    let after: Vec<_> = count(&world);
    for (before, after) in before.iter().zip(&after) {
        let (datagrams, claims) = (after.0 - before.0, after.1 - before.1);
        assert!(datagrams < 60 * 6, "{datagrams} datagrams a minute");
        assert_eq!(claims, 0, "no news, no claims");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut world = World::new(7, 10);
        world.network.loss = 0.1;
        (0..10).for_each(|host| world.start(host));
        world.run_for(Duration::from_secs(20));
        world.crash(3);
        world.run_for(Duration::from_secs(20));
        world.history
    };
    assert_eq!(run(), run());
}
