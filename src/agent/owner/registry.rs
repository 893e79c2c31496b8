//! What this host registered, from files and by the API, and where its checks stand. Plain data and questions to it: what
//! a service's record says, whether it may be announced, what the API shows. Who changes it is `changes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::{Local, LocalCheck, LocalService};
use crate::config::{CheckDefinition, ServiceDefinition};
use crate::model::{CallerRule, CheckStatus, Health, Instance, ServiceId};

/// Services that came by the API. Each is a file and a record that every host holds.
pub(super) const API_SERVICES_MAX: usize = 4096;
/// Checks of one service, those of its definition and those that were added.
pub(super) const SERVICE_CHECKS_MAX: usize = 64;
/// Checks of the host itself, from files and by the API.
pub(super) const HOST_CHECKS_MAX: usize = 256;
/// Checks of this host in all: eight times what an agent is meant to run, and few enough to be held several times over.
pub(super) const CHECKS_MAX: usize = 16_384;
/// Consul's ids of the checks that stand for maintenance.
const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE_PREFIX: &str = "_service_maintenance:";
/// Where a registration came from, for people.
pub(super) const API_SOURCE: &str = "the API";

/// The id of the check that stands for the maintenance of a service, or of the host.
pub(super) fn maintenance_check(service: Option<&ServiceId>) -> String {
    service.map_or(NODE_MAINTENANCE.to_owned(), |id| format!("{SERVICE_MAINTENANCE_PREFIX}{id}"))
}

/// True for ids that only maintenance may have.
pub(super) fn is_maintenance_check(id: &str) -> bool {
    id == NODE_MAINTENANCE || id.starts_with(SERVICE_MAINTENANCE_PREFIX)
}

/// Where a service came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    File,
    Api,
}

/// One service of this host.
#[derive(Debug, Clone)]
pub(super) struct OwnService {
    pub(super) definition: ServiceDefinition,
    pub(super) origin: Origin,
    /// Checks that came by the API apart from it, by id.
    pub(super) added: BTreeMap<String, CheckDefinition>,
    /// Why it is in maintenance, if it is.
    pub(super) maintenance: Option<String>,
    /// Its record as it was last published; nothing before it is announced.
    pub(super) published: Option<Instance>,
    /// What its record takes, announced or not.
    pub(super) record_bytes: usize,
}

impl OwnService {
    pub(super) fn new(definition: ServiceDefinition, origin: Origin) -> OwnService {
        OwnService { definition, origin, added: BTreeMap::new(), maintenance: None, published: None, record_bytes: 0 }
    }

    /// All of its checks.
    pub(super) fn checks(&self) -> impl Iterator<Item = &CheckDefinition> {
        self.definition.checks.iter().chain(self.added.values())
    }
}

/// Where one check stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whose; `None` is the host's.
    pub(super) service: Option<ServiceId>,
    pub(super) health: Health,
}

/// What `maintenance.json` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::agent) struct Maintenance {
    /// Why the host is in maintenance.
    pub(in crate::agent) node: Option<String>,
    /// Why each service is.
    pub(in crate::agent) services: BTreeMap<String, String>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) services: BTreeMap<ServiceId, OwnService>,
    /// The host's own checks, of files.
    pub(super) file_checks: Vec<CheckDefinition>,
    /// The host's own checks that came by the API.
    pub(super) added_checks: BTreeMap<String, CheckDefinition>,
    /// Why the host is in maintenance, if it is.
    pub(super) maintenance: Option<String>,
    /// Every check, by id.
    standings: BTreeMap<String, Standing>,
}

impl Registry {
    /// Whose check it is and where it stands.
    pub(super) fn standing(&self, check: &str) -> Option<&Standing> {
        self.standings.get(check)
    }

    /// How many checks there are.
    pub(super) fn check_count(&self) -> usize {
        self.standings.len()
    }

    /// Takes a verdict; gives what was before. `None` where nothing changed.
    pub(super) fn take_verdict(&mut self, service: Option<&ServiceId>, check: &str, health: Health) -> Option<Health> {
        let standing = self.standings.get_mut(check).filter(|standing| standing.service.as_ref() == service)?;
        let before = std::mem::replace(&mut standing.health, health);
        (before != health).then_some(before)
    }

    /// Makes the standings those of the checks that there are. As in the runner, a check that stays keeps its verdict,
    /// however it is defined now.
    pub(super) fn settle(&mut self) {
        let mut former = std::mem::take(&mut self.standings);
        let mut standings = BTreeMap::new();
        for (service, check) in self.each_check() {
            let health = former.remove(&check.id).map_or(check.initial, |standing| standing.health);
            let standing = Standing { service: service.cloned(), health };
            // Of two checks of one id, which neither files nor the API can make, the first counts.
            standings.entry(check.id.clone()).or_insert(standing);
        }
        self.standings = standings;
    }

    /// All checks that are run, each with whose it is.
    pub(super) fn all_checks(&self) -> Vec<(Option<ServiceId>, CheckDefinition)> {
        self.each_check().map(|(service, check)| (service.cloned(), check.clone())).collect()
    }

    fn each_check(&self) -> impl Iterator<Item = (Option<&ServiceId>, &CheckDefinition)> + use<'_> {
        let of_services =
            self.services.iter().flat_map(|(id, service)| service.checks().map(move |check| (Some(id), check)));
        of_services.chain(self.host_checks().map(|check| (None, check)))
    }

    /// The host's own checks.
    pub(super) fn host_checks(&self) -> impl Iterator<Item = &CheckDefinition> {
        self.file_checks.iter().chain(self.added_checks.values())
    }

    /// What the service's record says.
    pub(super) fn instance(&self, service: &OwnService) -> Instance {
        let mut instance = service.definition.instance.clone();
        instance.checks = self.statuses(service.checks());
        instance.checks.extend(maintenance_status(Some(&instance.id), service.maintenance.as_deref()));
        instance
    }

    /// The statuses of the host's own checks, maintenance among them, but for those that `is_pending` tells to hold back.
    pub(super) fn host_statuses(&self, is_pending: impl Fn(&str) -> bool) -> Vec<CheckStatus> {
        let mut statuses = self.statuses(self.host_checks().filter(|check| !is_pending(&check.id)));
        statuses.extend(maintenance_status(None, self.maintenance.as_deref()));
        statuses
    }

    fn statuses<'a>(&self, checks: impl Iterator<Item = &'a CheckDefinition>) -> Vec<CheckStatus> {
        let status = |check: &CheckDefinition| CheckStatus {
            id: check.id.clone(),
            name: check.name.clone(),
            kind: check.kind.as_str().to_owned(),
            health: self.standings.get(&check.id).map_or(check.initial, |standing| standing.health),
        };
        checks.map(status).collect()
    }

    /// True if none of its checks stands in the way of announcing it. Maintenance does not: it is shown.
    pub(super) fn is_ready(&self, service: &OwnService) -> bool {
        self.statuses(service.checks()).iter().all(|status| status.health != Health::Critical)
    }

    /// What is kept on disk of maintenance.
    pub(super) fn maintenance(&self) -> Maintenance {
        let reason = |(id, service): (&ServiceId, &OwnService)| Some((id.to_string(), service.maintenance.clone()?));
        Maintenance { node: self.maintenance.clone(), services: self.services.iter().filter_map(reason).collect() }
    }

    /// Which programs are which service.
    pub(super) fn caller_rules(&self) -> Vec<CallerRule> {
        let rule = |service: &OwnService| CallerRule {
            service: service.definition.instance.service.clone(),
            keys: service.definition.callers.clone(),
            from_file: service.origin == Origin::File,
        };
        self.services.values().map(rule).collect()
    }

    /// What the API shows of this host.
    pub(super) fn local(&self, index: u64) -> Local {
        let mut local = Local { index, maintenance: self.maintenance.clone(), ..Local::default() };
        for (id, service) in &self.services {
            let shown = LocalService {
                instance: self.instance(service),
                announced: service.published.is_some(),
                source: service.definition.source.clone(),
                maintenance: service.maintenance.clone(),
            };
            local.services.insert(id.clone(), shown);
            local.checks.extend(maintenance_shown(Some(id), service.maintenance.as_deref()));
        }
        for (service, check) in self.each_check() {
            let shown = LocalCheck {
                service: service.cloned(),
                name: check.name.clone(),
                notes: check.notes.clone(),
                kind: check.kind.as_str().to_owned(),
                health: self.standings.get(&check.id).map_or(check.initial, |standing| standing.health),
                definition: Some(check.clone()),
            };
            local.checks.insert(check.id.clone(), shown);
        }
        local.checks.extend(maintenance_shown(None, self.maintenance.as_deref()));
        local
    }
}

/// The critical check that stands for maintenance.
pub(super) fn maintenance_status(service: Option<&ServiceId>, reason: Option<&str>) -> Option<CheckStatus> {
    reason.map(|_| CheckStatus {
        id: maintenance_check(service),
        name: maintenance_name(service).to_owned(),
        kind: "maintenance".to_owned(),
        health: Health::Critical,
    })
}

fn maintenance_name(service: Option<&ServiceId>) -> &'static str {
    match service {
        Some(_) => "Service Maintenance Mode",
        None => "Node Maintenance Mode",
    }
}

fn maintenance_shown(service: Option<&ServiceId>, reason: Option<&str>) -> Option<(String, LocalCheck)> {
    let shown = LocalCheck {
        service: service.cloned(),
        name: maintenance_name(service).to_owned(),
        notes: reason?.to_owned(),
        kind: "maintenance".to_owned(),
        health: Health::Critical,
        definition: None,
    };
    Some((maintenance_check(service), shown))
}
