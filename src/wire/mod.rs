//! Bytes: what hosts send each other and what records carry, with every limit of it. Pure: no sockets, no clock.
//!
//! Typed messages come in and bytes go out, and the other way round. Whatever bytes come in, the answer is a value or an
//! error: nothing here panics on them, and nothing here allocates more than a small multiple of a named limit.

pub mod body;
pub mod codec;
pub mod frame;
pub mod keyring;
pub mod packet;
pub mod policy;
pub mod protocol;
mod replay;
pub mod seal;
pub mod stream;

#[cfg(test)]
mod samples;
