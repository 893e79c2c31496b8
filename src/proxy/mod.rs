//! Loopback listeners and mesh transport.
