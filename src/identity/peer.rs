//! Who a certificate speaks for. Bytes of a certificate come in; a checked [`PeerIdentity`] goes out. Whether the
//! certificate is to be believed is the chain's matter: TLS proves it for connections, `Identity::verify_chain` for
//! records.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::Oid;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::certificate::{EXTENSION_OID, decode_extension, glob_matches, issuer_named_in, parse_spiffe_uri};
use super::node_id_of;
use crate::model::{NodeId, NodeName, ServiceName};

/// A node certificate has about 1 KiB, at most 4 KiB with all its grants.
pub(super) const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// Leaf, issuer, root; one more for a cross-signed root.
pub(super) const CHAIN_CERTIFICATES_MAX: usize = 4;

/// Why a certificate is not a node's of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// None presented.
    #[error("the peer presented no certificate; it must be enrolled in this cluster")]
    NoCertificate,
    /// Not a certificate, or an oversized one.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(&'static str),
    /// Not exactly one URI of the form `spiffe://CLUSTER/node/NAME`.
    #[error("the peer's certificate names no node: it needs exactly one URI, spiffe://CLUSTER/node/NAME")]
    NoNode,
    /// Not exactly one name, the URI `spiffe://CLUSTER/operator/NAME`.
    #[error("the certificate names no operator: it needs exactly one name, the URI spiffe://CLUSTER/operator/NAME")]
    NoOperator,
    /// No readable Weft extension.
    #[error("the peer's certificate carries no record key that this version can read; compare the agents' versions")]
    NoRecordKey,
    /// Another cluster's.
    #[error("the peer belongs to cluster {found:?}, this host to {expected:?}; enrol one of them anew")]
    OtherCluster {
        /// Ours.
        expected: String,
        /// Its.
        found: String,
    },
    /// It, or the host that issued its certificate, is not believed any more.
    #[error("the peer's certificate was revoked; a host that is to come back enrols with a new identity")]
    Revoked,
    /// The chain does not lead to a root of ours, or not at this time.
    #[error("the peer's certificate is not to be trusted: {0}")]
    Untrusted(String),
}

/// What a node certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The holder's id: derived from the record key.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: String,
    /// The key that its records must be signed with.
    pub record_key: [u8; 32],
    /// Globs over the names of the services that it may speak for.
    pub grants: Vec<String>,
    /// The hosts that issued it, as its chain names them; none where only the certificate itself was read.
    pub issuers: Vec<NodeId>,
    /// From when the certificate holds.
    pub not_before: SystemTime,
    /// Until when the certificate holds. Connections end then.
    pub not_after: SystemTime,
}

impl PeerIdentity {
    /// Reads a certificate without asking whether it is to be believed.
    pub fn from_der(leaf: &[u8]) -> Result<PeerIdentity, PeerError> {
        if leaf.len() > CERTIFICATE_BYTES_MAX {
            return Err(PeerError::Malformed("it is too large"));
        }
        let (rest, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| PeerError::Malformed("it is not an X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed("bytes follow it"));
        }
        let (cluster, name) = node_named_in(&certificate).ok_or(PeerError::NoNode)?;
        let (record_key, grants) = extension_of(&certificate).ok_or(PeerError::NoRecordKey)?;
        let validity = certificate.validity();
        let time = |unix_s: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_s).unwrap_or(0));
        Ok(PeerIdentity {
            node: node_id_of(&record_key),
            name,
            cluster,
            record_key,
            grants,
            issuers: Vec::new(),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Reads a chain, leaf first, without asking whether it is to be believed.
    pub fn from_chain<'a>(mut chain: impl Iterator<Item = &'a [u8]>) -> Result<PeerIdentity, PeerError> {
        let leaf = PeerIdentity::from_der(chain.next().ok_or(PeerError::NoCertificate)?)?;
        // Whoever presents a chain may put others' certificates into it, but none of those that lead to the root away.
        Ok(PeerIdentity { issuers: chain.take(CHAIN_CERTIFICATES_MAX).filter_map(issuer_named_in).collect(), ..leaf })
    }

    /// Reads the chain that a TLS peer presented and proved. The TLS configurations of `TlsContexts` have
    /// verified the chain by the time the handshake is over; that the cluster is ours, `TlsContexts::peer` checks too.
    pub fn from_certs(certificates: Option<&[CertificateDer<'_>]>) -> Result<PeerIdentity, PeerError> {
        PeerIdentity::from_chain(certificates.unwrap_or_default().iter().map(|certificate| &**certificate))
    }

    /// True if the holder is one of these, or has its certificate from one.
    pub fn is_among(&self, revoked: &HashSet<NodeId>) -> bool {
        !revoked.is_empty() && (revoked.contains(&self.node) || self.issuers.iter().any(|node| revoked.contains(node)))
    }

    /// True if the holder may speak for the service: offer it, or call in its name.
    pub fn grants_service(&self, service: &ServiceName) -> bool {
        self.grants.iter().any(|glob| glob_matches(glob, service.as_str()))
    }

    pub(super) fn in_cluster(self, cluster: &str) -> Result<PeerIdentity, PeerError> {
        if self.cluster == cluster {
            return Ok(self);
        }
        Err(PeerError::OtherCluster { expected: cluster.to_owned(), found: self.cluster })
    }
}

fn node_named_in(certificate: &X509Certificate<'_>) -> Option<(String, NodeName)> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return None };
    let (cluster, name) = parse_spiffe_uri(uri)?;
    Some((cluster.to_owned(), name))
}

fn extension_of(certificate: &X509Certificate<'_>) -> Option<([u8; 32], Vec<String>)> {
    let oid = Oid::from(&EXTENSION_OID).ok()?;
    decode_extension(certificate.get_extension_unique(&oid).ok()??.value)
}

#[cfg(test)]
mod tests {
    use super::super::certificate::{NODE_LIFETIME, node_params, unix_s};
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn params() -> CertificateParams {
        let grants = ["web-*".to_owned(), "billing".to_owned()];
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        node_params("prod", &NodeName::parse("web-01").unwrap(), &[7; 32], &grants, now, NODE_LIFETIME).unwrap()
    }

    fn certificate(params: &CertificateParams) -> Vec<u8> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_node_certificate_reads_back() {
        let peer = PeerIdentity::from_der(&certificate(&params())).unwrap();
        assert_eq!((peer.cluster.as_str(), peer.name.as_str(), peer.record_key), ("prod", "web-01", [7; 32]));
        assert_eq!(peer.node, node_id_of(&[7; 32]));
        assert_eq!(unix_s(peer.not_after), 1_800_000_000 + NODE_LIFETIME.as_secs());
        let service = |name| ServiceName::parse(name).unwrap();
        assert!(peer.grants_service(&service("web-api")) && peer.grants_service(&service("billing")));
        assert!(!peer.grants_service(&service("web")) && !peer.grants_service(&service("billing-2")));
    }

    #[test]
    fn two_uris_no_extension_and_trailing_bytes_are_refused() {
        let mut two = params();
        two.subject_alt_names.push(SanType::URI("spiffe://prod/node/other".try_into().unwrap()));
        assert_eq!(PeerIdentity::from_der(&certificate(&two)), Err(PeerError::NoNode));
        let mut none = params();
        none.custom_extensions.clear();
        assert_eq!(PeerIdentity::from_der(&certificate(&none)), Err(PeerError::NoRecordKey));
        let mut longer = certificate(&params());
        longer.push(0);
        assert_eq!(PeerIdentity::from_der(&longer), Err(PeerError::Malformed("bytes follow it")));
        assert_eq!(PeerIdentity::from_certs(None), Err(PeerError::NoCertificate));
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut bytes = WHOLE.get_or_init(|| certificate(&params())).clone();
            let _ = PeerIdentity::from_der(&bytes[..cut.index(bytes.len())]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = PeerIdentity::from_der(&bytes);
        }
    }
}
