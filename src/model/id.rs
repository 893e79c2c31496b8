//! The identity of a host: derived from its record key, so that nobody can sign for an id without holding its key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 128 bits that name one installation of one host for as long as its record key lives.
///
/// It is the first 16 bytes of SHA-256 over the host's Ed25519 record key (see `identity`), written as 32 hex digits.
/// A reimaged host mints a new key and so gets a new id under its old name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 16]);

/// Text that is not 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 32 hex digits, not {0:?}")]
pub struct NodeIdError(pub String);

impl NodeId {
    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let error = || NodeIdError(text.chars().take(64).collect());
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| error())?;
        bytes.try_into().map(NodeId).map_err(|_| error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_as_32_hex_digits_and_reads_back() {
        let id = NodeId([0xab; 16]);
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        assert!("ab".parse::<NodeId>().is_err());
        assert!("zz".repeat(16).parse::<NodeId>().is_err());
    }
}
