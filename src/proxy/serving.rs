//! The serving side: connections of other hosts' agents on the mesh port, one stream after another, each delivered to
//! an instance that this host registered, or refused.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::authorize::{Wanted, admit_wanted, turned};
use super::deliver;
use super::http;
use super::link::{HANDSHAKE_TIMEOUT, Incoming, Link, LinkError, tune};
use super::pool::IDLE_SERVER_MAX;
use super::relay::{End, Limits, Relay, abort};
use super::tap::{Carried, word};
use super::traffic::Cells;
use super::worker::Worker;
use super::{EnrollConnection, PROBE_NAME};
use crate::identity::{Alpn, PeerIdentity, server_config_for};
use crate::lobby::{Place, Source};
use crate::model::{Direction, Health, Instance, Service, ServiceId, ServiceName, Tag, TapHead};
use crate::wire::frame::{FrameHeader, Open, RstReason};

/// A ClientHello with a post-quantum key share takes about 1.5 KiB; nobody needs ten times that.
const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Serves one connection to the mesh port from beginning to end.
pub(super) async fn serve(worker: Rc<Worker>, tcp: TcpStream, from: IpAddr) {
    let place = worker.lobbies.mesh.enter(Source::of(from));
    // Apart from what follows, so that the thousands that never get there cost little memory.
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE_TIMEOUT, shake_hands(&worker, tcp, from)) => shaken,
        () = place.shown_out() => return worker.counters.handshakes_failed.one(),
    };
    match shaken.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT))) {
        Ok(Shaken::Streams(link)) => {
            worker.counters.connections_in.one();
            Box::pin(serve_streams(&worker, *link, place)).await;
        }
        Ok(Shaken::Requests(tls, peer)) => {
            worker.counters.connections_in.one();
            Box::pin(http::serve_host(worker, *tls, *peer, place)).await;
        }
        Ok(Shaken::Elsewhere) => {}
        Err(error) => {
            worker.counters.handshakes_failed.one();
            debug!(%error, "mesh handshake failed");
        }
    }
}

/// What a connection to the mesh port turned out to be.
enum Shaken {
    /// Streams, one after another.
    Streams(Box<Link>),
    /// Requests, many at once.
    Requests(Box<TlsStream<TcpStream>>, Box<PeerIdentity>),
    /// An enrolment, which is the control plane's.
    Elsewhere,
}

async fn shake_hands(worker: &Worker, mut tcp: TcpStream, from: IpAddr) -> Result<Shaken, LinkError> {
    let mut received = Vec::new();
    let accepted = read_hello(&mut tcp, &mut received).await?;
    match server_config_for(&worker.tls, &accepted.client_hello()) {
        Some((Alpn::Mesh, config)) => {
            let link = Link::accept(tcp, config, received, &worker.scratch).await?;
            worker.check_cluster(&link)?;
            Ok(Shaken::Streams(Box::new(link)))
        }
        Some((Alpn::Http, config)) => {
            tune(&tcp);
            let tls = StartHandshake::from_parts(accepted, tcp).into_stream(config).await?;
            let peer = worker.tls.peer(tls.get_ref().1.peer_certificates());
            let peer = peer.map_err(|error| LinkError::Peer(error.to_string()))?;
            Ok(Shaken::Requests(Box::new(tls), Box::new(peer)))
        }
        Some((Alpn::Enroll, _)) => {
            let place = worker.lobbies.enroll.enter(Source::of(from));
            let connection = EnrollConnection { tcp: tcp.into_std()?, received, place };
            // A full queue means that enrolments are slower than they come; the client is told by the close.
            let _ = worker.enroll.try_send(connection);
            Ok(Shaken::Elsewhere)
        }
        // Who names none (a scanner, `openssl s_client`) is shown what this port is: TLS 1.3, and no further without a
        // certificate. With one there is still nothing to talk about.
        None if accepted.client_hello().alpn().is_none() => {
            Link::accept(tcp, worker.tls.mesh_server.clone(), received, &worker.scratch).await?;
            Err(LinkError::Protocol("no application protocol"))
        }
        _ => Err(LinkError::Protocol("an application protocol that this port does not serve")),
    }
}

/// Reads until the ClientHello is whole. What was read stays in `received`, for the session that follows.
async fn read_hello(tcp: &mut TcpStream, received: &mut Vec<u8>) -> Result<rustls::server::Accepted, LinkError> {
    let mut acceptor = Acceptor::default();
    loop {
        let before = received.len();
        if before >= CLIENT_HELLO_BYTES_MAX {
            return Err(LinkError::Protocol("a ClientHello over 16 KiB"));
        }
        if tcp.read_buf(received).await? == 0 {
            return Err(LinkError::Closed);
        }
        let mut fresh = &received[before..];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, _)) => return Err(error.into()),
        }
    }
}

async fn serve_streams(worker: &Rc<Worker>, mut link: Link, place: Place) {
    let not_after = link.not_after();
    let peer = link.peer().cloned();
    let mut shutdown = worker.shutdown.clone();
    loop {
        let open = tokio::select! {
            open = timeout(IDLE_SERVER_MAX, next_open(worker, &mut link)) => open,
            () = worker.peer_lost(peer.as_deref()) => return,
            _ = shutdown.wait_for(|stop| *stop) => return worker.finish(link),
            () = place.shown_out() => return,
        };
        place.prove();
        let open = match open {
            Ok(Ok(open)) => open,
            Ok(Err(LinkError::Closed | LinkError::Io(_))) => return,
            Ok(Err(error)) => {
                worker.counters.protocol_errors.one();
                debug!(%error, "mesh connection closed");
                return;
            }
            Err(_) => return worker.finish(link),
        };
        if *worker.shutdown.borrow() {
            return worker.reset(link, RstReason::Draining);
        }
        if SystemTime::now() >= not_after || peer.as_ref().is_some_and(|peer| worker.is_revoked(peer)) {
            return worker.reset(link, RstReason::NotAllowed);
        }
        match serve_stream(worker, link, &open, not_after).await {
            Some(again) => link = again,
            None => return,
        }
        link.release();
    }
}

async fn next_open(worker: &Worker, link: &mut Link) -> Result<Open, LinkError> {
    loop {
        match link.next()? {
            Some(Incoming::Open(open)) => return Ok(open),
            Some(_) => return Err(LinkError::Protocol("a frame before OPEN")),
            None if link.is_closed() => return Err(LinkError::Closed),
            None => {}
        }
        std::future::poll_fn(|cx| link.poll_recv(cx, &worker.scratch)).await?;
        std::future::poll_fn(|cx| link.poll_flush(cx)).await?;
    }
}

/// Carries one stream. Gives the link back if it can take another.
async fn serve_stream(worker: &Rc<Worker>, mut link: Link, open: &Open, not_after: SystemTime) -> Option<Link> {
    let _active = worker.enter();
    if open.service.as_str() == PROBE_NAME {
        worker.reset(link, RstReason::NoSuchInstance);
        return None;
    }
    if link.peer().is_some_and(|peer| !worker.may_call_as(peer, open.caller.as_ref())) {
        worker.counters.streams_refused.one();
        worker.reset(link, RstReason::NotAllowed);
        return None;
    }
    let asked = Asked {
        service: open.service.clone(),
        instance: open.instance.clone(),
        tag: open.tag.clone(),
        caller: open.caller.clone(),
    };
    let told = Carried::begin();
    let instance = match find(worker, &asked).and_then(takes_streams) {
        Ok(instance) => instance,
        Err(reason) => {
            told.broke("refused");
            tell(worker, &told, &link, &asked);
            worker.counters.streams_refused.one();
            worker.reset(link, reason);
            return None;
        }
    };
    let wanted = Wanted::of(open);
    if admit_wanted(worker, &wanted).is_err() {
        told.broke("denied");
        tell(worker, &told, &link, &asked);
        worker.counters.streams_refused.one();
        worker.reset(link, RstReason::NotAllowed);
        return None;
    }
    let limits = worker.directory.load().traffic.of(&asked.service).limits;
    let Ok(_permit) = worker.admission.connection(&instance.id, asked.caller.as_ref(), &limits) else {
        worker.counters.streams_refused.one();
        // As many as it may have: another instance may take it.
        worker.reset(link, RstReason::Internal);
        return None;
    };
    let Ok(mut service) = deliver::connect(&instance, &worker.settings).await else {
        told.broke("connect-failed");
        tell(worker, &told, &link, &asked);
        worker.counters.streams_refused.one();
        worker.reset(link, RstReason::ConnectFailed);
        return None;
    };
    if link.send(&FrameHeader::ACCEPT.encode()).is_err() {
        return None;
    }
    worker.counters.streams_in.one();
    let cells = link.peer().map(|peer| worker.inbound_cells(peer, &asked, instance.protocol));
    let counted = Counted::begin(cells);
    let limits = Limits { idle: worker.settings.idle_timeout, not_after };
    let peer = link.peer().cloned();
    let mut relay = Relay::serving(&mut service, &mut link, &worker.scratch);
    let ended = tokio::select! {
        ended = relay.run(&limits, HANDSHAKE_TIMEOUT) => ended,
        () = tag_lost(worker, &instance, open.tag.as_ref()) => End::TagLost,
        () = worker.peer_lost(peer.as_deref()) => End::HostLost,
        () = turned(worker, &wanted) => End::Denied,
    };
    counted.end(matches!(ended, End::Finished));
    worker.counters.bytes_down.add(relay.bytes_up);
    worker.counters.bytes_up.add(relay.bytes_down);
    told.broke(word(&ended));
    told.carried(relay.bytes_down, relay.bytes_up);
    tell(worker, &told, &link, &asked);
    match ended {
        End::Finished => return Some(link),
        End::LocalReset => worker.finish(link),
        ended => {
            worker.break_off(&ended, link);
            abort(service);
        }
    }
    None
}

/// Shows a stream that is over to those who look.
fn tell(worker: &Worker, told: &Carried, link: &Link, asked: &Asked) {
    if !worker.taps.is_watched() {
        return;
    }
    let own = worker.own_name();
    let head = TapHead {
        direction: Direction::In,
        caller: asked.caller.as_ref().map_or("", ServiceName::as_str),
        caller_node: link.peer().map_or("", |peer| peer.name.as_str()),
        service: asked.service.as_str(),
        method: "",
        path: "",
    };
    told.end(&worker.taps, &head, (&own, asked.instance.as_str()), 1);
}

/// One stream, counted from its beginning to its end.
struct Counted(Option<Arc<Cells>>);

impl Counted {
    fn begin(cells: Option<Arc<Cells>>) -> Counted {
        cells.iter().for_each(|cells| cells.begin());
        Counted(cells)
    }

    fn end(mut self, well: bool) {
        if let Some(cells) = self.0.take() {
            cells.end(if well { 2 } else { 0 });
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(cells) = self.0.take() {
            cells.end(0);
        }
    }
}

/// What another host's agent asks for.
pub(super) struct Asked {
    pub(super) service: ServiceName,
    pub(super) instance: ServiceId,
    pub(super) tag: Option<Tag>,
    /// Which service calls, as far as the calling host may say so.
    pub(super) caller: Option<ServiceName>,
}

/// The instance that is asked for: one of this host's, of that service, with that tag, that takes calls.
pub(super) fn find(worker: &Worker, asked: &Asked) -> Result<Arc<Instance>, RstReason> {
    let directory = worker.directory.load();
    let service = directory.services.get(&asked.service).ok_or(RstReason::NoSuchInstance)?;
    let (node, instance) = service
        .instances
        .iter()
        .find(|(node, instance)| node.id == worker.local && instance.id == asked.instance)
        .ok_or(RstReason::NoSuchInstance)?;
    let has_tag = asked.tag.as_ref().is_none_or(|tag| instance.tags.contains(tag));
    if !has_tag || Service::health(node, instance) == Health::Critical {
        return Err(RstReason::NoSuchInstance);
    }
    Ok(instance.clone())
}

/// What speaks HTTP is sent requests, in heads that an agent has read and written anew: in the bytes of a stream the calling
/// host could say that anybody calls. An honest caller that has not heard yet what the instance speaks goes elsewhere.
fn takes_streams(instance: Arc<Instance>) -> Result<Arc<Instance>, RstReason> {
    if instance.protocol.is_http() { Err(RstReason::NoSuchInstance) } else { Ok(instance) }
}

async fn tag_lost(worker: &Worker, opened: &Instance, tag: Option<&Tag>) {
    let Some(tag) = tag else { return std::future::pending().await };
    let mut changes = worker.changes.clone();
    loop {
        let directory = worker.directory.load();
        let kept = directory.services.get(&opened.service).is_some_and(|service| {
            service
                .instances
                .iter()
                .any(|(node, now)| node.id == worker.local && now.id == opened.id && now.tags.contains(tag))
        });
        drop(directory);
        if !kept {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
