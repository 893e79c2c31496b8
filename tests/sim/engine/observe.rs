//! What is seen from outside: who held whom to be what, and when; how payloads spread; bytes. Counters that cost nothing, and
//! histories for those who ask for them.

use std::collections::HashMap;

use super::driven::{Kind, Now, State};

/// Bytes and datagrams of one host, by kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: [u64; 5],
    pub(crate) received: [u64; 5],
    /// Of what was sent in datagrams, to other zones.
    pub(crate) far: [u64; 5],
    pub(crate) datagrams_sent: u64,
    /// The largest message sent, by kind.
    pub(crate) largest: [usize; 5],
    pub(crate) datagrams_received: u64,
    /// Payloads that came, and those that were news.
    pub(crate) copies: u64,
    pub(crate) fresh: u64,
    second: u64,
    in_second: u64,
    /// The most bytes, sent and received, of any one second.
    pub(crate) peak: u64,
}

impl Traffic {
    pub(crate) fn send(&mut self, at_us: u64, kind: Kind, bytes: usize) {
        self.sent[kind as usize] += bytes as u64;
        self.largest[kind as usize] = self.largest[kind as usize].max(bytes);
        self.count(at_us, bytes);
    }

    pub(crate) fn receive(&mut self, at_us: u64, kind: Kind, bytes: usize) {
        self.received[kind as usize] += bytes as u64;
        self.count(at_us, bytes);
    }

    fn count(&mut self, at_us: u64, bytes: usize) {
        let second = at_us / 1_000_000;
        if second != self.second {
            self.second = second;
            self.in_second = 0;
        }
        self.in_second += bytes as u64;
        self.peak = self.peak.max(self.in_second);
    }

    pub(crate) fn sent_total(&self) -> u64 {
        self.sent.iter().sum()
    }

    pub(crate) fn received_total(&self) -> u64 {
        self.received.iter().sum()
    }

    /// What came on top of `earlier`.
    pub(crate) fn since(&self, earlier: &Traffic) -> Traffic {
        let less = |now: [u64; 5], then: [u64; 5]| std::array::from_fn(|kind| now[kind] - then[kind]);
        Traffic {
            sent: less(self.sent, earlier.sent),
            received: less(self.received, earlier.received),
            far: less(self.far, earlier.far),
            datagrams_sent: self.datagrams_sent - earlier.datagrams_sent,
            datagrams_received: self.datagrams_received - earlier.datagrams_received,
            copies: self.copies - earlier.copies,
            fresh: self.fresh - earlier.fresh,
            ..*self
        }
    }
}

/// Somebody changed its mind about somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) at: Now,
    pub(crate) viewer: u32,
    pub(crate) host: u32,
    pub(crate) generation: u32,
    pub(crate) state: State,
}

/// How one payload spreads.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) born: Now,
    /// When each host had it, in order.
    pub(crate) arrivals: Vec<(u32, Now)>,
    pub(crate) copies: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// Keep every sighting, not only counts.
    pub(crate) keeps_history: bool,
    pub(crate) history: Vec<Sighting>,
    /// How often anybody came to hold anybody so, by [`State`].
    pub(crate) counts: [u64; 5],
    /// Sightings of `Failed` of hosts whose process ran, by the subject.
    pub(crate) false_failures: Vec<(Now, u32, u32)>,
    pub(crate) false_suspicions: u64,
    watched: HashMap<u32, Vec<Sighting>>,
    items: HashMap<u64, Item>,
    pub(crate) events: u64,
    pub(crate) datagrams: u64,
    /// Datagrams that found a socket's buffer full.
    pub(crate) overflows: u64,
}

impl Observer {
    /// Keeps the sightings of this host from now on.
    pub(crate) fn watch(&mut self, host: u32) {
        self.watched.insert(host, Vec::new());
    }

    pub(crate) fn seen_of(&self, host: u32) -> &[Sighting] {
        self.watched.get(&host).map_or(&[], Vec::as_slice)
    }

    /// Follows this payload from now on.
    pub(crate) fn track(&mut self, item: u64, born: Now) {
        self.items.insert(item, Item { born, arrivals: Vec::new(), copies: 0 });
    }

    pub(crate) fn item(&self, item: u64) -> Option<&Item> {
        self.items.get(&item)
    }

    pub(super) fn saw(&mut self, sighting: Sighting, runs: bool) {
        self.counts[sighting.state as usize] += 1;
        if runs && sighting.state == State::Failed {
            self.false_failures.push((sighting.at, sighting.viewer, sighting.host));
        }
        self.false_suspicions += u64::from(runs && sighting.state == State::Suspect);
        if self.keeps_history {
            self.history.push(sighting);
        }
        if !self.watched.is_empty()
            && let Some(seen) = self.watched.get_mut(&sighting.host)
        {
            seen.push(sighting);
        }
    }

    pub(super) fn got(&mut self, at: Now, host: u32, item: u64, fresh: bool) {
        if self.items.is_empty() {
            return;
        }
        if let Some(tracked) = self.items.get_mut(&item) {
            tracked.copies += 1;
            if fresh {
                tracked.arrivals.push((host, at));
            }
        }
    }
}
