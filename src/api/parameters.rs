//! Consul's query parameters that hold for every endpoint (`index wait stale consistent dc filter`), read once and
//! checked. Pure.

use std::time::Duration;

use hyper::StatusCode;

use super::answer::Answer;
use super::durations;
use super::request::Asked;
use super::watch::Resource;

/// Consul's.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);
/// Consul spreads the ends of waits over a sixteenth, so that those that began together do not come back together.
const JITTER_PART: u32 = 16;

/// A request that is to be answered when something changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) resource: Resource,
    /// The index, or the content's hash, that the client has seen.
    pub(super) known: u64,
    pub(super) limit: Duration,
}

/// Reads `index`, `hash` and `wait`. `None`: there is nothing to wait for.
pub(super) fn waiting(asked: &Asked, wait_max: Duration) -> Result<Option<Waiting>, Answer> {
    let bad = |sentence: &str| Answer::error(StatusCode::BAD_REQUEST, sentence);
    let query = &asked.query;
    let wait = match query.first("wait").filter(|wait| !wait.is_empty()) {
        Some(text) => durations::parse(text).ok_or_else(|| bad("Invalid wait time; write it as 10s, 5m or 1m30s"))?,
        None => Duration::ZERO,
    };
    let limit = if wait.is_zero() { WAIT_DEFAULT } else { wait }.min(wait_max);
    let index = match query.first("index").filter(|index| !index.is_empty()) {
        Some(text) => text.parse::<u64>().map_err(|_| bad("Invalid index; it is a whole number"))?,
        None => 0,
    };
    let Some(resource) = resource(asked) else { return Ok(None) };
    let known = match &resource {
        Resource::Own(_) => query.first("hash").and_then(|hash| u64::from_str_radix(hash, 16).ok()).unwrap_or(0),
        _ => index,
    };
    Ok((known > 0).then_some(Waiting { resource, known, limit }))
}

/// Up to a sixteenth more. `chance` is any number; its remainder decides.
pub(super) fn with_jitter(limit: Duration, chance: u64) -> Duration {
    let part_us = u64::try_from((limit / JITTER_PART).as_micros()).unwrap_or(u64::MAX);
    limit + Duration::from_micros(chance % part_us.max(1))
}

/// What a path tells of, and so what a client that waits on it waits for. `None` where Consul does not wait either.
pub(super) fn resource(asked: &Asked) -> Option<Resource> {
    if !asked.reads() {
        return None;
    }
    let query = &asked.query;
    let narrowed = ["filter", "node-meta"].iter().any(|key| query.first(key).is_some_and(|value| !value.is_empty()));
    let resource = match asked.segments().as_slice() {
        ["v1", "health", "service" | "checks", name] | ["v1", "catalog", "service", name] => {
            Resource::Service(name.to_ascii_lowercase())
        }
        ["v1", "weft", "watch"] => Resource::Service(query.first("name")?.to_ascii_lowercase()),
        // Names and tags alone do not tell whether a narrowed list changes.
        ["v1", "catalog", "services"] if narrowed => Resource::Everything,
        ["v1", "catalog", "services"] => Resource::Services,
        ["v1", "catalog", "nodes"] => Resource::Nodes,
        ["v1", "health", "node", node] | ["v1", "catalog", "node" | "node-services", node] => {
            Resource::Node(node.to_ascii_lowercase())
        }
        ["v1", "health", "state", _] | ["v1", "weft", "services" | "status"] => Resource::Everything,
        ["v1", "agent", "service", id] => Resource::Own((*id).to_owned()),
        _ => return None,
    };
    Some(resource)
}

/// What would be answered wrongly by ignoring it.
pub(super) fn refuse(asked: &Asked, cluster: &str) -> Option<Answer> {
    let query = &asked.query;
    if query.first("dc").is_some_and(|dc| !dc.is_empty() && dc != cluster) {
        // Consul's own status and words.
        return Some(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"));
    }
    if query.first("stale").is_some() && query.first("consistent").is_some() {
        let sentence = "Cannot specify ?stale with ?consistent, conflicting semantics.";
        return Some(Answer::error(StatusCode::BAD_REQUEST, sentence));
    }
    None
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    fn asked(method: Method, path: &str, query: &str) -> Asked {
        Asked::new(method, path, query, false)
    }

    #[test]
    fn a_wait_is_read_as_consul_reads_it() {
        let max = Duration::from_secs(600);
        let wanted = |query| {
            let waiting = waiting(&asked(Method::GET, "/v1/catalog/nodes", query), max).unwrap();
            waiting.map(|waiting| (waiting.known, waiting.limit))
        };
        assert_eq!(wanted("index=7&wait=10s"), Some((7, Duration::from_secs(10))));
        assert_eq!(wanted("index=7&wait=1m30s"), Some((7, Duration::from_secs(90))));
        assert_eq!(wanted("index=7"), Some((7, WAIT_DEFAULT)));
        assert_eq!(wanted("index=7&wait=90m"), Some((7, max)));
        assert_eq!(wanted("index=0&wait=10s"), None);
        assert_eq!(wanted("wait=10s"), None);
        for wrong in ["index=x", "index=7&wait=10", "index=7&wait=soon", "index=-1"] {
            let refused = waiting(&asked(Method::GET, "/v1/catalog/nodes", wrong), max).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }

    #[test]
    fn each_path_waits_for_what_it_tells() {
        let of = |path, query| resource(&asked(Method::GET, path, query));
        assert_eq!(of("/v1/health/service/Web", ""), Some(Resource::Service("web".into())));
        assert_eq!(of("/v1/health/checks/web", ""), of("/v1/catalog/service/web", ""));
        assert_eq!(of("/v1/weft/watch", "name=web"), of("/v1/health/service/web", ""));
        assert_eq!(of("/v1/catalog/services", ""), Some(Resource::Services));
        assert_eq!(of("/v1/catalog/services", "node-meta=rack:r1"), Some(Resource::Everything));
        assert_eq!(of("/v1/health/node/web-01", ""), Some(Resource::Node("web-01".into())));
        assert_eq!(of("/v1/health/state/any", ""), Some(Resource::Everything));
        assert_eq!(of("/v1/agent/services", ""), None);
        assert_eq!(of("/metrics", ""), None);
        assert_eq!(resource(&asked(Method::PUT, "/v1/catalog/nodes", "")), None);
    }

    #[test]
    fn a_service_of_this_host_is_waited_for_by_its_hash() {
        let of = |query| waiting(&asked(Method::GET, "/v1/agent/service/web", query), WAIT_DEFAULT).unwrap();
        assert_eq!(of("hash=00ff").map(|waiting| waiting.known), Some(255));
        assert_eq!(of("hash=nonsense"), None);
        assert_eq!(of("index=7"), None);
    }

    #[test]
    fn jitter_is_at_most_a_sixteenth() {
        let limit = Duration::from_secs(160);
        assert_eq!(with_jitter(limit, 0), limit);
        assert!((0..100u64).all(|i| with_jitter(limit, i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) < limit * 17 / 16));
        assert_eq!(with_jitter(Duration::ZERO, 7), Duration::ZERO);
    }
}
