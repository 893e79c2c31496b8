//! Enrolments that came to the mesh port: the connection is handed over by a proxy worker with the bytes it has read,
//! and served here, off the data plane.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use crate::identity::{ClusterTrust, EnrollOutcome, TlsContexts, serve_enroll};
use crate::lobby::Place;
use crate::proxy::EnrollConnection;

/// Requests answered at once: signing is cheap, the ledger's fsync is not. Others wait for their turn; connections without
/// a request yet wait in their lobby, where they are in nobody's way.
const CONCURRENT_MAX: usize = 8;
/// Connections in all: as many as wait in the lobby, and as many again that have sent their request.
const CONNECTIONS_MAX: usize = 512;
/// Between two lines in the log about enrolments that came to nothing.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// A whole enrolment, handshake included.
const DEADLINE: Duration = Duration::from_secs(20);

/// Serves enrolments until the data plane ends.
pub(super) async fn serve(mut connections: mpsc::Receiver<EnrollConnection>, tls: TlsContexts, data_dir: PathBuf) {
    let (turns, slots) = (Arc::new(Semaphore::new(CONCURRENT_MAX)), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let told = Arc::new(Told::default());
    while let Some(connection) = connections.recv().await {
        // The client is told by the close.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (turns, told) = (turns.clone(), told.clone());
        let acceptor = TlsAcceptor::from(tls.enroll_server.clone());
        let (data_dir, trust) = (data_dir.clone(), tls.cluster_trust().clone());
        tokio::spawn(async move {
            let EnrollConnection { tcp, received, place } = connection;
            let serving = serve_one((tcp, received), acceptor, data_dir, trust, turn(&place, &turns));
            let served = tokio::select! {
                served = timeout(DEADLINE, serving) => served,
                () = place.shown_out() => return,
            };
            match served {
                Ok(Ok(outcome)) => report(&outcome),
                // Anybody can connect: strangers do not fill the log.
                Ok(Err(error)) if told.may_tell() => info!(error, "an enrolment ended early"),
                Err(_) if told.may_tell() => info!("an enrolment took too long and was ended"),
                Ok(Err(_)) | Err(_) => {}
            }
            drop(slot);
        });
    }
}

/// When an enrolment that came to nothing was last written to the log.
#[derive(Default)]
struct Told(Mutex<Option<Instant>>);

impl Told {
    fn may_tell(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= TELL_INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// Waits for a request's turn. From here on it is not shown out: the token may be spent.
async fn turn<'a>(place: &Place, turns: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
    place.prove();
    turns.acquire().await.ok()
}

async fn serve_one<T>(
    (tcp, received): (std::net::TcpStream, Vec<u8>),
    acceptor: TlsAcceptor,
    data_dir: PathBuf,
    trust: ClusterTrust,
    turn: impl Future<Output = T>,
) -> Result<EnrollOutcome, String> {
    let tcp = TcpStream::from_std(tcp).map_err(|error| error.to_string())?;
    let stream = Prefixed { received, taken: 0, tcp };
    let tls = acceptor.accept(stream).await.map_err(|error| format!("TLS: {error}"))?;
    serve_enroll(tls, &data_dir, &trust, turn).await.map_err(|error| error.to_string())
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
