//! How calls of each service are carried on this host: what operators state comes from `policies`, what this host applies is
//! worked out in `policy/`, published with the directory, and kept on disk, so that a restart loses neither the last document
//! that was understood nor what was stated before. A trial ends here, by the owner's timer.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::kept::History;
use super::Owner;
use crate::model::{PastStatement, Policy, PolicyId, ServiceName, TrafficPolicies};
use crate::policy::TrafficShelves;
use crate::store::{FileChange, Registration};

/// The host's clock; a test's is its own.
pub(in crate::agent) type Clock = Box<dyn Fn() -> SystemTime + Send>;

/// What is stated, and what holds here.
#[derive(Default)]
pub(super) struct Traffic {
    shelves: TrafficShelves,
    compiled: Arc<TrafficPolicies>,
}

impl Traffic {
    /// What holds.
    pub(super) fn compiled(&self) -> &Arc<TrafficPolicies> {
        &self.compiled
    }
}

impl Owner {
    fn now_unix_s(&self) -> u64 {
        (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// What earlier runs remembered.
    pub(super) fn recall_histories(&mut self, histories: Vec<History>) {
        for History { service, statements } in histories {
            self.policies.traffic.shelves.recall(&service, statements);
        }
        // Records of other hosts came before it.
        self.settle_all_traffic();
    }

    /// A statement has come that may be about the traffic of a service.
    pub(super) fn note_traffic(&mut self, policy: &Policy) {
        if let PolicyId::Traffic(service) = policy.id() {
            self.policies.traffic.shelves.note(policy);
            self.settle_traffic(&[service]);
        }
    }

    /// The same for every service.
    pub(super) fn settle_all_traffic(&mut self) {
        let services: Vec<ServiceName> = self
            .policies
            .compiled()
            .subjects()
            .keys()
            .filter_map(|id| match id {
                PolicyId::Traffic(service) => Some(service.clone()),
                _ => None,
            })
            .collect();
        self.settle_traffic(&services);
    }

    /// Works out what holds for these services here and now.
    fn settle_traffic(&mut self, services: &[ServiceName]) {
        let now_unix_s = self.now_unix_s();
        let intentions = self.policies.compiled().clone();
        let shelves = &mut self.policies.traffic.shelves;
        for service in services {
            let Some(standing) = intentions.subjects().get(&PolicyId::Traffic(service.clone())) else { continue };
            if let Some(refused) = shelves.settle(service, standing, &self.own_facts.zone, now_unix_s) {
                warn!(
                    service = %refused.service, operator = refused.operator, why = refused.why,
                    "a traffic policy is not understood by this version of the agent: what it understood last stays in \
                     force; upgrade the agent"
                );
            }
        }
        let compiled = shelves.compile();
        if compiled != *self.policies.traffic.compiled {
            self.policies.traffic.compiled = Arc::new(compiled);
            self.dirty = true;
        }
    }

    /// Ends trials whose time is over, and keeps what has been stated.
    pub(super) fn keep_traffic(&mut self) {
        let over = match self.policies.traffic.shelves.ends_unix_s() {
            Some(ends_unix_s) if ends_unix_s <= self.now_unix_s() => {
                self.policies.traffic.shelves.over(self.now_unix_s())
            }
            _ => Vec::new(),
        };
        for service in &over {
            info!(%service, "the trial of a traffic policy is over: what holds elsewhere holds here again");
        }
        if !over.is_empty() {
            self.settle_traffic(&over);
        }
        let changes = self.changed_histories();
        if !changes.is_empty() {
            // The store's writer logs what fails.
            drop(self.out.store.change_files(changes));
        }
    }

    /// What has been stated since this was last asked, for the disk.
    pub(super) fn changed_histories(&mut self) -> Vec<FileChange> {
        let shelves = &mut self.policies.traffic.shelves;
        let mut changes = Vec::new();
        for service in shelves.take_changed() {
            let statements: Vec<PastStatement> =
                shelves.past(&service).iter().map(|past| PastStatement::clone(past)).collect();
            let name = service.to_string();
            match serde_json::to_vec(&History { service, statements }) {
                Ok(json) => changes.push(FileChange::Put(Registration::History(name), json.into())),
                Err(error) => error!(service = name, %error, "what was stated before has no written form"),
            }
        }
        changes
    }

    /// When a trial ends at the latest, by this host's clock as it goes now.
    pub(super) fn trial_due(&self) -> Option<Instant> {
        let ends_unix_s = self.policies.traffic.shelves.ends_unix_s()?;
        let left = UNIX_EPOCH.checked_add(Duration::from_secs(ends_unix_s))?.duration_since((self.clock)());
        Instant::now().checked_add(left.unwrap_or_default())
    }
}
