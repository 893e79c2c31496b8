//! TLS configurations between hosts: TLS 1.3, both sides certified, no resumption. And the choice on the mesh port, where
//! enrolment is served beside mesh traffic.
//!
//! An [`Identity`] comes in; shared rustls configurations go out. A renewed certificate is put into the configurations
//! that exist, so nobody who holds them has to be told. Nothing here listens or connects.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::{NODE_DNS_NAME, unix_s};
use super::trust::{ClientTrust, ClusterTrust, LiveTrust};
use super::{Identity, IdentityError, PeerError, PeerIdentity};

/// A handshake is two round trips; whoever takes longer holds a socket for nothing.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// What is spoken inside TLS, agreed on in the handshake (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// Streams between agents on the gossip port.
    Gossip,
    /// Mesh traffic: streams of bytes, one at a time.
    Mesh,
    /// Mesh traffic: requests, over HTTP/2.
    Http,
    /// Enrolment and renewal.
    Enroll,
}

impl Alpn {
    /// The name on the wire.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Alpn::Gossip => b"weft-gossip",
            Alpn::Mesh => b"weft-mesh",
            Alpn::Http => b"weft-http",
            Alpn::Enroll => b"weft-enroll",
        }
    }
}

/// The TLS configurations of one identity. Clones share them, renewals included.
#[derive(Debug, Clone)]
pub struct TlsContexts {
    /// Opens streams to other hosts' gossip port.
    pub gossip_client: Arc<ClientConfig>,
    /// Takes streams on the gossip port. A peer that asks for no protocol at all passes its handshake too, as rustls
    /// has it; its certificate is what admits it.
    pub gossip_server: Arc<ServerConfig>,
    /// Opens connections to other hosts' mesh port.
    pub mesh_client: Arc<ClientConfig>,
    /// Takes mesh connections.
    pub mesh_server: Arc<ServerConfig>,
    /// Opens connections for requests to other hosts' mesh port.
    pub http_client: Arc<ClientConfig>,
    /// Takes connections for requests.
    pub http_server: Arc<ServerConfig>,
    /// Takes enrolments (no client certificate) and renewals (with one).
    pub enroll_server: Arc<ServerConfig>,
    /// Opens a renewal.
    pub(super) renew_client: Arc<ClientConfig>,
    /// The name to give to every `TlsConnector`: all node certificates carry it.
    pub server_name: ServerName<'static>,
    cluster: Arc<str>,
    node_certificate: Arc<LiveCertificate>,
    enroll_certificate: Arc<LiveCertificate>,
    /// Seconds since 1970.
    not_after: Arc<AtomicU64>,
    trust: Arc<LiveTrust>,
    cluster_trust: ClusterTrust,
}

impl TlsContexts {
    pub(super) fn new(identity: &Identity) -> Result<TlsContexts, IdentityError> {
        let node_certificate = Arc::new(LiveCertificate::new(identity.certified.clone()));
        let enroll_certificate = Arc::new(LiveCertificate::new(with_roots(identity)));
        let trust = Arc::new(LiveTrust::new(identity)?);
        let members_only: Arc<dyn ClientCertVerifier> = Arc::new(ClientTrust::new(trust.clone(), false));
        let anybody: Arc<dyn ClientCertVerifier> = Arc::new(ClientTrust::new(trust.clone(), true));
        let server = |verifier: &Arc<dyn ClientCertVerifier>, certificate: &Arc<LiveCertificate>, alpn| {
            server_config(verifier.clone(), certificate.clone(), alpn)
        };
        let client = |alpn| client_config(trust.clone(), node_certificate.clone(), alpn);
        Ok(TlsContexts {
            gossip_client: client(Alpn::Gossip)?,
            gossip_server: server(&members_only, &node_certificate, Alpn::Gossip)?,
            mesh_client: client(Alpn::Mesh)?,
            mesh_server: server(&members_only, &node_certificate, Alpn::Mesh)?,
            http_client: client(Alpn::Http)?,
            http_server: server(&members_only, &node_certificate, Alpn::Http)?,
            enroll_server: server(&anybody, &enroll_certificate, Alpn::Enroll)?,
            renew_client: client(Alpn::Enroll)?,
            server_name: node_server_name(),
            cluster: identity.cluster.as_str().into(),
            node_certificate,
            enroll_certificate,
            not_after: Arc::new(AtomicU64::new(unix_s(identity.not_after))),
            cluster_trust: identity.cluster_trust.clone(),
            trust,
        })
    }

    /// Presents a renewed certificate, and believes the roots that came with it, from the next handshake on.
    pub fn replace(&self, renewed: &Identity) -> Result<(), IdentityError> {
        self.trust.replace(renewed)?;
        self.node_certificate.current.store(renewed.certified.clone());
        self.enroll_certificate.current.store(with_roots(renewed));
        self.not_after.store(unix_s(renewed.not_after), Ordering::Relaxed);
        Ok(())
    }

    /// When a connection that is made at `now`, to who holds a certificate until `theirs`, is to be used no more: while a
    /// quarter of its time is left to what is under way on it. The other side ends it when either certificate does.
    pub fn retires_at(&self, now: SystemTime, theirs: SystemTime) -> SystemTime {
        let own = UNIX_EPOCH + Duration::from_secs(self.not_after.load(Ordering::Relaxed));
        now + own.min(theirs).duration_since(now).unwrap_or_default() * 3 / 4
    }

    /// What the cluster has decided about trust. The agent keeps it up to date.
    pub fn cluster_trust(&self) -> &ClusterTrust {
        &self.cluster_trust
    }

    /// Who is on the other side of a finished handshake: pass what `peer_certificates()` returns.
    pub fn peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<PeerIdentity, PeerError> {
        PeerIdentity::from_certs(certificates)?.in_cluster(&self.cluster)
    }
}

/// Chooses the configuration for a connection to the mesh port by what the client asks to speak. `None`: close it.
pub fn server_config_for(tls: &TlsContexts, hello: &ClientHello<'_>) -> Option<(Alpn, Arc<ServerConfig>)> {
    hello.alpn()?.find_map(|asked| match asked {
        asked if asked == Alpn::Mesh.as_bytes() => Some((Alpn::Mesh, tls.mesh_server.clone())),
        asked if asked == Alpn::Http.as_bytes() => Some((Alpn::Http, tls.http_server.clone())),
        asked if asked == Alpn::Enroll.as_bytes() => Some((Alpn::Enroll, tls.enroll_server.clone())),
        _ => None,
    })
}

/// A connection to the mesh port after its handshake.
#[derive(Debug)]
pub enum Accepted<IO> {
    /// Mesh traffic from a host of this cluster.
    Mesh {
        /// The connection.
        stream: Box<TlsStream<IO>>,
        /// Who opened it.
        peer: Box<PeerIdentity>,
    },
    /// To be handed to `serve_enroll`.
    Enroll(Box<TlsStream<IO>>),
}

/// Why a connection to the mesh port was closed.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Too slow.
    #[error("the peer did not finish its TLS handshake within 5 s")]
    Deadline,
    /// Asks for nothing that is spoken here.
    #[error("the peer asks for no protocol of Weft's; something else than an agent connects to the mesh port")]
    Protocol,
    /// The handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
    /// The certificate is no node's of this cluster.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// Does the handshake of a connection to the mesh port: mesh traffic needs a certificate, enrolment none.
pub async fn accept_mesh<IO>(tls: &TlsContexts, io: IO) -> Result<Accepted<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let (alpn, config) = server_config_for(tls, &start.client_hello()).ok_or(AcceptError::Protocol)?;
        Ok::<_, AcceptError>((alpn, Box::new(start.into_stream(config).await?)))
    };
    let (alpn, stream) =
        tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await.map_err(|_| AcceptError::Deadline)??;
    if alpn == Alpn::Enroll {
        return Ok(Accepted::Enroll(stream));
    }
    let peer = Box::new(tls.peer(stream.get_ref().1.peer_certificates())?);
    Ok(Accepted::Mesh { stream, peer })
}

/// The one crypto library. AES-128 before AES-256: it is as safe for what lasts minutes, and costs less per MiB.
pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// The name that every node certificate carries.
pub(super) fn node_server_name() -> ServerName<'static> {
    ServerName::try_from(NODE_DNS_NAME).expect("a constant that is a DNS name")
}

fn server_config(
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: Arc<LiveCertificate>,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let builder = ServerConfig::builder_with_provider(crypto_provider()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(certificate);
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    // A resumed session skips the verification of the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    verifier: Arc<LiveTrust>,
    certificate: Arc<LiveCertificate>,
    alpn: Alpn,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let builder = ClientConfig::builder_with_provider(crypto_provider()).with_protocol_versions(&[&TLS13])?;
    // Of rustls' own making, but for who was revoked.
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = builder.with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The chain with the roots at its end: a host that enrols holds nothing but the root's fingerprint.
fn with_roots(identity: &Identity) -> Arc<CertifiedKey> {
    let mut chain = identity.certified.cert.clone();
    chain.extend(identity.root_certificates.iter().cloned());
    Arc::new(CertifiedKey::new(chain, identity.certified.key.clone()))
}

/// The certificate to present, which renewal replaces.
#[derive(Debug)]
struct LiveCertificate {
    current: ArcSwap<CertifiedKey>,
}

impl LiveCertificate {
    fn new(certified: Arc<CertifiedKey>) -> LiveCertificate {
        LiveCertificate { current: ArcSwap::new(certified) }
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
