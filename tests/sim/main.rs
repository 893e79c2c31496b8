//! Whole fleets in one thread and in virtual time, by seed: the pure cores, driven through their public faces alone.
//!
//! `world` holds the queue of events and the hosts, `network` decides what arrives when, `host` is one machine: its cores
//! and its disk. The other files are scenarios, one file a theme. A failing scenario names its seed; the same seed gives the
//! same run, event by event.

mod host;
mod network;
mod world;

mod calibration;
mod engine;
mod failure;
mod joining;
mod lies;
mod partition;
mod restart;
