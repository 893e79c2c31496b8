//! A host starts again from its store.

use std::time::Duration;

use weft::model::MemberState;

use crate::world::World;

#[test]
fn a_host_restarted_without_network_knows_its_members_and_accuses_none() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 10);
        world.hosts[3].save();
        world.crash(3);
        world.network.partition(&[vec![3], (0..3).chain(4..10).collect()]);
        // What is under way arrives, and finds nobody.
        world.run_for(Duration::from_millis(10));
        world.history.clear();
        world.start(3);
        world.run_for(Duration::from_secs(1800));
        for other in (0..10).filter(|other| *other != 3) {
            assert_eq!(world.view(3, other), Some(MemberState::Unknown), "seed {seed} host {other}");
        }
        assert!(!world.swim(3).in_contact());
        assert!(world.history.iter().filter(|change| change.viewer == 3).all(|c| c.state == MemberState::Unknown));
        world.network.heal();
        world.run_until_all_see_all_alive(Duration::from_secs(45));
        assert!(world.swim(3).in_contact());
    }
}

#[test]
fn a_restarted_host_without_seeds_finds_the_fleet_by_its_store() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 10);
        world.hosts[0].save();
        world.hosts[0].seeds.clear();
        world.crash(0);
        world.run_for(Duration::from_secs(60));
        world.start(0);
        world.run_until_all_see_all_alive(Duration::from_secs(10));
    }
}

#[test]
fn a_whole_fleet_restarts_from_its_stores() {
    for seed in 0..5 {
        let mut world = World::joined(seed, 20);
        for host in 0..20 {
            world.hosts[host].save();
            world.crash(host);
        }
        world.run_for(Duration::from_secs(60));
        world.history.clear();
        (0..20).for_each(|host| world.start(host));
        world.run_until_all_see_all_alive(Duration::from_secs(15));
        world.assert_never(MemberState::Failed);
    }
}

#[test]
fn a_member_that_vanished_while_this_host_was_down_is_found_out_after_contact() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 6);
        world.hosts[1].save();
        world.crash(1);
        world.crash(5);
        world.run_for(Duration::from_secs(60));
        world.start(1);
        world.run_until(Duration::from_secs(30), "host 5 is known to be gone", |world| {
            world.all_see(5, MemberState::Failed)
        });
        assert!(world.swim(1).in_contact());
    }
}

#[test]
fn a_host_that_lost_its_incarnation_gets_it_back() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 4);
        world.crash(2);
        world.run_for(Duration::from_secs(20));
        world.start(2);
        world.run_until_all_see_all_alive(Duration::from_secs(10));
        world.crash(2);
        world.run_for(Duration::from_secs(20));
        world.hosts[2].disk.incarnation = 0;
        world.start(2);
        world.run_until_all_see_all_alive(Duration::from_secs(10));
        assert!(world.swim(2).incarnation() > 1, "seed {seed}");
    }
}
