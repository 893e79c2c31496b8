//! `weft ca`: the certificate authority of a new cluster, made on its first host.

use std::path::PathBuf;

use clap::Subcommand;

use super::output::{CliError, Globals, print, print_json};
use crate::identity::ca_init;
use crate::model::NodeName;

/// Make the cluster's certificate authority
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make root, issuer and gossip key on the first host, and enrol it
    ///
    /// Run once a cluster. The root key is DATA_DIR/ca/root.key: keep a copy of it offline.
    #[command(after_help = "Example:\n  weft ca init --cluster prod --node web-01")]
    Init(Init),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// The cluster's name, as `cluster.name` says it
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// This host's name, as `node.name` says it
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// Where identity and CA are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let Verb::Init(init) = &args.verb;
    let summary =
        ca_init(&init.data_dir, &init.cluster, &init.node).map_err(|error| CliError::failed(error.to_string(), ""))?;
    if globals.json {
        return print_json(&summary);
    }
    let dir = init.data_dir.display();
    print(&format_args!(
        "Cluster {} has a certificate authority, and {} is its first host.\n  root SHA-256  {}\n\nNext:\n  \
         keep a copy of {dir}/ca/root.key offline\n  systemctl start weft\n  \
         weft token create --data-dir {dir} --issuer ADDRESS_OF_THIS_HOST:7947    for every further host\n",
        summary.cluster, summary.name, summary.root_sha256
    ))
}
