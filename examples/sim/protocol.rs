//! What is compared: Weft, memberlist with its LAN parameters, plain SWIM. Each makes fleets that have known each other for
//! long, and spreads a payload in its own way: Weft as a record of its catalog, the others as a user event of Serf.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use crate::engine::memberlist::{Memberlist, Parameters};
use crate::engine::weft::fleet::catalogs_differ;
use crate::engine::weft::{Fleet, Setup, Weft};
use crate::engine::{Core, World};
use weft::catalog::Peer;
use weft::model::{Claim, MemberState, NodeId};

/// A change's payload in every scenario.
pub(crate) const PAYLOAD_BYTES: usize = 200;

/// Fleets are left alone for so long before anything is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// In this time every host's own record, and the floor that follows it after 10 s, are everywhere.
const INTRODUCE: Duration = Duration::from_secs(60);
/// A host's own record as an agent writes it: its facts, and a certificate.
const NODE_BYTES: usize = 700;

/// One of the compared.
pub(crate) trait Protocol {
    /// What a host runs.
    type Core: Core;
    /// As it is called in tables.
    const NAME: &'static str;

    /// Running hosts that know each other.
    fn known_to_each_other(seed: u64, hosts: u32) -> World<Self::Core>;

    /// A host spreads its `number`th payload. Gives the item that the observer sees it as.
    fn publish(world: &mut World<Self::Core>, host: u32, number: u32) -> u64;

    /// Running hosts that have known each other for a while.
    fn settled(seed: u64, hosts: u32) -> World<Self::Core> {
        let mut world = Self::known_to_each_other(seed, hosts);
        world.run_for(SETTLE);
        world
    }

    /// The same, where each host has said to all what it says of itself.
    fn introduced(seed: u64, hosts: u32) -> World<Self::Core> {
        Self::settled(seed, hosts)
    }

    /// True if all running hosts hold the same, beside what the observer follows.
    fn is_equal(_world: &World<Self::Core>) -> bool {
        true
    }
}

/// What this project builds.
pub(crate) struct WeftAgents;
/// memberlist's LAN parameters, under Serf.
pub(crate) struct MemberlistAgents;
/// SWIM with suspicion, without Lifeguard.
pub(crate) struct SwimAgents;

impl Protocol for WeftAgents {
    type Core = Weft;
    const NAME: &'static str = "Weft";

    fn known_to_each_other(seed: u64, hosts: u32) -> World<Weft> {
        // Hosts' own records would be the same N² bytes in every scenario; only what the scenario publishes is carried.
        agents(seed, hosts, None)
    }

    fn introduced(seed: u64, hosts: u32) -> World<Weft> {
        let mut world = agents(seed, hosts, Some(NODE_BYTES));
        world.run_for(INTRODUCE);
        let held = world.core(0).map_or(0, |weft| weft.held().count());
        assert!(Self::is_equal(&world) && held >= hosts as usize, "seed {seed}: not all hosts know all others");
        world
    }

    fn is_equal(world: &World<Weft>) -> bool {
        catalogs_differ(world).is_none()
    }

    fn publish(world: &mut World<Weft>, host: u32, number: u32) -> u64 {
        let act = |weft: &mut Weft, now| weft.register(now, number, u64::from(number));
        world.act(host, act).flatten().expect("a running host with a catalog")
    }
}

fn agents(seed: u64, hosts: u32, node_bytes: Option<usize>) -> World<Weft> {
    let setup = Setup { node_bytes, service_bytes: PAYLOAD_BYTES, ..Setup::default() };
    let mut fleet = Fleet::new(seed, hosts, setup);
    fleet.start_all();
    let claims: Vec<Claim> = (0..hosts).map(|host| fleet.claim(host, MemberState::Alive)).collect();
    let nodes: Vec<NodeId> = claims.iter().map(|claim| claim.node).collect();
    for host in 0..hosts {
        let (claims, nodes) = (claims.clone(), nodes.clone());
        fleet.world.act(host, |weft, now| {
            weft.swim.synced(now, claims);
            // Each would compare its empty catalog with each: N² datagrams that a fleet has long behind it.
            while weft.swim.poll_output().is_some() {}
            weft.catalog
                .iter_mut()
                .for_each(|catalog| catalog.set_peers(nodes.iter().map(|node| Peer::from(*node)).collect()));
        });
    }
    fleet.world
}

fn fleet(seed: u64, hosts: u32, parameters: Parameters) -> World<Memberlist> {
    let mut world = World::new(seed, hosts);
    let parameters = Arc::new(parameters);
    for host in 0..hosts {
        let rng = world.draw_rng();
        world.boot(host, Memberlist::knowing_all(parameters.clone(), host, hosts, rng));
    }
    world
}

fn publish(world: &mut World<Memberlist>, host: u32, number: u32) -> u64 {
    let item = u64::from(host) << 32 | u64::from(number);
    world.act(host, |agent, now| agent.publish(now, item, PAYLOAD_BYTES)).expect("a running host");
    item
}

impl Protocol for MemberlistAgents {
    type Core = Memberlist;
    const NAME: &'static str = "memberlist";

    fn known_to_each_other(seed: u64, hosts: u32) -> World<Memberlist> {
        fleet(seed, hosts, Parameters::memberlist_lan())
    }

    fn publish(world: &mut World<Memberlist>, host: u32, number: u32) -> u64 {
        publish(world, host, number)
    }
}

impl Protocol for SwimAgents {
    type Core = Memberlist;
    const NAME: &'static str = "plain SWIM";

    fn known_to_each_other(seed: u64, hosts: u32) -> World<Memberlist> {
        fleet(seed, hosts, Parameters::plain_swim())
    }

    fn publish(world: &mut World<Memberlist>, host: u32, number: u32) -> u64 {
        publish(world, host, number)
    }
}

/// The choice on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Weft,
    Memberlist,
    Swim,
}

impl Name {
    pub(crate) const ALL: [Name; 3] = [Name::Weft, Name::Memberlist, Name::Swim];
}

/// Runs a generic measurement for the protocol of that name.
macro_rules! with_protocol {
    ($name:expr, $run:ident ( $($argument:expr),* )) => {
        match $name {
            $crate::protocol::Name::Weft => $run::<$crate::protocol::WeftAgents>($($argument),*),
            $crate::protocol::Name::Memberlist => $run::<$crate::protocol::MemberlistAgents>($($argument),*),
            $crate::protocol::Name::Swim => $run::<$crate::protocol::SwimAgents>($($argument),*),
        }
    };
}
pub(crate) use with_protocol;
