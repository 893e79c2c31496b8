//! Changes of what this host registered, one after the other: planned against things as they are, written to disk, and
//! only then made and answered. So what is refused, or cannot be kept, has changed nothing.
//!
//! Commands of the API and reloads come in by [`Owner::ask`]; a write that is done comes in by [`Owner::on_written`].
//! Answers go out when the view that shows the change is published, so that who asks next sees it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tracing::{error, info, warn};

use super::super::threads::CheckRequest;
use super::Owner;
use super::registry::{Origin, OwnService};
use crate::api::{Refused, Reply};
use crate::config::{CheckDefinition, CheckRegistration, ServiceDefinition};
use crate::model::{Health, ServiceId};
use crate::store::{FileChange, FilesDone, StoreError};

/// Changes that wait for the one before. The API holds about as many requests open.
const WAITING_MAX: usize = 1024;

/// A change that is asked for.
#[derive(Debug)]
pub(in crate::agent) enum Ask {
    Register {
        definition: Box<ServiceDefinition>,
        body: Bytes,
        replace_checks: bool,
    },
    Deregister {
        id: ServiceId,
    },
    /// A check of the service has been critical for so long that it is to be deregistered.
    Overdue {
        service: ServiceId,
        check: String,
    },
    RegisterCheck {
        registration: Box<CheckRegistration>,
        body: Bytes,
    },
    DeregisterCheck {
        id: String,
    },
    Maintain {
        service: Option<ServiceId>,
        reason: Option<String>,
    },
    Files(Box<Files>),
}

/// What the files say of this host.
#[derive(Debug, Clone)]
pub(in crate::agent) struct Files {
    pub services: Vec<ServiceDefinition>,
    pub checks: Vec<CheckDefinition>,
    pub zone: String,
    pub meta: BTreeMap<String, String>,
}

/// A change that may be made.
#[derive(Debug)]
pub(super) enum Change {
    PutService {
        definition: Box<ServiceDefinition>,
        dropped: Vec<String>,
    },
    DropService(ServiceId),
    PutCheck(Box<CheckRegistration>),
    DropCheck(String),
    Maintain {
        service: Option<ServiceId>,
        reason: Option<String>,
    },
    /// The checks are those that had come by the API and go.
    Files {
        files: Box<Files>,
        dropped: Vec<String>,
    },
}

/// A change and what is to be on disk before it is made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) change: Change,
    pub(super) files: Vec<FileChange>,
}

/// Changes under way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(Ask, Option<Reply>)>,
    writing: Option<Writing>,
    /// Told once the view that shows it is published.
    pub(super) answers: Vec<(Reply, Result<(), Refused>)>,
}

#[derive(Debug)]
struct Writing {
    change: Change,
    reply: Option<Reply>,
    done: FilesDone,
}

impl Owner {
    /// Takes a change in turn.
    pub(in crate::agent) fn ask(&mut self, ask: Ask, reply: Option<Reply>) {
        let refused = match () {
            () if self.leaving => "this agent is leaving the mesh; register again when it has started anew",
            () if self.queue.waiting.len() >= WAITING_MAX => "too many changes wait for the disk; try again",
            () => {
                self.queue.waiting.push_back((ask, reply));
                return self.advance();
            }
        };
        self.answer(reply, Err(Refused::Failed(refused.to_owned())));
    }

    /// Begins what waits, as far as it does not have to wait for the disk or for the checks' thread.
    pub(super) fn advance(&mut self) {
        while self.queue.writing.is_none() && self.out.checks.capacity() > 0 {
            let Some((ask, reply)) = self.queue.waiting.pop_front() else { return };
            match self.plan(ask) {
                Err(refused) => self.answer(reply, Err(refused)),
                Ok(Plan { change, files }) if files.is_empty() => {
                    self.apply(change);
                    self.answer(reply, Ok(()));
                }
                Ok(Plan { change, files }) => {
                    let done = self.out.store.change_files(files);
                    self.queue.writing = Some(Writing { change, reply, done });
                }
            }
        }
    }

    /// True if something could be begun but for the checks' thread, which is behind.
    pub(super) fn is_held_up(&self) -> bool {
        self.queue.writing.is_none() && !self.queue.waiting.is_empty()
    }

    /// The end of the write under way; without one it never comes.
    pub(in crate::agent) async fn written(&mut self) -> Result<(), String> {
        match &mut self.queue.writing {
            None => std::future::pending().await,
            Some(writing) => match (&mut writing.done).await {
                Ok(written) => written.map_err(|error: StoreError| error.to_string()),
                Err(_) => Err("the store's thread has ended".to_owned()),
            },
        }
    }

    /// Makes the change whose write is done, or says why it is not made.
    pub(in crate::agent) fn on_written(&mut self, written: Result<(), String>) {
        let Some(Writing { change, reply, .. }) = self.queue.writing.take() else { return };
        match written {
            Ok(()) => {
                self.apply(change);
                self.answer(reply, Ok(()));
            }
            Err(error) => self.answer(reply, Err(Refused::Failed(format!("nothing has changed: {error}")))),
        }
        self.advance();
    }

    /// Keeps an answer until what it speaks of is published.
    pub(super) fn answer(&mut self, reply: Option<Reply>, answer: Result<(), Refused>) {
        self.queue.answers.extend(reply.map(|reply| (reply, answer)));
    }

    pub(super) fn tell_answers(&mut self) {
        for (reply, answer) in self.queue.answers.drain(..) {
            // Who asked may have hung up.
            let _ = reply.send(answer);
        }
    }

    /// Nothing that waits will be done.
    pub(super) fn refuse_waiting(&mut self) {
        for (_, reply) in std::mem::take(&mut self.queue.waiting) {
            self.answer(reply, Err(Refused::Failed("this agent is leaving the mesh".to_owned())));
        }
    }

    fn apply(&mut self, change: Change) {
        self.local_dirty = true;
        match change {
            Change::PutService { definition, dropped } => self.put_service(*definition, &dropped),
            Change::DropService(id) => {
                info!(service = %id, "deregistered");
                self.withdraw_service(&id);
                self.registry.services.remove(&id);
                self.checks_changed();
            }
            Change::PutCheck(registration) => {
                let CheckRegistration { service, check } = *registration;
                info!(check = check.id, service = service.as_ref().map(ServiceId::as_str), "check registered");
                let former = self.registry.standing(&check.id).and_then(|standing| standing.service.clone());
                self.drop_added(&check.id);
                match &service {
                    None => drop(self.registry.added_checks.insert(check.id.clone(), check)),
                    Some(id) => {
                        let service = self.registry.services.get_mut(id);
                        drop(service.and_then(|service| service.added.insert(check.id.clone(), check)));
                    }
                }
                self.checks_changed();
                // It may have been another's until now.
                self.refresh_of(former.as_ref());
                self.refresh_of(service.as_ref());
            }
            Change::DropCheck(id) => {
                info!(check = id, "check deregistered");
                let service = self.registry.standing(&id).and_then(|standing| standing.service.clone());
                self.drop_added(&id);
                self.checks_changed();
                self.refresh_of(service.as_ref());
            }
            Change::Maintain { service, reason } => {
                let of = service.as_ref().map_or("this host", ServiceId::as_str);
                info!(of, maintenance = reason.is_some(), reason, "maintenance");
                match &service {
                    None => self.registry.maintenance = reason,
                    Some(id) => {
                        if let Some(service) = self.registry.services.get_mut(id) {
                            service.maintenance = reason;
                        }
                    }
                }
                self.refresh_of(service.as_ref());
            }
            Change::Files { files, dropped } => self.put_files(*files, &dropped),
        }
    }

    fn put_service(&mut self, definition: ServiceDefinition, dropped: &[String]) {
        let id = definition.instance.id.clone();
        info!(service = %id, name = %definition.instance.service, source = definition.source, "registered");
        let fresh = OwnService::new(definition.clone(), Origin::Api);
        let service = self.registry.services.entry(id.clone()).or_insert(fresh);
        service.definition = definition;
        service.added.retain(|check, _| !dropped.contains(check));
        self.checks_changed();
        self.refresh(&id);
    }

    fn put_files(&mut self, files: Files, dropped: &[String]) {
        let Files { services, checks, zone, meta } = files;
        for id in dropped {
            warn!(check = id, "a check that came by the API is gone: its service is, or a file defines its id");
            self.drop_added(id);
        }
        let services: BTreeMap<ServiceId, ServiceDefinition> =
            self.granted(services).into_iter().map(|definition| (definition.instance.id.clone(), definition)).collect();
        let gone: Vec<ServiceId> = self
            .registry
            .services
            .iter()
            .filter(|(id, service)| service.origin == Origin::File && !services.contains_key(*id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.withdraw_service(&id);
            self.registry.services.remove(&id);
        }
        for (id, definition) in services {
            match self.registry.services.get_mut(&id) {
                Some(service) => {
                    if service.origin == Origin::Api {
                        warn!(service = %id, file = definition.source, "a file takes the place of the API's registration");
                    }
                    service.origin = Origin::File;
                    service.definition = definition;
                }
                None => drop(self.registry.services.insert(id, OwnService::new(definition, Origin::File))),
            }
        }
        self.registry.file_checks = checks;
        self.checks_changed();
        let ids: Vec<ServiceId> = self.registry.services.keys().cloned().collect();
        ids.iter().for_each(|id| self.refresh(id));
        if self.own_facts.zone != zone || self.own_facts.meta != meta {
            let has_moved = self.own_facts.zone != zone;
            self.own_facts.zone = zone;
            if has_moved {
                // A trial may be this zone's, or not any more.
                self.settle_all_traffic();
            }
            self.own_facts.meta = meta;
            self.publish_node();
        }
        self.refresh_host();
    }

    fn drop_added(&mut self, check: &str) {
        self.registry.added_checks.remove(check);
        self.registry.services.values_mut().for_each(|service| drop(service.added.remove(check)));
    }

    /// The set of checks is another one: it is run from now on.
    pub(super) fn checks_changed(&mut self) {
        self.registry.settle();
        self.settle_pending();
        // There is room: nothing is begun without it, and nobody else sends.
        if self.out.checks.try_send(CheckRequest::Replace(self.registry.all_checks())).is_err() {
            error!("the checks of this host could not be changed; restart the agent");
        }
    }

    /// Passes a report for a TTL check on; the checks' thread says whether it takes it.
    pub(in crate::agent) fn update_check(&mut self, check: String, health: Health, output: String, reply: Reply) {
        // The last place is kept for changes of the checks themselves.
        if self.out.checks.capacity() <= 1 {
            let busy = Refused::Failed("too many reports at once; report again".to_owned());
            return self.answer(Some(reply), Err(busy));
        }
        let request = CheckRequest::Update { check, health, output, reply };
        if let Err(refused) = self.out.checks.try_send(request)
            && let CheckRequest::Update { reply, .. } = refused.into_inner()
        {
            self.answer(Some(reply), Err(Refused::Failed("the checks of this host have ended".to_owned())));
        }
    }

    /// A report was taken, or not.
    pub(in crate::agent) fn on_updated(&mut self, reply: Reply, result: Result<(), Refused>) {
        self.answer(Some(reply), result);
    }
}
