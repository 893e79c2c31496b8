//! The certificate authority of a cluster: made once by `weft ca init`, kept in `DATA_DIR/ca` on the hosts that issue.
//!
//! A root, whose fingerprint join tokens pin, signs an issuer, which signs node certificates. The root's key is needed
//! for nothing else and may be moved offline. Requests come in checked by `issue`; signed certificates go out.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use x509_parser::prelude::FromDer as _;

use super::certificate::{CLOCK_SLACK, check_cluster, node_params, params, unix_s};
use super::files::{self, Home};
use super::installed::{self, Parts};
use super::record_key::id_as_text;
use super::{IdentityError, PeerIdentity, RecordKey, new_gossip_key};
use crate::model::{NodeId, NodeName};

/// Root and issuer last as long as the machines they serve; what is renewed is the node certificate.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The CA's certificates begin before any node certificate can.
const CA_CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

const CA_DIR: &str = "ca";
const ROOT_PEM: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const ISSUER_PEM: &str = "issuer.pem";
const ISSUER_KEY: &str = "issuer.key";

/// What `weft ca init` made.
#[derive(Debug, Clone, Serialize)]
pub struct CaSummary {
    /// The cluster.
    pub cluster: String,
    /// The first host's id.
    #[serde(serialize_with = "id_as_text")]
    pub node: NodeId,
    /// The first host's name.
    pub name: NodeName,
    /// SHA-256 of the root certificate, in hex: what join tokens pin.
    pub root_sha256: String,
    /// When root and issuer end, seconds since 1970.
    pub not_after_unix_s: u64,
}

/// Makes a cluster's CA and gossip key in `data_dir`, and enrols this host as the first. Overwrites nothing.
pub fn ca_init(data_dir: &Path, cluster: &str, name: &NodeName) -> Result<CaSummary, IdentityError> {
    check_cluster(cluster)?;
    let home = Home::open(data_dir)?;
    let place = directory(data_dir);
    if std::fs::symlink_metadata(&place).is_ok() {
        return Err(IdentityError::AlreadyThere { path: place });
    }
    if home.has_identity() {
        return Err(IdentityError::AlreadyThere { path: data_dir.join("identity") });
    }
    let now = SystemTime::now();
    // A host of another cluster of the same name is then told from a forger: its issuer is unknown, not its signature bad.
    let mark = random_mark()?;
    let root = CertifiedIssuer::self_signed(ca_params(&format!("{cluster} root {mark}"), 1, now)?, new_key()?)?;
    let issuer_params = ca_params(&format!("{cluster} issuer {mark}"), 0, now)?;
    let issuer = CertifiedIssuer::signed_by(issuer_params, new_key()?, &root)?;
    let ca_files = [
        (ROOT_PEM, root.pem().into_bytes()),
        (ROOT_KEY, root.key().serialize_pem().into_bytes()),
        (ISSUER_PEM, issuer.pem().into_bytes()),
        (ISSUER_KEY, issuer.key().serialize_pem().into_bytes()),
    ];
    files::put_in_place(&home.stage(CA_DIR, &ca_files)?, &place)?;
    let enrolled = enrol_first_host(&home, cluster, name, root.der(), now);
    if enrolled.is_err() {
        // Nothing was issued by it yet; a second try must not find it in the way.
        let _ = std::fs::remove_dir_all(&place);
    }
    Ok(CaSummary {
        cluster: cluster.to_owned(),
        node: enrolled?,
        name: name.clone(),
        root_sha256: data_encoding::HEXLOWER.encode(&fingerprint(root.der())),
        not_after_unix_s: unix_s(now + CA_LIFETIME),
    })
}

fn enrol_first_host(
    home: &Home,
    cluster: &str,
    name: &NodeName,
    root: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<NodeId, IdentityError> {
    let authority = Authority::load(home.path())?;
    let (tls_key, record_key) = (new_key()?, RecordKey::generate()?);
    // The first host may speak for every service: whoever owns the CA may do so anyway.
    let subject = Subject { cluster, name, record_key: &record_key.public(), grants: &["*".to_owned()] };
    let certificates = authority.issue(&subject, &tls_key, now)?;
    installed::install(
        home,
        &Parts {
            certificates,
            tls_key,
            record_key: record_key.clone(),
            roots: vec![root.to_vec()],
            gossip_key: new_gossip_key()?,
            cluster: cluster.to_owned(),
            issuer: None,
        },
    )?;
    Ok(record_key.node_id())
}

/// Whom a certificate is made for.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) cluster: &'a str,
    pub(super) name: &'a NodeName,
    pub(super) record_key: &'a [u8; 32],
    pub(super) grants: &'a [String],
}

impl<'a> Subject<'a> {
    /// The holder of a certificate, once more.
    pub(super) fn of(peer: &'a PeerIdentity) -> Subject<'a> {
        Subject { cluster: &peer.cluster, name: &peer.name, record_key: &peer.record_key, grants: &peer.grants }
    }
}

/// The issuer's key and certificate, loaded.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
}

impl Authority {
    /// True if the host keeps a CA.
    pub(super) fn is_in(data_dir: &Path) -> bool {
        directory(data_dir).join(ISSUER_KEY).exists()
    }

    /// Reads the issuer.
    pub(super) fn load(data_dir: &Path) -> Result<Authority, IdentityError> {
        if !Authority::is_in(data_dir) {
            return Err(IdentityError::NotIssuer { data_dir: data_dir.to_owned() });
        }
        let (pem, key) = (directory(data_dir).join(ISSUER_PEM), directory(data_dir).join(ISSUER_KEY));
        let certificate = CertificateDer::from_pem_slice(&files::read(&pem)?)
            .map_err(|error| IdentityError::damaged(&pem, &format!("{error:?}")))?;
        let pair = KeyPair::from_pem(&files::read_text(&key)?).map_err(|error| IdentityError::damaged(&key, &error))?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, pair).map_err(|error| IdentityError::damaged(&pem, &error))?;
        let not_after = not_after(&certificate).ok_or_else(|| IdentityError::damaged(&pem, &"it has no end date"))?;
        Ok(Authority { issuer, certificate, not_after })
    }

    /// Signs a node certificate over `key`. Returns the chain to present, leaf first.
    pub(super) fn issue(
        &self,
        subject: &Subject<'_>,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        self.sign(node_params(subject.cluster, subject.name, subject.record_key, subject.grants, now)?, key)
    }

    /// Signs a certificate that ends with the issuer's at the latest. Returns the chain to present, leaf first.
    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        let ca_ends = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s(self.not_after));
        params.not_after = params.not_after.min(ca_ends);
        let leaf = params.signed_by(key, &self.issuer)?;
        Ok(vec![leaf.der().to_vec(), self.certificate.to_vec()])
    }
}

/// Where the CA is kept.
pub(super) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join(CA_DIR)
}

/// A P-256 key: every TLS stack has it, and its signatures are small and quick.
pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// What join tokens pin.
pub(super) fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, certificate).as_ref());
    sha256
}

/// Eight hex digits that tell this CA from others.
fn random_mark() -> Result<String, IdentityError> {
    let mut mark = [0; 4];
    aws_lc_rs::rand::fill(&mut mark).map_err(|_| IdentityError::Crypto("give random bytes"))?;
    Ok(data_encoding::HEXLOWER.encode(&mark))
}

fn ca_params(common_name: &str, intermediates_max: u8, now: SystemTime) -> Result<CertificateParams, IdentityError> {
    let mut params = params(common_name, now - CLOCK_SLACK - CA_CLOCK_SLACK, now + CA_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(intermediates_max));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let unix_s = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s))
}
