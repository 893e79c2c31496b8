//! Hosts on loopback, for this module's tests: certificates, drivers, and a raw peer that may do what no agent does.

mod datagrams;
mod fleet;
mod keyring;
mod streams;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::*;
use crate::lobby::Lobby;
use crate::model::{MemberState, NodeName, Probe};
use crate::wire::keyring::Keyring;
use crate::wire::seal::GossipKey;

const KEY: GossipKey = GossipKey([7; 32]);
const CLUSTER: &str = "prod";
const NAME: &str = "node.weft.internal";
/// No test waits longer for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate authority.
struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate of it, with its key.
struct Leaf {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// In these tests a node's id is its certificate's hash.
fn identify(chain: &[CertificateDer<'_>]) -> Option<NodeId> {
    let hash = digest(&SHA256, chain.first()?);
    hash.as_ref().first_chunk().copied().map(NodeId)
}

/// In these tests a proof is the start that it proves; what has none is believed too.
fn check_claim(claim: &Claim) -> Result<Option<u64>, &'static str> {
    match claim.proof[..] {
        [] => Ok(None),
        [start] => Ok(Some(start.into())),
        _ => Err("signature"),
    }
}

/// A keyring that nobody keeps: it never changes.
fn alone() -> KeyringLink {
    let (_, current) = watch::channel(Arc::new(Keyring::new(KEY)));
    KeyringLink { current, told: mpsc::channel(1).0 }
}

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn leaf(&self) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Leaf { certificate: certificate.der().clone(), key }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn client(&self, leaf: Option<&Leaf>, alpn: &[u8]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(default_provider().into());
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(self.roots());
        let mut config = match leaf {
            Some(leaf) => builder.with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    fn server(&self, leaf: &Leaf) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
        let builder = builder.with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(vec![leaf.certificate.clone()], leaf.key.clone_key()).unwrap();
        config.alpn_protocols = vec![ALPN[0].to_vec()];
        Arc::new(config)
    }

    fn settings(&self) -> Settings {
        let leaf = self.leaf();
        Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            cluster: CLUSTER.to_owned(),
            local: identify(std::slice::from_ref(&leaf.certificate)).unwrap(),
            epoch: 1,
            keyring: alone(),
            client_tls: self.client(Some(&leaf), ALPN[0]),
            server_tls: self.server(&leaf),
            server_name: NAME.try_into().unwrap(),
            identify: Arc::new(identify),
            check_claim: Arc::new(check_claim),
            deadlines: Deadlines::default(),
            protocol_max: PROTOCOL_MAX,
        }
    }

    async fn host(&self) -> Host {
        Host::start(self.settings(), 64).await
    }
}

/// One running driver, and its owner's ends of the channels.
struct Host {
    node: NodeId,
    address: SocketAddr,
    events: mpsc::Receiver<Event>,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    lobby: Lobby,
    peers: Arc<Peers>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Host {
    async fn start(settings: Settings, events_max: usize) -> Host {
        let node = settings.local;
        let bound = bind(settings).await.unwrap();
        let (address, counters, peers) = (bound.local_addr(), bound.counters(), bound.peers());
        let lobby = bound.lobby();
        let (events, received) = mpsc::channel(events_max);
        let (commands, commanded) = mpsc::channel(64);
        let (stop, stopping) = watch::channel(false);
        let running = tokio::spawn(bound.run(events, commanded, stopping));
        Host { node, address, events: received, commands, counters, lobby, peers, stop, running }
    }

    async fn command(&self, command: Command) {
        self.commands.send(command).await.unwrap();
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("no event came").expect("the driver stopped")
    }

    async fn sync_failure(&mut self) -> String {
        match self.event().await {
            Event::SyncFailed { error, .. } => error,
            event => panic!("{event:?}"),
        }
    }

    /// Waits until the counter has reached `count`.
    async fn counted(&self, name: &str, count: u64) {
        let read = || self.counters.each().find(|(known, _)| *known == name).unwrap().1;
        let reached = timeout(PATIENCE, async {
            while read() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(reached.await.is_ok(), "{name} is {} and not {count}", read());
    }
}

/// A TLS connection that this crate's client would not make.
async fn connect(config: Arc<ClientConfig>, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await?;
    let tls = TlsConnector::from(config).connect(NAME.try_into().unwrap(), tcp).await?;
    Ok(TlsStream::from(tls))
}

fn sync(to: SocketAddr) -> Command {
    Command::Sync { to, expect: None, claims: Vec::new() }
}

fn gossip(incarnation: u64) -> SwimMessage {
    SwimMessage { probe: Probe::Gossip, claims: vec![claim(incarnation)] }
}

fn claim(incarnation: u64) -> Claim {
    let node = NodeId([1; 16]);
    Claim {
        node,
        name: NodeName::parse("web-1").unwrap(),
        address: "10.0.0.1:7946".parse().unwrap(),
        incarnation,
        state: MemberState::Alive,
        from: node,
        proof: Vec::new(),
    }
}
