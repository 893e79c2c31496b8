//! This host's own log: what it says of itself and of its services, each record signed and numbered. Pure but for the
//! key it is given.
//!
//! Its numbers begin with the start's, the epoch, which must never repeat: packet keys are derived from it as well. The disk
//! keeps it, but a disk can be set back to an older image. What is then sealed repeats nonces under a key that was in use,
//! from the first packet on, and no way to find it out later (`owner/past.rs`) undoes that. So the epoch is also no less than
//! the clock's seconds ([`least_epoch`]): where the clock is right, a disk that was set back starts above all its past. Nothing
//! rests on the clock: one that is wrong or stands still leaves a count of starts, as it would be without.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::identity::RecordKey;
use crate::model::{Header, Instance, NodeFacts, NodeId, Policy, PolicyId, Record, RecordError, RecordKind, Version};
use crate::wire::body;
use crate::wire::policy::POLICY_FORMAT;

/// A clock may be wrong by centuries and leave room for as many starts.
const EPOCH_LEAST_MAX: u64 = 1 << 40;

/// Why a record of this host could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnError {
    #[error("{what} does not fit a record: {error}; shorten its metadata or tags")]
    Record { what: String, error: RecordError },
    #[error("{what} cannot be encoded: {error}; shorten its metadata or tags")]
    Body { what: String, error: String },
}

/// The clock's seconds, for the start's number. No finer: the number is in every name of a record that is told, and in four
/// bytes until 2106. A supervisor leaves a second between two starts.
pub(super) fn least_epoch(clock: SystemTime) -> u64 {
    clock.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(EPOCH_LEAST_MAX)
}

/// What a service's record would take; an error if there can be none.
pub(super) fn service_bytes(instance: &Instance) -> Result<usize, OwnError> {
    Ok(service_body(instance)?.len() + instance.id.as_str().len())
}

/// The same of this host's own record.
pub(super) fn node_bytes(facts: &NodeFacts) -> Result<usize, OwnError> {
    Ok(node_body(facts)?.len())
}

fn service_body(instance: &Instance) -> Result<Vec<u8>, OwnError> {
    let failed = |error: body::BodyError| OwnError::Body { what: service_name(instance), error: error.to_string() };
    body::encode_instance(instance).map_err(failed)
}

fn node_body(facts: &NodeFacts) -> Result<Vec<u8>, OwnError> {
    let failed = |error: body::BodyError| OwnError::Body { what: node_name(facts), error: error.to_string() };
    body::encode_node(facts).map_err(failed)
}

fn service_name(instance: &Instance) -> String {
    format!("service {}", instance.id)
}

fn node_name(facts: &NodeFacts) -> String {
    format!("node {}", facts.name)
}

/// The log's head.
pub(super) struct OwnLog {
    origin: NodeId,
    version: Version,
}

impl OwnLog {
    /// A log that begins with this start of the host.
    pub(super) fn new(origin: NodeId, epoch: u64) -> OwnLog {
        OwnLog { origin, version: Version { epoch, sequence: 0 } }
    }

    /// The version of the newest record.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn node(&mut self, key: &RecordKey, facts: &NodeFacts) -> Result<Record, OwnError> {
        let body = node_body(facts)?;
        self.sign(key, RecordKind::NODE, body::NODE_FORMAT, Bytes::new(), Some(&body), || node_name(facts))
    }

    pub(super) fn service(&mut self, key: &RecordKey, instance: &Instance) -> Result<Record, OwnError> {
        let body = service_body(instance)?;
        let id = Bytes::copy_from_slice(instance.id.as_str().as_bytes());
        self.sign(key, RecordKind::SERVICE, body::INSTANCE_FORMAT, id, Some(&body), || service_name(instance))
    }

    /// The tombstone of a service.
    pub(super) fn withdrawn(&mut self, key: &RecordKey, service_id: &str) -> Result<Record, OwnError> {
        let id = Bytes::copy_from_slice(service_id.as_bytes());
        let what = || format!("service {service_id}");
        self.sign(key, RecordKind::SERVICE, body::INSTANCE_FORMAT, id, None, what)
    }

    /// A policy that this host carries.
    pub(super) fn policy(&mut self, key: &RecordKey, policy: &Policy) -> Result<Record, OwnError> {
        let id = policy.id();
        self.sign(key, RecordKind::POLICY, POLICY_FORMAT, id.key(), Some(&policy.body), || id.to_string())
    }

    /// The tombstone of a policy that this host need not carry any more.
    pub(super) fn policy_dropped(&mut self, key: &RecordKey, id: &PolicyId) -> Result<Record, OwnError> {
        self.sign(key, RecordKind::POLICY, POLICY_FORMAT, id.key(), None, || id.to_string())
    }

    /// Voids everything of this host below `floor`.
    pub(super) fn floor(&mut self, key: &RecordKey, floor: Version) -> Result<Record, OwnError> {
        let body = Record::floor_body(floor);
        self.sign(key, RecordKind::FLOOR, 1, Bytes::new(), Some(&body), || "the floor".into())
    }

    fn sign(
        &mut self,
        record_key: &RecordKey,
        kind: RecordKind,
        format: u16,
        key: Bytes,
        body: Option<&[u8]>,
        what: impl Fn() -> String,
    ) -> Result<Record, OwnError> {
        let version = Version { sequence: self.version.sequence + 1, ..self.version };
        let header = Header { origin: self.origin, version, kind, format, tombstone: body.is_none(), key };
        let record = Record::sign(&header, body.unwrap_or_default(), |bytes| record_key.sign(bytes))
            .map_err(|error| OwnError::Record { what: what(), error })?;
        self.version = version;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_lends_its_seconds_and_nothing_where_it_is_wrong() {
        assert_eq!(least_epoch(UNIX_EPOCH + Duration::from_millis(1_795_474_800_900)), 1_795_474_800);
        assert_eq!(least_epoch(UNIX_EPOCH - Duration::from_secs(7)), 0);
        assert_eq!(least_epoch(UNIX_EPOCH + Duration::from_secs(1 << 60)), EPOCH_LEAST_MAX);
    }
}
