//! `weft status`: a sentence about the mesh as this host sees it, what is wrong and what to do, then the figures.

mod overview;
mod screen;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

pub(super) use self::overview::span;
use self::overview::{Certificate, Host, Quarantined, Seen};
use super::checks;
use super::client::Client;
use super::members;
use super::output::{CliError, Globals, print, print_json};
use super::services::Service;

/// Tell how the mesh is, as this host sees it
///
/// A sentence first, then what needs attention and what to do about it, then the figures. Exits with 0 whatever is
/// told; for alarms there are metrics.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft status
  weft status --json | jq -r .verdict    # well, or attention")]
pub(super) struct Args {}

/// What is needed of `/v1/weft/status`.
#[derive(Debug, Deserialize)]
struct Told {
    node: String,
    id: String,
    cluster: String,
    domain: String,
    version: String,
    freshness: String,
    #[serde(default)]
    certificate: Option<ToldCertificate>,
    #[serde(default)]
    quarantined: Vec<Quarantined>,
}

#[derive(Debug, Deserialize)]
struct ToldCertificate {
    expires_in_seconds: i64,
}

/// Runs the verb.
pub(super) fn run(_args: &Args, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let told = client.get_json::<Told>("/v1/weft/status")?.value;
    let members = members::fetch(&client)?.value;
    let services = client.get_json::<Vec<Service>>("/v1/weft/services")?.value;
    let checks = checks::of_this_host(&client)?;
    let expires_in_seconds = match told.certificate {
        Some(certificate) => Some(certificate.expires_in_seconds),
        // Figures that say nothing of it are no reason to say nothing at all.
        None => client.get_text("/metrics").ok().and_then(|text| remaining(&text)),
    };
    let host = Host {
        name: told.node,
        id: told.id,
        cluster: told.cluster,
        domain: told.domain,
        agent_version: told.version,
        freshness: told.freshness,
        certificate: expires_in_seconds.map(|expires_in_seconds| Certificate { expires_in_seconds }),
    };
    let seen = Seen { host, members: &members, services: &services, checks: &checks, quarantined: told.quarantined };
    let overview = overview::of(seen);
    if globals.json {
        return print_json(&overview);
    }
    print(&screen::of(&overview, globals.color.shown()))
}

/// Seconds to the certificate's end, from the gauge that tells it.
fn remaining(metrics: &str) -> Option<i64> {
    let line = metrics.lines().find(|line| line.starts_with("weft_certificate_expiry_seconds"))?;
    let end: i64 = line.split_whitespace().last()?.split('.').next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    (end > 0).then_some(end - i64::try_from(now).ok()?)
}
