//! `/v1/weft/explain`: why a call from this host goes where it goes, from the name to the certificate at the other end.
//! Pure.
//!
//! The choice is told as odds. Of two candidates drawn at random, requests of HTTP services go likelier to the one with the
//! lower score (`route::chance`), where the score is the moving average of its latency times the calls under way and one;
//! connections of others go to the one with fewer calls under way, which is their score.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::consul::View;
use super::own::{freshness, ports, real_address, unusable};
use super::resolve::{Name, Unresolved, find_tag, read};
use super::{Direction, Traffic};
use crate::identity::PeerIdentity;
use crate::model::{Health, Instance, Node, Pressure, Protocol, Service, Tag};
use crate::route;

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
    /// How hard this host presses on it; null before the first request.
    pressure: Option<Pressure>,
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
    let traffic = (view.traffic)();
    let candidates = candidates(view, &traffic, service, tag);
    let pressure = traffic.pressures.into_iter().find(|pressure| pressure.service == service.name.as_str());
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
        pressure,
    })
}

fn candidates<'a>(view: &View<'a>, traffic: &Traffic, service: &'a Service, tag: Option<&Tag>) -> Vec<Candidate<'a>> {
    let each = service.instances.iter().map(|(node, instance)| candidate(view, traffic, node, instance, tag));
    let mut candidates: Vec<Candidate<'a>> = each.collect();
    let by_estimate = service.protocol.is_http();
    for candidate in &mut candidates {
        candidate.score = match by_estimate {
            true => candidate.ewma_us.max(1).saturating_mul(candidate.in_flight.saturating_add(1)),
            false => candidate.in_flight,
        };
    }
    let usable: Vec<usize> = (0..candidates.len()).filter(|index| candidates[*index].usable).collect();
    let scores: Vec<u64> = usable.iter().map(|index| candidates[*index].score).collect();
    for (place, index) in usable.into_iter().enumerate() {
        candidates[index].chance = chance(place, &scores, by_estimate);
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
    let seen = edges.fold((0, 0, 0), |(ewma, open, ejected): (u64, u64, u64), edge| {
        (ewma.max(edge.ewma_us), open + edge.in_flight, ejected.max(edge.ejected_for_ms))
    });
    let (ewma_us, in_flight, ejected_for_ms) = seen;
    if reason.is_none() && ejected_for_ms > 0 {
        reason = Some(format!(
            "ejected because it failed calls from here; tried again in {:.1} s",
            ejected_for_ms as f64 / 1e3
        ));
    }
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
        score: 0,
        chance: 0.0,
        certificate: node.facts.certificates.first().and_then(|leaf| certificate(leaf, view.now)),
    }
}

/// How likely the candidate at `place` is to be drawn and to win against the other one that is.
fn chance(place: usize, scores: &[u64], by_estimate: bool) -> f64 {
    let count = scores.len();
    if count <= 1 {
        return 1.0;
    }
    let own = scores[place];
    let others = scores.iter().enumerate().filter(|(other, _)| *other != place);
    let wins = others.map(|(_, &other)| match by_estimate {
        true => route::chance(own as f64, other as f64),
        false if own == other => 0.5,
        false => f64::from(u8::from(own < other)),
    });
    // Of all pairs, those with it in them that it wins. Instances of one service are a few thousand at most.
    let pairs = count * (count - 1) / 2;
    wins.sum::<f64>() / pairs as f64
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
            "its score, {} (EWMA {} us, {} calls with the next), is the lowest of {usable}: it is to take {:.0} % of the \
             next calls",
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
    fn chances_sum_to_one_and_fall_with_the_score() {
        for scores in [vec![5], vec![1, 2], vec![3, 3], vec![1, 2, 3, 4], vec![1, 1, 9], vec![1; 10]] {
            for by_estimate in [true, false] {
                let chances: Vec<f64> = (0..scores.len()).map(|place| chance(place, &scores, by_estimate)).collect();
                assert!((chances.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{scores:?}: {chances:?}");
                assert!(chances.is_sorted_by(|a, b| a >= b), "{scores:?}: {chances:?}");
            }
        }
        assert!((chance(0, &[1, 2, 3, 4], false) - 0.5).abs() < 1e-9, "it is one of the two in half of the pairs");
        assert!(chance(3, &[1, 2, 3, 4], false) < 1e-9);
        assert!((chance(1, &[1, 2], true) - 0.2).abs() < 1e-9);
    }
}
