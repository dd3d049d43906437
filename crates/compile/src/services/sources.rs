//! Lists of sources (`loadBalancerSourceRanges`): who uses which, the marks that they have, and the lengths of their blocks.
//!
//! What always holds: services that name the same blocks share one list, so that thousands of restricted services are a few rows
//! where they have a few lists. A list's mark depends on the lists that there are, never on the order in which they came, and no
//! two have the same. It is a hash of all that the list says, the first of a few of which no other living list has the like,
//! whether that one uses it or not: so a mark never passes from one living list to another, whose sources would be let in
//! until the next commit.
//!
//! A list of which every hash is met by another's has nobody in it ([`CLOSED`]). That doesn't happen by
//! chance; whoever knows the hash can make up lists for it, and shuts others out with them, but lets nobody in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use weft_model::net::fnv1a_of;
use weft_model::{Cidr, Family, IngressMode, ObjectKey, Service};
use weft_plan::marks::GROUP;

use super::marks::SOURCES;

/// Hashes that a list may have its mark from, and the bits of each.
const HASHES: u32 = 7;
const BITS: u32 = 20;
/// The mark that no list has: nobody is let in.
pub const CLOSED: u32 = SOURCES | GROUP;

/// The blocks of one family from which a service's balancer may be used; none where nobody of the family may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceList {
    family: Family,
    /// Sorted, each once, as they were written.
    blocks: Arc<[Cidr]>,
}

impl SourceList {
    /// A service's list for a family; `None` where everybody of the family may.
    pub fn of(service: &Service, family: Family) -> Option<Self> {
        let blocks: BTreeSet<Cidr> =
            service.source_ranges.iter().filter(|block| block.family() == family).copied().collect();
        let is_open = service.source_ranges.is_empty() || blocks.iter().any(|block| block.prefix() == 0);
        (!is_open).then(|| Self { family, blocks: blocks.into_iter().collect() })
    }

    /// The lists that a service has a use for: of families in which a balancer's packets come with its own address.
    pub fn all_of(service: &Service) -> impl Iterator<Item = SourceList> + '_ {
        let families = service.families.iter().filter(|_| !service.headless);
        families.filter_map(|family| {
            let has = |ip: IpAddr| Family::of(ip) == *family;
            let balancer = service.load_balancer.iter().find(|a| a.mode == IngressMode::Vip && has(a.ip));
            balancer.and_then(|_| Self::of(service, *family))
        })
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its blocks, in order.
    pub fn blocks(&self) -> &[Cidr] {
        &self.blocks
    }

    /// The lengths of its blocks.
    pub fn lengths(&self) -> BTreeSet<u8> {
        self.blocks.iter().map(Cidr::prefix).collect()
    }

    /// The numbers that it may have, in the order in which they are tried: each says by which hash it was found.
    fn numbers(&self, bits: u32) -> impl Iterator<Item = u32> + use<> {
        let mut text = format!("{:?}", self.family);
        self.blocks.iter().for_each(|block| text += &format!(" {block}"));
        (0..HASHES).map(move |turn| {
            let hash = fnv1a_of([turn.to_string().as_bytes(), b" ", text.as_bytes()]);
            let hash = (hash ^ (hash >> 40) ^ (hash >> 20)) as u32;
            turn << BITS | hash & ((1 << bits) - 1)
        })
    }
}

/// The lists that there are.
#[derive(Debug, Clone)]
pub struct SourceIndex {
    users: FxHashMap<SourceList, BTreeSet<ObjectKey>>,
    /// All lists by each of the numbers that they may have; nearly always one.
    alike: FxHashMap<u32, Vec<SourceList>>,
    /// Lists with blocks of each length.
    lengths: BTreeMap<(Family, u8), usize>,
    /// Bits of a hash that count: all but in tests.
    bits: u32,
}

impl Default for SourceIndex {
    fn default() -> Self {
        let (users, alike, lengths) = Default::default();
        Self { users, alike, lengths, bits: BITS }
    }
}

impl SourceIndex {
    /// Takes in a service.
    pub fn insert(&mut self, service: &Service) {
        for list in SourceList::all_of(service) {
            let users = self.users.entry(list.clone()).or_default();
            users.insert(service.key.clone());
            if users.len() == 1 {
                for prefix in list.lengths() {
                    *self.lengths.entry((list.family, prefix)).or_default() += 1;
                }
                for number in list.numbers(self.bits) {
                    self.alike.entry(number).or_insert_with(|| Vec::with_capacity(1)).push(list.clone());
                }
            }
        }
    }

    /// Leaves one out again, as it was taken in.
    pub fn remove(&mut self, service: &Service) {
        for list in SourceList::all_of(service) {
            let Some(users) = self.users.get_mut(&list) else { continue };
            users.remove(&service.key);
            if !users.is_empty() {
                continue;
            }
            self.users.remove(&list);
            for number in list.numbers(self.bits) {
                if let Some(alike) = self.alike.get_mut(&number) {
                    alike.retain(|other| *other != list);
                    if alike.is_empty() {
                        self.alike.remove(&number);
                    }
                }
            }
            for prefix in list.lengths() {
                let length = (list.family, prefix);
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }

    /// Services that have a list, by name.
    pub fn users(&self, list: &SourceList) -> impl Iterator<Item = &ObjectKey> {
        self.users.get(list).into_iter().flatten()
    }

    /// The connection's mark that stands for a list while a service is looked up; [`CLOSED`] where each that it may have could
    /// be another's as well.
    pub fn mark(&self, list: &SourceList) -> u32 {
        let others =
            |number: &u32| self.alike.get(number).is_some_and(|lists| lists.iter().any(|l| l != list));
        list.numbers(self.bits).find(|number| !others(number)).map_or(CLOSED, |number| SOURCES | number)
    }

    /// Lists whose marks can differ once this one came or went, itself left out.
    pub fn neighbours(&self, list: &SourceList) -> impl Iterator<Item = &SourceList> {
        let alike = list.numbers(self.bits).filter_map(|number| self.alike.get(&number));
        alike.flatten().filter(move |other| *other != list)
    }

    /// The lengths that blocks of a family have, longest first.
    pub fn lengths(&self, family: Family) -> impl Iterator<Item = u8> + '_ {
        self.lengths.range((family, 0)..=(family, u8::MAX)).rev().map(|((_, prefix), _)| *prefix)
    }

    /// How many lists have blocks of a length.
    pub fn having(&self, family: Family, prefix: u8) -> usize {
        self.lengths.get(&(family, prefix)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_model::LoadBalancerAddress;

    use super::*;

    fn service(number: u8, blocks: &[&str]) -> Service {
        let mut service = Service::named(ObjectKey::new("shop", &format!("s{number}")).unwrap());
        service.families = Family::ALL.to_vec();
        service.load_balancer = ["198.51.100.7", "2001:db8::7"]
            .map(|ip| LoadBalancerAddress { ip: ip.parse().unwrap(), mode: IngressMode::Vip })
            .to_vec();
        service.source_ranges = blocks.iter().map(|block| block.parse().unwrap()).collect();
        service
    }

    #[test]
    fn a_list_is_what_it_says_in_any_order() {
        let list = |blocks: &[&str], family| {
            let list = SourceList::of(&service(0, blocks), family)?;
            Some(list.blocks().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let check = |blocks: &[&str], v4: Option<&str>, v6: Option<&str>| {
            assert_eq!(list(blocks, Family::V4).as_deref(), v4, "{blocks:?}");
            assert_eq!(list(blocks, Family::V6).as_deref(), v6, "{blocks:?}");
        };
        check(&[], None, None);
        check(&["10.0.0.0/8"], Some("10.0.0.0/8"), Some(""));
        check(&["192.0.2.0/24", "10.0.0.0/8", "10.0.0.0/8"], Some("10.0.0.0/8 192.0.2.0/24"), Some(""));
        check(&["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"], None, Some("fd00::/8"));
    }

    #[test]
    fn lists_are_of_those_whose_balancers_they_restrict() {
        let check = |change: &dyn Fn(&mut Service), expected: usize| {
            let mut service = service(0, &["10.0.0.0/8"]);
            change(&mut service);
            assert_eq!(SourceList::all_of(&service).count(), expected);
        };
        check(&|_| {}, 2);
        check(&|service| service.families = vec![Family::V6], 1);
        check(&|service| service.load_balancer[0].mode = IngressMode::Proxy, 1);
        check(&|service| service.load_balancer.clear(), 0);
        check(&|service| service.headless = true, 0);
        check(&|service| service.source_ranges.clear(), 0);
    }

    /// Lists of a few blocks each.
    fn blocks_of(list: u8) -> Vec<String> {
        (0..list % 4).map(|n| format!("10.{}.{n}.0/{}", list / 4, 24 + n)).collect()
    }

    proptest! {
        /// After any history the index is what it would be from scratch, lists have marks of their own, and a list that changes
        /// its mark is named. None has a mark that another living one had before.
        #[test]
        fn marks_are_a_function_of_the_lists_and_never_pass_on(
            // Several at once: a commit holds whatever came since the last.
            history in proptest::collection::vec(
                proptest::collection::vec((0..12_u8, 0..16_u8), 1..4), 0..60,
            ),
            bits in 0..4_u32,
        ) {
            let narrow = || SourceIndex { bits, ..SourceIndex::default() };
            let marks = |index: &SourceIndex| -> BTreeMap<SourceList, u32> {
                index.users.keys().map(|list| (list.clone(), index.mark(list))).collect()
            };
            let mut index = narrow();
            let mut services: BTreeMap<u8, Service> = BTreeMap::new();
            for changes in history {
                let before = marks(&index);
                let mut named = BTreeSet::new();
                for (number, list) in changes {
                    let old = services.remove(&number);
                    old.iter().for_each(|old| index.remove(old));
                    let texts = blocks_of(list);
                    let new = service(number, &texts.iter().map(String::as_str).collect::<Vec<_>>());
                    index.insert(&new);
                    for list in old.iter().chain([&new]).flat_map(SourceList::all_of) {
                        named.extend(index.neighbours(&list).cloned());
                        named.insert(list);
                    }
                    services.insert(number, new);
                }
                let after = marks(&index);
                let given: Vec<u32> = after.values().copied().filter(|mark| *mark != CLOSED).collect();
                prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
                for (list, mark) in &before {
                    let Some(now) = after.get(list) else { continue };
                    prop_assert!(now == mark || named.contains(list), "{list:?}");
                    let heir = *mark != CLOSED && after.iter().any(|(other, now)| now == mark && other != list);
                    prop_assert!(!heir, "{list:?}");
                }
            }
            let mut fresh = narrow();
            services.values().rev().for_each(|service| fresh.insert(service));
            prop_assert_eq!(&fresh.users, &index.users);
            prop_assert_eq!(&fresh.lengths, &index.lengths);
            prop_assert_eq!(marks(&fresh), marks(&index));
        }
    }

    #[test]
    fn who_comes_among_many_different_concerns_few() {
        let mut index = SourceIndex::default();
        let service = |n: u16| {
            let block = format!("10.{}.{}.0/24", n / 256, n % 256);
            let mut service = service(0, &[&block, "fd00::/8"]);
            service.key = ObjectKey::new("shop", &format!("s{n}")).unwrap();
            service
        };
        (0..10_000).for_each(|n| index.insert(&service(n)));
        assert!(index.users.keys().all(|list| index.mark(list) != CLOSED));
        let of = |n| SourceList::of(&service(n), Family::V4).unwrap();
        let most = (0..10_000).map(|n| index.neighbours(&of(n)).count()).max();
        assert!(most < Some(10), "{most:?}");
        assert_eq!(index.users.len(), 10_001);
        assert_eq!(index.lengths(Family::V4).collect::<Vec<_>>(), [24]);
        assert_eq!([index.having(Family::V6, 8), index.having(Family::V4, 24)], [1, 10_000]);
    }
}
