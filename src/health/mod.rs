//! Check runners: each check of this host is tried at its interval, or waits for reports, and its verdict is sent when it
//! changes.
//!
//! Checked definitions come in through [`Runner::replace`], reports of TTL checks through [`Runner::update`]; [`Event`]s
//! go out to the owner, which gossips the verdict. What a check printed stays on this host, in [`Verdicts`]. Nothing here
//! decides where calls go; of the catalog only alias checks know, and they read it.
//!
//! `thresholds` and `damping` are the pure part. `attempt` makes one attempt, by one file a kind (`http`, `tcp`, `udp`,
//! `grpc`, `script`, `systemd`); `ttl` and `alias` wait instead. `standing` is where one check stands, `runner` keeps the
//! tasks.

mod alias;
mod attempt;
mod counters;
mod damping;
mod grpc;
mod http;
mod program;
mod runner;
mod script;
mod standing;
mod systemd;
mod tcp;
mod thresholds;
mod tls;
mod ttl;
mod udp;

#[cfg(test)]
mod tests;

pub use attempt::{Attempt, OUTPUT_BYTES_MAX};
pub use counters::Counters;
pub use damping::{CHANGES_MAX, Damping, QUIET, WINDOW};
pub use runner::{Runner, Settings, UpdateError};
pub use standing::{Event, Latest, Verdicts};
pub use thresholds::Thresholds;
