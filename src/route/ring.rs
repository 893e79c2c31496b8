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
