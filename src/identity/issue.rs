//! The issuer's side of enrolment and renewal: one request a connection, answered from `DATA_DIR/ca`.
//!
//! Connections come in after their handshake, with or without a client certificate; certificates go out. A request is
//! checked in full before its token is spent, and the token is spent, on disk, before the certificate is made.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData as _};
use rustls::pki_types::CertificateSigningRequestDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::server::TlsStream;

use super::ca::{Authority, Subject};
use super::certificate::unix_s;
use super::exchange::{
    Blob, EnrollRequest, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, RecoverRequest, RefusalCode, RenewRequest, Reply, Request,
    channel_binding, proof_bytes, read_message, recovery_bytes, write_message,
};
use super::ledger::{Attempt, Ledger};
use super::trust::ClusterTrust;
use super::{Identity, IdentityError, PeerIdentity, node_id_of, record_key, rotation};
use crate::model::{NodeId, NodeName};

/// One small request and one small reply: whoever needs longer is not enrolling.
const DEADLINE: Duration = Duration::from_secs(10);

/// Certificates begin an hour back. Clocks further apart than half of that soon make one that is not valid yet.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(30 * 60);
/// A host that was off for a month comes back by itself; one that comes later was given up, and may be in other hands.
const RECOVERY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// An uncompressed point (SEC 1 §2.3.3).
const P256_POINT_BYTES: usize = 65;

/// What became of a request; for the log and the counters.
#[derive(Debug)]
pub enum EnrollOutcome {
    /// A certificate was issued.
    Issued {
        /// To whom.
        node: NodeId,
        /// Under which name.
        name: NodeName,
        /// True if it replaces one that the host had.
        renewed: bool,
    },
    /// Another host issues from now on.
    Issuer {
        /// Which.
        node: NodeId,
        /// Its name.
        name: NodeName,
    },
    /// A host was told that it is believed.
    Greeted,
    /// The request was refused; the host was told why.
    Refused(RefusalCode),
    /// This host could not do it; the other was told so.
    Failed(IdentityError),
}

/// Serves one request on a connection that `enroll_server` accepted. An error means that the connection ended first.
/// `trust` is what the cluster has decided about who issues and who is believed. Once the request is there, `turn` is
/// awaited, and what it gives is held until there is an answer.
pub async fn serve_enroll<IO, T>(
    mut stream: TlsStream<IO>,
    data_dir: &Path,
    trust: &ClusterTrust,
    turn: impl Future<Output = T>,
) -> io::Result<EnrollOutcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let serve = async {
        let connection = stream.get_ref().1;
        let binding = channel_binding(connection).map_err(io::Error::other)?;
        let peer = connection.peer_certificates().map(|chain| PeerIdentity::from_certs(Some(chain)));
        let peer = peer.transpose().map_err(io::Error::other)?;
        let request = match read_message(&mut stream, REQUEST_BYTES_MAX).await {
            Ok(request) => Some(request),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        let (home, trust) = (data_dir.to_owned(), trust.clone());
        let turn = turn.await;
        // Files are read, synced and locked on the way: no work for the thread that carries other connections.
        let answer = tokio::task::spawn_blocking(move || {
            answer(&home, &trust, request, peer.as_ref(), &binding, SystemTime::now())
        });
        let (reply, outcome) = answer.await.map_err(io::Error::other)?;
        drop(turn);
        write_message(&mut stream, &reply, REPLY_BYTES_MAX).await?;
        let _ = stream.shutdown().await;
        Ok(outcome)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no enrolment request within 10 s");
    tokio::time::timeout(DEADLINE, serve).await.map_err(|_| late())?
}

/// Answers a request. `None` is one that cannot be read.
pub(super) fn answer(
    data_dir: &Path,
    trust: &ClusterTrust,
    request: Option<Request>,
    peer: Option<&PeerIdentity>,
    binding: &[u8; 32],
    now: SystemTime,
) -> (Reply, EnrollOutcome) {
    let done = match request {
        None => Err(RefusalCode::Malformed.into()),
        Some(Request::Enroll(request)) => enroll(data_dir, trust, &request, binding, now),
        Some(Request::Renew(request)) => renew(data_dir, trust, &request, peer, now),
        Some(Request::Recover(request)) => recover(data_dir, trust, &request, binding, now),
        Some(Request::Issuer(request)) => make_issuer(data_dir, trust, &request, peer, now),
        Some(Request::Hello) if peer.is_some() => Ok((Reply::Hello, EnrollOutcome::Greeted)),
        Some(Request::Hello) => Err(RefusalCode::NoCertificate.into()),
    };
    let (code, outcome) = match done {
        Ok(issued) => return issued,
        Err(Refusal::Code(code)) => (code, EnrollOutcome::Refused(code)),
        Err(Refusal::Error(IdentityError::NotIssuer { .. })) => {
            (RefusalCode::NotIssuer, EnrollOutcome::Refused(RefusalCode::NotIssuer))
        }
        Err(Refusal::Error(error)) => (RefusalCode::Failed, EnrollOutcome::Failed(error)),
    };
    (Reply::Refused { code, time_unix_s: unix_s(now) }, outcome)
}

/// Why nothing is issued.
pub(super) enum Refusal {
    Code(RefusalCode),
    Error(IdentityError),
}

impl From<RefusalCode> for Refusal {
    fn from(code: RefusalCode) -> Refusal {
        Refusal::Code(code)
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Refusal {
        Refusal::Error(error)
    }
}

/// This host's identity and its issuer, if it is to issue.
fn issuing(data_dir: &Path, trust: &ClusterTrust) -> Result<(Identity, Authority), Refusal> {
    let authority = Authority::load(data_dir)?;
    let identity = Identity::load(data_dir)?;
    if trust.is_issuer(identity.node) == Some(false) {
        return Err(RefusalCode::NotIssuer.into());
    }
    Ok((identity, authority))
}

fn enroll(
    data_dir: &Path,
    trust: &ClusterTrust,
    request: &EnrollRequest,
    binding: &[u8; 32],
    now: SystemTime,
) -> Result<(Reply, EnrollOutcome), Refusal> {
    let EnrollRequest { token_id, secret, name, csr, record_key, proof, time_unix_s } = request;
    let record_key: [u8; 32] = record_key.0.as_slice().try_into().map_err(|_| RefusalCode::Malformed)?;
    let node = node_id_of(&record_key);
    let attempt = Attempt { token_id: &token_id.0, secret: &secret.0, name, node, now_unix_s: unix_s(now) };
    let ledger = Ledger::of(data_dir)?;
    // First of all, so that only who holds a token can make this host verify signatures.
    ledger.check(&attempt)??;
    if trust.is_revoked(node) {
        return Err(RefusalCode::Revoked.into());
    }
    check_clock(*time_unix_s, now)?;
    let key = key_in(csr)?;
    if !record_key::verify(&record_key, &proof_bytes(binding, &csr.0), &proof.0) {
        return Err(RefusalCode::Malformed.into());
    }
    let (identity, authority) = issuing(data_dir, trust)?;
    let grants = ledger.spend(&attempt)??;
    let subject = Subject { cluster: &identity.cluster, name, record_key: &record_key, grants: &grants };
    let keyring = identity.keyring;
    let reply = Reply::Enrolled {
        certificates: authority.issue(&subject, &key, now)?.into_iter().map(Blob).collect(),
        roots: identity.root_certificates.iter().map(|root| Blob(root.to_vec())).collect(),
        gossip_key: Blob(keyring.primary_key().0.to_vec()),
        keyring: keyring.encode().ok().map(Blob),
    };
    Ok((reply, EnrollOutcome::Issued { node, name: name.clone(), renewed: false }))
}

fn renew(
    data_dir: &Path,
    trust: &ClusterTrust,
    request: &RenewRequest,
    peer: Option<&PeerIdentity>,
    now: SystemTime,
) -> Result<(Reply, EnrollOutcome), Refusal> {
    let (identity, authority) = issuing(data_dir, trust)?;
    let peer = member(&identity, trust, peer)?;
    check_clock(request.time_unix_s, now)?;
    issue_again(&authority, peer, &request.csr, now)
}

/// A host whose certificate has ended proves itself with its record key, which the certificate names.
fn recover(
    data_dir: &Path,
    trust: &ClusterTrust,
    request: &RecoverRequest,
    binding: &[u8; 32],
    now: SystemTime,
) -> Result<(Reply, EnrollOutcome), Refusal> {
    let (identity, authority) = issuing(data_dir, trust)?;
    let chain: Vec<Vec<u8>> = request.certificates.iter().map(|certificate| certificate.0.clone()).collect();
    let leaf = chain.first().ok_or(RefusalCode::Malformed)?;
    let ended = PeerIdentity::from_der(leaf).map_err(|_| RefusalCode::Malformed)?;
    // It held until it ended; a record key that has been revoked since does not.
    let last_moment = ended.not_after - Duration::from_secs(1);
    let peer = identity.verify_chain(&chain, now.min(last_moment)).map_err(|_| RefusalCode::NoCertificate)?;
    let peer = member(&identity, trust, Some(&peer))?;
    if now.duration_since(peer.not_after).is_ok_and(|since| since > RECOVERY_MAX) {
        return Err(RefusalCode::EndedLongAgo.into());
    }
    check_clock(request.time_unix_s, now)?;
    if !record_key::verify(&peer.record_key, &recovery_bytes(binding, &request.csr.0), &request.proof.0) {
        return Err(RefusalCode::Malformed.into());
    }
    issue_again(&authority, peer, &request.csr, now)
}

/// Whom a certificate of this cluster proves, if the host is still believed.
fn member<'a>(
    identity: &Identity,
    trust: &ClusterTrust,
    peer: Option<&'a PeerIdentity>,
) -> Result<&'a PeerIdentity, Refusal> {
    let peer = peer.filter(|peer| peer.cluster == identity.cluster).ok_or(RefusalCode::NoCertificate)?;
    if trust.disbelieves(peer) {
        return Err(RefusalCode::Revoked.into());
    }
    Ok(peer)
}

fn issue_again(
    authority: &Authority,
    peer: &PeerIdentity,
    csr: &Blob,
    now: SystemTime,
) -> Result<(Reply, EnrollOutcome), Refusal> {
    let chain = authority.issue(&Subject::of(peer), &key_in(csr)?, now)?;
    let reply = Reply::Renewed { certificates: chain.into_iter().map(Blob).collect() };
    Ok((reply, EnrollOutcome::Issued { node: peer.node, name: peer.name.clone(), renewed: true }))
}

/// Makes another host an issuer, where the cluster has decided that it is to be one.
fn make_issuer(
    data_dir: &Path,
    trust: &ClusterTrust,
    request: &RenewRequest,
    peer: Option<&PeerIdentity>,
    now: SystemTime,
) -> Result<(Reply, EnrollOutcome), Refusal> {
    let (identity, authority) = issuing(data_dir, trust)?;
    let peer = member(&identity, trust, peer)?;
    if trust.is_issuer(peer.node) != Some(true) {
        return Err(RefusalCode::NotToIssue.into());
    }
    check_clock(request.time_unix_s, now)?;
    let key = key_in(&request.csr)?;
    let signed = rotation::sign_issuer(data_dir, &identity.cluster, peer.node, &key, now)?;
    let certificate = Blob(signed.ok_or(RefusalCode::NoRootKey)?);
    let reply = Reply::Issuer { certificate, node_ttl_s: authority.node_ttl().as_secs() };
    Ok((reply, EnrollOutcome::Issuer { node: peer.node, name: peer.name.clone() }))
}

fn check_clock(theirs_unix_s: u64, now: SystemTime) -> Result<(), RefusalCode> {
    let apart_s = theirs_unix_s.abs_diff(unix_s(now));
    if apart_s <= CLOCKS_APART_MAX.as_secs() { Ok(()) } else { Err(RefusalCode::ClockOff) }
}

/// The key of a certificate request whose own signature holds. Nothing else in it counts.
pub(super) fn key_in(csr: &Blob) -> Result<PublicKey, Refusal> {
    let csr = CertificateSigningRequestDer::from(csr.0.as_slice());
    let params = CertificateSigningRequestParams::from_der(&csr).map_err(|_| RefusalCode::Malformed)?;
    let key = params.public_key;
    let p256 = key.algorithm() == &PKCS_ECDSA_P256_SHA256 && key.der_bytes().len() == P256_POINT_BYTES;
    p256.then_some(key).ok_or_else(|| RefusalCode::Malformed.into())
}
