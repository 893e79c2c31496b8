//! The simulator: whole fleets in one thread and in virtual time, by seed. No sockets, no clock, no threads.
//!
//! `driven` says what a simulated host runs (trait [`Core`]); `world` has the one queue of events, carries what cores send and
//! moves time; `network` decides what arrives, and when; `host` is one machine: its process, clock, sockets; `observe` counts.
//! `weft` runs Weft's own cores in it, driven as the agent drives them.
//!
//! Two programs include this module: the scenarios in `tests/sim/` and the long runs of `examples/sim/`. Everything is decided
//! by the one generator of the [`World`], so a seed gives the same run, event by event.

#![allow(dead_code, reason = "the scenarios and the example each use a part")]
#![allow(unused_imports, reason = "as above")]

pub(crate) mod driven;
pub(crate) mod host;
pub(crate) mod memberlist;
pub(crate) mod network;
pub(crate) mod observe;
pub(crate) mod queue;
pub(crate) mod storm;
pub(crate) mod weft;
pub(crate) mod world;

pub(crate) use driven::{Core, Effect, End, Kind, State};
pub(crate) use network::{Latency, Network};
pub(crate) use observe::{Observer, Sighting};
pub(crate) use world::World;
