//! What strangers and other hosts send to this room, for the fuzzer: each goes the way that it goes when it comes from a
//! connection, without one. Nothing here is called by the agent.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;

use super::exchange::{Reply, Request};
use super::issue::key_in;
use super::peer::PeerIdentity;
use super::token::JoinToken;
use super::verify_claim;
use crate::model::{Claim, MemberState, NodeId, NodeName};

/// A request to an issuer, or its reply, after the length.
pub fn enrolment(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let written = serde_json::to_vec(&request).expect("what was read can be written");
        let again: Request = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(serde_json::to_vec(&again).expect("and written"), written);
        let csr = match &request {
            Request::Enroll(request) => Some(&request.csr),
            Request::Renew(request) | Request::Issuer(request) => Some(&request.csr),
            Request::Recover(request) => {
                request.certificates.iter().for_each(|der| certificate(&der.0));
                Some(&request.csr)
            }
            Request::Hello => None,
        };
        let _ = csr.map(key_in);
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let written = serde_json::to_vec(&reply).expect("what was read can be written");
        serde_json::from_slice::<Reply>(&written).expect("and read again");
    }
}

/// A join token, as somebody pastes it.
pub fn token(text: &str) {
    if let Ok(token) = JoinToken::parse(text) {
        let again = JoinToken::parse(&token.to_text()).expect("what was written is read");
        assert_eq!(again.to_text(), token.to_text());
        assert!(!format!("{token:?}").contains(&token.to_text()), "the secret is shown");
    }
}

/// A certificate of another host's.
pub fn certificate(der: &[u8]) {
    if let Ok(peer) = PeerIdentity::from_der(der) {
        let _ = format!("{peer:?}");
    }
    let chain = [CertificateDer::from(der)];
    let _ = PeerIdentity::from_certs(Some(&chain));
}

/// The proof of a claim.
pub fn claim(proof: &[u8]) {
    let claim = Claim {
        node: NodeId([1; 16]),
        name: NodeName::parse("web-1").expect("a name"),
        address: SocketAddr::from(([10, 0, 0, 1], 7946)),
        incarnation: 1,
        state: MemberState::Alive,
        from: NodeId([1; 16]),
        proof: proof.to_vec(),
    };
    assert!(verify_claim("prod", &claim).is_err(), "nobody has signed it");
}
