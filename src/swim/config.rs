//! The figures that membership runs on, and how they relate. Plain data: made by the owner, read by every other file here.

use std::time::Duration;

/// The figures of the failure detector.
///
/// What a crash costs, with the defaults and N hosts: until somebody probes the dead host about one `probe_interval`; until
/// that probe has failed `probe_timeout` + `probe_interval`; until the suspicion ends between [`Config::suspicion_min_for`]
/// (others confirm) and `suspicion_max_mult` times that (nobody does); then a few network latencies until all know. That is
/// about 3 s for 3 to 50 hosts, and 5 s more where nobody confirms.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// One host is probed per interval, so a host sends and gets about two datagrams an interval, whatever N is. Stretched up
    /// to [`HEALTH_SCORE_MAX`]-fold while this host doubts itself.
    pub probe_interval: Duration,
    /// How long a ping may take before others are asked to try; must be below `probe_interval`, above the usual round
    /// trip. Those others, and the stream probe, then have one `probe_interval` to answer.
    pub probe_timeout: Duration,
    /// How many others are asked. Each must fail before anybody is suspected.
    pub indirect_probes: usize,
    /// A confirmed suspicion lasts `suspicion_mult` × log10(N) × `probe_interval`, at least `suspicion_min`. Below 2, a
    /// refutation can come too late.
    pub suspicion_mult: u32,
    /// The floor under that. A host may be silent for so long (a live migration, a full disk queue) before it is called
    /// failed.
    pub suspicion_min: Duration,
    /// An unconfirmed suspicion lasts so many times longer than a confirmed one.
    pub suspicion_max_mult: u32,
    /// Independent accusers beyond the first that shorten a suspicion all the way (Lifeguard's K).
    pub confirmations: usize,
    /// Pause between two rounds of gossip while there is news. The first news after a pause goes out at once; without news
    /// nothing is sent.
    pub gossip_interval: Duration,
    /// Hosts that get each round of gossip.
    pub gossip_fanout: usize,
    /// A claim is sent `retransmit_mult` × ⌈log10(N+1)⌉ times by each host, and ten times at least: with c copies from each, a
    /// host is missed by chance once in e^c. 4 reaches all of 1,000 hosts through heavy loss.
    pub retransmit_mult: u32,
    /// Pause between two push-pull exchanges with a random host. They cost O(N) bytes, so the pause grows with N beyond
    /// [`SYNC_PEERS_FLAT`] hosts.
    pub sync_interval: Duration,
    /// Pause between two tries to reach a member that is held as failed.
    pub reconnect_interval: Duration,
    /// How long failed and left members are kept.
    pub departed_lifetime: Duration,
    /// A tick that comes later than this is a stall of this host: it voids its own open probes instead of accusing.
    pub stall_after: Duration,
    /// Bytes of claims that a datagram may carry, by [`super::claim_bytes_max`]'s count. With seal, header and probe it must
    /// stay within the datagram (1,200 bytes).
    pub claims_bytes_max: usize,
    /// Members that are held at most; claims about further hosts are dropped. It bounds memory against a peer that invents
    /// hosts.
    pub members_max: usize,
}

/// Lifeguard's limit of the local health score: a host in doubt probes at a ninth of its pace.
pub const HEALTH_SCORE_MAX: u32 = 8;
/// Up to so many hosts the exchange's pause is `sync_interval`; beyond, it grows so that bytes per second stay flat.
pub const SYNC_PEERS_FLAT: usize = 32;

/// See [`Config::retransmit_mult`].
const RETRANSMISSIONS_MIN: u32 = 10;

impl Default for Config {
    fn default() -> Config {
        Config {
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(250),
            indirect_probes: 3,
            suspicion_mult: 2,
            suspicion_min: Duration::from_millis(1500),
            suspicion_max_mult: 4,
            confirmations: 3,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            retransmit_mult: 4,
            sync_interval: Duration::from_secs(60),
            reconnect_interval: Duration::from_secs(5),
            departed_lifetime: Duration::from_secs(72 * 3600),
            stall_after: Duration::from_millis(500),
            claims_bytes_max: 1000,
            members_max: 16_384,
        }
    }
}

impl Config {
    /// How long a suspicion lasts among `hosts` hosts once enough others confirmed it.
    pub fn suspicion_min_for(&self, hosts: usize) -> Duration {
        let digits = f64::from(u32::try_from(hosts).unwrap_or(u32::MAX)).max(10.0).log10();
        self.probe_interval.mul_f64(f64::from(self.suspicion_mult) * digits).max(self.suspicion_min)
    }

    /// How long a suspicion lasts that nobody confirms.
    pub fn suspicion_max_for(&self, hosts: usize) -> Duration {
        self.suspicion_min_for(hosts) * self.suspicion_max_mult.max(1)
    }

    /// How often each host sends a claim.
    pub(super) fn retransmissions(&self, hosts: usize) -> u32 {
        // ⌈log10(hosts + 1)⌉ is the number of decimal digits of `hosts`.
        let digits = hosts.max(1).ilog10() + 1;
        (self.retransmit_mult.max(1) * digits).max(RETRANSMISSIONS_MIN)
    }

    /// The pause between two push-pull exchanges among `hosts` hosts.
    pub(super) fn sync_pause(&self, hosts: usize) -> Duration {
        let times = hosts.div_ceil(SYNC_PEERS_FLAT).max(1);
        self.sync_interval.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_grows_with_the_logarithm_of_the_fleet() {
        let config = Config::default();
        assert_eq!(config.suspicion_min_for(3), Duration::from_millis(1500));
        assert_eq!(config.suspicion_min_for(1000), Duration::from_secs(3));
        assert_eq!(config.suspicion_max_for(1000), Duration::from_secs(12));
    }

    #[test]
    fn claims_are_sent_a_bounded_number_of_times() {
        let config = Config::default();
        assert_eq!([1, 9, 10, 99, 100, 1000].map(|hosts| config.retransmissions(hosts)), [10, 10, 10, 10, 12, 16]);
    }

    #[test]
    fn push_pull_costs_the_same_bytes_per_second_at_any_size() {
        let config = Config::default();
        assert_eq!(config.sync_pause(3), Duration::from_secs(60));
        assert_eq!(config.sync_pause(320), Duration::from_secs(600));
    }
}
