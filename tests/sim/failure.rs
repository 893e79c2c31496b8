//! Crashes are found soon, and nothing else is taken for one: loss, one-way links, hosts that stand still.

use std::time::Duration;

use weft::model::MemberState;

use crate::world::World;

#[test]
fn a_crash_in_a_fleet_of_three_is_known_to_all_within_ten_seconds() {
    let mut times = Vec::new();
    for seed in 0..50 {
        let mut world = World::joined(seed, 3);
        world.crash(2);
        let limit = Duration::from_secs(10);
        times.push(world.run_until(limit, "the crash is known", |world| world.all_see(2, MemberState::Failed)));
        assert_eq!(world.times_seen(0, MemberState::Failed) + world.times_seen(1, MemberState::Failed), 0);
    }
    times.sort_unstable();
    println!("least, median, most: {:?} {:?} {:?}", times[0], times[25], times[49]);
}

#[test]
fn a_crash_of_the_other_host_of_two_is_known() {
    for seed in 0..20 {
        let mut world = World::joined(seed, 2);
        world.crash(1);
        world.run_until(Duration::from_secs(10), "the crash is known", |world| world.all_see(1, MemberState::Failed));
        assert!(!world.swim(0).in_contact());
    }
}

#[test]
fn a_host_whose_whole_machine_is_gone_is_known_as_failed_within_ten_seconds() {
    for seed in 0..50 {
        let mut world = World::joined(seed, 3);
        world.network.partition(&[vec![0, 1], vec![2]]);
        world.crash(2);
        world.run_until(Duration::from_secs(10), "the crash is known", |world| world.all_see(2, MemberState::Failed));
    }
}

#[test]
fn a_crash_among_forty_eight_hosts_is_known_to_all_in_a_few_seconds() {
    let mut times: Vec<Duration> = (0..15)
        .map(|seed| {
            let mut world = World::joined(seed, 48);
            world.network.partition(&[(0..47).collect()]);
            world.crash(47);
            let limit = Duration::from_secs(15);
            let time = world.run_until(limit, "the crash is known", |world| world.all_see(47, MemberState::Failed));
            let others = world.history.iter().filter(|change| change.node != world.hosts[47].node).count();
            assert_eq!(others, 0, "seed {seed}: nobody else was even suspected");
            time
        })
        .collect();
    times.sort_unstable();
    println!("least, median, most: {:?} {:?} {:?}", times[0], times[7], times[14]);
    assert!(times[7] <= Duration::from_secs(5), "median {:?}", times[7]);
}

#[test]
fn a_crashed_host_that_comes_back_is_alive_again() {
    for seed in 0..20 {
        let mut world = World::joined(seed, 5);
        world.crash(3);
        world.run_for(Duration::from_secs(30));
        world.start(3);
        world.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn an_hour_of_five_percent_loss_kills_none_of_thirty_hosts() {
    for seed in 0..2 {
        let mut world = World::joined(seed, 30);
        world.network.loss = 0.05;
        world.run_for(Duration::from_secs(3600));
        world.assert_never(MemberState::Failed);
        assert!(world.running().all(|host| world.swim(host).in_contact()));
    }
}

#[test]
fn ten_minutes_of_heavy_loss_kill_none_of_ten_hosts() {
    // 1006: a host that had missed a refutation went on accusing, and nobody told it.
    for seed in (0..5).chain([1006]) {
        let mut world = World::joined(seed, 10);
        world.network.loss = 0.25;
        world.run_for(Duration::from_secs(600));
        world.assert_never(MemberState::Failed);
    }
}

#[test]
fn a_host_whom_half_of_the_fleet_hardly_hears_is_not_killed_and_kills_none() {
    // 1018: as above.
    for seed in (0..10).chain([1018]) {
        let mut world = World::joined(seed, 10);
        // What host 5 says to half of the fleet is mostly lost; streams too.
        (0..5).for_each(|other| world.network.lose(5, other, 0.8));
        world.run_for(Duration::from_secs(600));
        world.assert_never(MemberState::Failed);
    }
}

#[test]
fn a_one_way_link_between_two_hosts_kills_neither() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 6);
        world.network.block(1, 2);
        world.run_for(Duration::from_secs(600));
        world.assert_never(MemberState::Failed);
    }
}

#[test]
fn a_host_that_stood_still_accuses_nobody_and_is_alive_again_afterwards() {
    for seed in 0..20 {
        let mut world = World::joined(seed, 5);
        world.stall(2, Duration::from_secs(15));
        world.run_for(Duration::from_secs(15));
        assert!(world.all_see(2, MemberState::Failed), "seed {seed}: 15 s of silence is a failure to the others");
        world.run_until_all_see_all_alive(Duration::from_secs(5));
        world.run_for(Duration::from_secs(60));
        for other in [0, 1, 3, 4] {
            let accused = world.times_seen(other, MemberState::Suspect) + world.times_seen(other, MemberState::Failed);
            assert_eq!(accused, 0, "seed {seed}: host {other} did nothing");
        }
    }
}

#[test]
fn a_machine_that_was_suspended_again_and_again_accuses_nobody() {
    for seed in 0..10 {
        for hosts in [2, 3, 6] {
            let mut world = World::joined(seed, hosts);
            for time_ms in [600, 800, 1300, 5000, 30_000] {
                world.suspend(1, Duration::from_millis(time_ms));
                world.run_for(Duration::from_millis(time_ms + 10_000));
            }
            let accused: Vec<_> = world
                .history
                .iter()
                .filter(|change| change.viewer == 1 && change.state != MemberState::Alive)
                .collect();
            assert!(accused.is_empty(), "seed {seed}, {hosts} hosts: {accused:?}");
            world.run_until_all_see_all_alive(Duration::from_secs(5));
        }
    }
}

#[test]
fn a_fleet_whose_hosts_all_stand_still_in_turn_loses_none_for_long() {
    for seed in 0..5 {
        let mut world = World::joined(seed, 8);
        for host in 0..8 {
            world.stall(host, Duration::from_millis(1200));
            world.run_for(Duration::from_secs(3));
        }
        world.assert_never(MemberState::Failed);
        world.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn a_failed_host_that_is_sent_away_has_left_everywhere_and_comes_back_when_it_starts_again() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 12);
        world.crash(7);
        world.run_until(Duration::from_secs(15), "the crash is known", |world| world.all_see(7, MemberState::Failed));
        world.force_leave(2, 7);
        world.run_until(Duration::from_secs(5), "it has left", |world| world.all_see(7, MemberState::Left));
        world.start(7);
        world.run_until_all_see_all_alive(Duration::from_secs(15));
    }
}
