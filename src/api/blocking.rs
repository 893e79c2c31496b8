//! Consul's blocking queries: `?index=N&wait=5m` is answered when the index is no longer N. Watchers (consul-template,
//! Traefik, Prometheus) ask again as soon as they are answered, so without this they would spin.
//!
//! The index is the directory's, so an answer may come without a change to what was asked for; Consul allows that.

use std::time::Duration;

use arc_swap::ArcSwap;

use super::consul::index;
use super::request::Asked;
use super::router::may_wait;
use crate::model::Directory;

/// Consul's.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);
/// The directory is published by a pointer swap that nobody can wait on; looking at it costs a few nanoseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the request asks to wait, and at which index. `None`: it does not.
fn wanted(asked: &Asked, wait_max: Duration) -> Option<(u64, Duration)> {
    let known = asked.query.first("index").and_then(|text| text.parse::<u64>().ok())?;
    let wait = asked.query.first("wait").and_then(|text| humantime::parse_duration(text).ok());
    let wait = wait.filter(|wait| !wait.is_zero()).unwrap_or(WAIT_DEFAULT).min(wait_max);
    (known > 0 && may_wait(asked)).then_some((known, wait))
}

/// Returns when the request may be answered. An index that is not the current one, be it lower or higher (this agent
/// was restarted), is answered at once.
pub(super) async fn settle(asked: &Asked, directory: &ArcSwap<Directory>, wait_max: Duration) {
    let Some((known, wait)) = wanted(asked, wait_max) else { return };
    let changed = async {
        while index(&directory.load()) == known {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    let _unchanged = tokio::time::timeout(wait, changed).await;
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    #[test]
    fn a_wait_is_read_as_consul_reads_it() {
        let max = Duration::from_secs(600);
        let wanted = |query| wanted(&Asked::new(Method::GET, "/v1/catalog/nodes", query), max);
        assert_eq!(wanted("index=7&wait=10s"), Some((7, Duration::from_secs(10))));
        assert_eq!(wanted("index=7"), Some((7, WAIT_DEFAULT)));
        assert_eq!(wanted("index=7&wait=90m"), Some((7, max)));
        assert_eq!(wanted("index=0&wait=10s"), None);
        assert_eq!(wanted("wait=10s"), None);
        assert_eq!(wanted("index=x"), None);
    }

    #[test]
    fn only_what_the_directory_tells_is_waited_for() {
        let asks = |method, path| wanted(&Asked::new(method, path, "index=1"), WAIT_DEFAULT).is_some();
        assert!(asks(Method::GET, "/v1/health/service/web"));
        assert!(!asks(Method::GET, "/metrics"));
        assert!(!asks(Method::PUT, "/v1/catalog/register"));
    }
}
