//! The network is cut, and heals. Whoever is beyond the cut comes back without help.

use std::time::Duration;

use crate::engine::State;
use crate::engine::weft::Fleet;
use crate::joined;

#[test]
fn a_healed_partition_of_three_hosts_rejoins_by_itself() {
    for seed in 0..20 {
        let mut fleet = joined(seed, 3);
        fleet.network().partition(&[vec![0], vec![1, 2]]);
        let buried = |fleet: &Fleet| fleet.view(1, 0) == Some(State::Failed);
        fleet.run_until(Duration::from_secs(15), "the cut is noticed", buried);
        fleet.run_for(Duration::from_secs(120));
        fleet.network().heal();
        fleet.run_until_all_see_all_alive(Duration::from_secs(30));
    }
}

#[test]
fn a_healed_partition_rejoins_without_seeds_too() {
    for seed in 0..10 {
        let mut fleet = joined(seed, 10);
        (0..10).for_each(|host| fleet.world.act(host, |weft, _| weft.swim.set_seeds(Vec::new())).expect("it runs"));
        fleet.network().partition(&[vec![0, 1, 2], (3..10).collect()]);
        fleet.run_for(Duration::from_secs(1200));
        assert!(fleet.view(0, 9) == Some(State::Failed) && fleet.view(9, 0) == Some(State::Failed));
        fleet.network().heal();
        fleet.run_until_all_see_all_alive(Duration::from_secs(30));
    }
}

#[test]
fn a_host_that_is_cut_off_from_all_buries_nobody() {
    for seed in 0..4 {
        let mut fleet = joined(seed, 30);
        fleet.network().partition(&[vec![7], (0..7).chain(8..30).collect()]);
        fleet.run_for(Duration::from_secs(10));
        assert!(!fleet.swim(7).in_contact(), "seed {seed}");
        fleet.run_for(Duration::from_secs(900));
        let buried = (0..30).filter(|other| fleet.view(7, *other) == Some(State::Failed)).count();
        assert_eq!(buried, 0, "seed {seed}");
        assert!(fleet.all_see(7, State::Failed) && fleet.swim(8).in_contact(), "seed {seed}");
        fleet.network().heal();
        fleet.run_until_all_see_all_alive(Duration::from_secs(15));
        assert!(fleet.swim(7).in_contact(), "seed {seed}");
    }
}

#[test]
fn the_smaller_part_stops_burying_at_half_of_the_fleet_and_says_that_it_is_out_of_contact() {
    for seed in 0..5 {
        let mut fleet = joined(seed, 30);
        fleet.network().partition(&[(0..8).collect(), (8..30).collect()]);
        fleet.run_for(Duration::from_secs(60));
        for host in 0..8 {
            assert!(!fleet.swim(host).in_contact(), "seed {seed} host {host}");
            let buried = (8..30).filter(|other| fleet.view(host, *other) == Some(State::Failed)).count();
            assert!(buried <= 15, "seed {seed}: host {host} buried {buried} of 22");
        }
        assert!((8..30).all(|host| fleet.swim(host).in_contact()), "seed {seed}");
        fleet.network().heal();
        fleet.run_until_all_see_all_alive(Duration::from_secs(30));
    }
}

#[test]
fn two_halves_of_fifty_find_each_other_again() {
    for seed in 0..2 {
        let mut fleet = joined(seed, 50);
        fleet.network().partition(&[(0..25).collect(), (25..50).collect()]);
        fleet.run_for(Duration::from_secs(1200));
        fleet.network().heal();
        let time = fleet.run_until_all_see_all_alive(Duration::from_secs(30));
        println!("seed {seed}: {time:?}");
    }
}
