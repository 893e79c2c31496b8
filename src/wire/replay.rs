//! The replay window: which counters of one sender's epoch have been seen. RFC 4303 §3.4.3 has the idea.
//!
//! Counters of authenticated packets come in; "new" or "seen or too old" goes out.

/// How far a packet may lag behind the newest. Reordering on a LAN or WAN is tens of packets; 1,024 bits are 128 bytes.
pub(crate) const WINDOW_PACKETS: u64 = 1024;

const WORD_BITS: u64 = 64;
const WORDS: usize = 16;

/// A sliding bitmap over the newest [`WINDOW_PACKETS`] counters.
#[derive(Clone)]
pub(crate) struct ReplayWindow {
    /// One above the newest counter seen; 0 before the first.
    next: u64,
    /// Bit `counter % WINDOW_PACKETS` tells whether `counter` was seen.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> ReplayWindow {
        ReplayWindow { next: 0, seen: [0; WORDS] }
    }

    /// True if `counter` was neither seen nor left behind.
    pub(crate) fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        let (word, bit) = place(counter);
        self.next - counter <= WINDOW_PACKETS && self.seen[word] & bit == 0
    }

    /// Marks `counter`, which [`ReplayWindow::is_new`], as seen. Only for authenticated packets.
    pub(crate) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            self.clear(counter);
            self.next = counter.saturating_add(1);
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }

    /// Forgets what slides out of the window when `counter` becomes the newest.
    fn clear(&mut self, counter: u64) {
        if counter - self.next >= WINDOW_PACKETS {
            self.seen = [0; WORDS];
            return;
        }
        for skipped in self.next..=counter {
            let (word, bit) = place(skipped);
            self.seen[word] &= !bit;
        }
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW_PACKETS;
    let word = usize::try_from(at / WORD_BITS).unwrap_or(0);
    (word, 1 << (at % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn accept(window: &mut ReplayWindow, counter: u64) -> bool {
        let new = window.is_new(counter);
        if new {
            window.mark(counter);
        }
        new
    }

    #[test]
    fn a_counter_is_new_once_and_within_the_window() {
        let mut window = ReplayWindow::new();
        assert!(accept(&mut window, 5000));
        assert!(!accept(&mut window, 5000));
        assert!(accept(&mut window, 5001 - WINDOW_PACKETS));
        assert!(!accept(&mut window, 5000 - WINDOW_PACKETS));
        assert!(accept(&mut window, 4999));
        assert!(!window.is_new(u64::MAX), "the last counter would leave no next one");
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(steps in prop::collection::vec((any::<bool>(), 0u64..3000), 1..600)) {
            let (mut window, mut seen, mut newest) = (ReplayWindow::new(), HashSet::new(), 0u64);
            for (ahead, distance) in steps {
                let counter = if ahead { newest + distance % 40 } else { newest.saturating_sub(distance) };
                let expected = !seen.contains(&counter) && counter + WINDOW_PACKETS > newest;
                prop_assert_eq!(accept(&mut window, counter), expected, "counter {} newest {}", counter, newest);
                seen.insert(counter);
                newest = newest.max(counter);
            }
        }
    }
}
