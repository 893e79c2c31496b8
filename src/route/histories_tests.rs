//! Whole histories of calls, by seed: ejection and choice together, as a worker has them. No sockets, no clock.

use std::time::Duration;

use proptest::prelude::*;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{
    PeakEwma, Ring, RoundRobin, Standing, Track, choose, choose_by_estimate, hash, may_eject, panics, pick_weighted,
};
use crate::model::{Now, Outlier};

const PANIC_PERCENT: u8 = 50;

#[derive(Debug, Clone, Copy)]
enum By {
    Open,
    Latency,
    Weight,
    Turns,
    Key,
}

/// A worker and the instances of one service.
struct Worker {
    tracks: Vec<Track>,
    averages: Vec<PeakEwma>,
    ring: Ring,
    turns: RoundRobin,
    outlier: Outlier,
    rng: ChaCha8Rng,
}

impl Worker {
    fn new(count: usize, seed: u64) -> Worker {
        let members: Vec<(String, u32)> = (0..count).map(|instance| (instance.to_string(), 1)).collect();
        Worker {
            tracks: vec![Track::default(); count],
            averages: vec![PeakEwma::default(); count],
            ring: Ring::new(&members),
            turns: RoundRobin::default(),
            outlier: Outlier::default(),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn left(&self, now: Now) -> usize {
        self.tracks.iter().filter(|track| track.standing(now) == Standing::In).count()
    }

    /// Where the next call goes: a probe that is due, else one of those that are in.
    fn pick(&mut self, now: Now, by: By) -> usize {
        assert!(!panics(self.tracks.len(), self.left(now), PANIC_PERCENT), "ejections alone never come so far");
        if let Some(due) = self.tracks.iter().position(|track| track.standing(now) == Standing::Due) {
            self.tracks[due].begin_probe(now);
            return due;
        }
        let (tracks, averages) = (&self.tracks, &self.averages);
        let is_in = |instance: &usize| tracks[*instance].standing(now) == Standing::In;
        let left: Vec<usize> = (0..tracks.len()).filter(is_in).collect();
        let load = |at: usize| averages[left[at]].load(now, 0);
        let (count, rng) = (left.len(), &mut self.rng);
        let chosen = match by {
            By::Open => choose(count, load, rng),
            By::Latency => choose_by_estimate(count, load, rng),
            By::Weight => pick_weighted(count, |at| left[at] as f64 + 0.5, load, true, rng),
            By::Turns => self.turns.next(count, |_| 1.0),
            By::Key => {
                let key = hash(&rng.random::<u64>().to_be_bytes());
                return self.ring.walk(key).find(is_in).expect("one is in");
            }
        };
        left[chosen.expect("one is in")]
    }

    fn report(&mut self, now: Now, instance: usize, succeeded: bool) {
        let track = &mut self.tracks[instance];
        if succeeded {
            track.succeeded(now);
            self.averages[instance].observe(now, Duration::from_millis(20));
            return;
        }
        self.averages[instance].penalize(now, Duration::from_millis(1));
        let (total, ejected) = (self.tracks.len(), self.tracks.len() - self.left(now));
        let track = &mut self.tracks[instance];
        if track.failed(now, &self.outlier) {
            // One whose probe failed is among the ejected already.
            let is_in = track.standing(now) == Standing::In;
            if !is_in || may_eject(total, ejected, &self.outlier) {
                track.eject(now, &self.outlier);
            }
        }
    }
}

fn by() -> impl Strategy<Value = By> {
    prop::sample::select(vec![By::Open, By::Latency, By::Weight, By::Turns, By::Key])
}

proptest! {
    #[test]
    fn no_ejected_instance_is_picked_while_others_live(
        count in 2_usize..9,
        seed in any::<u64>(),
        by in by(),
        steps in prop::collection::vec((0_u64..2_000, 0_u8..100, any::<bool>()), 1..400),
    ) {
        let (mut worker, mut now) = (Worker::new(count, seed), Now::ZERO);
        let mut failing = vec![false; count];
        // Calls under way, some of which report when much else has happened.
        let mut under_way: Vec<usize> = Vec::new();
        for (pause_ms, dice, reports) in steps {
            now += Duration::from_millis(pause_ms);
            if dice < 10 {
                let instance = usize::from(dice) % count;
                failing[instance] = !failing[instance];
            }
            let before: Vec<Standing> = worker.tracks.iter().map(|track| track.standing(now)).collect();
            let instance = worker.pick(now, by);
            prop_assert!(matches!(before[instance], Standing::In | Standing::Due), "{:?} picked {}", before, instance);
            prop_assert!(before.contains(&Standing::In), "{:?}", before);
            if before[instance] == Standing::Due {
                prop_assert_eq!(worker.tracks[instance].standing(now), Standing::Probing, "and nobody else probes");
            }
            under_way.push(instance);
            while reports && let Some(instance) = under_way.pop() {
                worker.report(now, instance, !failing[instance]);
                let ejected = count - worker.left(now);
                prop_assert!(ejected <= (count / 2).max(1), "{} of {} ejected", ejected, count);
            }
        }
    }

    /// Nothing that happened keeps an instance out for ever.
    #[test]
    fn whoever_is_well_again_is_in_again_after_its_longest_ejection(
        count in 2_usize..9,
        seed in any::<u64>(),
        by in by(),
        steps in prop::collection::vec((0_u64..2_000, any::<bool>()), 1..300),
    ) {
        let (mut worker, mut now) = (Worker::new(count, seed), Now::ZERO);
        for (pause_ms, succeeded) in steps {
            now += Duration::from_millis(pause_ms);
            let instance = worker.pick(now, by);
            worker.report(now, instance, succeeded);
        }
        let healed = now;
        while now < healed + worker.outlier.ejection_max + Duration::from_secs(10) {
            now += Duration::from_millis(500);
            let instance = worker.pick(now, by);
            worker.report(now, instance, true);
        }
        prop_assert_eq!(worker.left(now), count);
    }
}

#[test]
fn an_instance_that_fails_all_calls_costs_five_and_then_one_for_each_ejection() {
    for by in [By::Open, By::Latency, By::Weight, By::Turns, By::Key] {
        let (mut worker, mut failed) = (Worker::new(10, 1), 0);
        // Ten minutes at 100 a second: out for 5, 10, 20 ... 300 s.
        for call in 0..60_000 {
            let now = Duration::from_millis(10 * call);
            let instance = worker.pick(now, by);
            worker.report(now, instance, instance != 3);
            failed += u32::from(instance == 3);
        }
        assert_eq!(failed, 5 + 6, "{by:?}");
        assert_eq!(worker.tracks[3].ejections(), 7, "{by:?}");
    }
}

#[test]
fn where_all_fail_half_of_them_are_still_asked() {
    let mut worker = Worker::new(10, 1);
    let mut asked = [0_u32; 10];
    for call in 0..1_000 {
        let now = Duration::from_millis(call);
        let instance = worker.pick(now, By::Open);
        worker.report(now, instance, false);
        asked[instance] += 1;
    }
    assert_eq!(worker.left(Duration::from_secs(1)), 5);
    assert_eq!(asked.iter().filter(|asked| **asked > 5).count(), 5, "{asked:?}");
}
