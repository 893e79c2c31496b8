//! Latencies, counted in buckets that are 3 % wide at most, so that a percentile of a million calls costs two kilobytes.

/// Each doubling is cut into 2^5 buckets.
const BITS: u32 = 5;
const BUCKETS: usize = 1 << BITS;

/// Counts by latency, in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

fn bucket_of(us: u64) -> usize {
    let us = usize::try_from(us).unwrap_or(usize::MAX);
    if us < BUCKETS {
        return us;
    }
    let shift = us.ilog2() - BITS;
    (shift as usize + 1) * BUCKETS + (us >> shift) % BUCKETS
}

/// The most that a bucket holds.
fn most_in(bucket: usize) -> u64 {
    let Some(shift) = (bucket / BUCKETS).checked_sub(1) else { return bucket as u64 };
    (((BUCKETS + bucket % BUCKETS + 1) as u64) << shift) - 1
}

impl Histogram {
    pub(crate) fn add(&mut self, us: u64) {
        let bucket = bucket_of(us);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
    }

    /// The nearest-rank percentile, in milliseconds, rounded up to its bucket's end; `None` of nothing.
    pub(crate) fn percentile_ms(&self, share: f64) -> Option<f64> {
        let rank = (share * self.total as f64).ceil().max(1.0);
        let mut seen = 0.0;
        let found = self.counts.iter().position(|count| {
            seen += *count as f64;
            *count > 0 && seen >= rank
        });
        found.map(|bucket| most_in(bucket) as f64 / 1000.0)
    }
}
