//! `/v1/agent/members` and `/v1/agent/self`: hosts in Serf's terms. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::{Asking, View, by_name};
use crate::model::{MemberState, Node, ProtocolVersions};
use crate::wire::protocol::PROTOCOL_MIN;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct Member<'a> {
    name: &'a str,
    addr: IpAddr,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
    weft: WeftMember<'a>,
}

/// What Serf's four states cannot say.
#[derive(Serialize)]
struct WeftMember<'a> {
    id: String,
    state: MemberState,
    zone: &'a str,
    mesh_reachable: bool,
    mesh: String,
    version: &'a str,
    /// The version of the gossip protocol that is spoken with it, and the highest that it has told; null before it has.
    protocol: Option<u8>,
    protocol_max: Option<u8>,
    incarnation: u64,
    local: bool,
}

/// Serf's numbers: 1 alive, 2 leaving, 3 left, 4 failed. A suspect is alive until it is not, as in Serf.
fn serf_status(state: MemberState) -> u8 {
    match state {
        MemberState::Unknown => 0,
        MemberState::Alive | MemberState::Suspect => 1,
        MemberState::Left => 3,
        MemberState::Failed => 4,
    }
}

fn member<'a>(view: &View<'a>, node: &'a Node) -> Member<'a> {
    let facts = &node.facts;
    let told = (view.versions)(node.id);
    // Serf's numbers have no word for "unknown": it is spoken to in the lowest.
    let versions = told.unwrap_or(ProtocolVersions { current: PROTOCOL_MIN, highest: PROTOCOL_MIN });
    let tags = BTreeMap::from([
        ("role", "node".to_owned()),
        ("dc", view.settings.cluster.clone()),
        ("id", node.id.to_string()),
        ("build", facts.version.clone()),
        ("vsn", versions.current.to_string()),
        ("vsn_min", PROTOCOL_MIN.to_string()),
        ("vsn_max", versions.highest.to_string()),
    ]);
    Member {
        name: facts.name.as_str(),
        addr: facts.gossip.ip(),
        port: facts.gossip.port(),
        tags,
        status: serf_status(node.state),
        protocol_min: PROTOCOL_MIN,
        protocol_max: versions.highest,
        protocol_cur: versions.current,
        delegate_min: 1,
        delegate_max: 1,
        delegate_cur: 1,
        weft: WeftMember {
            id: node.id.to_string(),
            state: node.state,
            zone: &facts.zone,
            mesh_reachable: node.mesh_reachable,
            mesh: facts.mesh.to_string(),
            version: &facts.version,
            protocol: told.map(|versions| versions.current),
            protocol_max: told.map(|versions| versions.highest),
            incarnation: node.incarnation,
            local: node.id == view.directory.local,
        },
    }
}

/// `/v1/agent/members`: every known host, by name.
pub(in crate::api) fn members<'a>(view: &View<'a>, asking: &Asking<'_>) -> Vec<Member<'a>> {
    asking.kept(by_name(view.directory).into_iter().map(|node| member(view, node)))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct AgentSelf<'a> {
    config: AgentConfig<'a>,
    debug_config: BTreeMap<(), ()>,
    member: Option<Member<'a>>,
    meta: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AgentConfig<'a> {
    datacenter: &'a str,
    primary_datacenter: &'a str,
    node_name: &'a str,
    #[serde(rename = "NodeID")]
    node_id: String,
    server: bool,
    revision: &'static str,
    version: &'a str,
}

/// `/v1/agent/self`.
pub(in crate::api) fn agent_self<'a>(view: &View<'a>) -> AgentSelf<'a> {
    let local = view.directory.nodes.get(&view.directory.local);
    let meta = local.into_iter().flat_map(|node| &node.facts.meta);
    AgentSelf {
        config: AgentConfig {
            datacenter: &view.settings.cluster,
            primary_datacenter: &view.settings.cluster,
            node_name: view.settings.node.as_str(),
            node_id: view.directory.local.to_string(),
            server: false,
            revision: "",
            version: &view.settings.version,
        },
        debug_config: BTreeMap::new(),
        member: local.map(|node| member(view, node)),
        meta: meta.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
    }
}

/// `/v1/agent/version`.
#[derive(Serialize)]
pub(in crate::api) struct Version<'a> {
    #[serde(rename = "SHA")]
    sha: &'static str,
    #[serde(rename = "BuildDate")]
    build_date: &'static str,
    #[serde(rename = "HumanVersion")]
    human_version: &'a str,
    #[serde(rename = "FIPS")]
    fips: &'static str,
}

/// `/v1/agent/version`: builds carry neither commit nor date, so that they can be reproduced.
pub(in crate::api) fn version<'a>(view: &View<'a>) -> Version<'a> {
    Version { sha: "", build_date: "", human_version: &view.settings.version, fips: "" }
}
