//! What an operator does about membership: joining a host by hand, and sending one away that will not come back.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::time::Instant;
use tracing::info;

use super::Owner;
use crate::api::{Refused, Reply};
use crate::gossip;
use crate::model::{MemberState, NodeId, NodeName};
use crate::swim::ForceLeaveError;

/// Joins under way. Each is somebody who waits at the API.
const JOINS_MAX: usize = 64;

/// A host that is asked for the mesh by hand, under all of its addresses.
#[derive(Debug)]
pub(super) struct Join {
    /// Where no answer has come from yet.
    waiting: BTreeSet<SocketAddr>,
    until: Instant,
    reply: Option<Reply>,
    /// Why the last of them failed.
    error: String,
}

impl Owner {
    /// Exchanges members with whoever answers at one of `addresses`, as with a seed; answers by `until`.
    pub(in crate::agent) fn join(&mut self, addresses: Vec<SocketAddr>, until: Instant, reply: Reply) {
        let refused = if self.leaving { Some("this agent is leaving the mesh") } else { None };
        let refused = refused.or((self.joins.len() >= JOINS_MAX).then_some("too many joins are under way; try again"));
        if let Some(refused) = refused {
            return self.answer(Some(reply), Err(Refused::Failed(refused.to_owned())));
        }
        let mut waiting = BTreeSet::new();
        for to in addresses {
            let claims = self.swim.snapshot();
            if self.command(gossip::Command::Sync { to, expect: None, claims }) {
                waiting.insert(to);
            }
        }
        if waiting.is_empty() {
            let busy = Refused::Failed("the gossip port has too much to do; try again".to_owned());
            return self.answer(Some(reply), Err(busy));
        }
        self.joins.push(Join { waiting, until, reply: Some(reply), error: String::new() });
    }

    /// An exchange with `to` ended, well or not.
    pub(super) fn on_exchange(&mut self, to: SocketAddr, result: Result<(), &str>) {
        let mut ended = Vec::new();
        self.joins.retain_mut(|join| {
            if !join.waiting.remove(&to) {
                return true;
            }
            match result {
                Ok(()) => ended.push((join.reply.take(), Ok(()))),
                Err(error) => {
                    error.clone_into(&mut join.error);
                    if !join.waiting.is_empty() {
                        return true;
                    }
                    ended.push((join.reply.take(), Err(Refused::Failed(error.to_owned()))));
                }
            }
            false
        });
        ended.into_iter().for_each(|(reply, result)| self.answer(reply, result));
    }

    /// Ends the joins that nobody answered in time.
    pub(super) fn keep_joins(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        self.joins.retain_mut(|join| {
            if join.until > now {
                return true;
            }
            let silent: Vec<String> = join.waiting.iter().map(SocketAddr::to_string).collect();
            let mut why = format!("no answer from {} in time", silent.join(", "));
            if !join.error.is_empty() {
                why.push_str(&format!("; {}", join.error));
            }
            late.push((join.reply.take(), Err(Refused::Failed(why))));
            false
        });
        late.into_iter().for_each(|(reply, result)| self.answer(reply, result));
    }

    pub(super) fn joins_due(&self) -> Option<Instant> {
        self.joins.iter().map(|join| join.until).min()
    }

    /// A failed host will not come back: it has left, and with `prune` it is forgotten.
    pub(in crate::agent) fn force_leave(&mut self, name: &NodeName, prune: bool, reply: Reply) {
        let result = self.send_away(name, prune);
        let now = self.now();
        self.after_swim(now);
        self.answer(Some(reply), result);
    }

    fn send_away(&mut self, name: &NodeName, prune: bool) -> Result<(), Refused> {
        if *name == self.own_facts.name {
            return Err(Refused::Invalid(format!("{name} is this host; `weft leave` makes it leave")));
        }
        let departed = |state| matches!(state, MemberState::Failed | MemberState::Left);
        // A reimaged host and its ghost share a name: the ghost is meant.
        let named = self.swim.members().filter(|claim| claim.name == *name);
        let found = named.min_by_key(|claim| !departed(claim.state)).map(|claim| claim.node);
        let Some(node) = found else { return self.forget_stranger(name, prune) };
        let now = self.now();
        self.swim.force_leave(now, node, prune).map_err(|error| match error {
            ForceLeaveError::Unknown => Refused::NotFound(format!("no host is called {name}")),
            ForceLeaveError::NotFailed(_) => Refused::Invalid(format!("{name} was not sent away: {error}")),
        })?;
        info!(node = %name, id = %node, prune, "sent away");
        Ok(())
    }

    /// A host that left records behind, but that membership does not know any more.
    fn forget_stranger(&mut self, name: &NodeName, prune: bool) -> Result<(), Refused> {
        let known = |node: &NodeId| self.swim.member(*node).is_some();
        let stranger =
            self.facts.iter().find(|(node, facts)| facts.name == *name && !known(node)).map(|(node, _)| *node);
        match stranger {
            None => Err(Refused::NotFound(format!("no host is called {name}"))),
            Some(_) if !prune => Err(Refused::Invalid(format!(
                "{name} has left records behind and membership does not know it any more; add `prune` to forget it"
            ))),
            Some(node) => {
                self.forget_origin(node);
                Ok(())
            }
        }
    }
}
