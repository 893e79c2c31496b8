//! `/v1/weft/explain`: why a call from this host goes where it goes, from the name to the certificate at the other end.
//! Pure.
//!
//! The choice is told as odds: of two candidates drawn at random the one with the lower score takes a call (peak-EWMA
//! power of two choices), where the score is the moving average of its latency times the calls under way, and one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::consul::View;
use super::own::{freshness, ports, real_address, unusable};
use super::resolve::{Name, Unresolved, find_tag, read};
use super::{Direction, Traffic};
use crate::identity::PeerIdentity;
use crate::model::{Health, Instance, Node, Protocol, Service, Tag};

#[derive(Debug, Serialize)]
pub(super) struct Explained<'a> {
    name: String,
    service: &'a str,
    tag: Option<&'a str>,
    vip: Ipv4Addr,
    ports: Vec<u16>,
    protocol: Protocol,
    freshness: &'static str,
    /// How calls to the VIP are taken: `redirect` or `bind`; null if that is not known.
    capture: Option<&'a str>,
    candidates: Vec<Candidate<'a>>,
    /// Null where nobody can take a call.
    chosen: Option<Chosen>,
}

#[derive(Debug, Serialize)]
struct Candidate<'a> {
    node: &'a str,
    node_id: String,
    instance: &'a str,
    address: SocketAddr,
    zone: &'a str,
    local: bool,
    health: Health,
    weight: u16,
    usable: bool,
    /// Why not, where it is not.
    reason: Option<String>,
    ewma_us: u64,
    in_flight: u64,
    score: u64,
    /// Its part of the next calls, from 0 to 1.
    chance: f64,
    certificate: Option<Certificate>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    spiffe_id: String,
    not_after: String,
    /// Negative once it is over.
    expires_in_seconds: i64,
}

#[derive(Debug, Serialize)]
struct Chosen {
    node: String,
    instance: String,
    why: String,
}

/// Follows a call to `name`, which may be any of the forms that stand for a service; `tag` narrows it further.
pub(super) fn explain<'a>(view: &View<'a>, name: &str, tag: Option<&str>) -> Result<Explained<'a>, Unresolved> {
    let asked = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = &view.settings.domain;
    let (service, named_tag) = match read(&asked, domain) {
        Some(Name::Vip { service, tag } | Name::Plain { service, tag }) => (service, tag),
        _ => return Err(Unresolved::Form(asked, domain.clone())),
    };
    let service = view.directory.services.get(service).ok_or_else(|| Unresolved::Service(service.to_owned()))?;
    let found = tag.or(named_tag).map(|tag| find_tag(service, tag)).transpose()?;
    let (tag, tag_vip) = found.unzip();
    let candidates = candidates(view, service, tag);
    let prefix = tag.map(|tag| format!("{tag}.")).unwrap_or_default();
    Ok(Explained {
        name: format!("{prefix}{}.{domain}", service.name),
        service: service.name.as_str(),
        tag: tag.map(Tag::as_str),
        vip: tag_vip.unwrap_or(service.vip),
        ports: ports(service),
        protocol: service.protocol,
        freshness: freshness(view.directory),
        capture: view.settings.capture.as_deref(),
        chosen: chosen(&candidates),
        candidates,
    })
}

fn candidates<'a>(view: &View<'a>, service: &'a Service, tag: Option<&Tag>) -> Vec<Candidate<'a>> {
    let traffic = (view.traffic)();
    let each = service.instances.iter().map(|(node, instance)| candidate(view, &traffic, node, instance, tag));
    let mut candidates: Vec<Candidate<'a>> = each.collect();
    let scores: Vec<u64> = candidates.iter().filter(|one| one.usable).map(|one| one.score).collect();
    for candidate in candidates.iter_mut().filter(|one| one.usable) {
        candidate.chance = chance(candidate.score, &scores);
    }
    // The likeliest first; those that take no calls last.
    candidates.sort_by(|a, b| {
        let key = |one: &Candidate<'_>| (!one.usable, one.score);
        key(a).cmp(&key(b)).then_with(|| (a.node, a.instance).cmp(&(b.node, b.instance)))
    });
    candidates
}

fn candidate<'a>(
    view: &View<'a>,
    traffic: &Traffic,
    node: &'a Node,
    instance: &'a Instance,
    tag: Option<&Tag>,
) -> Candidate<'a> {
    let health = Service::health(node, instance);
    let mut reason = unusable(node, instance, tag);
    if reason.is_none() && instance.port == 0 {
        reason = Some("it has no port: it is found by name and API, and takes no calls through the mesh".into());
    }
    let (node_name, id) = (node.facts.name.as_str(), instance.id.as_str());
    let edges = traffic.edges.iter().filter(|edge| {
        edge.direction == Direction::Out
            && edge.service == instance.service.as_str()
            && edge.node == node_name
            && edge.instance == id
    });
    let (ewma_us, in_flight) =
        edges.fold((0, 0), |(ewma, open): (u64, u64), edge| (ewma.max(edge.ewma_us), open + edge.in_flight));
    let weights = instance.weights;
    Candidate {
        node: node_name,
        node_id: node.id.to_string(),
        instance: id,
        address: real_address(node, instance),
        zone: &node.facts.zone,
        local: node.id == view.directory.local,
        health,
        weight: if health == Health::Warning { weights.warning } else { weights.passing },
        usable: reason.is_none(),
        reason,
        ewma_us,
        in_flight,
        score: ewma_us.saturating_mul(in_flight.saturating_add(1)),
        chance: 0.0,
        certificate: node.facts.certificates.first().and_then(|leaf| certificate(leaf, view.now)),
    }
}

/// How likely a candidate is to be the better of two drawn at random; equals share.
fn chance(score: u64, scores: &[u64]) -> f64 {
    let count = scores.len();
    if count <= 1 {
        return 1.0;
    }
    let worse = scores.iter().filter(|other| **other > score).count();
    let equal = scores.iter().filter(|other| **other == score).count() - 1;
    // Of all pairs, those with it in them that it wins. Instances of one service are a few thousand at most.
    let pairs = count * (count - 1) / 2;
    (worse as f64 + equal as f64 / 2.0) / pairs as f64
}

fn certificate(leaf: &[u8], now: SystemTime) -> Option<Certificate> {
    let peer = PeerIdentity::from_der(leaf).ok()?;
    let seconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(since).unwrap_or(i64::MAX)
    };
    Some(Certificate {
        spiffe_id: format!("spiffe://{}/node/{}", peer.cluster, peer.name),
        not_after: humantime::format_rfc3339_seconds(peer.not_after).to_string(),
        expires_in_seconds: seconds(peer.not_after) - seconds(now),
    })
}

/// The likeliest. `candidates` has it first.
fn chosen(candidates: &[Candidate<'_>]) -> Option<Chosen> {
    let best = candidates.first().filter(|best| best.usable)?;
    let usable = candidates.iter().filter(|one| one.usable).count();
    let equals = candidates.iter().filter(|one| one.usable && one.score == best.score).count();
    let why = match (usable, equals) {
        (1, _) => "it is the only instance that can take a call".to_owned(),
        (_, 1) => format!(
            "its score, {} (EWMA {} us times {} calls), is the lowest of {usable}: it takes every call for which it is \
             one of the two drawn, {:.0} % of them",
            best.score,
            best.ewma_us,
            best.in_flight + 1,
            best.chance * 100.0
        ),
        _ => format!("its score, {}, is shared by {equals} of {usable}; among them chance decides", best.score),
    };
    Some(Chosen { node: best.node.to_owned(), instance: best.instance.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_sum_to_one_and_the_worst_of_many_is_never_chosen() {
        for scores in [vec![5], vec![1, 2], vec![3, 3], vec![1, 2, 3, 4], vec![1, 1, 9], vec![0; 10]] {
            let sum: f64 = scores.iter().map(|score| chance(*score, &scores)).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{scores:?}: {sum}");
        }
        assert!((chance(1, &[1, 2, 3, 4]) - 0.5).abs() < 1e-9, "it is one of the two in half of the pairs");
        assert!(chance(4, &[1, 2, 3, 4]) < 1e-9);
    }
}
