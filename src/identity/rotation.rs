//! The CA's life after it was made: further issuers, and new roots without a gap.
//!
//! A root is replaced in three steps, and an agent that follows the cluster's word does the rest: [`rotation_begin`] makes a new
//! root, which all hosts are to trust beside the old one; [`rotation_switch`] takes it into use, and all hosts renew under it;
//! then the old root is retired by the cluster's word alone. What is on disk here says what an issuer signs with; what hosts trust
//! is `Trust` among the cluster's policies.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Serialize;

use super::ca::{
    self, Authority, CaKeys, GENERATION, GivenCa, ISSUER_KEY, ISSUER_PEM, NEXT, NODE_TTL, ROOT_KEY, ROOT_PEM,
    ca_params, certificate_in, end_with, fingerprint, key_in, keys, new_generation, not_after,
};
use super::certificate::{issuer_name, issuer_named_in, unix_s};
use super::files::{self, Home};
use super::tls::crypto_provider;
use super::trust::root_of;
use super::{Identity, IdentityError};
use crate::model::NodeId;

/// What a host keeps of the CA.
#[derive(Debug, Clone, Serialize)]
pub struct CaState {
    /// The issuer's certificate ends then, seconds since 1970.
    pub issuer_not_after_unix_s: u64,
    /// The host that the issuer's certificate names; `None` for one of somebody's own.
    #[serde(serialize_with = "super::record_key::maybe_id_as_text")]
    pub issuer_node: Option<NodeId>,
    /// How long node certificates last, in seconds.
    pub node_ttl_s: u64,
    /// The root's key is on this host: new issuers and operators of the root can be made.
    pub has_root_key: bool,
    /// SHA-256 of the root that this issuer's certificates lead to, in hex.
    pub root_sha256: String,
    /// The root that `weft ca rotate begin` has made and that is not in use yet.
    pub next_root_sha256: Option<String>,
}

/// What this host keeps of the CA.
pub fn ca_state(data_dir: &Path) -> Result<CaState, IdentityError> {
    let authority = Authority::load(data_dir)?;
    let keys = keys(data_dir)?;
    let identity = Identity::load(data_dir)?;
    let hex = |der: &[u8]| data_encoding::HEXLOWER.encode(&fingerprint(der));
    let roots: Vec<Vec<u8>> = identity.roots().map(<[u8]>::to_vec).collect();
    let chain = &identity.certificates;
    // On a host that was made an issuer the root is known from its identity.
    let root = match certificate_in(&keys.join(ROOT_PEM)) {
        Ok(root) => Some(root.to_vec()),
        Err(_) => root_of(chain, &roots).map(|index| roots[index].clone()),
    };
    Ok(CaState {
        issuer_not_after_unix_s: not_after(authority.certificate()).map_or(0, unix_s),
        issuer_node: issuer_named_in(authority.certificate()),
        node_ttl_s: authority.node_ttl().as_secs(),
        has_root_key: keys.join(ROOT_KEY).exists(),
        root_sha256: root.map(|root| hex(&root)).unwrap_or_default(),
        next_root_sha256: next_root(data_dir)?.map(|root| hex(&root)),
    })
}

/// The root that new certificates of this issuer lead to, DER; on hosts that keep it.
pub fn ca_root(data_dir: &Path) -> Result<Vec<u8>, IdentityError> {
    if !Authority::is_in(data_dir) {
        return Err(IdentityError::NotIssuer { data_dir: data_dir.to_owned() });
    }
    Ok(certificate_in(&keys(data_dir)?.join(ROOT_PEM))?.to_vec())
}

fn next_root(data_dir: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let ca = ca::directory(data_dir);
    let in_use = ca::generation_in(&ca.join(GENERATION))?;
    // A crash in the midst of the switch leaves it named twice.
    match ca::generation_in(&ca.join(NEXT))?.filter(|next| Some(next) != in_use.as_ref()) {
        Some(next) => Ok(Some(certificate_in(&ca.join(next).join(ROOT_PEM))?.to_vec())),
        None => Ok(None),
    }
}

/// Makes a new root with an issuer under it, beside those in use. Done twice it returns the one that is there.
pub fn rotation_begin(data_dir: &Path, given: Option<&GivenCa>) -> Result<Vec<u8>, IdentityError> {
    let identity = Identity::load(data_dir)?;
    // Also says so where there is no CA.
    Authority::load(data_dir)?;
    if let Some(root) = next_root(data_dir)? {
        return Ok(root);
    }
    let home = Home::open(data_dir)?;
    let made = CaKeys::make(&identity.cluster, identity.node, given, SystemTime::now())?;
    if identity.roots().any(|root| root == made.root) {
        return Err(IdentityError::Rotation("that root is trusted already; give another".to_owned()));
    }
    let root = made.root.clone();
    let generation = new_generation(data_dir)?;
    let ca = ca::directory(data_dir);
    files::put_in_place(&home.stage("ca-generation", &made.into_files())?, &ca.join(&generation))?;
    home.write(&ca.join(NEXT), format!("{generation}\n").as_bytes())?;
    Ok(root)
}

/// A certificate of this host under the root that [`rotation_begin`] has made, and all roots that count for it.
pub(super) fn next_certificate(
    data_dir: &Path,
    identity: &Identity,
) -> Result<(Arc<CertifiedKey>, Arc<RootCertStore>), IdentityError> {
    let ca = ca::directory(data_dir);
    let Some(next) = ca::generation_in(&ca.join(NEXT))? else { return Err(no_next()) };
    let authority = Authority::of_generation(data_dir, &ca.join(next))?;
    let key = ca::new_key()?;
    let chain =
        authority.probe(&ca::Subject::of_own(identity, &identity.record_key.public()), &key, SystemTime::now())?;
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
    let der =
        PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| IdentityError::Crypto("read the key it made"))?;
    let certified = CertifiedKey::from_der(chain, der, &crypto_provider())?;
    Ok((Arc::new(certified), identity.roots.clone()))
}

fn no_next() -> IdentityError {
    IdentityError::Rotation("there is no new root; begin with `weft ca rotate begin`".to_owned())
}

/// Takes the root that [`rotation_begin`] made into use: what is issued from now on leads to it.
pub fn rotation_switch(data_dir: &Path) -> Result<Vec<u8>, IdentityError> {
    let home = Home::open(data_dir)?;
    let ca = ca::directory(data_dir);
    let Some(next) = ca::generation_in(&ca.join(NEXT))? else { return Err(no_next()) };
    home.write(&ca.join(GENERATION), format!("{next}\n").as_bytes())?;
    std::fs::remove_file(ca.join(NEXT)).map_err(IdentityError::io("remove", ca.join(NEXT)))?;
    ca_root(data_dir)
}

/// Signs the certificate of another host's issuer with the root's key, which must be on this host.
pub(super) fn sign_issuer(
    data_dir: &Path,
    cluster: &str,
    node: NodeId,
    key: &impl PublicKeyData,
    now: SystemTime,
) -> Result<Option<Vec<u8>>, IdentityError> {
    let keys = keys(data_dir)?;
    if !keys.join(ROOT_KEY).exists() {
        return Ok(None);
    }
    let root = certificate_in(&keys.join(ROOT_PEM))?;
    let signer = Issuer::from_ca_cert_der(&root, key_in(&keys.join(ROOT_KEY))?)?;
    let mut params = ca_params(&issuer_name(cluster, node), 0, now)?;
    end_with(&mut params, &root)?;
    let certificate = params.signed_by(key, &signer)?;
    super::issued::Issued::of(data_dir)?.note(certificate.der());
    Ok(Some(certificate.der().to_vec()))
}

/// Makes this host an issuer, or one under another root than before, with a certificate that the root's key has signed.
pub(super) fn install_issuer(
    data_dir: &Path,
    certificate: &[u8],
    key: &KeyPair,
    node_ttl: Duration,
) -> Result<(), IdentityError> {
    let home = Home::open(data_dir)?;
    let ca = ca::directory(data_dir);
    let mut files = vec![
        (ISSUER_PEM, files::pem("CERTIFICATE", certificate).into_bytes()),
        (ISSUER_KEY, key.serialize_pem().into_bytes()),
    ];
    let ttl = format!("{}\n", node_ttl.as_secs()).into_bytes();
    if !ca.exists() {
        files.push((NODE_TTL, ttl));
        return files::put_in_place(&home.stage(ca::CA_DIR, &files)?, &ca);
    }
    let generation = new_generation(data_dir)?;
    files::put_in_place(&home.stage("ca-generation", &files)?, &ca.join(&generation))?;
    home.write(&ca.join(NODE_TTL), &ttl)?;
    home.write(&ca.join(GENERATION), format!("{generation}\n").as_bytes())
}

/// True if this host issues certificates that lead to this root (DER).
pub fn issues_under(identity: &Identity, data_dir: &Path, root: &[u8]) -> bool {
    let Ok(authority) = Authority::load(data_dir) else { return false };
    if certificate_in(&keys(data_dir).unwrap_or_default().join(ROOT_PEM)).is_ok_and(|own| *own == *root) {
        return true;
    }
    let now = SystemTime::now();
    let probe = ca::new_key()
        .and_then(|key| authority.probe(&ca::Subject::of_own(identity, &identity.record_key.public()), &key, now));
    probe.is_ok_and(|chain| root_of(&chain, &[root.to_vec()]).is_some())
}
