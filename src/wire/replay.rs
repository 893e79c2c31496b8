//! Which packets came before: the tags of those opened lately. A tag is a packet's own, so that a packet is known again whatever
//! sender, start and counter it names.
//!
//! A window over counters (RFC 4303 §3.4.3) is what one uses where only the sender has the key. Here all hosts have it: one that
//! was stolen seals packets with counters far ahead in a host's name, and the window would take that host's own for old ones.

use std::collections::{HashSet, VecDeque};

/// Packets remembered: a minute or more of a busy host's, in less than a megabyte. What is older is old news, which the cores
/// bear: answers are matched to numbers that were drawn for one question, claims and records are signed and ordered.
pub(crate) const RECENT_PACKETS: usize = 32_768;

/// Half of a tag: 2^-64 that a packet is taken for another.
type Tag = u64;

/// The packets opened last.
#[derive(Default)]
pub(crate) struct Recent {
    seen: HashSet<Tag>,
    order: VecDeque<Tag>,
}

impl Recent {
    /// True if a packet that ends in these bytes is among the last opened.
    pub(crate) fn holds(&self, packet: &[u8]) -> bool {
        tag_of(packet).is_some_and(|tag| self.seen.contains(&tag))
    }

    /// Remembers an authentic packet.
    pub(crate) fn mark(&mut self, packet: &[u8]) {
        let Some(tag) = tag_of(packet).filter(|tag| self.seen.insert(*tag)) else { return };
        self.order.push_back(tag);
        if self.order.len() > RECENT_PACKETS
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }
}

fn tag_of(packet: &[u8]) -> Option<Tag> {
    packet.last_chunk().map(|tag| u64::from_be_bytes(*tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u64) -> Vec<u8> {
        [&[7; 40][..], &number.to_be_bytes()].concat()
    }

    #[test]
    fn a_packet_is_known_again_until_so_many_others_came() {
        let mut recent = Recent::default();
        let count = RECENT_PACKETS as u64;
        for number in 0..count {
            assert!(!recent.holds(&packet(number)));
            recent.mark(&packet(number));
            recent.mark(&packet(number));
        }
        assert!((0..count).all(|number| recent.holds(&packet(number))));
        recent.mark(&packet(count));
        assert!(!recent.holds(&packet(0)) && recent.holds(&packet(1)) && recent.holds(&packet(count)));
        assert_eq!((recent.seen.len(), recent.order.len()), (RECENT_PACKETS, RECENT_PACKETS), "no more is kept");
    }

    #[test]
    fn what_is_too_short_for_a_tag_is_nothing() {
        let mut recent = Recent::default();
        recent.mark(&[1, 2, 3]);
        assert!(!recent.holds(&[1, 2, 3]) && recent.seen.is_empty());
    }
}
