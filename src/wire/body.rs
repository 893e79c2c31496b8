//! Bodies of records: what a host says of itself and of its instances, as bytes.
//!
//! Model types come in and the bytes to be signed go out; the bytes of a record whose signature was checked come in and
//! model types go out. A record's envelope names the format, so that an older agent relays what it cannot read.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{self, CodecError};
use crate::model::{Instance, NodeFacts, RECORD_BYTES_MAX};

/// The format of `NODE` records written and read here.
pub const NODE_FORMAT: u16 = 1;
/// The format of `SERVICE` records written and read here.
pub const INSTANCE_FORMAT: u16 = 1;

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
}

/// The body of this host's `NODE` record, in [`NODE_FORMAT`].
pub fn encode_node(facts: &NodeFacts) -> Result<Vec<u8>, BodyError> {
    encode("node", facts)
}

/// Reads the body of a `NODE` record.
pub fn decode_node(format: u16, body: &[u8]) -> Result<NodeFacts, BodyError> {
    decode("node", format, NODE_FORMAT, body)
}

/// The body of a `SERVICE` record, in [`INSTANCE_FORMAT`].
pub fn encode_instance(instance: &Instance) -> Result<Vec<u8>, BodyError> {
    encode("service", instance)
}

/// Reads the body of a `SERVICE` record.
pub fn decode_instance(format: u16, body: &[u8]) -> Result<Instance, BodyError> {
    decode("service", format, INSTANCE_FORMAT, body)
}

fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, BodyError> {
    codec::encode(value, BODY_BYTES_MAX).map_err(|error| BodyError::Codec { what, error })
}

fn decode<T: DeserializeOwned>(what: &'static str, format: u16, known: u16, body: &[u8]) -> Result<T, BodyError> {
    if format != known {
        return Err(BodyError::NewerFormat { what, format, known });
    }
    codec::decode(body, RECORD_BYTES_MAX).map_err(|error| BodyError::Codec { what, error })
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
        let error = decode_node(2, &encode_node(&samples::facts()).unwrap()).unwrap_err();
        assert_eq!(error, BodyError::NewerFormat { what: "node", format: 2, known: 1 });
        assert!(error.to_string().ends_with("upgrade it"));
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
            let _ = decode_node(1, &bytes);
            let _ = decode_instance(1, &bytes);
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
