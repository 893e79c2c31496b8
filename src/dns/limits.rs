//! The bounds that keep clients and upstreams from costing more than they should, each with its reason.

use std::time::Duration;

use crate::lobby::{self, Lobby};

/// Bounds on time and number. Tests shorten the times.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// How long one upstream has. Clients give up after 5 s (resolv.conf(5)), so two can be tried in that time.
    pub(super) upstream_timeout: Duration,
    /// For how long an upstream that did not answer is asked only after the others.
    pub(super) upstream_rest: Duration,
    /// Foreign queries under way at once; each holds a socket and some KiB. dnsmasq's default.
    pub(super) forwards_max: usize,
    /// How long a TCP connection may be silent between queries: "a few seconds" (RFC 7766 §6.2.3), but longer than all
    /// upstreams together may take for the reply that its client waits for.
    pub(super) tcp_idle: Duration,
    /// How long a TCP client may take to send one query, or to take one reply.
    pub(super) tcp_progress: Duration,
    /// TCP connections at once that have no query under way, on all listeners (those that have come on top, as many as
    /// foreign queries may be under way); beyond it the one that has been idle for
    /// longest is closed, as RFC 7766 §6.2.3 has it. Each holds about 16 KiB. All clients are programs of this host.
    pub(super) tcp_connections_max: usize,
    /// How long binding a VIP may hold up its answer. Past it the answer goes out all the same: the client then sees a
    /// refused connection instead of a name that does not resolve.
    pub(super) vip_wait: Duration,
    /// For how long a VIP that was bound needs no asking again.
    pub(super) vip_bound_for: Duration,
    /// VIPs being bound at once on behalf of one listener.
    pub(super) vips_waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            upstream_timeout: Duration::from_secs(2),
            upstream_rest: Duration::from_secs(30),
            forwards_max: 150,
            tcp_idle: Duration::from_secs(15),
            tcp_progress: Duration::from_secs(5),
            tcp_connections_max: 128,
            vip_wait: Duration::from_millis(500),
            vip_bound_for: Duration::from_secs(1),
            vips_waiting_max: 64,
        }
    }
}

impl Limits {
    /// Where TCP connections wait for their next query.
    pub(super) fn lobby(&self) -> Lobby {
        Lobby::new(lobby::Limits { total: self.tcp_connections_max, each: self.tcp_connections_max })
    }
}

/// The largest query taken, over UDP and TCP. A question takes 271 bytes at most; the rest is room for EDNS options.
pub(super) const QUERY_BYTES_MAX: usize = 4096;
