//! The main job on real parts: hosts are network namespaces joined by a bridge, each with an agent of its own, and the
//! services behind the mesh are nginx, Redis and PostgreSQL as Debian ships them.
//!
//! Needs root (or `tests/run`, which makes a user namespace) and the programs that `tests/run` installs. Where it cannot
//! run, each test says why and passes, unless `WEFT_NETNS=require`. One fleet has the machine at a time. Whatever is
//! started is ended and removed when the test ends, also when it fails; then the logs are printed.

// The proving ground.
mod answer;
mod attack;
mod backend;
mod capture;
mod fleet;
mod helper;
mod host;
mod idlers;
mod keep_alive;
mod load;
mod parts;
mod process;
mod raw;
mod thief;
mod timeline;

// What must hold.
mod access;
mod attest;
mod big_bodies;
mod ca_life;
mod call_by_name;
mod cut_off;
mod databases;
mod dev;
mod gossip;
mod grpc;
mod half_open;
mod host_death;
mod hostile_network;
mod http_carrying;
mod http_errors;
mod http_failover;
mod insider;
mod intentions;
mod intruder;
mod ipv6;
mod keyring;
mod life;
mod policies;
mod red_check;
mod scanner;
mod seeing;
mod smuggling;
mod unreachable;
mod websocket;
