//! The network is cut, and heals. Whoever is beyond the cut comes back without help.

use std::time::Duration;

use weft::model::MemberState;

use crate::world::World;

#[test]
fn a_healed_partition_of_three_hosts_rejoins_by_itself() {
    for seed in 0..20 {
        let mut world = World::joined(seed, 3);
        world.network.partition(&[vec![0], vec![1, 2]]);
        let buried = |world: &World| world.view(1, 0) == Some(MemberState::Failed);
        world.run_until(Duration::from_secs(15), "the cut is noticed", buried);
        world.run_for(Duration::from_secs(120));
        world.network.heal();
        world.run_until_all_see_all_alive(Duration::from_secs(30));
    }
}

#[test]
fn a_healed_partition_rejoins_without_seeds_too() {
    for seed in 0..10 {
        let mut world = World::joined(seed, 10);
        world.hosts.iter_mut().for_each(|host| {
            if let Some(agent) = &mut host.agent {
                agent.swim.set_seeds(Vec::new());
            }
        });
        world.network.partition(&[vec![0, 1, 2], (3..10).collect()]);
        world.run_for(Duration::from_secs(1200));
        assert!(world.view(0, 9) == Some(MemberState::Failed) && world.view(9, 0) == Some(MemberState::Failed));
        world.network.heal();
        world.run_until_all_see_all_alive(Duration::from_secs(30));
    }
}

#[test]
fn a_host_that_is_cut_off_from_all_buries_nobody() {
    for seed in 0..4 {
        let mut world = World::joined(seed, 30);
        world.network.partition(&[vec![7], (0..7).chain(8..30).collect()]);
        world.run_for(Duration::from_secs(10));
        assert!(!world.swim(7).in_contact(), "seed {seed}");
        world.run_for(Duration::from_secs(900));
        let buried = (0..30).filter(|other| world.view(7, *other) == Some(MemberState::Failed)).count();
        assert_eq!(buried, 0, "seed {seed}");
        assert!(world.all_see(7, MemberState::Failed) && world.swim(8).in_contact(), "seed {seed}");
        world.network.heal();
        world.run_until_all_see_all_alive(Duration::from_secs(15));
        assert!(world.swim(7).in_contact(), "seed {seed}");
    }
}

#[test]
fn the_smaller_part_stops_burying_at_half_of_the_fleet_and_says_that_it_is_out_of_contact() {
    for seed in 0..5 {
        let mut world = World::joined(seed, 30);
        world.network.partition(&[(0..8).collect(), (8..30).collect()]);
        world.run_for(Duration::from_secs(60));
        for host in 0..8 {
            assert!(!world.swim(host).in_contact(), "seed {seed} host {host}");
            let buried = (8..30).filter(|other| world.view(host, *other) == Some(MemberState::Failed)).count();
            assert!(buried <= 15, "seed {seed}: host {host} buried {buried} of 22");
        }
        assert!((8..30).all(|host| world.swim(host).in_contact()), "seed {seed}");
        world.network.heal();
        world.run_until_all_see_all_alive(Duration::from_secs(30));
    }
}

#[test]
fn two_halves_of_fifty_find_each_other_again() {
    for seed in 0..2 {
        let mut world = World::joined(seed, 50);
        world.network.partition(&[(0..25).collect(), (25..50).collect()]);
        world.run_for(Duration::from_secs(1200));
        world.network.heal();
        let time = world.run_until_all_see_all_alive(Duration::from_secs(30));
        println!("seed {seed}: {time:?}");
    }
}
