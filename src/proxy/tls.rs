//! TLS 1.3 over a byte stream that somebody else reads and writes: rustls' unbuffered connection behind two verbs,
//! `decrypt` and `encrypt`.
//!
//! The unbuffered API lets the caller receive up to 64 KiB by one system call and send as much by one; the buffered one
//! reads 4 KiB at a time. Nothing here touches a socket.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};

/// Room for one handshake flight; grown when rustls asks for more.
const FLIGHT_BYTES: usize = 4096;
/// TLS 1.3 adds 22 bytes to a record of at most 16,384; this is room for the records of one call.
const RECORD_OVERHEAD_BYTES: usize = 32;
const RECORD_PLAIN_BYTES: usize = 16 * 1024;

/// One TLS session, either side.
pub(super) enum Tls {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What a call to [`Tls::decrypt`] came to.
pub(super) struct Decrypted {
    /// Bytes at the front of the input that are done with.
    pub consumed: usize,
    /// Where the session stands.
    pub phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The handshake needs more from the peer.
    Handshake,
    /// Application data may be sent.
    Open,
    /// The peer said that it will send no more.
    PeerClosed,
}

enum Step {
    Again,
    Stop(Phase),
}

/// Ciphertext that waits to be written: a buffer with a filled part, never zeroed again while it lives.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn written(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Gives the memory back, if nothing waits.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
        }
    }

    fn free(&mut self, want: usize) -> &mut [u8] {
        if self.bytes.len() < self.end + want {
            self.bytes.resize(self.end + want, 0);
        }
        &mut self.bytes[self.end..]
    }

    fn filled(&mut self, count: usize) {
        self.end += count;
    }
}

impl Tls {
    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Tls, rustls::Error> {
        Ok(Tls::Client(Box::new(UnbufferedClientConnection::new(config, name)?)))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Tls, rustls::Error> {
        Ok(Tls::Server(Box::new(UnbufferedServerConnection::new(config)?)))
    }

    /// Takes ciphertext in, appends plaintext to `inbox` and whatever the session itself must say to `out`.
    pub(super) fn decrypt(
        &mut self,
        incoming: &mut [u8],
        inbox: &mut Vec<u8>,
        out: &mut Outgoing,
    ) -> Result<Decrypted, rustls::Error> {
        let mut consumed = 0;
        loop {
            let rest = &mut incoming[consumed..];
            let (discard, step) = match self {
                Tls::Client(session) => take_step(session.process_tls_records(rest), inbox, out),
                Tls::Server(session) => take_step(session.process_tls_records(rest), inbox, out),
            };
            consumed += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Stop(phase)) => return Ok(Decrypted { consumed, phase }),
                Err(error) => {
                    self.queue_alert(&mut incoming[consumed..], out);
                    return Err(error);
                }
            }
        }
    }

    /// Encrypts application data. Only after the handshake. `kept` is the input that [`Tls::decrypt`] did not consume:
    /// the session remembers places in it and must be shown it at every call.
    pub(super) fn encrypt(&mut self, plain: &[u8], kept: &mut [u8], out: &mut Outgoing) -> Result<(), rustls::Error> {
        match self {
            Tls::Client(session) => encrypt_with(session.process_tls_records(kept), plain, out),
            Tls::Server(session) => encrypt_with(session.process_tls_records(kept), plain, out),
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn close(&mut self, kept: &mut [u8], out: &mut Outgoing) {
        match self {
            Tls::Client(session) => queue_close(session.process_tls_records(kept), out),
            Tls::Server(session) => queue_close(session.process_tls_records(kept), out),
        }
    }

    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        let certificates = match self {
            Tls::Client(session) => session.peer_certificates(),
            Tls::Server(session) => session.peer_certificates(),
        };
        certificates.unwrap_or_default()
    }

    /// After an error the session hands out, once, the alert that tells the peer why.
    fn queue_alert(&mut self, rest: &mut [u8], out: &mut Outgoing) {
        let mut nothing = Vec::new();
        let _ = match self {
            Tls::Client(session) => take_step(session.process_tls_records(rest), &mut nothing, out),
            Tls::Server(session) => take_step(session.process_tls_records(rest), &mut nothing, out),
        };
    }
}

fn take_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    inbox: &mut Vec<u8>,
    out: &mut Outgoing,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut read = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        inbox.extend_from_slice(record.payload);
                    }
                    Err(error) => {
                        read = Err(error);
                        break;
                    }
                }
            }
            read
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let written = match data.encode(out.free(FLIGHT_BYTES)) {
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    data.encode(out.free(required_size))
                }
                other => other,
            };
            written
                .map(|count| {
                    out.filled(count);
                    Step::Again
                })
                .map_err(|error| rustls::Error::General(error.to_string()))
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Stop(Phase::Handshake)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Stop(Phase::Open)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Stop(Phase::PeerClosed)),
        Ok(_) => Err(rustls::Error::General("early data, which Weft never offers".into())),
        Err(error) => Err(error),
    };
    (discard, step)
}

fn encrypt_with<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &[u8],
    out: &mut Outgoing,
) -> Result<(), rustls::Error> {
    let ConnectionState::WriteTraffic(mut traffic) = status.state? else {
        return Err(rustls::Error::HandshakeNotComplete);
    };
    let records = plain.len().div_ceil(RECORD_PLAIN_BYTES).max(1);
    let want = plain.len() + records * RECORD_OVERHEAD_BYTES;
    let written = match traffic.encrypt(plain, out.free(want)) {
        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
            traffic.encrypt(plain, out.free(required_size))
        }
        other => other,
    };
    let count = written.map_err(|error| rustls::Error::General(error.to_string()))?;
    out.filled(count);
    Ok(())
}

fn queue_close<Data>(status: UnbufferedStatus<'_, '_, Data>, out: &mut Outgoing) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
        && let Ok(count) = traffic.queue_close_notify(out.free(RECORD_OVERHEAD_BYTES * 2))
    {
        out.filled(count);
    }
}
