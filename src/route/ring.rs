//! Always the same instance for the same key, as long as it is there: a ring of hashes. Pure.
//!
//! Consistent hashing (Karger et al., STOC 1997), each member at many points of the ring as ketama has it. A key belongs to
//! the member of the first point at or after its hash. When a member goes, its keys go to the next on the ring and all
//! others stay. Every host must place every member and key alike, and so must its next version: the hash is written out here
//! and never changes ([`hash`]).

use std::cmp::Ordering;

/// Points of a member of weight one. A member's part of the ring has a relative standard deviation of `1/sqrt(points)`: 8 %.
/// ketama's number.
const POINTS: u64 = 160;
/// Points of a ring, 1 MiB. Up to 409 members of weight one have all of theirs; beyond, and with greater weights, each has
/// half of them, or a quarter...
const RING_POINTS_MAX: u64 = 65_536;
/// Between the points of one member; odd, so no two are alike. 2^64 divided by the golden ratio, as in SplitMix64.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Members on a ring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ring {
    /// In order; with the index of the member.
    points: Vec<(u64, u32)>,
    /// Members, those without a point too.
    slots: usize,
    /// Those with a point.
    placed: usize,
}

impl Ring {
    /// Places members by their keys, which must differ, and weights; zero: not at all. Their order does not matter.
    pub fn new<K: AsRef<[u8]>>(members: &[(K, u32)]) -> Ring {
        let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut halvings = 0;
        while (total.saturating_mul(POINTS) >> halvings) > RING_POINTS_MAX {
            halvings += 1;
        }
        let mut points = Vec::new();
        let placed = (0_u32..).zip(members).filter(|(_, (_, weight))| *weight > 0);
        for (index, (key, weight)) in placed {
            let origin = hash(key.as_ref());
            let count = ((u64::from(*weight) * POINTS) >> halvings).max(1);
            points.extend((1..=count).map(|point| (finalize(origin.wrapping_add(point.wrapping_mul(STRIDE))), index)));
        }
        let key_of = |index: u32| members.get(index as usize).map(|(key, _)| key.as_ref());
        points.sort_unstable_by(|(one, of_one), (other, of_other)| match one.cmp(other) {
            // So that where two meet, hosts that have them in another order agree.
            Ordering::Equal => key_of(*of_one).cmp(&key_of(*of_other)),
            order => order,
        });
        let placed = members.iter().filter(|(_, weight)| *weight > 0).count();
        Ring { points, slots: members.len(), placed }
    }

    /// The members from a hash on, each once, as indices of what the ring was made of: the first is whose key it is, the next
    /// who takes its place.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(start);
        let mut seen = vec![false; self.slots];
        let fresh = move |member: &usize| seen.get_mut(*member).is_some_and(|seen| !std::mem::replace(seen, true));
        let members = after.iter().chain(before).map(|(_, member)| *member as usize);
        members.filter(fresh).take(self.placed)
    }
}

/// The hash of keys and members: FNV-1a of 64 bits (Fowler, Noll, Vo), the bits of which then go through MurmurHash3's
/// finalizer (Appleby), since FNV's alone hardly differ at the top for keys that differ at the end.
///
/// Pinned: a change would send every key elsewhere.
pub fn hash(bytes: &[u8]) -> u64 {
    finalize(bytes.iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)))
}

/// MurmurHash3's `fmix64`.
fn finalize(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// No member's part is smaller or greater than this many times the even one: six standard deviations, so
    /// that of millions of rings none is outside.
    const BAND: std::ops::Range<f64> = 0.55..1.6;

    fn ring(members: &[String]) -> Ring {
        Ring::new(&members.iter().map(|member| (member.as_str(), 1)).collect::<Vec<_>>())
    }

    /// Each member's part of the ring, from 0 to 1.
    fn parts(ring: &Ring) -> Vec<f64> {
        let mut parts = vec![0.0; ring.slots];
        let last = ring.points.last().map_or(0, |(point, _)| *point);
        ring.points.iter().fold(last, |before, (point, member)| {
            parts[*member as usize] += point.wrapping_sub(before) as f64 / 2_f64.powi(64);
            *point
        });
        parts
    }

    fn names(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
        prop::collection::btree_set("[a-z0-9-]{1,12}", count).prop_map(|names| names.into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn hashes_are_what_they_always_were() {
        assert_eq!(hash(b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(hash(b"a"), 0x82a2_a958_a9be_ce5b);
        assert_eq!(hash(b"foobar"), 0x2c22_1949_22d1_672b);
        let ring = ring(&["one".to_owned(), "two".to_owned(), "three".to_owned()]);
        let owners: Vec<usize> = (0..12_u8).filter_map(|key| ring.walk(hash(&[key])).next()).collect();
        assert_eq!(owners, [0, 0, 1, 2, 2, 1, 2, 0, 2, 2, 0, 2]);
    }

    #[test]
    fn nobody_is_on_an_empty_ring_and_who_weighs_nothing_is_on_none() {
        assert_eq!(Ring::default().walk(7).next(), None);
        assert_eq!(Ring::new(&[] as &[(&str, u32)]).walk(7).next(), None);
        let ring = Ring::new(&[("a", 0), ("b", 1)]);
        assert_eq!(ring.walk(7).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn each_of_ten_has_a_tenth_within_a_quarter() {
        let members: Vec<String> = (0..10).map(|member| format!("web-{member}")).collect();
        let parts = parts(&ring(&members));
        assert!(parts.iter().all(|part| (0.08..0.125).contains(part)), "{parts:?}");
    }

    #[test]
    fn parts_follow_weights() {
        let parts = parts(&Ring::new(&[("a", 1), ("b", 2), ("c", 5)]));
        for (part, weight) in parts.iter().zip([1.0, 2.0, 5.0]) {
            assert!(BAND.contains(&(part * 8.0 / weight)), "{parts:?}");
        }
    }

    #[test]
    fn however_many_and_heavy_the_members_the_ring_is_bounded_and_each_is_on_it() {
        let many: Vec<(String, u32)> = (0..1_000).map(|member| (member.to_string(), 1 + member % 100)).collect();
        let ring = Ring::new(&many);
        assert!(ring.points.len() as u64 <= RING_POINTS_MAX + 1_000, "{}", ring.points.len());
        assert_eq!(ring.walk(0).count(), 1_000);
        let heavy = Ring::new(&[("a", u32::MAX), ("b", 1)]);
        assert!(heavy.points.len() as u64 <= RING_POINTS_MAX && heavy.walk(0).count() == 2);
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let members: Vec<String> = (0..20).map(|member| format!("web-{member}")).collect();
        let mut turned = members.clone();
        turned.reverse();
        let (one, other) = (ring(&members), ring(&turned));
        for key in 0..1_000_u32 {
            let hash = hash(&key.to_be_bytes());
            let walk = |ring: &Ring, names: &[String]| ring.walk(hash).map(|at| names[at].clone()).collect::<Vec<_>>();
            assert_eq!(walk(&one, &members), walk(&other, &turned));
        }
    }

    proptest! {
        #[test]
        fn a_walk_meets_every_member_once(members in names(0..20), key in any::<u64>()) {
            let walk: Vec<usize> = ring(&members).walk(key).collect();
            prop_assert_eq!(walk.len(), members.len());
            prop_assert_eq!(walk.into_iter().collect::<BTreeSet<_>>().len(), members.len());
        }

        #[test]
        fn each_part_is_near_the_even_one(members in names(2..30)) {
            let parts = parts(&ring(&members));
            for part in &parts {
                prop_assert!(BAND.contains(&(part * members.len() as f64)), "{:?}", parts);
            }
        }

        /// Whoever is asked in its place, and whoever after that, is who was next before.
        #[test]
        fn without_a_member_only_its_keys_move(
            members in names(2..20),
            gone in any::<prop::sample::Index>(),
            keys in prop::collection::vec(any::<u64>(), 100),
        ) {
            let gone = gone.index(members.len());
            let mut left = members.clone();
            left.remove(gone);
            let (before, after) = (ring(&members), ring(&left));
            for key in keys {
                let was: Vec<&String> = before.walk(key).filter(|at| *at != gone).map(|at| &members[at]).collect();
                let is: Vec<&String> = after.walk(key).map(|at| &left[at]).collect();
                prop_assert_eq!(was, is);
            }
        }

        #[test]
        fn a_newcomer_takes_about_its_part_and_nothing_else_moves(
            members in names(2..20),
            keys in prop::collection::vec(any::<u64>(), 100),
        ) {
            let newcomer = members.len();
            let mut more = members.clone();
            more.push("Newcomer".to_owned());
            let (before, after) = (ring(&members), ring(&more));
            let part = parts(&after)[newcomer] * more.len() as f64;
            prop_assert!(BAND.contains(&part), "{} of its even part", part);
            for key in keys {
                let (was, is) = (before.walk(key).next(), after.walk(key).next());
                prop_assert!(is == was || is == Some(newcomer));
            }
        }
    }
}
