//! What of the owner's work is history: which changes are events, and which only look like one. A host that is heard of for
//! the first time since a start is no news if it was known, and what this agent's own start brings back is none.
//!
//! Costs nothing where nothing changes: every hook stands where a change has been found already.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Owner;
use crate::history::Event;
use crate::model::{Instance, MemberState, NodeFacts, NodeId, NodeName, Policy, ServiceId};
use crate::proxy;

/// The certificate, and what was left out of the history, are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// A certificate of which less than this part is left was not renewed for most of its life: two days of seven.
const ENDING_PART: (u32, u32) = (2, 7);
/// Workers find out apart from each other that an instance fails: within this it is the same ejection.
const SAME_EJECTION: Duration = Duration::from_secs(5);
/// Ejected instances that are kept in mind; what is beyond is told as it comes.
const EJECTED_MAX: usize = 4096;

/// What has been told.
#[derive(Default)]
pub(super) struct Chronicle {
    /// What comes before the start is told is no event.
    has_begun: bool,
    members: HashMap<NodeId, MemberState>,
    in_contact: bool,
    ejected: HashMap<(NodeId, ServiceId), SystemTime>,
    /// Of the certificate that ends then.
    certificate: Option<(SystemTime, Stage)>,
    look_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ending,
    Expired,
}

fn clock(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

impl Owner {
    /// The start is over: what is known is known, and what changes from here on is an event.
    pub(super) fn begin_history(&mut self) {
        self.chronicle.has_begun = true;
        self.chronicle.members = self.swim.members().map(|member| (member.node, member.state)).collect();
        let (version, start) = (env!("CARGO_PKG_VERSION"), self.own.version().epoch);
        let words = format!("weft {version} started; it is start number {start} of this host");
        self.out.history.note(Event::agent("started", &self.own_facts.name, words));
    }

    pub(super) fn end_history(&mut self) {
        let words = if self.left { "weft left the mesh and stopped" } else { "weft stopped" };
        self.out.history.note(Event::agent("stopped", &self.own_facts.name, words));
    }

    /// Membership has another word on a host.
    pub(super) fn note_member(&mut self, node: NodeId, name: &NodeName, state: MemberState, address: SocketAddr) {
        if node == self.local {
            return;
        }
        let before = self.chronicle.members.get(&node).copied();
        let (what, words) = match (before, state) {
            (None, MemberState::Alive | MemberState::Suspect) => ("joined", format!("joined, at {address}")),
            (Some(MemberState::Failed | MemberState::Left), MemberState::Alive) => {
                ("returned", "is alive again".to_owned())
            }
            (Some(before), MemberState::Failed) if before != MemberState::Failed => ("failed", "failed".to_owned()),
            (Some(before), MemberState::Left) if before != MemberState::Left => ("left", "left".to_owned()),
            _ => ("", String::new()),
        };
        // An accusation is no news, and ends nothing that was told.
        let told = match state {
            MemberState::Suspect | MemberState::Unknown => before.unwrap_or(MemberState::Alive),
            state => state,
        };
        self.chronicle.members.insert(node, told);
        if !what.is_empty() {
            self.out.history.note(Event::member(what, name, &words));
        }
    }

    pub(super) fn forget_member(&mut self, node: NodeId) {
        self.chronicle.members.remove(&node);
    }

    /// A host has said something new about one of its instances.
    pub(super) fn note_instance(&mut self, origin: NodeId, before: &Instance, now: &Instance) {
        if before.health() != now.health() {
            let name = self.facts.get(&origin).map_or_else(|| origin.to_string(), |facts| facts.name.to_string());
            self.out.history.note(Event::instance_health(&name, now, before.health()));
        }
    }

    /// A host has said something new about itself.
    pub(super) fn note_host(&mut self, before: &NodeFacts, now: &NodeFacts) {
        if before.health() != now.health() {
            self.out.history.note(Event::host_health(&now.name, &now.checks, before.health()));
        }
    }

    /// Something that was not known here has been decided.
    pub(super) fn note_decision(&mut self, policy: &Policy) {
        if self.chronicle.has_begun {
            let standing = self.policies.compiled().subjects().get(&policy.id());
            let holds = standing.is_none_or(|standing| standing.winner.is_same(policy));
            self.out.history.note(Event::policy(&policy.statement, holds));
        }
    }

    /// The data plane spares an instance its calls, or not any more.
    pub(super) fn note_ejection(&mut self, event: &proxy::Event) {
        let (node, service, instance) = match event {
            proxy::Event::Ejected { node, service, instance, .. }
            | proxy::Event::Returned { node, service, instance } => (*node, service, instance),
            proxy::Event::MeshUnreachable(_) | proxy::Event::MeshReachable(_) => return,
        };
        let key = (node, instance.clone());
        let (what, words) = match event {
            proxy::Event::Ejected { until, why, .. } => {
                let before = self.chronicle.ejected.get(&key).copied();
                if before.is_some_and(|before| *until <= before + SAME_EJECTION) {
                    return;
                }
                if self.chronicle.ejected.len() < EJECTED_MAX {
                    self.chronicle.ejected.insert(key, *until);
                }
                ("ejected", format!("gets no calls from here until {}: {why}", clock(*until)))
            }
            _ => {
                if self.chronicle.ejected.remove(&key).is_none() && self.chronicle.ejected.len() < EJECTED_MAX {
                    return;
                }
                ("returned", "gets calls again".to_owned())
            }
        };
        let name = self.facts.get(&node).map_or_else(|| node.to_string(), |facts| facts.name.to_string());
        self.out.history.note(Event::ejection(what, (&name, service.as_str(), instance.as_str()), &words));
    }

    pub(super) fn note_renewal(&mut self) {
        let words = format!("the certificate of this host is renewed, until {}", clock(self.identity.not_after));
        self.out.history.note(Event::certificate("renewed", &self.own_facts.name, words));
    }

    /// What nothing else tells of: contact, the end of a certificate, and what was left out so far.
    pub(super) fn keep_history(&mut self) {
        let in_contact = self.swim.in_contact();
        if in_contact != self.chronicle.in_contact && !self.leaving {
            self.chronicle.in_contact = in_contact;
            let (what, words) = match in_contact {
                true => ("contact", "this host is in contact with others"),
                false => ("no-contact", "this host has no contact with others; it keeps what it knows"),
            };
            self.out.history.note(Event::agent(what, &self.own_facts.name, words));
        }
        let now = Instant::now();
        if self.chronicle.look_at.is_some_and(|at| at > now) {
            return;
        }
        self.chronicle.look_at = Some(now + LOOK_INTERVAL);
        self.out.history.keep();
        self.look_at_certificate();
        self.chronicle.ejected.retain(|(node, _), _| self.facts.contains_key(node));
    }

    fn look_at_certificate(&mut self) {
        let (begins, ends) = (self.identity.not_before, self.identity.not_after);
        let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
        let life = ends.duration_since(begins).unwrap_or_default();
        let stage = if left.is_zero() { Stage::Expired } else { Stage::Ending };
        let is_news = self.chronicle.certificate != Some((ends, stage));
        if left >= life * ENDING_PART.0 / ENDING_PART.1 || !is_news {
            return;
        }
        self.chronicle.certificate = Some((ends, stage));
        let (what, words) = match stage {
            Stage::Ending => {
                ("ending", format!("the certificate of this host ends at {} and is not renewed", clock(ends)))
            }
            Stage::Expired => ("expired", format!("the certificate of this host has ended at {}", clock(ends))),
        };
        self.out.history.note(Event::certificate(what, &self.own_facts.name, words));
    }
}
