//! The record key: the Ed25519 key that signs a host's records and that its node id is derived from. It outlives
//! certificates. It signs records, the host's claims of membership (`claim`), and the proof at enrolment, each under a context
//! of its own, so that no signature of one kind is one of another.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::IdentityError;
use super::files;
use crate::model::{NodeId, Record, SIGNATURE_BYTES};

/// A host's record key. Clones share the key.
#[derive(Clone)]
pub struct RecordKey {
    pair: Arc<Ed25519KeyPair>,
    public: [u8; 32],
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
}

impl RecordKey {
    /// A new key, and with it a new node id.
    pub fn generate() -> Result<RecordKey, IdentityError> {
        let error = |_| IdentityError::Crypto("make an Ed25519 key");
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(error)?;
        RecordKey::from_pkcs8(pkcs8.as_ref()).ok_or(IdentityError::Crypto("read the Ed25519 key that it made"))
    }

    /// Reads a key from its PEM file.
    pub fn load(path: &Path) -> Result<RecordKey, IdentityError> {
        let damaged = || IdentityError::damaged(path, &"it holds no Ed25519 key in PKCS#8 PEM");
        let key = PrivatePkcs8KeyDer::from_pem_slice(&files::read(path)?).map_err(|_| damaged())?;
        RecordKey::from_pkcs8(key.secret_pkcs8_der()).ok_or_else(damaged)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<RecordKey> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(RecordKey { pair: Arc::new(pair), public, pkcs8: Arc::new(Zeroizing::new(pkcs8.to_vec())) })
    }

    /// The key as the file holds it.
    pub(super) fn to_pem(&self) -> Vec<u8> {
        files::pem("PRIVATE KEY", &self.pkcs8).into_bytes()
    }

    /// The id that the key gives its host.
    pub fn node_id(&self) -> NodeId {
        node_id_of(&self.public)
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Signs `bytes`; fits `Record::sign`.
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        // Ed25519 signatures always have 64 bytes (RFC 8032 §5.1.6).
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKey(of {})", self.node_id())
    }
}

/// The id that belongs to a record key: the first 16 bytes of its SHA-256.
pub fn node_id_of(public: &[u8; 32]) -> NodeId {
    let mut id = [0; 16];
    id.iter_mut().zip(digest(&SHA256, public).as_ref()).for_each(|(to, from)| *to = *from);
    NodeId(id)
}

/// Writes an id into JSON as people see it, not as the 16 numbers that packets carry.
pub(super) fn id_as_text<S: serde::Serializer>(id: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// The same of an id that may be missing.
pub(super) fn maybe_id_as_text<S: serde::Serializer>(id: &Option<NodeId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

/// True if `record` is signed by the key and speaks for the id that the key gives.
pub fn verify_record(public: &[u8; 32], record: &Record) -> bool {
    node_id_of(public) == record.origin() && verify(public, &record.signed_bytes(), record.signature())
}

/// True if `signature` over `bytes` is the key's.
pub(super) fn verify(public: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(bytes, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Header, RecordKind, Version};
    use bytes::Bytes;

    fn record(key: &RecordKey, origin: NodeId) -> Record {
        let version = Version { epoch: 1, sequence: 1 };
        let kind = RecordKind::SERVICE;
        let header = Header { origin, version, kind, format: 1, tombstone: false, key: Bytes::from_static(b"web") };
        Record::sign(&header, b"body", |bytes| key.sign(bytes)).unwrap()
    }

    #[test]
    fn the_node_id_is_the_start_of_the_keys_sha_256() {
        // SHA-256 of 32 zero bytes begins 66687aad f862bd77 6c8fc18b 8e9f8e20.
        assert_eq!(node_id_of(&[0; 32]).to_string(), "66687aadf862bd776c8fc18b8e9f8e20");
    }

    #[test]
    fn a_signature_verifies_and_any_flipped_bit_breaks_it() {
        let key = RecordKey::generate().unwrap();
        let record = record(&key, key.node_id());
        assert!(verify_record(&key.public(), &record));
        for bit in 0..record.encoded().len() * 8 {
            let mut bytes = record.encoded().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(changed) = Record::decode(bytes.into()) {
                assert!(!verify_record(&key.public(), &changed), "bit {bit}");
            }
        }
    }

    #[test]
    fn nobody_signs_for_another_id() {
        let key = RecordKey::generate().unwrap();
        let other = RecordKey::generate().unwrap();
        assert!(!verify_record(&key.public(), &record(&key, other.node_id())), "own key, other's id");
        assert!(!verify_record(&other.public(), &record(&key, other.node_id())), "other's id and key, own signature");
    }

    #[test]
    fn a_key_reads_back_from_its_file_and_rubbish_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.key");
        let key = RecordKey::generate().unwrap();
        std::fs::write(&path, key.to_pem()).unwrap();
        assert_eq!(RecordKey::load(&path).unwrap().public(), key.public());
        std::fs::write(&path, &key.to_pem()[..60]).unwrap();
        assert!(matches!(RecordKey::load(&path), Err(IdentityError::Damaged { .. })));
        assert!(!format!("{key:?}").contains("pkcs8"));
    }
}
