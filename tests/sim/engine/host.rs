//! One simulated machine: its process if it runs, its clock, its sockets, and what keeps it from running. The world moves it.

use std::collections::VecDeque;
use std::time::Duration;

use super::driven::{End, Now};
use super::observe::Traffic;

/// A kernel's socket buffer holds about this many small datagrams for a process that does not read.
pub(crate) const SOCKET_DATAGRAMS_MAX: usize = 256;

/// A host's clock: starts at zero with the process, may run fast or slow, and may jump ahead.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    since_us: u64,
    local_us: u64,
    /// Parts per million too fast; negative: too slow.
    drift_ppm: i64,
}

impl Clock {
    pub(crate) fn started(at_us: u64, drift_ppm: i64) -> Clock {
        Clock { since_us: at_us, local_us: 0, drift_ppm }
    }

    fn rate(&self) -> u64 {
        1_000_000_u64.saturating_add_signed(self.drift_ppm)
    }

    pub(crate) fn local(&self, at_us: u64) -> Now {
        let elapsed = at_us - self.since_us;
        let elapsed = if self.drift_ppm == 0 { elapsed } else { scale(elapsed, self.rate(), 1_000_000) };
        Duration::from_micros(self.local_us + elapsed)
    }

    /// When the clock will show `local`; never before it does.
    pub(crate) fn world(&self, local: Now) -> u64 {
        let local_us = u64::try_from(local.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let ahead = local_us.saturating_sub(self.local_us);
        if self.drift_ppm == 0 {
            return self.since_us.saturating_add(ahead);
        }
        self.since_us.saturating_add(scale(ahead, 1_000_000, self.rate()).saturating_add(1))
    }

    /// From now on it shows so much more.
    pub(crate) fn jump(&mut self, at_us: u64, by: Duration) {
        let local = self.local(at_us) + by;
        self.local_us = u64::try_from(local.as_micros()).unwrap_or(u64::MAX);
        self.since_us = at_us;
    }
}

fn scale(value: u64, by: u64, over: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(over)).unwrap_or(u64::MAX)
}

/// A call under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) token: u64,
    /// Which request of the call: a deadline of an earlier one is void.
    pub(crate) part: u32,
}

pub(crate) struct Host<C, I> {
    /// None: crashed, ended, or not started yet.
    pub(crate) core: Option<C>,
    /// A process that has ended by itself, and why.
    pub(crate) ended: Option<(End, C)>,
    /// Counts the starts; what was meant for an earlier one is void.
    pub(crate) life: u32,
    pub(crate) generation: u32,
    pub(crate) clock: Clock,
    pub(crate) drift_ppm: i64,
    /// The earliest tick in the queue.
    pub(crate) tick_at: Option<u64>,
    /// The process does nothing until then.
    pub(crate) busy_until: u64,
    /// Its timers run, but what it sends and what it is sent waits until then.
    pub(crate) messages_held_until: u64,
    /// The event that wakes it is in the queue.
    pub(crate) wakes_at: Option<u64>,
    /// What arrives meanwhile waits in its sockets (else it is lost, as with a machine that is suspended).
    pub(crate) sockets_keep: bool,
    /// A timer went off meanwhile.
    pub(crate) tick_waits: bool,
    pub(crate) inbox: VecDeque<I>,
    pub(crate) inbox_datagrams: usize,
    pub(crate) inbox_longest: usize,
    /// What every event costs its process.
    pub(crate) event_cost_us: u64,
    pub(crate) calls: Vec<Call>,
    pub(crate) traffic: Traffic,
}

impl<C, I> Host<C, I> {
    pub(crate) fn new() -> Host<C, I> {
        Host {
            core: None,
            ended: None,
            life: 0,
            generation: 0,
            clock: Clock::default(),
            drift_ppm: 0,
            tick_at: None,
            busy_until: 0,
            messages_held_until: 0,
            wakes_at: None,
            sockets_keep: true,
            tick_waits: false,
            inbox: VecDeque::new(),
            inbox_datagrams: 0,
            inbox_longest: 0,
            event_cost_us: 0,
            calls: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// The process is gone, and with it what its sockets held.
    pub(crate) fn stop(&mut self) -> Option<C> {
        self.inbox.clear();
        self.inbox_datagrams = 0;
        self.calls.clear();
        self.tick_at = None;
        self.tick_waits = false;
        self.core.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_fast_is_read_and_asked_alike() {
        for drift_ppm in [-50_000, 0, 300, 50_000] {
            let mut clock = Clock::started(5_000_000, drift_ppm);
            clock.jump(6_000_000, Duration::from_secs(60));
            for local_ms in [61_100, 70_000, 86_400_000] {
                let local = Duration::from_millis(local_ms);
                let at = clock.world(local);
                assert!(clock.local(at) >= local && clock.local(at - 10) < local, "{drift_ppm} {local:?}");
            }
        }
    }
}
