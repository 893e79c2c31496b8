//! A holder of the gossip key that says what is not so. What hosts say of themselves is signed, so he can do no more than accuse;
//! every healthy host talks its way out, and can still be missed afterwards.

use std::time::Duration;

use weft::model::{Claim, MemberState};
use weft::swim::Config;

use crate::engine::State;
use crate::engine::weft::proofs::prove;
use crate::engine::weft::{Fleet, Setup, address_of};
use crate::{fleet, joined};

const INCARNATIONS: [u64; 6] = [0, 1, 1 << 20, 1 << 40, (1 << 62) - 1, u64::MAX];

/// What host 1 says of another, with the proof that it has of it.
fn lie(fleet: &Fleet, about: u32, incarnation: u64, state: MemberState) -> Claim {
    Claim { incarnation, state, from: fleet.node(1), ..fleet.claim(about, MemberState::Alive) }
}

/// An accusation of what the host has really said, which anybody can make.
fn accusation(fleet: &Fleet, about: u32, by: u32, state: MemberState) -> Claim {
    Claim { state, from: fleet.node(by), ..fleet.claim(about, MemberState::Alive) }
}

#[test]
fn no_claim_about_a_living_host_lasts_whatever_its_incarnation() {
    for state in [MemberState::Alive, MemberState::Suspect, MemberState::Failed, MemberState::Left] {
        for incarnation in INCARNATIONS {
            let mut fleet = joined(3, 6);
            let claim = lie(&fleet, 2, incarnation, state);
            (0..6).filter(|to| *to != 1).for_each(|to| fleet.inject(to, 1, vec![claim.clone()]));
            fleet.run_for(Duration::from_secs(10));
            for host in 0..6 {
                let picture = (state, incarnation, host);
                assert!(fleet.all_see(host, State::Alive), "{picture:?}");
            }
            fleet.crash_unsaved(2);
            fleet.run_until(Duration::from_secs(15), "the host is missed", |fleet| fleet.all_see(2, State::Failed));
        }
    }
}

#[test]
fn a_newcomer_that_was_lied_to_about_a_host_believes_the_host() {
    for incarnation in INCARNATIONS {
        let mut fleet = fleet(5, 4);
        (0..3).for_each(|host| fleet.start(host));
        fleet.run_for(Duration::from_secs(10));
        fleet.start(3);
        let claim = lie(&fleet, 2, incarnation, MemberState::Failed);
        fleet.inject(3, 1, vec![claim]);
        fleet.run_until_all_see_all_alive(Duration::from_secs(15));
    }
}

#[test]
fn claims_about_hosts_that_do_not_exist_do_not_grow_without_bound() {
    let mut fleet = joined(1, 3);
    let limit = 64;
    let config = Config { members_max: limit, ..Config::default() };
    fleet.machine(0).setup = Some(Setup { swim: config, ..Setup::members_only().signed() });
    fleet.crash(0);
    fleet.run_for(Duration::from_secs(20));
    fleet.start(0);
    fleet.run_until_all_see_all_alive(Duration::from_secs(10));
    for number in 0..1000_u64 {
        let mut claim = lie(&fleet, 2, 0, MemberState::Alive);
        claim.node.0[..8].copy_from_slice(&number.to_be_bytes());
        // Who makes up a host makes up a key for it too.
        claim.from = claim.node;
        claim.proof = prove(&claim);
        fleet.inject(0, 1, vec![claim]);
    }
    fleet.run_for(Duration::from_millis(10));
    assert!(fleet.swim(0).members().count() <= limit + 1);
}

#[test]
fn a_wrong_address_is_put_right_by_its_host() {
    for incarnation in [0, 7, 1 << 40] {
        let mut fleet = joined(2, 5);
        let mut claim = lie(&fleet, 2, incarnation, MemberState::Alive);
        claim.address = address_of(4);
        (0..5).filter(|to| *to != 1).for_each(|to| fleet.inject(to, 1, vec![claim.clone()]));
        fleet.run_for(Duration::from_secs(15));
        for viewer in 0..5 {
            let held = fleet.swim(viewer).member(fleet.node(2)).expect("known");
            assert_eq!((held.address, held.state), (address_of(2), MemberState::Alive), "{incarnation}");
        }
    }
}

#[test]
fn nothing_that_a_host_did_not_sign_is_heard_at_all() {
    let mut fleet = joined(4, 5);
    fleet.run_for(Duration::from_secs(10));
    let incarnation = fleet.claim(2, MemberState::Alive).incarnation;
    let moved = |incarnation| Claim { address: address_of(4), ..lie(&fleet, 2, incarnation, MemberState::Alive) };
    let forged = [
        lie(&fleet, 2, incarnation + 1, MemberState::Alive),
        lie(&fleet, 2, incarnation, MemberState::Left),
        Claim { from: fleet.node(2), ..lie(&fleet, 2, incarnation, MemberState::Left) },
        moved(incarnation),
        moved(incarnation + 1),
        lie(&fleet, 2, incarnation + 1, MemberState::Suspect),
        lie(&fleet, 2, incarnation + 1, MemberState::Failed),
        Claim { proof: Vec::new(), ..lie(&fleet, 2, incarnation + 1, MemberState::Alive) },
    ];
    let count = forged.len();
    for to in [0, 3, 4] {
        fleet.inject(to, 1, forged.to_vec());
    }
    fleet.run_for(Duration::from_secs(10));
    for to in [0, 3, 4] {
        assert_eq!(fleet.world.core(to).expect("it runs").claims_refused, count);
        let held = fleet.swim(to).member(fleet.node(2)).expect("known");
        assert_eq!((held.state, held.address, held.incarnation), (MemberState::Alive, address_of(2), incarnation));
    }
}

#[test]
fn who_is_called_failed_by_everybody_at_once_is_only_suspected_and_refutes_it() {
    let mut fleet = joined(5, 8);
    for round in 0..20 {
        let state = if round % 2 == 0 { MemberState::Failed } else { MemberState::Suspect };
        for by in 0..8 {
            let claim = accusation(&fleet, 2, by, state);
            (0..8).filter(|to| *to != 2).for_each(|to| fleet.inject(to, 1, vec![claim.clone()]));
        }
        for _ in 0..20 {
            fleet.run_for(Duration::from_millis(100));
            for viewer in (0..8).filter(|viewer| *viewer != 2) {
                let held = fleet.swim(viewer).member(fleet.node(2)).expect("known").state;
                assert!(held.is_living(), "host {viewer} holds it for {held} in round {round}");
            }
        }
        assert!(fleet.all_see(2, State::Alive), "round {round}");
    }
}

#[test]
fn the_dead_are_not_raised_by_what_they_once_said() {
    let mut fleet = joined(6, 6);
    let old = fleet.claim(2, MemberState::Alive);
    fleet.crash_unsaved(2);
    fleet.run_until(Duration::from_secs(15), "the host is missed", |fleet| fleet.all_see(2, State::Failed));
    for _ in 0..50 {
        for to in [0, 3, 4, 5] {
            fleet.inject(to, 1, vec![old.clone(), Claim { incarnation: old.incarnation + 1, ..old.clone() }]);
        }
        fleet.run_for(Duration::from_millis(200));
        assert!(fleet.all_see(2, State::Failed));
    }
}
