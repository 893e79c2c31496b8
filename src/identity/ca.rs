//! The certificate authority of a cluster: made once by `weft ca init`, kept in `DATA_DIR/ca` on the hosts that issue.
//!
//! A root, whose fingerprint join tokens pin, signs issuers, one on each host that issues, which sign node certificates. The
//! root's key is needed for nothing else and may be moved offline. Requests come in checked by `issue`; signed certificates
//! go out, and are recorded (`issued`).
//!
//! ```text
//! ca/{root.pem, root.key, issuer.pem, issuer.key}   the first generation of keys
//! ca/gN/...                                         the same of a later one
//! ca/generation                                     the one in use; without this file the first
//! ca/next                                           the one that a rotation of roots has made and not taken into use
//! ca/node-ttl                                       how long node certificates last, in seconds
//! ca/tokens.json, ca/issued.jsonl                   join tokens; what was issued
//! ```
//!
//! A host that was made an issuer later has no root there.

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

use super::certificate::{CLOCK_SLACK, NODE_LIFETIME, check_cluster, issuer_name, node_params, params, unix_s};
use super::files::{self, Home};
use super::installed::{self, Parts};
use super::issued::Issued;
use super::record_key::id_as_text;
use super::trust::root_of;
use super::{Identity, IdentityError, PeerIdentity, RecordKey, new_gossip_key};
use crate::model::{NodeId, NodeName};

/// Root and issuer last as long as the machines they serve; what is renewed is the node certificate.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The CA's certificates begin before any node certificate can.
const CA_CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

pub(super) const CA_DIR: &str = "ca";
pub(super) const ROOT_PEM: &str = "root.pem";
pub(super) const ROOT_KEY: &str = "root.key";
pub(super) const ISSUER_PEM: &str = "issuer.pem";
pub(super) const ISSUER_KEY: &str = "issuer.key";
pub(super) const GENERATION: &str = "generation";
pub(super) const NEXT: &str = "next";
pub(super) const NODE_TTL: &str = "node-ttl";
/// Below it nobody could repair an issuer before the fleet stands still; what is shorter is for trials.
const NODE_TTL_MIN: Duration = Duration::from_secs(30);
/// A certificate that outlives a year might as well have no end.
const NODE_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

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

/// What a new CA is made of.
#[derive(Debug, Clone, Default)]
pub struct CaOptions {
    /// How long node certificates last; seven days where nothing is said.
    pub node_ttl: Option<Duration>,
    /// Keys that are there already; else new ones are made.
    pub given: Option<GivenCa>,
}

/// A CA of one's own, PEM.
#[derive(Debug, Clone)]
pub enum GivenCa {
    /// A root with its key: the issuer is made under it.
    Root {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with its key.
        key: PathBuf,
    },
    /// A certificate authority below a root whose key is elsewhere: it is the issuer.
    Intermediate {
        /// The file with the root's certificate.
        root: PathBuf,
        /// The file with the intermediate certificate.
        certificate: PathBuf,
        /// The file with its key.
        key: PathBuf,
    },
}

/// Makes a cluster's CA and gossip key in `data_dir`, and enrols this host as the first. Overwrites nothing.
pub fn ca_init(
    data_dir: &Path,
    cluster: &str,
    name: &NodeName,
    options: &CaOptions,
) -> Result<CaSummary, IdentityError> {
    check_cluster(cluster)?;
    let node_ttl = options.node_ttl.unwrap_or(NODE_LIFETIME);
    if !(NODE_TTL_MIN..=NODE_TTL_MAX).contains(&node_ttl) {
        return Err(IdentityError::TokenLimits(
            "node certificates last between 30 seconds and a year; change --node-ttl",
        ));
    }
    let home = Home::open(data_dir)?;
    let place = directory(data_dir);
    if std::fs::symlink_metadata(&place).is_ok() {
        return Err(IdentityError::AlreadyThere { path: place });
    }
    if home.has_identity() {
        return Err(IdentityError::AlreadyThere { path: data_dir.join("identity") });
    }
    let now = SystemTime::now();
    let record_key = RecordKey::generate()?;
    let keys = CaKeys::make(cluster, record_key.node_id(), options.given.as_ref(), now)?;
    let root = keys.root.clone();
    let mut ca_files = keys.into_files();
    ca_files.push((NODE_TTL, format!("{}\n", node_ttl.as_secs()).into_bytes()));
    files::put_in_place(&home.stage(CA_DIR, &ca_files)?, &place)?;
    let enrolled = enrol_first_host(&home, cluster, name, &record_key, &root, now);
    if enrolled.is_err() {
        // Nothing was issued by it yet; a second try must not find it in the way.
        let _ = std::fs::remove_dir_all(&place);
    }
    enrolled?;
    Ok(CaSummary {
        cluster: cluster.to_owned(),
        node: record_key.node_id(),
        name: name.clone(),
        root_sha256: data_encoding::HEXLOWER.encode(&fingerprint(&root)),
        not_after_unix_s: Authority::load(data_dir).map(|authority| unix_s(authority.not_after))?,
    })
}

fn enrol_first_host(
    home: &Home,
    cluster: &str,
    name: &NodeName,
    record_key: &RecordKey,
    root: &[u8],
    now: SystemTime,
) -> Result<(), IdentityError> {
    let authority = Authority::load(home.path())?;
    let tls_key = new_key()?;
    // The first host may speak for every service: whoever owns the CA may do so anyway.
    let subject = Subject { cluster, name, record_key: &record_key.public(), grants: &["*".to_owned()] };
    let certificates = authority.issue(&subject, &tls_key, now)?;
    if root_of(&certificates, &[root.to_vec()]).is_none() {
        return Err(IdentityError::GivenCa {
            reason: "certificates that it issues do not lead to the root; give an issuer that the root signed, both of them \
                     certificate authorities that may sign certificates (keyCertSign), with room for one below the root"
                .to_owned(),
        });
    }
    installed::install(
        home,
        &Parts {
            certificates,
            tls_key,
            record_key: record_key.clone(),
            roots: vec![root.to_vec()],
            gossip_key: new_gossip_key()?,
            cluster: cluster.to_owned(),
            lineage: fingerprint(root),
            issuer: None,
        },
    )
}

/// The keys of one generation.
pub(super) struct CaKeys {
    pub(super) root: Vec<u8>,
    root_pem: String,
    /// `None` where it is elsewhere.
    root_key: Option<String>,
    issuer_pem: String,
    issuer_key: String,
}

impl CaKeys {
    pub(super) fn make(
        cluster: &str,
        node: NodeId,
        given: Option<&GivenCa>,
        now: SystemTime,
    ) -> Result<CaKeys, IdentityError> {
        match given {
            None => {
                // A host of another cluster of the same name is then told from a forger: its issuer is unknown, not its
                // signature bad.
                let params = ca_params(&format!("{cluster} root {}", random_mark()?), 1, now)?;
                let root = CertifiedIssuer::self_signed(params, new_key()?)?;
                let (root_pem, root_key) = (root.pem(), root.key().serialize_pem());
                CaKeys::under(cluster, node, (root.der().to_vec(), root_pem), Some(root_key), &root, now)
            }
            Some(GivenCa::Root { certificate, key }) => {
                let (root, root_key) = (certificate_in(certificate)?, key_in(key)?);
                let key_pem = root_key.serialize_pem();
                check_pair(&root, &root_key, key)?;
                let issuer =
                    Issuer::from_ca_cert_der(&root, root_key).map_err(|error| given_ca(certificate, &error))?;
                let root_pem = files::pem("CERTIFICATE", &root);
                CaKeys::under(cluster, node, (root.to_vec(), root_pem), Some(key_pem), &issuer, now)
            }
            Some(GivenCa::Intermediate { root, certificate, key }) => {
                let (root, issuer, issuer_key) = (certificate_in(root)?, certificate_in(certificate)?, key_in(key)?);
                check_pair(&issuer, &issuer_key, key)?;
                Ok(CaKeys {
                    root_pem: files::pem("CERTIFICATE", &root),
                    root: root.to_vec(),
                    root_key: None,
                    issuer_pem: files::pem("CERTIFICATE", &issuer),
                    issuer_key: issuer_key.serialize_pem(),
                })
            }
        }
    }

    fn under(
        cluster: &str,
        node: NodeId,
        (root, root_pem): (Vec<u8>, String),
        root_key: Option<String>,
        signer: &Issuer<'_, KeyPair>,
        now: SystemTime,
    ) -> Result<CaKeys, IdentityError> {
        let issuer_key = new_key()?;
        let mut params = ca_params(&issuer_name(cluster, node), 0, now)?;
        end_with(&mut params, &root)?;
        let issuer = params.signed_by(&issuer_key, signer)?;
        Ok(CaKeys { root, root_pem, root_key, issuer_pem: issuer.pem(), issuer_key: issuer_key.serialize_pem() })
    }

    pub(super) fn into_files(self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![
            (ROOT_PEM, self.root_pem.into_bytes()),
            (ISSUER_PEM, self.issuer_pem.into_bytes()),
            (ISSUER_KEY, self.issuer_key.into_bytes()),
        ];
        files.extend(self.root_key.map(|key| (ROOT_KEY, key.into_bytes())));
        files
    }
}

fn given_ca(path: &Path, reason: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::GivenCa { reason: format!("{}: {reason}", path.display()) }
}

pub(super) fn certificate_in(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(&files::read(path)?).map_err(|_| given_ca(path, &"it holds no certificate in PEM"))
}

pub(super) fn key_in(path: &Path) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pem(&files::read_text(path)?)
        .map_err(|error| given_ca(path, &format!("it holds no private key in PEM that can be used (PKCS#8): {error}")))
}

pub(super) fn check_pair(certificate: &CertificateDer<'_>, key: &KeyPair, path: &Path) -> Result<(), IdentityError> {
    let (_, read) = x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_err(|_| given_ca(path, &"the certificate cannot be read"))?;
    if read.public_key().subject_public_key.data == key.der_bytes() {
        return Ok(());
    }
    Err(given_ca(path, &"it is not the key of the certificate"))
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

    /// The host itself, whose record key is this.
    pub(super) fn of_own(identity: &'a Identity, record_key: &'a [u8; 32]) -> Subject<'a> {
        Subject { cluster: &identity.cluster, name: &identity.name, record_key, grants: &identity.grants }
    }
}

/// The issuer's key and certificate, loaded.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    node_ttl: Duration,
    issued: Issued,
}

impl Authority {
    /// True if the host keeps a CA.
    pub(super) fn is_in(data_dir: &Path) -> bool {
        keys(data_dir).is_ok_and(|keys| keys.join(ISSUER_KEY).exists())
    }

    /// Reads the issuer.
    pub(super) fn load(data_dir: &Path) -> Result<Authority, IdentityError> {
        if !Authority::is_in(data_dir) {
            return Err(IdentityError::NotIssuer { data_dir: data_dir.to_owned() });
        }
        Authority::of_generation(data_dir, &keys(data_dir)?)
    }

    /// Reads the issuer of one generation of keys.
    pub(super) fn of_generation(data_dir: &Path, keys: &Path) -> Result<Authority, IdentityError> {
        let (pem, key) = (keys.join(ISSUER_PEM), keys.join(ISSUER_KEY));
        let certificate = CertificateDer::from_pem_slice(&files::read(&pem)?)
            .map_err(|error| IdentityError::damaged(&pem, &format!("{error:?}")))?;
        let pair = KeyPair::from_pem(&files::read_text(&key)?).map_err(|error| IdentityError::damaged(&key, &error))?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, pair).map_err(|error| IdentityError::damaged(&pem, &error))?;
        let not_after = not_after(&certificate).ok_or_else(|| IdentityError::damaged(&pem, &"it has no end date"))?;
        let issued = Issued::of(data_dir)?;
        Ok(Authority { issuer, certificate, not_after, node_ttl: node_ttl(data_dir)?, issued })
    }

    /// Signs a node certificate over `key`. Returns the chain to present, leaf first.
    pub(super) fn issue(
        &self,
        subject: &Subject<'_>,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        let Subject { cluster, name, record_key, grants } = *subject;
        self.sign(node_params(cluster, name, record_key, grants, now, self.node_ttl)?, key)
    }

    /// A certificate that nobody gets, to see where it leads.
    pub(super) fn probe(
        &self,
        subject: &Subject<'_>,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        let Subject { cluster, name, record_key, grants } = *subject;
        let mut params = node_params(cluster, name, record_key, grants, now, self.node_ttl)?;
        end_with(&mut params, &self.certificate)?;
        Ok(vec![params.signed_by(key, &self.issuer)?.der().to_vec(), self.certificate.to_vec()])
    }

    /// The issuer's certificate, DER.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// How long node certificates last.
    pub(super) fn node_ttl(&self) -> Duration {
        self.node_ttl
    }

    /// Signs a certificate that ends with the issuer's at the latest. Returns the chain to present, leaf first.
    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        end_with(&mut params, &self.certificate)?;
        let leaf = params.signed_by(key, &self.issuer)?;
        self.issued.note(leaf.der());
        Ok(vec![leaf.der().to_vec(), self.certificate.to_vec()])
    }
}

/// Where the CA is kept.
pub(super) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join(CA_DIR)
}

/// Where the keys in use are.
pub(super) fn keys(data_dir: &Path) -> Result<PathBuf, IdentityError> {
    let ca = directory(data_dir);
    Ok(match generation_in(&ca.join(GENERATION))? {
        Some(generation) => ca.join(generation),
        None => ca,
    })
}

/// The generation that a file names.
pub(super) fn generation_in(path: &Path) -> Result<Option<String>, IdentityError> {
    let Some(text) = files::text_if_there(path)? else { return Ok(None) };
    let is_generation = text.strip_prefix('g').is_some_and(|number| number.parse::<u32>().is_ok());
    if is_generation {
        Ok(Some(text.to_string()))
    } else {
        Err(IdentityError::damaged(path, &"it names no generation of keys"))
    }
}

/// A generation that has no directory yet.
pub(super) fn new_generation(data_dir: &Path) -> Result<String, IdentityError> {
    let ca = directory(data_dir);
    let free = (2..u32::MAX).map(|number| format!("g{number}")).find(|name| !ca.join(name).exists());
    free.ok_or(IdentityError::Crypto("count generations"))
}

fn node_ttl(data_dir: &Path) -> Result<Duration, IdentityError> {
    let path = directory(data_dir).join(NODE_TTL);
    let Some(text) = files::text_if_there(&path)? else { return Ok(NODE_LIFETIME) };
    let seconds = text.parse().map_err(|_| IdentityError::damaged(&path, &"it holds no number of seconds"))?;
    Ok(Duration::from_secs(seconds).clamp(NODE_TTL_MIN, NODE_TTL_MAX))
}

/// A P-256 key: every TLS stack has it, and its signatures are small and quick.
pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// SHA-256 of a certificate: what join tokens pin.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
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

pub(super) fn ca_params(
    common_name: &str,
    intermediates_max: u8,
    now: SystemTime,
) -> Result<CertificateParams, IdentityError> {
    let mut params = params(common_name, now - CLOCK_SLACK - CA_CLOCK_SLACK, now + CA_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(intermediates_max));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// No certificate outlives the one that it is signed with.
pub(super) fn end_with(params: &mut CertificateParams, signer: &[u8]) -> Result<(), IdentityError> {
    let end = not_after(signer).ok_or(IdentityError::Crypto("find the end of a CA's certificate"))?;
    params.not_after = params.not_after.min(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s(end)));
    Ok(())
}

pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let unix_s = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s))
}
