//! Crashes are found soon, and nothing else is taken for one: loss, one-way links, hosts that stand still.

use std::time::Duration;

use crate::engine::State;
use crate::joined;

#[test]
fn a_crash_in_a_fleet_of_three_is_known_to_all_within_ten_seconds() {
    let mut times = Vec::new();
    for seed in 0..50 {
        let mut fleet = joined(seed, 3);
        fleet.crash_unsaved(2);
        let limit = Duration::from_secs(10);
        times.push(fleet.run_until(limit, "the crash is known", |fleet| fleet.all_see(2, State::Failed)));
        assert_eq!(fleet.times_seen(0, State::Failed) + fleet.times_seen(1, State::Failed), 0);
    }
    times.sort_unstable();
    println!("least, median, most: {:?} {:?} {:?}", times[0], times[25], times[49]);
}

#[test]
fn a_crash_of_the_other_host_of_two_is_known() {
    for seed in 0..20 {
        let mut fleet = joined(seed, 2);
        fleet.crash_unsaved(1);
        fleet.run_until(Duration::from_secs(10), "the crash is known", |fleet| fleet.all_see(1, State::Failed));
        assert!(!fleet.swim(0).in_contact());
    }
}

#[test]
fn a_host_whose_whole_machine_is_gone_is_known_as_failed_within_ten_seconds() {
    for seed in 0..50 {
        let mut fleet = joined(seed, 3);
        fleet.network().partition(&[vec![0, 1], vec![2]]);
        fleet.crash_unsaved(2);
        fleet.run_until(Duration::from_secs(10), "the crash is known", |fleet| fleet.all_see(2, State::Failed));
    }
}

#[test]
fn a_crash_among_forty_eight_hosts_is_known_to_all_in_a_few_seconds() {
    let mut times: Vec<Duration> = (0..15)
        .map(|seed| {
            let mut fleet = joined(seed, 48);
            fleet.network().partition(&[(0..47).collect()]);
            fleet.crash_unsaved(47);
            let limit = Duration::from_secs(15);
            let time = fleet.run_until(limit, "the crash is known", |fleet| fleet.all_see(47, State::Failed));
            let others = fleet.history().iter().filter(|change| change.host != 47).count();
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
        let mut fleet = joined(seed, 5);
        fleet.crash_unsaved(3);
        fleet.run_for(Duration::from_secs(30));
        fleet.start(3);
        fleet.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn an_hour_of_five_percent_loss_kills_none_of_thirty_hosts() {
    for seed in 0..2 {
        let mut fleet = joined(seed, 30);
        fleet.network().loss = 0.05;
        fleet.run_for(Duration::from_secs(3600));
        fleet.assert_never(State::Failed);
        assert!(fleet.running().all(|host| fleet.swim(host).in_contact()));
    }
}

#[test]
fn ten_minutes_of_heavy_loss_kill_none_of_ten_hosts() {
    // 1006: a host that had missed a refutation went on accusing, and nobody told it.
    for seed in (0..5).chain([1006]) {
        let mut fleet = joined(seed, 10);
        fleet.network().loss = 0.25;
        fleet.run_for(Duration::from_secs(600));
        fleet.assert_never(State::Failed);
    }
}

#[test]
fn a_host_whom_half_of_the_fleet_hardly_hears_is_not_killed_and_kills_none() {
    // 1018: as above.
    for seed in (0..10).chain([1018]) {
        let mut fleet = joined(seed, 10);
        // What host 5 says to half of the fleet is mostly lost; streams too.
        (0..5).for_each(|other| fleet.network().lose(5, other, 0.8));
        fleet.run_for(Duration::from_secs(600));
        fleet.assert_never(State::Failed);
    }
}

#[test]
fn a_one_way_link_between_two_hosts_kills_neither() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 6);
        fleet.network().block(1, 2);
        fleet.run_for(Duration::from_secs(600));
        fleet.assert_never(State::Failed);
    }
}

#[test]
fn a_host_that_stood_still_accuses_nobody_and_is_alive_again_afterwards() {
    for seed in 0..20 {
        let mut fleet = joined(seed, 5);
        fleet.world.stall(2, Duration::from_secs(15));
        fleet.run_for(Duration::from_secs(15));
        assert!(fleet.all_see(2, State::Failed), "seed {seed}: 15 s of silence is a failure to the others");
        fleet.run_until_all_see_all_alive(Duration::from_secs(5));
        fleet.run_for(Duration::from_secs(60));
        for other in [0, 1, 3, 4] {
            let accused = fleet.times_seen(other, State::Suspect) + fleet.times_seen(other, State::Failed);
            assert_eq!(accused, 0, "seed {seed}: host {other} did nothing");
        }
    }
}

#[test]
fn a_machine_that_was_suspended_again_and_again_accuses_nobody() {
    for seed in 0..10 {
        for hosts in [2, 3, 6] {
            let mut fleet = joined(seed, hosts);
            for time_ms in [600, 800, 1300, 5000, 30_000] {
                fleet.world.suspend(1, Duration::from_millis(time_ms));
                fleet.run_for(Duration::from_millis(time_ms + 10_000));
            }
            let accused: Vec<_> =
                fleet.history().iter().filter(|change| change.viewer == 1 && change.state != State::Alive).collect();
            assert!(accused.is_empty(), "seed {seed}, {hosts} hosts: {accused:?}");
            fleet.run_until_all_see_all_alive(Duration::from_secs(5));
        }
    }
}

#[test]
fn a_fleet_whose_hosts_all_stand_still_in_turn_loses_none_for_long() {
    for seed in 0..5 {
        let mut fleet = joined(seed, 8);
        for host in 0..8 {
            fleet.world.stall(host, Duration::from_millis(1200));
            fleet.run_for(Duration::from_secs(3));
        }
        fleet.assert_never(State::Failed);
        fleet.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn a_failed_host_that_is_sent_away_has_left_everywhere_and_comes_back_when_it_starts_again() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 12);
        fleet.crash_unsaved(7);
        fleet.run_until(Duration::from_secs(15), "the crash is known", |fleet| fleet.all_see(7, State::Failed));
        fleet.force_leave(2, 7);
        fleet.run_until(Duration::from_secs(5), "it has left", |fleet| fleet.all_see(7, State::Left));
        fleet.start(7);
        fleet.run_until_all_see_all_alive(Duration::from_secs(15));
    }
}
