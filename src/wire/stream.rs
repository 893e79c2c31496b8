//! Messages of a gossip stream: what is too large or too important for datagrams, over mutual TLS on port 7946.
//!
//! Requests and replies come in and length-prefixed bytes go out, and back. The prefix is checked before anything is read
//! or allocated for it. Long answers come in several messages, each within [`MESSAGE_BYTES_MAX`].
//!
//! ```text
//! length 4, big endian │ version │ bincode of the message │ later additions (none in version 1)
//! ```
//!
//! The version is the one that both hosts agreed on in the TLS handshake: the application protocol (RFC 7301) names it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError, INPUT_BYTES_MAX};
use super::keyring::{Keyring, KeyringStatus};
use super::protocol::{PROTOCOL_MAX, Versioned};
use crate::model::{Claim, NodeId, Record, Want};

/// Length, big endian.
pub const PREFIX_BYTES: usize = 4;
/// One message's limit, without its prefix. Nobody holds more than one message of a stream in memory.
pub const MESSAGE_BYTES_MAX: usize = INPUT_BYTES_MAX;
/// What whoever answers a pull should put in one message at most, counted in records' bytes: with the largest record on
/// top it is still far below [`MESSAGE_BYTES_MAX`], and it is written in one go.
pub const PULL_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Claims in one message. At their longest (the proofs of two hosts and a 63-byte name) they take about 330 bytes each.
pub const CLAIMS_MAX: usize = 3_072;

/// What the side that connected asks; one request a stream, but for [`StreamRequest::Sync`] in parts and what follows it
/// about the keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamRequest {
    /// "This is what I hold of the members; tell me yours."
    Sync {
        /// All that the sender holds, or a part of it.
        claims: Vec<Claim>,
        /// True if another `Sync` with more claims follows.
        more: bool,
    },
    /// "Send me these records."
    Pull {
        /// Which.
        wants: Vec<Want>,
    },
    /// "Are you there?", when datagrams found no way.
    Ping {
        /// Chosen by the prober.
        number: u64,
        /// Who is expected to answer.
        target: NodeId,
    },
    /// "Which gossip keys do you hold?"
    KeyringList,
    /// "Is your keyring the one with this digest? If not, show it."
    KeyringCompare {
        /// `Keyring::digest`.
        digest: [u8; 16],
    },
    /// "Merge this into your keyring, and tell what came of it."
    KeyringMerge {
        /// The sender's.
        keyring: Keyring,
    },
}

/// What the other side answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamReply {
    /// To `Sync`.
    Sync {
        /// All that the sender holds, or a part of it.
        claims: Vec<Claim>,
        /// True if another `Sync` with more claims follows.
        more: bool,
    },
    /// To `Pull`.
    Records {
        /// A part of what was asked for.
        records: Vec<Record>,
        /// True if another `Records` follows.
        more: bool,
    },
    /// To `Ping`.
    Pong {
        /// The ping's number.
        number: u64,
    },
    /// To `KeyringList`.
    KeyringStatus(KeyringStatus),
    /// To `KeyringCompare` and `KeyringMerge`.
    Keyring {
        /// `None`: it is the one that was asked for.
        keyring: Option<Keyring>,
    },
}

impl Versioned for StreamRequest {
    fn since(&self) -> u8 {
        let first =
            matches!(self, StreamRequest::Sync { .. } | StreamRequest::Pull { .. } | StreamRequest::Ping { .. });
        if first { 1 } else { 2 }
    }
}

impl Versioned for StreamReply {
    fn since(&self) -> u8 {
        let first = matches!(self, StreamReply::Sync { .. } | StreamReply::Records { .. } | StreamReply::Pong { .. });
        if first { 1 } else { 2 }
    }
}

/// The whole message, prefix and body, in the newest version.
pub fn encode<T: Serialize + Versioned>(message: &T) -> Result<Vec<u8>, CodecError> {
    encode_in(message, PROTOCOL_MAX)
}

/// The whole message, prefix and body, in `version`.
pub fn encode_in<T: Serialize + Versioned>(message: &T, version: u8) -> Result<Vec<u8>, CodecError> {
    if message.since() > version {
        return Err(CodecError::NotInVersion { since: message.since(), version });
    }
    let bytes = codec::encode_after(vec![0, 0, 0, 0, version], message, PREFIX_BYTES + MESSAGE_BYTES_MAX)?;
    let body = bytes.len() - PREFIX_BYTES;
    let length = u32::try_from(body).map_err(|_| CodecError::TooLarge { have: body, max: MESSAGE_BYTES_MAX })?;
    let mut bytes = bytes;
    bytes[..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// How many bytes follow the prefix, if that many are allowed.
pub fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, CodecError> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    match length {
        0 => Err(CodecError::Empty),
        have if have > MESSAGE_BYTES_MAX => Err(CodecError::TooLarge { have, max: MESSAGE_BYTES_MAX }),
        length => Ok(length),
    }
}

/// Reads what followed the prefix, in the version that it is written in.
pub fn decode<T: DeserializeOwned + Versioned>(body: &[u8]) -> Result<T, CodecError> {
    let version = body.first().copied().ok_or(CodecError::Empty)?;
    if version > PROTOCOL_MAX {
        return Err(CodecError::Version(version));
    }
    decode_in(body, version)
}

/// Reads what followed the prefix on a stream where `version` is spoken.
pub fn decode_in<T: DeserializeOwned + Versioned>(body: &[u8], version: u8) -> Result<T, CodecError> {
    let (&written, rest) = body.split_first().ok_or(CodecError::Empty)?;
    if written != version {
        return Err(CodecError::Version(written));
    }
    let message: T = match version {
        0 => return Err(CodecError::Version(0)),
        1 => codec::decode(body, MESSAGE_BYTES_MAX)?,
        _ => codec::decode_known(rest, MESSAGE_BYTES_MAX)?,
    };
    if message.since() > version {
        return Err(CodecError::NotInVersion { since: message.since(), version });
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::super::seal::GossipKey;
    use super::*;
    use crate::model::RECORD_BYTES_MAX;

    fn read<T: DeserializeOwned + Versioned>(message: &[u8]) -> T {
        let (prefix, body) = message.split_first_chunk().unwrap();
        assert_eq!(length(*prefix).unwrap(), body.len());
        decode(body).unwrap()
    }

    #[test]
    fn requests_and_replies_read_back() {
        let claims = vec![samples::claim(1), samples::claim(2)];
        let want = Want { origin: NodeId([3; 16]), after: crate::model::Version { epoch: 1, sequence: 2 } };
        let requests = [
            StreamRequest::Sync { claims: claims.clone(), more: true },
            StreamRequest::Pull { wants: vec![want] },
            StreamRequest::Ping { number: 7, target: NodeId([4; 16]) },
            StreamRequest::KeyringList,
            StreamRequest::KeyringCompare { digest: [5; 16] },
            StreamRequest::KeyringMerge { keyring: Keyring::new(GossipKey([6; 32])) },
        ];
        for request in requests {
            assert_eq!(read::<StreamRequest>(&encode(&request).unwrap()), request);
        }
        let replies = [
            StreamReply::Sync { claims, more: false },
            StreamReply::Records { records: vec![samples::record(100)], more: true },
            StreamReply::Pong { number: 7 },
            StreamReply::KeyringStatus(Keyring::new(GossipKey([6; 32])).status()),
            StreamReply::Keyring { keyring: Some(Keyring::new(GossipKey([6; 32]))) },
        ];
        for reply in replies {
            assert_eq!(read::<StreamReply>(&encode(&reply).unwrap()), reply);
        }
    }

    #[test]
    fn a_full_chunk_and_a_full_list_of_claims_fit_one_message() {
        let sizes = [RECORD_BYTES_MAX; PULL_CHUNK_BYTES_MAX / RECORD_BYTES_MAX + 1];
        let records = sizes.map(samples::record).to_vec();
        assert!(encode(&StreamReply::Records { records, more: true }).is_ok());
        let claims = vec![samples::longest_claim(); CLAIMS_MAX];
        assert!(encode(&StreamReply::Sync { claims, more: true }).is_ok());
    }

    #[test]
    fn a_prefix_over_the_limit_is_refused_before_anything_is_read() {
        assert!(length([0, 16, 0, 0]).is_ok());
        assert!(matches!(length([0, 16, 0, 1]), Err(CodecError::TooLarge { .. })));
        assert!(matches!(length([255; 4]), Err(CodecError::TooLarge { .. })));
        assert_eq!(length([0; 4]), Err(CodecError::Empty));
    }

    #[test]
    fn a_stream_speaks_the_version_that_was_agreed_on_and_no_other() {
        let request = StreamRequest::Ping { number: 7, target: NodeId([4; 16]) };
        for (version, other) in [(1, 2), (2, 1)] {
            let bytes = encode_in(&request, version).unwrap();
            assert_eq!(decode_in::<StreamRequest>(&bytes[PREFIX_BYTES..], version).as_ref(), Ok(&request));
            let refused = decode_in::<StreamRequest>(&bytes[PREFIX_BYTES..], other);
            assert_eq!(refused, Err(CodecError::Version(version)));
        }
    }

    #[test]
    fn what_follows_a_message_is_an_addition_from_version_2_on() {
        let request = StreamRequest::Ping { number: 7, target: NodeId([4; 16]) };
        let longer = |version| [&encode_in(&request, version).unwrap()[PREFIX_BYTES..], &[1, 2, 3]].concat();
        assert_eq!(decode::<StreamRequest>(&longer(1)), Err(CodecError::Trailing(3)));
        assert_eq!(decode::<StreamRequest>(&longer(2)), Ok(request));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for version in 0..3 {
                let versioned = [&[version], &bytes[..]].concat();
                let _ = decode::<StreamRequest>(&versioned);
                let _ = decode::<StreamReply>(&versioned);
            }
        }
    }
}
