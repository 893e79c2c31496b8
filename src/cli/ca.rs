//! `weft ca`: the certificate authority: made on the first host, looked at, its root replaced, hosts revoked; and certificates of
//! those who may decide for the whole cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;

use super::audit::tell;
use super::client::Client;
use super::decide::{Decision, Key, POLICY, Signer, usage};
use super::output::{CliError, Globals, Table, print, print_json, remark};
use super::rotate;
use super::trust::{RevokedHost, TrustView, named_by_id, sha256};
use crate::identity::{
    CaOptions, CaState, GivenCa, Identity, IdentityError, Voucher, ca_init, ca_state, issued_list, operator_create,
};
use crate::model::{Change, NodeId, NodeName, Revocation, Trust};

/// How often the agent is asked while something is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// An issuer whose certificate ends sooner is told of.
const ENDS_SOON_S: u64 = 90 * 24 * 3600;

/// Make the cluster's certificate authority, look after it, and revoke hosts
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make root, issuer and gossip key on the first host, and enrol it
    ///
    /// Run once a cluster. The root key is DATA_DIR/ca/root.key: keep a copy of it offline. A CA of your own is used with
    /// --root-cert and --root-key, or, where the root's key is not to come near, with --root-cert, --issuer-cert and
    /// --issuer-key.
    #[command(after_help = "Example:\n  weft ca init --cluster prod --node web-01")]
    Init(Init),
    /// Tell the roots, the issuers, who is revoked, and what needs care
    Status(Kept),
    /// List the certificates that this host has issued
    Issued(Issued),
    /// Never believe a host again: its connections are cut everywhere, its records and services vanish
    ///
    /// For a host that is compromised, lost or sold. It cannot be taken back: a host that is to return enrols with a new
    /// identity. What it knows of the gossip key it keeps knowing: give the others a new one.
    #[command(after_help = "Example:\n  weft ca revoke web-07 --reason 'stolen' --operator ~/anna.pem")]
    Revoke(Revoke),
    /// Replace the root, in three steps, without a gap: begin, switch, finish
    Rotate(rotate::Args),
    /// Make key and certificate of a person who may decide for the whole cluster: `weft intention`
    ///
    /// Run where the CA is kept. The file holds the key: whoever has it decides who may call whom, until the certificate
    /// ends. It is good for nothing else, and no agent reads it.
    #[command(after_help = "Example:\n  weft ca operator anna --out /root/anna.pem")]
    Operator(Operator),
}

#[derive(Debug, clap::Args)]
struct Kept {
    /// Where the CA is kept, if it is kept on this host
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Issued {
    /// Only those that name this: a host's or an operator's name
    name: Option<String>,
    #[command(flatten)]
    kept: Kept,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The host: its name, or its id
    host: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Also where it leaves hosts without a certificate that others believe
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    kept: Kept,
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
    /// How long certificates of hosts last; they are renewed from a third of it
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    node_ttl: Option<Duration>,
    /// A root of your own: its certificate, PEM
    #[arg(long, value_name = "FILE")]
    root_cert: Option<PathBuf>,
    /// Its key, PEM (PKCS#8)
    #[arg(long, value_name = "FILE", requires = "root_cert", conflicts_with = "issuer_cert")]
    root_key: Option<PathBuf>,
    /// A CA of your own below that root: its certificate, PEM
    #[arg(long, value_name = "FILE", requires = "root_cert", requires = "issuer_key")]
    issuer_cert: Option<PathBuf>,
    /// Its key, PEM (PKCS#8)
    #[arg(long, value_name = "FILE", requires = "issuer_cert")]
    issuer_key: Option<PathBuf>,
    /// Where identity and CA are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    data_dir: PathBuf,
}

/// What `weft ca status` tells.
#[derive(Serialize)]
struct Status<'a> {
    cluster: &'a str,
    roots: Vec<RootStatus>,
    issuers: Vec<&'a str>,
    revoked: &'a [RevokedHost],
    ca_here: Option<CaState>,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct RootStatus {
    sha256: String,
    in_use: bool,
    hosts: usize,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    match &args.verb {
        Verb::Init(init) => make(init, globals),
        Verb::Operator(operator) => make_operator(operator, globals),
        Verb::Status(kept) => status(kept, globals),
        Verb::Issued(issued) => list_issued(issued, globals),
        Verb::Revoke(asked) => revoke(asked, globals),
        Verb::Rotate(args) => rotate::run(args, globals),
    }
}

/// Where the CA is kept: its owner decides about roots and issuers.
pub(super) struct Keeper {
    data_dir: PathBuf,
    identity: Identity,
    state: CaState,
    voucher: Voucher,
}

pub(super) fn failed(error: &IdentityError) -> CliError {
    CliError::failed(error.to_string(), "")
}

impl Keeper {
    /// Reads what this host keeps of the CA.
    pub(super) fn open(data_dir: &Path) -> Result<Keeper, CliError> {
        let identity = Identity::load(data_dir).map_err(|error| failed(&error))?;
        let state = ca_state(data_dir).map_err(|error| failed(&error))?;
        let made = Voucher::make(data_dir, &identity.cluster).map_err(|error| failed(&error))?;
        let voucher = made.ok_or_else(|| failed(&IdentityError::NotIssuer { data_dir: data_dir.to_owned() }))?;
        Ok(Keeper { data_dir: data_dir.to_owned(), identity, state, voucher })
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// This host.
    pub(super) fn node(&self) -> NodeId {
        self.identity.node
    }

    pub(super) fn state(&self) -> &CaState {
        &self.state
    }

    pub(super) fn check_root_key(&self) -> Result<(), CliError> {
        if self.state.has_root_key {
            return Ok(());
        }
        let dir = self.data_dir.display();
        Err(CliError::failed(
            "the root's key is not on this host",
            format!(
                "put it back while this is done, beside root.pem below {dir}/ca, and take it away again afterwards"
            ),
        ))
    }

    /// Who keeps the root's key stands first among the issuers: others ask it to become one.
    pub(super) fn check_is_first(&self, issuers: &[NodeId], view: &TrustView) -> Result<(), CliError> {
        match issuers.first() {
            Some(first) if *first != self.node() => {
                let id = first.to_string();
                let name = view.nodes.iter().find(|host| host.node == id).map_or(id.as_str(), |host| &host.name);
                Err(CliError::failed("the root's key is kept by another host", format!("do this on {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Decides which roots count and which hosts issue.
    pub(super) fn decide(&self, client: &Client, trust: Trust) -> Result<(), CliError> {
        let decision: Decision = client.get_json(&format!("{POLICY}?trust"))?.value;
        decision.bring(client, Signer::Issuer(&self.voucher), Change::Trust(trust))
    }

    /// Waits until what the cluster tells is as it should be; `holds` says what is missing.
    pub(super) fn wait(
        &self,
        client: &Client,
        patience: Duration,
        holds: impl Fn(&TrustView) -> Result<(), String>,
    ) -> Result<(), CliError> {
        let until = Instant::now() + patience;
        let mut told = String::new();
        loop {
            let Err(missing) = holds(&TrustView::fetch(client)?) else { return Ok(()) };
            if Instant::now() >= until {
                let patience = humantime::format_duration(patience);
                let sentence = format!("not done within {patience}: {missing}");
                return Err(CliError::failed(sentence, "it goes on by itself; the same command waits again"));
            }
            if told != missing {
                remark(&format!("waiting: {missing}\n"));
                told = missing;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// A time as people read it.
pub(super) fn when(unix_s: u64) -> String {
    // The year 9999 is the last that has this form.
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_s.min(253_402_300_799))).to_string()
}

fn status(kept: &Kept, globals: &Globals) -> Result<(), CliError> {
    let client = Client::connect(globals.api.clone())?;
    let view = TrustView::fetch(&client)?;
    let roots = view.roots()?;
    let of_hosts = view.roots_of_hosts()?;
    let here = ca_state(&kept.data_dir).ok();
    let findings = findings(&view, &of_hosts, here.as_ref());
    let roots: Vec<RootStatus> = roots
        .iter()
        .enumerate()
        .map(|(place, root)| RootStatus {
            sha256: sha256(root),
            in_use: place == 0,
            hosts: of_hosts.iter().filter(|of| **of == Some(place)).count(),
        })
        .collect();
    let issuing = view.issuing();
    if globals.json {
        let issuers = issuing.iter().map(|host| host.name.as_str()).collect();
        let (cluster, revoked) = (view.cluster.as_str(), view.revoked.as_slice());
        return print_json(&Status { cluster, roots, issuers, revoked, ca_here: here, findings });
    }
    let mut text = String::new();
    let mut table = Table::new(&["ROOT SHA-256", "HOSTS", "USE"]);
    for root in &roots {
        let word = if root.in_use { "in use" } else { "trusted as well" };
        table.row([&root.sha256, &root.hosts.to_string(), word]);
    }
    text.push_str(&table.to_string());
    let names: Vec<String> = issuing.iter().map(|host| format!("{} ({})", host.name, host.state)).collect();
    text.push_str(&format!("\nIssuers: {}\n", names.join(", ")));
    if !view.revoked.is_empty() {
        let mut table = Table::new(&["REVOKED", "AT", "BY", "ID", "REASON"]);
        for host in &view.revoked {
            table.row([&host.name, &when(host.at_unix_s), &host.operator, &host.node, &host.reason]);
        }
        text.push_str(&format!("\n{table}"));
    }
    if let Some(here) = &here {
        let ttl = humantime::format_duration(Duration::from_secs(here.node_ttl_s));
        let key = if here.has_root_key { "is on this host" } else { "is not on this host" };
        let ends = when(here.issuer_not_after_unix_s);
        text.push_str(&format!("\nThis host issues certificates of {ttl} until {ends}; the root's key {key}\n"));
    }
    for finding in &findings {
        text.push_str(&format!("\nFinding: {finding}\n"));
    }
    print(&text)
}

/// What needs care.
fn findings(view: &TrustView, of_hosts: &[Option<usize>], here: Option<&CaState>) -> Vec<String> {
    let mut findings = Vec::new();
    let living = view.issuing().iter().filter(|host| host.state == "alive").count();
    if living < 2 {
        findings.push(format!(
            "{living} of the hosts that issue certificates is alive: if it is away for days, certificates end; add another: \
             weft issuer add HOST"
        ));
    }
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let ended: Vec<&str> =
        view.nodes.iter().filter(|host| host.not_after_unix_s <= now).map(|host| host.name.as_str()).collect();
    if !ended.is_empty() {
        findings.push(format!("the certificates of these hosts have ended: {}", ended.join(", ")));
    }
    let behind = of_hosts.iter().filter(|of| **of != Some(0)).count();
    if behind > 0 {
        findings.push(format!(
            "{behind} hosts have certificates that do not lead to the root in use; `weft ca rotate finish` would cut them off"
        ));
    }
    if let Some(here) = here {
        if here.next_root_sha256.is_some() {
            findings.push("a new root was made and is not in use yet: weft ca rotate switch".to_owned());
        }
        if here.issuer_not_after_unix_s < now + ENDS_SOON_S {
            let ends = when(here.issuer_not_after_unix_s);
            findings.push(format!("this host's issuer ends {ends}: replace the root with `weft ca rotate begin`"));
        }
    }
    findings
}

fn list_issued(issued: &Issued, globals: &Globals) -> Result<(), CliError> {
    let mut all = issued_list(&issued.kept.data_dir).map_err(|error| failed(&error))?;
    if let Some(name) = &issued.name {
        all.retain(|certificate| certificate.subject.rsplit('/').next() == Some(name));
    }
    if globals.json {
        return print_json(&serde_json::json!({ "certificates": all }));
    }
    let mut table = Table::new(&["AT", "SUBJECT", "ENDS", "SERIAL"]);
    for certificate in &all {
        let (at, ends) = (when(certificate.at_unix_s), when(certificate.not_after_unix_s));
        table.row([&at, &certificate.subject, &ends, &certificate.serial]);
    }
    print(&table)
}

fn revoke(asked: &Revoke, globals: &Globals) -> Result<(), CliError> {
    let operator = asked.key.load_if_given()?;
    let client = Client::connect(globals.api.clone())?;
    let view = TrustView::fetch(&client)?;
    let (node, name) = match (view.host(&asked.host), named_by_id(&asked.host)) {
        (Ok(host), _) => {
            let orphans = view.nodes.iter().filter(|other| {
                other.node != host.node && other.state == "alive" && other.issuer.as_ref() == Some(&host.node)
            });
            let orphans: Vec<&str> = orphans.map(|other| other.name.as_str()).collect();
            if !orphans.is_empty() && !asked.force {
                let sentence = format!("{} has issued the certificates of {}", host.name, orphans.join(", "));
                return Err(CliError::failed(
                    sentence,
                    format!(
                        "let it go as an issuer first: weft issuer remove {}; or revoke it with --force and enrol those again",
                        host.name
                    ),
                ));
            }
            (host.id()?, NodeName::parse(&host.name).map_err(|error| CliError::failed(error.to_string(), ""))?)
        }
        (Err(_), Some(by_id)) => by_id,
        (Err(error), None) => return Err(error),
    };
    let id = node.to_string();
    if view.revoked.iter().any(|host| host.node == id) {
        return Err(CliError::failed(format!("{} is revoked already", asked.host), ""));
    }
    let voucher;
    let signer = match &operator {
        Some(operator) => Signer::Operator(operator),
        None => {
            let made = Voucher::make(&asked.kept.data_dir, &view.cluster).map_err(|error| failed(&error))?;
            voucher = made.ok_or_else(|| {
                usage(
                    "an operator's key is needed to revoke a host, or an issuer's host to do it on",
                    "give --operator FILE or set WEFT_OPERATOR",
                )
            })?;
            Signer::Issuer(&voucher)
        }
    };
    let decision: Decision = client.get_json(&format!("{POLICY}?revocation={id}"))?.value;
    let change = Change::Revocation(Revocation { node, name: name.clone(), reason: asked.reason.clone() });
    decision.bring(&client, signer, change)?;
    if globals.json {
        return print_json(&serde_json::json!({ "node": id, "name": name.as_str(), "revoked": true }));
    }
    print(&format_args!(
        "{name} ({id}) is revoked: every host that hears of it cuts it off\n\nNext:\n  it still knows the gossip key; give the \
         others a new one:\n    weft keyring install --generate, then weft keyring use, then weft keyring remove\n  \
         tokens that it may have seen: weft token list, weft token revoke\n"
    ))
}

fn make_operator(operator: &Operator, globals: &Globals) -> Result<(), CliError> {
    let summary = operator_create(&operator.data_dir, &operator.name, operator.ttl, &operator.out)
        .map_err(|error| CliError::failed(error.to_string(), ""))?;
    let until = when(summary.not_after_unix_s);
    tell(&operator.data_dir, "ca operator", format!("operator {} until {until}", summary.operator));
    if globals.json {
        return print_json(&summary);
    }
    let path = summary.path.display();
    print(&format_args!(
        "{path} holds the key of {} and a certificate until {until}\n\nNext:\n  give it to {} alone, and keep it at mode 0600\n  \
         weft intention list\n  weft intention deny SOURCE DESTINATION --operator {path}\n",
        summary.operator, summary.operator
    ))
}

fn make(init: &Init, globals: &Globals) -> Result<(), CliError> {
    let given = match (&init.root_cert, &init.root_key, &init.issuer_cert, &init.issuer_key) {
        (None, ..) => None,
        (Some(certificate), Some(key), ..) => {
            Some(GivenCa::Root { certificate: certificate.clone(), key: key.clone() })
        }
        (Some(root), _, Some(certificate), Some(key)) => {
            Some(GivenCa::Intermediate { root: root.clone(), certificate: certificate.clone(), key: key.clone() })
        }
        _ => {
            return Err(usage(
                "a root's certificate alone makes no CA",
                "give its key with --root-key, or a CA below it with --issuer-cert and --issuer-key",
            ));
        }
    };
    let keeps_root_key = init.issuer_cert.is_none();
    let options = CaOptions { node_ttl: init.node_ttl, given };
    let summary = ca_init(&init.data_dir, &init.cluster, &init.node, &options)
        .map_err(|error| CliError::failed(error.to_string(), ""))?;
    let subject = format!("cluster {}, host {}, root {}", summary.cluster, summary.name, summary.root_sha256);
    tell(&init.data_dir, "ca init", subject);
    if globals.json {
        return print_json(&summary);
    }
    let dir = init.data_dir.display();
    let key = if keeps_root_key { format!("keep a copy of {dir}/ca/root.key offline\n  ") } else { String::new() };
    print(&format_args!(
        "Cluster {} has a certificate authority, and {} is its first host.\n  root SHA-256  {}\n\nNext:\n  \
         {key}systemctl start weft\n  \
         weft token create --data-dir {dir} --issuer ADDRESS_OF_THIS_HOST:7947    for every further host\n",
        summary.cluster, summary.name, summary.root_sha256
    ))
}
