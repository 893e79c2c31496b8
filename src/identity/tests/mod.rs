//! The whole road on one machine: real files in temporary directories, real TLS over 127.0.0.1. `enrolment` goes from
//! `ca init` to a certificate, `ca_life` is what comes after it, `refusals` is everything that must fail on the way, `handshakes` is what hosts do then.

mod ca_life;
mod enrolment;
mod handshakes;
mod refusals;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{
    AcceptError, Accepted, CaOptions, ClusterTrust, EnrollOutcome, Enrolled, Enrolling, Identity, IdentityError,
    PeerError, TlsContexts, accept_mesh, ca_init, enroll, serve_enroll, token_create,
};
use crate::model::{NodeId, NodeName};

const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn all_services() -> Vec<String> {
    vec!["*".to_owned()]
}

/// What an issuer's mesh port saw of one connection.
#[derive(Debug)]
enum Seen {
    Enrolment(EnrollOutcome),
    Mesh(String),
    Closed(AcceptError),
    BrokenOff(#[allow(dead_code, reason = "for the message of a failing test")] std::io::Error),
}

/// A host that keeps a CA, with its mesh port served.
struct Issuer {
    dir: TempDir,
    identity: Identity,
    tls: TlsContexts,
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Issuer {
    async fn start(cluster: &str) -> Issuer {
        let dir = tempfile::tempdir().unwrap();
        ca_init(dir.path(), cluster, &name("first"), &CaOptions::default()).unwrap();
        let identity = Identity::load(dir.path()).unwrap();
        let tls = identity.tls().unwrap();
        let (address, seen) = serve(tls.clone(), dir.path().to_owned()).await;
        Issuer { dir, identity, tls, address, seen }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn token(&self) -> String {
        token_create(self.path(), self.address, HOUR, 1, all_services(), None).unwrap().0
    }

    fn ledger(&self) -> Vec<u8> {
        std::fs::read(self.path().join("ca/tokens.json")).unwrap()
    }

    /// A new host of the cluster.
    async fn member(&mut self, called: &str) -> (TempDir, Identity) {
        let dir = tempfile::tempdir().unwrap();
        self.enroll(dir.path(), called).await.unwrap();
        let identity = Identity::load(dir.path()).unwrap();
        (dir, identity)
    }

    async fn enroll(&mut self, dir: &Path, called: &str) -> Result<Enrolled, IdentityError> {
        let token = self.token();
        let enrolled = enroll(&token, dir, &name(called), Enrolling::Same).await;
        assert!(matches!(self.seen.recv().await, Some(Seen::Enrolment(_))));
        enrolled
    }
}

async fn serve(tls: TlsContexts, dir: PathBuf) -> (SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let event = match accept_mesh(&tls, tcp).await {
                Ok(Accepted::Enroll(stream)) => {
                    let served = serve_enroll(*stream, &dir, tls.cluster_trust(), async {}).await;
                    served.map_or_else(Seen::BrokenOff, Seen::Enrolment)
                }
                Ok(Accepted::Mesh { peer, .. }) => Seen::Mesh(peer.name.to_string()),
                Err(error) => Seen::Closed(error),
            };
            let _ = events.send(event);
        }
    });
    (address, seen)
}

/// `host`, but presenting the certificate of somebody else.
fn disguised(host: &Identity, certified: &Arc<CertifiedKey>) -> TlsContexts {
    Identity { certified: certified.clone(), ..host.clone() }.tls().unwrap()
}

async fn connect_mesh(
    tls: &TlsContexts,
    address: SocketAddr,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connector = tokio_rustls::TlsConnector::from(tls.mesh_client.clone());
    connector.connect(tls.server_name.clone(), TcpStream::connect(address).await?).await
}
