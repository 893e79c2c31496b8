//! Records as they come: judged, merged, kept at hand, let go. What they say is in the owner's caches afterwards.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::admit::{Admitted, Verdict};
use super::super::ahead::{self, Signature};
use super::Owner;
use crate::catalog::{Merge, Peer, Relay, Screen};
use crate::model::{NodeId, Now, Record, RecordId, RecordKind};

/// Records of a host that membership does not know are kept this long; it may yet be heard of.
const STRANGER_LIFETIME: Duration = Duration::from_secs(3600);
/// Tellers of false records that are named in the log, by streams as by datagrams; the rest is only counted.
const LIARS_MAX: usize = 4_096;
/// A pull that brought at most this many records is news to be spread; more is bulk repair, which spreads by digests.
const NEWS_RECORDS_MAX: usize = 256;

/// The same in bytes: what is held back until it shows which it is.
const NEWS_BYTES_MAX: usize = 512 * 1024;

/// A pull under way.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    /// What has come and is not taken yet.
    pub(super) records: Vec<Record>,
    /// More has come than news would be.
    pub(super) is_bulk: bool,
}

/// Whether a record was what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Fairly,
    False,
}

impl Owner {
    /// Small pulls are news and are told on; large ones are repair. Which it is shows at the end.
    pub(super) fn on_pulled(&mut self, now: Now, from: NodeId, records: Vec<Record>, done: bool) {
        let mut pull = self.pulled.remove(&from).unwrap_or_default();
        pull.records.extend(records);
        let bytes: usize = pull.records.iter().map(|record| record.encoded().len()).sum();
        pull.is_bulk |= pull.records.len() > NEWS_RECORDS_MAX || bytes > NEWS_BYTES_MAX;
        let relay = if pull.is_bulk { Relay::Quiet } else { Relay::Eager };
        let held = if done || pull.is_bulk { std::mem::take(&mut pull.records) } else { Vec::new() };
        if !done {
            self.pulled.insert(from, pull);
        }
        if self.take_records(now, held, relay) == Taken::False {
            self.name_liar(from);
        }
        if done {
            self.catalog.pulled(now, from);
        }
    }

    pub(super) fn take_own(&mut self, now: Now, record: Record) {
        let admitted = self.gate.recall(&record).unwrap_or(Admitted::Opaque);
        self.merge(now, record, &admitted, Relay::Eager);
    }

    /// Takes what came by datagram as fresh. In whose name is no proof of who sent it, so it says nothing about what is true.
    pub(super) fn take_delta(&mut self, now: Now, sender: NodeId, records: Vec<Record>) {
        for record in records {
            match self.catalog.screen(now, &record) {
                Screen::Take if !self.patience.lasts(Instant::now()) => self.gate.pass_over(),
                Screen::Take => {
                    if self.take_record(now, record.clone(), Relay::Delta(sender)) == Taken::False {
                        self.patience.spend(Instant::now(), &record);
                        self.name_slandered(sender);
                    }
                }
                Screen::Known | Screen::OverRate { news: false } => {}
                Screen::OverRate { news: true } => {
                    let origin = record.origin();
                    let name = self.facts.get(&origin).map(|facts| facts.name.to_string()).unwrap_or_default();
                    warn!(%origin, name, "this host changes its records faster than others take them; its newest come by repair");
                }
            }
        }
    }

    /// Honest hosts pass on what they have checked, so who passes on false records lies.
    fn name_liar(&mut self, teller: NodeId) {
        if self.liars.len() < LIARS_MAX && self.liars.insert(teller) {
            let name = self.facts.get(&teller).map(|facts| facts.name.to_string()).unwrap_or_default();
            warn!(%teller, name, "records that this host passes on are not what they say: they are dropped");
        }
    }

    fn name_slandered(&mut self, sender: NodeId) {
        if self.slandered.len() < LIARS_MAX && self.slandered.insert(sender) {
            let name = self.facts.get(&sender).map(|facts| facts.name.to_string()).unwrap_or_default();
            warn!(
                %sender, name,
                "records that this host sends, or somebody who has the gossip key sends in its name, are not what they say: \
                 they are dropped"
            );
        }
    }

    /// A member as the cores want it: hosts of this one's zone are near, and all are where there are no zones.
    fn peer(&self, node: NodeId) -> Peer {
        let near = self.facts.get(&node).is_none_or(|facts| facts.zone == self.own_facts.zone);
        Peer { node, near }
    }

    fn set_peers(&mut self) {
        let peers: Vec<Peer> = self.swim.alive().map(|(node, _)| self.peer(node)).collect();
        peers.iter().for_each(|peer| self.swim.set_near(peer.node, peer.near));
        self.catalog.set_peers(peers);
    }

    /// Members that live from now on, and such that do not.
    pub(super) fn change_peers(&mut self, changes: &[(NodeId, bool)]) {
        let changes: Vec<(Peer, bool)> = changes.iter().map(|(node, lives)| (self.peer(*node), *lives)).collect();
        changes.iter().for_each(|(peer, _)| self.swim.set_near(peer.node, peer.near));
        self.catalog.change_peers(&changes);
    }

    /// Tells the catalog which hosts are near, once for all that changed.
    pub(super) fn keep_zones(&mut self) {
        if std::mem::take(&mut self.zones_changed) {
            self.set_peers();
        }
    }

    /// Takes records that came together. False if one of them is.
    pub(super) fn take_records(&mut self, now: Now, records: Vec<Record>, relay: Relay) -> Taken {
        let mut taken = Taken::Fairly;
        let mut take = |owner: &mut Owner, record, signature| {
            if owner.take_checked(now, record, signature, relay) == Taken::False {
                taken = Taken::False;
            }
        };
        // What a host says of itself proves the key for the rest, which can be checked side by side then.
        let (nodes, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.header().kind == RecordKind::NODE);
        nodes.into_iter().for_each(|record| take(self, record, Signature::Unchecked));
        let signatures = self.check_ahead(&others);
        others.into_iter().zip(signatures).for_each(|(record, signature)| take(self, record, signature));
        taken
    }

    /// Checks the signatures of records that are news, where there are many.
    fn check_ahead(&self, records: &[Record]) -> Vec<Signature> {
        if records.len() < ahead::RECORDS_MIN {
            return vec![Signature::Unchecked; records.len()];
        }
        let is_news = |record: &Record| {
            record.origin() != self.local
                && self.catalog.get(&record.id()).is_none_or(|held| held.version() < record.version())
        };
        let key = |record: &Record| is_news(record).then(|| self.gate.record_key(record.origin())).flatten();
        let keyed: Vec<_> = records.iter().map(|record| (key(record), record)).collect();
        ahead::check(&keyed)
    }

    pub(super) fn take_record(&mut self, now: Now, record: Record, relay: Relay) -> Taken {
        self.take_checked(now, record, Signature::Unchecked, relay)
    }

    fn take_checked(&mut self, now: Now, record: Record, signature: Signature, relay: Relay) -> Taken {
        if record.origin() == self.local {
            let recalled = self.recall_policy(now, &record);
            let met = self.meet_own_past(now, &record);
            return if recalled == Taken::False { recalled } else { met };
        }
        if let Some(held) = self.catalog.get(&record.id())
            && held.version() >= record.version()
        {
            // Nothing new. The same bytes from a peer confirm what came from the store.
            if held.encoded() == record.encoded() {
                self.catalog.merge(now, record, relay);
                return Taken::Fairly;
            }
            // So does an older version, once judged: a host whose disk was set back meets its own future only if those who
            // hold it from their stores alone may tell. Other bytes of the same version are judged as well: such a host has
            // used the version twice, and of the two all must keep the same.
            if held.version() > record.version() && self.catalog.is_confirmed(&record.id()) {
                return Taken::Fairly;
            }
        }
        if self.quarantine.holds(&record) {
            return Taken::Fairly;
        }
        // The gate changes only its counts and its waiting room while it judges: a panic leaves it whole.
        let (gate, identity) = (&mut self.gate, &self.identity);
        let judged = self.quarantine.watch(&record, || gate.judge(identity, &record, signature, SystemTime::now()));
        let Some(verdict) = judged else {
            self.quarantine.keep(&self.out.store);
            self.local_dirty = true;
            return Taken::Fairly;
        };
        match verdict {
            Verdict::Admitted(admitted) => {
                let origin = record.origin();
                let is_node = matches!(admitted, Admitted::Node(..) | Admitted::NewerNode(_));
                self.merge(now, record, &admitted, relay);
                if is_node {
                    let released = self.gate.release(origin);
                    self.take_records(now, released, relay);
                }
                Taken::Fairly
            }
            Verdict::Waiting => Taken::Fairly,
            Verdict::Refused(refusal) => {
                debug!(?record, ?refusal, "record refused");
                Taken::False
            }
        }
    }

    fn merge(&mut self, now: Now, record: Record, admitted: &Admitted, relay: Relay) {
        #[cfg(test)]
        super::super::quarantine::strike(&record, "poison-merge");
        match self.catalog.merge(now, record.clone(), relay) {
            Merge::Applied { voided, .. } => {
                self.foreign_unpublished |= record.origin() != self.local;
                for id in &voided {
                    self.forget_record(id);
                }
                voided.into_iter().for_each(|id| self.out.store.remove_record(id));
                self.note(&record, admitted);
                self.out.store.save_record(record);
            }
            Merge::Known | Merge::Void => {}
            Merge::Refused(reason) => warn!(?record, ?reason, "the catalog refused a record"),
        }
    }

    /// Keeps what a record says at hand.
    pub(super) fn note(&mut self, record: &Record, admitted: &Admitted) {
        let key = || (record.origin(), String::from_utf8_lossy(&record.header().key).into_owned());
        match admitted {
            Admitted::Node(_, peer) | Admitted::NewerNode(peer) => {
                self.gate.prove(peer.clone());
                if let Admitted::Node(facts, _) = admitted {
                    let before = self.facts.insert(record.origin(), facts.clone());
                    self.zones_changed |= before.as_ref().map_or(!facts.zone.is_empty(), |old| old.zone != facts.zone);
                    before.iter().for_each(|before| self.note_host(before, facts));
                }
                // A new certificate may grant less than the one before.
                let origin = record.origin();
                self.instances.retain(|(node, _), instance| *node != origin || peer.grants_service(&instance.service));
            }
            Admitted::Service(instance) => {
                let before = self.instances.insert(key(), instance.clone());
                before.iter().for_each(|before| self.note_instance(record.origin(), before, instance));
            }
            Admitted::Policy(policy) => self.note_policy(record.origin(), policy),
            Admitted::Opaque if record.header().kind == RecordKind::POLICY => {
                self.policies.drop_key(&record.header().key, record.origin());
            }
            Admitted::Opaque if record.header().kind == RecordKind::SERVICE => {
                self.instances.remove(&key());
            }
            Admitted::Opaque if record.header().kind == RecordKind::NODE && record.header().tombstone => {
                self.facts.remove(&record.origin());
            }
            Admitted::Opaque => {}
        }
        self.dirty = true;
    }

    pub(super) fn forget_record(&mut self, id: &RecordId) {
        if id.kind == RecordKind::SERVICE {
            self.instances.remove(&(id.origin, String::from_utf8_lossy(&id.key).into_owned()));
        } else if id.kind == RecordKind::POLICY {
            self.policies.drop_key(&id.key, id.origin);
        } else if id.kind == RecordKind::NODE {
            self.facts.remove(&id.origin);
        }
        self.dirty = true;
    }

    pub(super) fn forget_origin(&mut self, node: NodeId) {
        let ids: Vec<RecordId> = self.catalog.held().filter(|record| record.origin() == node).map(Record::id).collect();
        self.catalog.forget_origin(node);
        ids.iter().for_each(|id| self.forget_record(id));
        ids.into_iter().for_each(|id| self.out.store.remove_record(id));
        self.gate.forget(node);
        self.facts.remove(&node);
        self.pulled.remove(&node);
        self.unreachable.remove(&node);
        self.dirty = true;
    }

    /// Lets go of hosts that left records behind but that membership has not known for long: nobody else would.
    pub(super) fn forget_strangers(&mut self) {
        let known: HashSet<NodeId> = self.swim.members().map(|member| member.node).collect();
        self.strangers.retain(|node, _| !known.contains(node));
        if !self.swim.in_contact() {
            return self.strangers.clear();
        }
        for node in self.gate.origins().filter(|node| *node != self.local && !known.contains(node)) {
            self.strangers.entry(node).or_insert_with(Instant::now);
        }
        let gone: Vec<NodeId> = self
            .strangers
            .iter()
            .filter(|(_, since)| since.elapsed() > STRANGER_LIFETIME)
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            self.strangers.remove(&node);
            self.forget_origin(node);
        }
    }
}
