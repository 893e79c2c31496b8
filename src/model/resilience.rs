//! How calls of one service are carried: timeouts, retries, balance, outliers, limits, routes and splits, as operators set
//! them ([`super::Change::Traffic`]) or as they are where nobody has.
//!
//! Plain data, already checked: texts become these types in `policy/document.rs`. What each means is computed in `route/` and
//! done in `proxy/`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Instance, NodeFacts, PathPattern, ServiceName, Tag, TrafficAccount};

/// What a service's metadata (`platform = "kubernetes"`) is looked up under; without it an instance counts as a VM's.
const PLATFORM_META: &str = "platform";
/// The platform of instances that do not say.
pub const PLATFORM_DEFAULT: &str = "vm";

/// Everything that is said about calls of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicy {
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// When they are tried again.
    pub retries: Retries,
    /// Which instance takes one.
    pub balance: Balance,
    /// When an instance takes none for a while.
    pub outlier: Outlier,
    /// How many there may be.
    pub limits: Limits,
    /// Requests that go elsewhere; the first that fits decides.
    pub routes: Vec<Route>,
    /// How calls are shared between subsets; none: no subsets.
    pub split: Vec<Share>,
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From the request to the beginning of its response, all tries together; `None`: the instance's own, else
    /// `proxy.request_timeout`.
    pub request: Option<Duration>,
    /// The same of one try; `None`: as long as the request has.
    pub per_try: Option<Duration>,
}

/// When a request is tried again. What no instance has seen always is, on another instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first, of requests that an instance may have seen.
    pub max: u8,
    /// An idempotent request is repeated that was answered with an error of the service's own: 5xx but 501.
    pub on_server_error: bool,
    /// An idempotent request is repeated that an instance broke off, or did not answer within `per_try`. If its host was lost
    /// it always is.
    pub on_reset: bool,
    /// Retries per hundred requests of the last ten seconds.
    pub budget_percent: u16,
    /// Retries a second that are there however few requests there are.
    pub budget_per_second: u16,
    /// The first pause is drawn from zero to this, the next from zero to twice it (full jitter).
    pub backoff: Duration,
    /// No pause is longer.
    pub backoff_max: Duration,
}

impl Default for Retries {
    fn default() -> Retries {
        Retries {
            max: 2,
            on_server_error: false,
            on_reset: false,
            budget_percent: 20,
            budget_per_second: 10,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
        }
    }
}

/// Which instance takes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// How one is picked.
    pub algorithm: Algorithm,
    /// An instance that appears gets its share gradually, over this time; zero: at once.
    pub slow_start: Duration,
    /// Instances of the caller's zone are preferred.
    pub zone_first: bool,
    /// While at least this share of the zone's instances can take calls, all go there; below it the rest spills over, in
    /// proportion.
    pub zone_spill_percent: u8,
    /// Where ejections would leave less than this share of the instances, none of them counts.
    pub panic_percent: u8,
}

impl Default for Balance {
    fn default() -> Balance {
        Balance {
            algorithm: Algorithm::PeakEwma,
            slow_start: Duration::ZERO,
            zone_first: true,
            zone_spill_percent: 70,
            panic_percent: 50,
        }
    }
}

/// How an instance is picked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Of two drawn at random the one that answers faster, by a moving average that peaks at once, times calls under way.
    /// Connections of bytes go by calls under way.
    #[default]
    PeakEwma,
    /// Of two drawn at random the one with fewer calls under way.
    LeastRequest,
    /// One after another.
    RoundRobin,
    /// Always the same for the same key, as long as it is there.
    RingHash(HashKey),
}

/// What makes two requests go to the same instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header, in lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The address that the call comes from.
    Source,
}

/// When an instance takes no calls for a while, because it fails those that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row (5xx, resets, timeouts, refused connects) after which it is ejected; zero: never.
    pub consecutive_failures: u16,
    /// It is ejected too if its share of successes is this many standard deviations, in tenths, below the mean of all;
    /// zero: not looked at.
    pub success_rate_stdev_tenths: u16,
    /// Requests in an interval before its share says anything.
    pub success_rate_requests_min: u16,
    /// Shares are taken over this time.
    pub interval: Duration,
    /// The first ejection lasts this long, each after it twice as long as the one before...
    pub ejection: Duration,
    /// ... up to this.
    pub ejection_max: Duration,
    /// Of all instances no more than this share is ejected at once, but always one of two.
    pub ejected_percent_max: u8,
}

impl Default for Outlier {
    fn default() -> Outlier {
        Outlier {
            consecutive_failures: 5,
            success_rate_stdev_tenths: 19,
            success_rate_requests_min: 100,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(5),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 50,
        }
    }
}

/// How many calls there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At one instance at once, from all callers; held by the instance's host. `None`: no limit.
    pub instance_concurrency: Option<u32>,
    /// That wait for one of those places, at most.
    pub queue: u32,
    /// For no longer than this.
    pub queue_wait: Duration,
    /// From one caller's host to the service at once. Where calls time out or are refused as too many, the host goes below it by
    /// itself, down to one, and up again as calls succeed.
    pub service_concurrency: u32,
    /// Requests a second from one calling service to one instance; `None`: no limit.
    pub caller_rate_per_second: Option<u32>,
    /// Requests that such a caller may make at once on top.
    pub caller_burst: u32,
    /// Connections of bytes to one instance at once, from all callers; `None`: no limit.
    pub connections: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            instance_concurrency: None,
            queue: 128,
            queue_wait: Duration::from_millis(100),
            service_concurrency: 4096,
            caller_rate_per_second: None,
            caller_burst: 100,
            connections: None,
        }
    }
}

/// Requests that go elsewhere, or are changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// For people; shown where the route decides.
    pub name: String,
    /// Methods; none: any.
    pub methods: Vec<String>,
    /// A path, or with `*` at its end all that begin so; `None`: any.
    pub path: Option<PathPattern>,
    /// Headers, in lower case, and what they must be; `None`: that they are there.
    pub headers: Vec<(String, Option<String>)>,
    /// The service that takes them; `None`: the one that was called.
    pub service: Option<ServiceName>,
    /// Which of its instances; `None`: as its split says.
    pub subset: Option<Subset>,
    /// Headers that are set.
    pub set_headers: BTreeMap<String, String>,
    /// Headers that are removed.
    pub remove_headers: Vec<String>,
    /// Instead of the service's.
    pub timeouts: Option<Timeouts>,
}

/// A part of a service's instances. All that is said must hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Subset {
    /// They have this tag.
    pub tag: Option<Tag>,
    /// Their hosts are in this zone.
    pub zone: Option<String>,
    /// `vm`, `kubernetes`: the instance's `platform` metadata, else its host's, else `vm`.
    pub platform: Option<String>,
    /// They have this metadata.
    pub meta: BTreeMap<String, String>,
}

impl Subset {
    /// True if the instance is part of it.
    pub fn has(&self, node: &NodeFacts, instance: &Instance) -> bool {
        self.tag.as_ref().is_none_or(|tag| instance.tags.contains(tag))
            && self.zone.as_ref().is_none_or(|zone| *zone == node.zone)
            && self.platform.as_deref().is_none_or(|platform| platform == platform_of(node, instance))
            && self.meta.iter().all(|(key, value)| instance.meta.get(key) == Some(value))
    }
}

/// Which world an instance lives in.
pub fn platform_of<'a>(node: &'a NodeFacts, instance: &'a Instance) -> &'a str {
    let said = instance.meta.get(PLATFORM_META).or_else(|| node.meta.get(PLATFORM_META));
    said.map_or(PLATFORM_DEFAULT, String::as_str)
}

/// A subset and how much of the calls it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Who.
    pub subset: Subset,
    /// Its part of the sum of all weights.
    pub weight: u32,
}

/// What is said of every service, as one host applies it now. Shared between views until something changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicies {
    services: BTreeMap<ServiceName, Arc<TrafficPolicy>>,
    default: Arc<TrafficPolicy>,
    accounts: BTreeMap<ServiceName, Arc<TrafficAccount>>,
}

impl TrafficPolicies {
    /// What operators say; all else is as it is without them.
    pub fn new(services: BTreeMap<ServiceName, Arc<TrafficPolicy>>) -> TrafficPolicies {
        TrafficPolicies { services, default: Arc::default(), accounts: BTreeMap::new() }
    }

    /// The same, with how it came to be.
    pub fn accounted(self, accounts: BTreeMap<ServiceName, Arc<TrafficAccount>>) -> TrafficPolicies {
        TrafficPolicies { accounts, ..self }
    }

    /// What holds for a service.
    pub fn of(&self, service: &ServiceName) -> &Arc<TrafficPolicy> {
        self.services.get(service).unwrap_or(&self.default)
    }

    /// The services that something is said of.
    pub fn said(&self) -> impl Iterator<Item = (&ServiceName, &Arc<TrafficPolicy>)> {
        self.services.iter()
    }

    /// The services that anything was ever stated of, deleted or not.
    pub fn accounts(&self) -> &BTreeMap<ServiceName, Arc<TrafficAccount>> {
        &self.accounts
    }
}
