//! `weft dev`: the main job on one machine with one command and no root. Several hosts on 127.0.0.1, .2, .3, …, each a
//! process of its own with a VIP range of its own, a CA made for the occasion, and a demo service on two of them.
//!
//! Everything is in one temporary directory, which goes when it ends; nothing listens off loopback.

mod demo;
mod fleet;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use self::fleet::Fleet;
use super::output::{CliError, Globals, print};
use super::{agent, log};

/// The demo service's name and port.
const SERVICE: &str = "hello";
const SERVICE_PORT: u16 = 8080;
/// 127.64.0.0/10 in sixteen parts.
const NODES_MAX: u8 = 16;

/// Run a whole mesh of several hosts on this machine, to try it
///
/// Hosts are 127.0.0.1, 127.0.0.2 and so on. Needs no root, listens on loopback only, and leaves nothing behind at Ctrl-C.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many hosts
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=i64::from(NODES_MAX)))]
    nodes: u8,
}

/// One host of it.
#[derive(Debug, clap::Args)]
pub(super) struct HostArgs {
    #[arg(long)]
    config: PathBuf,
    /// Run the demo service here
    #[arg(long)]
    demo: Option<SocketAddr>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}"), ""))?;
    runtime.block_on(async {
        let mut fleet = Fleet::new(args.nodes)?;
        let ran = match fleet.start().await {
            Ok(vip) => {
                let screen = if globals.json { fleet.json(vip) } else { screen(&fleet, vip) };
                print(&format_args!("{screen}\n"))?;
                fleet.watch().await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        fleet.stop().await;
        ran
    })
}

pub(super) fn run_host(args: &HostArgs) -> Result<(), CliError> {
    // The host ends with `weft dev`, however that ends.
    let die = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    die.map_err(|error| CliError::failed(format!("the system refuses a death signal: {error}"), ""))?;
    let config = agent::load(&args.config)?;
    log::start(&config.log);
    if let Some(address) = args.demo {
        demo::start(address, config.node.name.as_str())?;
    }
    crate::agent::run(config).map_err(|error| CliError::failed(error.to_string(), ""))
}

/// What a person sees who has just started it.
fn screen(fleet: &Fleet, vip: Ipv4Addr) -> String {
    let hosts: Vec<String> =
        fleet.hosts().map(|(name, ip, pid, role)| format!("  {name}  {ip:<12} pid {pid:<8} {role}")).collect();
    let (victim, pid) = fleet.victim();
    format!(
        "A mesh of {count} hosts runs on this machine:\n{hosts}\n\n\
         Call the service by name from {first}, through its loopback address, over mutual TLS:\n  \
         curl --resolve {SERVICE}.mesh.internal:{SERVICE_PORT}:{vip} http://{SERVICE}.mesh.internal:{SERVICE_PORT}/\n\n\
         Ask the DNS shim, as a host would by /etc/resolv.conf:\n  \
         dig @127.0.0.1 -p 8600 {SERVICE}.mesh.internal +short\n  \
         dig @127.0.0.1 -p 8600 {SERVICE}.service.mesh.internal +short\n\n\
         See who is there, and where a call would go:\n  \
         weft members\n  weft resolve {SERVICE}\n\n\
         Kill a host and call again; calls go on:\n  kill -9 {pid}    # {victim}\n\n\
         Logs: {logs}/*/log    Ctrl-C ends it and leaves nothing behind.",
        count = hosts.len(),
        hosts = hosts.join("\n"),
        first = fleet.first(),
        logs = fleet.directory().display(),
    )
}
