//! What a host's data plane has carried, edge by edge: totals since the agent's start, from which `/metrics` and
//! `weft top` make rates.

use serde::Serialize;

/// Upper bounds of the latency buckets, in microseconds; beyond the last is one more bucket. 1-2.5-5 from 250 us to 60 s.
pub const BUCKET_BOUNDS_US: [u64; 17] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Which way a call went, seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// A program of this host called.
    Out,
    /// Another host called an instance of this host.
    In,
}

/// Everything that was carried.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Seconds since the counting began.
    pub seconds: f64,
    /// One line a caller, service and instance.
    pub edges: Vec<Edge>,
    /// One line a service that programs of this host call.
    pub pressures: Vec<Pressure>,
    /// Instances that were ejected.
    pub ejections: u64,
    /// Of these, those that answered again.
    pub returns: u64,
}

/// How hard this host presses on a service with HTTP requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pressure {
    /// The service.
    pub service: String,
    /// Requests under way.
    pub under_way: u32,
    /// How many there may be now: what the policy says, or less after requests that were not answered in time.
    pub limit: u32,
    /// Retries that the budget has left now.
    pub retries_left: u32,
    /// Requests that were refused because there were as many as there may be.
    pub refused: u64,
    /// Retries that were taken from the budget.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub retries_refused: u64,
}

/// Calls from one host, or one service there, to one instance of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edge {
    /// Which way.
    pub direction: Direction,
    /// The host that called, by name.
    pub caller: String,
    /// Of `in`: the service that the calling program was attested as; empty where it is anonymous, and of `out`.
    pub caller_service: String,
    /// The host that served, by name; empty where no instance took the call.
    pub node: String,
    /// The service.
    pub service: String,
    /// The instance's id; empty where no instance took the call.
    pub instance: String,
    /// `tcp`, `http`, `http2` or `grpc`.
    pub protocol: String,
    /// Calls that ended: responses of 1xx to 5xx, and at index 0 those that ended without a response. Of `tcp`,
    /// connections: index 2 those that ended well, index 0 the rest.
    pub codes: [u64; 6],
    /// Calls under way.
    pub in_flight: u64,
    /// Calls tried again elsewhere.
    pub retries: u64,
    /// By [`BUCKET_BOUNDS_US`], to the end of the response's head; not cumulative. Of `tcp`, to the connect.
    pub latency: [u64; 18],
    /// The sum of all latencies, in microseconds.
    pub latency_sum_us: u64,
    /// Outwards: the moving average by which instances are chosen, in microseconds; 0 before the first call.
    pub ewma_us: u64,
    /// Outwards: the instance is ejected; milliseconds until it is tried again, as the last worker to eject it has it.
    pub ejected_for_ms: u64,
}
