//! `/v1/weft/trust`: what the cluster believes. Which roots count, which hosts issue certificates, which are revoked, and for each
//! host by whom its certificate was issued and when it ends. Pure: a view in, a body out.

use std::collections::HashMap;

use serde::Serialize;

use super::consul::View;
use crate::identity::{PeerIdentity, issuer_of};
use crate::model::Node;

/// `/v1/weft/trust`.
#[derive(Serialize)]
pub(super) struct TrustBody<'a> {
    cluster: &'a str,
    /// DER in base64, the root that new certificates lead to first.
    roots: Vec<String>,
    /// Ids, the host that keeps the root's key first; `None` where nobody has decided that yet.
    issuers: Option<Vec<String>>,
    revoked: Vec<Revoked<'a>>,
    nodes: Vec<NodeBody<'a>>,
    /// For each issuer one of the chains that it issued, DER in base64, leaf first.
    chains: Vec<Vec<String>>,
}

#[derive(Serialize)]
struct Revoked<'a> {
    node: String,
    name: &'a str,
    reason: &'a str,
    operator: &'a str,
    at_unix_s: u64,
}

#[derive(Serialize)]
struct NodeBody<'a> {
    node: String,
    name: &'a str,
    state: &'static str,
    mesh: String,
    not_before_unix_s: u64,
    not_after_unix_s: u64,
    /// The host whose issuer made its certificate, where that is one of this cluster's own making.
    issuer: Option<String>,
    /// Its place among `chains`.
    chain: usize,
}

/// Everything that `weft ca` asks for.
pub(super) fn trust<'a>(view: &View<'a>) -> TrustBody<'a> {
    let (directory, settings) = (view.directory, view.settings);
    let decided = directory.intentions.trust();
    let base64 = |der: &[u8]| data_encoding::BASE64.encode(der);
    let roots = decided.map_or(&settings.roots, |trust| &trust.roots);
    let mut chains: Vec<Vec<String>> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut node_body = |node: &'a Node| {
        let certificates = &node.facts.certificates;
        let peer = PeerIdentity::from_der(certificates.first()?).ok()?;
        let issuer: &[u8] = certificates.get(1).map_or(&[], Vec::as_slice);
        let chain = *places.entry(issuer).or_insert_with(|| {
            chains.push(certificates.iter().map(|der| base64(der)).collect());
            chains.len() - 1
        });
        let unix_s =
            |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Some(NodeBody {
            node: node.id.to_string(),
            name: node.facts.name.as_str(),
            state: node.state.as_str(),
            mesh: node.facts.mesh.to_string(),
            not_before_unix_s: unix_s(peer.not_before),
            not_after_unix_s: unix_s(peer.not_after),
            issuer: issuer_of(certificates).map(|node| node.to_string()),
            chain,
        })
    };
    let mut nodes: Vec<_> = directory.nodes.values().filter_map(|node| node_body(node)).collect();
    nodes.sort_by(|one, other| one.name.cmp(other.name));
    let revoked = directory.intentions.revocations().map(|(revocation, standing)| Revoked {
        node: revocation.node.to_string(),
        name: revocation.name.as_str(),
        reason: &revocation.reason,
        operator: &standing.winner.statement.operator,
        at_unix_s: standing.winner.statement.at_unix_s,
    });
    TrustBody {
        cluster: &settings.cluster,
        roots: roots.iter().map(|root| base64(root)).collect(),
        issuers: decided.map(|trust| trust.issuers.iter().map(ToString::to_string).collect()),
        revoked: revoked.collect(),
        nodes,
        chains,
    }
}
