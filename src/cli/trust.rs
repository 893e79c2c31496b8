//! What the cluster believes, as an agent tells it (`/v1/weft/trust`), for the verbs that change it.

use std::net::SocketAddr;

use data_encoding::{BASE64, HEXLOWER};
use serde::Deserialize;

use super::client::Client;
use super::output::{CliError, EXIT_NOT_FOUND};
use crate::identity::{fingerprint, root_of};
use crate::model::{NodeId, NodeName};

const TRUST: &str = "/v1/weft/trust";

/// What the cluster believes.
#[derive(Debug, Deserialize)]
pub(super) struct TrustView {
    pub(super) cluster: String,
    roots: Vec<String>,
    issuers: Option<Vec<String>>,
    pub(super) revoked: Vec<RevokedHost>,
    pub(super) nodes: Vec<Host>,
    chains: Vec<Vec<String>>,
}

/// A host that is not believed any more.
#[derive(Debug, Clone, serde::Serialize, Deserialize)]
pub(super) struct RevokedHost {
    pub(super) node: String,
    pub(super) name: String,
    pub(super) reason: String,
    pub(super) operator: String,
    pub(super) at_unix_s: u64,
}

/// A host and its certificate.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Host {
    pub(super) node: String,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) mesh: String,
    pub(super) not_after_unix_s: u64,
    pub(super) issuer: Option<String>,
    chain: usize,
}

impl Host {
    pub(super) fn id(&self) -> Result<NodeId, CliError> {
        self.node.parse().map_err(|_| strange())
    }

    pub(super) fn mesh(&self) -> Result<SocketAddr, CliError> {
        self.mesh.parse().map_err(|_| strange())
    }

    /// Its certificate was made by its own issuer: it issues.
    pub(super) fn issues(&self) -> bool {
        self.issuer.as_ref() == Some(&self.node)
    }
}

fn strange() -> CliError {
    CliError::failed("the agent's answer is not understood", "compare `weft --version` on both sides")
}

impl TrustView {
    /// Asks the agent.
    pub(super) fn fetch(client: &Client) -> Result<TrustView, CliError> {
        Ok(client.get_json::<TrustView>(TRUST)?.value)
    }

    /// DER, the root that new certificates lead to first.
    pub(super) fn roots(&self) -> Result<Vec<Vec<u8>>, CliError> {
        self.roots.iter().map(|text| BASE64.decode(text.as_bytes()).map_err(|_| strange())).collect()
    }

    /// The hosts that issue, the one that keeps the root's key first; where nobody has decided that, `first`.
    pub(super) fn issuers(&self, first: NodeId) -> Result<Vec<NodeId>, CliError> {
        match &self.issuers {
            Some(issuers) => issuers.iter().map(|text| text.parse().map_err(|_| strange())).collect(),
            None => Ok(vec![first]),
        }
    }

    /// The hosts that issue, as far as that is known, by id.
    pub(super) fn issuing(&self) -> Vec<&Host> {
        let listed = |host: &&Host| self.issuers.as_ref().is_none_or(|issuers| issuers.contains(&host.node));
        self.nodes.iter().filter(|host| host.issues()).filter(listed).collect()
    }

    /// A host by its name or id.
    pub(super) fn host(&self, asked: &str) -> Result<&Host, CliError> {
        let mut found = self.nodes.iter().filter(|host| host.name == asked || host.node == asked);
        match (found.next(), found.next()) {
            (Some(host), None) => Ok(host),
            (None, _) => Err(CliError::failed(
                format!("no host is called {asked}"),
                "`weft ca status` names them; a host that is gone is named by its id",
            )
            .exiting(EXIT_NOT_FOUND)),
            (Some(one), Some(other)) => Err(CliError::failed(
                format!("several hosts are called {asked}: {} and {}", one.node, other.node),
                "name the one that is meant by its id",
            )),
        }
    }

    /// For each of `nodes` the place of the root that its certificate leads to.
    pub(super) fn roots_of_hosts(&self) -> Result<Vec<Option<usize>>, CliError> {
        let roots = self.roots()?;
        let of_chain = |chain: &Vec<String>| -> Result<Option<usize>, CliError> {
            let chain: Result<Vec<Vec<u8>>, _> = chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
            Ok(root_of(&chain.map_err(|_| strange())?, &roots))
        };
        let of_chains: Vec<Option<usize>> = self.chains.iter().map(of_chain).collect::<Result<_, _>>()?;
        Ok(self.nodes.iter().map(|host| of_chains.get(host.chain).copied().flatten()).collect())
    }
}

/// SHA-256 of a certificate, as join tokens pin it.
pub(super) fn sha256(certificate: &[u8]) -> String {
    HEXLOWER.encode(&fingerprint(certificate))
}

/// A host that no record tells of any more, by its id.
pub(super) fn named_by_id(asked: &str) -> Option<(NodeId, NodeName)> {
    Some((asked.parse().ok()?, NodeName::parse(asked).ok()?))
}
