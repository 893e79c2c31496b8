//! TLS of checks: TLS 1.3 as a client without a certificate of its own, against the system's roots or a file of them.
//! TLS 1.2 is not compiled in.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{CheckTarget, CheckTls};

/// All roots of Mozilla's list take a fifth of it.
const ROOTS_BYTES_MAX: u64 = 1024 * 1024;
/// Roots are read again after this long, so that a renewed file is seen without a restart.
const ROOTS_AGE_MAX: Duration = Duration::from_secs(600);

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("{0}")]
    Handshake(#[from] io::Error),
    #[error("{0:?} is no name that a certificate can carry; give the check `tls_server_name`")]
    Name(String),
    #[error("the roots in {path} cannot be used: {reason}; correct the file or `tls_roots`")]
    Roots { path: PathBuf, reason: String },
    #[error("this system has no root certificates; install them (ca-certificates), or give the check `tls_roots`")]
    NoRoots,
    #[error("{0}")]
    Config(#[from] rustls::Error),
}

/// Client configurations that checks share: one for each set of roots.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls(Arc<Mutex<HashMap<Trust, Made>>>);

/// A configuration and when it was made.
type Made = (Instant, Arc<ClientConfig>);

/// Whom a check believes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    Anybody,
    System,
    File(PathBuf),
}

impl Tls {
    /// Does the handshake; `alpn` is what is offered to be spoken.
    pub(super) async fn handshake(
        &self,
        tls: &CheckTls,
        target: &CheckTarget,
        alpn: &[&[u8]],
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let mut config = self.config(tls).await?;
        if !alpn.is_empty() {
            let mut with_alpn = ClientConfig::clone(&config);
            with_alpn.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            config = Arc::new(with_alpn);
        }
        let name = tls.server_name.as_deref().unwrap_or(&target.host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        Ok(TlsConnector::from(config).connect(name, stream).await?)
    }

    async fn config(&self, tls: &CheckTls) -> Result<Arc<ClientConfig>, TlsError> {
        let trust = match (&tls.roots, tls.skip_verify) {
            (_, true) => Trust::Anybody,
            (Some(path), false) => Trust::File(path.clone()),
            (None, false) => Trust::System,
        };
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&trust).cloned();
        if let Some((made, config)) = kept
            && made.elapsed() < ROOTS_AGE_MAX
        {
            return Ok(config);
        }
        let reading = trust.clone();
        let read = tokio::task::spawn_blocking(move || client_config(&reading)).await;
        let config = Arc::new(read.map_err(|error| io::Error::other(error.to_string()))??);
        let mut configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What checks no longer name does not stay.
        configs.retain(|_, (made, _)| made.elapsed() < ROOTS_AGE_MAX);
        configs.insert(trust, (Instant::now(), config.clone()));
        Ok(config)
    }
}

fn client_config(trust: &Trust) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let mut config = match trust {
        Trust::Anybody => {
            let verifier = Arc::new(TakesAnybody(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Trust::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
        Trust::File(path) => builder.with_root_certificates(file_roots(path)?).with_no_client_auth(),
    };
    // Each attempt must see the certificate that is there now.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn file_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let fault = |reason: String| TlsError::Roots { path: path.to_owned(), reason };
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| fault(error.to_string()))?;
    file.take(ROOTS_BYTES_MAX + 1).read_to_end(&mut pem).map_err(|error| fault(error.to_string()))?;
    if pem.len() as u64 > ROOTS_BYTES_MAX {
        return Err(fault(format!("it is larger than {ROOTS_BYTES_MAX} bytes")));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    if roots.is_empty() { Err(fault("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

/// For `tls_skip_verify`: any certificate, but the handshake itself must be sound.
#[derive(Debug)]
struct TakesAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::attempt::{Shared, attempt};
    use super::*;
    use crate::config::CheckKind;
    use crate::model::Health;

    /// A TLS server for "billing.example.com" that answers every connection with 200; its certificate as PEM.
    async fn serve() -> (CheckTarget, String) {
        let made = rcgen::generate_simple_self_signed(["billing.example.com".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
            }
        });
        (CheckTarget { host: "127.0.0.1".into(), port }, made.cert.pem())
    }

    async fn tried(target: &CheckTarget, tls: CheckTls) -> (Health, String) {
        let kind = CheckKind::Http {
            url: format!("https://{target}/"),
            target: target.clone(),
            path: "/".into(),
            method: "GET".into(),
            headers: Vec::new(),
            body: String::new(),
            tls: Some(tls),
        };
        let made = attempt(&kind, Duration::from_secs(5), &Shared::default()).await;
        (made.health, made.output)
    }

    #[tokio::test]
    async fn roots_name_and_skip_verify_decide_whom_a_check_believes() {
        let (target, pem) = serve().await;
        let directory = tempfile::tempdir().unwrap();
        let roots = Some(directory.path().join("roots.pem"));
        let named = CheckTls { server_name: Some("billing.example.com".into()), skip_verify: false, roots };
        let missing = tried(&target, named.clone()).await;
        assert!(missing.1.contains("roots.pem cannot be used: No such file"), "{}", missing.1);
        std::fs::write(directory.path().join("roots.pem"), "no pem").unwrap();
        let empty = tried(&target, named.clone()).await;
        assert!(empty.1.contains("there is no certificate in it; correct the file"), "{}", empty.1);
        std::fs::write(directory.path().join("roots.pem"), pem).unwrap();
        let trusted = tried(&target, named.clone()).await;
        assert_eq!((trusted.0, trusted.1.ends_with("Output: ok")), (Health::Passing, true), "{}", trusted.1);
        let by_address = tried(&target, CheckTls { server_name: None, ..named }).await;
        assert!(by_address.1.contains("certificate not valid for name"), "{}", by_address.1);
        let unknown =
            tried(&target, CheckTls { server_name: Some("billing.example.com".into()), ..CheckTls::default() });
        assert_eq!(unknown.await.0, Health::Critical);
        let anybody = tried(&target, CheckTls { skip_verify: true, ..CheckTls::default() }).await;
        assert_eq!(anybody.0, Health::Passing, "{}", anybody.1);
    }

    #[tokio::test]
    async fn a_tcp_check_with_tls_needs_more_than_a_listener() {
        let (target, _) = serve().await;
        let tls = Some(CheckTls { skip_verify: true, ..CheckTls::default() });
        let of = |target: &CheckTarget| CheckKind::Tcp { target: target.clone(), tls: tls.clone() };
        let made = attempt(&of(&target), Duration::from_secs(5), &Shared::default()).await;
        assert_eq!(
            (made.health, made.output),
            (Health::Passing, format!("TCP connect {target} and TLS handshake: success"))
        );
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CheckTarget { host: "127.0.0.1".into(), port: plain.local_addr().unwrap().port() };
        tokio::spawn(async move { while plain.accept().await.is_ok() {} });
        let made = attempt(&of(&target), Duration::from_secs(5), &Shared::default()).await;
        assert_eq!(made.health, Health::Critical);
        assert!(made.output.starts_with(&format!("TLS with {target}: ")), "{}", made.output);
    }
}
