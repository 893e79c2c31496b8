//! The figures that the baselines run on, each with its source. No figure here is fitted to a measurement.

use std::time::Duration;

/// What one memberlist agent is set to. Names follow memberlist's `Config` where it has one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) indirect_checks: usize,
    /// A probe that got no answer by datagram is tried over TCP as well.
    pub(crate) tcp_fallback: bool,
    pub(crate) suspicion_mult: u32,
    /// A suspicion that nobody confirms lasts so many times longer; 1: all last the same.
    pub(crate) suspicion_max_timeout_mult: u32,
    /// Independent confirmations that shorten a suspicion all the way; 0: none count.
    pub(crate) confirmations: u32,
    /// Lifeguard's local health: the score stays below this; 1: it is always 0.
    pub(crate) awareness_max: u32,
    /// Helpers say that they got no answer either.
    pub(crate) nacks: bool,
    /// The ping to a suspect tells it that it is one.
    pub(crate) buddy: bool,
    pub(crate) gossip_interval: Duration,
    pub(crate) gossip_nodes: usize,
    pub(crate) gossip_to_the_dead: Duration,
    pub(crate) retransmit_mult: u32,
    pub(crate) push_pull_interval: Duration,
    /// The most bytes in a datagram.
    pub(crate) udp_buffer: usize,
    /// Serf: pause between tries to join.
    pub(crate) retry_join: Duration,
    /// Serf: pause between tries to reach a failed member; none: it is never tried.
    pub(crate) reconnect_interval: Option<Duration>,
    /// Serf: user events are remembered, and told again in push-pulls, for so many ticks of the Lamport clock.
    pub(crate) event_buffer: u32,
    /// Length of a host's name, which travels in every message.
    pub(crate) name_bytes: usize,
    /// What Serf adds to an ack: its network coordinate.
    pub(crate) ack_payload_bytes: usize,
}

impl Parameters {
    /// memberlist's `DefaultLANConfig` (config.go) under Serf 0.9's defaults (serf/config.go and the agent's
    /// `-retry-interval`, which the measured run sets to 1 s).
    pub(crate) fn memberlist_lan() -> Parameters {
        Parameters {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_checks: 3,
            tcp_fallback: true,
            suspicion_mult: 4,
            suspicion_max_timeout_mult: 6,
            // state.go: SuspicionMult − 2.
            confirmations: 2,
            awareness_max: 8,
            nacks: true,
            buddy: true,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_the_dead: Duration::from_secs(30),
            retransmit_mult: 4,
            push_pull_interval: Duration::from_secs(30),
            udp_buffer: 1400,
            retry_join: Duration::from_secs(1),
            reconnect_interval: Some(Duration::from_secs(30)),
            event_buffer: 512,
            name_bytes: 8,
            // Version byte, and a msgpack map of Vec (8 floats), Error, Adjustment and Height.
            ack_payload_bytes: 130,
        }
    }

    /// SWIM with suspicion (Das, Gupta, Motivala 2002, sections 3 to 4.3) at the same pace: what the Lifeguard paper compares
    /// with (section V: memberlist with Lifeguard's parts switched off). A suspicion lasts 4 × log10(N) intervals, always.
    pub(crate) fn plain_swim() -> Parameters {
        Parameters {
            suspicion_max_timeout_mult: 1,
            confirmations: 0,
            awareness_max: 1,
            nacks: false,
            buddy: false,
            reconnect_interval: None,
            ack_payload_bytes: 0,
            ..Parameters::memberlist_lan()
        }
    }

    /// util.go, `suspicionTimeout`: the least time of a suspicion among `hosts`.
    pub(crate) fn suspicion_min(&self, hosts: usize) -> Duration {
        let digits = (hosts.max(1) as f64).log10().max(1.0);
        self.probe_interval.mul_f64((digits * 1000.0).floor() / 1000.0 * f64::from(self.suspicion_mult))
    }

    /// util.go, `retransmitLimit`: how often each host sends one piece of news.
    pub(crate) fn retransmissions(&self, hosts: usize) -> u16 {
        // ⌈log10(hosts + 1)⌉ is the number of decimal digits of `hosts`.
        let digits = hosts.max(1).ilog10() + 1;
        u16::try_from(self.retransmit_mult * digits).unwrap_or(u16::MAX)
    }

    /// util.go, `pushPullScale`: beyond 32 hosts the pause grows with each doubling.
    pub(crate) fn push_pull_pause(&self, hosts: usize) -> Duration {
        const FLAT_UP_TO: usize = 32;
        if hosts <= FLAT_UP_TO {
            return self.push_pull_interval;
        }
        // ⌈log2(hosts / 32)⌉
        let doublings = hosts.div_ceil(FLAT_UP_TO).next_power_of_two().ilog2();
        self.push_pull_interval * (doublings + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_scale_as_memberlist_documents() {
        let lan = Parameters::memberlist_lan();
        assert_eq!(lan.suspicion_min(5), Duration::from_secs(4));
        assert_eq!(lan.suspicion_min(1000), Duration::from_secs(12));
        // config.go: "for 10k nodes this will give a max timeout of 120 seconds" (it gives 96; the comment is for mult 5).
        assert_eq!(lan.suspicion_min(10_000) * 6, Duration::from_secs(96));
        assert_eq!([9, 10, 99, 100].map(|hosts| lan.retransmissions(hosts)), [4, 8, 8, 12]);
        let pauses = [32, 33, 64, 65, 10_000].map(|hosts| lan.push_pull_pause(hosts).as_secs());
        assert_eq!(pauses, [30, 60, 60, 90, 300]);
    }
}
