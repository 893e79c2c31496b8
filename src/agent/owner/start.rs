//! The beginning of a run: the catalog of the last one, this host's services from files, and what came by the API before.

use std::collections::BTreeSet;

use tracing::{error, warn};

use super::super::kept::Stored;
use super::super::own::OwnError;
use super::Owner;
use super::changes::Files;
use super::registry::{API_SOURCE, Maintenance, Origin, OwnService};
use crate::config::{CheckRegistration, ServiceDefinition};
use crate::model::{Record, RecordKind, ServiceId};
use crate::store::{FileChange, Registration};

impl Owner {
    /// Takes the catalog of the last run: shown at once, offered to nobody, verified before it was stored.
    pub(in crate::agent) fn restore(&mut self, records: Vec<Record>) {
        self.has_foreign_records = records.iter().any(|record| record.origin() != self.local);
        let (nodes, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.header().kind == RecordKind::NODE);
        for record in nodes.into_iter().chain(others) {
            // This host's own are published anew, from its files and registrations.
            if record.origin() == self.local {
                continue;
            }
            if self.quarantine.holds(&record) {
                self.out.store.remove_record(record.id());
                continue;
            }
            let gate = &mut self.gate;
            let recalled = self.quarantine.watch(&record, || gate.recall(&record)).flatten();
            if let Some(admitted) = recalled
                && self.catalog.restore(record.clone())
            {
                self.note(&record, &admitted);
            }
        }
    }

    /// Takes what files say and what came by the API before, files first; publishes what may be published at once.
    pub(in crate::agent) fn introduce(&mut self, files: Files, stored: Stored) -> Result<(), OwnError> {
        for definition in self.granted(files.services) {
            let id = definition.instance.id.clone();
            self.registry.services.insert(id, OwnService::new(definition, Origin::File));
        }
        self.registry.file_checks = files.checks;
        let Stored { services, checks, maintenance, policies, histories } = stored;
        let services = self.granted(services.into_iter().map(from_api).collect());
        let mut taken: BTreeSet<String> = self.registry.all_checks().into_iter().map(|(_, check)| check.id).collect();
        services.into_iter().for_each(|definition| self.recall_service(definition, &mut taken));
        checks.into_iter().for_each(|registration| self.recall_check(registration, &mut taken));
        self.recall_maintenance(maintenance);
        self.checks_changed();
        self.publish_all()?;
        self.recall_histories(histories);
        self.introduce_policies(&policies);
        self.begin_history();
        Ok(())
    }

    fn recall_service(&mut self, definition: ServiceDefinition, taken: &mut BTreeSet<String>) {
        let id = definition.instance.id.clone();
        let kept = Registration::Service(id.to_string());
        if let Some(other) = self.registry.services.get(&id) {
            let file = &other.definition.source;
            warn!(service = %id, file, "a file defines this service; its registration by the API was set aside");
            return self.set_aside(kept, "replaced");
        }
        if let Some(check) = definition.checks.iter().find(|check| taken.contains(&check.id)) {
            error!(
                service = %id, check = check.id,
                "a check of this registration has an id that is taken: it was set aside; register it anew"
            );
            return self.set_aside(kept, "clashing");
        }
        taken.extend(definition.checks.iter().map(|check| check.id.clone()));
        self.registry.services.insert(id, OwnService::new(definition, Origin::Api));
    }

    fn recall_check(&mut self, registration: CheckRegistration, taken: &mut BTreeSet<String>) {
        let CheckRegistration { service, check } = registration;
        let kept = Registration::Check(check.id.clone());
        if !taken.insert(check.id.clone()) {
            warn!(check = check.id, "a file or a registration defines this check; what came by the API was set aside");
            return self.set_aside(kept, "replaced");
        }
        match service {
            None => drop(self.registry.added_checks.insert(check.id.clone(), check)),
            Some(id) => match self.registry.services.get_mut(&id) {
                Some(service) => drop(service.added.insert(check.id.clone(), check)),
                None => {
                    warn!(check = check.id, service = %id, "there is no such service: its check was set aside");
                    self.set_aside(kept, "orphaned");
                }
            },
        }
    }

    fn recall_maintenance(&mut self, maintenance: Maintenance) {
        self.registry.maintenance = maintenance.node;
        for (id, reason) in maintenance.services {
            let service = ServiceId::parse(&id).ok().and_then(|id| self.registry.services.get_mut(&id));
            match service {
                Some(service) => service.maintenance = Some(reason),
                None => warn!(service = id, "a service that is not there any more was in maintenance"),
            }
        }
    }

    /// Nobody waits for it: the log has what fails.
    fn set_aside(&self, kept: Registration, why: &'static str) {
        drop(self.out.store.change_files(vec![FileChange::SetAside(kept, why)]));
    }
}

fn from_api(mut definition: ServiceDefinition) -> ServiceDefinition {
    API_SOURCE.clone_into(&mut definition.source);
    definition.instance.checks.clear();
    definition
}
