//! A record that an agent leaves alone, because it failed on it: how it is kept, and told.

use serde::{Deserialize, Serialize};

/// A record that a start of this agent died of, or that it could not handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The first 16 bytes of SHA-256 over the whole record, in hex digits.
    pub hash: String,
    /// Whose record it is.
    pub origin: String,
    /// Its place in the origin's log.
    pub version: String,
    /// What happened.
    pub reason: String,
    /// Starts in a row that ended with it in hand. Below the owner's limit it is only suspected.
    pub deaths: u32,
}
