//! Decisions for the whole cluster: signed here, with an operator's key or on an issuer's host, and brought to the agent. The
//! key never leaves this process.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;

use super::client::Client;
use super::output::{CliError, EXIT_USAGE};
use crate::identity::{Operator, Voucher};
use crate::model::{Change, Dot, NodeId, Statement};

/// Where decisions are asked for and brought to.
pub(super) const POLICY: &str = "/v1/weft/policy";

// No doc comment: clap would show it in place of the verb's.
#[derive(Debug, clap::Args)]
pub(super) struct Key {
    /// The file with the operator's key, made by `weft ca operator` [default: $WEFT_OPERATOR]
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
}

/// Who signs.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    /// An operator.
    Operator(&'a Operator),
    /// An issuer, on its host.
    Issuer(&'a Voucher),
}

/// What a decision has to name, as the agent tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Decision {
    cluster: String,
    writer: String,
    lamport: u64,
    seen: Vec<(String, u64)>,
}

pub(super) fn usage(message: impl Into<String>, advice: &str) -> CliError {
    CliError::failed(message, advice).exiting(EXIT_USAGE)
}

impl Key {
    /// Reads it. It must be given.
    pub(super) fn load(&self) -> Result<Operator, CliError> {
        let path = self.path().ok_or_else(|| {
            usage(
                "an operator's key is needed to decide for the cluster",
                "give --operator FILE or set WEFT_OPERATOR; on an issuer's host `weft ca operator NAME --out FILE` makes one",
            )
        })?;
        load(&path)
    }

    /// The same where something else may do.
    pub(super) fn load_if_given(&self) -> Result<Option<Operator>, CliError> {
        self.path().map(|path| load(&path)).transpose()
    }

    fn path(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("WEFT_OPERATOR").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.operator.clone().or_else(from_environment)
    }
}

fn load(path: &Path) -> Result<Operator, CliError> {
    let operator = Operator::load(path).map_err(|error| CliError::failed(error.to_string(), ""))?;
    if operator.not_after() <= SystemTime::now() {
        let advice = "make another: weft ca operator NAME --out FILE";
        return Err(CliError::failed(format!("the certificate in {} has ended", path.display()), advice));
    }
    Ok(operator)
}

impl Decision {
    /// The number that the decision will have.
    pub(super) fn lamport(&self) -> u64 {
        self.lamport
    }

    /// Signs the decision and brings it to the agent.
    pub(super) fn bring(&self, client: &Client, signer: Signer<'_>, change: Change) -> Result<(), CliError> {
        let (name, cluster) = match signer {
            Signer::Operator(operator) => (operator.name(), operator.cluster()),
            Signer::Issuer(voucher) => (voucher.name(), voucher.cluster()),
        };
        if self.cluster != cluster {
            let sentence = format!("{name} is of cluster {cluster}, this host is of {}", self.cluster);
            return Err(CliError::failed(sentence, "take the key of this cluster, or ask a host of the other: --api"));
        }
        let strange =
            || CliError::failed("the agent's answer is not understood", "compare `weft --version` on both sides");
        let node = |text: &str| text.parse::<NodeId>().map_err(|_| strange());
        let seen: Result<Vec<_>, CliError> =
            self.seen.iter().map(|(writer, lamport)| Ok((node(writer)?, *lamport))).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let statement = Statement {
            dot: Dot { lamport: self.lamport, writer: node(&self.writer)? },
            seen: seen?,
            operator: name.to_owned(),
            at_unix_s: now.as_secs(),
            change,
        };
        let body = match signer {
            Signer::Operator(operator) => operator.sign(&statement),
            Signer::Issuer(voucher) => voucher.sign(&statement),
        };
        let body = body.map_err(|error| usage(error.to_string(), ""))?;
        client.put_json(POLICY, &json!({ "Policy": data_encoding::BASE64.encode(&body) }))
    }
}
