//! Whole fleets in one thread and in virtual time, by seed: the pure cores, driven through their public faces alone.
//!
//! `engine` is the simulator. The other files are scenarios, one file a theme. A failing scenario names its seed; the same seed
//! gives the same run, event by event.

mod calibration;
mod engine;

mod failure;
mod joining;
mod lies;
mod partition;
mod restart;
mod storms;
mod zones;

use engine::weft::{Fleet, Setup};

/// `count` hosts that are not started yet, with their membership alone. What they say of each other is kept.
fn fleet(seed: u64, count: u32) -> Fleet {
    let mut fleet = Fleet::new(seed, count, Setup::members_only().signed());
    fleet.watch();
    fleet
}

/// The same, started together and known to each other.
fn joined(seed: u64, count: u32) -> Fleet {
    let mut fleet = Fleet::joined(seed, count, Setup::members_only().signed());
    fleet.watch();
    fleet
}
