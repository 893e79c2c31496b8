//! What agents of different versions say to each other: bytes of each version as it wrote them, kept as files, read and
//! written again by the code of today.
//!
//! The fixtures of a version are made once, while it is the newest, by `WEFT_FIXTURES=write cargo test --test wire`, and
//! never again: a file that is already there is compared, not written.

mod fixtures;
mod fuzzed;
mod messages;
mod relayed;
mod version1;
mod version2;
