//! `weft ca`: the certificate authority of a new cluster, made on its first host, and who may decide for all of it.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;

use super::output::{CliError, Globals, print, print_json};
use crate::identity::{ca_init, operator_create};
use crate::model::NodeName;

/// Make the cluster's certificate authority, and certificates of operators
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
    /// Make key and certificate of a person who may decide for the whole cluster: `weft intention`
    ///
    /// Run where the CA is kept. The file holds the key: whoever has it decides who may call whom, until the certificate
    /// ends. It is good for nothing else, and no agent reads it.
    #[command(after_help = "Example:\n  weft ca operator anna --out /root/anna.pem")]
    Operator(Operator),
}

#[derive(Debug, clap::Args)]
struct Operator {
    /// Who it is for; what they decide is recorded under this name
    name: NodeName,
    /// How long the certificate lasts
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// The file to be made; in a directory, NAME.pem
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
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
    match &args.verb {
        Verb::Init(init) => make(init, globals),
        Verb::Operator(operator) => make_operator(operator, globals),
    }
}

fn make_operator(operator: &Operator, globals: &Globals) -> Result<(), CliError> {
    let summary = operator_create(&operator.data_dir, &operator.name, operator.ttl, &operator.out)
        .map_err(|error| CliError::failed(error.to_string(), ""))?;
    if globals.json {
        return print_json(&summary);
    }
    let path = summary.path.display();
    let until = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(summary.not_after_unix_s));
    print(&format_args!(
        "{path} holds the key of {} and a certificate until {until}\n\nNext:\n  give it to {} alone, and keep it at mode 0600\n  \
         weft intention list\n  weft intention deny SOURCE DESTINATION --operator {path}\n",
        summary.operator, summary.operator
    ))
}

fn make(init: &Init, globals: &Globals) -> Result<(), CliError> {
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
