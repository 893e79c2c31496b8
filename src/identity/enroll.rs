//! A host's side of enrolment and renewal: from a join token, or from the certificate it has, to a new identity on disk.
//!
//! The issuer's address comes from the token or from the last enrolment. Before anything secret is sent the issuer has
//! proved that it is the host the token names, under the root that the token pins. What it answers is checked as if it
//! were a stranger's; only a whole and fitting identity is put in force.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ca::{Authority, Subject, fingerprint, new_key};
use super::certificate::unix_s;
use super::exchange::{
    Blob, EnrollRequest, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, RecoverRequest, RefusalCode, RenewRequest, Reply, Request,
    Secret, channel_binding, proof_bytes, read_message, recovery_bytes, write_message,
};
use super::files::Home;
use super::installed::{self, Parts, existing_record_key, root_store};
use super::record_key::id_as_text;
use super::tls::{Alpn, crypto_provider, node_server_name};
use super::token::JoinToken;
use super::trust::{LiveTrust, root_of};
use super::{Identity, IdentityError, PeerIdentity, RecordKey, keyring, rotation};
use crate::model::{NodeId, NodeName, ROOTS_MAX};
use crate::wire::keyring::Keyring;
use crate::wire::seal::GossipKey;

/// Connecting, the handshake, and the answer each get this long. The issuer gives itself 10 s.
const STEP_DEADLINE: Duration = Duration::from_secs(12);

/// What a host has become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Enrolled {
    /// Its id.
    #[serde(serialize_with = "id_as_text")]
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: String,
    /// Globs over the services that it may speak for.
    pub services: Vec<String>,
    /// When its certificate ends, seconds since 1970.
    pub not_after_unix_s: u64,
}

/// Who a host is to be that enrols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolling {
    /// Who it was, if it was somebody.
    Same,
    /// Somebody new, because who it was is not believed any more.
    New,
}

/// Enrols this host with a join token. A host that has a record key keeps it, and with it its id, unless it is to be another;
/// the identity that it had stays in force until the new one is on disk.
pub async fn enroll(token: &str, data_dir: &Path, name: &NodeName, who: Enrolling) -> Result<Enrolled, IdentityError> {
    let token = JoinToken::parse(token)?;
    let home = Home::open(data_dir)?;
    let existing = existing_record_key(data_dir)?.filter(|_| who == Enrolling::Same);
    let record_key = existing.map_or_else(RecordKey::generate, Ok)?;
    let tls_key = new_key()?;
    let csr = CertificateParams::default().serialize_request(&tls_key)?;

    let issuer = token.issuer_address;
    let mut stream = connect(issuer, pinning_config(&token)?).await?;
    check_issuer(&stream, &token)?;
    let binding = channel_binding(stream.get_ref().1)?;
    let request = Request::Enroll(EnrollRequest {
        token_id: Blob(token.id.to_vec()),
        secret: Secret::new(token.secret.to_vec()),
        name: name.clone(),
        csr: Blob(csr.der().to_vec()),
        record_key: Blob(record_key.public().to_vec()),
        proof: Blob(record_key.sign(&proof_bytes(&binding, csr.der())).to_vec()),
        time_unix_s: unix_s(SystemTime::now()),
    });
    let Reply::Enrolled { certificates, roots, gossip_key, keyring } = ask(&mut stream, issuer, &request).await? else {
        return Err(bad_reply(issuer, "it answers another question"));
    };
    // Who has proven itself by the pinned root says which others count, as while roots are changed.
    let roots: Vec<Vec<u8>> = roots.into_iter().map(|root| root.0).collect();
    if roots.len() > ROOTS_MAX || !roots.iter().any(|root| fingerprint(root) == token.root_sha256) {
        return Err(bad_reply(issuer, "the pinned root is not in it, or there are too many"));
    }
    let gossip_key = <[u8; 32]>::try_from(gossip_key.0.as_slice())
        .map_err(|_| bad_reply(issuer, "its gossip key is not 32 bytes"))?;
    let keyring = match keyring {
        Some(bytes) => Keyring::decode(&bytes.0).map_err(|error| bad_reply(issuer, &error.to_string()))?,
        None => Keyring::new(GossipKey(gossip_key)),
    };
    let parts = Parts {
        certificates: certificates.into_iter().map(|certificate| certificate.0).collect(),
        tls_key,
        record_key,
        roots,
        gossip_key: GossipKey(gossip_key),
        cluster: token.cluster,
        lineage: token.root_sha256,
        issuer: Some(issuer),
    };
    let enrolled = check(&parts, name, issuer)?;
    put_in_force(home.clone(), parts).await?;
    // Last: under another CA's identity it would not count, and a host without it asks others by stream.
    off_thread(move || keyring::adopt(&home, &token.root_sha256, &keyring)).await?;
    Ok(enrolled)
}

/// Gets this host its next certificate: from its own CA if it is an issuer, else from the issuer at `issuer_address`, or where
/// it last was if that is not known better. Record key, roots and gossip keyring stay. Load the identity again afterwards, and
/// hand it to `TlsContexts::replace`.
pub async fn renew(data_dir: &Path, issuer_address: Option<SocketAddr>) -> Result<Enrolled, IdentityError> {
    let identity = Identity::load(data_dir)?;
    let (tls_key, now) = (new_key()?, SystemTime::now());
    // The issuer itself has nobody else's address to name in an error.
    let own = SocketAddr::from(([127, 0, 0, 1], 0));
    let (issuer, certificates) = if issuer_address.is_none() && Authority::is_in(data_dir) {
        let certificate = PeerIdentity::from_certs(Some(&identity.certified.cert))?;
        (own, Authority::load(data_dir)?.issue(&Subject::of(&certificate), &tls_key, now)?)
    } else {
        let no_issuer = || IdentityError::NoIssuer { data_dir: data_dir.to_owned() };
        let issuer = issuer_address.or(identity.issuer).ok_or_else(no_issuer)?;
        (issuer, ask_for_renewal(&identity, issuer, &tls_key).await?)
    };
    // The address that the host enrolled with stays on record: it is where to ask when nothing else is known.
    let last_issuer = if issuer == own { identity.issuer } else { Some(issuer) };
    let name = identity.name.clone();
    let parts = parts_of(identity, certificates, tls_key, last_issuer);
    let enrolled = check(&parts, &name, issuer)?;
    put_in_force(Home::open(data_dir)?, parts).await?;
    Ok(enrolled)
}

/// Believes these roots (DER, the one for new certificates first) from now on. This host's own certificate must lead to one
/// of them, or the hosts that have the same roots would not believe it. Load the identity again afterwards.
pub async fn replace_roots(data_dir: &Path, roots: Vec<Vec<u8>>) -> Result<(), IdentityError> {
    let identity = Identity::load(data_dir)?;
    if root_of(&identity.certificates, &roots).is_none() {
        return Err(IdentityError::Rotation(
            "a root is to be retired that this host's certificate leads to; it is kept until the certificate is renewed"
                .to_owned(),
        ));
    }
    let tls_key = installed::tls_key(data_dir)?;
    let (certificates, issuer) = (identity.certificates.clone(), identity.issuer);
    let parts = Parts { roots, ..parts_of(identity, certificates, tls_key, issuer) };
    put_in_force(Home::open(data_dir)?, parts).await
}

fn parts_of(identity: Identity, certificates: Vec<Vec<u8>>, tls_key: KeyPair, issuer: Option<SocketAddr>) -> Parts {
    Parts {
        certificates,
        tls_key,
        record_key: identity.record_key,
        roots: identity.root_certificates.iter().map(|root| root.to_vec()).collect(),
        gossip_key: identity.keyring.primary_key().clone(),
        cluster: identity.cluster,
        lineage: identity.lineage,
        issuer,
    }
}

/// Makes this host an issuer, by the host at `root_keeper` that has the root's key; that must have heard that the cluster
/// wants it so.
pub async fn become_issuer(data_dir: &Path, root_keeper: SocketAddr) -> Result<(), IdentityError> {
    let identity = Identity::load(data_dir)?;
    let key = new_key()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    let mut stream = connect(root_keeper, identity.tls()?.renew_client).await?;
    let request =
        Request::Issuer(RenewRequest { csr: Blob(csr.der().to_vec()), time_unix_s: unix_s(SystemTime::now()) });
    let Reply::Issuer { certificate, node_ttl_s } = ask(&mut stream, root_keeper, &request).await? else {
        return Err(bad_reply(root_keeper, "it answers another question"));
    };
    let (home, ttl) = (data_dir.to_owned(), Duration::from_secs(node_ttl_s));
    off_thread(move || rotation::install_issuer(&home, &certificate.0, &key, ttl)).await
}

/// Asks the host at `address` something that it answers only to whom it believes, with a certificate under the root that
/// `weft ca rotate begin` has made: true if the host trusts that root.
pub async fn trusts_next_root(data_dir: &Path, address: SocketAddr) -> Result<bool, IdentityError> {
    let identity = Identity::load(data_dir)?;
    let (certified, roots) = rotation::next_certificate(data_dir, &identity)?;
    let next = Identity { certified, roots, ..identity };
    let asked = async {
        let mut stream = connect(address, next.tls()?.renew_client).await?;
        ask(&mut stream, address, &Request::Hello).await
    };
    match asked.await {
        // One that has come so far without understanding the question believes it too.
        Ok(_) | Err(IdentityError::Refused { .. }) => Ok(true),
        Err(error) if error.is_alert() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn ask_for_renewal(
    identity: &Identity,
    issuer: SocketAddr,
    tls_key: &KeyPair,
) -> Result<Vec<Vec<u8>>, IdentityError> {
    let csr = CertificateParams::default().serialize_request(tls_key)?;
    let now = SystemTime::now();
    let time_unix_s = unix_s(now);
    let (mut stream, request);
    if now < identity.not_after {
        stream = connect(issuer, identity.tls()?.renew_client).await?;
        request = Request::Renew(RenewRequest { csr: Blob(csr.der().to_vec()), time_unix_s });
    } else {
        // No handshake accepts a certificate that has ended; the record key still proves who this is.
        stream = connect(issuer, anonymous_config(identity)?).await?;
        let binding = channel_binding(stream.get_ref().1)?;
        request = Request::Recover(RecoverRequest {
            certificates: identity.certificates.iter().cloned().map(Blob).collect(),
            csr: Blob(csr.der().to_vec()),
            proof: Blob(identity.record_key.sign(&recovery_bytes(&binding, csr.der())).to_vec()),
            time_unix_s,
        });
    }
    match ask(&mut stream, issuer, &request).await? {
        Reply::Renewed { certificates } => Ok(certificates.into_iter().map(|certificate| certificate.0).collect()),
        _ => Err(bad_reply(issuer, "it answers another question")),
    }
}

/// Believes this cluster's hosts, and shows no certificate.
fn anonymous_config(identity: &Identity) -> Result<Arc<ClientConfig>, IdentityError> {
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LiveTrust::new(identity)?));
    Ok(enrolling(builder.with_no_client_auth()))
}

fn enrolling(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![Alpn::Enroll.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

async fn connect(issuer: SocketAddr, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, IdentityError> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let tcp = timeout(STEP_DEADLINE, TcpStream::connect(issuer)).await.unwrap_or_else(|_| Err(late()));
    let tcp = tcp.map_err(|source| IdentityError::Connect { issuer, source })?;
    let handshake = TlsConnector::from(config).connect(node_server_name(), tcp);
    let stream = timeout(STEP_DEADLINE, handshake).await.unwrap_or_else(|_| Err(late()));
    let stream = stream.map_err(|error| handshake_error(issuer, error))?;
    if stream.get_ref().1.alpn_protocol() != Some(Alpn::Enroll.as_bytes()) {
        let source = io::Error::other("it does not offer enrolment");
        return Err(IdentityError::Handshake { issuer, source });
    }
    Ok(stream)
}

async fn ask(stream: &mut TlsStream<TcpStream>, issuer: SocketAddr, request: &Request) -> Result<Reply, IdentityError> {
    let exchange = async {
        write_message(stream, request, REQUEST_BYTES_MAX).await?;
        read_message(stream, REPLY_BYTES_MAX).await
    };
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    match timeout(STEP_DEADLINE, exchange).await.unwrap_or_else(|_| Err(late())) {
        Ok(Reply::Refused { code: RefusalCode::ClockOff, time_unix_s }) => Err(IdentityError::Clock {
            issuer,
            local: SystemTime::now(),
            what: "the issuer's clock says",
            theirs: printable_time(time_unix_s),
        }),
        Ok(Reply::Refused { code, .. }) => Err(IdentityError::Refused { issuer, code }),
        Ok(reply) => Ok(reply),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => match tls_error(&error) {
            Some(_) => Err(handshake_error(issuer, error)),
            None => Err(bad_reply(issuer, &error.to_string())),
        },
        Err(source) => Err(IdentityError::BrokenOff { issuer, source }),
    }
}

/// Checks that an answer is what was asked for, fits the keys that were made, and holds.
fn check(parts: &Parts, name: &NodeName, issuer: SocketAddr) -> Result<Enrolled, IdentityError> {
    let chain: Vec<CertificateDer<'static>> = parts.certificates.iter().cloned().map(CertificateDer::from).collect();
    let peer = PeerIdentity::from_certs(Some(&chain))?;
    if peer.record_key != parts.record_key.public() || peer.name != *name || peer.cluster != parts.cluster {
        return Err(bad_reply(issuer, "its certificate is for another host"));
    }
    let roots: Vec<_> = parts.roots.iter().cloned().map(CertificateDer::from).collect();
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| bad_reply(issuer, "it holds no certificate"))?;
    verifier(&roots)?
        .verify_server_cert(leaf, intermediates, &node_server_name(), &[], UnixTime::now())
        .map_err(|error| certificate_error(issuer, &error).unwrap_or_else(|| bad_reply(issuer, &error.to_string())))?;
    let key = PrivateKeyDer::try_from(parts.tls_key.serialize_der()).map_err(|reason| bad_reply(issuer, reason))?;
    CertifiedKey::from_der(chain, key, &crypto_provider())
        .map_err(|_| bad_reply(issuer, "its certificate is for another key"))?;
    Ok(Enrolled {
        node: peer.node,
        name: peer.name,
        cluster: peer.cluster,
        services: peer.grants,
        not_after_unix_s: unix_s(peer.not_after),
    })
}

async fn put_in_force(home: Home, parts: Parts) -> Result<(), IdentityError> {
    off_thread(move || installed::install(&home, &parts)).await
}

async fn off_thread(write: impl FnOnce() -> Result<(), IdentityError> + Send + 'static) -> Result<(), IdentityError> {
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or(Err(IdentityError::Crypto("finish writing the identity")))
}

/// The issuer's certificate holds under the pinned root; it must also be the issuer's.
fn check_issuer(stream: &TlsStream<TcpStream>, token: &JoinToken) -> Result<(), IdentityError> {
    let found = PeerIdentity::from_certs(stream.get_ref().1.peer_certificates())?;
    if found.node == token.issuer && found.cluster == token.cluster {
        return Ok(());
    }
    let found = format!("node {} ({}) of cluster {}", found.name, found.node, found.cluster);
    Err(IdentityError::WrongIssuer { issuer: token.issuer_address, found })
}

fn bad_reply(issuer: SocketAddr, reason: &str) -> IdentityError {
    IdentityError::BadReply { issuer, reason: reason.to_owned() }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn handshake_error(issuer: SocketAddr, source: io::Error) -> IdentityError {
    let known = tls_error(&source).and_then(|error| certificate_error(issuer, error));
    known.unwrap_or(IdentityError::Handshake { issuer, source })
}

/// What people must do differently when a certificate does not hold.
fn certificate_error(issuer: SocketAddr, error: &rustls::Error) -> Option<IdentityError> {
    let clock = |time: &UnixTime, what, theirs: &UnixTime| IdentityError::Clock {
        issuer,
        local: printable_time(time.as_secs()),
        what,
        theirs: printable_time(theirs.as_secs()),
    };
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Some(IdentityError::WrongRoot { issuer })
        }
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            Some(clock(time, "its certificate ended", not_after))
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            Some(clock(time, "its certificate begins", not_before))
        }
        _ => None,
    }
}

/// A time from outside, kept below the year 10000, beyond which it cannot be printed.
fn printable_time(unix_s: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_s.min(253_402_300_799))
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let builder = WebPkiServerVerifier::builder_with_provider(root_store(roots)?, crypto_provider());
    builder.build().map_err(|error| rustls::Error::General(error.to_string()))
}

fn pinning_config(token: &JoinToken) -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = crypto_provider();
    let pinned = PinnedRoot { sha256: token.root_sha256, provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    Ok(enrolling(config))
}

/// Trusts the one root whose fingerprint it knows, which the server has to send along; all else is webpki's judgement.
#[derive(Debug)]
struct PinnedRoot {
    sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates.iter().find(|certificate| fingerprint(certificate) == self.sha256);
        let root = root.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let verifier = verifier(&[root.clone().into_owned()])?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_a_day_off_is_told_with_both_times_and_what_to_do() {
        let issuer = "192.0.2.1:7947".parse().unwrap();
        let time = |unix_s| UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
        let (now, day) = (1_800_000_000, 24 * 3600);
        let ahead = CertificateError::ExpiredContext { time: time(now + day), not_after: time(now) };
        let behind = CertificateError::NotValidYetContext { time: time(now - day), not_before: time(now) };
        for (error, here, what) in [
            (ahead, "2027-01-16T08:00:00Z", "its certificate ended"),
            (behind, "2027-01-14T08:00:00Z", "its certificate begins"),
        ] {
            let told = certificate_error(issuer, &rustls::Error::InvalidCertificate(error)).expect("a reason");
            let told = told.to_string();
            let theirs = format!("{what} 2027-01-15T08:00:00Z (issuer 192.0.2.1:7947)");
            assert!(told.contains(here) && told.contains(&theirs) && told.contains("set this host's clock"), "{told}");
        }
    }
}
