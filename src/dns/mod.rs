//! The DNS shim.
