//! The tasks behind the gossip port: one receives datagrams, one accepts streams, one carries out the owner's commands.
//!
//! Packets come in and leave as events; commands come in and leave as packets or as calls (`call`). The receive task owns
//! the opener, the command loop the sealer: no state is shared but counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, error, trace};

use super::call::Calls;
use super::claims::Claims;
use super::keyring::{CALLS_WAITING_MAX, KeyringCall, Unopened};
use super::message::{Channel, StreamError};
use super::socket::{Sockets, canonical, sendable};
use super::{ALPN, Command, Counters, Deadlines, Event, GossipError, Identify, KeyringLink, Peers, Settings, serve};
use crate::lobby::Lobby;
use crate::model::{NodeId, SwimMessage};
use crate::wire::codec::CodecError;
use crate::wire::packet::{self, Content, DATAGRAM_BYTES_MAX, Datagram};
use crate::wire::seal::{OpenError, Opener, Sealer};

/// Larger than any packet, so that what is too large is seen to be.
const RECEIVE_BYTES: usize = DATAGRAM_BYTES_MAX + 1;
/// Pause after a failed receive, which the next one would most likely share.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// What the tasks share: nothing of it changes but the counters.
pub(super) struct Shared {
    pub(super) local: NodeId,
    pub(super) connector: TlsConnector,
    pub(super) acceptor: TlsAcceptor,
    pub(super) server_name: ServerName<'static>,
    pub(super) deadlines: Deadlines,
    pub(super) counters: Arc<Counters>,
    pub(super) lobby: Lobby,
    pub(super) peers: Arc<Peers>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) keyring: KeyringLink,
    pub(super) claims: Claims,
    identify: Identify,
}

impl Shared {
    /// The channel over a finished handshake.
    pub(super) fn channel(&self, tls: TlsStream<TcpStream>) -> Result<Channel<'_>, StreamError> {
        let channel = Channel::new(tls, &self.identify, self.deadlines.message, &self.counters)?;
        self.peers.agreed(channel.peer, channel.version);
        Ok(channel)
    }
}

/// The port is taken; nothing is received yet.
pub struct Bound {
    settings: Settings,
    sockets: Sockets,
    counters: Arc<Counters>,
    lobby: Lobby,
    peers: Arc<Peers>,
    keyring_calls: (mpsc::Sender<KeyringCall>, mpsc::Receiver<KeyringCall>),
}

/// Takes the gossip port. Must be called within a tokio runtime.
pub async fn bind(settings: Settings) -> Result<Bound, GossipError> {
    let listen = settings.listen;
    let sockets = Sockets::bind(listen).map_err(|error| GossipError::Bind { listen, error })?;
    let peers = Arc::new(Peers::new(settings.local, settings.protocol_max));
    let keyring_calls = mpsc::channel(CALLS_WAITING_MAX);
    let lobby = Lobby::new(serve::WAITING);
    Ok(Bound { settings, sockets, counters: Arc::default(), lobby, peers, keyring_calls })
}

impl Bound {
    /// Where it listens, with the port that the system chose if the setting had none.
    pub fn local_addr(&self) -> SocketAddr {
        canonical(self.sockets.address)
    }

    /// What is counted while it runs.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Streams without a request yet.
    pub fn lobby(&self) -> Lobby {
        self.lobby.clone()
    }

    /// Which versions of the protocol are spoken with whom.
    pub fn peers(&self) -> Arc<Peers> {
        self.peers.clone()
    }

    /// Takes calls to other hosts about their keyrings.
    pub fn keyring_calls(&self) -> mpsc::Sender<KeyringCall> {
        self.keyring_calls.0.clone()
    }

    /// Runs until `shutdown` is true (or its sender, or that of `commands`, is gone). Datagrams that were commanded before
    /// are sent; streams under way are cut.
    pub async fn run(
        self,
        events: mpsc::Sender<Event>,
        mut commands: mpsc::Receiver<Command>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let Bound { settings, sockets, counters, lobby, peers, keyring_calls: (_, mut keyring_calls) } = self;
        let mut changed = settings.keyring.current.clone();
        let keyring = changed.borrow_and_update().clone();
        let opener = Opener::new(&keyring.keys(), &settings.cluster, settings.local);
        let sealer = Sealer::new(keyring.primary_key(), &settings.cluster, settings.local, settings.epoch);
        // The newest first: of what both offer, rustls takes what stands first at the side that was called.
        let spoken: Vec<_> = ALPN.iter().take(peers.highest().into()).rev().map(|protocol| protocol.to_vec()).collect();
        let (mut client_tls, mut server_tls) = (settings.client_tls, settings.server_tls);
        Arc::make_mut(&mut client_tls).alpn_protocols.clone_from(&spoken);
        Arc::make_mut(&mut server_tls).alpn_protocols = spoken;
        let shared = Arc::new(Shared {
            local: settings.local,
            connector: TlsConnector::from(client_tls),
            acceptor: TlsAcceptor::from(server_tls),
            server_name: settings.server_name,
            deadlines: settings.deadlines,
            claims: Claims::new(settings.check_claim, counters.clone()),
            counters,
            lobby,
            peers,
            events,
            keyring: settings.keyring,
            identify: settings.identify,
        });
        let (address, udp) = (sockets.address, Arc::new(sockets.udp));
        let mut listening = JoinSet::new();
        listening.spawn(receive(udp.clone(), opener, shared.clone()));
        listening.spawn(serve::accept(sockets.tcp, shared.clone()));
        let mut calls = Calls::new(shared.clone());
        let mut outbound = Outbound { udp, address, sealer, shared };
        loop {
            let command = tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(ended) = listening.join_next() => {
                    if let Err(error) = ended {
                        error!(%error, "gossip stopped listening");
                    }
                    break;
                }
                Ok(()) = changed.changed() => {
                    outbound.sealer.set_key(changed.borrow_and_update().primary_key());
                    continue;
                }
                Some(call) = keyring_calls.recv() => {
                    calls.start_keyring(call);
                    continue;
                }
                command = commands.recv() => command,
            };
            match command {
                Some(Command::Send { to, node, datagram }) => outbound.send(to, node, &datagram).await,
                Some(call) => calls.start(call),
                None => break,
            }
        }
        while let Ok(command) = commands.try_recv() {
            if let Command::Send { to, node, datagram } = command {
                outbound.send(to, node, &datagram).await;
            }
        }
        // The port is free again when this returns.
        listening.shutdown().await;
    }
}

struct Outbound {
    udp: Arc<UdpSocket>,
    address: SocketAddr,
    sealer: Sealer,
    shared: Arc<Shared>,
}

impl Outbound {
    async fn send(&mut self, to: SocketAddr, node: Option<NodeId>, datagram: &Datagram) {
        let (counters, peers) = (&self.shared.counters, &self.shared.peers);
        let manner = peers.manner(node, Instant::now());
        let encoded = datagram.encode_in(manner.version, peers.highest());
        if manner.hello {
            counters.hellos_out.increment();
            self.send_payload(to, &packet::hello(self.shared.peers.highest())).await;
        }
        match encoded {
            Ok(payload) => self.send_payload(to, &payload).await,
            // Nothing is lost that is not repaired: what an older version has no word for it learns by an older word.
            Err(CodecError::NotInVersion { .. }) => self.shared.counters.packets_not_in_version.increment(),
            Err(error) => {
                error!(%error, "gossip datagram not sent");
                self.shared.counters.packets_unsent.increment();
            }
        }
    }

    async fn send_payload(&mut self, to: SocketAddr, payload: &[u8]) {
        let counters = &self.shared.counters;
        let packet = match self.sealer.seal(payload) {
            Ok(packet) => packet,
            Err(error) => {
                error!(%error, "gossip datagram not sent");
                return counters.packets_unsent.increment();
            }
        };
        match self.udp.send_to(&packet, sendable(self.address, to)).await {
            Ok(sent) => {
                counters.packets_out.increment();
                counters.bytes_out.add(sent);
            }
            Err(error) => {
                debug!(%to, %error, "gossip datagram not sent");
                counters.packets_unsent.increment();
            }
        }
    }
}

async fn receive(udp: Arc<UdpSocket>, mut opener: Opener, shared: Arc<Shared>) {
    let counters = &shared.counters;
    let mut buffer = [0; RECEIVE_BYTES];
    let mut keyring = shared.keyring.current.clone();
    let mut unopened = Unopened::default();
    loop {
        let (length, from) = match udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "gossip datagram not received");
                tokio::time::sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        counters.packets_in.increment();
        counters.bytes_in.add(length);
        let packet = buffer.get(..length).unwrap_or_default();
        // An error means that nobody changes it any more.
        if keyring.has_changed().unwrap_or(false) {
            opener.set_keyring(&keyring.borrow_and_update().keys());
        }
        for (sender, start) in shared.claims.take_starts() {
            opener.prove(sender, start);
        }
        let by_older = opener.opened_by_older();
        let (sender, payload) = match opener.open(packet) {
            Ok(opened) => opened,
            Err(error) => {
                trace!(%from, %error, "gossip datagram rejected");
                counters.rejected(error);
                if error == OpenError::Unauthenticated {
                    unopened.tell(&shared, packet);
                }
                continue;
            }
        };
        if opener.opened_by_older() > by_older {
            counters.packets_older_key.increment();
        }
        let heard = match packet::read(&payload, shared.peers.highest()) {
            Ok(heard) => heard,
            Err(error) => {
                debug!(%from, %sender, %error, "gossip datagram not read");
                counters.rejected_malformed.increment();
                continue;
            }
        };
        // What another start would speak counts once it is one: nobody is made to be spoken to in an older version.
        if !opener.is_in_doubt(sender) {
            shared.peers.heard(sender, opener.epoch(sender).unwrap_or_default(), heard.version, heard.highest);
        }
        let event = match heard.content {
            Content::Message(Datagram::Swim(SwimMessage { probe, claims })) => {
                let claims = shared.claims.of_datagram(sender, claims);
                Event::Swim { sender, from: canonical(from), message: SwimMessage { probe, claims } }
            }
            Content::Message(Datagram::Catalog(message)) => Event::Catalog { sender, message },
            Content::Hello => continue,
            Content::Newer => {
                counters.packets_newer.increment();
                continue;
            }
        };
        match shared.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => counters.packets_dropped.increment(),
            Err(TrySendError::Closed(_)) => return,
        }
    }
}
