//! What this host says of itself and its services, as in the agent's `owner/services.rs` and `own.rs`: versions that only rise,
//! tombstones, the floor after a restart, and the goodbye.

use std::time::Duration;

use bytes::Bytes;
use weft::catalog::Relay;
use weft::model::{Header, Record, RecordKind, Version};

use super::super::driven::{Effect, End, Now};
use super::Weft;
use super::records::{item_of, service_key, sign};

/// Between what a host publishes anew and the floor that voids what it said before.
const FLOOR_DELAY: Duration = Duration::from_secs(10);
/// At a start the floor waits for services that have not been announced again yet, this long at most.
const FLOOR_DELAY_MAX: Duration = Duration::from_secs(30);
/// Withdrawn services are told everybody before the goodbye, this long at most.
const DRAIN_DELAY: Duration = Duration::from_secs(1);
/// The goodbye takes this long at most.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A service that is registered here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    pub(crate) revision: u64,
    published: bool,
}

/// A floor to be published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    version: Version,
    earliest: Now,
    latest: Now,
}

impl Weft {
    /// Publishes this host and its services for the first time in this start.
    pub(super) fn introduce(&mut self) {
        if self.catalog.is_none() {
            return;
        }
        // Fleets without own records measure what else is said: in them a floor, which travels as such a record does, has no place.
        if self.setup.node_bytes.is_some() {
            let version = Version { epoch: self.version.epoch, sequence: 0 };
            self.floor = Some(Floor { version, earliest: FLOOR_DELAY, latest: FLOOR_DELAY_MAX });
        }
        self.publish_node(Now::ZERO);
        let services: Vec<(u32, u64)> = self.disk.services.iter().map(|(id, revision)| (*id, *revision)).collect();
        for (id, revision) in services {
            self.services.insert(id, Service { revision, published: false });
            self.publish_service(Now::ZERO, id);
        }
    }

    /// Registers a service, or changes it; gives the item that the observer may follow.
    pub(crate) fn register(&mut self, now: Now, service: u32, revision: u64) -> Option<u64> {
        self.disk.services.insert(service, revision);
        self.services.insert(service, Service { revision, published: false });
        let item = self.publish_service(now, service);
        self.settle(now);
        item
    }

    pub(crate) fn deregister(&mut self, now: Now, service: u32) {
        self.disk.services.remove(&service);
        if let Some(known) = self.services.remove(&service)
            && (known.published || self.floor.is_some())
        {
            self.bury(now, service);
        }
        self.settle(now);
    }

    /// The revisions of what is registered, by the key of its record; nothing once the host withdraws.
    pub(crate) fn registered(&self) -> std::collections::BTreeMap<Vec<u8>, u64> {
        let services = self.services.iter().filter(|(_, service)| service.published);
        services.map(|(id, service)| (service_key(*id).to_vec(), service.revision)).collect()
    }

    /// Withdraws what is registered, then says goodbye.
    pub(crate) fn leave(&mut self, now: Now) {
        if self.leaving.is_none() {
            self.leaving = Some((now, false));
            let services: Vec<u32> = self.services.keys().copied().collect();
            services.into_iter().for_each(|service| self.bury(now, service));
        }
        self.settle(now);
    }

    pub(super) fn keep_leaving(&mut self, now: Now) {
        let Some((since, said_goodbye)) = self.leaving else { return };
        if said_goodbye {
            if now >= since + LEAVE_TIMEOUT {
                self.effects.push_back(Effect::End(End::Left));
            }
            return;
        }
        let telling = self.catalog.as_ref().is_some_and(weft::catalog::Catalog::is_telling);
        if !telling || now >= since + DRAIN_DELAY {
            // The second phase begins.
            self.leaving = Some((now, true));
            self.swim.leave(now);
            self.after_swim(now);
        }
    }

    pub(super) fn leave_due(&self) -> Option<Now> {
        self.leaving.map(|(since, said)| since + if said { LEAVE_TIMEOUT } else { DRAIN_DELAY })
    }

    /// Publishes everything anew, and voids all below `version` when that has spread.
    pub(super) fn republish(&mut self, now: Now, version: Version) {
        self.publish_node(now);
        let services: Vec<u32> = self.services.keys().copied().collect();
        for service in services {
            self.publish_service(now, service);
        }
        let earliest = now + FLOOR_DELAY;
        let latest = self.floor.map_or(earliest, |pending| pending.latest.max(earliest));
        self.floor = Some(Floor { version, earliest, latest });
    }

    pub(super) fn keep_floor(&mut self, now: Now) {
        let all_announced = self.services.values().all(|service| service.published);
        let is_due = |floor: &mut Floor| floor.latest <= now || (floor.earliest <= now && all_announced);
        if let Some(Floor { version, .. }) = self.floor.take_if(is_due) {
            let record = self.sign(RecordKind::FLOOR, Bytes::new(), Some(&Record::floor_body(version)));
            self.merge(now, record, Relay::Eager);
        }
    }

    pub(super) fn floor_due(&self) -> Option<Now> {
        let floor = self.floor?;
        Some(if floor.earliest > self.now { floor.earliest } else { floor.latest })
    }

    fn publish_node(&mut self, now: Now) {
        if let Some(bytes) = self.setup.node_bytes {
            let record = self.sign(RecordKind::NODE, Bytes::new(), Some(&vec![0x17; bytes]));
            self.merge(now, record, Relay::Eager);
        }
    }

    fn publish_service(&mut self, now: Now, service: u32) -> Option<u64> {
        if self.leaving.is_some() || self.catalog.is_none() {
            return None;
        }
        let known = self.services.get_mut(&service)?;
        known.published = true;
        let mut body = known.revision.to_be_bytes().to_vec();
        body.resize(self.setup.service_bytes.max(body.len()), 0x2a);
        let record = self.sign(RecordKind::SERVICE, service_key(service), Some(&body));
        let item = item_of(&record);
        self.merge(now, record, Relay::Eager);
        Some(item)
    }

    fn bury(&mut self, now: Now, service: u32) {
        let record = self.sign(RecordKind::SERVICE, service_key(service), None);
        self.merge(now, record, Relay::Eager);
        if let Some(service) = self.services.get_mut(&service) {
            service.published = false;
        }
    }

    fn sign(&mut self, kind: RecordKind, key: Bytes, body: Option<&[u8]>) -> Record {
        self.version.sequence += 1;
        let header =
            Header { origin: self.node, version: self.version, kind, format: 1, tombstone: body.is_none(), key };
        Record::sign(&header, body.unwrap_or_default(), sign).expect("simulated records are small")
    }
}
