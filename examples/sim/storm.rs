//! Storms by the thousand: random faults by seed, then everything heals (see `engine::storm`). Each seed runs on one thread.
//! Each is printed with its seed, failures with every fault.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::engine::storm::{self, Summary};
use crate::engine::weft::Setup;

/// Fleets have up to so many hosts, if nobody says otherwise.
const HOSTS_MAX: u32 = 12;

/// Runs the storms of these seeds; false if any of them ended badly.
pub(crate) fn run(first: u64, seeds: u64, hosts: Option<u32>, threads: usize) -> bool {
    let (next, done) = (AtomicU64::new(first), Mutex::new((Vec::<Summary>::new(), Vec::<u64>::new())));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(seeds) {
                        return;
                    }
                    let result = storm::run_with(seed, hosts.unwrap_or(HOSTS_MAX), Setup::default());
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match result {
                        Ok(summary) => {
                            println!("{summary}");
                            done.0.push(summary);
                        }
                        Err(failure) => {
                            println!("{failure}");
                            done.1.push(failure.seed);
                        }
                    }
                }
            });
        }
    });
    let (summaries, failed) = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&summaries, begun.elapsed());
    if !failed.is_empty() {
        println!("failed: {} of {seeds}: {failed:?}", failed.len());
    }
    failed.is_empty()
}

fn report(summaries: &[Summary], took: Duration) {
    let quantiles = |of: fn(&Summary) -> f64| {
        let mut values: Vec<f64> = summaries.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0.0);
        format!("p50 {:.1}, p99 {:.1}, most {:.1}", at(50), at(99), at(100))
    };
    let events: u64 = summaries.iter().map(|summary| summary.events).sum();
    let faults: usize = summaries.iter().map(|summary| summary.faults).sum();
    println!(
        "{} storms that ended well: {faults} faults, {events} events in {:.0} s",
        summaries.len(),
        took.as_secs_f64()
    );
    println!(
        "members as they should be after healing, s: {}",
        quantiles(|summary| summary.members_after.as_secs_f64())
    );
    println!("and catalogs too, s: {}", quantiles(|summary| summary.calm_after.as_secs_f64()));
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let peak = quantiles(|summary| summary.bytes_peak_max as f64 / 1000.0);
    println!("busiest second of the busiest host, kB: {peak}");
}
