//! Who may say what: a record is admitted if its origin's certificate chains to the cluster's roots, its signature is
//! the origin's, and it says nothing that the certificate does not grant. Everything else is dropped, counted and named.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use super::ahead::Signature;
use crate::identity::{Identity, PeerIdentity, PolicyRefused, verify_record};
use crate::model::{Instance, NodeFacts, NodeId, Policy, Record, RecordKind, ServiceName};
use crate::wire::body::{self, BodyError};
use crate::wire::policy::decode_policy;

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
    /// A node record of a newer format: whom its certificate proves is known, and no more.
    NewerNode(Arc<PeerIdentity>),
    Service(Arc<Instance>),
    Policy(Arc<Policy>),
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
    /// The origin is not believed any more.
    Revoked,
    /// A policy whose operator's certificate does not chain to the cluster's roots, has ended, or is no operator's.
    Operator,
    /// A policy that its operator did not sign so.
    OperatorSignature,
    /// Not looked at: datagrams have brought too much that was false.
    OverRate,
}

impl Refusal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Refusal::Certificate => "certificate",
            Refusal::Signature => "signature",
            Refusal::Malformed => "malformed",
            Refusal::NotGranted => "not_granted",
            Refusal::OwnName => "own_name",
            Refusal::Revoked => "revoked",
            Refusal::Operator => "operator",
            Refusal::OperatorSignature => "operator_signature",
            Refusal::OverRate => "over_rate",
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
    /// Hosts of which was said that they are newer than this agent.
    newer: HashSet<NodeId>,
}

impl Gate {
    /// Judges a record that came from the network.
    pub(super) fn judge(
        &mut self,
        identity: &Identity,
        record: &Record,
        signature: Signature,
        now: SystemTime,
    ) -> Verdict {
        #[cfg(test)]
        super::quarantine::strike(record, "poison-judge");
        let judged = match record.header().kind {
            _ if identity.cluster_trust().is_revoked(record.origin()) => Err(Refusal::Revoked),
            RecordKind::NODE if !record.header().tombstone => self.judge_node(identity, record, now),
            _ => match self.proven.get(&record.origin()) {
                None => return self.wait(record),
                Some(origin) if identity.cluster_trust().disbelieves(origin) => Err(Refusal::Revoked),
                Some(origin) => judge_other(origin, record, signature, now),
            },
        };
        let judged = match judged {
            Ok(Admitted::Policy(policy)) => self.judge_policy(identity, record, policy, now),
            judged => judged,
        };
        match judged {
            Ok(admitted) => Verdict::Admitted(admitted),
            Err(refusal) => {
                self.refuse(record.origin(), refusal);
                Verdict::Refused(refusal)
            }
        }
    }

    fn judge_node(&mut self, identity: &Identity, record: &Record, now: SystemTime) -> Result<Admitted, Refusal> {
        if !record.header().key.is_empty() {
            return Err(Refusal::Malformed);
        }
        let (format, body) = (record.header().format, record.body());
        let facts = match body::decode_node(format, body) {
            Ok(facts) => Some(facts),
            // Carried, and believed as far as its certificate goes.
            Err(BodyError::NewerFormat { .. }) => None,
            Err(_) => return Err(Refusal::Malformed),
        };
        let certificates = match &facts {
            Some(facts) => Cow::Borrowed(&facts.certificates),
            None => Cow::Owned(body::certificates(format, body).map_err(|_| Refusal::Malformed)?),
        };
        let peer = identity.verify_chain(&certificates, now).map_err(|_| Refusal::Certificate)?;
        if peer.node != record.origin() || facts.as_ref().is_some_and(|facts| facts.name != peer.name) {
            return Err(Refusal::Certificate);
        }
        if !verify_record(&peer.record_key, record) {
            return Err(Refusal::Signature);
        }
        Ok(match facts {
            Some(facts) => Admitted::Node(Arc::new(facts), Arc::new(peer)),
            None => {
                if self.newer.len() < NAMED_MAX && self.newer.insert(peer.node) {
                    warn!(
                        node = %peer.name, format, reads = body::FORMAT_READ_MAX,
                        "a host describes itself in a newer format than this agent reads; upgrade this agent"
                    );
                }
                Admitted::NewerNode(Arc::new(peer))
            }
        })
    }

    /// The operator's signature counts, not that of the host that carries it. A policy is judged once, when it comes: one
    /// that is held stays when its operator's certificate ends.
    fn judge_policy(
        &mut self,
        identity: &Identity,
        record: &Record,
        policy: Arc<Policy>,
        now: SystemTime,
    ) -> Result<Admitted, Refusal> {
        let Err(refused) = identity.verify_policy(record.body(), now) else { return Ok(Admitted::Policy(policy)) };
        let refusal = match refused {
            PolicyRefused::Certificate(_) => Refusal::Operator,
            PolicyRefused::Signature => Refusal::OperatorSignature,
            PolicyRefused::Malformed(_) => Refusal::Malformed,
        };
        if self.named.len() < NAMED_MAX && !self.named.contains(&(record.origin(), refusal)) {
            let (subject, operator) = (policy.id(), &policy.statement.operator);
            warn!(origin = %record.origin(), %subject, operator, why = %refused, "a policy is refused");
        }
        Err(refusal)
    }

    /// Believes an origin's certificate from now on.
    pub(super) fn prove(&mut self, peer: Arc<PeerIdentity>) {
        self.proven.insert(peer.node, peer);
    }

    /// True if anything of this host is believed, or waits to be.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.proven.contains_key(&node) || self.waiting.contains_key(&node)
    }

    /// The hosts whose certificates were believed, and are not any more since their issuers were revoked.
    pub(super) fn disbelieved(&self, identity: &Identity) -> Vec<NodeId> {
        let trust = identity.cluster_trust();
        self.proven.values().filter(|peer| trust.disbelieves(peer)).map(|peer| peer.node).collect()
    }

    /// The hosts whose certificates are believed.
    pub(super) fn origins(&self) -> impl Iterator<Item = NodeId> {
        self.proven.keys().copied()
    }

    /// Takes a record from this host's own store: it was judged before it was stored.
    pub(super) fn recall(&mut self, record: &Record) -> Option<Admitted> {
        let admitted = read(record).ok()?;
        if let Admitted::Node(_, peer) | Admitted::NewerNode(peer) = &admitted {
            self.prove(peer.clone());
        }
        Some(admitted)
    }

    /// Trusts this host's own records.
    pub(super) fn know_self(&mut self, identity: &Identity) {
        if let Ok(peer) = leaf(&identity.certificates) {
            self.prove(peer);
        }
    }

    /// The record key that the origin's certificate proves.
    pub(super) fn record_key(&self, origin: NodeId) -> Option<[u8; 32]> {
        self.proven.get(&origin).map(|peer| peer.record_key)
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

    /// Counts a record that was not looked at; its origin has nothing to do with it.
    pub(super) fn pass_over(&mut self) {
        *self.refused.entry(Refusal::OverRate).or_default() += 1;
    }

    /// Refusals by reason, since the start.
    pub(super) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let all = [
            Refusal::Certificate,
            Refusal::Signature,
            Refusal::Malformed,
            Refusal::NotGranted,
            Refusal::OwnName,
            Refusal::Revoked,
            Refusal::Operator,
            Refusal::OperatorSignature,
            Refusal::OverRate,
        ];
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

fn judge_other(
    origin: &PeerIdentity,
    record: &Record,
    signature: Signature,
    now: SystemTime,
) -> Result<Admitted, Refusal> {
    // Expiry stops new records; those already held stay until their host fails.
    if now >= origin.not_after {
        return Err(Refusal::Certificate);
    }
    if !signature.is_good(&origin.record_key, record) {
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
    let (format, body) = (header.format, record.body());
    match header.kind {
        RecordKind::NODE => match body::decode_node(format, body) {
            Ok(facts) => {
                let peer = leaf(&facts.certificates)?;
                Ok(Admitted::Node(Arc::new(facts), peer))
            }
            Err(BodyError::NewerFormat { .. }) => {
                let certificates = body::certificates(format, body).map_err(|_| Refusal::Malformed)?;
                Ok(Admitted::NewerNode(leaf(&certificates)?))
            }
            Err(_) => Err(Refusal::Malformed),
        },
        RecordKind::SERVICE => {
            let instance = match body::decode_instance(format, body) {
                Ok(instance) => instance,
                Err(BodyError::NewerFormat { .. }) => return Ok(Admitted::Opaque),
                Err(_) => return Err(Refusal::Malformed),
            };
            let misnamed = instance.id.as_str().as_bytes() != &header.key[..] || instance.service.is_probe();
            if misnamed || instance.tags.len() > TAGS_MAX {
                return Err(Refusal::Malformed);
            }
            Ok(Admitted::Service(Arc::new(instance)))
        }
        RecordKind::POLICY => match decode_policy(format, body) {
            Ok((policy, _)) if policy.id().key() == header.key => Ok(Admitted::Policy(Arc::new(policy))),
            Err(BodyError::NewerFormat { .. }) => Ok(Admitted::Opaque),
            Ok(_) | Err(_) => Err(Refusal::Malformed),
        },
        _ => Ok(Admitted::Opaque),
    }
}

/// Whom a chain that was verified before speaks of.
fn leaf(certificates: &[Vec<u8>]) -> Result<Arc<PeerIdentity>, Refusal> {
    let peer = PeerIdentity::from_chain(certificates.iter().map(Vec::as_slice));
    peer.map(Arc::new).map_err(|_| Refusal::Certificate)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::identity::{CaOptions, ca_init};
    use crate::model::{Header, NodeName, ServiceId, Version};

    /// A host of the cluster, and a gate that has not met it.
    fn stranger() -> (tempfile::TempDir, Identity, Gate) {
        let dir = tempfile::tempdir().unwrap();
        ca_init(dir.path(), "prod", &NodeName::parse("web-01").unwrap(), &CaOptions::default()).unwrap();
        let identity = Identity::load(dir.path()).unwrap();
        (dir, identity, Gate::default())
    }

    fn sign(identity: &Identity, kind: RecordKind, format: u16, key: &'static [u8], body: &[u8]) -> Record {
        let version = Version { epoch: 1, sequence: 1 };
        let key = Bytes::from_static(key);
        let header = Header { origin: identity.node, version, kind, format, tombstone: false, key };
        Record::sign(&header, body, |bytes| identity.record_key.sign(bytes)).unwrap()
    }

    fn facts(identity: &Identity) -> NodeFacts {
        NodeFacts {
            name: identity.name.clone(),
            address: [10, 0, 0, 1].into(),
            mesh: ([10, 0, 0, 1], 7947).into(),
            gossip: ([10, 0, 0, 1], 7946).into(),
            zone: String::new(),
            meta: Default::default(),
            version: "9".into(),
            checks: Vec::new(),
            certificates: identity.certificates.clone(),
        }
    }

    fn service() -> Instance {
        Instance {
            id: ServiceId::parse("web").unwrap(),
            service: ServiceName::parse("web").unwrap(),
            address: None,
            port: 80,
            protocol: Default::default(),
            vip_port: None,
            tags: Vec::new(),
            meta: Default::default(),
            weights: Default::default(),
            request_timeout: None,
            checks: Vec::new(),
        }
    }

    /// The certificates, where every format has them, and then what no agent of today can read.
    fn of_tomorrow(identity: &Identity) -> Vec<u8> {
        let mut body = body::encode_node_in(&facts(identity), 2).unwrap();
        let certificates: usize = 1 + identity.certificates.iter().map(|each| 2 + each.len()).sum::<usize>();
        body.truncate(certificates);
        body.extend([0xff; 9]);
        body
    }

    #[test]
    fn node_records_of_both_formats_are_read() {
        let (_dir, identity, mut gate) = stranger();
        for format in [1, 2] {
            let body = body::encode_node_in(&facts(&identity), format).unwrap();
            let record = sign(&identity, RecordKind::NODE, format, b"", &body);
            match gate.judge(&identity, &record, Signature::Unchecked, SystemTime::now()) {
                Verdict::Admitted(Admitted::Node(read, _)) => assert_eq!(*read, facts(&identity)),
                _ => panic!("format {format} was not read"),
            }
            assert!(matches!(gate.recall(&record), Some(Admitted::Node(..))));
        }
    }

    #[test]
    fn a_host_never_met_before_that_writes_a_newer_format_is_carried_with_all_of_its_records() {
        let (_dir, identity, mut gate) = stranger();
        let now = SystemTime::now();
        let node = sign(&identity, RecordKind::NODE, 3, b"", &of_tomorrow(&identity));
        let web = sign(&identity, RecordKind::SERVICE, 1, b"web", &body::encode_instance(&service()).unwrap());
        let newer_web = sign(&identity, RecordKind::SERVICE, 7, b"web", b"\xff\xff");
        let unheard_of = sign(&identity, RecordKind(0x7777), 9, b"\xff", b"\xff\xff");
        assert!(matches!(gate.judge(&identity, &web, Signature::Unchecked, now), Verdict::Waiting));
        let Verdict::Admitted(Admitted::NewerNode(peer)) = gate.judge(&identity, &node, Signature::Unchecked, now)
        else {
            panic!("the node record was refused");
        };
        gate.prove(peer);
        assert_eq!(gate.release(identity.node), std::slice::from_ref(&web));
        assert!(matches!(
            gate.judge(&identity, &web, Signature::Unchecked, now),
            Verdict::Admitted(Admitted::Service(_))
        ));
        assert!(matches!(
            gate.judge(&identity, &newer_web, Signature::Unchecked, now),
            Verdict::Admitted(Admitted::Opaque)
        ));
        assert!(matches!(
            gate.judge(&identity, &unheard_of, Signature::Unchecked, now),
            Verdict::Admitted(Admitted::Opaque)
        ));
        assert!(matches!(Gate::default().recall(&node), Some(Admitted::NewerNode(_))));
        assert!(gate.refusals().iter().all(|(_, count)| *count == 0));
    }

    #[test]
    fn a_newer_format_opens_no_door() {
        let (_dir, identity, mut gate) = stranger();
        let (_other_dir, other, _) = stranger();
        let now = SystemTime::now();
        let foreign = sign(&other, RecordKind::NODE, 3, b"", &of_tomorrow(&other));
        let stolen = sign(&other, RecordKind::NODE, 3, b"", &of_tomorrow(&identity));
        let unreadable = sign(&identity, RecordKind::NODE, 3, b"", b"\x01\xff\xff");
        let header = Header { ..sign(&identity, RecordKind::NODE, 3, b"", b"").header().clone() };
        let forged = Record::sign(&header, &of_tomorrow(&identity), |_| [7; 64]).unwrap();
        let expected = [
            (foreign, Refusal::Certificate),
            (stolen, Refusal::Certificate),
            (unreadable, Refusal::Malformed),
            (forged, Refusal::Signature),
        ];
        for (record, refusal) in expected {
            let judged = gate.judge(&identity, &record, Signature::Unchecked, now);
            assert!(matches!(judged, Verdict::Refused(found) if found == refusal), "{refusal:?}");
        }
    }

    #[test]
    fn what_a_revoked_issuer_has_issued_says_nothing_new_and_is_told_apart() {
        let (_dir, identity, mut gate) = stranger();
        let (issuer, now) = (NodeId([9; 16]), SystemTime::now());
        let peer = PeerIdentity::from_chain(identity.certificates.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(peer.issuers, [identity.node], "an issuer's certificate names its host");
        gate.prove(Arc::new(PeerIdentity { issuers: vec![issuer], ..peer }));
        let body = body::encode_instance(&service()).unwrap();
        let mut judge = || {
            let record = sign(&identity, RecordKind::SERVICE, 1, b"web", &body);
            gate.judge(&identity, &record, Signature::Unchecked, now)
        };
        assert!(matches!(judge(), Verdict::Admitted(Admitted::Service(_))));
        identity.cluster_trust().replace(Arc::new([issuer].into()), None);
        assert!(matches!(judge(), Verdict::Refused(Refusal::Revoked)));
        assert_eq!(gate.disbelieved(&identity), [identity.node]);
    }

    #[test]
    fn a_policy_is_believed_for_its_operators_sake_whoever_carries_it() {
        use crate::identity::{Operator, operator_create};
        use crate::model::{Action, Change, Dot, Statement};

        let (dir, identity, mut gate) = stranger();
        let (other_dir, _, _) = stranger();
        gate.know_self(&identity);
        let day = std::time::Duration::from_secs(24 * 3600);
        let anna = NodeName::parse("anna").unwrap();
        let body = |dir: &tempfile::TempDir| {
            let path = operator_create(dir.path(), &anna, day, dir.path()).unwrap().path;
            let dot = Dot { lamport: 1, writer: NodeId([3; 16]) };
            let change = Change::Default(Action::Deny);
            let statement = Statement { dot, seen: Vec::new(), operator: "anna".into(), at_unix_s: 0, change };
            Operator::load(&path).unwrap().sign(&statement).unwrap()
        };
        let (good, foreign, now) = (body(&dir), body(&other_dir), SystemTime::now());
        let mut changed = good.clone();
        let seen_at = changed.len() - 3;
        changed[seen_at] ^= 1;
        let policy = |key: &'static [u8], body: &[u8]| sign(&identity, RecordKind::POLICY, 1, key, body);
        let admitted = gate.judge(&identity, &policy(b"default", &good), Signature::Unchecked, now);
        assert!(matches!(admitted, Verdict::Admitted(Admitted::Policy(_))));
        for (record, at, refusal) in [
            (policy(b"default", &foreign), now, Refusal::Operator),
            (policy(b"default", &good), now + 2 * day, Refusal::Operator),
            (policy(b"intention/a/b", &good), now, Refusal::Malformed),
            (policy(b"default", b"nonsense"), now, Refusal::Malformed),
        ] {
            let judged = gate.judge(&identity, &record, Signature::Unchecked, at);
            assert!(matches!(judged, Verdict::Refused(found) if found == refusal), "{refusal:?}");
        }
        let changed = gate.judge(&identity, &policy(b"default", &changed), Signature::Unchecked, now);
        assert!(matches!(changed, Verdict::Refused(Refusal::OperatorSignature | Refusal::Malformed)));
        // What a newer agent writes is carried.
        let newer = sign(&identity, RecordKind::POLICY, 2, b"default", b"\xff");
        assert!(matches!(
            gate.judge(&identity, &newer, Signature::Unchecked, now),
            Verdict::Admitted(Admitted::Opaque)
        ));
    }
}
