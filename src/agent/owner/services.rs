//! What this host says of itself and of its services: announced, changed, renewed and withdrawn.
//!
//! A service is announced once none of its checks stands in the way, for the first time since it was registered; from then
//! on it stays, with its health, until it is deregistered. What an earlier start of this host said stands until the floor,
//! which waits for the first verdicts, so that a restart takes nothing out of use for a moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::own::{OwnError, service_bytes};
use super::Owner;
use super::registry::Origin;
use crate::config::ServiceDefinition;
use crate::identity::{Identity, Voucher};
use crate::model::{CallerUser, Now, ServiceId, Version};

/// Between what a host publishes anew and the floor that voids what it said before: time for the former to spread.
const FLOOR_DELAY: Duration = Duration::from_secs(10);
/// At a start the floor waits for services that have not been announced again yet, this long at most.
const FLOOR_DELAY_MAX: Duration = Duration::from_secs(30);

/// A floor to be published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    version: Version,
    /// Not before.
    earliest: Instant,
    /// By then even if services are still to be announced.
    latest: Instant,
}

impl Owner {
    /// The services that this host's certificate lets it speak for. Others would drop the rest; so does it, and says so.
    pub(super) fn granted(&self, mut definitions: Vec<ServiceDefinition>) -> Vec<ServiceDefinition> {
        definitions.retain(|definition| {
            let service = &definition.instance.service;
            let granted = self.gate.grants(self.local, service);
            if !granted {
                error!(
                    %service, source = definition.source, grants = self.identity.grants.join(", "),
                    "this host's certificate does not grant the service, so it is not published: enrol again with a token \
                     made with --service {service}"
                );
            }
            if let Some(CallerUser { name, uid: None }) = &definition.callers.user {
                warn!(
                    %service, source = definition.source, user = name,
                    "this host has no such user in /etc/passwd, so no program is taken for the service: make the user, or \
                     write its number, and reload"
                );
            }
            granted
        });
        definitions
    }

    /// Publishes this host and its services for the first time in this start, and voids what earlier starts said later.
    pub(super) fn publish_all(&mut self) -> Result<(), OwnError> {
        let floor = Version { epoch: self.own.version().epoch, sequence: 0 };
        let now = Instant::now();
        self.floor = Some(Floor { version: floor, earliest: now + FLOOR_DELAY, latest: now + FLOOR_DELAY_MAX });
        self.own_facts.checks = self.registry.host_statuses(|check| self.pending_checks.contains_key(check));
        let record = self.own.node(&self.identity.record_key, &self.own_facts)?;
        let now = self.now();
        self.take_own(now, record);
        // A file that asks for what cannot be is a mistake to be corrected; what came by the API is named in the log.
        for service in self.registry.services.values().filter(|service| service.origin == Origin::File) {
            service_bytes(&self.registry.instance(service))?;
        }
        let ids: Vec<ServiceId> = self.registry.services.keys().cloned().collect();
        ids.iter().for_each(|id| self.refresh(id));
        Ok(())
    }

    /// Publishes everything that is published anew, and voids all below `floor` when that has spread.
    pub(super) fn republish(&mut self, now: Now, floor: Version) -> Result<(), OwnError> {
        let key = &self.identity.record_key;
        let mut records = vec![self.own.node(key, &self.own_facts)?];
        for service in self.registry.services.values() {
            if let Some(instance) = &service.published {
                records.push(self.own.service(key, instance)?);
            }
        }
        for policy in self.policies.of(self.local) {
            records.push(self.own.policy(key, policy)?);
        }
        records.into_iter().for_each(|record| self.take_own(now, record));
        let earliest = Instant::now() + FLOOR_DELAY;
        let latest = self.floor.map_or(earliest, |pending| pending.latest.max(earliest));
        self.floor = Some(Floor { version: floor, earliest, latest });
        Ok(())
    }

    /// Publishes the floor that is due. It comes after what it must not take along: a host that got it first would drop
    /// this host's services until they are repaired.
    pub(super) fn keep_floor(&mut self, now: Now) {
        let time = Instant::now();
        let all_announced = || self.registry.services.values().all(|service| service.published.is_some());
        let is_due = |floor: &mut Floor| floor.latest <= time || (floor.earliest <= time && all_announced());
        let Some(Floor { version, .. }) = self.floor.take_if(is_due) else { return };
        match self.own.floor(&self.identity.record_key, version) {
            Ok(record) => self.take_own(now, record),
            Err(error) => error!(%error, "what earlier starts of this host said could not be voided"),
        }
    }

    /// When the floor is to be looked at again.
    pub(super) fn floor_due(&self) -> Option<Instant> {
        let floor = self.floor?;
        Some(if floor.earliest > Instant::now() { floor.earliest } else { floor.latest })
    }

    /// Publishes a service as it is now, if it may be and differs from what was published.
    pub(super) fn refresh(&mut self, id: &ServiceId) {
        self.local_dirty = true;
        if self.leaving {
            return;
        }
        let Some(service) = self.registry.services.get(id) else { return };
        let instance = self.registry.instance(service);
        // Under another name it is another service, and has to prove itself again.
        let was_announced = service.published.as_ref().is_some_and(|old| old.service == instance.service);
        let is_announced = was_announced || self.registry.is_ready(service);
        let is_same = service.published.as_ref() == Some(&instance);
        let record_bytes = service_bytes(&instance).unwrap_or_default();
        if let Some(service) = self.registry.services.get_mut(id) {
            service.record_bytes = record_bytes;
        }
        if is_same {
            return;
        }
        if !is_announced {
            return self.withdraw_announced(id);
        }
        if !self.may_publish(id, was_announced) {
            return;
        }
        match self.own.service(&self.identity.record_key, &instance) {
            Ok(record) => {
                if !was_announced {
                    info!(service = %id, name = %instance.service, health = %instance.health(), "announced");
                }
                let now = self.now();
                self.take_own(now, record);
                if let Some(service) = self.registry.services.get_mut(id) {
                    service.published = Some(instance);
                }
            }
            // Left as it was published, so that the next change is news again.
            Err(error) => error!(%error, "a service could not be published"),
        }
    }

    /// Publishes a service, or the host, as it is now.
    pub(super) fn refresh_of(&mut self, service: Option<&ServiceId>) {
        match service {
            Some(id) => self.refresh(id),
            None => self.refresh_host(),
        }
    }

    /// Publishes this host's own checks as they stand, if they differ from what was published.
    pub(super) fn refresh_host(&mut self) {
        self.local_dirty = true;
        let statuses = self.registry.host_statuses(|check| self.pending_checks.contains_key(check));
        if statuses != self.own_facts.checks {
            self.own_facts.checks = statuses;
            self.publish_node();
        }
    }

    /// Publishes what this host says of itself.
    pub(super) fn publish_node(&mut self) {
        match self.own.node(&self.identity.record_key, &self.own_facts) {
            Ok(record) => {
                let now = self.now();
                self.take_own(now, record);
            }
            Err(error) => error!(%error, "this host could not be published"),
        }
    }

    /// The tombstone of a service that is let go, also where only an earlier start of this host has announced it.
    pub(super) fn withdraw_service(&mut self, id: &ServiceId) {
        self.local_dirty = true;
        let is_known = self.registry.services.get(id).is_some_and(|service| service.published.is_some());
        if is_known || self.floor.is_some() {
            self.bury(id);
        }
    }

    fn withdraw_announced(&mut self, id: &ServiceId) {
        if self.registry.services.get(id).is_some_and(|service| service.published.is_some()) {
            self.bury(id);
        }
    }

    fn bury(&mut self, id: &ServiceId) {
        match self.own.withdrawn(&self.identity.record_key, id.as_str()) {
            Ok(record) => {
                let now = self.now();
                self.take_own(now, record);
                if let Some(service) = self.registry.services.get_mut(id) {
                    service.published = None;
                }
            }
            Err(error) => error!(%error, "a service could not be withdrawn"),
        }
    }

    /// Withdraws every service: from now on nobody sends calls here. [`Owner::is_withdrawn`] tells when all have been told.
    pub(in crate::agent) fn withdraw(&mut self) {
        self.leaving = true;
        self.refuse_waiting();
        let ids: Vec<ServiceId> = self.registry.services.keys().cloned().collect();
        ids.iter().for_each(|id| self.withdraw_service(id));
    }

    pub(in crate::agent) fn is_withdrawn(&self) -> bool {
        !self.catalog.is_telling()
    }

    /// A renewed certificate: from now on this host proves itself by it.
    pub(in crate::agent) fn renew(
        &mut self,
        identity: Arc<Identity>,
        voucher: Option<Voucher>,
    ) -> Result<(), OwnError> {
        self.policies.vouch_with(voucher);
        self.own_facts.certificates.clone_from(&identity.certificates);
        self.identity = identity;
        self.gate.know_self(&self.identity);
        let record = self.own.node(&self.identity.record_key, &self.own_facts)?;
        let now = self.now();
        self.take_own(now, record);
        self.note_renewal();
        Ok(())
    }
}
