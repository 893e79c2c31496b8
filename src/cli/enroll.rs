//! `weft enroll`: a token becomes this host's identity.

use std::path::PathBuf;

use super::output::{CliError, Globals, print, print_json};
use crate::identity::{Enrolling, enroll};
use crate::model::NodeName;

/// Enrol this host with a join token
///
/// Asks the issuer that the token names for a node certificate, the cluster's roots and its gossip key. The issuer is
/// checked against the fingerprint in the token before anything is said to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  weft enroll --token weft1.TOKEN --node web-02 && systemctl start weft")]
pub(super) struct Args {
    /// What `weft token create` printed
    #[arg(long, value_name = "TOKEN", env = "WEFT_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// This host's name, as `node.name` says it [default: the host name]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Become a new host, with an id of its own: for one whose identity was revoked
    #[arg(long)]
    new_identity: bool,
    /// Where the identity is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let name = match &args.node {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let who = if args.new_identity { Enrolling::New } else { Enrolling::Same };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}"), ""))?;
    let enrolled = runtime
        .block_on(enroll(&args.token, &args.data_dir, &name, who))
        .map_err(|error| CliError::failed(error.to_string(), ""))?;
    if globals.json {
        return print_json(&enrolled);
    }
    let services = enrolled.services.join(", ");
    print(&format_args!(
        "{} is enrolled in cluster {} and may run: {services}\n\nNext: systemctl start weft\n",
        enrolled.name, enrolled.cluster
    ))
}

/// The host name up to its first dot, as `node.name` defaults to.
fn host_name() -> Result<NodeName, CliError> {
    let uname = rustix::system::uname();
    let full = uname.nodename().to_string_lossy().to_lowercase();
    let name = full.split('.').next().unwrap_or_default();
    NodeName::parse(name).map_err(|error| CliError::failed(error.to_string(), "give --node NAME"))
}
