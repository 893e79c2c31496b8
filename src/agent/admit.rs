//! Who may say what: a record is admitted if its origin's certificate chains to the cluster's roots, its signature is
//! the origin's, and it says nothing that the certificate does not grant. Everything else is dropped, counted and named.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use crate::identity::{Identity, PeerIdentity, verify_record};
use crate::model::{Instance, NodeFacts, NodeId, Record, RecordKind, ServiceName};
use crate::wire::body::{self, BodyError};

/// Records of hosts whose node record has not arrived yet are kept for it, up to this many bytes. When that is not enough
/// all of them go: repair by digest brings those that are real.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Origins and reasons named in the log; the rest is only counted.
const NAMED_MAX: usize = 4096;
/// As many tags as a service file may give one instance.
const TAGS_MAX: usize = 64;

/// A record that may be merged, read as far as this agent can.
#[derive(Debug, Clone)]
pub(super) enum Admitted {
    /// And whom its certificate proves; to be kept by [`Gate::prove`] once the record is held.
    Node(Arc<NodeFacts>, Arc<PeerIdentity>),
    Service(Arc<Instance>),
    /// A tombstone, a floor, or a kind or format that this agent carries without reading.
    Opaque,
}

/// Why a record was not admitted; also the label of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// The certificate does not chain to the cluster's roots, or is not this origin's.
    Certificate,
    Signature,
    /// The body is not what its kind and format say.
    Malformed,
    /// The host's certificate does not grant the service.
    NotGranted,
    /// Another host speaks in this one's name.
    OwnName,
}

impl Refusal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Refusal::Certificate => "certificate",
            Refusal::Signature => "signature",
            Refusal::Malformed => "malformed",
            Refusal::NotGranted => "not_granted",
            Refusal::OwnName => "own_name",
        }
    }
}

/// What admission came to.
pub(super) enum Verdict {
    Admitted(Admitted),
    /// Kept until the origin's node record arrives.
    Waiting,
    Refused(Refusal),
}

/// The gate. Holds the proven record key of every origin.
#[derive(Default)]
pub(super) struct Gate {
    proven: HashMap<NodeId, Arc<PeerIdentity>>,
    waiting: HashMap<NodeId, Vec<Record>>,
    waiting_bytes: usize,
    refused: HashMap<Refusal, u64>,
    named: HashSet<(NodeId, Refusal)>,
}

impl Gate {
    /// Judges a record that came from the network.
    pub(super) fn judge(&mut self, identity: &Identity, record: &Record, now: SystemTime) -> Verdict {
        #[cfg(test)]
        super::quarantine::strike(record, "poison-judge");
        let judged = match record.header().kind {
            RecordKind::NODE if !record.header().tombstone => self.judge_node(identity, record, now),
            _ => match self.proven.get(&record.origin()) {
                None => return self.wait(record),
                Some(origin) => judge_other(origin, record, now),
            },
        };
        match judged {
            Ok(admitted) => Verdict::Admitted(admitted),
            Err(refusal) => {
                self.refuse(record.origin(), refusal);
                Verdict::Refused(refusal)
            }
        }
    }

    fn judge_node(&self, identity: &Identity, record: &Record, now: SystemTime) -> Result<Admitted, Refusal> {
        if !record.header().key.is_empty() {
            return Err(Refusal::Malformed);
        }
        let facts = match body::decode_node(record.header().format, record.body()) {
            Ok(facts) => facts,
            // A known host that has been upgraded: its record is carried, what it said before is what is known of it.
            Err(BodyError::NewerFormat { .. }) => {
                let origin = self.proven.get(&record.origin()).ok_or(Refusal::Malformed)?;
                return judge_other(origin, record, now);
            }
            Err(_) => return Err(Refusal::Malformed),
        };
        let peer = identity.verify_chain(&facts.certificates, now).map_err(|_| Refusal::Certificate)?;
        if peer.node != record.origin() || peer.name != facts.name {
            return Err(Refusal::Certificate);
        }
        if !verify_record(&peer.record_key, record) {
            return Err(Refusal::Signature);
        }
        Ok(Admitted::Node(Arc::new(facts), Arc::new(peer)))
    }

    /// Believes an origin's certificate from now on.
    pub(super) fn prove(&mut self, peer: Arc<PeerIdentity>) {
        self.proven.insert(peer.node, peer);
    }

    /// Takes a record from this host's own store: it was judged before it was stored.
    pub(super) fn recall(&mut self, record: &Record) -> Option<Admitted> {
        let admitted = read(record).ok()?;
        if let Admitted::Node(_, peer) = &admitted {
            self.prove(peer.clone());
        }
        Some(admitted)
    }

    /// Trusts this host's own records.
    pub(super) fn know_self(&mut self, identity: &Identity) {
        if let Some(Ok(peer)) = identity.certificates.first().map(|leaf| PeerIdentity::from_der(leaf)) {
            self.prove(Arc::new(peer));
        }
    }

    /// True if the origin's certificate lets it speak for the service.
    pub(super) fn grants(&self, origin: NodeId, service: &ServiceName) -> bool {
        self.proven.get(&origin).is_some_and(|peer| peer.grants_service(service))
    }

    /// The records that waited for this origin's node record.
    pub(super) fn release(&mut self, origin: NodeId) -> Vec<Record> {
        let released = self.waiting.remove(&origin).unwrap_or_default();
        self.waiting_bytes -= released.iter().map(|record| record.encoded().len()).sum::<usize>();
        released
    }

    /// Forgets a host that left the catalog.
    pub(super) fn forget(&mut self, origin: NodeId) {
        self.proven.remove(&origin);
        self.release(origin);
    }

    /// Counts a refusal and names its origin once.
    pub(super) fn refuse(&mut self, origin: NodeId, refusal: Refusal) {
        *self.refused.entry(refusal).or_default() += 1;
        if self.named.len() < NAMED_MAX && self.named.insert((origin, refusal)) {
            let name = self.proven.get(&origin).map(|peer| peer.name.to_string()).unwrap_or_default();
            warn!(%origin, name, reason = refusal.as_str(), "records of this host are dropped");
        }
    }

    /// Refusals by reason, since the start.
    pub(super) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let all = [Refusal::Certificate, Refusal::Signature, Refusal::Malformed, Refusal::NotGranted, Refusal::OwnName];
        all.map(|refusal| (refusal.as_str(), self.refused.get(&refusal).copied().unwrap_or(0))).to_vec()
    }

    fn wait(&mut self, record: &Record) -> Verdict {
        self.waiting_bytes += record.encoded().len();
        self.waiting.entry(record.origin()).or_default().push(record.clone());
        if self.waiting_bytes > WAITING_BYTES_MAX {
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
        Verdict::Waiting
    }
}

fn judge_other(origin: &PeerIdentity, record: &Record, now: SystemTime) -> Result<Admitted, Refusal> {
    // Expiry stops new records; those already held stay until their host fails.
    if now >= origin.not_after {
        return Err(Refusal::Certificate);
    }
    if !verify_record(&origin.record_key, record) {
        return Err(Refusal::Signature);
    }
    let admitted = read(record)?;
    match &admitted {
        Admitted::Service(instance) if !origin.grants_service(&instance.service) => Err(Refusal::NotGranted),
        _ => Ok(admitted),
    }
}

/// Reads a body as far as this agent can. A newer format is carried unread; a broken body is an error.
fn read(record: &Record) -> Result<Admitted, Refusal> {
    let header = record.header();
    if header.tombstone {
        return Ok(Admitted::Opaque);
    }
    match (header.kind, header.format) {
        (RecordKind::NODE, body::NODE_FORMAT) => {
            let facts = body::decode_node(header.format, record.body()).map_err(|_| Refusal::Malformed)?;
            let leaf = facts.certificates.first().ok_or(Refusal::Certificate)?;
            let peer = PeerIdentity::from_der(leaf).map_err(|_| Refusal::Certificate)?;
            Ok(Admitted::Node(Arc::new(facts), Arc::new(peer)))
        }
        (RecordKind::SERVICE, body::INSTANCE_FORMAT) => {
            let instance = body::decode_instance(header.format, record.body()).map_err(|_| Refusal::Malformed)?;
            let misnamed = instance.id.as_str().as_bytes() != &header.key[..] || instance.service.is_probe();
            if misnamed || instance.tags.len() > TAGS_MAX {
                return Err(Refusal::Malformed);
            }
            Ok(Admitted::Service(Arc::new(instance)))
        }
        _ => Ok(Admitted::Opaque),
    }
}
