//! What the DNS shim counts. Written by the servers and the forwarder, read by whoever renders `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Event counts since start. Relaxed: each stands alone.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
        }

        impl Counters {
            /// Every counter as (name, what it counts, value).
            pub fn values(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Datagrams received.
    udp_queries,
    /// Queries received over TCP.
    tcp_queries,
    /// Queries answered from the mesh domain.
    answered,
    /// Answers that did not fit and were sent with TC.
    truncated,
    /// Packets that are no query: no header, a response, a broken question.
    malformed,
    /// Queries for foreign names that were sent to upstreams.
    forwarded,
    /// Foreign queries that no upstream answered.
    forward_failed,
    /// Foreign queries refused because none may be forwarded.
    forward_refused,
    /// Foreign queries failed at once because too many were under way.
    forward_overload,
    /// Replies from upstreams that did not match the query sent: late ones, or forged ones.
    forward_mismatched,
    /// Replies that could not be sent.
    send_errors,
    /// TCP connections accepted.
    tcp_connections,
    /// TCP connections closed at once because too many were open.
    tcp_overload,
    /// TCP connections closed because the client was slow, idle, or sent a length out of bounds.
    tcp_cut,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
