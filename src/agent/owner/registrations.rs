//! What may be registered, and what is written for it: each change is planned here against things as they are, and
//! refused with what to do about it, before anything is touched.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Owner;
use super::changes::{Ask, Change, Files, Plan};
use super::registry::{
    API_SERVICES_MAX, API_SOURCE, CHECKS_MAX, HOST_CHECKS_MAX, Maintenance, Origin, OwnService, SERVICE_CHECKS_MAX,
    is_maintenance_check, maintenance_status,
};
use crate::agent::own;
use crate::api::Refused;
use crate::config::{CheckDefinition, CheckKind, CheckRegistration, ServiceDefinition};
use crate::model::{Health, ServiceId};
use crate::store::{FileChange, REGISTRATION_BYTES_MAX, Registration};

/// Records of this host's services, together: the catalogs of others hold 40 MiB of one host.
const OWN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A reason is a sentence.
const REASON_BYTES_MAX: usize = 1024;

fn invalid<T>(text: String) -> Result<T, Refused> {
    Err(Refused::Invalid(text))
}

fn no_service(id: &ServiceId) -> Refused {
    Refused::NotFound(format!("no service with the id {:?} is registered on this host", id.as_str()))
}

impl Owner {
    pub(super) fn plan(&self, ask: Ask) -> Result<Plan, Refused> {
        match ask {
            Ask::Register { definition, body, replace_checks } => self.plan_service(definition, body, replace_checks),
            Ask::Deregister { id } => self.plan_no_service(id),
            Ask::Overdue { service, check } => self.plan_overdue(&service, &check),
            Ask::RegisterCheck { registration, body } => self.plan_check(registration, body),
            Ask::DeregisterCheck { id } => self.plan_no_check(id),
            Ask::Maintain { service, reason } => self.plan_maintenance(service, reason),
            Ask::Files(files) => self.plan_files(files),
        }
    }

    fn plan_service(
        &self,
        mut definition: Box<ServiceDefinition>,
        body: Bytes,
        replace_checks: bool,
    ) -> Result<Plan, Refused> {
        check_body(&body)?;
        definition.instance.checks.clear();
        definition.source = API_SOURCE.to_owned();
        let (id, name) = (definition.instance.id.clone(), definition.instance.service.clone());
        let old = self.registry.services.get(&id);
        if let Some(OwnService { origin: Origin::File, definition, .. }) = old {
            let file = &definition.source;
            return invalid(format!("service {id:?} is defined in {file}; change it there, or choose another id"));
        }
        if !self.gate.grants(self.local, &name) {
            return Err(Refused::NotGranted(format!(
                "this host's certificate does not grant the service {name}, but {}; enrol again with a token made with \
                 --service {name}",
                self.identity.grants.join(", ")
            )));
        }
        let from_api = self.registry.services.values().filter(|service| service.origin == Origin::Api);
        if old.is_none() && from_api.count() >= API_SERVICES_MAX {
            return invalid(format!("{API_SERVICES_MAX} services are registered on this host; deregister some first"));
        }
        let mut ids = BTreeSet::new();
        for check in &definition.checks {
            check_may_come(check)?;
            let other = self.registry.standing(&check.id).filter(|standing| standing.service.as_ref() != Some(&id));
            if other.is_some() || !ids.insert(check.id.as_str()) {
                return invalid(format!("the check id {:?} is taken on this host; choose another", check.id));
            }
        }
        let mut trial = OwnService::new((*definition).clone(), Origin::Api);
        let added = old.map(|old| old.added.clone()).unwrap_or_default();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            added.into_iter().partition(|(check, _)| !replace_checks && !ids.contains(check.as_str()));
        trial.added = kept.into_iter().collect();
        self.check_service(&trial)?;
        let dropped: Vec<String> = dropped.into_iter().map(|(check, _)| check).collect();
        let mut files = vec![FileChange::Put(Registration::Service(id.to_string()), body)];
        files.extend(dropped.iter().map(|check| FileChange::Remove(Registration::Check(check.clone()))));
        Ok(Plan { change: Change::PutService { definition, dropped }, files })
    }

    /// Holds a service to the limits: its checks, its record, and the records of all together.
    fn check_service(&self, service: &OwnService) -> Result<(), Refused> {
        let id = &service.definition.instance.id;
        let checks = service.checks().count();
        if checks > SERVICE_CHECKS_MAX {
            return invalid(format!("service {id:?} would have {checks} checks; keep at most {SERVICE_CHECKS_MAX}"));
        }
        let old = self.registry.services.get(id).map_or(0, |old| old.checks().count());
        if checks > old {
            self.check_total(checks - old)?;
        }
        let mut instance = self.registry.instance(service);
        if service.maintenance.is_none() {
            // Maintenance must always be possible.
            instance.checks.extend(maintenance_status(Some(id), Some("")));
        }
        let bytes = own::service_bytes(&instance).map_err(|error| Refused::Invalid(error.to_string()))?;
        let others = self.registry.services.iter().filter(|(other, _)| *other != id);
        let total = bytes + others.map(|(_, other)| other.record_bytes).sum::<usize>();
        if total > OWN_BYTES_MAX {
            return invalid(format!(
                "the services of this host would take {total} bytes in every host's memory; shorten metadata and tags, \
                 or deregister some, to stay within {OWN_BYTES_MAX}"
            ));
        }
        Ok(())
    }

    /// Holds the host to the number of its checks.
    fn check_total(&self, more: usize) -> Result<(), Refused> {
        let count = self.registry.check_count();
        if count + more > CHECKS_MAX {
            return invalid(format!("this host has {count} checks, and {CHECKS_MAX} at most; deregister some first"));
        }
        Ok(())
    }

    fn plan_no_service(&self, id: ServiceId) -> Result<Plan, Refused> {
        let service = self.registry.services.get(&id).ok_or_else(|| no_service(&id))?;
        if service.origin == Origin::File {
            let file = &service.definition.source;
            return invalid(format!("service {id:?} is defined in {file}; remove it there and reload"));
        }
        let mut files = vec![FileChange::Remove(Registration::Service(id.to_string()))];
        files.extend(service.added.keys().map(|check| FileChange::Remove(Registration::Check(check.clone()))));
        if service.maintenance.is_some() {
            let mut maintenance = self.registry.maintenance();
            maintenance.services.remove(id.as_str());
            files.push(put_maintenance(&maintenance)?);
        }
        Ok(Plan { change: Change::DropService(id), files })
    }

    fn plan_overdue(&self, id: &ServiceId, check: &str) -> Result<Plan, Refused> {
        let is_critical = self.registry.standing(check).is_some_and(|standing| standing.health == Health::Critical);
        if !is_critical {
            return invalid("it has recovered meanwhile".to_owned());
        }
        let plan = self.plan_no_service(id.clone())?;
        tracing::warn!(service = %id, check, "deregistered: its check has been critical for too long");
        Ok(plan)
    }

    fn plan_check(&self, registration: Box<CheckRegistration>, body: Bytes) -> Result<Plan, Refused> {
        let CheckRegistration { service, check } = &*registration;
        check_body(&body)?;
        check_may_come(check)?;
        if self.registry.standing(&check.id).is_some() && !self.is_added(&check.id) {
            return invalid(format!(
                "the check id {:?} is taken on this host, by a file or as part of a service's registration; choose another",
                check.id
            ));
        }
        match service {
            Some(id) => {
                let mut trial = self.registry.services.get(id).ok_or_else(|| no_service(id))?.clone();
                trial.added.insert(check.id.clone(), check.clone());
                self.check_service(&trial)?;
            }
            None => {
                let others = self.registry.host_checks().filter(|other| other.id != check.id).count();
                if others >= HOST_CHECKS_MAX {
                    return invalid(format!("this host has {others} checks of its own; deregister some first"));
                }
                self.check_total(usize::from(self.registry.standing(&check.id).is_none()))?;
                let mut facts = self.own_facts.clone();
                facts.checks = self.registry.host_statuses(|_| false);
                facts.checks.extend(maintenance_status(None, Some("")));
                facts.checks.push(crate::model::CheckStatus {
                    id: check.id.clone(),
                    name: check.name.clone(),
                    kind: check.kind.as_str().to_owned(),
                    health: check.initial,
                });
                own::node_bytes(&facts).map_err(|error| Refused::Invalid(error.to_string()))?;
            }
        }
        let files = vec![FileChange::Put(Registration::Check(check.id.clone()), body)];
        Ok(Plan { change: Change::PutCheck(registration), files })
    }

    fn plan_no_check(&self, id: String) -> Result<Plan, Refused> {
        if self.is_added(&id) {
            let files = vec![FileChange::Remove(Registration::Check(id.clone()))];
            return Ok(Plan { change: Change::DropCheck(id), files });
        }
        let of = self.registry.standing(&id).map(|standing| standing.service.as_ref());
        match of.map(|service| service.and_then(|id| self.registry.services.get(id))) {
            None if is_maintenance_check(&id) => {
                invalid(format!("the check {id:?} stands for maintenance; end that instead"))
            }
            None => Err(Refused::NotFound(format!("no check with the id {id:?} is registered on this host"))),
            Some(Some(service)) if service.origin == Origin::Api => invalid(format!(
                "the check {id:?} is part of the registration of service {:?}; register that again without it",
                service.definition.instance.id
            )),
            Some(Some(service)) => {
                invalid(format!("the check {id:?} is defined in {}; remove it there", service.definition.source))
            }
            Some(None) => invalid(format!("the check {id:?} is defined in a file of this host; remove it there")),
        }
    }

    fn plan_maintenance(&self, service: Option<ServiceId>, reason: Option<String>) -> Result<Plan, Refused> {
        if let Some(reason) = reason.as_ref().filter(|reason| reason.len() > REASON_BYTES_MAX) {
            let length = reason.len();
            return invalid(format!("a reason of {length} bytes; shorten it to {REASON_BYTES_MAX}"));
        }
        let mut maintenance = self.registry.maintenance();
        let before = maintenance.clone();
        match &service {
            None => maintenance.node.clone_from(&reason),
            Some(id) if !self.registry.services.contains_key(id) => return Err(no_service(id)),
            Some(id) => match &reason {
                Some(reason) => drop(maintenance.services.insert(id.to_string(), reason.clone())),
                None => drop(maintenance.services.remove(id.as_str())),
            },
        }
        let files = if maintenance == before { Vec::new() } else { vec![put_maintenance(&maintenance)?] };
        Ok(Plan { change: Change::Maintain { service, reason }, files })
    }

    /// What files say goes before what came by the API; of that, what has no place any more is set aside.
    fn plan_files(&self, files: Box<Files>) -> Result<Plan, Refused> {
        let defined: BTreeSet<&ServiceId> = files.services.iter().map(|definition| &definition.instance.id).collect();
        let of_files = files.services.iter().flat_map(|definition| &definition.checks).chain(&files.checks);
        let checks: BTreeSet<&str> = of_files.map(|check| check.id.as_str()).collect();
        let stays = |id: &ServiceId, service: &OwnService| service.origin == Origin::Api || defined.contains(id);
        let mut mistakes = Vec::new();
        let mut changes = Vec::new();
        let mut dropped: Vec<String> = Vec::new();
        for (id, service) in &self.registry.services {
            let is_api = service.origin == Origin::Api;
            if is_api && defined.contains(id) {
                changes.push(FileChange::SetAside(Registration::Service(id.to_string()), "replaced"));
            } else if is_api {
                let clash = service.definition.checks.iter().find(|check| checks.contains(check.id.as_str()));
                mistakes.extend(clash.map(|check| {
                    let id = &check.id;
                    format!("the check id {id:?} of a file is taken by {API_SOURCE}; choose another, or deregister it")
                }));
            }
            let orphans = service.added.keys().filter(|check| !stays(id, service) || checks.contains(check.as_str()));
            dropped.extend(orphans.cloned());
        }
        dropped.extend(self.registry.added_checks.keys().filter(|check| checks.contains(check.as_str())).cloned());
        changes
            .extend(dropped.iter().map(|check| FileChange::SetAside(Registration::Check(check.clone()), "replaced")));
        for definition in &files.services {
            let mut trial = OwnService::new(definition.clone(), Origin::File);
            if let Some(old) = self.registry.services.get(&definition.instance.id) {
                trial.added = old.added.clone();
                trial.added.retain(|check, _| !checks.contains(check.as_str()));
            }
            let instance = self.registry.instance(&trial);
            mistakes.extend(own::service_bytes(&instance).err().map(|error| error.to_string()));
        }
        if !mistakes.is_empty() {
            return invalid(mistakes.join("\n"));
        }
        let before = self.registry.maintenance();
        let mut maintenance = before.clone();
        maintenance.services.retain(|id, _| {
            self.registry.services.iter().any(|(known, service)| known.as_str() == id && stays(known, service))
        });
        if maintenance != before {
            changes.push(put_maintenance(&maintenance)?);
        }
        Ok(Plan { change: Change::Files { files, dropped }, files: changes })
    }

    /// True for a check that came by the API apart from a service's registration.
    fn is_added(&self, check: &str) -> bool {
        match self.registry.standing(check).map(|standing| &standing.service) {
            Some(Some(id)) => self.registry.services.get(id).is_some_and(|service| service.added.contains_key(check)),
            Some(None) => self.registry.added_checks.contains_key(check),
            None => false,
        }
    }
}

/// What is kept must be read again at the next start.
fn check_body(body: &Bytes) -> Result<(), Refused> {
    match body.len() as u64 > REGISTRATION_BYTES_MAX {
        true => invalid(format!("a registration of {} bytes; keep it within {REGISTRATION_BYTES_MAX}", body.len())),
        false => Ok(()),
    }
}

/// Programs are run for files only, and some ids have a meaning of their own.
fn check_may_come(check: &CheckDefinition) -> Result<(), Refused> {
    if matches!(check.kind, CheckKind::Script { .. }) {
        return invalid(format!("the check {:?} runs a program; such checks come from files only", check.id));
    }
    if is_maintenance_check(&check.id) {
        return invalid(format!("the check id {:?} stands for maintenance; choose another", check.id));
    }
    Ok(())
}

fn put_maintenance(maintenance: &Maintenance) -> Result<FileChange, Refused> {
    let json = serde_json::to_vec_pretty(maintenance).map_err(|error| Refused::Failed(error.to_string()))?;
    Ok(FileChange::Put(Registration::Maintenance, json.into()))
}
