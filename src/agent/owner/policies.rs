//! Policies in this host's care: those that operators decide here, and those that it carries for hosts that are gone.
//!
//! What is said about a subject is kept in `policy`, from the records of all hosts. A record that vanishes, because its host
//! left, was forgotten or lost its disk, takes nothing away: as soon as no living host carries a statement that counts, the
//! living host of the lowest id writes it into its own log, byte for byte. Should that one not do so (an older version), the
//! next does, half a minute later. A host whose copy is not needed lets go of it. Issuers vouch for what holds and carry it so:
//! hosts that come after an operator's certificate has ended judge the issuer's.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::own::OwnError;
use super::Owner;
use super::records::Taken;
use super::traffic::Traffic;
use crate::api::{Refused, Reply};
use crate::identity::{PolicyRefused, Voucher, issuer_of, root_of, verify_record};
use crate::model::{Intentions, MemberState, NodeId, Now, Policy, PolicyId, Record, RecordKind};
use crate::policy::{Held, Policies, SUBJECTS_MAX};
use crate::store::{FileChange, FilesDone, Registration};
use crate::wire::policy::{POLICY_FORMAT, decode_policy};

/// Policies are looked after this often.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A statement that nobody carries is taken over after this time, for a host that only restarts, ...
const ORPHAN_DELAY: Duration = Duration::from_secs(2);
/// ... and so much later by each host of a greater id, should those before it not do it.
const ORPHAN_DELAY_STEP: Duration = Duration::from_secs(30);
const ORPHAN_DELAY_MAX: Duration = Duration::from_secs(600);
/// Copies that others hold too are let go this often.
const SURPLUS_INTERVAL: Duration = Duration::from_secs(60);

/// What this host knows of policies.
#[derive(Default)]
pub(super) struct Desk {
    policies: Policies,
    compiled: Arc<Intentions>,
    keep_at: Option<Instant>,
    surplus_at: Option<Instant>,
    voucher: Option<Voucher>,
    /// What issuers have vouched for that count no more, or under a root that is in use no more, is vouched for again.
    vouch_again: bool,
    told_revoked: bool,
    /// Statements that no living host carries, by what they say, and since when.
    orphans: BTreeMap<PolicyId, Instant>,
    /// How calls are carried.
    pub(super) traffic: Traffic,
}

impl Desk {
    pub(super) fn new(voucher: Option<Voucher>) -> Desk {
        Desk { voucher, ..Desk::default() }
    }

    /// This host's issuer has changed.
    pub(super) fn vouch_with(&mut self, voucher: Option<Voucher>) {
        self.vouch_again |= voucher.is_some();
        self.voucher = voucher;
        self.keep_at = None;
    }

    /// What holds.
    pub(super) fn compiled(&self) -> &Arc<Intentions> {
        &self.compiled
    }

    /// What a host's log says.
    pub(super) fn of(&self, origin: NodeId) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.of(origin)
    }

    /// A host's log says nothing any more under this key.
    pub(super) fn drop_key(&mut self, key: &[u8], origin: NodeId) {
        self.policies.dropped_key(key, origin);
        self.keep_at = None;
    }
}

impl Owner {
    /// Policies that this host carried before it started. They were judged when they came.
    pub(super) fn introduce_policies(&mut self, bodies: &[Vec<u8>]) {
        for body in bodies {
            match decode_policy(POLICY_FORMAT, body) {
                Ok((policy, _)) => self.carry_or_log(&Arc::new(policy)),
                Err(error) => error!(%error, "a policy that this host carried cannot be read any more"),
            }
        }
    }

    /// An operator's decision, brought to this host.
    pub(in crate::agent) fn decide(&mut self, body: &[u8], reply: Reply) {
        match self.take_decision(body) {
            Ok(kept) => {
                tokio::spawn(async move {
                    let written = match kept.await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(error)) => Err(format!("the policy holds, but this host could not keep it: {error}")),
                        Err(_) => Err("the agent is stopping".to_owned()),
                    };
                    // Who decided may have hung up; it is decided all the same.
                    let _ = reply.send(written.map_err(Refused::Failed));
                });
            }
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    fn take_decision(&mut self, body: &[u8]) -> Result<FilesDone, Refused> {
        let policy = self.identity.verify_policy(body, SystemTime::now()).map_err(|refused| match refused {
            PolicyRefused::Malformed(_) => Refused::Invalid(refused.to_string()),
            PolicyRefused::Certificate(_) | PolicyRefused::Signature => {
                warn!(why = %refused, "a policy that was brought to this host is refused");
                Refused::NotGranted(refused.to_string())
            }
        })?;
        let (id, statement) = (policy.id(), &policy.statement);
        let (dot, seen) = self.policies.compiled.next(&id, self.local);
        if statement.dot != dot || statement.seen != seen {
            return Err(Refused::Invalid(format!("{id} has been changed in the meantime; look at it and try again")));
        }
        let is_new = !self.policies.compiled.subjects().contains_key(&id);
        if is_new && self.policies.compiled.subjects().len() >= SUBJECTS_MAX {
            return Err(Refused::Invalid(format!(
                "there are {SUBJECTS_MAX} policies, deleted ones among them, as many as there may be; use globs"
            )));
        }
        info!(subject = %id, operator = statement.operator, change = ?statement.change, "an operator has decided");
        self.carry(&Arc::new(policy)).map_err(|error| Refused::Failed(error.to_string()))?;
        Ok(self.keep_carried())
    }

    /// Writes a statement into this host's log.
    fn carry(&mut self, policy: &Arc<Policy>) -> Result<(), OwnError> {
        let record = self.own.policy(&self.identity.record_key, policy)?;
        let now = self.now();
        self.take_own(now, record);
        Ok(())
    }

    fn carry_or_log(&mut self, policy: &Arc<Policy>) {
        if let Err(error) = self.carry(policy) {
            error!(%error, "a policy could not be published");
        }
    }

    /// Puts what this host carries on disk, and what was stated before.
    fn keep_carried(&mut self) -> FilesDone {
        let texts: Vec<String> =
            self.policies.of(self.local).map(|policy| data_encoding::BASE64.encode(&policy.body)).collect();
        // Strings have a JSON form.
        let json = serde_json::to_vec(&texts).unwrap_or_default();
        let mut changes = self.changed_histories();
        changes.push(FileChange::Put(Registration::Policies, json.into()));
        self.out.store.change_files(changes)
    }

    /// What a host's log says about a subject now.
    pub(super) fn note_policy(&mut self, origin: NodeId, policy: &Arc<Policy>) {
        let held = self.policies.policies.hold(origin, policy.clone());
        self.policies.keep_at = None;
        match held {
            Held::News => {
                let compiled = Arc::new(self.policies.policies.compile());
                let id = policy.id();
                if let Some(standing) = compiled.subjects().get(&id).filter(|standing| !standing.losers.is_empty()) {
                    let (winner, others) = (&standing.winner.statement, standing.losers.len());
                    warn!(
                        subject = %id, holds = ?winner.change, operator = winner.operator, others,
                        "operators have decided at the same time on different hosts; decide again to settle it"
                    );
                }
                self.policies.compiled = compiled;
                self.note_decision(policy);
                self.follow_trust();
                self.note_traffic(policy);
            }
            Held::Full => warn!(subject = %policy.id(), "there are too many policies: this one does not hold here"),
            // It fills a gap in what people may look back at.
            Held::Replaced => self.note_traffic(policy),
            Held::Known => {}
        }
    }

    /// Revoked hosts are not believed from this moment on: no handshake of theirs succeeds, no record and no claim counts, and
    /// what they had told is gone. Their connections are cut when the directory is published.
    fn follow_trust(&mut self) {
        let compiled = self.policies.compiled.clone();
        let issuers = compiled.trust().map(|trust| trust.issuers.clone());
        self.identity.cluster_trust().replace(compiled.revoked().clone(), issuers);
        self.policies.vouch_again |= self.policies.voucher.is_some();
        self.expel_revoked();
    }

    fn expel_revoked(&mut self) {
        let revoked = self.policies.compiled.revoked().clone();
        let (now, local) = (self.now(), self.local);
        for node in revoked.iter().filter(|node| **node != local) {
            let is_member = self.swim.member(*node).is_some_and(|member| member.state != MemberState::Left);
            if is_member {
                info!(%node, "a revoked host is no member any more");
                self.swim.expel(now, *node);
            }
            if self.gate.knows(*node) {
                self.forget_origin(*node);
            }
        }
        // What a revoked issuer has issued goes with it, whosever name is in it: those hosts are enrolled again.
        for node in self.gate.disbelieved(&self.identity).into_iter().filter(|node| !revoked.contains(node)) {
            if node != self.local {
                info!(%node, "the certificate of this host was issued by one that is revoked: it is not believed any more");
                self.forget_origin(node);
            } else if !std::mem::replace(&mut self.policies.told_revoked, true) {
                error!(
                    "the host that issued this host's certificate has been revoked: no other host believes it any more; \
                     next: weft enroll --token"
                );
            }
        }
        if revoked.contains(&self.local) && !std::mem::replace(&mut self.policies.told_revoked, true) {
            error!(
                "this host has been revoked: no other host believes it any more; to come back as a new host: \
                 weft enroll --new-identity --token"
            );
        }
    }

    /// A policy of this host's own log, told by others: an earlier start of it carried that, and this one may not know.
    pub(super) fn recall_policy(&mut self, now: Now, record: &Record) -> Taken {
        let header = record.header();
        if header.kind != RecordKind::POLICY || header.tombstone || record.version() >= self.own.version() {
            return Taken::Fairly;
        }
        let Ok((policy, _)) = decode_policy(header.format, record.body()) else { return Taken::Fairly };
        let is_held = self
            .policies
            .policies
            .heads()
            .any(|head| head.is_same(&policy) || head.statement.replaces(&policy.statement));
        if is_held {
            return Taken::Fairly;
        }
        if !verify_record(&self.identity.record_key.public(), record) {
            return Taken::False;
        }
        info!(subject = %policy.id(), ?now, "a policy that this host carried is told by others, and carried again");
        self.carry_or_log(&Arc::new(policy));
        drop(self.keep_carried());
        Taken::Fairly
    }

    /// On an issuer's host: what holds is carried under the issuer's word too. True if there was something.
    fn vouch(&mut self) -> bool {
        let Some(voucher) = &self.policies.voucher else { return false };
        let mut wanted = self.policies.policies.unvouched();
        if std::mem::take(&mut self.policies.vouch_again) {
            let roots: Vec<Vec<u8>> = self.identity.roots().map(<[u8]>::to_vec).collect();
            let is_old = |policy: &Policy| {
                let proof = decode_policy(POLICY_FORMAT, &policy.body).ok().map(|(_, proof)| proof);
                proof.is_some_and(|proof| {
                    let issuer = issuer_of(&proof.certificates);
                    let is_revoked = issuer.is_some_and(|issuer| self.identity.cluster_trust().is_revoked(issuer));
                    is_revoked || root_of(&proof.certificates, &roots) != Some(0)
                })
            };
            wanted.extend(self.policies.policies.vouched().into_iter().filter(|policy| is_old(policy)));
        }
        let vouched: Vec<_> = wanted.iter().map(|policy| voucher.vouch(policy)).collect();
        let there_was = !vouched.is_empty();
        for policy in vouched {
            match policy {
                Ok(policy) => self.carry_or_log(&Arc::new(policy)),
                Err(error) => error!(%error, "this issuer could not vouch for a policy"),
            }
        }
        there_was
    }

    /// Takes over what nobody carries, and lets go of what need not be carried.
    pub(super) fn keep_policies(&mut self, now: Now) {
        let time = Instant::now();
        if self.leaving || self.policies.keep_at.is_some_and(|at| at > time) {
            return;
        }
        self.policies.keep_at = Some(time + KEEP_INTERVAL);
        // Hosts that had not heard of it may have told of the revoked ones again.
        self.expel_revoked();
        if self.policies.policies.heads().next().is_none() {
            return;
        }
        let mut living: HashSet<NodeId> = self.swim.alive().map(|(node, _)| node).collect();
        let rank = u32::try_from(living.iter().filter(|node| **node < self.local).count()).unwrap_or(u32::MAX);
        living.insert(self.local);
        let delay = ORPHAN_DELAY + ORPHAN_DELAY_STEP.saturating_mul(rank).min(ORPHAN_DELAY_MAX);
        let orphans = self.policies.policies.orphans(|node| living.contains(&node));
        let ids: HashSet<PolicyId> = orphans.iter().map(|policy| policy.id()).collect();
        self.policies.orphans.retain(|id, _| ids.contains(id));
        let mut changed = false;
        for policy in orphans {
            let since = *self.policies.orphans.entry(policy.id()).or_insert(time);
            if since + delay <= time {
                info!(subject = %policy.id(), "no other host carries this policy: this one does from now on");
                self.carry_or_log(&policy);
                changed = true;
            }
        }
        changed |= self.vouch();
        let mut dropped = self.policies.policies.replaced_in(self.local);
        if self.policies.surplus_at.is_none_or(|at| at <= time) {
            self.policies.surplus_at = Some(time + SURPLUS_INTERVAL);
            dropped.extend(self.policies.policies.surplus_in(self.local, |node| living.contains(&node)));
        }
        changed |= !dropped.is_empty();
        for id in dropped {
            match self.own.policy_dropped(&self.identity.record_key, &id) {
                Ok(record) => self.take_own(now, record),
                Err(error) => error!(%error, "a policy could not be let go"),
            }
        }
        if changed {
            // The store's writer logs what fails.
            drop(self.keep_carried());
        }
    }
}
