//! What every agent of a fleet said of its members, and when: read from the agents' logs, which share the machine's clock.
//! Polling the APIs of 48 agents would cost more than the agents do.

use std::collections::BTreeMap;
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

/// When each viewer came to hold each host for `state`, where that is the last it said of it.
pub(crate) fn holders<'a>(seen: &'a [Seen], state: &str) -> BTreeMap<(&'a str, &'a str), u64> {
    let mut last: BTreeMap<(&str, &str), &Seen> = BTreeMap::new();
    for seen in seen {
        last.insert((&seen.node, &seen.viewer), seen);
    }
    let held = last.into_iter().filter(|(_, seen)| seen.state == state);
    held.map(|(pair, seen)| (pair, seen.at_us)).collect()
}

/// When each of `viewers` came to hold `node` for what it then still held at the end, if that is `state`; an error names who
/// does not.
pub(crate) fn settled(seen: &[Seen], viewers: &[&str], node: &str, state: &str) -> Result<Vec<u64>, String> {
    let held = holders(seen, state);
    let others: Vec<&&str> = viewers.iter().filter(|viewer| **viewer != node).collect();
    let missing: Vec<_> = others.iter().filter(|viewer| !held.contains_key(&(node, **viewer))).collect();
    if !missing.is_empty() {
        return Err(format!("{missing:?} do not hold {node} for {state}"));
    }
    Ok(others.iter().filter_map(|viewer| held.get(&(node, **viewer))).copied().collect())
}

/// As [`settled`], of all of `names` by each other; gives the last time at which one of them came to.
pub(crate) fn all_settled(seen: &[Seen], names: &[&str], state: &str) -> Result<u64, String> {
    let held = holders(seen, state);
    let pairs = names.iter().flat_map(|node| names.iter().map(move |viewer| (*node, *viewer)));
    let missing: Vec<_> =
        pairs.filter(|(node, viewer)| node != viewer && !held.contains_key(&(*node, *viewer))).collect();
    match &missing[..] {
        [] => Ok(held.into_values().max().unwrap_or(0)),
        [(node, viewer), ..] => Err(format!("{} pairs are missing, {viewer} on {node} among them", missing.len())),
    }
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
