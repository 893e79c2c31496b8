//! The network between simulated hosts: latency, loss, and cuts in one direction or both. It decides the fate of a packet and
//! of a stream; it moves nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A host by its number in the world.
pub(crate) type HostIndex = usize;

pub(crate) struct Network {
    /// One way, the least and the most.
    pub(crate) latency: (Duration, Duration),
    /// Share of datagrams lost on every link.
    pub(crate) loss: f64,
    /// Share lost on single directed links instead.
    link_loss: BTreeMap<(HostIndex, HostIndex), f64>,
    /// Hosts in different groups do not reach each other. Who is in no group is in a group with all such hosts.
    groups: BTreeMap<HostIndex, usize>,
    /// Directed links that carry nothing.
    blocked: BTreeSet<(HostIndex, HostIndex)>,
}

impl Network {
    /// A calm local network.
    pub(crate) fn calm() -> Network {
        Network {
            latency: (Duration::from_micros(200), Duration::from_millis(2)),
            loss: 0.0,
            link_loss: BTreeMap::new(),
            groups: BTreeMap::new(),
            blocked: BTreeSet::new(),
        }
    }

    pub(crate) fn lose(&mut self, from: HostIndex, to: HostIndex, share: f64) {
        self.link_loss.insert((from, to), share);
    }

    pub(crate) fn block(&mut self, from: HostIndex, to: HostIndex) {
        self.blocked.insert((from, to));
    }

    /// Cuts the network into these groups.
    pub(crate) fn partition(&mut self, groups: &[Vec<HostIndex>]) {
        self.groups.clear();
        for (number, group) in groups.iter().enumerate() {
            self.groups.extend(group.iter().map(|host| (*host, number)));
        }
    }

    /// Ends every cut. Loss stays.
    pub(crate) fn heal(&mut self) {
        self.groups.clear();
        self.blocked.clear();
    }

    fn carries(&self, from: HostIndex, to: HostIndex) -> bool {
        self.groups.get(&from) == self.groups.get(&to) && !self.blocked.contains(&(from, to))
    }

    /// How long a datagram takes, or nothing if it is lost.
    pub(crate) fn datagram(&self, rng: &mut ChaCha8Rng, from: HostIndex, to: HostIndex) -> Option<Duration> {
        let loss = self.link_loss.get(&(from, to)).copied().unwrap_or(self.loss);
        (self.carries(from, to) && !rng.random_bool(loss)).then(|| self.one_way(rng))
    }

    /// How long a stream takes to be there, its handshakes included, or nothing if it cannot be. Loss only costs it time:
    /// TCP sends again.
    pub(crate) fn stream(&self, rng: &mut ChaCha8Rng, from: HostIndex, to: HostIndex) -> Option<Duration> {
        /// Beyond this, retransmission does not get a handshake through in useful time.
        const LOSS_MAX: f64 = 0.5;
        /// Linux's least retransmission timeout.
        const RETRANSMIT: Duration = Duration::from_millis(200);
        let mut time = Duration::ZERO;
        for (from, to) in [(from, to), (to, from), (from, to), (to, from), (from, to)] {
            let loss = self.link_loss.get(&(from, to)).copied().unwrap_or(self.loss);
            if !self.carries(from, to) || loss > LOSS_MAX {
                return None;
            }
            while rng.random_bool(loss) {
                time += RETRANSMIT;
            }
            time += self.one_way(rng);
        }
        Some(time)
    }

    pub(crate) fn one_way(&self, rng: &mut ChaCha8Rng) -> Duration {
        rng.random_range(self.latency.0..=self.latency.1)
    }
}
