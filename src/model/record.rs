//! The record envelope: what one host says, signed, kept and relayed byte for byte, readable or not.
//!
//! The layout is fixed, so that an agent can carry kinds and formats that it does not know:
//!
//! ```text
//! 0   1  envelope version, 1
//! 1   1  flags: bit 0 tombstone; others must be 0
//! 2  16  origin
//! 18  8  epoch        big endian, grows with the origin's starts
//! 26  8  sequence     big endian, counts the origin's records within the epoch
//! 34  2  kind         big endian
//! 36  2  format       big endian, version of the body's encoding
//! 38  1  key length   at most 255
//! 39  4  body length  big endian
//! 43     key, body
//!    64  Ed25519 signature over b"weft record 1\0" and every byte before it
//! ```
//!
//! Bytes come in through [`Record::decode`], which checks shape and limits but not the signature: that takes the
//! origin's key and is done where records are admitted.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::NodeId;

/// Ed25519 (RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;
/// A key names an instance or the like; service ids are at most this long.
pub const RECORD_KEY_BYTES_MAX: usize = 255;
/// An envelope's limit. A node record with three certificates takes about 3 KiB; metadata may take the rest.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

const ENVELOPE_VERSION: u8 = 1;
const HEADER_BYTES: usize = 43;
const TOMBSTONE: u8 = 1;
const CONTEXT: &[u8] = b"weft record 1\0";

/// Position in an origin's log. Ordered by epoch, then sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// Grows with every start of the origin; kept on its disk.
    pub epoch: u64,
    /// Counts its records within the epoch.
    pub sequence: u64,
}

impl Version {
    /// Below every version in use.
    pub const ZERO: Version = Version { epoch: 0, sequence: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// What a record's body is. Unknown kinds are kept and relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKind(pub u16);

impl RecordKind {
    /// Body: a version (epoch, sequence, big endian). Every record of the origin below it is void. It ends what earlier
    /// epochs said and lets tombstones go, without any clock.
    pub const FLOOR: RecordKind = RecordKind(0);
    /// Body: `NodeFacts`.
    pub const NODE: RecordKind = RecordKind(1);
    /// Body: `Instance`; key: its service id.
    pub const SERVICE: RecordKind = RecordKind(2);
    /// Body: a policy, signed by an operator; key: what it is about. Any host may carry any operator's.
    pub const POLICY: RecordKind = RecordKind(3);
}

/// Names a record within the catalog; a newer version of the same id replaces the older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Whose record.
    pub origin: NodeId,
    /// Of what kind.
    pub kind: RecordKind,
    /// Within the kind.
    pub key: Bytes,
}

/// What an envelope says besides its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose record.
    pub origin: NodeId,
    /// Its place in the origin's log.
    pub version: Version,
    /// What the body is.
    pub kind: RecordKind,
    /// Version of the body's encoding.
    pub format: u16,
    /// True: the record with this key is deleted; the body is empty.
    pub tombstone: bool,
    /// Names the record within its kind.
    pub key: Bytes,
}

/// One signed record. Cheap to clone: the bytes are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    header: Header,
    encoded: Bytes,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter or longer than its own lengths say.
    #[error("a record of {have} bytes where its header asks for {want}")]
    Length {
        /// Bytes there.
        have: usize,
        /// Bytes that the header asks for.
        want: usize,
    },
    /// Over [`RECORD_BYTES_MAX`] or [`RECORD_KEY_BYTES_MAX`].
    #[error("a record of {0} bytes is over the limit of 65536")]
    TooLarge(usize),
    /// Another envelope version, or flags that this version does not have.
    #[error("record envelope version {version}, flags {flags:#04x} are not known to this agent; upgrade it")]
    Unknown {
        /// The version byte.
        version: u8,
        /// The flags byte.
        flags: u8,
    },
    /// A floor whose body is not a version, or a tombstone with a body.
    #[error("a record of kind {0} with a body that its kind does not allow")]
    Body(u16),
}

impl Record {
    /// Builds and signs a record. `sign` gets the bytes to be signed.
    pub fn sign(
        header: &Header,
        body: &[u8],
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
    ) -> Result<Record, RecordError> {
        let total = HEADER_BYTES + header.key.len() + body.len() + SIGNATURE_BYTES;
        let (Ok(key_len), Ok(body_len)) = (u8::try_from(header.key.len()), u32::try_from(body.len())) else {
            return Err(RecordError::TooLarge(total));
        };
        if total > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge(total));
        }
        let mut bytes = Vec::with_capacity(CONTEXT.len() + total);
        bytes.extend_from_slice(CONTEXT);
        bytes.push(ENVELOPE_VERSION);
        bytes.push(if header.tombstone { TOMBSTONE } else { 0 });
        bytes.extend_from_slice(header.origin.as_bytes());
        bytes.extend_from_slice(&header.version.epoch.to_be_bytes());
        bytes.extend_from_slice(&header.version.sequence.to_be_bytes());
        bytes.extend_from_slice(&header.kind.0.to_be_bytes());
        bytes.extend_from_slice(&header.format.to_be_bytes());
        bytes.push(key_len);
        bytes.extend_from_slice(&body_len.to_be_bytes());
        bytes.extend_from_slice(&header.key);
        bytes.extend_from_slice(body);
        let signature = sign(&bytes);
        bytes.extend_from_slice(&signature);
        Record::decode(Bytes::from(bytes).slice(CONTEXT.len()..))
    }

    /// Reads an envelope. Exactly one record must fill `encoded`.
    pub fn decode(encoded: Bytes) -> Result<Record, RecordError> {
        let have = encoded.len();
        if have > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge(have));
        }
        let Some(fixed) = encoded.first_chunk::<HEADER_BYTES>() else {
            return Err(RecordError::Length { have, want: HEADER_BYTES + SIGNATURE_BYTES });
        };
        let (version, flags) = (fixed[0], fixed[1]);
        if version != ENVELOPE_VERSION || flags & !TOMBSTONE != 0 {
            return Err(RecordError::Unknown { version, flags });
        }
        let key_len = usize::from(fixed[38]);
        let body_len = u32_at(fixed, 39) as usize;
        let want = HEADER_BYTES.saturating_add(key_len).saturating_add(body_len).saturating_add(SIGNATURE_BYTES);
        if want != have {
            return Err(RecordError::Length { have, want });
        }
        let mut origin = [0; 16];
        origin.copy_from_slice(&fixed[2..18]);
        let header = Header {
            origin: NodeId(origin),
            version: Version { epoch: u64_at(fixed, 18), sequence: u64_at(fixed, 26) },
            kind: RecordKind(u16_at(fixed, 34)),
            format: u16_at(fixed, 36),
            tombstone: flags & TOMBSTONE != 0,
            key: encoded.slice(HEADER_BYTES..HEADER_BYTES + key_len),
        };
        let record = Record { header, encoded };
        record.check_body()?;
        Ok(record)
    }

    fn check_body(&self) -> Result<(), RecordError> {
        let kind = self.header.kind;
        let wrong_floor = kind == RecordKind::FLOOR && (self.body().len() != 16 || self.header.tombstone);
        if wrong_floor || (self.header.tombstone && !self.body().is_empty()) {
            return Err(RecordError::Body(kind.0));
        }
        Ok(())
    }

    /// What the envelope says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whose record it is.
    pub fn origin(&self) -> NodeId {
        self.header.origin
    }

    /// Its place in the origin's log.
    pub fn version(&self) -> Version {
        self.header.version
    }

    /// What replaces it, and what it replaces.
    pub fn id(&self) -> RecordId {
        RecordId { origin: self.header.origin, kind: self.header.kind, key: self.header.key.clone() }
    }

    /// The body, in the encoding that `format` names.
    pub fn body(&self) -> &[u8] {
        let start = HEADER_BYTES + self.header.key.len();
        &self.encoded[start..self.encoded.len() - SIGNATURE_BYTES]
    }

    /// The whole envelope, as it came.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// What the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        [CONTEXT, &self.encoded[..self.encoded.len() - SIGNATURE_BYTES]].concat()
    }

    /// The signature.
    pub fn signature(&self) -> &[u8] {
        &self.encoded[self.encoded.len() - SIGNATURE_BYTES..]
    }

    /// The version below which the origin's records are void, if this is a floor.
    pub fn floor(&self) -> Option<Version> {
        let body = self.body();
        (self.header.kind == RecordKind::FLOOR && body.len() == 16)
            .then(|| Version { epoch: u64_at(body, 0), sequence: u64_at(body, 8) })
    }

    /// The body of a floor record.
    pub fn floor_body(floor: Version) -> [u8; 16] {
        let mut body = [0; 16];
        body[..8].copy_from_slice(&floor.epoch.to_be_bytes());
        body[8..].copy_from_slice(&floor.sequence.to_be_bytes());
        body
    }
}

// Callers pass slices whose length they have checked.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { origin, version, kind, tombstone, key, .. } = &self.header;
        write!(f, "Record({origin} {version} kind {} key {key:?} tombstone {tombstone})", kind.0)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encoded)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Envelope;
        impl serde::de::Visitor<'_> for Envelope {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record envelope")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Record, E> {
                Record::decode(Bytes::copy_from_slice(bytes)).map_err(E::custom)
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Record, E> {
                Record::decode(Bytes::from(bytes)).map_err(E::custom)
            }
        }
        deserializer.deserialize_byte_buf(Envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(tombstone: bool) -> Header {
        Header {
            origin: NodeId([7; 16]),
            version: Version { epoch: 3, sequence: 0x0102_0304_0506_0708 },
            kind: RecordKind::SERVICE,
            format: 1,
            tombstone,
            key: Bytes::from_static(b"web"),
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_signed() {
        let record = Record::sign(&header(false), b"body", |_| [9; 64]).unwrap();
        let again = Record::decode(record.encoded().clone()).unwrap();
        assert_eq!(again, record);
        assert_eq!(again.header(), &header(false));
        assert_eq!((again.body(), again.signature()), (&b"body"[..], &[9; 64][..]));
        assert!(again.signed_bytes().starts_with(b"weft record 1\0\x01\x00"));
    }

    #[test]
    fn every_truncation_and_every_unknown_flag_is_an_error() {
        let record = Record::sign(&header(true), b"", |_| [9; 64]).unwrap();
        for end in 0..record.encoded().len() {
            assert!(Record::decode(record.encoded().slice(..end)).is_err());
        }
        let mut flagged = record.encoded().to_vec();
        flagged[1] |= 2;
        assert!(matches!(Record::decode(flagged.into()), Err(RecordError::Unknown { flags: 3, .. })));
        assert!(Record::sign(&header(true), b"x", |_| [9; 64]).is_err(), "a tombstone with a body");
    }

    #[test]
    fn a_floor_carries_the_version_it_raises_to() {
        let floor = Version { epoch: 4, sequence: 1 };
        let head = Header { kind: RecordKind::FLOOR, key: Bytes::new(), ..header(false) };
        let record = Record::sign(&head, &Record::floor_body(floor), |_| [0; 64]).unwrap();
        assert_eq!(record.floor(), Some(floor));
        assert!(Record::sign(&head, b"short", |_| [0; 64]).is_err());
    }
}
