//! Consul's API as its clients use it: py-consul (PyPI), `consul` (npm) and VictoriaMetrics' `consul_sd_configs` (Debian),
//! each unchanged, each against a real agent in a network namespace; and a thousand watchers over real sockets.
//!
//! The clients do what their documentation shows; their versions are pinned in `packages.rs`, which installs them once,
//! outside any namespace, under `target/`. Where namespaces or the clients cannot be had, a test says why and passes,
//! unless `WEFT_NETNS=require`. `fixtures/` is read by the API's own tests.

#[allow(dead_code)]
#[path = "../netns/fleet.rs"]
mod fleet;
#[allow(dead_code)]
#[path = "../netns/host.rs"]
mod host;
#[allow(dead_code)]
#[path = "../netns/process.rs"]
mod process;

mod clients;
mod packages;
mod watchers;
