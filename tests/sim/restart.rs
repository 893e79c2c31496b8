//! A host starts again from its store.

use std::time::Duration;

use crate::engine::State;
use crate::engine::weft::{Fleet, Setup};
use crate::joined;

#[test]
fn a_host_restarted_without_network_knows_its_members_and_accuses_none() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 10);
        fleet.crash(3);
        fleet.network().partition(&[vec![3], (0..3).chain(4..10).collect()]);
        // What is under way arrives, and finds nobody.
        fleet.run_for(Duration::from_millis(10));
        fleet.watch();
        fleet.start(3);
        fleet.run_for(Duration::from_secs(1800));
        for other in (0..10).filter(|other| *other != 3) {
            assert_eq!(fleet.view(3, other), Some(State::Unknown), "seed {seed} host {other}");
        }
        assert!(!fleet.swim(3).in_contact());
        assert!(fleet.history().iter().filter(|change| change.viewer == 3).all(|c| c.state == State::Unknown));
        fleet.network().heal();
        fleet.run_until_all_see_all_alive(Duration::from_secs(45));
        assert!(fleet.swim(3).in_contact());
    }
}

#[test]
fn a_restarted_host_without_seeds_finds_the_fleet_by_its_store() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 10);
        fleet.machine(0).seeds.clear();
        fleet.crash(0);
        fleet.run_for(Duration::from_secs(60));
        fleet.start(0);
        fleet.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn a_whole_fleet_restarts_from_its_stores() {
    for seed in 0..5 {
        let mut fleet = joined(seed, 20);
        for host in 0..20 {
            fleet.crash(host);
        }
        fleet.run_for(Duration::from_secs(60));
        fleet.watch();
        (0..20).for_each(|host| fleet.start(host));
        fleet.run_until_all_see_all_alive(Duration::from_secs(15));
        fleet.assert_never(State::Failed);
    }
}

#[test]
fn a_member_that_vanished_while_this_host_was_down_is_found_out_after_contact() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 6);
        fleet.crash(1);
        fleet.crash_unsaved(5);
        fleet.run_for(Duration::from_secs(60));
        fleet.start(1);
        fleet.run_until(Duration::from_secs(30), "host 5 is known to be gone", |fleet| fleet.all_see(5, State::Failed));
        assert!(fleet.swim(1).in_contact());
    }
}

#[test]
fn a_host_that_lost_its_incarnation_gets_it_back() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 4);
        fleet.crash_unsaved(2);
        fleet.run_for(Duration::from_secs(20));
        fleet.start(2);
        fleet.run_until_all_see_all_alive(Duration::from_secs(10));
        fleet.crash_unsaved(2);
        fleet.run_for(Duration::from_secs(20));
        fleet.machine(2).disk.incarnation = 0;
        fleet.start(2);
        fleet.run_until_all_see_all_alive(Duration::from_secs(10));
        assert!(fleet.swim(2).incarnation() > 1, "seed {seed}");
    }
}

/// Host 3, started once more with the disk that it had so many starts ago.
fn set_back(seed: u64, starts: usize, has_clock: bool) -> Fleet {
    let mut fleet = Fleet::new(seed, 10, Setup::default());
    (0..10).for_each(|host| fleet.machine(host).no_clock = !has_clock);
    fleet.start_all();
    fleet.run_until_all_see_all_alive(Duration::from_secs(30));
    let mut disks = Vec::new();
    for service in 0..4 {
        fleet.register(3, service);
        fleet.run_for(Duration::from_secs(40));
        fleet.crash(3);
        disks.push(fleet.machine(3).disk.clone());
        fleet.run_for(Duration::from_secs(5));
        fleet.start(3);
    }
    fleet.register(3, 8);
    fleet.run_for(Duration::from_secs(40));
    fleet.crash(3);
    fleet.machine(3).disk = disks[disks.len() - starts].clone();
    fleet.start(3);
    fleet
}

#[test]
fn a_host_whose_disk_was_set_back_meets_its_past_and_is_believed_again() {
    for (seed, starts) in (0..12).map(|seed| (seed, 1 + usize::try_from(seed).unwrap() % 4)) {
        let mut fleet = set_back(seed, starts, false);
        fleet.register(3, 9);
        let limit = Duration::from_secs(90);
        let risen = fleet.run_until(limit, "it starts above its past", |fleet| {
            fleet.world.core(3).is_some_and(|weft| weft.disk.epoch > 5)
        });
        let equal = fleet.run_until(limit, "all hold the same", |fleet| fleet.world.runs(3) && fleet.catalogs_equal());
        println!("seed {seed}, back by {starts}: above its past after {risen:?}, all equal {equal:?} later");
        let node = fleet.node(3);
        for host in fleet.running() {
            let revision = |service| fleet.world.core(host).and_then(|weft| weft.revision_of(node, service));
            assert!(revision(9).is_some() && revision(8).is_none(), "seed {seed} host {host}");
        }
    }
}

#[test]
fn where_its_clock_is_right_it_starts_above_its_past_and_is_believed_at_once() {
    for (seed, starts) in (0..12).map(|seed| (seed, 1 + usize::try_from(seed).unwrap() % 4)) {
        let mut fleet = set_back(seed, starts, true);
        let life = fleet.world.host(3).life;
        fleet.run_until_all_see_all_alive(Duration::from_secs(5));
        fleet.run_until(Duration::from_secs(20), "all hold the same", Fleet::catalogs_equal);
        fleet.run_for(Duration::from_secs(120));
        assert!(fleet.catalogs_equal(), "seed {seed}");
        assert_eq!(fleet.world.host(3).life, life, "seed {seed}: it never had to end");
    }
}
