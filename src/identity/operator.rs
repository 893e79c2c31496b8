//! Operators: people who decide for the whole cluster. Their certificates come from the same issuer as those of hosts and
//! are good for nothing but signing policies: no service, no record, no connection.
//!
//! A certificate of an operator has the URI `spiffe://CLUSTER/operator/NAME`, an Ed25519 key and no DNS name. One file has
//! key and certificates; it is read where the operator sits, never by the agent.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::ca::Authority;
use super::certificate::{CLOCK_SLACK, check_cluster, params, unix_s};
use super::record_key::verify;
use super::{Identity, IdentityError, PeerError, RecordKey, files};
use crate::model::{Change, NodeName, Policy, Statement};
use crate::wire::policy::{POLICY_FORMAT, Proof, decode_policy, encode_policy, encode_statement, signed_bytes};

/// Below a minute a certificate is over before it is used; ten years is what the issuer itself has.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const PRIVATE_FILE_MODE: u32 = 0o600;
/// Who else may do something with a file of mode 0600: nobody.
const OTHERS: u32 = 0o077;

/// What `weft ca operator` made.
#[derive(Debug, Clone, Serialize)]
pub struct OperatorSummary {
    /// The cluster.
    pub cluster: String,
    /// The operator.
    pub operator: String,
    /// The file with key and certificates.
    pub path: PathBuf,
    /// When the certificate ends, seconds since 1970.
    pub not_after_unix_s: u64,
}

/// Why a policy is not an operator's of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefused {
    /// Its certificate does not lead to a root of this cluster, or has ended, or is no operator's.
    #[error("the operator's certificate is not accepted: {0}")]
    Certificate(String),
    /// Somebody else signed it, or it was changed.
    #[error("the signature is not that of the operator it names, or the policy was changed after it was signed")]
    Signature,
    /// Not readable.
    #[error("{0}")]
    Malformed(String),
}

/// Makes an operator's key and certificate on a host that keeps the CA, in a file that only its owner reads. Overwrites
/// nothing. `out` may be a directory: the file is then `NAME.pem` there.
pub fn operator_create(
    data_dir: &Path,
    name: &NodeName,
    lifetime: Duration,
    out: &Path,
) -> Result<OperatorSummary, IdentityError> {
    if lifetime < LIFETIME_MIN || lifetime > LIFETIME_MAX {
        return Err(IdentityError::TokenLimits(
            "an operator's certificate lasts from a minute to ten years; change --ttl",
        ));
    }
    if name.as_str() == VOUCHER_NAME {
        return Err(IdentityError::Policy(format!(
            "{VOUCHER_NAME} is what issuers call themselves; choose another name"
        )));
    }
    let authority = Authority::load(data_dir)?;
    let cluster = Identity::load(data_dir)?.cluster;
    let now = SystemTime::now();
    let (key, certificates, not_after_unix_s) = make(&authority, &cluster, name.as_str(), now, lifetime)?;
    let path = if out.is_dir() { out.join(format!("{name}.pem")) } else { out.to_owned() };
    let mut text = key.to_pem();
    certificates.iter().for_each(|der| text.extend(files::pem("CERTIFICATE", der).into_bytes()));
    let opened = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE_MODE).open(&path);
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => IdentityError::AlreadyThere { path: path.clone() },
        _ => IdentityError::io("create", &path)(error),
    })?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(IdentityError::io("write", &path))?;
    Ok(OperatorSummary { cluster, operator: name.to_string(), path, not_after_unix_s })
}

fn make(
    authority: &Authority,
    cluster: &str,
    name: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<(RecordKey, Vec<Vec<u8>>, u64), IdentityError> {
    let key = RecordKey::generate()?;
    let mut params = params(name, now - CLOCK_SLACK, now + lifetime)?;
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{cluster}/operator/{name}"))?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // The chain is verified as that of a client; no agent takes it as one, because it names no node.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificates = authority.sign(params, &Ed25519Public(key.public()))?;
    let end = X509Certificate::from_der(&certificates[0])
        .ok()
        .and_then(|(_, read)| u64::try_from(read.validity().not_after.timestamp()).ok());
    Ok((key, certificates, end.unwrap_or_else(|| unix_s(now + lifetime))))
}

/// A public key for rcgen, which knows only keys of its own.
struct Ed25519Public([u8; 32]);

impl PublicKeyData for Ed25519Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// An operator's key with its certificates: signs policies.
pub struct Operator {
    key: RecordKey,
    certificates: Vec<Vec<u8>>,
    leaf: OperatorCertificate,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operator({} of {})", self.leaf.name, self.leaf.cluster)
    }
}

impl Operator {
    /// Reads the file that `weft ca operator` wrote.
    pub fn load(path: &Path) -> Result<Operator, IdentityError> {
        let damaged = |reason: &str| IdentityError::NoOperator { path: path.to_owned(), reason: reason.to_owned() };
        let mode = std::fs::metadata(path).map_err(IdentityError::io("read", path))?.permissions().mode();
        if mode & OTHERS != 0 {
            return Err(damaged("others may read it; keep it to yourself: chmod 600"));
        }
        let bytes = files::read(path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let certificates: Vec<Vec<u8>> = certificates
            .map_err(|_| damaged("its certificates cannot be read"))?
            .into_iter()
            .map(|der| der.to_vec())
            .collect();
        let leaf = certificates.first().ok_or_else(|| damaged("it holds no certificate"))?;
        let leaf = OperatorCertificate::from_der(leaf).map_err(|error| damaged(&error.to_string()))?;
        let key = RecordKey::load(path).map_err(|_| damaged("it holds no Ed25519 key"))?;
        if key.public() != leaf.key {
            return Err(damaged("its key is not that of its certificate"));
        }
        Ok(Operator { key, certificates, leaf })
    }

    /// Who it is.
    pub fn name(&self) -> &str {
        &self.leaf.name
    }

    /// Where it may decide.
    pub fn cluster(&self) -> &str {
        &self.leaf.cluster
    }

    /// Until when.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Signs a statement. Returns the body of a policy record.
    pub fn sign(&self, statement: &Statement) -> Result<Vec<u8>, IdentityError> {
        let unfit = |error: &dyn fmt::Display| IdentityError::Policy(error.to_string());
        statement.check().map_err(|error| unfit(&error))?;
        let encoded = encode_statement(statement).map_err(|error| unfit(&error))?;
        let signature = self.key.sign(&signed_bytes(&self.leaf.cluster, &encoded));
        let proof = Proof { certificates: self.certificates.clone(), is_vouched: false, signature };
        encode_policy(&proof, &encoded).map_err(|error| unfit(&error))
    }
}

/// Vouches on an issuer's host for what operators signed: under a certificate that lasts as long as the issuer's, so that
/// hosts that come after the operator's has ended hold it too. The key lives as long as the agent's process.
pub struct Voucher {
    key: RecordKey,
    cluster: String,
    certificates: Vec<Vec<u8>>,
}

impl fmt::Debug for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Voucher(of {})", self.cluster)
    }
}

impl Voucher {
    /// One for this start of the agent; `None` on a host that keeps no CA.
    pub fn make(data_dir: &Path, cluster: &str) -> Result<Option<Voucher>, IdentityError> {
        if !Authority::is_in(data_dir) {
            return Ok(None);
        }
        let authority = Authority::load(data_dir)?;
        let (key, certificates, _) = make(&authority, cluster, VOUCHER_NAME, SystemTime::now(), LIFETIME_MAX)?;
        Ok(Some(Voucher { key, cluster: cluster.to_owned(), certificates }))
    }

    /// The name under which issuers decide by themselves.
    pub fn name(&self) -> &'static str {
        VOUCHER_NAME
    }

    /// Where it may decide.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Signs a statement of the issuer's own, made under [`Voucher::name`]. Returns the body of a policy record.
    pub fn sign(&self, statement: &Statement) -> Result<Vec<u8>, IdentityError> {
        let unfit = |error: &dyn fmt::Display| IdentityError::Policy(error.to_string());
        statement.check().map_err(|error| unfit(&error))?;
        let encoded = encode_statement(statement).map_err(|error| unfit(&error))?;
        self.encode(&encoded)
    }

    fn encode(&self, signed: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let signature = self.key.sign(&signed_bytes(&self.cluster, signed));
        let proof = Proof { certificates: self.certificates.clone(), is_vouched: true, signature };
        encode_policy(&proof, signed).map_err(|error| IdentityError::Policy(error.to_string()))
    }

    /// The same statement under the issuer's word. To be asked only of policies that this host has judged itself.
    pub fn vouch(&self, policy: &Policy) -> Result<Policy, IdentityError> {
        let body = self.encode(&policy.signed)?;
        Ok(Policy { is_vouched: true, body: body.into(), ..policy.clone() })
    }
}

/// What an operator's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OperatorCertificate {
    name: String,
    cluster: String,
    key: [u8; 32],
    not_after: SystemTime,
}

impl OperatorCertificate {
    /// Reads a certificate without asking whether it is to be believed.
    fn from_der(leaf: &[u8]) -> Result<OperatorCertificate, PeerError> {
        let (rest, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| PeerError::Malformed("it is not an X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed("bytes follow it"));
        }
        let (cluster, name) = named_in(&certificate).ok_or(PeerError::NoOperator)?;
        let public = certificate.public_key();
        let is_ed25519 = public.algorithm.algorithm.to_id_string() == "1.3.101.112";
        let key = <[u8; 32]>::try_from(&*public.subject_public_key.data).ok().filter(|_| is_ed25519);
        let key = key.ok_or(PeerError::Malformed("an operator's key is Ed25519"))?;
        let unix_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Ok(OperatorCertificate { name, cluster, key, not_after: UNIX_EPOCH + Duration::from_secs(unix_s) })
    }
}

fn named_in(certificate: &X509Certificate<'_>) -> Option<(String, String)> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let [GeneralName::URI(uri)] = names.as_slice() else { return None };
    let (cluster, name) = uri.strip_prefix("spiffe://")?.split_once("/operator/")?;
    check_cluster(cluster).ok()?;
    Some((cluster.to_owned(), NodeName::parse(name).ok()?.to_string()))
}

impl Identity {
    /// Judges the body of a policy record at `now`: an operator of this cluster decided that, and nobody changed it.
    pub fn verify_policy(&self, body: &[u8], now: SystemTime) -> Result<Policy, PolicyRefused> {
        let (policy, proof) =
            decode_policy(POLICY_FORMAT, body).map_err(|error| PolicyRefused::Malformed(error.to_string()))?;
        let refused = |error: PeerError| PolicyRefused::Certificate(error.to_string());
        self.verify_signers(&proof.certificates, now).map_err(refused)?;
        let leaf = proof.certificates.first().ok_or_else(|| refused(PeerError::NoCertificate))?;
        let leaf = OperatorCertificate::from_der(leaf).map_err(refused)?;
        if leaf.cluster != self.cluster {
            return Err(refused(PeerError::OtherCluster { expected: self.cluster.clone(), found: leaf.cluster }));
        }
        let is_issuers = proof.is_vouched && policy.statement.operator == VOUCHER_NAME;
        if matches!(policy.statement.change, Change::Trust(_)) && !is_issuers {
            // Who may choose the roots may make anybody a host: only who can do that anyway may.
            return Err(PolicyRefused::Certificate("only an issuer says which roots count".to_owned()));
        }
        // An issuer's host may vouch anew for what an operator said whose certificate has ended; see `Voucher`.
        let signer = if proof.is_vouched { VOUCHER_NAME } else { &policy.statement.operator };
        let is_own = leaf.name == signer;
        if !is_own || !verify(&leaf.key, &signed_bytes(&self.cluster, &policy.signed), &proof.signature) {
            return Err(PolicyRefused::Signature);
        }
        Ok(policy)
    }
}

/// No operator is called so.
const VOUCHER_NAME: &str = "weft-issuer";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{CaOptions, PeerIdentity, ca_init};
    use crate::model::{Action, Change, Dot, NodeId};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn cluster(name: &str) -> (tempfile::TempDir, Identity) {
        let dir = tempfile::tempdir().unwrap();
        ca_init(dir.path(), name, &NodeName::parse("web-01").unwrap(), &CaOptions::default()).unwrap();
        let identity = Identity::load(dir.path()).unwrap();
        (dir, identity)
    }

    fn operator(dir: &tempfile::TempDir, name: &str) -> Operator {
        let name = NodeName::parse(name).unwrap();
        let summary = operator_create(dir.path(), &name, 90 * DAY, dir.path()).unwrap();
        Operator::load(&summary.path).unwrap()
    }

    fn statement(operator: &str) -> Statement {
        let dot = Dot { lamport: 1, writer: NodeId([1; 16]) };
        Statement {
            dot,
            seen: Vec::new(),
            operator: operator.into(),
            at_unix_s: 0,
            change: Change::Default(Action::Deny),
        }
    }

    #[test]
    fn an_operators_policy_is_believed_until_the_certificate_ends() {
        let (dir, identity) = cluster("prod");
        let anna = operator(&dir, "anna");
        let body = anna.sign(&statement("anna")).unwrap();
        let now = SystemTime::now();
        assert_eq!(identity.verify_policy(&body, now).unwrap().statement, statement("anna"));
        let late = identity.verify_policy(&body, now + 91 * DAY);
        assert!(matches!(late, Err(PolicyRefused::Certificate(_))), "{late:?}");
    }

    #[test]
    fn an_operator_is_no_node_and_a_node_is_no_operator() {
        let (dir, identity) = cluster("prod");
        let anna = operator(&dir, "anna");
        assert_eq!(PeerIdentity::from_der(&anna.certificates[0]), Err(PeerError::NoNode));
        let error = identity.verify_chain(&anna.certificates, SystemTime::now());
        assert_eq!(error, Err(PeerError::NoNode));
        assert_eq!(OperatorCertificate::from_der(&identity.certificates[0]), Err(PeerError::NoOperator));
        // A host signs with its own key and certificate.
        let encoded = encode_statement(&statement("web-01")).unwrap();
        let signature = identity.record_key.sign(&signed_bytes("prod", &encoded));
        let proof = Proof { certificates: identity.certificates.clone(), is_vouched: false, signature };
        let body = encode_policy(&proof, &encoded).unwrap();
        assert!(matches!(identity.verify_policy(&body, SystemTime::now()), Err(PolicyRefused::Certificate(_))));
    }

    #[test]
    fn another_cas_operator_another_name_and_any_changed_bit_are_refused() {
        let (dir, identity) = cluster("prod");
        let (other_dir, _) = cluster("prod");
        let now = SystemTime::now();
        let foreign = operator(&other_dir, "anna").sign(&statement("anna")).unwrap();
        assert!(matches!(identity.verify_policy(&foreign, now), Err(PolicyRefused::Certificate(_))));
        let anna = operator(&dir, "anna");
        let as_another = anna.sign(&statement("berta")).unwrap();
        assert_eq!(identity.verify_policy(&as_another, now), Err(PolicyRefused::Signature));
        let body = anna.sign(&statement("anna")).unwrap();
        let certificates: usize = 1 + anna.certificates.iter().map(|der| 2 + der.len()).sum::<usize>();
        for at in certificates..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(identity.verify_policy(&changed, now).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_an_issuer_vouches_for_holds_beyond_the_operators_certificate() {
        let (dir, identity) = cluster("prod");
        let now = SystemTime::now();
        let body = operator(&dir, "anna").sign(&statement("anna")).unwrap();
        let policy = identity.verify_policy(&body, now).unwrap();
        let voucher = Voucher::make(dir.path(), "prod").unwrap().unwrap();
        let vouched = voucher.vouch(&policy).unwrap();
        assert!(vouched.is_same(&policy) && vouched.is_vouched);
        assert_eq!(identity.verify_policy(&vouched.body, now + 400 * DAY).unwrap(), vouched);
        // An operator cannot pass for an issuer, nor be called like one.
        let mut passed_off = body.clone();
        let (_, proof) = decode_policy(POLICY_FORMAT, &body).unwrap();
        let at = 1 + proof.certificates.iter().map(|der| 2 + der.len()).sum::<usize>();
        passed_off[at] = 1;
        assert_eq!(identity.verify_policy(&passed_off, now), Err(PolicyRefused::Signature));
        let name = NodeName::parse(VOUCHER_NAME).unwrap();
        assert!(operator_create(dir.path(), &name, DAY, dir.path()).is_err());
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(Voucher::make(elsewhere.path(), "prod").unwrap().is_none());
    }

    #[test]
    fn the_key_is_only_its_owners_and_never_printed() {
        let (dir, _) = cluster("prod");
        let name = NodeName::parse("anna").unwrap();
        let path = operator_create(dir.path(), &name, DAY, dir.path()).unwrap().path;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = operator_create(dir.path(), &name, DAY, dir.path());
        assert!(matches!(again, Err(IdentityError::AlreadyThere { .. })));
        assert_eq!(format!("{:?}", Operator::load(&path).unwrap()), "Operator(anna of prod)");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Operator::load(&path).unwrap_err().to_string().contains("chmod 600"));
        assert!(operator_create(dir.path(), &name, Duration::ZERO, &dir.path().join("x")).is_err());
    }
}
