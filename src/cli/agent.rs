//! `weft agent`: the host's agent, as systemd runs it.

use std::path::PathBuf;

use super::enroll;
use super::log;
use super::output::{CliError, EXIT_USAGE};
use crate::config::Config;

/// Run the agent of this host
///
/// Stops gracefully on SIGTERM and SIGINT: it says goodbye to the mesh, lets calls end, then exits. SIGHUP reads the
/// files again. A host without an identity enrols by itself with the token in the systemd credential weft.join-token.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration; service files are read from services.d beside it
    #[arg(long, value_name = "FILE", default_value = "/etc/weft/weft.toml")]
    config: PathBuf,
    /// Where identity and catalog are kept, instead of the configuration's `data_dir`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let mut config = load(&args.config)?;
    if let Some(data_dir) = &args.data_dir {
        config.data_dir.clone_from(data_dir);
    }
    log::start(&config.log);
    enroll::by_credential(&config)?;
    crate::agent::run(config).map_err(|error| CliError::failed(error.to_string(), ""))
}

/// Reads a configuration; all of its mistakes are the error.
pub(super) fn load(path: &std::path::Path) -> Result<Config, CliError> {
    Config::load(path).map_err(|errors| {
        let advice = format!("correct the files, then run `weft validate --config {}`", path.display());
        CliError::failed(format!("{} mistakes in the configuration\n{errors}", errors.0.len()), advice)
            .exiting(EXIT_USAGE)
    })
}
