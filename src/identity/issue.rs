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
    Blob, EnrollRequest, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, RefusalCode, RenewRequest, Reply, Request,
    channel_binding, proof_bytes, read_message, write_message,
};
use super::ledger::{Attempt, Ledger};
use super::{Identity, IdentityError, PeerIdentity, node_id_of, record_key};
use crate::model::{NodeId, NodeName};

/// One small request and one small reply: whoever needs longer is not enrolling.
const DEADLINE: Duration = Duration::from_secs(10);

/// Certificates begin an hour back. Clocks further apart than half of that soon make one that is not valid yet.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(30 * 60);
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
    /// The request was refused; the host was told why.
    Refused(RefusalCode),
    /// This host could not do it; the other was told so.
    Failed(IdentityError),
}

/// Serves one request on a connection that `enroll_server` accepted. An error means that the connection ended first. Once
/// the request is there, `turn` is awaited, and what it gives is held until there is an answer.
pub async fn serve_enroll<IO, T>(
    mut stream: TlsStream<IO>,
    data_dir: &Path,
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
        let home = data_dir.to_owned();
        let turn = turn.await;
        // Files are read, synced and locked on the way: no work for the thread that carries other connections.
        let answer =
            tokio::task::spawn_blocking(move || answer(&home, request, peer.as_ref(), &binding, SystemTime::now()));
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
    request: Option<Request>,
    peer: Option<&PeerIdentity>,
    binding: &[u8; 32],
    now: SystemTime,
) -> (Reply, EnrollOutcome) {
    let done = match request {
        None => Err(RefusalCode::Malformed.into()),
        Some(Request::Enroll(request)) => enroll(data_dir, &request, binding, now),
        Some(Request::Renew(request)) => renew(data_dir, &request, peer, now),
    };
    let (code, outcome) = match done {
        Ok(issued) => return issued,
        Err(Refusal::Code(code)) => (code, EnrollOutcome::Refused(code)),
        Err(Refusal::Error(error @ IdentityError::NotIssuer { .. })) => {
            (RefusalCode::NotIssuer, EnrollOutcome::Failed(error))
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

fn enroll(
    data_dir: &Path,
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
    check_clock(*time_unix_s, now)?;
    let key = key_in(csr)?;
    if !record_key::verify(&record_key, &proof_bytes(binding, &csr.0), &proof.0) {
        return Err(RefusalCode::Malformed.into());
    }
    let (identity, authority) = (Identity::load(data_dir)?, Authority::load(data_dir)?);
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
    request: &RenewRequest,
    peer: Option<&PeerIdentity>,
    now: SystemTime,
) -> Result<(Reply, EnrollOutcome), Refusal> {
    let (identity, authority) = (Identity::load(data_dir)?, Authority::load(data_dir)?);
    let ours = |peer: &&PeerIdentity| peer.cluster == identity.cluster;
    let peer = peer.filter(ours).ok_or(RefusalCode::NoCertificate)?;
    check_clock(request.time_unix_s, now)?;
    let key = key_in(&request.csr)?;
    let chain = authority.issue(&Subject::of(peer), &key, now)?;
    let reply = Reply::Renewed { certificates: chain.into_iter().map(Blob).collect() };
    Ok((reply, EnrollOutcome::Issued { node: peer.node, name: peer.name.clone(), renewed: true }))
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
