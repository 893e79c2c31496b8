//! One message over a gossip stream, read or written within its deadline, and why a stream ends early.
//!
//! Typed messages come in and go out; bytes are `wire::stream`'s. A message is taken into memory as it arrives, so that a
//! long prefix alone costs nothing.

use std::io;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::{ALPN, Counters, Identify};
use crate::model::NodeId;
use crate::wire::codec::CodecError;
use crate::wire::protocol::Versioned;
use crate::wire::stream;

/// A stream whose other side is known.
pub(super) struct Channel<'a> {
    tls: TlsStream<TcpStream>,
    /// Who is at the other end.
    pub(super) peer: NodeId,
    /// The version of the messages that both sides agreed on.
    pub(super) version: u8,
    deadline: Duration,
    counters: &'a Counters,
}

/// Why a stream ended without its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("no connection: {0}; is the agent there running, and does a firewall let TCP on its gossip port through?")]
    Connect(io::Error),
    #[error("TLS failed: {0}; do both hosts have certificates of the same CA that are still valid?")]
    Handshake(io::Error),
    #[error("{0} took too long")]
    Deadline(&'static str),
    #[error("the stream broke while {doing}: {error}")]
    Broken { doing: &'static str, error: io::Error },
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("what answered does not speak weft-gossip; is the address another service's?")]
    Protocol,
    #[error("the certificate is no node's of this cluster; enroll that host again")]
    NoNode,
    #[error("{found} answered instead of {expected}; the address has changed hands")]
    OtherNode { expected: NodeId, found: NodeId },
    #[error("the address is this host's own")]
    OwnAddress,
    #[error("{0}")]
    Unexpected(&'static str),
    #[error("this agent is stopping")]
    OwnerGone,
    #[error("too many streams are waiting; it will be tried again")]
    TooManyCalls,
}

impl<'a> Channel<'a> {
    /// Holds a finished handshake to what every gossip stream must have shown.
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        identify: &Identify,
        deadline: Duration,
        counters: &'a Counters,
    ) -> Result<Channel<'a>, StreamError> {
        let (_, session) = tls.get_ref();
        let spoken = (1..).zip(ALPN).find(|(_, protocol)| session.alpn_protocol() == Some(protocol));
        let (version, _) = spoken.ok_or(StreamError::Protocol)?;
        let certificates: &[CertificateDer<'_>] = session.peer_certificates().unwrap_or_default();
        let peer = identify(certificates).ok_or(StreamError::NoNode)?;
        Ok(Channel { tls, peer, version, deadline, counters })
    }

    /// Reads one message.
    pub(super) async fn read<T: DeserializeOwned + Versioned>(&mut self) -> Result<T, StreamError> {
        let body = timeout(self.deadline, read_body(&mut self.tls)).await;
        let body = body.map_err(|_| StreamError::Deadline("the other host's message"))??;
        self.counters.stream_bytes_in.add(stream::PREFIX_BYTES + body.len());
        Ok(stream::decode_in(&body, self.version)?)
    }

    /// Writes one message.
    pub(super) async fn write<T: Serialize + Versioned>(&mut self, message: &T) -> Result<(), StreamError> {
        let bytes = stream::encode_in(message, self.version).inspect_err(|error| {
            if matches!(error, CodecError::NotInVersion { .. }) {
                self.counters.requests_not_in_version.increment();
            }
        })?;
        let writing = async {
            self.tls.write_all(&bytes).await?;
            self.tls.flush().await
        };
        let written = timeout(self.deadline, writing).await;
        written
            .map_err(|_| StreamError::Deadline("the other host, reading,"))?
            .map_err(|error| StreamError::Broken { doing: "writing", error })?;
        self.counters.stream_bytes_out.add(bytes.len());
        Ok(())
    }

    /// Says goodbye, so that the other side can tell the end from a cut. Nothing hangs on it.
    pub(super) async fn close(mut self) {
        let _ = timeout(self.deadline, self.tls.shutdown()).await;
    }
}

async fn read_body(tls: &mut TlsStream<TcpStream>) -> Result<Vec<u8>, StreamError> {
    let broken = |error| StreamError::Broken { doing: "reading", error };
    let mut prefix = [0; stream::PREFIX_BYTES];
    tls.read_exact(&mut prefix).await.map_err(broken)?;
    let length = stream::length(prefix)?;
    let mut body = Vec::new();
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    tls.take(limit).read_to_end(&mut body).await.map_err(broken)?;
    if body.len() < length {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(body)
}
