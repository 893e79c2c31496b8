//! A service as `weft watch` tells it, made from Consul's health entries. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Asked;
use crate::cli::checks::Check;
use crate::model::Health;

/// One entry of `/v1/health/service/NAME`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    node: Node,
    service: Service,
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(rename = "ID", default)]
    id: String,
    node: String,
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    /// Empty is the node's.
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u16,
    warning: u16,
}

/// What is printed, and given to commands.
#[derive(Debug, Clone, Serialize)]
pub(super) struct State {
    pub(super) service: String,
    tags: Vec<String>,
    passing: bool,
    pub(super) index: u64,
    freshness: &'static str,
    instances: Vec<Instance>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Instance {
    node: String,
    node_id: String,
    id: String,
    address: String,
    port: u16,
    health: Health,
    weight: u16,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    checks: Vec<Verdict>,
}

/// Without the output: that may change at every attempt, and is nobody's state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Verdict {
    id: String,
    name: String,
    health: Health,
}

impl State {
    /// Instances are sorted by node and id, so that the same state is the same text.
    pub(super) fn new(asked: &Asked, index: u64, stale: bool, entries: Vec<Entry>) -> State {
        let mut instances: Vec<Instance> = entries.into_iter().map(Instance::from).collect();
        instances.sort();
        State {
            service: asked.service.clone(),
            tags: asked.tags.clone(),
            passing: asked.passing,
            index,
            freshness: if stale { "stale" } else { "live" },
            instances,
        }
    }

    /// True if nothing but the index differs.
    pub(super) fn same(&self, other: &State) -> bool {
        self.freshness == other.freshness && self.instances == other.instances
    }
}

impl From<Entry> for Instance {
    fn from(entry: Entry) -> Instance {
        let Entry { node, service, checks } = entry;
        let health = checks.iter().map(|check| check.status).max().unwrap_or(Health::Passing);
        let mut checks: Vec<Verdict> =
            checks.into_iter().map(|Check { id, name, status, .. }| Verdict { id, name, health: status }).collect();
        checks.sort();
        let weights = service.weights.unwrap_or(Weights { passing: 1, warning: 1 });
        Instance {
            address: if service.address.is_empty() { node.address } else { service.address },
            node: node.node,
            node_id: node.id,
            id: service.id,
            port: service.port,
            health,
            weight: if health == Health::Passing { weights.passing } else { weights.warning },
            tags: service.tags.unwrap_or_default(),
            meta: service.meta.unwrap_or_default(),
            checks,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(node: &str, address: &str, status: &str, output: &str) -> Value {
        json!({
            "Node": { "ID": "01", "Node": node, "Address": "10.0.0.1", "Datacenter": "prod" },
            "Service": { "ID": "web", "Service": "web", "Address": address, "Port": 8080, "Tags": null,
                         "Weights": { "Passing": 3, "Warning": 2 } },
            "Checks": [
                { "CheckID": "serfHealth", "Name": "Serf", "Status": "passing", "Output": "" },
                { "CheckID": "service:web", "Name": "web", "Status": status, "Output": output, "ServiceID": "web" },
            ],
        })
    }

    fn state(index: u64, entries: &[Value]) -> State {
        let asked = Asked { service: "web".into(), tags: Vec::new(), passing: false };
        let entries = serde_json::from_value(Value::Array(entries.to_vec())).unwrap();
        State::new(&asked, index, false, entries)
    }

    #[test]
    fn an_instance_is_as_healthy_as_its_worst_check_and_is_where_its_host_is() {
        let told = state(7, &[entry("web-02", "10.0.9.9", "warning", ""), entry("web-01", "", "passing", "")]);
        let shown: Vec<_> = told.instances.iter().map(|i| (&*i.node, &*i.address, i.health, i.weight)).collect();
        let expected = [("web-01", "10.0.0.1", Health::Passing, 3), ("web-02", "10.0.9.9", Health::Warning, 2)];
        assert_eq!(shown, expected);
    }

    #[test]
    fn another_index_order_or_output_is_no_news_and_another_verdict_is() {
        let (one, two) = (entry("web-01", "", "passing", "1 ms"), entry("web-02", "", "passing", ""));
        let known = state(7, &[one, two.clone()]);
        assert!(known.same(&state(8, &[two.clone(), entry("web-01", "", "passing", "2 ms")])));
        assert!(!known.same(&state(8, &[two.clone(), entry("web-01", "", "critical", "")])));
        assert!(!known.same(&state(8, &[two])));
    }
}
