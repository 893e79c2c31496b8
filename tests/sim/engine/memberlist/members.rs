//! The table of members, eight bytes a pair, and the order in which they are probed.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::message::Held;

/// Incarnation above, state in the lowest three bits; 0: not known. And when that last changed, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Member {
    packed: u32,
    changed_ms: u32,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    held: Vec<Member>,
    /// All members, this host and the recently dead included, shuffled: memberlist's `nodes`.
    order: Vec<u32>,
    next: usize,
}

fn code(held: Held) -> u32 {
    match held {
        Held::Alive => 1,
        Held::Suspect => 2,
        Held::Dead => 3,
        Held::Left => 4,
    }
}

impl Members {
    pub(super) fn get(&self, host: u32) -> Option<(u32, Held)> {
        let packed = self.held.get(host as usize)?.packed;
        let held = match packed & 7 {
            1 => Held::Alive,
            2 => Held::Suspect,
            3 => Held::Dead,
            4 => Held::Left,
            _ => return None,
        };
        Some((packed >> 3, held))
    }

    pub(super) fn is(&self, host: u32, held: Held) -> bool {
        self.held.get(host as usize).is_some_and(|member| member.packed & 7 == code(held))
    }

    /// memberlist's estimate of the number of hosts.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// state.go, `aliveNode`: a new member is put at a random place, so that it is probed soon on average.
    pub(super) fn add(&mut self, host: u32, rng: &mut ChaCha8Rng) {
        self.order.push(host);
        let last = self.order.len() - 1;
        if last > 0 {
            self.order.swap(rng.random_range(0..last), last);
        }
    }

    /// All of them at once, in random order.
    pub(super) fn fill(&mut self, hosts: u32, rng: &mut ChaCha8Rng) {
        self.held = vec![Member { packed: 1 << 3 | code(Held::Alive), changed_ms: 0 }; hosts as usize];
        self.order = (0..hosts).collect();
        self.order.shuffle(rng);
        self.next = rng.random_range(0..self.order.len());
    }

    pub(super) fn set(&mut self, now: Duration, host: u32, incarnation: u32, held: Held) {
        let index = host as usize;
        if index >= self.held.len() {
            self.held.resize(index + 1, Member::default());
        }
        let member = &mut self.held[index];
        if member.packed & 7 != code(held) {
            member.changed_ms = u32::try_from(now.as_millis()).unwrap_or(u32::MAX);
        }
        member.packed = incarnation << 3 | code(held);
    }

    fn since(&self, now: Duration, host: u32) -> Duration {
        let changed = self.held.get(host as usize).map_or(0, |member| member.changed_ms);
        now.saturating_sub(Duration::from_millis(u64::from(changed)))
    }

    /// True for those who are gossiped to: the living, and the dead for a while (they may refute).
    pub(super) fn hears_gossip(&self, now: Duration, host: u32, to_the_dead: Duration) -> bool {
        match self.get(host) {
            Some((_, Held::Alive | Held::Suspect)) => true,
            Some((_, Held::Dead)) => self.since(now, host) <= to_the_dead,
            Some((_, Held::Left)) | None => false,
        }
    }

    /// state.go, `probe`: the next one to be probed. At the end of the round the long dead are forgotten, the rest shuffled.
    pub(super) fn next_probe(
        &mut self,
        now: Duration,
        me: u32,
        to_the_dead: Duration,
        rng: &mut ChaCha8Rng,
    ) -> Option<u32> {
        let mut looked_at = 0;
        while looked_at < self.order.len() {
            looked_at += 1;
            if self.next >= self.order.len() {
                self.reap(now, to_the_dead);
                self.order.shuffle(rng);
                self.next = 0;
                continue;
            }
            let host = self.order[self.next];
            self.next += 1;
            if host != me && (self.is(host, Held::Alive) || self.is(host, Held::Suspect)) {
                return Some(host);
            }
        }
        None
    }

    fn reap(&mut self, now: Duration, to_the_dead: Duration) {
        let mut order = std::mem::take(&mut self.order);
        order.retain(|host| {
            let departed = self.is(*host, Held::Dead) || self.is(*host, Held::Left);
            let kept = !departed || self.since(now, *host) <= to_the_dead;
            if !kept {
                self.held[*host as usize] = Member::default();
            }
            kept
        });
        self.order = order;
    }

    /// util.go, `kRandomNodes`: up to `count` different members that fit, by at most three draws a member.
    pub(super) fn sample(&self, count: usize, rng: &mut ChaCha8Rng, fits: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..3 * self.order.len() {
            if chosen.len() == count {
                break;
            }
            let host = self.order[rng.random_range(0..self.order.len())];
            if !chosen.contains(&host) && fits(host) {
                chosen.push(host);
            }
        }
        chosen
    }

    pub(super) fn known(&self) -> impl Iterator<Item = (u32, u32, Held)> {
        self.order.iter().filter_map(|host| self.get(*host).map(|(incarnation, held)| (*host, incarnation, held)))
    }
}
