//! `weft enroll`: a token becomes this host's identity. Where systemd hands the agent a token, it does so by itself.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use tracing::info;

use zeroize::Zeroizing;

use super::output::{CliError, EXIT_USAGE, Globals, print, print_json};
use super::secret::Typed;
use crate::config::Config;
use crate::identity::{Enrolled, Enrolling, Identity, IdentityError, enroll};
use crate::model::NodeName;

/// What the credential is called that holds a join token (systemd.exec(5), `LoadCredential=`).
const CREDENTIAL: &str = "weft.join-token";
/// Tokens have some hundred bytes.
const CREDENTIAL_BYTES_MAX: u64 = 4096;

/// Enrol this host with a join token
///
/// Asks the issuer that the token names for a node certificate, the cluster's roots and its gossip key. The issuer is
/// checked against the fingerprint in the token before anything is said to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  weft enroll --token weft1.TOKEN --node web-02 && systemctl start weft")]
pub(super) struct Args {
    /// What `weft token create` printed [default: systemd's credential weft.join-token]
    #[arg(long, value_name = "TOKEN", env = "WEFT_JOIN_TOKEN", hide_env_values = true)]
    token: Option<Typed>,
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
    let token = match &args.token {
        Some(token) => Zeroizing::new(token.to_string()),
        None => credential()?.ok_or_else(|| {
            CliError::failed(
                "no join token is given",
                "make one by `weft token create` on the issuer, give it as --token",
            )
            .exiting(EXIT_USAGE)
        })?,
    };
    let who = if args.new_identity { Enrolling::New } else { Enrolling::Same };
    let enrolled = enroll_now(&token, &args.data_dir, &name, who)?;
    if globals.json {
        return print_json(&enrolled);
    }
    let services = enrolled.services.join(", ");
    print(&format_args!(
        "{} is enrolled in cluster {} and may run: {services}\n\nNext: systemctl start weft\n",
        enrolled.name, enrolled.cluster
    ))
}

/// Enrols a host that has no identity yet, if systemd hands over a join token.
pub(super) fn by_credential(config: &Config) -> Result<(), CliError> {
    let Some(token) = credential()? else { return Ok(()) };
    // Whatever else is wrong with an identity is told by who uses it.
    if !matches!(Identity::load(&config.data_dir), Err(IdentityError::NotEnrolled { .. })) {
        return Ok(());
    }
    let enrolled = enroll_now(&token, &config.data_dir, &config.node.name, Enrolling::Same)?;
    info!(cluster = %enrolled.cluster, node = %enrolled.name, "enrolled with the join token that systemd handed over");
    Ok(())
}

fn enroll_now(token: &str, data_dir: &Path, name: &NodeName, who: Enrolling) -> Result<Enrolled, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}"), ""))?;
    runtime.block_on(enroll(token, data_dir, name, who)).map_err(|error| CliError::failed(error.to_string(), ""))
}

/// The join token that systemd hands to this process, if it does.
fn credential() -> Result<Option<Zeroizing<String>>, CliError> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map_or(Ok(None), |directory| credential_in(Path::new(&directory)))
}

fn credential_in(directory: &Path) -> Result<Option<Zeroizing<String>>, CliError> {
    let path = directory.join(CREDENTIAL);
    let failed = |error: &dyn std::fmt::Display| {
        CliError::failed(
            format!("the credential {}: {error}", path.display()),
            "it must be what `weft token create` printed",
        )
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let mut text = Zeroizing::new(String::new());
    let bytes = file.take(CREDENTIAL_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failed(&error))?;
    if bytes as u64 > CREDENTIAL_BYTES_MAX {
        return Err(failed(&"it is longer than a token"));
    }
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// The host name up to its first dot, as `node.name` defaults to.
fn host_name() -> Result<NodeName, CliError> {
    let uname = rustix::system::uname();
    let full = uname.nodename().to_string_lossy().to_lowercase();
    let name = full.split('.').next().unwrap_or_default();
    NodeName::parse(name).map_err(|error| CliError::failed(error.to_string(), "give --node NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_of_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let of = |text: &[u8]| {
            std::fs::write(folder.path().join(CREDENTIAL), text).unwrap();
            credential_in(folder.path()).map_err(|error| error.message)
        };
        assert!(credential_in(folder.path()).unwrap().is_none(), "it is not there");
        assert_eq!(of(b"weft1.abc\n").unwrap().as_deref().map(String::as_str), Some("weft1.abc"));
        assert!(of(&[b'x'; 4097]).unwrap_err().contains("longer than a token"));
        assert!(of(b"\xff").unwrap_err().contains(CREDENTIAL));
    }
}
