//! What hosts accept of each other on the mesh port: nothing but TLS 1.3 between certificates of one CA.

use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::super::ca::{Authority, Subject, new_key};
use super::super::tls::crypto_provider;
use super::*;

async fn connect(config: ClientConfig, issuer: &Issuer) -> std::io::Result<()> {
    let tcp = TcpStream::connect(issuer.address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(issuer.tls.server_name.clone(), tcp).await?;
    // A refused client certificate shows at the first read: TLS 1.3 clients finish before servers do.
    stream.read_u8().await.map(|_| ())
}

#[tokio::test]
async fn every_handshake_is_tls_1_3_and_a_full_one() {
    let mut issuer = Issuer::start("prod").await;
    let (_dir, member) = issuer.member("web-01").await;
    let tls = member.tls().unwrap();
    for _ in 0..2 {
        let mut stream = connect_mesh(&tls, issuer.address).await.unwrap();
        let _ = stream.read_u8().await;
        let connection = stream.get_ref().1;
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn gossip_streams_have_a_protocol_of_their_own() {
    let mut issuer = Issuer::start("prod").await;
    let (_dir, member) = issuer.member("web-01").await;
    let (client, server) = (member.tls().unwrap(), issuer.tls.clone());
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connector = TlsConnector::from(client.gossip_client.clone());
    let acceptor = tokio_rustls::TlsAcceptor::from(server.gossip_server.clone());
    let (near, far) = tokio::join!(connector.connect(client.server_name.clone(), near), acceptor.accept(far));
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.get_ref().1.alpn_protocol(), Some(&b"weft-gossip"[..]));
    assert_eq!(server.peer(far.get_ref().1.peer_certificates()).unwrap().node, member.node);
}

#[tokio::test]
async fn hosts_of_another_ca_refuse_and_are_refused() {
    let mut ours = Issuer::start("prod").await;
    let theirs = Issuer::start("prod").await;
    let error = connect_mesh(&theirs.tls, ours.address).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "the client refuses: {error}");
    assert!(matches!(ours.seen.recv().await, Some(Seen::Closed(_))));

    let intruder = disguised(&ours.identity, &theirs.identity.certified);
    let mut stream = connect_mesh(&intruder, ours.address).await.unwrap();
    assert!(stream.read_u8().await.is_err());
    let seen = ours.seen.recv().await.unwrap();
    assert!(
        matches!(&seen, Seen::Closed(AcceptError::Handshake(e)) if e.to_string().contains("UnknownIssuer")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_both_ways_and_cannot_renew() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, member) = issuer.member("web-01").await;
    let key = new_key().unwrap();
    let subject = Subject { cluster: "prod", name: &member.name, record_key: &member.record_key.public(), grants: &[] };
    let past = SystemTime::now() - 24 * HOUR * 8;
    let chain = Authority::load(issuer.path()).unwrap().issue(&subject, &key, past).unwrap();
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let expired = Arc::new(CertifiedKey::from_der(chain, key, &crypto_provider()).unwrap());

    let late = disguised(&member, &expired);
    let mut stream = connect_mesh(&late, issuer.address).await.unwrap();
    assert!(stream.read_u8().await.is_err());
    assert!(matches!(issuer.seen.recv().await, Some(Seen::Closed(_))));
    let (address, _seen) = serve(late.clone(), dir.path().to_owned()).await;
    assert!(connect_mesh(&issuer.tls, address).await.unwrap_err().to_string().contains("xpired"));

    let tcp = TcpStream::connect(issuer.address).await.unwrap();
    let renewal = TlsConnector::from(late.renew_client.clone()).connect(late.server_name.clone(), tcp).await;
    assert!(renewal.unwrap().read_u8().await.is_err());
    assert!(matches!(issuer.seen.recv().await, Some(Seen::Closed(_))));
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_to_enrolment_only() {
    let mut issuer = Issuer::start("prod").await;
    let config = |alpn: &[&[u8]]| {
        let mut config = ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(issuer.identity.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    };
    let configs = [
        config(&[b"weft-mesh"]),
        config(&[b"weft-mesh", b"weft-enroll"]),
        config(&[b"h2", b"weft-gossip"]),
        config(&[]),
    ];
    let enrol = config(&[b"h2", b"weft-enroll"]);
    for (number, config) in configs.into_iter().enumerate() {
        assert!(connect(config, &issuer).await.is_err());
        let seen = issuer.seen.recv().await.unwrap();
        match number {
            0 | 1 => assert!(matches!(seen, Seen::Closed(AcceptError::Handshake(_))), "{number}: {seen:?}"),
            _ => assert!(matches!(seen, Seen::Closed(AcceptError::Protocol)), "{number}: {seen:?}"),
        }
    }
    let tcp = TcpStream::connect(issuer.address).await.unwrap();
    TlsConnector::from(Arc::new(enrol)).connect(issuer.tls.server_name.clone(), tcp).await.unwrap();
    assert!(matches!(issuer.seen.recv().await, Some(Seen::BrokenOff(_))), "accepted, then nothing asked");
}

/// A TLS 1.2 ClientHello (RFC 5246 §7.4.1.2) for ECDHE-ECDSA-AES128-GCM-SHA256 with P-256 and ALPN weft-mesh.
fn tls12_client_hello() -> Vec<u8> {
    let alpn = [&[0, 16, 0, 12, 0, 10, 9][..], b"weft-mesh"].concat();
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let extensions = [&alpn[..], &groups, &signatures].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_1_2_is_answered_with_a_protocol_version_alert() {
    let mut issuer = Issuer::start("prod").await;
    let mut tcp = TcpStream::connect(issuer.address).await.unwrap();
    tcp.write_all(&tls12_client_hello()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    assert_eq!(answer[..1], [21], "an alert: {answer:?}");
    assert_eq!(answer[5..7], [2, 70], "fatal, protocol_version: {answer:?}");
    assert!(matches!(issuer.seen.recv().await, Some(Seen::Closed(AcceptError::Handshake(_)))));
}
