//! What the driver counts. The sockets' tasks add; metrics and tests read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::seal::OpenError;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn increment(&self) {
        self.add(1);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything the driver counts.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// Every counter with its name, for metrics.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams received, authentic or not.
    packets_in,
    /// Datagrams sent.
    packets_out,
    /// Bytes of datagrams received.
    bytes_in,
    /// Bytes of datagrams sent.
    bytes_out,
    /// Datagrams that were none of Weft's, or whose message could not be read.
    rejected_malformed,
    /// Datagrams over the limit of 1,200 bytes.
    rejected_oversize,
    /// Datagrams made without a key of the keyring, for another cluster, or damaged.
    rejected_unauthenticated,
    /// Datagrams that came before, or too late to tell.
    rejected_replayed,
    /// Datagrams from before their sender's last known start.
    rejected_old_epoch,
    /// Datagrams that name this host as their sender: reflected, or another host has this host's identity.
    rejected_own_id,
    /// Authentic datagrams that were sealed with another key of the keyring than this host's primary.
    packets_older_key,
    /// Authentic datagrams thrown away because the owner was behind.
    packets_dropped,
    /// Datagrams that could not be sent: too large, or refused by the system.
    packets_unsent,
    /// Datagrams not sent because their receiver's version has no such message.
    packets_not_in_version,
    /// Datagrams received that only later versions read; upgrade this agent.
    packets_newer,
    /// Datagrams sent to tell a host how far this one reads.
    hellos_out,
    /// Claims without a proof: of hosts whose agent does not sign; upgrade it.
    claims_refused_unsigned,
    /// Claims with a proof that cannot be read.
    claims_refused_malformed,
    /// Claims with the proof of another host than the one they speak of.
    claims_refused_other_host,
    /// Claims that their host did not sign.
    claims_refused_signature,
    /// Claims of hosts that are revoked, or about them.
    claims_refused_revoked,
    /// Claims not looked at, because their teller made too many wrong ones within a second, or datagrams brought too many new ones.
    claims_refused_over_rate,
    /// Streams accepted from other hosts, handshake done.
    streams_in,
    /// Streams opened to other hosts, handshake done.
    streams_out,
    /// Connections closed without service: too many at once, or the handshake did not prove a node of this cluster.
    streams_refused,
    /// Streams that ended before their answer was through.
    stream_errors,
    /// Bytes of messages received over streams, before encryption.
    stream_bytes_in,
    /// Bytes of messages sent over streams, before encryption.
    stream_bytes_out,
    /// Requests not sent because the other host's version has no such request.
    requests_not_in_version,
    /// Commands refused because too many streams were waiting.
    calls_refused,
}

impl Counters {
    pub(super) fn claim_refused(&self, reason: &str) {
        let counter = match reason {
            "unsigned" => &self.claims_refused_unsigned,
            "malformed" => &self.claims_refused_malformed,
            "other_host" => &self.claims_refused_other_host,
            "revoked" => &self.claims_refused_revoked,
            _ => &self.claims_refused_signature,
        };
        counter.increment();
    }

    pub(super) fn rejected(&self, error: OpenError) {
        let counter = match error {
            OpenError::Malformed => &self.rejected_malformed,
            OpenError::Oversize(_) => &self.rejected_oversize,
            OpenError::Unauthenticated => &self.rejected_unauthenticated,
            OpenError::Replayed => &self.rejected_replayed,
            OpenError::OldEpoch => &self.rejected_old_epoch,
            OpenError::OwnId => &self.rejected_own_id,
        };
        counter.increment();
    }
}
