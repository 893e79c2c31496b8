//! Checks as Consul's endpoints tell them, and what maintenance is among them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::Client;
use super::output::CliError;
use crate::model::Health;

/// The check that maintenance of the whole host is.
const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Before the id of the service that is in maintenance.
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// A check of a host or a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    #[serde(rename = "CheckID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    pub(super) status: Health,
    #[serde(default)]
    pub(super) notes: String,
    #[serde(default)]
    pub(super) output: String,
    /// Empty if it is the host's.
    #[serde(rename = "ServiceID", default)]
    pub(super) service_id: String,
}

/// What a check that is maintenance speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Maintained {
    /// The whole host.
    Host,
    /// The service of this id.
    Service(String),
}

impl Check {
    /// What is in maintenance, if that is what this check says.
    pub(super) fn maintained(&self) -> Option<Maintained> {
        match self.id.strip_prefix(SERVICE_MAINTENANCE) {
            Some(id) => Some(Maintained::Service(id.to_owned())),
            None => (self.id == NODE_MAINTENANCE).then_some(Maintained::Host),
        }
    }
}

/// Every check of this host, by id.
pub(super) fn of_this_host(client: &Client) -> Result<Vec<Check>, CliError> {
    let checks = client.get_json::<BTreeMap<String, Check>>("/v1/agent/checks")?.value;
    Ok(checks.into_values().collect())
}
