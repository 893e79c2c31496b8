//! News that waits to be told: memberlist's `TransmitLimitedQueue` (queue.go). What was told least goes first, of that the
//! largest, of those the newest; after a number of tellings that grows with log10(N) it is dropped. News of a host takes the
//! place of what still waits about the same host.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::message::News;

/// net.go, `compoundOverhead`: the length of each message in a compound.
pub(super) const COMPOUND_OVERHEAD: usize = 2;

/// Tellings so far, length, age.
type Place = (u16, Reverse<u16>, Reverse<u32>);

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, News>,
    about: HashMap<u32, Place>,
    serial: u32,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn tells_of(&self, host: u32) -> bool {
        self.about.contains_key(&host)
    }

    pub(super) fn push(&mut self, news: News, bytes: usize) {
        if let Some(old) = news.about().and_then(|host| self.about.remove(&host)) {
            self.waiting.remove(&old);
        }
        self.serial += 1;
        let length = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.put((0, Reverse(length), Reverse(self.serial)), news);
    }

    fn put(&mut self, place: Place, news: News) {
        if let Some(host) = news.about() {
            self.about.insert(host, place);
        }
        self.waiting.insert(place, news);
    }

    /// Takes what fits `free` bytes, into `told`, and says how many bytes that takes.
    pub(super) fn take(&mut self, free: usize, tellings_max: u16, told: &mut Vec<News>) -> usize {
        let mut used = 0;
        let mut again: Vec<(Place, News)> = Vec::new();
        let mut tier = self.waiting.first_key_value().map(|(place, _)| place.0);
        while let Some(tellings) = tier {
            let left = free.saturating_sub(used + COMPOUND_OVERHEAD);
            if left == 0 {
                break;
            }
            let length = u16::try_from(left).unwrap_or(u16::MAX);
            let from = (tellings, Reverse(length), Reverse(u32::MAX));
            let next = self.waiting.range((Bound::Included(from), Bound::Unbounded)).next();
            let Some((place, news)) = next.map(|(place, news)| (*place, *news)) else { break };
            if place.0 != tellings {
                tier = Some(place.0);
                continue;
            }
            self.waiting.remove(&place);
            news.about().and_then(|host| self.about.remove(&host));
            used += COMPOUND_OVERHEAD + usize::from(place.1.0);
            told.push(news);
            if place.0 + 1 < tellings_max {
                again.push(((place.0 + 1, place.1, place.2), news));
            }
        }
        again.into_iter().for_each(|(place, news)| self.put(place, news));
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(host: u32) -> News {
        News::Suspect { host, incarnation: 1, from: 0 }
    }

    #[test]
    fn newer_news_of_a_host_takes_the_place_of_older() {
        let mut queue = Queue::default();
        queue.push(suspect(1), 30);
        queue.push(News::Alive { host: 1, incarnation: 2 }, 60);
        assert_eq!(queue.len(), 1);
        let mut told = Vec::new();
        assert_eq!(queue.take(1000, 2, &mut told), 62);
        assert_eq!(told, [News::Alive { host: 1, incarnation: 2 }]);
    }

    #[test]
    fn what_was_told_least_goes_first_and_ends_after_its_tellings() {
        let mut queue = Queue::default();
        let tell = |queue: &mut Queue| {
            let mut told = Vec::new();
            queue.take(32, 2, &mut told);
            told.iter().filter_map(News::about).collect::<Vec<_>>()
        };
        queue.push(suspect(1), 30);
        assert_eq!(tell(&mut queue), [1]);
        queue.push(suspect(2), 30);
        assert_eq!(tell(&mut queue), [2]);
        assert_eq!(tell(&mut queue), [2], "the newest of one tier");
        assert_eq!(tell(&mut queue), [1]);
        assert!(queue.is_empty());
    }
}
