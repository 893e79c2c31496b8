//! Alias checks: as healthy as another service, or as a host. The published directory is looked at when it changes; only
//! what changed in it is searched.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::standing::{Standing, Unheard, until};
use crate::model::{CheckStatus, Directory, Health, Instance, Node, NodeId, NodeName, ServiceId, ServiceName};

/// Publications come every few milliseconds on a busy fleet; nobody sees a tenth of a second here.
const SPACING: Duration = Duration::from_millis(100);

/// The directory and the news of its changes.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) changes: watch::Receiver<u64>,
}

/// Looks, tells, and waits for the next publication.
pub(super) async fn run(mut standing: Standing, mut alias: Alias, view: Option<View>) -> Result<(), Unheard> {
    let Some(View { directory, mut changes }) = view else {
        let output = "this agent has no directory to look in".to_owned();
        return standing.told(Health::Critical, output).await;
    };
    let mut told = None;
    loop {
        changes.borrow_and_update();
        let found = alias.look(&directory.load(), standing.check());
        if told.as_ref() != Some(&found) {
            standing.told(found.0, found.1.clone()).await?;
            told = Some(found);
        }
        loop {
            let due = standing.due();
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    break;
                }
                () = until(due) => standing.on_due().await?,
            }
        }
        tokio::time::sleep(SPACING).await;
    }
}

/// What is looked for, and where it was last found.
#[derive(Debug)]
pub(super) struct Alias {
    node: Option<NodeName>,
    service: Option<ServiceId>,
    /// The service that the instance was found under: an id alone says nothing of the name.
    found: Option<ServiceName>,
    /// Services that have not changed since this index do not have it, on this host.
    searched: Option<(NodeId, u64)>,
}

impl Alias {
    pub(super) fn new(node: Option<NodeName>, service: Option<ServiceId>) -> Alias {
        Alias { node, service, found: None, searched: None }
    }

    /// How it stands, and why. `own` is the alias check itself, which may be among those looked at and must not hold itself
    /// where it is.
    fn look(&mut self, directory: &Directory, own: &str) -> (Health, String) {
        let node = match &self.node {
            Some(name) => directory.node_named(name.as_str()).cloned(),
            None => directory.nodes.get(&directory.local).cloned(),
        };
        let Some(node) = node else {
            let name = self.node.as_ref().map_or("this host", |name| name.as_str());
            return (Health::Critical, format!("{name} is not known"));
        };
        let host = node.facts.name.clone();
        if !node.state.is_usable() {
            return (Health::Critical, format!("host {host} is {}", node.state));
        }
        let Some(id) = self.service.clone() else {
            return verdict(&format!("host {host}"), node.facts.checks.iter(), own);
        };
        match self.instance(directory, &node, &id) {
            Some(instance) => {
                let checks = node.facts.checks.iter().chain(&instance.checks);
                verdict(&format!("service {id} on {host}"), checks, own)
            }
            None => (Health::Critical, format!("host {host} has no service with the id {:?}", id.as_str())),
        }
    }

    fn instance(&mut self, directory: &Directory, node: &Node, id: &ServiceId) -> Option<Arc<Instance>> {
        if let Some(name) = &self.found {
            if let Some(instance) = directory.services.get(name).and_then(|service| of(&service.instances, node, id)) {
                return Some(instance);
            }
            (self.found, self.searched) = (None, None);
        }
        let since = self.searched.filter(|(searched, _)| *searched == node.id).map_or(0, |(_, index)| index);
        let changed = directory.services.values().filter(|service| service.index > since || since == 0);
        for service in changed {
            if let Some(instance) = of(&service.instances, node, id) {
                self.found = Some(service.name.clone());
                return Some(instance);
            }
        }
        self.searched = Some((node.id, directory.index));
        None
    }
}

fn of(instances: &[(Arc<Node>, Arc<Instance>)], node: &Node, id: &ServiceId) -> Option<Arc<Instance>> {
    let found = instances.iter().find(|(host, instance)| host.id == node.id && instance.id == *id);
    found.map(|(_, instance)| instance.clone())
}

fn verdict<'a>(whose: &str, checks: impl Iterator<Item = &'a CheckStatus>, own: &str) -> (Health, String) {
    match checks.filter(|check| check.id != own).max_by_key(|check| check.health) {
        Some(worst) if worst.health != Health::Passing => {
            (worst.health, format!("{whose} is {}: its check {:?} is", worst.health, worst.name))
        }
        _ => (Health::Passing, format!("{whose} is passing")),
    }
}
