//! Weft in the simulator: `swim` and `catalog`, driven as `src/agent/owner` and `src/gossip` drive them. A cheap check stands in
//! for signatures (`proofs` for claims), and sizes are computed instead of encoded (`bytes`); everything else is the real code.
//!
//! This file is the owner's part: inputs to the cores, and what the cores put out. `records` admits and merges what others
//! say, `own` is what this host says, `fleet` has the machines with their disks and starts processes on them.

pub(crate) mod bytes;
pub(crate) mod fleet;
pub(crate) mod own;
pub(crate) mod proofs;
mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft::catalog::{self, Catalog, Peer};
use weft::model::{CatalogMessage, Claim, MemberState, NodeId, NodeName, Probe, Record, SwimMessage, Version, Want};
use weft::swim::{self, Swim};

use super::driven::{Core, Effect, End, Kind, Now, State};

pub(crate) use fleet::Fleet;
use own::{Floor, Service};
use records::{Pulled, Window};

/// The gossip port of every host.
const PORT: u16 = 7946;
/// As `wire::stream::PULL_CHUNK_BYTES_MAX`.
const PULL_CHUNK_BYTES: usize = 256 * 1024;
/// Effects that a host keeps room for.
const EFFECTS_KEPT: usize = 32;
/// Members and strangers are looked at together with others that change within this time.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// `Config::claims_bytes_max` where proofs are left out: a claim of usual length takes 62 bytes then, and 166 with its proof.
const UNSIGNED_CLAIMS_BYTES: usize = 373;

/// How a fleet's hosts are set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) swim: swim::Config,
    /// None: membership only.
    pub(crate) catalog: Option<catalog::Config>,
    /// Bytes of a host's own record's body; none: it publishes no such record, and needs none.
    pub(crate) node_bytes: Option<usize>,
    /// Bytes of a service's record's body, 16 at least.
    pub(crate) service_bytes: usize,
    /// Claims carry proofs, which are checked.
    pub(crate) signed: bool,
    /// Hosts fall into so many zones by turns, as in [`Latency`](super::Latency), and know it. One: there are none.
    pub(crate) zones: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            // As many claims to a datagram as with their proofs.
            swim: swim::Config { claims_bytes_max: UNSIGNED_CLAIMS_BYTES, ..swim::Config::default() },
            catalog: Some(catalog::Config::default()),
            node_bytes: Some(700),
            service_bytes: 200,
            signed: false,
            zones: 1,
        }
    }
}

impl Setup {
    /// Without a catalog.
    pub(crate) fn members_only() -> Setup {
        Setup { catalog: None, node_bytes: None, ..Setup::default() }
    }

    /// The same, with proofs.
    pub(crate) fn signed(self) -> Setup {
        Setup { swim: swim::Config::default(), signed: true, ..self }
    }
}

/// What survives a crash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u64,
    pub(crate) epoch: u64,
    /// How often in a row the host met its own future.
    pub(crate) rises: u64,
    /// The member list as it was written last.
    pub(crate) members: Vec<Claim>,
    /// The catalog's cache.
    pub(crate) records: Vec<Record>,
    /// What is registered here, with the revision of each.
    pub(crate) services: BTreeMap<u32, u64>,
}

/// The id of a host's installation. The first half is spread as a hash's bytes are.
pub(crate) fn node_of(host: u32, generation: u32) -> NodeId {
    let number = u64::from(generation) << 32 | u64::from(host);
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(mixed ^ mixed >> 29).to_be_bytes());
    id[8..12].copy_from_slice(&generation.to_be_bytes());
    id[12..].copy_from_slice(&host.to_be_bytes());
    NodeId(id)
}

/// The host and installation behind an id.
pub(crate) fn host_of(node: NodeId) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes([node.0[at], node.0[at + 1], node.0[at + 2], node.0[at + 3]]);
    (word(12), word(8))
}

pub(crate) fn address_of(host: u32) -> SocketAddr {
    let [_, a, b, c] = (host + 1).to_be_bytes();
    SocketAddr::from(([10, a, b, c], PORT))
}

/// The host at an address; a number that no host has for an address that none has.
fn host_at(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(v4) if v4.ip().octets()[0] == 10 && v4.port() == PORT => {
            (u32::from(*v4.ip()) & 0x00ff_ffff).wrapping_sub(1)
        }
        _ => u32::MAX,
    }
}

pub(crate) fn name_of(host: u32) -> NodeName {
    NodeName::parse(&format!("host-{host}")).expect("a label")
}

fn state_of(state: MemberState) -> State {
    match state {
        MemberState::Unknown => State::Unknown,
        MemberState::Alive => State::Alive,
        MemberState::Suspect => State::Suspect,
        MemberState::Failed => State::Failed,
        MemberState::Left => State::Left,
    }
}

/// One datagram. The seal proves the sender, and has its start and the count of its packets.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) sender: NodeId,
    pub(crate) epoch: u64,
    pub(crate) counter: u64,
    /// Of a machine's first start.
    pub(crate) first: bool,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Swim(SwimMessage),
    Catalog(CatalogMessage),
}

/// A request or reply of a stream. Certificates prove both ends.
#[derive(Debug, Clone)]
pub(crate) enum Stream {
    Sync {
        peer: NodeId,
        expect: Option<NodeId>,
        claims: Vec<Claim>,
    },
    Synced {
        peer: NodeId,
        claims: Vec<Claim>,
    },
    Pull {
        expect: NodeId,
        wants: Vec<Want>,
    },
    /// `left` stays with the side that answers, in truth.
    Records {
        records: Vec<Record>,
        left: Vec<Want>,
    },
    Ping {
        target: NodeId,
    },
    Pong,
}

/// A stream of this host's own that is under way.
#[derive(Debug)]
enum Call {
    Sync { to: SocketAddr },
    Pull { from: NodeId },
    Probe { target: NodeId, number: u64 },
}

/// The owner of both cores on one host.
pub(crate) struct Weft {
    pub(crate) setup: Setup,
    pub(crate) node: NodeId,
    pub(crate) swim: Swim,
    pub(crate) catalog: Option<Catalog>,
    pub(crate) disk: Disk,
    /// The start that its packets are sealed for.
    epoch: u64,
    first: bool,
    version: Version,
    /// Of the last input.
    now: Now,
    pub(crate) services: BTreeMap<u32, Service>,
    floor: Option<Floor>,
    /// Origins whose own record was admitted.
    proven: BTreeSet<NodeId>,
    waiting: HashMap<NodeId, Vec<Record>>,
    waiting_bytes: usize,
    pulled: HashMap<NodeId, Pulled>,
    strangers: BTreeMap<NodeId, Now>,
    save_at: Option<Now>,
    /// Since when it withdraws, and whether it has begun its goodbye.
    leaving: Option<(Now, bool)>,
    rises_here: u32,
    calls: BTreeMap<u64, Call>,
    tokens: u64,
    effects: VecDeque<Effect<Packet, Stream>>,
    /// Of its packets in this start.
    counter: u64,
    windows: HashMap<NodeId, Window>,
    /// Hosts that were let go.
    pub(crate) forgets: u64,
    /// Records that were not what they said.
    pub(crate) refused: u64,
    /// Claims that their host did not sign.
    pub(crate) claims_refused: usize,
}

impl Weft {
    /// The process as it starts from its disk, with the clock's seconds if it has a clock.
    pub(crate) fn start(
        host: u32,
        generation: u32,
        setup: Setup,
        mut disk: Disk,
        seeds: &[u32],
        clock: Option<u64>,
        mut rng: ChaCha8Rng,
    ) -> Weft {
        let first = disk.epoch == 0;
        disk.epoch = (disk.epoch + 1).max(clock.unwrap_or(0));
        let node = node_of(host, generation);
        let swim_rng = ChaCha8Rng::seed_from_u64(rng.random());
        let mut swim = Swim::new(setup.swim.clone(), node, name_of(host), address_of(host), disk.incarnation, swim_rng);
        if setup.signed {
            swim.sign_with(Arc::new(proofs::prove));
        }
        swim.restore(Now::ZERO, std::mem::take(&mut disk.members));
        swim.set_seeds(seeds.iter().filter(|seed| **seed != host).map(|seed| address_of(*seed)).collect());
        let catalog = setup.catalog.clone().map(|config| Catalog::new(config, node, rng));
        let mut weft = Weft {
            setup,
            node,
            swim,
            catalog,
            epoch: disk.epoch,
            first,
            version: Version { epoch: disk.epoch, sequence: 0 },
            disk,
            now: Now::ZERO,
            services: BTreeMap::new(),
            floor: None,
            proven: BTreeSet::from([node]),
            waiting: HashMap::new(),
            waiting_bytes: 0,
            pulled: HashMap::new(),
            strangers: BTreeMap::new(),
            save_at: None,
            leaving: None,
            rises_here: 0,
            calls: BTreeMap::new(),
            tokens: 0,
            effects: VecDeque::new(),
            counter: 0,
            windows: HashMap::new(),
            forgets: 0,
            refused: 0,
            claims_refused: 0,
        };
        weft.restore_records();
        weft.introduce();
        weft.settle(Now::ZERO);
        weft
    }

    /// What its disk holds when the process ends now.
    pub(crate) fn into_disk(self) -> Disk {
        let mut disk = self.disk;
        disk.members = self.swim.snapshot();
        disk.records = self.catalog.iter().flat_map(Catalog::held).cloned().collect();
        disk
    }

    pub(crate) fn wrap(&mut self, content: Content) -> Packet {
        self.counter += 1;
        Packet { sender: self.node, epoch: self.epoch, counter: self.counter, first: self.first, content }
    }

    /// An operator says that a failed host will not come back.
    pub(crate) fn force_leave(&mut self, now: Now, node: NodeId) -> Result<(), swim::ForceLeaveError> {
        let result = self.swim.force_leave(now, node, false);
        self.settle(now);
        result
    }

    /// What the gossip driver lets through.
    fn proven(&mut self, mut claims: Vec<Claim>) -> Vec<Claim> {
        if self.setup.signed {
            let before = claims.len();
            claims.retain(|claim| claim.state == MemberState::Unknown || proofs::is_proven(claim));
            self.claims_refused += before - claims.len();
        }
        claims
    }

    fn token(&mut self, call: Call) -> u64 {
        self.tokens += 1;
        self.calls.insert(self.tokens, call);
        self.tokens
    }

    fn open(&mut self, to: SocketAddr, call: Call, request: Stream) {
        let token = self.token(call);
        self.effects.push_back(Effect::Stream { to: host_at(to), token, fresh: true, request });
    }

    /// The owner's turn: what the cores put out, and what is due besides.
    fn settle(&mut self, now: Now) {
        self.now = now;
        self.after_swim(now);
        self.keep_floor(now);
        self.keep_leaving(now);
        self.after_catalog(now);
        self.save(now);
    }

    /// A member as the cores want it, as in `owner/records.rs`; its zone is known with it, not only from its own record.
    fn peer(&self, node: NodeId) -> Peer {
        let zone = |node| host_of(node).0 % self.setup.zones;
        Peer { node, near: zone(node) == zone(self.node) }
    }

    fn after_swim(&mut self, now: Now) {
        let mut changed = false;
        let (mut alive, mut peers) = (Vec::new(), Vec::new());
        while let Some(output) = self.swim.poll_output() {
            match output {
                swim::Output::Send { to, message, .. } => {
                    let message = self.wrap(Content::Swim(message));
                    self.effects.push_back(Effect::Send { to: host_at(to), message });
                }
                swim::Output::Sync { to, node } => {
                    let claims = self.swim.snapshot();
                    self.open(to, Call::Sync { to }, Stream::Sync { peer: self.node, expect: node, claims });
                }
                swim::Output::StreamProbe { target, to, number } => {
                    self.open(to, Call::Probe { target, number }, Stream::Ping { target });
                }
                swim::Output::Changed { node, state, .. } => {
                    changed = true;
                    if state == MemberState::Alive && node != self.node {
                        alive.push(node);
                    }
                    peers.push((self.peer(node), state.is_living()));
                    let (host, generation) = host_of(node);
                    self.effects.push_back(Effect::Saw { host, generation, state: state_of(state) });
                }
                swim::Output::IncarnationRaised(incarnation) => self.disk.incarnation = incarnation,
                swim::Output::NameConflict { .. } => {}
                swim::Output::Forgotten { node } => {
                    changed = true;
                    peers.push((self.peer(node), false));
                    self.forget_origin(node);
                }
                swim::Output::LeaveDone => self.effects.push_back(Effect::End(End::Left)),
            }
        }
        if self.setup.zones > 1 {
            peers.iter().for_each(|(peer, _)| self.swim.set_near(peer.node, peer.near));
        }
        if let Some(catalog) = self.catalog.as_mut().filter(|_| changed) {
            catalog.change_peers(&peers);
            alive.into_iter().for_each(|node| catalog.met(now, node));
            self.save_at.get_or_insert(now + SAVE_INTERVAL);
        }
    }

    fn after_catalog(&mut self, now: Now) {
        while let Some(output) = self.catalog.as_mut().and_then(Catalog::poll_output) {
            match output {
                catalog::Output::Send { to, message } => {
                    if let Some(address) = self.swim.whereabouts(to).map(|(_, address)| address) {
                        let message = self.wrap(Content::Catalog(message));
                        self.effects.push_back(Effect::Send { to: host_at(address), message });
                    }
                }
                catalog::Output::Pull { from, wants } => {
                    match self.swim.whereabouts(from).map(|(_, address)| address) {
                        Some(to) => self.open(to, Call::Pull { from }, Stream::Pull { expect: from, wants }),
                        None => self.with_catalog(|catalog| catalog.pull_failed(now, from)),
                    }
                }
                catalog::Output::Compact => {
                    let floor = Version { sequence: self.version.sequence + 1, ..self.version };
                    self.republish(now, floor);
                }
            }
        }
    }

    fn with_catalog(&mut self, act: impl FnOnce(&mut Catalog)) {
        if let Some(catalog) = &mut self.catalog {
            act(catalog);
        }
    }

    fn save(&mut self, now: Now) {
        if self.save_at.is_some_and(|at| at <= now) {
            self.save_at = None;
            self.forget_strangers(now);
        }
    }
}

impl Core for Weft {
    type Message = Packet;
    type Stream = Stream;

    fn receive(&mut self, now: Now, from: u32, message: Packet) {
        if !self.opens(&message) {
            return;
        }
        match message.content {
            Content::Swim(swim) => {
                let swim = SwimMessage { claims: self.proven(swim.claims), ..swim };
                self.swim.receive(now, message.sender, address_of(from), swim);
            }
            Content::Catalog(CatalogMessage::Delta(records)) => self.take_deltas(now, message.sender, records),
            Content::Catalog(content) => self.with_catalog(|catalog| catalog.receive(now, message.sender, content)),
        }
        self.settle(now);
    }

    fn stream(&mut self, now: Now, _from: u32, request: Stream) -> Option<Stream> {
        let reply = match request {
            Stream::Sync { peer, expect, claims } => {
                if peer == self.node || expect.is_some_and(|expect| expect != self.node) {
                    return None;
                }
                let reply = Stream::Synced { peer: self.node, claims: self.swim.snapshot() };
                let claims = self.proven(claims);
                self.swim.synced(now, claims);
                self.with_catalog(|catalog| catalog.tell_of(peer));
                Some(reply)
            }
            Stream::Pull { expect, wants } if expect == self.node => {
                let (records, left) = self.catalog.as_ref()?.answer(&wants, PULL_CHUNK_BYTES);
                // An owner that hands out nothing has nothing to hand out, whatever it calls left.
                let left = if records.is_empty() { Vec::new() } else { left };
                Some(Stream::Records { records, left })
            }
            Stream::Ping { target } if target == self.node => Some(Stream::Pong),
            _ => None,
        };
        self.settle(now);
        reply
    }

    fn stream_done(&mut self, now: Now, to: u32, token: u64, reply: Option<Stream>) {
        let Some(call) = self.calls.remove(&token) else { return };
        match (call, reply) {
            (Call::Sync { .. }, Some(Stream::Synced { peer, claims })) => {
                let claims = self.proven(claims);
                self.swim.synced(now, claims);
                self.after_swim(now);
                self.with_catalog(|catalog| catalog.start_sync(now, peer));
            }
            (Call::Sync { to }, _) => self.swim.sync_failed(now, to),
            (Call::Pull { from }, Some(Stream::Records { records, left })) => {
                self.on_pulled(now, from, records, left.is_empty());
                if !left.is_empty() {
                    self.calls.insert(token, Call::Pull { from });
                    let request = Stream::Pull { expect: from, wants: left };
                    self.effects.push_back(Effect::Stream { to, token, fresh: false, request });
                }
            }
            (Call::Pull { from }, _) => self.on_pull_failed(now, from),
            (Call::Probe { target, number }, reply) => {
                let alive = matches!(reply, Some(Stream::Pong));
                self.swim.stream_probe_result(now, target, number, alive);
            }
        }
        self.settle(now);
    }

    fn tick(&mut self, now: Now) {
        if self.swim.next_timeout().is_some_and(|due| due <= now) {
            self.swim.tick(now);
        }
        self.after_swim(now);
        if let Some(catalog) =
            self.catalog.as_mut().filter(|catalog| catalog.next_timeout().is_some_and(|at| at <= now))
        {
            catalog.tick(now);
        }
        self.settle(now);
    }

    fn next_timeout(&self) -> Option<Now> {
        let catalog = self.catalog.as_ref().and_then(Catalog::next_timeout);
        let own = [self.floor_due(), self.leave_due(), self.save_at];
        [self.swim.next_timeout(), catalog].into_iter().chain(own).flatten().min()
    }

    fn poll(&mut self) -> Option<Effect<Packet, Stream>> {
        let effect = self.effects.pop_front();
        if effect.is_none() && self.effects.capacity() > EFFECTS_KEPT {
            // After a whole fleet was met at once: room for as much again would outweigh what is held of it.
            self.effects.shrink_to(EFFECTS_KEPT);
        }
        effect
    }

    fn view(&self, host: u32, generation: u32) -> Option<State> {
        self.swim.whereabouts(node_of(host, generation)).map(|(state, _)| state_of(state))
    }

    fn bytes(message: &Packet) -> usize {
        bytes::datagram(message)
    }

    fn kind(message: &Packet) -> Kind {
        match &message.content {
            Content::Swim(SwimMessage { probe: Probe::Gossip, .. }) => Kind::Gossip,
            Content::Swim(_) => Kind::Probe,
            Content::Catalog(CatalogMessage::Delta(_) | CatalogMessage::Announce(_)) => Kind::Delta,
            Content::Catalog(_) => Kind::Digest,
        }
    }

    fn stream_bytes(stream: &Stream) -> usize {
        bytes::stream(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_addresses_lead_back_to_their_hosts() {
        for host in [0, 1, 254, 255, 256, 9_999, 65_536] {
            assert_eq!(host_of(node_of(host, 3)), (host, 3));
            assert_eq!(host_at(address_of(host)), host);
        }
        assert_eq!(host_at(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))), u32::MAX);
    }
}
