//! `weft members`: the hosts that this host knows, and whether calls reach them.

use serde::{Deserialize, Serialize};

use super::client::{Client, Fetched};
use super::output::{CliError, Globals, Table, print, print_json, warn_if_stale};
use crate::model::MemberState;

/// List the hosts of the cluster as this host sees them
///
/// STATE is what gossip says: alive, suspect, failed, left, or unknown (known from this host's store and not heard of
/// since its agent started). MESH is whether the host's mesh port answers this host: a host that is alive but
/// `unreachable` gets no calls from here.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  weft members
  weft members --state failed
  weft members --json | jq -r '.members[] | select(.mesh == \"unreachable\") | .name'")]
pub(super) struct Args {
    /// Show only hosts in this state; may be given several times
    #[arg(long, value_name = "STATE", value_parser = ["unknown", "alive", "suspect", "failed", "left"])]
    state: Vec<String>,
}

/// A member as `/v1/agent/members` tells it: Consul's keys, of which few are needed, and Weft's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    name: String,
    addr: std::net::IpAddr,
    port: u16,
    weft: ToldByWeft,
}

#[derive(Debug, Deserialize)]
struct ToldByWeft {
    id: String,
    state: MemberState,
    zone: String,
    mesh_reachable: bool,
    version: String,
    /// An agent of an older version does not tell.
    #[serde(default)]
    protocol: Option<u8>,
    #[serde(default)]
    protocol_max: Option<u8>,
    local: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    freshness: &'static str,
    members: Vec<Member>,
}

/// A host as this verb tells it.
#[derive(Debug, Serialize)]
pub(super) struct Member {
    pub(super) name: String,
    address: String,
    pub(super) state: MemberState,
    /// `ok` or `unreachable`; empty of a host that is gone.
    pub(super) mesh: &'static str,
    zone: String,
    version: String,
    /// The version of the gossip protocol that is spoken with it, and the highest that it has told.
    protocol: Option<u8>,
    protocol_max: Option<u8>,
    id: String,
    pub(super) local: bool,
}

impl From<Told> for Member {
    fn from(told: Told) -> Member {
        let mesh = match (told.weft.state.is_usable(), told.weft.mesh_reachable) {
            (false, _) => "",
            (true, true) => "ok",
            (true, false) => "unreachable",
        };
        Member {
            name: told.name,
            address: std::net::SocketAddr::new(told.addr, told.port).to_string(),
            state: told.weft.state,
            mesh,
            zone: told.weft.zone,
            version: told.weft.version,
            protocol: told.weft.protocol,
            protocol_max: told.weft.protocol_max,
            id: told.weft.id,
            local: told.weft.local,
        }
    }
}

fn table(members: &[Member]) -> Table {
    let mut table = Table::new(&["NAME", "ADDRESS", "STATE", "MESH", "ZONE", "VERSION", "ID"]);
    for member in members {
        let state = member.state.as_str();
        table.row([&*member.name, &member.address, state, member.mesh, &member.zone, &member.version, &member.id]);
    }
    table
}

/// Every host that the agent knows.
pub(super) fn fetch(client: &Client) -> Result<Fetched<Vec<Member>>, CliError> {
    let Fetched { value, stale } = client.get_json::<Vec<Told>>("/v1/agent/members")?;
    Ok(Fetched { value: value.into_iter().map(Member::from).collect(), stale })
}

/// Runs the verb.
pub(super) fn run(args: Args, globals: &Globals) -> Result<(), CliError> {
    let Args { state } = args;
    let told = fetch(&Client::connect(globals.api.clone())?)?;
    let (freshness, stale) = (told.freshness(), told.stale);
    let shown = told.value.into_iter();
    let members: Vec<Member> =
        shown.filter(|member| state.is_empty() || state.iter().any(|state| state == member.state.as_str())).collect();
    if globals.json {
        return print_json(&Listing { freshness, members });
    }
    warn_if_stale(stale);
    print(&table(&members).painted(globals.color.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: MemberState, mesh_reachable: bool) -> Member {
        let id = "01".repeat(16);
        let (zone, version) = ("eu-1a".into(), "0.1.0".into());
        let (protocol, protocol_max) = (Some(2), Some(3));
        let weft = ToldByWeft { id, state, zone, mesh_reachable, version, protocol, protocol_max, local: false };
        Told { name: "web-01".into(), addr: "10.0.0.1".parse().unwrap(), port: 7946, weft }.into()
    }

    #[test]
    fn a_host_that_is_alive_but_does_not_answer_on_its_mesh_port_is_shown_as_unreachable() {
        let table = table(&[told(MemberState::Alive, true), told(MemberState::Alive, false)]).to_string();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "ADDRESS", "STATE", "MESH", "ZONE", "VERSION", "ID"]);
        assert_eq!(rows[1][..4], ["web-01", "10.0.0.1:7946", "alive", "ok"]);
        assert_eq!(rows[2][3], "unreachable");
    }

    #[test]
    fn of_a_host_that_is_gone_nothing_is_said_about_its_mesh_port() {
        assert_eq!(told(MemberState::Failed, false).mesh, "");
        assert_eq!(told(MemberState::Left, true).mesh, "");
    }
}
