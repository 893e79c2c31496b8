//! The identity of this host as it lies on disk: `DATA_DIR/identity/{node.pem, node.key, record.key, roots.pem,
//! gossip.key, cluster, lineage, issuer}`. Files come in through [`Identity::load`], which checks that they belong together; a
//! new set goes out through `install`, whole. The gossip keyring lies beside it (`keyring`).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use super::ca::fingerprint;
use super::certificate::unix_s;
use super::files::{self, Home};
use super::peer::{CERTIFICATE_BYTES_MAX, CHAIN_CERTIFICATES_MAX};
use super::tls::{TlsContexts, crypto_provider};
use super::trust::{ClusterTrust, client_verifier};
use super::{IdentityError, PeerError, PeerIdentity, RecordKey, keyring};
use crate::model::{NodeId, NodeName};
use crate::wire::keyring::Keyring;
use crate::wire::seal::GossipKey;

const NODE_PEM: &str = "node.pem";
const NODE_KEY: &str = "node.key";
const RECORD_KEY: &str = "record.key";
const ROOTS_PEM: &str = "roots.pem";
pub(super) const GOSSIP_KEY: &str = "gossip.key";
const CLUSTER: &str = "cluster";
const LINEAGE: &str = "lineage";
const ISSUER: &str = "issuer";

/// A reader that meets an identity just as it is replaced starts over; more often than this it does not happen.
const LOAD_ATTEMPTS: usize = 3;

/// Everything that makes up an identity.
pub(super) struct Parts {
    /// Leaf first.
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) tls_key: KeyPair,
    pub(super) record_key: RecordKey,
    pub(super) roots: Vec<Vec<u8>>,
    /// The primary of the keyring.
    pub(super) gossip_key: GossipKey,
    pub(super) cluster: String,
    /// SHA-256 of the first root that this host knew of its CA.
    pub(super) lineage: [u8; 32],
    /// Who renews the certificate; `None` on the issuer itself.
    pub(super) issuer: Option<SocketAddr>,
}

/// Writes an identity and puts it in force. Until the very end the one before it stays as it was.
pub(super) fn install(home: &Home, parts: &Parts) -> Result<(), IdentityError> {
    let chain = |ders: &[Vec<u8>]| ders.iter().map(|der| files::pem("CERTIFICATE", der)).collect::<String>();
    let mut set = vec![
        (RECORD_KEY, parts.record_key.to_pem()),
        (NODE_KEY, parts.tls_key.serialize_pem().into_bytes()),
        (ROOTS_PEM, chain(&parts.roots).into_bytes()),
        (GOSSIP_KEY, gossip_key_text(&parts.gossip_key)),
        (CLUSTER, format!("{}\n", parts.cluster).into_bytes()),
        (LINEAGE, (data_encoding::HEXLOWER.encode(&parts.lineage) + "\n").into_bytes()),
        (NODE_PEM, chain(&parts.certificates).into_bytes()),
    ];
    if let Some(issuer) = parts.issuer {
        set.push((ISSUER, format!("{issuer}\n").into_bytes()));
    }
    home.install_identity(&set)
}

/// This host's identity, loaded. Clones share the keys.
#[derive(Debug, Clone)]
pub struct Identity {
    /// This host's id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: String,
    /// Signs its records.
    pub record_key: RecordKey,
    /// Its certificate and the issuer's, DER, leaf first: what its node record carries.
    pub certificates: Vec<Vec<u8>>,
    /// Globs over the names of the services that it may speak for.
    pub grants: Vec<String>,
    /// From when its certificate holds.
    pub not_before: SystemTime,
    /// Until when its certificate holds.
    pub not_after: SystemTime,
    /// Seals gossip packets and opens them, as it was on disk when this was loaded.
    pub keyring: Keyring,
    /// Who renews its certificate; `None` on the issuer itself.
    pub issuer: Option<SocketAddr>,
    /// SHA-256 of the first root that this host knew of its CA: what is kept for that CA is known by it, whatever roots come.
    pub(super) lineage: [u8; 32],
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) root_certificates: Vec<CertificateDer<'static>>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) cluster_trust: ClusterTrust,
}

impl Identity {
    /// Reads this host's identity. An expired one loads too: the caller says so, loudly, and renews it.
    pub fn load(data_dir: &Path) -> Result<Identity, IdentityError> {
        let mut attempt = 1;
        loop {
            let directory = files::identity_directory(data_dir)?;
            match Identity::load_from(data_dir, &directory) {
                Err(IdentityError::Io { source, .. })
                    if source.kind() == ErrorKind::NotFound && attempt < LOAD_ATTEMPTS && !directory.exists() =>
                {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn load_from(data_dir: &Path, directory: &Path) -> Result<Identity, IdentityError> {
        let at = |file: &str| directory.join(file);
        let chain = certificates_in(&at(NODE_PEM))?;
        let leaf = PeerIdentity::from_certs(Some(&chain)).map_err(|e| IdentityError::damaged(at(NODE_PEM), &e))?;
        let record_key = RecordKey::load(&at(RECORD_KEY))?;
        if record_key.public() != leaf.record_key {
            return Err(IdentityError::damaged(at(RECORD_KEY), &"it is not the key that node.pem names"));
        }
        let cluster = files::read_text(&at(CLUSTER))?.to_string();
        let leaf = leaf.in_cluster(&cluster).map_err(|e| IdentityError::damaged(at(CLUSTER), &e))?;
        let certified = certified_key(&at(NODE_KEY), &chain)?;
        let root_certificates = certificates_in(&at(ROOTS_PEM))?;
        let roots = root_store(&root_certificates).map_err(|e| IdentityError::damaged(at(ROOTS_PEM), &e))?;
        let verifier = client_verifier(&roots).map_err(|e| IdentityError::damaged(at(ROOTS_PEM), &e))?;
        let lineage = lineage_in(&at(LINEAGE))?.unwrap_or_else(|| fingerprint(&root_certificates[0]));
        Ok(Identity {
            node: leaf.node,
            name: leaf.name,
            cluster,
            record_key,
            certificates: chain.iter().map(|der| der.to_vec()).collect(),
            grants: leaf.grants,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            keyring: keyring::load(data_dir, &lineage, gossip_key_in(&at(GOSSIP_KEY))?),
            issuer: issuer_in(&at(ISSUER))?,
            lineage,
            certified,
            root_certificates,
            roots,
            verifier,
            cluster_trust: ClusterTrust::default(),
        })
    }

    /// Checks that a chain (DER, leaf first) leads to a root of this cluster and holds at `now`; says whose it is. This
    /// is what admits another host's node record.
    pub fn verify_chain(&self, certificates: &[Vec<u8>], now: SystemTime) -> Result<PeerIdentity, PeerError> {
        self.verify_signers(certificates, now)?;
        PeerIdentity::from_chain(certificates.iter().map(Vec::as_slice))?.in_cluster(&self.cluster)
    }

    /// Checks that a chain leads to a root of this cluster and holds at `now`, whoever it is of. Returns its leaf.
    pub(super) fn verify_signers<'a>(
        &self,
        certificates: &'a [Vec<u8>],
        now: SystemTime,
    ) -> Result<&'a [u8], PeerError> {
        let Some((leaf, intermediates)) = certificates.split_first() else {
            return Err(PeerError::NoCertificate);
        };
        let oversized = certificates.iter().any(|der| der.len() > CERTIFICATE_BYTES_MAX);
        if oversized || certificates.len() > CHAIN_CERTIFICATES_MAX {
            return Err(PeerError::Malformed("the chain is too large"));
        }
        let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_s(now)));
        self.verifier
            .verify_client_cert(&CertificateDer::from(leaf.as_slice()), &intermediates, now)
            .map_err(|error| PeerError::Untrusted(error.to_string()))?;
        if self.cluster_trust.revokes(leaf, intermediates.iter().map(|issuer| &**issuer)) {
            return Err(PeerError::Revoked);
        }
        Ok(leaf)
    }

    /// The same identity as it is on disk now. What the cluster has decided is shared.
    pub fn reload(&self, data_dir: &Path) -> Result<Identity, IdentityError> {
        Ok(Identity { cluster_trust: self.cluster_trust.clone(), ..Identity::load(data_dir)? })
    }

    /// What the cluster has decided about trust. The agent keeps it up to date.
    pub fn cluster_trust(&self) -> &ClusterTrust {
        &self.cluster_trust
    }

    /// The roots that certificates may lead to, DER, the one for new certificates first.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.root_certificates.iter().map(|root| &**root)
    }

    /// TLS configurations that prove this identity.
    pub fn tls(&self) -> Result<TlsContexts, IdentityError> {
        TlsContexts::new(self)
    }

    /// When the certificate is to be renewed: from one third of its life, so that an issuer may be down for days, and by
    /// another part of the next twelfth for each host, so that hosts that were enrolled together do not come together for ever.
    pub fn renewal_due_at(&self) -> SystemTime {
        let begins = unix_s(self.not_before);
        let life = unix_s(self.not_after).saturating_sub(begins);
        let mut mark = [0; 8];
        mark.copy_from_slice(&fingerprint(&self.certificates[0])[..8]);
        let jitter = u64::from_be_bytes(mark) % (life / 12).max(1);
        UNIX_EPOCH + Duration::from_secs(begins.saturating_add(life / 3).saturating_add(jitter))
    }
}

/// The record key of the identity in force, if there is one: a host that enrols again stays who it is.
pub(super) fn existing_record_key(data_dir: &Path) -> Result<Option<RecordKey>, IdentityError> {
    match files::identity_directory(data_dir) {
        Ok(directory) => RecordKey::load(&directory.join(RECORD_KEY)).map(Some),
        Err(IdentityError::NotEnrolled { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The key of the identity in force.
pub(super) fn tls_key(data_dir: &Path) -> Result<KeyPair, IdentityError> {
    let path = files::identity_directory(data_dir)?.join(NODE_KEY);
    KeyPair::from_pem(&files::read_text(&path)?).map_err(|error| IdentityError::damaged(&path, &error))
}

/// Roots to verify against.
pub(super) fn root_store(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    certificates.iter().try_for_each(|root| roots.add(root.clone()))?;
    Ok(Arc::new(roots))
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = files::read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(some) if !some.is_empty() => Ok(some),
        _ => Err(IdentityError::damaged(path, &"it holds no certificates in PEM")),
    }
}

fn certified_key(path: &Path, chain: &[CertificateDer<'static>]) -> Result<Arc<CertifiedKey>, IdentityError> {
    let key = PrivateKeyDer::from_pem_slice(&files::read(path)?)
        .map_err(|_| IdentityError::damaged(path, &"it holds no private key in PEM"))?;
    // Also checks that the key is the leaf's.
    let certified = CertifiedKey::from_der(chain.to_vec(), key, &crypto_provider());
    certified.map(Arc::new).map_err(|error| IdentityError::damaged(path, &error))
}

/// What `gossip.key` holds.
pub(super) fn gossip_key_text(key: &GossipKey) -> Vec<u8> {
    (data_encoding::BASE64.encode(&key.0) + "\n").into_bytes()
}

fn gossip_key_in(path: &Path) -> Result<GossipKey, IdentityError> {
    let bytes = data_encoding::BASE64.decode(files::read_text(path)?.as_bytes()).ok();
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    key.map(GossipKey).ok_or_else(|| IdentityError::damaged(path, &"it does not hold 32 bytes in base64"))
}

/// Identities of before roots could be rotated have none.
fn lineage_in(path: &Path) -> Result<Option<[u8; 32]>, IdentityError> {
    let Some(text) = files::text_if_there(path)? else { return Ok(None) };
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Some).ok_or_else(|| IdentityError::damaged(path, &"it holds no SHA-256 in hex"))
}

fn issuer_in(path: &Path) -> Result<Option<SocketAddr>, IdentityError> {
    let Some(text) = files::text_if_there(path)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| IdentityError::damaged(path, &"it holds no ADDRESS:PORT"))
}
