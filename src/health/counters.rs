//! What the checks count. Written by their tasks, read by whoever renders `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Health;

/// Counts of all checks of this host. Relaxed: each stands alone.
#[derive(Debug, Default)]
pub struct Counters {
    attempts: AtomicU64,
    transitions: AtomicU64,
    checks: [AtomicU64; 3],
}

impl Counters {
    /// Attempts made, reports taken and aliases looked at, since the start.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Changes of verdicts that were told, since the start.
    pub fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::Relaxed)
    }

    /// How many checks stand at `health` now.
    pub fn checks(&self, health: Health) -> u64 {
        self.of(health).load(Ordering::Relaxed)
    }

    pub(super) fn attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn transition(&self) {
        self.transitions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn came(&self, health: Health) {
        self.of(health).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn went(&self, health: Health) {
        self.of(health).fetch_sub(1, Ordering::Relaxed);
    }

    fn of(&self, health: Health) -> &AtomicU64 {
        match health {
            Health::Passing => &self.checks[0],
            Health::Warning => &self.checks[1],
            Health::Critical => &self.checks[2],
        }
    }
}
