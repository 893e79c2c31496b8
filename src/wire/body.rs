//! Bodies of records: what a host says of itself and of its instances, as bytes.
//!
//! Model types come in and the bytes to be signed go out; the bytes of a record whose signature was checked come in and
//! model types go out. A record's envelope names the format, so that an older agent relays what it cannot read.
//!
//! ```text
//! format 1         1 │ bincode; nothing may follow
//! NODE from 2 on   count of certificates 1 │ each: length 2, big endian, DER │ the format's own
//! NODE 2           certificates as above │ bincode of the facts without them │ later additions
//! SERVICE 2        bincode │ later additions
//! ```
//!
//! Certificates stand where every later format has them: who the host is can be told even if nothing else can be read. All
//! hosts read the same record, so a format is read by one version of the agent before the next one writes it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{self, CodecError};
use crate::model::{Instance, NodeFacts, RECORD_BYTES_MAX};

/// The format of `NODE` records written here.
pub const NODE_FORMAT: u16 = 1;
/// The format of `SERVICE` records written here.
pub const INSTANCE_FORMAT: u16 = 1;
/// The newest formats of either kind that are read here.
pub const FORMAT_READ_MAX: u16 = 2;

/// A chain has two or three certificates, leaf first.
pub const CERTIFICATES_MAX: usize = 8;

/// What the envelope takes at its longest: header, key, signature.
const ENVELOPE_BYTES_MAX: usize = 43 + 255 + 64;
/// The longest body that fits a record whatever its key.
pub const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX - ENVELOPE_BYTES_MAX;

/// Why a body was not made or not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Written by a newer version: relayed, not read.
    #[error("a {what} record of format {format}, newer than the {known} that this agent reads; upgrade it")]
    NewerFormat {
        /// "node", "service".
        what: &'static str,
        /// The envelope's format.
        format: u16,
        /// The newest format that is read here.
        known: u16,
    },
    /// Not a body of that format, or too large for one.
    #[error("a {what} record: {error}")]
    Codec {
        /// "node", "service".
        what: &'static str,
        /// Why.
        error: CodecError,
    },
    /// The certificates are not where every format has them, or are too many or too long to be put there.
    #[error("a record without readable certificates, of which there may be 1 to {CERTIFICATES_MAX}")]
    Certificates,
    /// A policy without a signature, or one that contradicts itself.
    #[error("a policy record: {0}")]
    Policy(String),
}

/// The body of this host's `NODE` record, in [`NODE_FORMAT`].
pub fn encode_node(facts: &NodeFacts) -> Result<Vec<u8>, BodyError> {
    encode_node_in(facts, NODE_FORMAT)
}

/// The body of a `NODE` record in `format`.
pub fn encode_node_in(facts: &NodeFacts, format: u16) -> Result<Vec<u8>, BodyError> {
    if format == 1 {
        return encode("node", facts);
    }
    let head = put_certificates(&facts.certificates).ok_or(BodyError::Certificates)?;
    let rest = NodeFacts { certificates: Vec::new(), ..facts.clone() };
    codec::encode_after(head, &rest, BODY_BYTES_MAX).map_err(|error| BodyError::Codec { what: "node", error })
}

/// Reads the body of a `NODE` record.
pub fn decode_node(format: u16, body: &[u8]) -> Result<NodeFacts, BodyError> {
    if format != 2 {
        return decode("node", format, body);
    }
    let (certificates, rest) = take_certificates(body).ok_or(BodyError::Certificates)?;
    let facts: NodeFacts = decode("node", format, rest)?;
    Ok(NodeFacts { certificates, ..facts })
}

/// The certificates of a `NODE` record of any format, newer ones too, leaf first.
pub fn certificates(format: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, BodyError> {
    match format {
        0 | 1 => decode_node(format, body).map(|facts| facts.certificates),
        _ => take_certificates(body).map(|(certificates, _)| certificates).ok_or(BodyError::Certificates),
    }
}

/// The body of a `SERVICE` record, in [`INSTANCE_FORMAT`].
pub fn encode_instance(instance: &Instance) -> Result<Vec<u8>, BodyError> {
    encode("service", instance)
}

/// Reads the body of a `SERVICE` record.
pub fn decode_instance(format: u16, body: &[u8]) -> Result<Instance, BodyError> {
    decode("service", format, body)
}

fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, BodyError> {
    codec::encode(value, BODY_BYTES_MAX).map_err(|error| BodyError::Codec { what, error })
}

fn decode<T: DeserializeOwned>(what: &'static str, format: u16, body: &[u8]) -> Result<T, BodyError> {
    let decoded = match format {
        1 => codec::decode(body, RECORD_BYTES_MAX),
        FORMAT_READ_MAX => codec::decode_known(body, RECORD_BYTES_MAX),
        _ => return Err(BodyError::NewerFormat { what, format, known: FORMAT_READ_MAX }),
    };
    decoded.map_err(|error| BodyError::Codec { what, error })
}

pub(super) fn put_certificates(certificates: &[Vec<u8>]) -> Option<Vec<u8>> {
    let count =
        u8::try_from(certificates.len()).ok().filter(|count| (1..=CERTIFICATES_MAX).contains(&(*count).into()))?;
    let mut bytes = vec![count];
    for certificate in certificates {
        bytes.extend(u16::try_from(certificate.len()).ok()?.to_be_bytes());
        bytes.extend(certificate);
    }
    Some(bytes)
}

/// The certificates and what follows them.
pub(super) fn take_certificates(body: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let (&count, mut rest) = body.split_first()?;
    let count = usize::from(count);
    let mut certificates = Vec::new();
    if !(1..=CERTIFICATES_MAX).contains(&count) {
        return None;
    }
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (certificate, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        certificates.push(certificate.to_vec());
        rest = after;
    }
    Some((certificates, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    #[test]
    fn bodies_read_back() {
        let (facts, instance) = (samples::facts(), samples::instance());
        assert_eq!(decode_node(NODE_FORMAT, &encode_node(&facts).unwrap()).unwrap(), facts);
        assert_eq!(decode_instance(INSTANCE_FORMAT, &encode_instance(&instance).unwrap()).unwrap(), instance);
    }

    #[test]
    fn a_newer_format_says_so_and_says_what_to_do() {
        let error = decode_instance(3, &encode_instance(&samples::instance()).unwrap()).unwrap_err();
        assert_eq!(error, BodyError::NewerFormat { what: "service", format: 3, known: 2 });
        assert!(error.to_string().ends_with("upgrade it"));
    }

    #[test]
    fn format_2_reads_back_and_passes_over_what_is_added_to_it() {
        let (facts, instance) = (samples::facts(), samples::instance());
        let mut body = encode_node_in(&facts, 2).unwrap();
        assert_eq!(decode_node(2, &body).unwrap(), facts);
        body.extend(b"a later field");
        assert_eq!(decode_node(2, &body).unwrap(), facts);
        let mut body = encode_instance(&instance).unwrap()[1..].to_vec();
        body.extend(b"a later field");
        assert_eq!(decode_instance(2, &body).unwrap(), instance);
    }

    #[test]
    fn certificates_are_read_in_every_format_there_will_be() {
        let facts = samples::facts();
        assert_eq!(certificates(1, &encode_node(&facts).unwrap()).unwrap(), facts.certificates);
        let mut body = put_certificates(&facts.certificates).unwrap();
        body.extend(b"\xff what nobody knows yet");
        for format in [2, 3, u16::MAX] {
            assert_eq!(certificates(format, &body).unwrap(), facts.certificates, "format {format}");
        }
        assert!(matches!(decode_node(3, &body), Err(BodyError::NewerFormat { .. })));
    }

    #[test]
    fn certificates_that_are_not_there_are_an_error() {
        for body in [&[][..], &[0], &[1], &[1, 0], &[1, 0, 5, 1, 2], &[9, 0, 0], &[255; 40]] {
            assert_eq!(certificates(2, body), Err(BodyError::Certificates), "{body:?}");
        }
        let none = NodeFacts { certificates: Vec::new(), ..samples::facts() };
        assert_eq!(encode_node_in(&none, 2), Err(BodyError::Certificates));
    }

    #[test]
    fn a_body_that_no_record_can_carry_is_refused_when_it_is_made() {
        let mut instance = samples::instance();
        instance.meta.insert("notes".into(), "x".repeat(RECORD_BYTES_MAX));
        assert!(matches!(encode_instance(&instance), Err(BodyError::Codec { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for format in 0..4 {
                let _ = decode_node(format, &bytes);
                let _ = decode_instance(format, &bytes);
                let _ = certificates(format, &bytes);
            }
        }

        #[test]
        fn no_damage_makes_the_decoders_panic(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = encode_instance(&samples::instance()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode_instance(1, &bytes);
            let mut bytes = encode_node(&samples::facts()).unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = decode_node(1, &bytes);
            let _ = decode_node(1, &bytes[..at]);
        }
    }
}
