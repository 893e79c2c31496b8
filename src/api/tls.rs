//! TLS for the API, from the operator's own certificate: hosts of the mesh know each other, programs and people elsewhere
//! know their own authorities.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::ApiError;

/// `[api] tls_cert` and `tls_key`: PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then its issuers.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Reads the files. TLS 1.3 only, as everywhere here.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ApiError> {
    let failed = |path: &Path, why: String| ApiError::Tls { path: path.to_owned(), why };
    let chain: Result<Vec<_>, _> = match CertificateDer::pem_file_iter(&files.cert) {
        Ok(certificates) => certificates.collect(),
        Err(error) => Err(error),
    };
    let chain = chain.map_err(|error| failed(&files.cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(&files.cert, "it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| failed(&files.cert, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
