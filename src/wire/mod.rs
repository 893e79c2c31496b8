//! Bytes: packets, frames, seals, record bodies, limits. Pure.
