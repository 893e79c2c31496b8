//! Whom TLS believes: chains that lead to a root of the cluster, but for those of hosts that were revoked and of issuers that
//! were. Roots and revocations change while the agent runs; the configurations that connections are made with stay.
//!
//! Roots come in with an [`Identity`], what the cluster decides by [`ClusterTrust::replace`]; verdicts go to rustls, and to `Identity` for chains
//! that come in records.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::certificate::issuer_named_in;
use super::installed::root_store;
use super::tls::crypto_provider;
use super::{Identity, IdentityError, PeerIdentity};
use crate::model::NodeId;

/// What the cluster has decided about trust, as far as this host has heard. Clones share it.
#[derive(Clone, Default)]
pub struct ClusterTrust(Arc<ArcSwap<Decided>>);

#[derive(Default)]
struct Decided {
    revoked: Arc<HashSet<NodeId>>,
    issuers: Option<Vec<NodeId>>,
}

impl fmt::Debug for ClusterTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterTrust({} revoked)", self.0.load().revoked.len())
    }
}

impl ClusterTrust {
    /// These hosts are revoked from now on and no others, and these issue; `None`: that was never decided.
    pub fn replace(&self, revoked: Arc<HashSet<NodeId>>, issuers: Option<Vec<NodeId>>) {
        self.0.store(Arc::new(Decided { revoked, issuers }));
    }

    /// True if the host is not believed any more.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.0.load().revoked.contains(&node)
    }

    /// True if a host, or one that issued its certificate, is not believed any more.
    pub fn disbelieves(&self, peer: &PeerIdentity) -> bool {
        peer.is_among(&self.0.load().revoked)
    }

    /// Whether the host issues certificates; `None` if nobody has decided that.
    pub(super) fn is_issuer(&self, node: NodeId) -> Option<bool> {
        self.0.load().issuers.as_ref().map(|issuers| issuers.contains(&node))
    }

    /// True if a chain is of a revoked host, or was issued by one.
    pub(super) fn revokes<'a>(&self, leaf: &[u8], mut issuers: impl Iterator<Item = &'a [u8]>) -> bool {
        let decided = self.0.load();
        // Reading a certificate costs 10 µs, which every handshake would pay.
        if decided.revoked.is_empty() {
            return false;
        }
        let is_revoked = |node: Option<NodeId>| node.is_some_and(|node| decided.revoked.contains(&node));
        let holder = PeerIdentity::from_der(leaf).ok().map(|peer| peer.node);
        is_revoked(holder) || issuers.any(|issuer| is_revoked(issuer_named_in(issuer)))
    }
}

/// The host that issued a certificate, as the chain names it.
pub fn issuer_of(certificates: &[Vec<u8>]) -> Option<NodeId> {
    issuer_named_in(certificates.get(1)?)
}

/// Which of these roots (DER) a chain leads to, by its place among them; whether the chain has ended does not matter.
pub fn root_of(certificates: &[Vec<u8>], roots: &[Vec<u8>]) -> Option<usize> {
    let (leaf, issuers) = certificates.split_first()?;
    let (_, read) = X509Certificate::from_der(leaf).ok()?;
    let began = u64::try_from(read.validity().not_before.timestamp()).ok()?;
    let ends = u64::try_from(read.validity().not_after.timestamp()).ok()?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(began + ends.saturating_sub(began) / 2));
    let leaf = CertificateDer::from(leaf.as_slice());
    let issuers: Vec<CertificateDer<'_>> = issuers.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    roots.iter().position(|root| {
        let store = root_store(&[CertificateDer::from(root.clone())]);
        let verifier = store.and_then(|store| client_verifier(&store));
        verifier.is_ok_and(|verifier| verifier.verify_client_cert(&leaf, &issuers, time).is_ok())
    })
}

/// A verifier of client certificates that leads to these roots.
pub(super) fn client_verifier(roots: &Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), crypto_provider());
    builder.build().map_err(|error| rustls::Error::General(error.to_string()))
}

/// What an identity's roots say.
#[derive(Debug)]
struct Judges {
    of_clients: Arc<dyn ClientCertVerifier>,
    of_servers: Arc<WebPkiServerVerifier>,
}

impl Judges {
    fn of(identity: &Identity) -> Result<Judges, IdentityError> {
        let of_servers = WebPkiServerVerifier::builder_with_provider(identity.roots.clone(), crypto_provider()).build();
        let of_servers = of_servers.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Judges { of_clients: identity.verifier.clone(), of_servers })
    }
}

/// The verifier that every configuration of a process shares.
#[derive(Debug)]
pub(super) struct LiveTrust {
    judges: ArcSwap<Judges>,
    cluster: ClusterTrust,
}

impl LiveTrust {
    pub(super) fn new(identity: &Identity) -> Result<LiveTrust, IdentityError> {
        let judges = ArcSwap::from_pointee(Judges::of(identity)?);
        Ok(LiveTrust { judges, cluster: identity.cluster_trust.clone() })
    }

    /// Believes this identity's roots from the next handshake on.
    pub(super) fn replace(&self, identity: &Identity) -> Result<(), IdentityError> {
        self.judges.store(Arc::new(Judges::of(identity)?));
        Ok(())
    }

    fn check(&self, leaf: &CertificateDer<'_>, issuers: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if self.cluster.revokes(leaf, issuers.iter().map(|issuer| &**issuer)) {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(())
    }
}

impl ServerCertVerifier for LiveTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judge = self.judges.load().of_servers.clone();
        let verified = judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.check(end_entity, intermediates).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judges.load().of_servers.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judges.load().of_servers.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judges.load().of_servers.supported_verify_schemes()
    }
}

/// The same for those who connect.
#[derive(Debug)]
pub(super) struct ClientTrust {
    trust: Arc<LiveTrust>,
    /// Whether one who has no certificate may go on.
    optional: bool,
}

impl ClientTrust {
    pub(super) fn new(trust: Arc<LiveTrust>, optional: bool) -> ClientTrust {
        ClientTrust { trust, optional }
    }
}

impl ClientCertVerifier for ClientTrust {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A host has one certificate: it needs no hint which to send, and nobody else needs to know the roots' names.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let judge = self.trust.judges.load().of_clients.clone();
        let verified = judge.verify_client_cert(end_entity, intermediates, now)?;
        self.trust.check(end_entity, intermediates).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.judges.load().of_clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.judges.load().of_clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.judges.load().of_clients.supported_verify_schemes()
    }
}
