//! Streams over real sockets on loopback, with certificates of a CA made for the test: what crosses, what is kept apart,
//! and what a hostile peer can do. Both sides run in one task, so the order of events is the test's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustls::ClientConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::link::{Incoming, Link, LinkError};
use super::relay::{End, Limits, Relay, abort};
use super::scratch::Scratch;
use super::tls::{Outgoing, Tls};
use crate::identity::{CaOptions, Identity, TlsContexts, ca_init};
use crate::model::{NodeName, ServiceId, ServiceName};
use crate::wire::frame::{FrameHeader, Open, RstReason};

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn contexts() -> TlsContexts {
    let home = tempfile::tempdir().unwrap();
    ca_init(home.path(), "test", &NodeName::parse("one").unwrap(), &CaOptions::default()).unwrap();
    Identity::load(home.path()).unwrap().tls().unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    for socket in [&near, &far] {
        // Else the kernel lets a buffer grow with what it has to hold, to as much as it likes.
        SockRef::from(socket).set_send_buffer_size(BUFFER_BYTES).unwrap();
        SockRef::from(socket).set_recv_buffer_size(BUFFER_BYTES).unwrap();
    }
    (near, far)
}

/// What sockets of a test hold.
const BUFFER_BYTES: usize = 256 * 1024;

/// Both ends of one link.
async fn links(tls: &TlsContexts, scratch: &Scratch) -> (Link, Link) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        Link::accept(tcp, tls.mesh_server.clone(), Vec::new(), scratch).await
    };
    let call = Link::connect(address, tls.mesh_client.clone(), tls.server_name.clone(), PATIENCE, scratch);
    let (caller, server) = tokio::join!(call, serve);
    (caller.unwrap(), server.unwrap())
}

fn limits() -> Limits {
    Limits { idle: PATIENCE, not_after: SystemTime::now() + Duration::from_secs(3600) }
}

fn open() -> Vec<u8> {
    let service = ServiceName::parse("web").unwrap();
    Open { instance: ServiceId::from(&service), service, tag: None, caller: None }.encode().unwrap()
}

async fn next(link: &mut Link, scratch: &Scratch) -> Incoming {
    loop {
        if let Some(incoming) = link.next().unwrap() {
            return incoming;
        }
        std::future::poll_fn(|cx| link.poll_recv(cx, scratch)).await.unwrap();
    }
}

async fn flush(link: &mut Link) {
    std::future::poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
}

#[tokio::test]
async fn streams_follow_each_other_on_one_link_whole_and_in_order() {
    let (tls, scratch) = (contexts(), Scratch::new());
    let (mut caller, mut server) = links(&tls, &scratch).await;
    for round in 0..3u8 {
        let ((mut app, mut taken), (mut delivered, mut service)) = (sockets().await, sockets().await);
        let answer = vec![round; 300_000];
        caller.send(&open()).unwrap();
        let calling = async { Relay::calling(&mut taken, &mut caller, &scratch).run(&limits(), PATIENCE).await };
        let serving = async {
            assert!(matches!(next(&mut server, &scratch).await, Incoming::Open(_)));
            server.send(&FrameHeader::ACCEPT.encode()).unwrap();
            Relay::serving(&mut delivered, &mut server, &scratch).run(&limits(), PATIENCE).await
        };
        let asking = async {
            app.write_all(b"question").await.unwrap();
            app.shutdown().await.unwrap();
            let mut heard = Vec::new();
            app.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let answering = async {
            let mut heard = Vec::new();
            // Half-close crosses: the end of the question is seen before the answer is sent.
            service.read_to_end(&mut heard).await.unwrap();
            service.write_all(&answer).await.unwrap();
            service.shutdown().await.unwrap();
            heard
        };
        let (called, served, answered, asked) = tokio::join!(calling, serving, asking, answering);
        assert!(matches!((called, served), (End::Finished, End::Finished)));
        assert!(answered == answer && asked == b"question");
    }
}

#[tokio::test]
async fn the_next_open_may_arrive_together_with_the_fin_before_it() {
    let (tls, scratch) = (contexts(), Scratch::new());
    let (mut caller, mut server) = links(&tls, &scratch).await;
    let (mut delivered, service) = sockets().await;
    caller.send(&open()).unwrap();
    flush(&mut caller).await;
    assert!(matches!(next(&mut server, &scratch).await, Incoming::Open(_)));
    // The service ends first; the caller then finishes and opens the next stream in one write.
    drop(service);
    server.send(&FrameHeader::ACCEPT.encode()).unwrap();
    let serving = async { Relay::serving(&mut delivered, &mut server, &scratch).run(&limits(), PATIENCE).await };
    let calling = async {
        assert!(matches!(next(&mut caller, &scratch).await, Incoming::Accept));
        assert!(matches!(next(&mut caller, &scratch).await, Incoming::Fin));
        caller.send(&FrameHeader::FIN.encode()).unwrap();
        caller.send(&open()).unwrap();
        flush(&mut caller).await;
    };
    let (ended, ()) = tokio::join!(serving, calling);
    assert!(matches!(ended, End::Finished), "{ended:?}");
    assert!(matches!(next(&mut server, &scratch).await, Incoming::Open(_)));
}

#[tokio::test]
async fn nothing_is_read_from_an_application_whose_call_nobody_accepts() {
    let (tls, scratch) = (contexts(), Scratch::new());
    let (mut caller, _server) = links(&tls, &scratch).await;
    let (mut app, mut taken) = sockets().await;
    app.write_all(b"INSERT").await.unwrap();
    caller.send(&open()).unwrap();
    let ended = Relay::calling(&mut taken, &mut caller, &scratch).run(&limits(), SHORT).await;
    assert!(matches!(ended, End::LostBeforeAccept(LinkError::Timeout(_))), "{ended:?}");
    let mut kept = [0; 6];
    taken.read_exact(&mut kept).await.unwrap();
    assert_eq!(&kept, b"INSERT", "it can be sent elsewhere, whole");
}

#[tokio::test]
async fn a_reset_crosses_as_a_reset() {
    let (tls, scratch) = (contexts(), Scratch::new());
    let (mut caller, mut server) = links(&tls, &scratch).await;
    let ((app, mut taken), (mut delivered, mut service)) = (sockets().await, sockets().await);
    caller.send(&open()).unwrap();
    let calling = async {
        let ended = Relay::calling(&mut taken, &mut caller, &scratch).run(&limits(), PATIENCE).await;
        flush(&mut caller).await;
        ended
    };
    let serving = async {
        assert!(matches!(next(&mut server, &scratch).await, Incoming::Open(_)));
        server.send(&FrameHeader::ACCEPT.encode()).unwrap();
        flush(&mut server).await;
        abort(app);
        Relay::serving(&mut delivered, &mut server, &scratch).run(&limits(), PATIENCE).await
    };
    let (called, served) = tokio::join!(calling, serving);
    assert!(matches!((&called, &served), (End::LocalReset, End::FarReset)), "{called:?} {served:?}");
    abort(delivered);
    let error = service.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_the_late_end_of_the_stream_before() {
    let (tls, scratch) = (contexts(), Scratch::new());
    for (reason, refused) in [(RstReason::NoSuchInstance, true), (RstReason::Reset, false)] {
        let (mut caller, mut server) = links(&tls, &scratch).await;
        let (_app, mut taken) = sockets().await;
        caller.send(&open()).unwrap();
        server.send(&reason.encode()).unwrap();
        flush(&mut server).await;
        let ended = Relay::calling(&mut taken, &mut caller, &scratch).run(&limits(), PATIENCE).await;
        assert_eq!(matches!(ended, End::Refused(_)), refused, "{ended:?}");
        assert_eq!(matches!(ended, End::LostBeforeAccept(LinkError::Closed)), !refused, "{ended:?}");
    }
}

#[tokio::test]
async fn a_reader_that_pauses_holds_back_its_writer_and_loses_nothing() {
    const BYTES: usize = 32 * 1024 * 1024;
    let (tls, scratch) = (contexts(), Scratch::new());
    let (mut caller, mut server) = links(&tls, &scratch).await;
    let ((mut app, mut taken), (mut delivered, mut service)) = (sockets().await, sockets().await);
    caller.send(&open()).unwrap();
    let calling = async { Relay::calling(&mut taken, &mut caller, &scratch).run(&limits(), PATIENCE).await };
    let serving = async {
        assert!(matches!(next(&mut server, &scratch).await, Incoming::Open(_)));
        server.send(&FrameHeader::ACCEPT.encode()).unwrap();
        Relay::serving(&mut delivered, &mut server, &scratch).run(&limits(), PATIENCE).await
    };
    let writing = async {
        let chunk = [7; 64 * 1024];
        let mut accepted = 0;
        // As much as the sockets in between hold, and no more, while nobody reads.
        while let Ok(count) = tokio::time::timeout(SHORT * 4, service.write(&chunk)).await {
            accepted += count.unwrap();
        }
        assert!(accepted < BYTES, "{accepted} bytes went nowhere");
        let rest = vec![7; BYTES - accepted];
        let (written, read) = tokio::join!(
            async {
                service.write_all(&rest).await.unwrap();
                service.shutdown().await.unwrap();
            },
            async {
                let mut heard = Vec::new();
                app.read_to_end(&mut heard).await.unwrap();
                app.shutdown().await.unwrap();
                heard.len()
            }
        );
        let () = written;
        read
    };
    let (called, served, read) = tokio::join!(calling, serving, writing);
    assert!(matches!((called, served), (End::Finished, End::Finished)));
    assert_eq!(read, BYTES);
}

/// What a client says second, after the server's flight: its certificate, in records of at most 64 bytes.
async fn second_flight(tls: &TlsContexts, tcp: &mut TcpStream) -> Vec<u8> {
    let mut config = ClientConfig::clone(&tls.mesh_client);
    config.max_fragment_size = Some(64);
    let mut session = Tls::client(Arc::new(config), tls.server_name.clone()).unwrap();
    let (mut inbox, mut out) = (Vec::new(), Outgoing::default());
    session.decrypt(&mut [], &mut inbox, &mut out).unwrap();
    tcp.write_all(out.pending()).await.unwrap();
    out.written(out.pending().len());
    let mut kept = Vec::new();
    loop {
        tcp.read_buf(&mut kept).await.unwrap();
        let decrypted = session.decrypt(&mut kept, &mut inbox, &mut out).unwrap();
        kept.drain(..decrypted.consumed);
        if decrypted.phase == super::tls::Phase::Open {
            return out.pending().to_vec();
        }
    }
}

/// Where each TLS record ends.
fn record_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + 5) {
        at += 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
        ends.push(at);
    }
    ends
}

#[tokio::test]
async fn a_handshake_that_breaks_off_inside_a_message_is_an_error_and_no_panic() {
    let (tls, scratch) = (contexts(), Scratch::new());
    for cut in 0.. {
        let (mut attacker, tcp) = sockets().await;
        let serving = Link::accept(tcp, tls.mesh_server.clone(), Vec::new(), &scratch);
        let attacking = async {
            let flight = second_flight(&tls, &mut attacker).await;
            let end = record_ends(&flight).get(cut).copied().filter(|end| *end < flight.len());
            attacker.write_all(&flight[..end.unwrap_or(0)]).await.unwrap();
            // A record that cannot be decrypted.
            attacker.write_all(&[&[23, 3, 3, 0, 32][..], &[0xAA; 32]].concat()).await.unwrap();
            attacker.shutdown().await.unwrap();
            end
        };
        let (served, went_on) = tokio::join!(tokio::time::timeout(PATIENCE, serving), attacking);
        assert!(matches!(served, Ok(Err(_))), "cut after record {cut}");
        if went_on.is_none() {
            assert!(cut > 3, "the certificate is more than one record");
            return;
        }
    }
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_an_error_and_no_panic() {
    let (tls, scratch) = (contexts(), Scratch::new());
    for seed in 0..64 {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = vec![0; 16 + (random.next_u32() % 4096) as usize];
        random.fill_bytes(&mut bytes);
        // Half of it looks like a handshake record.
        if seed % 2 == 0 {
            bytes[..3].copy_from_slice(&[22, 3, 1]);
        }
        let (mut attacker, tcp) = sockets().await;
        let attacking = async {
            // The other side may have hung up already.
            let _ = attacker.write_all(&bytes).await;
            let _ = attacker.shutdown().await;
        };
        let (served, ()) = tokio::join!(Link::accept(tcp, tls.mesh_server.clone(), Vec::new(), &scratch), attacking);
        assert!(served.is_err(), "seed {seed}");
    }
}
