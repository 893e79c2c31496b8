//! What must hold: at every moment of a storm, and once everything has healed.

use std::collections::BTreeMap;

use weft::model::{NodeId, Record, RecordId, RecordKind, Version};

use super::super::driven::State;
use super::super::weft::{Fleet, Weft, host_of};

/// Calls of one host under way. `catalog` pulls from four peers, `swim` has a handful of exchanges and 32 probes.
const CALLS_MAX: usize = 64;
/// Events that wait for one host in its sockets.
const INBOX_MAX: usize = 1024;
/// What one host may send and receive in a second, streams and all.
const BYTES_PER_SECOND_MAX: u64 = 1_000_000;

/// What a host held, in one life of its process.
#[derive(Debug, Default)]
struct Held {
    life: u32,
    forgets: u64,
    versions: BTreeMap<RecordId, Version>,
}

/// Remembers what was held, to see what must not come back.
pub(super) struct Checker {
    held: BTreeMap<u32, Held>,
}

impl Checker {
    pub(super) fn new() -> Checker {
        Checker { held: BTreeMap::new() }
    }

    /// Says what is unsafe now.
    pub(super) fn unsafe_now(&mut self, fleet: &Fleet) -> Option<String> {
        let running: Vec<u32> = fleet.running().collect();
        running.into_iter().find_map(|host| self.regressed(fleet, host).or_else(|| unbounded(fleet, host)))
    }

    /// A record that is held in an older version than before, in one life of the host's process.
    fn regressed(&mut self, fleet: &Fleet, host: u32) -> Option<String> {
        let weft = fleet.world.core(host)?;
        let life = fleet.world.host(host).life;
        let before = self.held.entry(host).or_default();
        // A host that was forgotten may come again with what others still hold of it.
        if before.life != life || before.forgets != weft.forgets {
            *before = Held { life, forgets: weft.forgets, versions: BTreeMap::new() };
        }
        for record in weft.held() {
            let version = record.version();
            let newest = before.versions.entry(record.id()).or_insert(version);
            if version < *newest {
                let what = if record.header().tombstone { "a tombstone" } else { "a record" };
                return Some(format!("host {host} held {newest} and now {what} of before: {record:?}"));
            }
            *newest = version;
        }
        None
    }

    /// Two hosts that do not see each other as they should.
    pub(super) fn members_wrong(&self, fleet: &Fleet) -> Option<String> {
        for viewer in fleet.running() {
            for subject in (0..fleet.count()).filter(|subject| *subject != viewer) {
                let (view, runs) = (fleet.view(viewer, subject), fleet.world.runs(subject));
                let well = match view {
                    Some(State::Alive) => runs,
                    // A host that lost most others at once buries nobody, for ten minutes.
                    Some(State::Suspect | State::Unknown) => !runs && !fleet.swim(viewer).in_contact(),
                    Some(State::Failed | State::Left) | None => !runs,
                };
                if !well {
                    return Some(format!("host {viewer} holds host {subject} as {view:?}, which runs: {runs}"));
                }
            }
        }
        None
    }

    /// A host that does not hold of another what that one says of itself, or two that differ.
    pub(super) fn catalogs_wrong(&self, fleet: &Fleet) -> Option<String> {
        let running: Vec<u32> = fleet.running().collect();
        let first = fleet.world.core(*running.first()?)?;
        for viewer in &running {
            let weft = fleet.world.core(*viewer)?;
            for origin in &running {
                if let Some(what) = untrue(fleet, weft, *origin) {
                    return Some(format!("host {viewer} of host {origin}: {what}"));
                }
            }
            let both = [first, weft];
            let (ours, theirs) = (current(fleet, first, both), current(fleet, weft, both));
            if ours != theirs {
                let missing = |these: &[&Record], those: &[&Record]| {
                    these.iter().find(|record| !those.contains(record)).map(|record| format!("{record:?}"))
                };
                let (more, less) = (missing(&ours, &theirs), missing(&theirs, &ours));
                return Some(format!("catalogs of {} and {viewer} differ: {more:?} / {less:?}", running[0]));
            }
        }
        None
    }
}

/// What is held of hosts as they are installed now, and what others have confirmed: what the stores of restarted hosts alone
/// speak for is shown there and offered to nobody. Only of hosts that are members to both: what is held of others is let go
/// after an hour, and while who has let go of a host takes nothing of it, who never knew it may have heard of its records.
fn current<'a>(fleet: &Fleet, weft: &'a Weft, both: [&Weft; 2]) -> Vec<&'a Record> {
    let is_member = |of: &Weft, node: NodeId| node == of.node || of.swim.whereabouts(node).is_some();
    let is_current = |record: &&Record| {
        let (host, generation) = host_of(record.origin());
        fleet.world.host(host).generation == generation && both.iter().all(|of| is_member(of, record.origin()))
    };
    weft.confirmed().filter(is_current).collect()
}

/// What a viewer holds of a running host's services that is not what that host has registered.
fn untrue(fleet: &Fleet, viewer: &Weft, origin: u32) -> Option<String> {
    let truth: BTreeMap<Vec<u8>, u64> = fleet.world.core(origin)?.registered();
    let shown = services(viewer, fleet.node(origin));
    let node = fleet.node(origin);
    let held = |weft: &Weft| {
        let confirmed = |record: &Record| if weft.is_confirmed(record) { "" } else { ", unconfirmed" };
        let records = weft.held().filter(|record| record.origin() == node);
        records.map(|record| format!("\n    {record:?}{}", confirmed(record))).collect::<String>()
    };
    (truth != shown).then(|| {
        let own = fleet.world.core(origin).map(held).unwrap_or_default();
        format!("it shows {shown:?}, and there are {truth:?}\n  it holds{}\n  of{own}", held(viewer))
    })
}

fn services(viewer: &Weft, origin: NodeId) -> BTreeMap<Vec<u8>, u64> {
    let of_it = viewer.held().filter(|record| record.origin() == origin);
    let services = of_it.filter(|record| record.header().kind == RecordKind::SERVICE && !record.header().tombstone);
    let revision = |record: &Record| record.body().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    services.map(|record| (record.header().key.to_vec(), revision(record))).collect()
}

/// Something that grows beyond its bound.
fn unbounded(fleet: &Fleet, host: u32) -> Option<String> {
    let machine = fleet.world.host(host);
    if machine.calls.len() > CALLS_MAX {
        return Some(format!("host {host} has {} calls under way", machine.calls.len()));
    }
    if machine.inbox.len() > INBOX_MAX {
        return Some(format!("{} events wait for host {host}", machine.inbox.len()));
    }
    if machine.traffic.peak > BYTES_PER_SECOND_MAX {
        return Some(format!("host {host} sent and received {} bytes in a second", machine.traffic.peak));
    }
    None
}
