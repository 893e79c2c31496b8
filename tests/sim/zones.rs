//! Three zones: copies of what is new stay near, everybody gets everything all the same, and a zone that was cut off comes back.

use std::time::Duration;

use crate::engine::weft::{Fleet, Setup};
use crate::engine::{Kind, Latency};

/// In each of three zones enough that copies prefer them.
const HOSTS: u32 = 36;
/// A healed zone agrees with the others within this.
const MENDED_WITHIN: Duration = Duration::from_secs(10);

/// A fleet that knows itself, and in which all has been said that hosts say of themselves.
fn three_zones(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, HOSTS, Setup { zones: Latency::Zones.zones(), ..Setup::default() });
    fleet.network().latency = Latency::Zones;
    fleet.start_all();
    fleet.run_until_all_see_all_alive(Duration::from_secs(30));
    fleet.run_for(Duration::from_secs(60));
    assert!(fleet.catalogs_equal(), "seed {seed}");
    fleet
}

#[test]
fn most_copies_stay_in_their_zone_and_every_host_gets_everything() {
    for seed in 0..3 {
        let mut fleet = three_zones(seed);
        let traffic = |fleet: &Fleet| {
            let all = (0..HOSTS).map(|host| fleet.world.host(host).traffic);
            let kind = Kind::Delta as usize;
            all.fold((0, 0), |(sent, far), traffic| (sent + traffic.sent[kind], far + traffic.far[kind]))
        };
        let before = traffic(&fleet);
        for number in 0..HOSTS * 4 {
            fleet.register(number % HOSTS, number).expect("a running host");
            fleet.run_for(Duration::from_millis(50));
        }
        fleet.run_for(Duration::from_secs(1));
        assert!(fleet.catalogs_equal(), "seed {seed}");
        let after = traffic(&fleet);
        let (sent, far) = (after.0 - before.0, after.1 - before.1);
        println!("seed {seed}: {sent} bytes of copies, {far} to other zones");
        // Drawn without regard to zones it would be two thirds.
        assert!(far * 2 < sent && far * 10 > sent, "seed {seed}: {far} of {sent} bytes to other zones");
    }
}

#[test]
fn a_zone_that_was_cut_off_agrees_with_the_others_within_ten_seconds() {
    for seed in 0..3 {
        let mut fleet = three_zones(seed);
        let (inside, outside): (Vec<u32>, Vec<u32>) = (0..HOSTS).partition(|host| host % 3 == 0);
        fleet.network().partition(&[inside, outside]);
        for number in 0..HOSTS {
            fleet.run_for(Duration::from_secs(2));
            fleet.register(number, 1_000 + number).expect("a running host");
        }
        assert!(!fleet.catalogs_equal(), "seed {seed}");
        fleet.network().heal();
        let took = fleet.run_until(MENDED_WITHIN, "catalogs are equal", Fleet::catalogs_equal);
        fleet.run_until_all_see_all_alive(Duration::from_secs(30));
        println!("seed {seed}: equal {took:?} after the healing");
        let held = |origin, host| {
            let weft = fleet.world.core(host).expect("a running host");
            weft.revision_of(fleet.node(origin), 1_000 + origin).is_some()
        };
        assert!((0..HOSTS).all(|origin| (0..HOSTS).all(|host| held(origin, host))), "seed {seed}");
    }
}
