//! What happens next: one priority queue in virtual microseconds. Its entries are 16 bytes; events lie in a slab beside it, and
//! the commonest ones, the ticks of hosts, are in the entry itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An entry's key: the time in its upper 40 bits (twelve days of microseconds), then the order of arrival, which may wrap.
const SEQUENCE_BITS: u32 = 24;
/// Marks a slot that is a host's number.
const TICK: u32 = 1 << 31;

/// What [`Queue::pop`] hands out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<E> {
    /// A host's timer.
    Tick(u32),
    Event(E),
}

pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    slab: Vec<Option<E>>,
    free: Vec<u32>,
    sequence: u64,
    pub(crate) longest: usize,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { heap: BinaryHeap::new(), slab: Vec::new(), free: Vec::new(), sequence: 0, longest: 0 }
    }
}

impl<E> Queue<E> {
    fn enter(&mut self, at_us: u64, slot: u32) {
        self.sequence += 1;
        let order = self.sequence & ((1 << SEQUENCE_BITS) - 1);
        self.heap.push(Reverse((at_us << SEQUENCE_BITS | order, slot)));
        self.longest = self.longest.max(self.heap.len());
    }

    pub(crate) fn push_tick(&mut self, at_us: u64, host: u32) {
        self.enter(at_us, host | TICK);
    }

    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slab.push(Some(event));
                u32::try_from(self.slab.len() - 1).expect("fewer than 2^31 events wait")
            }
        };
        self.enter(at_us, slot);
    }

    /// The next entry that is due by `end_us`, and its time.
    pub(crate) fn pop(&mut self, end_us: u64) -> Option<(u64, Next<E>)> {
        let at_us = self.heap.peek()?.0.0 >> SEQUENCE_BITS;
        if at_us > end_us {
            return None;
        }
        let Reverse((_, slot)) = self.heap.pop()?;
        if slot & TICK != 0 {
            return Some((at_us, Next::Tick(slot & !TICK)));
        }
        self.free.push(slot);
        let event = self.slab[slot as usize].take().expect("a slot is freed once");
        Some((at_us, Next::Event(event)))
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_what_is_not_stays() {
        let mut queue = Queue::default();
        queue.push(30, 'c');
        queue.push(10, 'a');
        queue.push_tick(20, 7);
        queue.push(10, 'b');
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop(25)).collect();
        assert_eq!(popped, [(10, Next::Event('a')), (10, Next::Event('b')), (20, Next::Tick(7))]);
        assert_eq!((queue.len(), queue.pop(30)), (1, Some((30, Next::Event('c')))));
    }
}
