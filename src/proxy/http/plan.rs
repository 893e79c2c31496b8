//! What operators say of one request: which service takes it, which part of its instances, how long it may take, and what is
//! changed in its head.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use rand::Rng;
use tokio::time::Instant;

use super::headers::{FORWARDED_FOR, is_kept};
use super::reason::Reason;
use crate::model::{Algorithm, Directory, HashKey, Route, Service, ServiceName, Tag, Timeouts, TrafficPolicy};
use crate::proxy::endpoints::{Measure, Part, Wanted};
use crate::route;

/// How many milliseconds are left for a request, to the service that is called and from the services that pass it on.
pub(super) const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-weft-timeout-ms");
/// How often this request has been tried, from 2 on; services that pass it on keep those behind them from trying again.
pub(super) const ATTEMPT: HeaderName = HeaderName::from_static("x-weft-attempt");
/// On a response: it is a failure after retries. Who gets it does not try again.
pub(super) const RETRIED: HeaderName = HeaderName::from_static("x-weft-retried");
/// gRPC's own deadline (grpc/grpc: PROTOCOL-HTTP2.md).
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// As gRPC has it: at most eight digits.
const GRPC_TIMEOUT_DIGITS_MAX: usize = 8;

/// What is to be done with one request.
pub(super) struct Plan {
    pub(super) service: Arc<Service>,
    pub(super) policy: Arc<TrafficPolicy>,
    /// The policy that `part` counts in.
    parts_of: Arc<TrafficPolicy>,
    part: Part,
    hash: Option<u64>,
    /// What is said of its time, if anything is.
    pub(super) timeouts: Timeouts,
    /// When the application has no use for the answer any more, as it says itself.
    pub(super) deadline: Option<Instant>,
    /// Somebody before this host has tried it again already.
    pub(super) is_retry: bool,
}

impl Plan {
    /// Reads what is said of a request to `service`, and changes its head accordingly.
    pub(super) fn of(
        directory: &Directory,
        (service, tag): (&ServiceName, Option<&Tag>),
        parts: &mut Parts,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Plan, Reason> {
        let called = directory.services.get(service).ok_or(Reason::NoService)?;
        let parts_of = directory.traffic.of(service);
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let route = match parts_of.routes.is_empty() {
            true => None,
            false => route::route_for(&parts_of.routes, parts.method.as_str(), target, header),
        };
        let index = route.and_then(|route| parts_of.routes.iter().position(|each| std::ptr::eq(each, route)));
        let other = route.and_then(|route| route.service.as_ref()).filter(|other| *other != service);
        let taking = match other {
            Some(other) => {
                directory.services.get(other).filter(|other| other.protocol.is_http()).ok_or(Reason::NoService)?
            }
            None => called,
        };
        let policy = directory.traffic.of(&taking.name);
        let has_subset = route.is_some_and(|route| route.subset.is_some());
        let (parts_of, part) = match index {
            Some(index) if has_subset => (parts_of.clone(), Part::Route(index)),
            // A tag that was asked for by name says more than a split.
            _ if tag.is_some() || policy.split.is_empty() => (policy.clone(), Part::All),
            _ => {
                let weights: Vec<u32> = policy.split.iter().map(|share| share.weight).collect();
                (policy.clone(), route::share(&weights, rng).map_or(Part::All, Part::Share))
            }
        };
        let timeouts = route.and_then(|route| route.timeouts).unwrap_or(policy.timeouts);
        let plan = Plan {
            service: taking.clone(),
            policy: policy.clone(),
            parts_of,
            part,
            hash: hash_of(&policy.balance.algorithm, &parts.headers),
            timeouts,
            deadline: left(&parts.headers).and_then(|left| now.checked_add(left)),
            is_retry: parts.headers.contains_key(ATTEMPT),
        };
        if let Some(route) = index.and_then(|index| directory.traffic.of(service).routes.get(index)) {
            change(&mut parts.headers, route);
        }
        Ok(plan)
    }

    /// What an instance is chosen for.
    pub(super) fn wanted<'a>(
        &'a self,
        service: &'a Arc<Service>,
        tag: Option<&'a Tag>,
        measure: Measure,
    ) -> Wanted<'a> {
        Wanted {
            service,
            policy: &self.policy,
            tag,
            parts_of: &self.parts_of,
            part: self.part,
            measure,
            hash: self.hash,
        }
    }

    /// Tells the service how long it has, and that this is not the first try.
    pub(super) fn tell(&self, headers: &mut HeaderMap, left: Option<Duration>, tries: usize) {
        if let Some(left) = left {
            headers.insert(TIMEOUT_MS, HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
            if headers.contains_key(GRPC_TIMEOUT) {
                headers.insert(GRPC_TIMEOUT, grpc_timeout(left));
            }
        }
        if tries > 1 {
            headers.insert(ATTEMPT, HeaderValue::from(u64::try_from(tries).unwrap_or(u64::MAX)));
        }
    }
}

/// What a route sets and removes. Framing, the host, and Weft's own headers are not its to change.
fn change(headers: &mut HeaderMap, route: &Route) {
    for name in &route.remove_headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            && !is_kept(&name)
        {
            headers.remove(name);
        }
    }
    for (name, value) in &route.set_headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            && !is_kept(&name)
        {
            headers.insert(name, value);
        }
    }
}

/// How long the application waits, by the sooner of what it says.
fn left(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let told = text(&TIMEOUT_MS).and_then(|text| text.parse().ok()).map(Duration::from_millis);
    let grpc = text(&GRPC_TIMEOUT).and_then(parse_grpc_timeout);
    match (told, grpc) {
        (Some(told), Some(grpc)) => Some(told.min(grpc)),
        (told, grpc) => told.or(grpc),
    }
}

fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > GRPC_TIMEOUT_DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// In the finest unit in which it has at most eight digits.
fn grpc_timeout(left: Duration) -> HeaderValue {
    const COUNT_MAX: u128 = 99_999_999;
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (u128::from(left.as_secs()), 'S')];
    let fitting = units.into_iter().find(|(count, _)| *count <= COUNT_MAX);
    let (count, unit) = fitting.unwrap_or((u128::from(left.as_secs() / 3600).min(COUNT_MAX), 'H'));
    HeaderValue::from_str(&format!("{count}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

/// What the request is known by, where like goes to like; `None` where it has nothing of the kind.
fn hash_of(algorithm: &Algorithm, headers: &HeaderMap) -> Option<u64> {
    let Algorithm::RingHash(key) = algorithm else { return None };
    match key {
        HashKey::Header(name) => headers.get(name).map(|value| route::hash(value.as_bytes())),
        HashKey::Cookie(name) => cookie(headers, name).map(|value| route::hash(value.as_bytes())),
        // Programs of this host call from loopback; a gateway says for whom.
        HashKey::Source => {
            let chain = headers.get(FORWARDED_FOR)?.to_str().ok()?;
            chain.split(',').next().map(|first| route::hash(first.trim().as_bytes()))
        }
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(each, _)| *each == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn the_sooner_of_two_deadlines_counts_and_nonsense_counts_for_nothing() {
        let left = |lines: &[(&'static str, &str)]| left(&headers(lines));
        assert_eq!(left(&[]), None);
        assert_eq!(left(&[("x-weft-timeout-ms", "250")]), Some(Duration::from_millis(250)));
        assert_eq!(left(&[("x-weft-timeout-ms", "250"), ("grpc-timeout", "1S")]), Some(Duration::from_millis(250)));
        assert_eq!(left(&[("x-weft-timeout-ms", "2500"), ("grpc-timeout", "1S")]), Some(Duration::from_secs(1)));
        for nonsense in ["", "S", "-1S", "1", "1x", "123456789S", "1.5S", "ü"] {
            assert_eq!(parse_grpc_timeout(nonsense), None, "{nonsense}");
        }
        assert_eq!(parse_grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }

    #[test]
    fn a_grpc_deadline_is_written_as_it_is_read() {
        for left in [Duration::from_micros(17), Duration::from_millis(1_500), Duration::from_secs(3600 * 24 * 365)] {
            let text = grpc_timeout(left);
            assert_eq!(parse_grpc_timeout(text.to_str().unwrap()), Some(left), "{text:?}");
        }
    }

    #[test]
    fn a_request_is_known_by_its_header_its_cookie_or_where_it_came_from() {
        let by = |key, lines: &[(&'static str, &str)]| hash_of(&Algorithm::RingHash(key), &headers(lines));
        let cookie = || HashKey::Cookie("id".into());
        assert_eq!(by(cookie(), &[("cookie", "a=b; id=7")]), Some(route::hash(b"7")));
        assert_eq!(by(cookie(), &[("cookie", "idx=7")]), None);
        assert_eq!(by(HashKey::Header("x-user".into()), &[("x-user", "anna")]), Some(route::hash(b"anna")));
        let source = by(HashKey::Source, &[("x-forwarded-for", "192.0.2.1, 10.0.0.1")]);
        assert_eq!(source, Some(route::hash(b"192.0.2.1")));
        assert_eq!(hash_of(&Algorithm::PeakEwma, &headers(&[("x-user", "anna")])), None);
    }

    #[test]
    fn a_route_cannot_change_framing_or_what_is_wefts() {
        let mut head = headers(&[("host", "a"), ("content-length", "3"), ("x-weft-client", "web"), ("x-old", "1")]);
        let route = Route {
            set_headers: [("host", "b"), ("x-new", "2"), ("weft-caller", "boss"), ("x-weft-client", "boss")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            remove_headers: ["x-old", "content-length", "x-weft-client"].map(str::to_owned).into(),
            ..Route::default()
        };
        change(&mut head, &route);
        let expected = headers(&[("host", "a"), ("content-length", "3"), ("x-weft-client", "web"), ("x-new", "2")]);
        assert_eq!(head, expected);
    }
}
