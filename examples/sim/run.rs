//! How measurements are run: what was asked for, several seeds at once, and word of it on stderr.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::protocol::Name;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) protocols: Vec<Name>,
    /// Fleet sizes; empty: the scenario's own.
    pub(crate) hosts: Vec<u32>,
    pub(crate) first_seed: u64,
    pub(crate) seeds: u64,
    pub(crate) threads: usize,
    /// How long the quiet day is.
    pub(crate) hours: u32,
}

impl Wanted {
    /// The sizes to measure: those asked for, else `usual`.
    pub(crate) fn sizes(&self, usual: &[u32]) -> Vec<u32> {
        if self.hosts.is_empty() { usual.to_vec() } else { self.hosts.clone() }
    }

    /// Measures with every seed, on as many threads as allowed (each fleet runs on one), and gives the results in the
    /// seeds' order.
    pub(crate) fn each_seed<T: Send>(&self, what: &str, seeds: u64, measure: impl Fn(u64) -> T + Sync) -> Vec<T> {
        let begun = Instant::now();
        let count = usize::try_from(seeds).unwrap_or(usize::MAX);
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results: Mutex<Vec<Option<T>>> = Mutex::new((0..count).map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..self.threads.clamp(1, count.max(1)) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return;
                        }
                        let seed = self.first_seed + index as u64;
                        let result = measure(seed);
                        results.lock().expect("no thread panicked")[index] = Some(result);
                        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                        eprintln!(
                            "seed={seed}: {what}: {done} of {count} seeds, {:.0} s",
                            begun.elapsed().as_secs_f64()
                        );
                    }
                });
            }
        });
        results.into_inner().expect("no thread panicked").into_iter().flatten().collect()
    }
}
