//! What this host says of itself and of its services: published, changed, renewed and withdrawn.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::super::own::OwnError;
use super::Owner;
use crate::config::{CheckDefinition, ServiceDefinition};
use crate::health;
use crate::identity::Identity;
use crate::model::{CheckStatus, Now, ServiceId, Version};

/// Between what a host publishes anew and the floor that voids what it said before: time for the former to spread.
const FLOOR_DELAY: Duration = Duration::from_secs(10);
const OUTPUT_LOG_CHARS_MAX: usize = 200;

impl Owner {
    /// Publishes this host and its services, and voids what its earlier starts said.
    pub(in crate::agent) fn introduce(&mut self, services: Vec<ServiceDefinition>) -> Result<(), OwnError> {
        let now = self.now();
        for definition in self.granted(services) {
            self.services.insert(definition.instance.id.clone(), with_initial_checks(definition));
        }
        let floor = Version { epoch: self.own.version().epoch, sequence: 0 };
        self.republish(now, floor)
    }

    /// The services that this host's certificate lets it speak for. Others would drop the rest; so does it, and says so.
    fn granted(&self, mut definitions: Vec<ServiceDefinition>) -> Vec<ServiceDefinition> {
        definitions.retain(|definition| {
            let service = &definition.instance.service;
            let granted = self.gate.grants(self.local, service);
            if !granted {
                error!(
                    %service, file = definition.source, grants = self.identity.grants.join(", "),
                    "this host's certificate does not grant the service, so it is not published: enrol again with a token \
                     made with --service {service}"
                );
            }
            granted
        });
        definitions
    }

    /// Publishes everything anew and voids all below `floor`.
    pub(super) fn republish(&mut self, now: Now, floor: Version) -> Result<(), OwnError> {
        let key = &self.identity.record_key;
        let mut records = vec![self.own.node(key, &self.own_facts)?];
        for definition in self.services.values() {
            records.push(self.own.service(key, &definition.instance)?);
        }
        records.into_iter().for_each(|record| self.take_own(now, record));
        self.floor_at = Some((Instant::now() + FLOOR_DELAY, floor));
        Ok(())
    }

    /// Publishes the floor that is due. It comes after what it must not take along: a host that got it first would drop
    /// this host's services until they are repaired.
    pub(super) fn keep_floor(&mut self, now: Now) {
        let Some((_, floor)) = self.floor_at.take_if(|(due, _)| *due <= Instant::now()) else { return };
        match self.own.floor(&self.identity.record_key, floor) {
            Ok(record) => self.take_own(now, record),
            Err(error) => error!(%error, "what earlier starts of this host said could not be voided"),
        }
    }

    /// A renewed certificate: from now on this host proves itself by it.
    pub(in crate::agent) fn renew(&mut self, identity: Arc<Identity>) -> Result<(), OwnError> {
        self.own_facts.certificates.clone_from(&identity.certificates);
        self.identity = identity;
        self.gate.know_self(&self.identity);
        let record = self.own.node(&self.identity.record_key, &self.own_facts)?;
        let now = self.now();
        self.take_own(now, record);
        Ok(())
    }

    /// Replaces the host's services; what has not changed is not published again. Returns how many changed.
    pub(in crate::agent) fn replace_services(
        &mut self,
        definitions: Vec<ServiceDefinition>,
    ) -> Result<usize, OwnError> {
        let now = self.now();
        let definitions = self.granted(definitions);
        let wanted: HashSet<ServiceId> = definitions.iter().map(|d| d.instance.id.clone()).collect();
        let gone: Vec<ServiceId> = self.services.keys().filter(|id| !wanted.contains(*id)).cloned().collect();
        let mut changed = gone.len();
        for id in gone {
            let record = self.own.withdrawn(&self.identity.record_key, id.as_str())?;
            self.services.remove(&id);
            self.take_own(now, record);
        }
        for definition in definitions {
            let definition = match self.services.get(&definition.instance.id) {
                Some(old) => with_checks_of(definition, old),
                None => with_initial_checks(definition),
            };
            let id = definition.instance.id.clone();
            let same = self.services.get(&id).is_some_and(|old| old.instance == definition.instance);
            if !same {
                let record = self.own.service(&self.identity.record_key, &definition.instance)?;
                self.take_own(now, record);
                changed += 1;
            }
            self.services.insert(id, definition);
        }
        Ok(changed)
    }

    /// The host's zone and metadata, from a reload.
    pub(in crate::agent) fn set_place(&mut self, zone: &str, meta: &BTreeMap<String, String>) -> Result<(), OwnError> {
        if self.own_facts.zone == zone && self.own_facts.meta == *meta {
            return Ok(());
        }
        zone.clone_into(&mut self.own_facts.zone);
        self.own_facts.meta.clone_from(meta);
        let record = self.own.node(&self.identity.record_key, &self.own_facts)?;
        let now = self.now();
        self.take_own(now, record);
        Ok(())
    }

    /// A check's verdict has changed.
    pub(in crate::agent) fn on_health(&mut self, event: &health::Event) {
        let health::Event::Verdict { service: Some(service), check: id, health, output } = event else { return };
        let Some(definition) = self.services.get_mut(service) else { return };
        let Some(check) = definition.instance.checks.iter_mut().find(|check| check.id == *id) else { return };
        if check.health == *health {
            return;
        }
        info!(%service, check = %id, from = %check.health, to = %health, output = first_line(output), "health changed");
        let before = std::mem::replace(&mut check.health, *health);
        match self.own.service(&self.identity.record_key, &definition.instance) {
            Ok(record) => {
                let now = self.now();
                self.take_own(now, record);
            }
            Err(error) => {
                // Left as it was published, so that the next verdict is news again.
                if let Some(check) = definition.instance.checks.iter_mut().find(|check| check.id == *id) {
                    check.health = before;
                }
                error!(%error, "a health change could not be published");
            }
        }
    }
}

fn with_initial_checks(mut definition: ServiceDefinition) -> ServiceDefinition {
    definition.instance.checks = statuses(&definition, None);
    definition
}

fn with_checks_of(mut definition: ServiceDefinition, old: &ServiceDefinition) -> ServiceDefinition {
    definition.instance.checks = statuses(&definition, Some(old));
    definition
}

/// What a log line shows of a check's output: services write it, so it may neither forge lines nor fill the log.
fn first_line(output: &str) -> String {
    output.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(OUTPUT_LOG_CHARS_MAX).collect()
}

/// The statuses of a definition's checks: kept where the check is the same, else as at its start.
fn statuses(definition: &ServiceDefinition, old: Option<&ServiceDefinition>) -> Vec<CheckStatus> {
    let kept = |id: &str| {
        let old = old?;
        let same =
            old.checks.iter().find(|check| check.id == id) == definition.checks.iter().find(|check| check.id == id);
        let status = old.instance.checks.iter().find(|status| status.id == id)?;
        same.then_some(status.health)
    };
    let status = |check: &CheckDefinition| CheckStatus {
        id: check.id.clone(),
        name: check.name.clone(),
        kind: check.kind.as_str().to_owned(),
        health: kept(&check.id).unwrap_or(check.initial),
    };
    definition.checks.iter().map(status).collect()
}
