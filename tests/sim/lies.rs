//! A holder of the gossip key that says what is not so: every healthy host talks its way out, and can still be missed
//! afterwards.

use std::time::Duration;

use weft::model::{Claim, MemberState};

use crate::world::World;

const INCARNATIONS: [u64; 6] = [0, 1, 1 << 20, 1 << 40, (1 << 62) - 1, u64::MAX];

fn lie(world: &World, about: usize, incarnation: u64, state: MemberState) -> Claim {
    let host = &world.hosts[about];
    Claim {
        node: host.node,
        name: host.name.clone(),
        address: host.address,
        incarnation,
        state,
        from: world.hosts[1].node,
        proof: Vec::new(),
    }
}

#[test]
fn no_claim_about_a_living_host_lasts_whatever_its_incarnation() {
    for state in [MemberState::Alive, MemberState::Suspect, MemberState::Failed, MemberState::Left] {
        for incarnation in INCARNATIONS {
            let mut world = World::joined(3, 6);
            let claim = lie(&world, 2, incarnation, state);
            (0..6).filter(|to| *to != 1).for_each(|to| world.inject(to, 1, vec![claim.clone()]));
            world.run_for(Duration::from_secs(10));
            for host in 0..6 {
                let picture = (state, incarnation, host);
                assert!(world.all_see(host, MemberState::Alive), "{picture:?}");
            }
            world.crash(2);
            world.run_until(Duration::from_secs(15), "the host is missed", |world| {
                world.all_see(2, MemberState::Failed)
            });
        }
    }
}

#[test]
fn a_newcomer_that_was_lied_to_about_a_host_believes_the_host() {
    for incarnation in INCARNATIONS {
        let mut world = World::new(5, 4);
        (0..3).for_each(|host| world.start(host));
        world.run_for(Duration::from_secs(10));
        world.start(3);
        let claim = lie(&world, 2, incarnation, MemberState::Failed);
        world.inject(3, 1, vec![claim]);
        world.run_until_all_see_all_alive(Duration::from_secs(15));
    }
}

#[test]
fn claims_about_hosts_that_do_not_exist_do_not_grow_without_bound() {
    let mut world = World::joined(1, 3);
    let limit = 64;
    world.hosts[0].config.members_max = limit;
    world.hosts[0].save();
    world.crash(0);
    world.run_for(Duration::from_secs(20));
    world.start(0);
    world.run_until_all_see_all_alive(Duration::from_secs(10));
    for number in 0..1000_u64 {
        let mut claim = lie(&world, 2, 0, MemberState::Alive);
        claim.node.0[..8].copy_from_slice(&number.to_be_bytes());
        world.inject(0, 1, vec![claim]);
    }
    world.run_for(Duration::from_millis(10));
    assert!(world.swim(0).members().count() <= limit + 1);
}

#[test]
fn a_wrong_address_is_put_right_by_its_host() {
    for incarnation in [0, 7, 1 << 40] {
        let mut world = World::joined(2, 5);
        let mut claim = lie(&world, 2, incarnation, MemberState::Alive);
        claim.address = world.hosts[4].address;
        (0..5).filter(|to| *to != 1).for_each(|to| world.inject(to, 1, vec![claim.clone()]));
        world.run_for(Duration::from_secs(15));
        for viewer in 0..5 {
            let held = world.swim(viewer).member(world.hosts[2].node).expect("known");
            assert_eq!((held.address, held.state), (world.hosts[2].address, MemberState::Alive), "{incarnation}");
        }
    }
}
