//! What a host and its issuer say to each other over ALPN `weft-enroll`: one request, one reply, each a length (4 bytes,
//! big endian) and that much JSON, so that either side may be older than the other. `enroll` asks, `issue` answers.

use std::fmt;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::model::NodeName;

/// A request holds a token, a name and a CSR: less than 2 KiB.
pub(super) const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// A reply holds a chain, roots and a keyring: less than 8 KiB, and 40 KiB if all that it can hold is in it.
pub(super) const REPLY_BYTES_MAX: usize = 64 * 1024;

const BINDING_LABEL: &[u8] = b"EXPORTER-weft-enroll";
const PROOF_CONTEXT: &[u8] = b"weft enroll 1\0";
const RECOVERY_CONTEXT: &[u8] = b"weft recover 1\0";

/// What a host asks for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// A first certificate, against a join token.
    Enroll(EnrollRequest),
    /// A certificate like the one that the connection was opened with, for a new TLS key.
    Renew(RenewRequest),
    /// A certificate like one that has ended, for a new TLS key.
    Recover(RecoverRequest),
    /// A certificate that lets the host which opened the connection issue certificates.
    Issuer(RenewRequest),
    /// Nothing but an answer, which shows that the certificate of who asks is believed.
    Hello,
}

/// Asks for a first certificate.
#[derive(Serialize, Deserialize)]
pub(super) struct EnrollRequest {
    /// Names the token.
    pub(super) token_id: Blob,
    /// Proves that the host has it.
    pub(super) secret: Secret,
    /// What the host is called.
    pub(super) name: NodeName,
    /// Certificate request, DER; only its key counts.
    pub(super) csr: Blob,
    /// The host's Ed25519 record key.
    pub(super) record_key: Blob,
    /// Its signature over [`proof_bytes`].
    pub(super) proof: Blob,
    /// The host's clock, seconds since 1970.
    pub(super) time_unix_s: u64,
}

/// Asks for the next certificate.
#[derive(Serialize, Deserialize)]
pub(super) struct RenewRequest {
    /// Certificate request, DER; only its key counts.
    pub(super) csr: Blob,
    /// The host's clock, seconds since 1970.
    pub(super) time_unix_s: u64,
}

/// Asks for the next certificate after the last has ended, on a connection without one.
#[derive(Serialize, Deserialize)]
pub(super) struct RecoverRequest {
    /// The certificate that has ended and its issuer's, DER.
    pub(super) certificates: Vec<Blob>,
    /// Certificate request, DER; only its key counts.
    pub(super) csr: Blob,
    /// The signature of the record key that the certificate names over [`recovery_bytes`].
    pub(super) proof: Blob,
    /// The host's clock, seconds since 1970.
    pub(super) time_unix_s: u64,
}

/// What the issuer says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// Welcome.
    Enrolled {
        /// DER, leaf first.
        certificates: Vec<Blob>,
        /// DER; the pinned one is among them.
        roots: Vec<Blob>,
        /// 32 bytes: the keyring's primary.
        gossip_key: Secret,
        /// The whole keyring (`wire::keyring`). An older issuer has none, an older host does not read it.
        #[serde(default)]
        keyring: Option<Secret>,
    },
    /// Here is the next certificate.
    Renewed {
        /// DER, leaf first.
        certificates: Vec<Blob>,
    },
    /// From now on issue certificates too.
    Issuer {
        /// The issuer's certificate, DER.
        certificate: Blob,
        /// How long node certificates last, in seconds.
        node_ttl_s: u64,
    },
    /// Who asked is believed.
    Hello,
    /// No.
    Refused {
        /// Why.
        code: RefusalCode,
        /// The issuer's clock, seconds since 1970.
        time_unix_s: u64,
    },
}

/// Why an issuer refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The ledger does not have the token, or not with this secret.
    UnknownToken,
    /// The token's time is over.
    ExpiredToken,
    /// The token has been used as often as it may be.
    UsedToken,
    /// The token is for a host of another name.
    OtherName,
    /// The two hosts' clocks are too far apart for a certificate to be of use.
    ClockOff,
    /// A renewal without a certificate.
    NoCertificate,
    /// The request cannot be read, or its signatures do not hold.
    Malformed,
    /// The host keeps no CA, or is to issue no more.
    NotIssuer,
    /// The host is not believed any more.
    Revoked,
    /// The certificate ended too long ago.
    EndedLongAgo,
    /// The host is not to be an issuer.
    NotToIssue,
    /// The root's key is elsewhere.
    NoRootKey,
    /// The issuer failed; its log says why.
    Failed,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalCode::UnknownToken => "it does not know this token; create one there with `weft token create`",
            RefusalCode::ExpiredToken => {
                "the token has expired; create a new one with `weft token create`, if need be with a longer --ttl"
            }
            RefusalCode::UsedToken => "the token has been used already; create a new one with `weft token create`",
            RefusalCode::OtherName => {
                "the token was made for a host of another name; set [node] name accordingly or create another token"
            }
            RefusalCode::ClockOff => "the clocks are too far apart; set them",
            RefusalCode::NoCertificate => {
                "renewal needs a certificate that is still valid; enrol again with `weft enroll --token`"
            }
            RefusalCode::Malformed => "it cannot read the request; compare both hosts' `weft --version`",
            RefusalCode::NotIssuer => "it issues no certificates; create a token on a host that does: `weft ca status`",
            RefusalCode::Revoked => {
                "this host's identity was revoked; to come back as a new host: `weft enroll --new-identity --token`"
            }
            RefusalCode::EndedLongAgo => {
                "this host's certificate ended more than 30 days ago; enrol again with `weft enroll --token`"
            }
            RefusalCode::NotToIssue => "this host is not to issue certificates; `weft issuer add` makes it an issuer",
            RefusalCode::NoRootKey => {
                "it does not have the root's key; put ca/root.key back there while issuers are added"
            }
            RefusalCode::Failed => "it failed to issue a certificate; its log says why",
            RefusalCode::Other => "its reason is not known to this version; its log tells, and so may an upgrade",
        })
    }
}

/// Bytes that travel as base64. Printed as their number.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Blob(pub(super) Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        data_encoding::BASE64.decode(text.as_bytes()).map(Blob).map_err(serde::de::Error::custom)
    }
}

/// A [`Blob`] that is secret: it is wiped when it is let go of, its text too.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Zeroizing<Vec<u8>>);

impl Secret {
    pub(super) fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret bytes", self.0.len())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(data_encoding::BASE64.encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        data_encoding::BASE64.decode(text.as_bytes()).map(Secret::new).map_err(serde::de::Error::custom)
    }
}

/// What the record key signs to prove that the host holds it: bound to this connection, so that nobody can carry it
/// to another, and to the certificate request.
pub(super) fn proof_bytes(binding: &[u8; 32], csr: &[u8]) -> Vec<u8> {
    [PROOF_CONTEXT, binding, csr].concat()
}

/// The same for a host whose certificate has ended.
pub(super) fn recovery_bytes(binding: &[u8; 32], csr: &[u8]) -> Vec<u8> {
    [RECOVERY_CONTEXT, binding, csr].concat()
}

/// The bytes that only the two ends of this connection know (RFC 8446 §7.5).
pub(super) fn channel_binding<Data>(connection: &rustls::ConnectionCommon<Data>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], BINDING_LABEL, None)
}

/// Sends one message.
pub(super) async fn write_message<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    bytes_max: usize,
) -> io::Result<()> {
    // Tokens and keys are in it.
    let json = Zeroizing::new(serde_json::to_vec(message)?);
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= bytes_max);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&json).await?;
    stream.flush().await
}

/// Receives one message of at most `bytes_max`.
pub(super) async fn read_message<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<T> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too large"));
    }
    let mut json = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut json).await?;
    serde_json::from_slice(&json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
