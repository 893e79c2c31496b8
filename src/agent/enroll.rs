//! Enrolments that came to the mesh port: the connection is handed over by a proxy worker with the bytes it has read,
//! and served here, off the data plane.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use crate::identity::{ClusterTrust, EnrollOutcome, TlsContexts, serve_enroll};
use crate::proxy::EnrollConnection;

/// Signing is cheap, the ledger's fsync is not; more wait in the queue.
const CONCURRENT_MAX: usize = 8;
/// A whole enrolment, handshake included.
const DEADLINE: Duration = Duration::from_secs(20);

/// Serves enrolments until the data plane ends.
pub(super) async fn serve(mut connections: mpsc::Receiver<EnrollConnection>, tls: TlsContexts, data_dir: PathBuf) {
    let places = Arc::new(Semaphore::new(CONCURRENT_MAX));
    while let Some(connection) = connections.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let acceptor = TlsAcceptor::from(tls.enroll_server.clone());
        let (data_dir, trust) = (data_dir.clone(), tls.cluster_trust().clone());
        tokio::spawn(async move {
            match timeout(DEADLINE, serve_one(connection, acceptor, data_dir, trust)).await {
                Ok(Ok(outcome)) => report(&outcome),
                Ok(Err(error)) => info!(error, "an enrolment ended early"),
                Err(_) => info!("an enrolment took too long and was ended"),
            }
            drop(place);
        });
    }
}

async fn serve_one(
    connection: EnrollConnection,
    acceptor: TlsAcceptor,
    data_dir: PathBuf,
    trust: ClusterTrust,
) -> Result<EnrollOutcome, String> {
    let tcp = TcpStream::from_std(connection.tcp).map_err(|error| error.to_string())?;
    let stream = Prefixed { received: connection.received, taken: 0, tcp };
    let tls = acceptor.accept(stream).await.map_err(|error| format!("TLS: {error}"))?;
    serve_enroll(tls, &data_dir, &trust).await.map_err(|error| error.to_string())
}

fn report(outcome: &EnrollOutcome) {
    match outcome {
        EnrollOutcome::Issued { node, name, renewed } => info!(%name, %node, renewed, "a certificate was issued"),
        EnrollOutcome::Issuer { node, name } => info!(%name, %node, "another host issues certificates from now on"),
        EnrollOutcome::Greeted => {}
        EnrollOutcome::Refused(reason) => warn!(?reason, "an enrolment was refused"),
        EnrollOutcome::Failed(error) => error!(%error, "an enrolment could not be served"),
    }
}

/// A connection whose first bytes have been read already.
struct Prefixed {
    received: Vec<u8>,
    taken: usize,
    tcp: TcpStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.received[self.taken..];
        if rest.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(cx, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
