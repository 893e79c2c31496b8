//! The versions of what hosts say to each other, and which message each version has.
//!
//! | version | since | what it has |
//! |---|---|---|
//! | 1 | 0.1 | everything that `tests/wire/v1` holds |
//! | 2 | 0.2 | says in each datagram how far its sender reads; what later versions add at a message's end is passed over |
//!
//! Two hosts speak the lower of their highest versions; a host that was not heard yet is spoken to in [`PROTOCOL_MIN`]. A
//! message that the other's version does not have is not sent to it. `docs/adr/0010-protocol-versions.md` says why so.

use crate::model::CatalogMessage;

/// The lowest version that this agent reads and writes.
pub const PROTOCOL_MIN: u8 = 1;
/// The highest version that this agent reads and writes.
pub const PROTOCOL_MAX: u8 = 2;

/// A message that not every version has.
pub trait Versioned {
    /// The first version that has it.
    fn since(&self) -> u8;
}

impl Versioned for CatalogMessage {
    fn since(&self) -> u8 {
        let first = matches!(
            self,
            CatalogMessage::Delta(_)
                | CatalogMessage::Announce(_)
                | CatalogMessage::Digest(_)
                | CatalogMessage::Summaries { .. }
        );
        if first { 1 } else { 2 }
    }
}
