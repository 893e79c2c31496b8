//! Weft, a service mesh for virtual machines and bare metal.
//!
//! Where things are: `docs/ARCHITECTURE.md`. A module imports only floors below its own; `tests/tidy.rs` holds the code
//! to that.

pub mod access;
pub mod agent;
pub mod api;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod dns;
pub mod gossip;
pub mod health;
pub mod history;
pub mod identity;
pub mod lobby;
pub mod logbook;
pub mod model;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod store;
pub mod swim;
pub mod wire;
