//! `weft ca rotate`: another root without a gap. All hosts trust the new one before anything is issued under it, and nothing is
//! retired that a host's certificate leads to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ca::{Keeper, failed};
use super::client::Client;
use super::output::{CliError, Globals, print, print_json, remark};
use super::trust::{TrustView, sha256};
use crate::identity::{GivenCa, ca_root, rotation_begin, rotation_switch, trusts_next_root};
use crate::model::{ROOTS_MAX, Trust};

/// Hosts that are asked at once.
const ASKED_AT_ONCE: usize = 32;
/// A host that has not said yes is asked again after this time.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Replace the root, in three steps, without a gap: begin, switch, finish
///
/// Run where the CA is kept. Each step waits until every host has followed, and can be repeated. Between the steps both roots
/// count: they may lie weeks apart.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a new root, and have every host trust it beside the one in use
    Begin(Begin),
    /// Issue under the new root, and have every host renew
    Switch(Step),
    /// Retire the old root
    Finish(Step),
}

#[derive(Debug, clap::Args)]
struct Begin {
    /// A root of your own: its certificate, PEM
    #[arg(long, value_name = "FILE", requires = "root_key")]
    root_cert: Option<PathBuf>,
    /// Its key, PEM (PKCS#8)
    #[arg(long, value_name = "FILE", requires = "root_cert")]
    root_key: Option<PathBuf>,
    #[command(flatten)]
    step: Step,
}

#[derive(Debug, clap::Args)]
struct Step {
    /// Go on although hosts have not followed; these must be enrolled again
    #[arg(long)]
    force: bool,
    /// How long to wait until every host has followed
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Serialize)]
struct Done {
    step: &'static str,
    root_sha256: String,
    hosts: usize,
    done: bool,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::Begin(begin) => begin.run(globals),
        Verb::Switch(step) => step.switch(globals),
        Verb::Finish(step) => step.finish(globals),
    }
}

impl Begin {
    fn run(&self, globals: &Globals) -> Result<(), CliError> {
        let keeper = Keeper::open(&self.step.data_dir)?;
        let client = Client::connect(globals.api.clone())?;
        let view = TrustView::fetch(&client)?;
        let issuers = view.issuers(keeper.node())?;
        keeper.check_is_first(&issuers, &view)?;
        let mut roots = view.roots()?;
        if keeper.state().next_root_sha256.is_none() && roots.len() > 1 {
            return Err(CliError::failed(
                "the old root of the last change is still trusted",
                "retire it first: weft ca rotate finish",
            ));
        }
        let given = match (&self.root_cert, &self.root_key) {
            (Some(certificate), Some(key)) => {
                Some(GivenCa::Root { certificate: certificate.clone(), key: key.clone() })
            }
            _ => None,
        };
        let root = rotation_begin(keeper.data_dir(), given.as_ref()).map_err(|error| failed(&error))?;
        if !roots.contains(&root) {
            if roots.len() >= ROOTS_MAX {
                return Err(CliError::failed(format!("there are {ROOTS_MAX} roots, as many as there may be"), ""));
            }
            roots.push(root.clone());
            keeper.decide(&client, Trust { roots, issuers })?;
        }
        let hosts = self.step.wait_for_trust(&client)?;
        self.step.tell(globals, "begin", &root, hosts, "every host trusts it", "weft ca rotate switch")
    }
}

impl Step {
    fn switch(&self, globals: &Globals) -> Result<(), CliError> {
        let keeper = Keeper::open(&self.data_dir)?;
        let client = Client::connect(globals.api.clone())?;
        let view = TrustView::fetch(&client)?;
        let issuers = view.issuers(keeper.node())?;
        keeper.check_is_first(&issuers, &view)?;
        let root = if keeper.state().next_root_sha256.is_some() {
            self.wait_for_trust(&client)?;
            rotation_switch(keeper.data_dir())
        } else {
            // Switched on disk already; the cluster may not have been told.
            ca_root(keeper.data_dir())
        };
        let root = root.map_err(|error| failed(&error))?;
        let mut roots = view.roots()?;
        if roots.len() < 2 && roots.first() == Some(&root) {
            return Err(CliError::failed("there is no new root", "begin with `weft ca rotate begin`"));
        }
        if roots.first() != Some(&root) {
            roots.retain(|other| *other != root);
            roots.insert(0, root.clone());
            keeper.decide(&client, Trust { roots, issuers })?;
        }
        let hosts = self.wait_for_renewals(&keeper, &client)?;
        let next = "weft ca rotate finish, when hosts that are away now have come back";
        self.tell(globals, "switch", &root, hosts, "every host has a certificate under it", next)
    }

    fn finish(&self, globals: &Globals) -> Result<(), CliError> {
        let keeper = Keeper::open(&self.data_dir)?;
        let client = Client::connect(globals.api.clone())?;
        let view = TrustView::fetch(&client)?;
        let issuers = view.issuers(keeper.node())?;
        keeper.check_is_first(&issuers, &view)?;
        if keeper.state().next_root_sha256.is_some() {
            return Err(CliError::failed("the new root is not in use yet", "weft ca rotate switch comes first"));
        }
        let roots = view.roots()?;
        let root = roots.first().cloned().unwrap_or_default();
        let hosts = self.wait_for_renewals(&keeper, &client)?;
        if roots.len() > 1 {
            keeper.decide(&client, Trust { roots: vec![root.clone()], issuers })?;
        }
        let next = "operators need new certificates: weft ca operator NAME --out FILE";
        self.tell(globals, "finish", &root, hosts, "it alone counts, and the old one is retired", next)
    }

    /// Waits until every host that is alive accepts a certificate under the new root. Says how many there are.
    fn wait_for_trust(&self, client: &Client) -> Result<usize, CliError> {
        let until = Instant::now() + self.wait;
        let mut told = String::new();
        loop {
            let view = TrustView::fetch(client)?;
            let lacking = client.block_on(lacking(&view, &self.data_dir))?;
            if lacking.is_empty() {
                return Ok(view.nodes.len());
            }
            let missing = format!("these hosts do not trust the new root yet: {}", lacking.join(", "));
            if Instant::now() >= until {
                return self.give_up(&missing, view.nodes.len());
            }
            if told != missing {
                remark(&format!("waiting: {missing}\n"));
                told = missing;
            }
            std::thread::sleep(ASK_INTERVAL);
        }
    }

    /// Waits until the certificate of every host that is known leads to the root in use.
    fn wait_for_renewals(&self, keeper: &Keeper, client: &Client) -> Result<usize, CliError> {
        let renewed = |view: &TrustView| {
            let of_hosts = view.roots_of_hosts().map_err(|error| error.to_string())?;
            let behind = view.nodes.iter().zip(of_hosts).filter(|(_, of)| *of != Some(0));
            let behind: Vec<String> = behind.map(|(host, _)| format!("{} ({})", host.name, host.state)).collect();
            if behind.is_empty() {
                return Ok(());
            }
            Err(format!("these hosts have certificates under the old root: {}", behind.join(", ")))
        };
        let hosts = TrustView::fetch(client)?.nodes.len();
        match keeper.wait(client, self.wait, renewed) {
            Ok(()) => Ok(hosts),
            Err(error) => self.give_up(&error.message, hosts),
        }
    }

    fn give_up(&self, missing: &str, hosts: usize) -> Result<usize, CliError> {
        if self.force {
            remark(&format!("{missing}; going on all the same\n"));
            return Ok(hosts);
        }
        let advice =
            "start those hosts and repeat the command; or go on without them with --force, and enrol them again";
        Err(CliError::failed(missing, advice))
    }

    fn tell(
        &self,
        globals: &Globals,
        step: &'static str,
        root: &[u8],
        hosts: usize,
        what: &str,
        next: &str,
    ) -> Result<(), CliError> {
        let root_sha256 = sha256(root);
        if globals.json {
            return print_json(&Done { step, root_sha256, hosts, done: true });
        }
        print(&format_args!("root {root_sha256}: {what} ({hosts} hosts)\n\nNext: {next}\n"))
    }
}

/// The hosts that are alive and do not accept a certificate under the new root, and those that cannot be asked.
async fn lacking(view: &TrustView, data_dir: &std::path::Path) -> Result<Vec<String>, CliError> {
    let places = Arc::new(Semaphore::new(ASKED_AT_ONCE));
    let mut asked = JoinSet::new();
    for host in &view.nodes {
        let (name, state, address) = (host.name.clone(), host.state.clone(), host.mesh()?);
        let (places, data_dir) = (places.clone(), data_dir.to_owned());
        asked.spawn(async move {
            if state != "alive" {
                return Some(format!("{name} ({state})"));
            }
            let _place = places.acquire_owned().await;
            match trusts_next_root(&data_dir, address).await {
                Ok(true) => None,
                Ok(false) => Some(name),
                Err(error) => Some(format!("{name} ({error})")),
            }
        });
    }
    let mut lacking: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
    lacking.sort();
    Ok(lacking)
}
