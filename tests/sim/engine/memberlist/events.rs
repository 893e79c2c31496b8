//! Serf's user events (serf/serf.go): each is handled once, those of the last 512 ticks of the Lamport clock are remembered and
//! told again in push-pulls, older ones are refused. What a registration travels as in the baselines.

use std::collections::{HashSet, VecDeque};

use super::message::Event;

#[derive(Debug, Default)]
pub(super) struct Events {
    clock: u32,
    recent: VecDeque<Event>,
    seen: HashSet<u64>,
}

impl Events {
    /// A new one of this host.
    pub(super) fn begin(&mut self, item: u64, bytes: u16, buffer: u32) -> Event {
        self.clock += 1;
        let event = Event { item, time: self.clock, bytes };
        self.remember(event, buffer);
        event
    }

    /// True if it was not known yet.
    pub(super) fn take(&mut self, event: Event, buffer: u32) -> bool {
        self.clock = self.clock.max(event.time + 1);
        let too_old = event.time + buffer < self.clock;
        if too_old || self.seen.contains(&event.item) {
            return false;
        }
        self.remember(event, buffer);
        true
    }

    fn remember(&mut self, event: Event, buffer: u32) {
        self.seen.insert(event.item);
        self.recent.push_back(event);
        while let Some(oldest) = self.recent.front().copied().filter(|oldest| oldest.time + buffer < self.clock) {
            self.recent.pop_front();
            self.seen.remove(&oldest.item);
        }
    }

    pub(super) fn recent(&self) -> Vec<Event> {
        self.recent.iter().copied().collect()
    }

    pub(super) fn has(&self, item: u64) -> bool {
        self.seen.contains(&item)
    }
}
