//! Numbers of groups: one set of endpoints of one port of one service, as slots are found by.
//!
//! What always holds: a group's number depends on which groups there are, never on the order in which they came, and no two
//! groups share one. A number is the hash of the group's name. Groups that hash alike are *crowded*: all of them leave that
//! number for others with [`CROWDED`] set. So a number never passes from one group to another while either is there, and no
//! packet finds a stranger's slots between two commits.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use weft_model::net::fnv1a;
use weft_model::{Family, ObjectKey, Port, Protocol, Service, TrafficPolicy};
use weft_plan::marks::GROUP;

/// Set in numbers that hashing alone doesn't give.
const CROWDED: u32 = (GROUP + 1) >> 1;

/// Which endpoints are in a group. The policy says whose: all, or those of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The service.
    pub service: ObjectKey,
    /// The protocol of its port.
    pub protocol: Protocol,
    /// The port at its addresses.
    pub port: Port,
    /// The family of its addresses.
    pub family: Family,
    /// All endpoints, or this node's.
    pub scope: TrafficPolicy,
}

impl GroupKey {
    /// Every group that a service may need.
    pub fn all_of(service: &Service) -> impl Iterator<Item = GroupKey> + '_ {
        let local = [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local);
        let scopes = [Some(TrafficPolicy::Cluster), local.then_some(TrafficPolicy::Local)];
        let ports = service.ports.iter().filter(|_| !service.headless);
        ports.flat_map(move |port| {
            service.families.iter().flat_map(move |family| {
                scopes.into_iter().flatten().map(move |scope| GroupKey {
                    service: service.key.clone(),
                    protocol: port.protocol,
                    port: port.port,
                    family: *family,
                    scope,
                })
            })
        })
    }

    fn hash(&self) -> u64 {
        let Self { service, protocol, port, family, scope } = self;
        fnv1a(format!("{service} {protocol} {port} {family:?} {scope:?}").as_bytes())
    }
}

/// The groups that there are, by hash.
#[derive(Debug, Clone)]
pub struct GroupIndex {
    by_hash: FxHashMap<u32, Vec<GroupKey>>,
    crowded: BTreeMap<GroupKey, u32>,
    /// Bits of a hash that count: all but in tests.
    bits: u32,
}

impl Default for GroupIndex {
    fn default() -> Self {
        Self { by_hash: FxHashMap::default(), crowded: BTreeMap::new(), bits: CROWDED - 1 }
    }
}

impl GroupIndex {
    /// Takes in a group; a second time it changes nothing.
    pub fn insert(&mut self, key: GroupKey) {
        let hash = self.first(&key);
        // Nearly all are alone, and a vector's first growth would make room for four.
        let mates = self.by_hash.entry(hash).or_insert_with(|| Vec::with_capacity(1));
        if mates.contains(&key) {
            return;
        }
        mates.push(key);
        if mates.len() > 1 {
            let newly = mates.clone();
            self.crowd(newly);
        }
    }

    /// Leaves one out again.
    pub fn remove(&mut self, key: &GroupKey) {
        let hash = self.first(key);
        let Some(mates) = self.by_hash.get_mut(&hash) else { return };
        mates.retain(|mate| mate != key);
        let alone = mates.len() == 1;
        let mates = mates.clone();
        if mates.is_empty() {
            self.by_hash.remove(&hash);
        }
        if self.crowded.remove(key).is_some() {
            if alone {
                self.crowded.remove(&mates[0]);
            }
            self.crowd(Vec::new());
        }
    }

    /// Gives every crowded group its number anew, by name: there are few of them.
    fn crowd(&mut self, newly: Vec<GroupKey>) {
        let keys: BTreeSet<GroupKey> = std::mem::take(&mut self.crowded).into_keys().chain(newly).collect();
        let mut taken = BTreeSet::new();
        for key in keys {
            let mut number = (key.hash() >> 40) as u32 & (CROWDED - 1) | CROWDED;
            while !taken.insert(number) {
                number = number.wrapping_add(1) & GROUP | CROWDED;
            }
            self.crowded.insert(key, number);
        }
    }

    /// A group's number, below `1 << 23`; that of one which was not taken in is what it would have alone.
    pub fn number(&self, key: &GroupKey) -> u32 {
        self.crowded.get(key).copied().unwrap_or_else(|| self.first(key))
    }

    /// Services whose numbers can differ once this group came or went; asked afterwards.
    pub fn neighbours<'a>(&'a self, key: &'a GroupKey) -> impl Iterator<Item = &'a ObjectKey> {
        let mates = self.by_hash.get(&self.first(key)).map_or(&[][..], Vec::as_slice);
        let has_mates = mates.iter().any(|mate| mate != key);
        let crowd = self.crowded.keys().filter(move |_| has_mates);
        mates.iter().filter(move |mate| *mate != key).chain(crowd).map(|group| &group.service)
    }

    fn first(&self, key: &GroupKey) -> u32 {
        let hash = key.hash();
        (hash ^ (hash >> 32)) as u32 & self.bits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_model::{NamespaceName, ObjectName};

    use super::*;

    fn key(number: u16) -> GroupKey {
        GroupKey {
            service: ObjectKey {
                namespace: NamespaceName::new("default").unwrap(),
                name: ObjectName::new(&format!("s{number}")).unwrap(),
            },
            protocol: Protocol::Tcp,
            port: Port::new(80).unwrap(),
            family: Family::V4,
            scope: TrafficPolicy::Cluster,
        }
    }

    /// So few bits that groups crowd.
    fn narrow() -> GroupIndex {
        GroupIndex { bits: 0x1f, ..GroupIndex::default() }
    }

    fn numbers(index: &GroupIndex, keys: &BTreeSet<u16>) -> BTreeMap<u16, u32> {
        keys.iter().map(|number| (*number, index.number(&key(*number)))).collect()
    }

    proptest! {
        #[test]
        fn numbers_are_a_function_of_the_groups_and_each_ones_own(
            history in proptest::collection::vec((0..40_u16, any::<bool>()), 0..80),
        ) {
            let mut index = narrow();
            let mut there = BTreeSet::new();
            for (number, comes) in history {
                let before = numbers(&index, &there);
                if comes {
                    index.insert(key(number));
                    there.insert(number);
                } else {
                    index.remove(&key(number));
                    there.remove(&number);
                }
                let after = numbers(&index, &there);
                prop_assert_eq!(after.values().collect::<BTreeSet<_>>().len(), there.len());
                prop_assert!(after.values().all(|number| number & !GROUP == 0));
                // Whoever got another number is named.
                let changed_key = key(number);
                let named: BTreeSet<&ObjectKey> = index.neighbours(&changed_key).collect();
                for (other, number_before) in &before {
                    if *other != number && after.get(other).is_some_and(|now| now != number_before) {
                        prop_assert!(named.contains(&key(*other).service), "{other}");
                    }
                }
            }
            let mut fresh = narrow();
            for number in there.iter().rev() {
                fresh.insert(key(*number));
            }
            prop_assert_eq!(numbers(&fresh, &there), numbers(&index, &there));
        }
    }
}
