//! Storms by seed: see `engine::storm`. `WEFT_SIM_SEED=N` runs one of them alone, aloud.

use crate::engine::storm;

/// Seeds in a run; half of them in each of two tests, for two processors.
const SEEDS: u64 = 240;
/// Storms that did not end well before something was mended.
const FOUND: [u64; 19] = [
    // A disk set back by one start: versions used twice, of which two hosts kept different records.
    258, 514, 858, 2198, 2517, 4894, 4926, 5356, 6621, 8049, 8627, 8707, 9258, 9889, 10_883, 12_056,
    // A host lost its member list after its seeds had left for good, and another was set back to when that host had left. One knew
    // nobody to ask, and nobody looks for who left. A machine with an empty disk needs a seed that runs: seeds come back now.
    2473,
    // A host that was reimaged and left at once was let go by those who had known it, and others held its record.
    4017,
    // A process that ended by itself in the moment of its next start took its disk with it: the simulator's fault.
    20_902,
];

fn storms(parity: u64) {
    let chosen = std::env::var("WEFT_SIM_SEED").ok().map(|seed| seed.parse().expect("WEFT_SIM_SEED is a number"));
    let seeds: Vec<u64> = chosen.map_or_else(|| (0..SEEDS).chain(FOUND).collect(), |seed| vec![seed]);
    let seeds = seeds.into_iter().filter(|seed| seed % 2 == parity);
    let mut failures = Vec::new();
    for seed in seeds {
        match storm::run(seed) {
            Ok(summary) => println!("{summary}"),
            Err(failure) => {
                println!("{failure}");
                failures.push((failure.seed, failure.what));
            }
        }
    }
    assert!(failures.is_empty(), "run each alone by WEFT_SIM_SEED=N: {failures:#?}");
}

#[test]
fn the_same_seed_is_the_same_storm_event_by_event() {
    let run = |seed| storm::run(seed).map(|summary| (summary.events, summary.trace)).expect("it ends well");
    for seed in 1..=3 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).1, run(2).1);
}

#[test]
fn nothing_unsafe_happens_in_a_storm_and_all_comes_true_after_it() {
    storms(0);
}

#[test]
fn nor_in_the_other_half_of_the_storms() {
    storms(1);
}
