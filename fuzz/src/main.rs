//! One binary for all targets: `WEFT_FUZZ_TARGET` names the one to run. libFuzzer brings `main` and its options.
#![no_main]
#![allow(missing_docs, dead_code, unreachable_pub)]

extern crate self as weft;

#[path = "../../src/access/mod.rs"]
pub mod access;
#[path = "../../src/api/mod.rs"]
pub mod api;
#[path = "../../src/catalog/mod.rs"]
pub mod catalog;
#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/dns/mod.rs"]
pub mod dns;
#[path = "../../src/identity/mod.rs"]
pub mod identity;
#[path = "../../src/lobby/mod.rs"]
pub mod lobby;
#[path = "../../src/logbook/mod.rs"]
pub mod logbook;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/policy/mod.rs"]
pub mod policy;
#[path = "../../src/route/mod.rs"]
pub mod route;
#[path = "../../src/swim/mod.rs"]
pub mod swim;
mod targets;
#[path = "../../src/wire/mod.rs"]
pub mod wire;

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("WEFT_FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    let known = || targets::TARGETS.map(|(name, _)| name).join(", ");
    found.unwrap_or_else(|| panic!("WEFT_FUZZ_TARGET={name:?} is none of {}", known())).1
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
