//! What every agent of a fleet said of its members, and when: read from the agents' logs, which share the machine's clock.
//! Polling the APIs of 48 agents would cost more than the agents do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use crate::fleet::Fleet;

/// One host's word on another.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at_us: u64,
    pub(crate) viewer: String,
    pub(crate) node: String,
    pub(crate) state: String,
}

/// Everything that the named hosts said of their members since `since_us`, in the order of time.
pub(crate) fn timeline(fleet: &Fleet, viewers: &[&str], since_us: u64) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    for viewer in viewers {
        let log = fleet[viewer].agent_log_text();
        seen.extend(log.lines().filter_map(|line| read(viewer, line)).filter(|seen| seen.at_us >= since_us));
    }
    seen.sort_by_key(|seen| seen.at_us);
    seen
}

fn read(viewer: &str, line: &str) -> Option<Seen> {
    let (time, rest) = line.split_once(' ')?;
    let (_, fields) = rest.split_once("member changed ")?;
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name)).map(str::to_owned);
    let at = humantime::parse_rfc3339(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Seen {
        at_us: u64::try_from(at.as_micros()).ok()?,
        viewer: viewer.to_owned(),
        node: field("node=")?,
        state: field("state=")?,
    })
}

/// When each of `viewers` came to hold `node` for what it then still held at the end, if that is `state`; an error names who
/// does not.
pub(crate) fn settled(
    seen: &[Seen],
    viewers: &[&str],
    node: &str,
    state: &str,
) -> Result<BTreeMap<String, u64>, String> {
    let mut last: BTreeMap<&str, &Seen> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.node == node) {
        last.insert(&seen.viewer, seen);
    }
    let (mut times, mut others) = (BTreeMap::new(), BTreeSet::new());
    for viewer in viewers.iter().filter(|viewer| **viewer != node) {
        match last.get(viewer).filter(|seen| seen.state == state) {
            Some(seen) => _ = times.insert((*viewer).to_owned(), seen.at_us),
            None => _ = others.insert(*viewer),
        }
    }
    if others.is_empty() { Ok(times) } else { Err(format!("{others:?} do not hold {node} for {state}")) }
}

/// The names of the hosts that anybody held for one of `states`.
pub(crate) fn ever<'a>(seen: &'a [Seen], states: &[&str]) -> BTreeMap<&'a str, usize> {
    let mut names = BTreeMap::new();
    for seen in seen.iter().filter(|seen| states.contains(&seen.state.as_str())) {
        *names.entry(seen.node.as_str()).or_default() += 1;
    }
    names
}

/// Seconds between two times.
pub(crate) fn seconds(from_us: u64, to_us: u64) -> f64 {
    std::time::Duration::from_micros(to_us.saturating_sub(from_us)).as_secs_f64()
}

/// The middle of some times.
pub(crate) fn median(times: impl IntoIterator<Item = u64>) -> u64 {
    let mut times: Vec<u64> = times.into_iter().collect();
    times.sort_unstable();
    times[times.len() / 2]
}
