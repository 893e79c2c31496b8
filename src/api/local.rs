//! What this host registered, as its owner keeps it: more than the directory shows, which has only what was announced; and
//! what it leaves alone. Published whole by the owner; `/v1/agent/services`, `/v1/agent/checks` and `/v1/weft/status` read it.

use std::collections::BTreeMap;

use crate::config::CheckDefinition;
use crate::model::Quarantined;
use crate::model::{Directory, Health, Instance, ServiceId};

/// This host's own services and checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Grows with every change; never 0 once published.
    pub index: u64,
    /// By id.
    pub services: BTreeMap<ServiceId, LocalService>,
    /// Of services and of the host, by id; maintenance is among them, as in Consul.
    pub checks: BTreeMap<String, LocalCheck>,
    /// Why the host is in maintenance, if it is.
    pub maintenance: Option<String>,
    /// Records of other hosts that this agent failed on and does not touch; the first of them, if they are many.
    pub quarantined: Vec<Quarantined>,
}

impl Local {
    /// What the directory shows of this host, for the moments before its owner has published more.
    pub(super) fn announced(directory: &Directory) -> Local {
        let instances = directory.services.values().flat_map(|service| &service.instances);
        let own = instances.filter(|(node, _)| node.id == directory.local).map(|(_, instance)| instance);
        let mut local = Local { index: directory.index, ..Local::default() };
        for instance in own {
            for status in &instance.checks {
                let check = LocalCheck {
                    service: Some(instance.id.clone()),
                    name: status.name.clone(),
                    notes: String::new(),
                    kind: status.kind.clone(),
                    health: status.health,
                    definition: None,
                };
                local.checks.insert(status.id.clone(), check);
            }
            let service = LocalService {
                instance: Instance::clone(instance),
                announced: true,
                source: String::new(),
                maintenance: None,
            };
            local.services.insert(instance.id.clone(), service);
        }
        local
    }
}

/// One service of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    /// As it is, or will be, announced.
    pub instance: Instance,
    /// Others know of it. Not before its first passing check.
    pub announced: bool,
    /// Where it came from: `FILE:LINE`, or `the API`.
    pub source: String,
    /// Why it is in maintenance, if it is.
    pub maintenance: Option<String>,
}

/// One check of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCheck {
    /// Whose; `None` is the host's.
    pub service: Option<ServiceId>,
    /// For people.
    pub name: String,
    /// For people; of maintenance, the reason.
    pub notes: String,
    /// `http`, `ttl`, ...; `maintenance`.
    pub kind: String,
    /// The verdict.
    pub health: Health,
    /// What is run; `None` for maintenance.
    pub definition: Option<CheckDefinition>,
}
