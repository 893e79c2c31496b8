//! A fleet of Weft hosts: machines with disks and seeds, processes that start from them, and the questions that scenarios ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use weft::model::{Claim, MemberState, NodeId, Probe, SwimMessage};
use weft::swim::Swim;

use super::super::driven::{End, Now, State};
use super::super::network::Network;
use super::super::observe::Sighting;
use super::super::world::World;
use super::proofs;
use super::{Content, Disk, Packet, Setup, Weft, address_of, name_of, node_of};

/// systemd starts an agent again after so long.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// What clocks show when a run begins, in seconds. It counts for the size of what carries the numbers of starts.
const CLOCK_AT_START: u64 = 1_795_474_800;

/// What outlives the processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) disk: Disk,
    pub(crate) seeds: Vec<u32>,
    /// Its own set-up, if it is not the fleet's.
    pub(crate) setup: Option<Setup>,
    /// Its clock stands still, and its starts are only counted.
    pub(crate) no_clock: bool,
    /// The process said goodbye and ended.
    pub(crate) left: bool,
}

pub(crate) struct Fleet {
    pub(crate) world: World<Weft>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) setup: Setup,
    /// Processes that are to be started again, by time.
    restarts: BTreeMap<(Now, u32), ()>,
    revisions: u64,
    /// Hosts that ended because they met their own past.
    pub(crate) met_past: BTreeSet<u32>,
}

impl Fleet {
    /// `count` hosts that are not started yet. All have the first as their seed.
    pub(crate) fn new(seed: u64, count: u32, setup: Setup) -> Fleet {
        let machine = Machine { seeds: vec![0], ..Machine::default() };
        Fleet {
            world: World::new(seed, count),
            machines: vec![machine; count as usize],
            setup,
            restarts: BTreeMap::new(),
            revisions: 0,
            met_past: BTreeSet::new(),
        }
    }

    /// `count` hosts, started together, that know each other.
    pub(crate) fn joined(seed: u64, count: u32, setup: Setup) -> Fleet {
        let mut fleet = Fleet::new(seed, count, setup);
        fleet.start_all();
        fleet.run_until_all_see_all_alive(Duration::from_secs(30));
        fleet.run_for(Duration::from_secs(10));
        fleet
    }

    /// `count` hosts that know each other as if they had for long: without the work of joining, which is O(N²) claims.
    pub(crate) fn settled(seed: u64, count: u32, setup: Setup) -> Fleet {
        let mut fleet = Fleet::new(seed, count, setup);
        fleet.start_all();
        let claims: Vec<Claim> = (0..count).map(|host| fleet.claim(host, MemberState::Alive)).collect();
        for host in 0..count {
            let claims = claims.clone();
            fleet.world.act(host, |weft, now| weft.swim.synced(now, claims));
        }
        fleet
    }

    /// What the host says of itself, in that state.
    pub(crate) fn claim(&self, host: u32, state: MemberState) -> Claim {
        let node = self.node(host);
        let mut claim = Claim {
            node,
            name: name_of(host),
            address: address_of(host),
            incarnation: self.world.core(host).map_or(0, |weft| weft.swim.incarnation()),
            state,
            from: node,
            proof: Vec::new(),
        };
        if self.setup.signed {
            claim.proof = proofs::prove(&claim);
        }
        claim
    }

    pub(crate) fn count(&self) -> u32 {
        self.world.count()
    }

    pub(crate) fn node(&self, host: u32) -> NodeId {
        node_of(host, self.world.host(host).generation)
    }

    pub(crate) fn machine(&mut self, host: u32) -> &mut Machine {
        &mut self.machines[host as usize]
    }

    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.world.network
    }

    pub(crate) fn swim(&self, host: u32) -> &Swim {
        &self.world.core(host).expect("a running host").swim
    }

    // Starts and ends.

    pub(crate) fn start_all(&mut self) {
        (0..self.count()).for_each(|host| self.start(host));
    }

    /// A process starts from what the machine's disk holds.
    pub(crate) fn start(&mut self, host: u32) {
        // The process before may have ended in this very moment: its disk is the machine's.
        self.take_ended();
        let rng = self.world.draw_rng();
        let machine = &mut self.machines[host as usize];
        machine.left = false;
        let setup = machine.setup.clone().unwrap_or_else(|| self.setup.clone());
        let disk = std::mem::take(&mut machine.disk);
        let generation = self.world.host(host).generation;
        let clock = (!machine.no_clock).then(|| CLOCK_AT_START + self.world.now().as_secs());
        let weft = Weft::start(host, generation, setup, disk, &machine.seeds, clock, rng);
        self.world.boot(host, weft);
    }

    /// The process ends without a word. What was on the disk stays.
    pub(crate) fn crash(&mut self, host: u32) {
        if let Some(weft) = self.world.crash(host) {
            self.machines[host as usize].disk = weft.into_disk();
        }
    }

    /// The same, before the member list was written.
    pub(crate) fn crash_unsaved(&mut self, host: u32) {
        self.crash(host);
        self.machine(host).disk.members.clear();
    }

    /// Machine and disk are gone; another takes name and address.
    pub(crate) fn reimage(&mut self, host: u32) {
        self.crash(host);
        let services = std::mem::take(&mut self.machine(host).disk.services);
        self.machine(host).disk = Disk { services, ..Disk::default() };
        self.world.host_mut(host).generation += 1;
    }

    pub(crate) fn leave(&mut self, host: u32) {
        self.world.act(host, Weft::leave);
    }

    /// An operator says that a failed host will not come back; false if it has not failed there.
    pub(crate) fn force_leave(&mut self, host: u32, gone: u32) -> bool {
        let gone = self.node(gone);
        self.world.act(host, |weft, now| weft.force_leave(now, gone).is_ok()).unwrap_or(false)
    }

    /// Registers a service, or changes it, and gives the item to follow.
    pub(crate) fn register(&mut self, host: u32, service: u32) -> Option<u64> {
        self.revisions += 1;
        let revision = self.revisions;
        self.world.act(host, |weft, now| weft.register(now, service, revision)).flatten()
    }

    pub(crate) fn deregister(&mut self, host: u32, service: u32) {
        self.world.act(host, |weft, now| weft.deregister(now, service));
    }

    /// A datagram with claims, out of nowhere, but with a valid seal.
    pub(crate) fn inject(&mut self, to: u32, sender: u32, claims: Vec<Claim>) {
        let content = Content::Swim(SwimMessage { probe: Probe::Gossip, claims });
        let node = self.node(sender);
        let wrapped = self.world.act(sender, |weft, _| weft.wrap(content.clone()));
        let packet = wrapped.unwrap_or(Packet { sender: node, epoch: 1, counter: 1, first: true, content });
        self.world.inject(to, sender, packet);
    }

    // Time.

    /// Runs for `time`. Processes that have to be started again are.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.world.now() + time;
        loop {
            let restart = self.restarts.first_key_value().map(|((at, _), ())| *at);
            let until = restart.map_or(end, |at| at.min(end));
            if !self.world.run_to(until) {
                self.take_ended();
                continue;
            }
            match self.restarts.first_entry().filter(|first| first.key().0 <= until) {
                Some(first) => {
                    let ((_, host), ()) = first.remove_entry();
                    // Somebody may have started it meanwhile.
                    if !self.world.runs(host) {
                        self.start(host);
                    }
                }
                None => return,
            }
        }
    }

    fn take_ended(&mut self) {
        while let Some((host, end, weft)) = self.world.take_ended() {
            self.machines[host as usize].disk = weft.into_disk();
            match end {
                End::Left => self.machines[host as usize].left = true,
                End::OwnPast => {
                    self.met_past.insert(host);
                    self.restarts.insert((self.world.now() + RESTART_AFTER, host), ());
                }
            }
        }
    }

    /// Runs until `done`, looked at every 10 ms, and says how long it took; fails after `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&Fleet) -> bool) -> Duration {
        let start = self.world.now();
        while !done(self) {
            let seed = self.world.seed;
            assert!(
                self.world.now() < start + limit,
                "seed {seed}: not within {limit:?}: {what}\n{}",
                self.world.picture()
            );
            self.run_for(Duration::from_millis(10));
        }
        self.world.now() - start
    }

    pub(crate) fn run_until_all_see_all_alive(&mut self, limit: Duration) -> Duration {
        self.run_until(limit, "all see all alive", |fleet| fleet.world.all_alive())
    }

    // What is held, and what was seen.

    pub(crate) fn running(&self) -> impl Iterator<Item = u32> {
        self.world.running()
    }

    pub(crate) fn view(&self, viewer: u32, subject: u32) -> Option<State> {
        self.world.view(viewer, subject)
    }

    pub(crate) fn all_see(&self, subject: u32, state: State) -> bool {
        self.world.all_see(subject, state)
    }

    /// Keeps all sightings from now on.
    pub(crate) fn watch(&mut self) {
        self.world.observer.keeps_history = true;
        self.world.observer.history.clear();
    }

    pub(crate) fn history(&self) -> &[Sighting] {
        assert!(self.world.observer.keeps_history, "nobody kept the history");
        &self.world.observer.history
    }

    /// How often anybody came to hold the host so since the history began.
    pub(crate) fn times_seen(&self, subject: u32, state: State) -> usize {
        self.history().iter().filter(|seen| seen.host == subject && seen.state == state).count()
    }

    /// Fails if anybody ever held anybody so since the history began.
    pub(crate) fn assert_never(&self, state: State) {
        let seen = self.history().iter().find(|seen| seen.state == state);
        assert_eq!(seen, None, "seed {}", self.world.seed);
    }

    /// True if all running hosts hold the same catalog, byte for byte.
    pub(crate) fn catalogs_equal(&self) -> bool {
        self.catalogs_differ().is_none()
    }

    /// Two running hosts whose catalogs differ.
    pub(crate) fn catalogs_differ(&self) -> Option<(u32, u32)> {
        catalogs_differ(&self.world)
    }
}

/// Two running hosts whose catalogs differ, in as much as a byte.
pub(crate) fn catalogs_differ(world: &World<Weft>) -> Option<(u32, u32)> {
    let mut running = world.running();
    let first = running.next()?;
    let held = |host: u32| world.core(host).into_iter().flat_map(Weft::held);
    running.find(|host| !held(first).eq(held(*host))).map(|host| (first, host))
}
