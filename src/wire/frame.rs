//! Frames of the mesh stream: what two hosts' proxies say to each other on a pooled TLS connection (port 7947).
//!
//! A header of five bytes, kind and length (big endian), comes before every body. Headers and the bodies of OPEN and RST
//! are made and read here; the bytes of DATA are the caller's and pass by. One stream runs at a time:
//!
//! ```text
//! caller  OPEN  DATA*  FIN        a stream ends when both sides sent FIN, or either sent RST;
//! callee  ACCEPT  DATA*  FIN      then the connection is free for the next OPEN
//! ```

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use crate::model::{ServiceId, ServiceName, Tag};

/// Kind and length.
pub const HEADER_BYTES: usize = 5;
/// A full DATA frame and its header fill four TLS records (RFC 8446 §5.1: 16,384 bytes each): what one read and one write
/// move. A receiver takes the payload as it comes and need not hold a frame whole.
pub const DATA_BYTES_MAX: usize = 4 * 16_384 - HEADER_BYTES;
/// Two service names, an id and a tag at their longest take 646 bytes; the rest is room for later fields.
pub const OPEN_BYTES_MAX: u32 = 1_100;
/// An RST says why in one byte.
pub const RST_BYTES: u32 = 1;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The caller asks for an instance. Body: [`Open`].
    Open = 1,
    /// The callee has connected to it. No body.
    Accept = 2,
    /// Bytes of the stream; never empty.
    Data = 3,
    /// No more DATA from this side. No body.
    Fin = 4,
    /// The stream is over, and this is why. Body: [`RstReason`], one byte.
    Rst = 5,
}

/// What comes before every body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// Bytes of the body that follows.
    pub length: u32,
}

/// Why five bytes are no frame header, or a body is not what its kind asks for. The connection cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not have.
    #[error("a frame of unknown kind {0}; the other host may run a newer version")]
    Kind(u8),
    /// A length that the kind does not allow.
    #[error("a {kind:?} frame of {length} bytes, where {min} to {max} are allowed")]
    Length {
        /// What the frame is.
        kind: FrameKind,
        /// The length it claims.
        length: u32,
        /// The least its kind allows.
        min: u32,
        /// The most its kind allows.
        max: u32,
    },
    /// An OPEN body that cannot be read.
    #[error("an Open frame that cannot be read: {0}")]
    Open(#[from] CodecError),
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        let kinds = [FrameKind::Open, FrameKind::Accept, FrameKind::Data, FrameKind::Fin, FrameKind::Rst];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The shortest and the longest body.
    fn lengths(self) -> (u32, u32) {
        match self {
            FrameKind::Open => (1, OPEN_BYTES_MAX),
            FrameKind::Accept | FrameKind::Fin => (0, 0),
            FrameKind::Data => (1, 4 * 16_384 - 5),
            FrameKind::Rst => (RST_BYTES, RST_BYTES),
        }
    }
}

impl FrameHeader {
    /// ACCEPT, whole.
    pub const ACCEPT: FrameHeader = FrameHeader { kind: FrameKind::Accept, length: 0 };
    /// FIN, whole.
    pub const FIN: FrameHeader = FrameHeader { kind: FrameKind::Fin, length: 0 };

    /// The header of a DATA frame, if `length` is one that DATA may have.
    pub fn data(length: usize) -> Option<FrameHeader> {
        let length = u32::try_from(length).ok()?;
        let (min, max) = FrameKind::Data.lengths();
        (min..=max).contains(&length).then_some(FrameHeader { kind: FrameKind::Data, length })
    }

    /// The five bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.length.to_be_bytes();
        [self.kind as u8, a, b, c, d]
    }

    /// Reads five bytes and holds the length to the kind's limits.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<FrameHeader, FrameError> {
        let [kind, a, b, c, d] = bytes;
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        let length = u32::from_be_bytes([a, b, c, d]);
        let (min, max) = kind.lengths();
        if !(min..=max).contains(&length) {
            return Err(FrameError::Length { kind, length, min, max });
        }
        Ok(FrameHeader { kind, length })
    }
}

/// What the caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The service that was called.
    pub service: ServiceName,
    /// The instance that the caller chose; the callee delivers to no other.
    pub instance: ServiceId,
    /// The tag, where `TAG.SERVICE` was called: the stream ends when the instance loses it.
    pub tag: Option<Tag>,
    /// The calling service as the caller's agent attests it; `None` is anonymous.
    pub caller: Option<ServiceName>,
}

impl Open {
    /// The whole frame, header and body.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let body = codec::encode(self, OPEN_BYTES_MAX as usize)?;
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let header = FrameHeader { kind: FrameKind::Open, length };
        Ok([&header.encode()[..], &body].concat())
    }

    /// Reads an OPEN frame's body.
    pub fn decode(body: &[u8]) -> Result<Open, FrameError> {
        Ok(codec::decode(body, OPEN_BYTES_MAX as usize)?)
    }
}

/// Why a stream ended before its FINs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RstReason {
    /// The application's own connection was reset, after ACCEPT.
    Reset = 1,
    /// The callee does not run the instance, or it lost the tag: the caller's view is old.
    NoSuchInstance = 2,
    /// The instance did not take the connection.
    ConnectFailed = 3,
    /// The caller may not call it.
    NotAllowed = 4,
    /// The callee is shutting down.
    Draining = 5,
    /// The callee could not, for reasons of its own.
    Internal = 6,
}

impl RstReason {
    /// The whole frame, header and body.
    pub fn encode(self) -> [u8; HEADER_BYTES + 1] {
        let [kind, a, b, c, d] = FrameHeader { kind: FrameKind::Rst, length: RST_BYTES }.encode();
        [kind, a, b, c, d, self as u8]
    }

    /// Reads an RST frame's body. A reason that only a newer version has is `Internal`: the stream is over all the same.
    pub fn decode(body: u8) -> RstReason {
        let reasons = [Self::Reset, Self::NoSuchInstance, Self::ConnectFailed, Self::NotAllowed, Self::Draining];
        reasons.into_iter().find(|reason| *reason as u8 == body).unwrap_or(Self::Internal)
    }

    /// For metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            RstReason::Reset => "reset",
            RstReason::NoSuchInstance => "no_such_instance",
            RstReason::ConnectFailed => "connect_failed",
            RstReason::NotAllowed => "not_allowed",
            RstReason::Draining => "draining",
            RstReason::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn longest() -> Open {
        Open {
            service: ServiceName::parse(&"s".repeat(63)).unwrap(),
            instance: ServiceId::parse(&"i".repeat(255)).unwrap(),
            tag: Some(Tag::parse(&"t".repeat(255)).unwrap()),
            caller: Some(ServiceName::parse(&"c".repeat(63)).unwrap()),
        }
    }

    #[test]
    fn a_full_data_frame_fills_four_tls_records() {
        let header = FrameHeader::data(DATA_BYTES_MAX).unwrap();
        assert_eq!(header.encode().len() + header.length as usize, 4 * 16_384);
        assert_eq!(FrameHeader::data(DATA_BYTES_MAX + 1), None);
        assert_eq!(FrameHeader::data(0), None);
    }

    #[test]
    fn the_longest_open_fits_and_reads_back() {
        let frame = longest().encode().unwrap();
        let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = FrameHeader::decode(*header).unwrap();
        assert_eq!((header.kind, header.length as usize), (FrameKind::Open, body.len()));
        assert_eq!(Open::decode(body).unwrap(), longest());
    }

    #[test]
    fn a_header_with_a_length_that_its_kind_does_not_allow_is_refused() {
        let refused = [[1, 0, 0, 0, 0], [1, 0, 0, 5, 0], [2, 0, 0, 0, 1], [3, 0, 0, 0, 0], [3, 0, 0, 0xff, 0xfc]];
        for bytes in refused.into_iter().chain([[4, 1, 0, 0, 0], [5, 0, 0, 0, 2], [5, 0, 0, 0, 0]]) {
            assert!(matches!(FrameHeader::decode(bytes), Err(FrameError::Length { .. })), "{bytes:?}");
        }
        assert_eq!(FrameHeader::decode([0; 5]), Err(FrameError::Kind(0)));
        assert_eq!(FrameHeader::decode([6, 0, 0, 0, 0]), Err(FrameError::Kind(6)));
    }

    #[test]
    fn every_reason_reads_back_and_an_unknown_one_still_ends_the_stream() {
        for reason in 1..=6 {
            assert_eq!(RstReason::decode(reason) as u8, reason);
            let frame = RstReason::decode(reason).encode();
            assert_eq!((frame[0], frame[4], frame[5]), (5, 1, reason));
        }
        assert_eq!(RstReason::decode(200), RstReason::Internal);
    }

    proptest! {
        #[test]
        fn every_header_that_decodes_encodes_to_the_same_bytes(bytes in any::<[u8; 5]>(), kind in 0u8..7, length in 0u32..70_000) {
            let [a, b, c, d] = length.to_be_bytes();
            for bytes in [bytes, [kind, a, b, c, d]] {
                if let Ok(header) = FrameHeader::decode(bytes) {
                    prop_assert_eq!(header.encode(), bytes);
                }
            }
        }

        #[test]
        fn no_bytes_make_an_open_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Open::decode(&bytes);
            let mut versioned = bytes;
            versioned.insert(0, 1);
            let _ = Open::decode(&versioned);
        }
    }
}
