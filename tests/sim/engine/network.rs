//! The network between simulated hosts: latency, loss, duplication, reordering, and cuts in one direction or both. It decides
//! the fate of a packet and of a stream; it moves nothing itself.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// Beyond this loss, retransmission does not get a handshake through in useful time.
const STREAM_LOSS_MAX: f64 = 0.5;
/// Linux's least retransmission timeout; it doubles.
const RETRANSMIT_US: u64 = 200_000;
/// What a stream carries: about a gigabit per second.
const STREAM_BYTES_PER_US: u64 = 125;
/// Packets of a stream's handshakes, TCP's and TLS's, until the request is there.
const HANDSHAKE_TRIPS: usize = 5;

/// How far apart hosts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Latency {
    /// One way, the least and the most, in microseconds.
    Lan(u32, u32),
    /// Three zones of one region: below a millisecond within, one or two between.
    Zones,
    /// Two continents: 40 ms between.
    Continents,
}

impl Latency {
    /// A calm local network.
    pub(crate) const CALM: Latency = Latency::Lan(200, 2000);

    /// Into how many zones the hosts fall, by turns.
    pub(crate) fn zones(self) -> u32 {
        match self {
            Latency::Lan(..) => 1,
            Latency::Zones => 3,
            Latency::Continents => 2,
        }
    }

    /// True if the two are in different zones.
    pub(crate) fn is_far(self, from: u32, to: u32) -> bool {
        from % self.zones() != to % self.zones()
    }

    /// The least and the span of one way.
    fn range(self, from: u32, to: u32) -> (u64, u64) {
        match self {
            Latency::Lan(least, most) => (u64::from(least), u64::from(most - least)),
            Latency::Zones if self.is_far(from, to) => (600, 1400),
            Latency::Zones => (100, 400),
            Latency::Continents if self.is_far(from, to) => (38_000, 6000),
            Latency::Continents => (200, 1800),
        }
    }
}

pub(crate) struct Network {
    pub(crate) latency: Latency,
    /// Share of datagrams lost on every link.
    pub(crate) loss: f64,
    /// Share of datagrams that arrive twice.
    pub(crate) duplicated: f64,
    /// Share of datagrams that are late by up to `late_us_max`, and so overtaken.
    pub(crate) late: f64,
    pub(crate) late_us_max: u64,
    /// Share lost on single directed links instead.
    link_loss: HashMap<(u32, u32), f64>,
    /// Hosts in different groups do not reach each other. Who is in no group is in group 0 with all such hosts.
    groups: Vec<u16>,
    /// Directed links that carry nothing.
    blocked: HashSet<(u32, u32)>,
    /// Hosts that nothing reaches.
    deaf: HashSet<u32>,
    /// Hosts that reach nobody.
    mute: HashSet<u32>,
    /// False: none of the above need be looked at.
    is_cut: bool,
}

impl Network {
    pub(crate) fn new(latency: Latency) -> Network {
        Network {
            latency,
            loss: 0.0,
            duplicated: 0.0,
            late: 0.0,
            late_us_max: 0,
            link_loss: HashMap::new(),
            groups: Vec::new(),
            blocked: HashSet::new(),
            deaf: HashSet::new(),
            mute: HashSet::new(),
            is_cut: false,
        }
    }

    pub(crate) fn lose(&mut self, from: u32, to: u32, share: f64) {
        self.link_loss.insert((from, to), share);
        self.is_cut = true;
    }

    pub(crate) fn block(&mut self, from: u32, to: u32) {
        self.blocked.insert((from, to));
        self.is_cut = true;
    }

    /// Nothing reaches the host any more.
    pub(crate) fn deafen(&mut self, host: u32) {
        self.deaf.insert(host);
        self.is_cut = true;
    }

    /// Nothing that the host says reaches anybody.
    pub(crate) fn silence(&mut self, host: u32) {
        self.mute.insert(host);
        self.is_cut = true;
    }

    /// The host's cable is in again.
    pub(crate) fn plug(&mut self, host: u32) {
        self.deaf.remove(&host);
        self.mute.remove(&host);
    }

    /// The host's cable is out.
    pub(crate) fn unplug(&mut self, host: u32) {
        self.deafen(host);
        self.silence(host);
    }

    /// Cuts the network into these groups.
    pub(crate) fn partition(&mut self, groups: &[Vec<u32>]) {
        self.groups.clear();
        for (number, group) in (1..).zip(groups) {
            for host in group {
                let host = *host as usize;
                if self.groups.len() <= host {
                    self.groups.resize(host + 1, 0);
                }
                self.groups[host] = number;
            }
        }
        self.is_cut = true;
    }

    /// Ends every cut. Loss on all links stays.
    pub(crate) fn heal(&mut self) {
        self.groups.clear();
        self.blocked.clear();
        self.deaf.clear();
        self.mute.clear();
        self.is_cut = !self.link_loss.is_empty();
    }

    /// Ends everything that is not as it should be.
    pub(crate) fn calm(&mut self) {
        self.heal();
        self.link_loss.clear();
        self.is_cut = false;
        (self.loss, self.duplicated, self.late) = (0.0, 0.0, 0.0);
    }

    /// True if packets go that way at all.
    pub(crate) fn carries(&self, from: u32, to: u32) -> bool {
        let group = |host: u32| self.groups.get(host as usize).copied().unwrap_or(0);
        !self.is_cut
            || (group(from) == group(to)
                && !self.blocked.contains(&(from, to))
                && !self.mute.contains(&from)
                && !self.deaf.contains(&to))
    }

    fn loss_of(&self, from: u32, to: u32) -> f64 {
        let special = if self.is_cut { self.link_loss.get(&(from, to)).copied() } else { None };
        special.unwrap_or(self.loss)
    }

    /// How many microseconds a datagram takes, or nothing if it is lost.
    pub(crate) fn datagram(&self, rng: &mut ChaCha8Rng, from: u32, to: u32) -> Option<u64> {
        // One draw for both: the upper half decides loss, the lower latency.
        let draw = rng.next_u64();
        let lost = (draw >> 32) as f64 / f64::from(u32::MAX) < self.loss_of(from, to);
        if lost || !self.carries(from, to) {
            return None;
        }
        let (least, span) = self.latency.range(from, to);
        let mut time = least + (((draw & u64::from(u32::MAX)) * (span + 1)) >> 32);
        if self.late > 0.0 && rng.random_bool(self.late) {
            time += rng.random_range(0..=self.late_us_max);
        }
        Some(time)
    }

    /// True if this datagram arrives twice.
    pub(crate) fn duplicates(&self, rng: &mut ChaCha8Rng) -> bool {
        self.duplicated > 0.0 && rng.random_bool(self.duplicated)
    }

    /// How many microseconds `bytes` take over a stream, or nothing if they do not arrive. Loss only costs time: TCP sends again.
    pub(crate) fn stream(&self, rng: &mut ChaCha8Rng, from: u32, to: u32, bytes: usize, fresh: bool) -> Option<u64> {
        let mut time = bytes as u64 / STREAM_BYTES_PER_US;
        let trips = if fresh { HANDSHAKE_TRIPS } else { 1 };
        let ways = [(from, to), (to, from)];
        if ways.iter().any(|(from, to)| !self.carries(*from, *to) || self.loss_of(*from, *to) > STREAM_LOSS_MAX) {
            return None;
        }
        for trip in 0..trips {
            let (from, to) = ways[trip % 2];
            let loss = self.loss_of(from, to);
            let mut pause = RETRANSMIT_US;
            while loss > 0.0 && rng.random_bool(loss) {
                time += pause;
                pause *= 2;
            }
            time += self.one_way(rng, from, to);
        }
        Some(time)
    }

    pub(crate) fn one_way(&self, rng: &mut ChaCha8Rng, from: u32, to: u32) -> u64 {
        let (least, span) = self.latency.range(from, to);
        rng.random_range(least..=least + span)
    }

    /// The longest that a datagram is under way.
    pub(crate) fn latency_max(&self) -> Duration {
        let usual = match self.latency {
            Latency::Lan(_, most) => u64::from(most),
            Latency::Zones => 2000,
            Latency::Continents => 44_000,
        };
        Duration::from_micros(usual + self.late_us_max)
    }
}
