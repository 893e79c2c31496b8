//! The one encoding of every message and record body: a version byte, then bincode, within a limit.
//!
//! Values come in and bytes go out, or bytes come in and one value comes out. What is left over is an error in version 1, and
//! a later version's addition in what was made since ([`decode_known`]).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of everything that [`encode`] makes. Messages of later versions begin with theirs (see [`super::protocol`]).
pub const CODEC_VERSION: u8 = 1;

/// The longest input that [`decode`] is ever asked to read: a gossip stream's message.
pub const INPUT_BYTES_MAX: usize = 1024 * 1024;

// bincode counts an integer's full width against its limit, whatever its varint takes, so that a lawful input may cost up
// to eight times its length. What the limit is there for is a length prefix that promises more than was sent: the three
// steps keep such a promise in proportion to the input.
const SMALL_BYTES_MAX: usize = 2 * 1024;
const MEDIUM_BYTES_MAX: usize = 64 * 1024;
const INTEGER_WIDTH_BYTES: usize = 8;

/// Why a value could not be encoded, or bytes are not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than the limit allows.
    #[error("a message of {have} bytes is over the limit of {max}; send less at once")]
    TooLarge {
        /// Bytes there.
        have: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// No bytes at all.
    #[error("an empty message")]
    Empty,
    /// A version byte that this agent does not know, or that was not agreed on.
    #[error("a message of version {0}, which this agent does not read here; upgrade it")]
    Version(u8),
    /// A message that the version it is to be written in, or claims to be written in, does not have.
    #[error(
        "a message that versions before {since} do not have, where version {version} is spoken; upgrade the other host"
    )]
    NotInVersion {
        /// The version that first has it.
        since: u8,
        /// The version that is spoken.
        version: u8,
    },
    /// Bytes that are no value of the expected type.
    #[error("a message that cannot be read: {0}")]
    Malformed(String),
    /// Bytes after the value.
    #[error("a message with {0} bytes after its end")]
    Trailing(usize),
    /// A value that has no encoding; no type of this crate does this.
    #[error("a value that cannot be encoded: {0}")]
    Unencodable(String),
}

/// Encodes `value` into at most `bytes_max` bytes.
pub fn encode<T: Serialize>(value: &T, bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    encode_after(vec![CODEC_VERSION], value, bytes_max)
}

/// `head`, then `value`, without a version byte between them, in at most `bytes_max` bytes.
pub fn encode_after<T: Serialize>(head: Vec<u8>, value: &T, bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = head;
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .map_err(|error| CodecError::Unencodable(error.to_string()))?;
    check_length(bytes.len(), bytes_max)?;
    Ok(bytes)
}

/// Decodes exactly one value from `bytes`, of which there may be at most `bytes_max` (and [`INPUT_BYTES_MAX`]).
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, CodecError> {
    check_length(bytes.len(), bytes_max.min(INPUT_BYTES_MAX))?;
    let (&version, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != CODEC_VERSION {
        return Err(CodecError::Version(version));
    }
    match decode_bare(rest)? {
        (value, 0) => Ok(value),
        (_, trailing) => Err(CodecError::Trailing(trailing)),
    }
}

/// Decodes the value that `bytes` begin with, where no version byte stands before it. What follows it was added by a later
/// version and is passed over.
pub fn decode_known<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, CodecError> {
    check_length(bytes.len(), bytes_max.min(INPUT_BYTES_MAX))?;
    decode_bare(bytes).map(|(value, _)| value)
}

/// The value, and how many bytes follow it.
fn decode_bare<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    let (value, used) = match bytes.len() {
        length if length <= SMALL_BYTES_MAX => decode_within::<T, { SMALL_BYTES_MAX * INTEGER_WIDTH_BYTES }>(bytes),
        length if length <= MEDIUM_BYTES_MAX => decode_within::<T, { MEDIUM_BYTES_MAX * INTEGER_WIDTH_BYTES }>(bytes),
        _ => decode_within::<T, { INPUT_BYTES_MAX * INTEGER_WIDTH_BYTES }>(bytes),
    }?;
    Ok((value, bytes.len().saturating_sub(used)))
}

fn decode_within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<LIMIT>())
        .map_err(|error| CodecError::Malformed(error.to_string()))
}

fn check_length(have: usize, max: usize) -> Result<(), CodecError> {
    if have > max { Err(CodecError::TooLarge { have, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_starts_with_the_version() {
        let bytes = encode(&vec![1u64, u64::MAX], 100).unwrap();
        assert_eq!(bytes[0], CODEC_VERSION);
        assert_eq!(decode::<Vec<u64>>(&bytes, 100).unwrap(), [1, u64::MAX]);
    }

    #[test]
    fn limits_hold_in_both_directions() {
        assert_eq!(encode(&vec![7u8; 100], 100), Err(CodecError::TooLarge { have: 102, max: 100 }));
        let bytes = encode(&vec![7u8; 100], 102).unwrap();
        assert!(decode::<Vec<u8>>(&bytes, 102).is_ok());
        assert_eq!(decode::<Vec<u8>>(&bytes, 101), Err(CodecError::TooLarge { have: 102, max: 101 }));
    }

    #[test]
    fn small_integers_do_not_exhaust_the_limit_of_any_size() {
        for count in [10, SMALL_BYTES_MAX - 3, MEDIUM_BYTES_MAX - 5, INPUT_BYTES_MAX - 6] {
            let values = vec![1u64; count];
            let bytes = encode(&values, INPUT_BYTES_MAX).unwrap();
            assert_eq!(decode::<Vec<u64>>(&bytes, INPUT_BYTES_MAX).unwrap().len(), count);
        }
    }

    #[test]
    fn another_version_nothing_and_too_much_are_refused() {
        assert_eq!(decode::<u8>(&[], 10), Err(CodecError::Empty));
        assert_eq!(decode::<u8>(&[2, 0], 10), Err(CodecError::Version(2)));
        assert_eq!(decode::<u8>(&[1, 0, 0], 10), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn what_a_later_version_added_at_the_end_is_passed_over_where_it_may_be_there() {
        let bytes = encode_after(vec![9, 9], &7u8, 10).unwrap();
        assert_eq!(bytes, [9, 9, 7]);
        assert_eq!(decode_known::<u8>(&[7, 1, 2, 3], 10), Ok(7));
        assert!(matches!(decode_known::<u8>(&[], 10), Err(CodecError::Malformed(_))));
        assert_eq!(decode_known::<u8>(&[7; 11], 10), Err(CodecError::TooLarge { have: 11, max: 10 }));
    }

    #[test]
    fn a_length_that_promises_gigabytes_is_an_error() {
        let promise = [1, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(matches!(decode::<Vec<u64>>(&promise, 100), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<String>(&promise, 100), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<crate::model::Record>(&promise, 100), Err(CodecError::Malformed(_))));
    }
}
