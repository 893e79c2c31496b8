//! What the data plane counts. Written by workers with relaxed atomics, read by `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident => $metric:literal, $help:literal;)*) => {
        /// Totals since the agent's start, unless said otherwise.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// Name, help text and value of each.
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($metric, $help, self.$name.get()),)*]
            }
        }
    };
}

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn one(&self) {
        self.add(1);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Connections taken on VIPs.
    captured => "weft_proxy_captured", "Connections taken on service addresses.";
    /// Requests of HTTP services.
    requests => "weft_proxy_requests", "Requests taken on service addresses.";
    /// What is no HTTP, or cannot be carried as it is framed.
    malformed => "weft_proxy_malformed", "Requests refused as malformed or ambiguous.";
    /// Connections that went over to another protocol and have ended.
    upgrades_ended => "weft_proxy_upgrades_ended", "Upgraded connections (WebSocket) that have ended.";
    /// Connections to a VIP or port that stands for nothing; reset.
    unknown_target => "weft_proxy_unknown_target", "Connections to a service address or port that stands for nothing.";
    /// Connections reset because no instance could take them.
    no_instance => "weft_proxy_no_instance", "Connections reset because no instance could take them.";
    /// Failed connects that were tried again on another instance.
    retries => "weft_proxy_connect_retries", "Failed connects tried again on another instance.";
    /// Connections whose program is a service of this host.
    callers_named => "weft_proxy_callers_named", "Connections whose program was attested as a service of this host.";
    /// Connections of other programs.
    callers_anonymous => "weft_proxy_callers_anonymous", "Connections whose program is no service of this host.";
    /// Calls of other hosts in the name of a service that is not theirs.
    callers_refused => "weft_proxy_callers_refused",
        "Calls refused because the calling host's certificate does not grant the service that it claims to call as.";
    /// Streams opened to other hosts and accepted there.
    streams_out => "weft_proxy_streams_out", "Streams carried to other hosts.";
    /// Calls delivered on this host without crossing the mesh.
    direct => "weft_proxy_direct", "Calls to instances of this host.";
    /// Streams from other hosts delivered here.
    streams_in => "weft_proxy_streams_in", "Streams from other hosts delivered here.";
    /// Streams from other hosts refused.
    streams_refused => "weft_proxy_streams_refused", "Streams from other hosts refused.";
    /// mTLS connections opened.
    connections_out => "weft_mesh_connections_out", "Mutual TLS connections opened to other hosts.";
    /// mTLS connections accepted.
    connections_in => "weft_mesh_connections_in", "Mutual TLS connections accepted from other hosts.";
    /// Handshakes that failed or took too long.
    handshakes_failed => "weft_mesh_handshakes_failed", "Handshakes that failed, were refused or took too long.";
    /// Peers that broke the stream protocol.
    protocol_errors => "weft_mesh_protocol_errors", "Connections closed because the peer broke the stream protocol.";
    /// Connections that could not be opened.
    connects_failed => "weft_mesh_connects_failed", "Connects to other hosts' mesh ports that failed.";
    /// Streams closed because their instance lost the tag they asked for.
    tag_moved => "weft_proxy_tag_moved", "Streams closed because their instance lost the tag they were opened for.";
    /// Streams closed because nothing moved for the idle limit.
    idle_closed => "weft_proxy_idle_closed", "Streams closed because nothing moved on them for the idle limit.";
    /// Payload bytes from applications to services.
    bytes_up => "weft_proxy_bytes_up", "Payload bytes carried from callers to services.";
    /// Payload bytes back.
    bytes_down => "weft_proxy_bytes_down", "Payload bytes carried from services to callers.";
}
