//! Check runners: each check of a service file is tried at its interval, and its verdict is sent when it changes.
//!
//! Checked definitions come in through [`Runner::replace`]; [`Event`]s go out to the owner, which gossips the verdict.
//! What a check printed stays on this host, in [`Verdicts`]. Nothing here knows of the catalog or decides where calls go.
//!
//! `thresholds` is the pure part, `attempt` makes one attempt over a socket, `runner` keeps the tasks.

mod attempt;
mod runner;
mod thresholds;

pub use attempt::{Attempt, OUTPUT_BYTES_MAX, attempt};
pub use runner::{Event, Latest, Runner, Settings, UpdateError, Verdicts};
pub use thresholds::Thresholds;
