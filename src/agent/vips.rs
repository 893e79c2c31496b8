//! Which loopback address stands for which service on this host. Pure; the table is kept on disk by the store.
//!
//! An address is derived from the name, so that most hosts choose the same one, and is never given to another name while
//! the table lives: applications hold on to addresses longer than DNS would have them.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{ServiceName, Tag, VipTarget};

/// The network's own address, and the test VIP that proves the redirect rule.
const RESERVED_FIRST: u32 = 2;
/// The broadcast address.
const RESERVED_LAST: u32 = 1;

/// Tags may take one address in this many.
const TAG_SHARE: u32 = 4;

/// The table: `SERVICE` or `TAG.SERVICE` to address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vips {
    range: Ipv4Net,
    by_name: BTreeMap<String, Ipv4Addr>,
    taken: HashSet<Ipv4Addr>,
    tag_count: u32,
    changed: bool,
}

impl Vips {
    /// Takes the kept table; what lies outside the range (it was changed) or collides is left out.
    pub(super) fn new(range: Ipv4Net, kept: BTreeMap<String, Ipv4Addr>) -> Vips {
        let mut vips = Vips { range, by_name: BTreeMap::new(), taken: HashSet::new(), tag_count: 0, changed: false };
        for (name, address) in kept {
            if vips.is_usable(address) && vips.taken.insert(address) {
                vips.tag_count += u32::from(name.contains('.'));
                vips.by_name.insert(name, address);
            }
        }
        vips
    }

    /// The address of a service or of a tag of it. `None` only if the range is used up.
    pub(super) fn of(&mut self, service: &ServiceName, tag: Option<&Tag>) -> Option<Ipv4Addr> {
        let name = match tag {
            Some(tag) => format!("{tag}.{service}"),
            None => service.to_string(),
        };
        if let Some(address) = self.by_name.get(&name) {
            return Some(*address);
        }
        // Tags are the many: they may not leave services without addresses.
        if tag.is_some() && self.tag_count >= self.size() / TAG_SHARE {
            return None;
        }
        let address = self.free_address(&name)?;
        self.tag_count += u32::from(tag.is_some());
        self.taken.insert(address);
        self.by_name.insert(name, address);
        self.changed = true;
        Some(address)
    }

    /// The whole table, if it has changed since it was last asked for.
    pub(super) fn take_changes(&mut self) -> Option<BTreeMap<String, Ipv4Addr>> {
        std::mem::take(&mut self.changed).then(|| self.by_name.clone())
    }

    /// What a name of the table stands for.
    pub(super) fn target(service: &ServiceName, tag: Option<&Tag>) -> VipTarget {
        VipTarget { service: service.clone(), tag: tag.cloned() }
    }

    fn free_address(&self, name: &str) -> Option<Ipv4Addr> {
        let first = self.range.network().to_bits() + RESERVED_FIRST;
        let size = self.size();
        let start = fnv1a(name) % size.max(1);
        (0..size)
            .map(|step| Ipv4Addr::from_bits(first + (start + step) % size))
            .find(|address| !self.taken.contains(address))
    }

    /// How many addresses there are to give.
    fn size(&self) -> u32 {
        let span = self.range.broadcast().to_bits() - self.range.network().to_bits();
        (span + 1).saturating_sub(RESERVED_FIRST + RESERVED_LAST)
    }

    fn is_usable(&self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        self.range.contains(&address)
            && bits >= self.range.network().to_bits() + RESERVED_FIRST
            && bits < self.range.broadcast().to_bits()
    }
}

/// FNV-1a, 32 bits (draft-eastlake-fnv): the same on every host and in every version, which the standard hasher is not.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    #[test]
    fn an_address_stays_with_its_name_over_a_restart() {
        let range: Ipv4Net = "127.64.0.0/10".parse().unwrap();
        let mut vips = Vips::new(range, BTreeMap::new());
        let billing = vips.of(&name("billing"), None).unwrap();
        let primary = vips.of(&name("billing"), Some(&Tag::parse("primary").unwrap())).unwrap();
        assert_ne!(billing, primary);
        let kept = vips.take_changes().unwrap();
        assert_eq!(vips.take_changes(), None);
        let mut again = Vips::new(range, kept);
        assert_eq!(again.of(&name("billing"), None), Some(billing));
    }

    #[test]
    fn a_small_range_is_used_to_its_last_address_and_then_refuses() {
        let range: Ipv4Net = "127.64.0.0/29".parse().unwrap();
        let mut vips = Vips::new(range, BTreeMap::new());
        let given: HashSet<_> = (0..5).filter_map(|i| vips.of(&name(&format!("s{i}")), None)).collect();
        assert_eq!(given.len(), 5);
        assert!(given.iter().all(|address| vips.is_usable(*address)));
        assert_eq!(vips.of(&name("one-more"), None), None);
    }

    #[test]
    fn kept_addresses_outside_the_range_are_left_out() {
        let kept = BTreeMap::from([("web".to_owned(), Ipv4Addr::new(10, 0, 0, 1))]);
        let mut vips = Vips::new("127.64.0.0/10".parse().unwrap(), kept);
        assert!(vips.of(&name("web"), None).unwrap().is_loopback());
    }
}
