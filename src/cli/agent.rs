//! `weft agent`: the host's agent, as systemd runs it.

use std::path::PathBuf;

use tracing::info;

use super::log;
use super::output::{CliError, EXIT_USAGE};
use crate::config::Config;
use crate::identity::{Enrolling, Identity, IdentityError, enroll};

/// The name of the systemd credential that may hold a join token (systemd.exec(5), `LoadCredential=`).
const TOKEN_CREDENTIAL: &str = "weft.join-token";

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
    enrol_by_credential(&config)?;
    crate::agent::run(config).map_err(|error| CliError::failed(error.to_string(), ""))
}

/// A host without an identity that finds a join token among the service's credentials enrols with it: an image with a token in
/// it needs nobody who types.
fn enrol_by_credential(config: &Config) -> Result<(), CliError> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty()) else {
        return Ok(());
    };
    let path = PathBuf::from(directory).join(TOKEN_CREDENTIAL);
    let is_enrolled = !matches!(Identity::load(&config.data_dir), Err(IdentityError::NotEnrolled { .. }));
    if is_enrolled || !path.exists() {
        return Ok(());
    }
    let failed = |what: String| {
        CliError::failed(
            what,
            "a new token is made by `weft token create`; as a file: weft enroll --token \"$(cat FILE)\"",
        )
    };
    let token = std::fs::read(&path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?;
    let token = String::from_utf8(token).map_err(|_| failed(format!("{} is not text", path.display())))?;
    info!(credential = TOKEN_CREDENTIAL, "this host has no identity yet: it enrols");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(format!("no runtime: {error}")))?;
    let enrolling = enroll(&token, &config.data_dir, &config.node.name, Enrolling::Same);
    let enrolled = runtime.block_on(enrolling).map_err(|error| failed(error.to_string()))?;
    info!(id = %enrolled.node, cluster = enrolled.cluster, "this host is enrolled");
    Ok(())
}

/// Reads a configuration; all of its mistakes are the error.
pub(super) fn load(path: &std::path::Path) -> Result<Config, CliError> {
    Config::load(path).map_err(|errors| {
        let advice = format!("correct the files, then run `weft validate --config {}`", path.display());
        CliError::failed(format!("{} mistakes in the configuration\n{errors}", errors.0.len()), advice)
            .exiting(EXIT_USAGE)
    })
}
