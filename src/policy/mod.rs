//! Which of the operators' statements hold. Pure: statements come in, from the logs of any hosts in any order; what is said
//! about each subject comes out, the same on every host that has the same statements.
//!
//! A statement names what it replaces, and what is replaced never counts again. Of those that nobody has replaced, made on
//! hosts that did not hear of each other, the one that forbids more wins, then the newer by Lamport's clock, then the one of
//! the greater host id. The others are kept and told until an operator decides anew.
//!
//! A statement is proven by its operator's signature, so any host may carry it. Records are only how it travels: that its
//! host left, was forgotten or has lost its disk takes nothing away. Who carries what is kept here, so that statements that
//! no living host carries are found.
//!
//! `traffic` works out which document about a service's traffic this host applies; `document` reads one.

pub mod document;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Intentions, NodeId, Policy, PolicyId, Standing};

pub use traffic::{NotUnderstood, PAST_MAX, TrafficShelves};

/// Subjects in all, deleted ones among them: they are kept so that an older statement never comes back.
pub const SUBJECTS_MAX: usize = 4096;
/// Statements made at once about one subject that are kept; the winner is among them.
pub const HEADS_MAX: usize = 16;

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It changes what is said.
    News,
    /// It is held already.
    Known,
    /// A later one has replaced it.
    Replaced,
    /// There is no room for another subject.
    Full,
}

/// All statements that nobody has replaced, and who carries which.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    /// The winner first.
    heads: BTreeMap<PolicyId, Vec<Arc<Policy>>>,
    carried: BTreeMap<(PolicyId, NodeId), Arc<Policy>>,
}

impl Policies {
    /// Takes the statement that `origin`'s log has about its subject now.
    pub fn hold(&mut self, origin: NodeId, policy: Arc<Policy>) -> Held {
        let id = policy.id();
        // However many intentions there are: a host that is not believed any more is told everybody.
        let places =
            if matches!(id, PolicyId::Revocation(_) | PolicyId::Trust) { 2 * SUBJECTS_MAX } else { SUBJECTS_MAX };
        if !self.heads.contains_key(&id) && self.heads.len() >= places {
            return Held::Full;
        }
        self.carried.insert((id.clone(), origin), policy.clone());
        let heads = self.heads.entry(id).or_default();
        if let Some(known) = heads.iter_mut().find(|head| head.is_same(&policy)) {
            // The same words; a signature that holds for longer is worth keeping.
            if policy.is_vouched {
                *known = policy;
            }
            return Held::Known;
        }
        if heads.iter().any(|head| head.statement.replaces(&policy.statement)) {
            return Held::Replaced;
        }
        heads.retain(|head| !policy.statement.replaces(&head.statement));
        heads.push(policy);
        heads.sort_by(|one, other| rank(other).cmp(&rank(one)));
        heads.truncate(HEADS_MAX);
        Held::News
    }

    /// `origin`'s log says nothing about this any more.
    pub fn dropped(&mut self, id: &PolicyId, origin: NodeId) {
        self.carried.remove(&(id.clone(), origin));
    }

    /// The same by the key of its record.
    pub fn dropped_key(&mut self, key: &[u8], origin: NodeId) {
        self.carried.retain(|(id, carrier), _| *carrier != origin || id.key() != key);
    }

    /// What this host's own log is to say, as far as it says anything.
    pub fn of(&self, origin: NodeId) -> impl Iterator<Item = &Arc<Policy>> {
        self.carried.iter().filter(move |((_, carrier), _)| *carrier == origin).map(|(_, policy)| policy)
    }

    /// Subjects about which `origin`'s log has a statement that was replaced by one that somebody else carries: it need not
    /// say it any more.
    pub fn replaced_in(&self, origin: NodeId) -> Vec<PolicyId> {
        let is_head = |policy: &Policy| {
            self.heads.get(&policy.id()).is_some_and(|heads| heads.iter().any(|head| head.is_same(policy)))
        };
        self.of(origin).filter(|policy| !is_head(policy)).map(|policy| policy.id()).collect()
    }

    /// The statements that hold and that none of these hosts carries. A log has one statement about a subject: one that does
    /// not hold is told as long as the host that made it tells it.
    pub fn orphans(&self, lives: impl Fn(NodeId) -> bool) -> Vec<Arc<Policy>> {
        let carried = |head: &Policy| {
            let id = head.id();
            let range = (id.clone(), NodeId([0; 16]))..=(id, NodeId([0xff; 16]));
            self.carried.range(range).any(|((_, carrier), policy)| lives(*carrier) && policy.is_same(head))
        };
        self.heads.values().filter_map(|heads| heads.first()).filter(|head| !carried(head)).cloned().collect()
    }

    /// The statements that hold and that no issuer has vouched for.
    pub fn unvouched(&self) -> Vec<Arc<Policy>> {
        self.heads.values().filter_map(|heads| heads.first()).filter(|head| !head.is_vouched).cloned().collect()
    }

    /// The statements that hold and that an issuer has vouched for.
    pub fn vouched(&self) -> Vec<Arc<Policy>> {
        self.heads.values().filter_map(|heads| heads.first()).filter(|head| head.is_vouched).cloned().collect()
    }

    /// Subjects that `origin` need not carry: at least two of these hosts, of lower ids, carry the same, and
    /// an issuer's word for it where `origin` has that.
    pub fn surplus_in(&self, origin: NodeId, lives: impl Fn(NodeId) -> bool) -> Vec<PolicyId> {
        let is_surplus = |own: &Policy| {
            let id = own.id();
            let lower = self.carried.range((id.clone(), NodeId([0; 16]))..(id, origin));
            let as_good = |policy: &Policy| policy.is_same(own) && (policy.is_vouched || !own.is_vouched);
            lower.filter(|((_, carrier), policy)| lives(*carrier) && as_good(policy)).count() >= 2
        };
        self.of(origin).filter(|policy| is_surplus(policy)).map(|policy| policy.id()).collect()
    }

    /// Every statement that counts.
    pub fn heads(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.heads.values().flatten()
    }

    /// What holds.
    pub fn compile(&self) -> Intentions {
        let standings = self.heads.iter().filter_map(|(id, heads)| {
            let (winner, losers) = heads.split_first()?;
            Some((id.clone(), Standing { winner: winner.clone(), losers: losers.to_vec() }))
        });
        Intentions::new(standings.collect())
    }
}

/// Of statements made at once the greatest wins. The words themselves come last: then no two are equal.
fn rank(policy: &Policy) -> impl Ord + '_ {
    let statement = &policy.statement;
    (statement.change.severity(), statement.dot, &policy.signed)
}

#[cfg(test)]
mod tests;
