//! Numbers of groups: one set of endpoints of one port of one service, as slots are found by.
//!
//! What always holds: a group's number depends on which groups there are, never on the order in which they came, and no two
//! groups share one. A number is the hash of the group's name. Groups that hash alike are *crowded*: all of them leave that
//! number for others of the next level, whose numbers begin with one more set bit, and hash the name in another way; where
//! they hash alike once more, for the level after it. So a number never passes from one group to another while either is there,
//! and no packet finds a stranger's slots between two commits. What comes or goes concerns those who hash as it does, and nobody
//! else, however many are crowded.
//!
//! Half of the numbers are the first level's, half of the others the second's, and so on. Of 200,000 groups some 9,000 are in
//! the second level, a few dozen in the third. Who knows the hash can make up names that meet in one level, hardly in all.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::net::fnv1a_of;
use weft_model::{Family, ObjectKey, Port, Protocol, Service, TrafficPolicy};
use weft_plan::marks::GROUP;

/// Levels of hashing, after which those that are still alike get what is free of the last numbers, by name.
const LEVELS: u32 = 4;

/// The numbers of a level: what they begin with, and the bits below.
fn numbers_of(level: u32) -> (u32, u32) {
    let first = GROUP & !(GROUP >> level);
    let below = if level < LEVELS { GROUP >> (level + 1) } else { GROUP >> level };
    (first, below)
}

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

    fn hash(&self, level: u32) -> u64 {
        let family = match self.family {
            Family::V4 => "V4",
            Family::V6 => "V6",
        };
        let scope = match self.scope {
            TrafficPolicy::Cluster => "Cluster",
            TrafficPolicy::Local => "Local",
        };
        let level = if level == 0 { String::new() } else { format!("{level} ") };
        let (service, port) = (&self.service, self.port.get().to_string());
        // The parts of one text: to write it would take longer than all the rest, and numbers are asked for all the time.
        let place = [&level, service.namespace.as_str(), "/", service.name.as_str()];
        let port = [" ", self.protocol.name(), " ", &port, " ", family, " ", scope];
        fnv1a_of(place.into_iter().chain(port).map(str::as_bytes))
    }
}

/// Groups by their number in one level.
type Level = FxHashMap<u32, Vec<GroupKey>>;

/// The groups that there are.
#[derive(Debug, Clone)]
pub struct GroupIndex {
    levels: [Level; LEVELS as usize],
    /// Those that every level has found alike.
    last: BTreeMap<GroupKey, u32>,
    /// Bits of a hash that count: all but in tests.
    bits: u32,
}

impl Default for GroupIndex {
    fn default() -> Self {
        Self { levels: Default::default(), last: BTreeMap::new(), bits: GROUP }
    }
}

impl GroupIndex {
    /// Takes in a group; a second time it changes nothing.
    pub fn insert(&mut self, key: GroupKey) {
        let mut coming = vec![key];
        for level in 0..LEVELS {
            let mut crowded = Vec::new();
            for key in coming {
                let number = self.at(level, &key);
                // Nearly all are alone, and a vector's first growth would make room for four.
                let mates =
                    self.levels[level as usize].entry(number).or_insert_with(|| Vec::with_capacity(1));
                if mates.contains(&key) {
                    return;
                }
                match &mates[..] {
                    [] => {}
                    [alone] => crowded.extend([alone.clone(), key.clone()]),
                    _ => crowded.push(key.clone()),
                }
                mates.push(key);
            }
            coming = crowded;
        }
        if !coming.is_empty() {
            self.number_last(|keys| keys.extend(coming));
        }
    }

    /// Leaves one out again.
    pub fn remove(&mut self, key: &GroupKey) {
        let mut going = vec![key.clone()];
        for level in 0..LEVELS {
            let mut no_more_crowded = Vec::new();
            for key in going {
                let number = self.at(level, &key);
                let of_level = &mut self.levels[level as usize];
                let Some(mates) = of_level.get_mut(&number) else { continue };
                let before = mates.len();
                mates.retain(|mate| *mate != key);
                if mates.len() == before {
                    continue;
                }
                match &mates[..] {
                    [] => {
                        of_level.remove(&number);
                    }
                    [alone] => no_more_crowded.extend([alone.clone(), key]),
                    _ => no_more_crowded.push(key),
                }
            }
            going = no_more_crowded;
        }
        if !going.is_empty() {
            self.number_last(|keys| going.iter().for_each(|key| _ = keys.remove(key)));
        }
    }

    /// Gives those of the last numbers theirs anew, by name.
    fn number_last(&mut self, change: impl FnOnce(&mut BTreeSet<GroupKey>)) {
        let mut keys: BTreeSet<GroupKey> = std::mem::take(&mut self.last).into_keys().collect();
        change(&mut keys);
        let (first, below) = numbers_of(LEVELS);
        let mut taken = FxHashSet::default();
        for key in keys {
            let mut number = self.at(LEVELS, &key);
            while !taken.insert(number) {
                number = number.wrapping_add(1) & below | first;
            }
            self.last.insert(key, number);
        }
    }

    /// A group's number, below `1 << 23`; that of one which was not taken in is what it would have alone.
    pub fn number(&self, key: &GroupKey) -> u32 {
        for level in 0..LEVELS {
            let number = self.at(level, key);
            match self.levels[level as usize].get(&number) {
                Some(mates) if mates.len() > 1 && mates.contains(key) => {}
                _ => return number,
            }
        }
        self.last.get(key).copied().unwrap_or_else(|| self.at(LEVELS, key))
    }

    /// Groups whose numbers can differ once these came or went, all at once; asked afterwards.
    pub fn neighbours(&self, changed: Vec<GroupKey>) -> Vec<GroupKey> {
        // Nearly always one that nobody meets.
        if let [key] = &changed[..] {
            let mates = self.levels[0].get(&self.at(0, key));
            if mates.is_none_or(|mates| mates.iter().all(|mate| mate == key)) {
                return Vec::new();
            }
        }
        let mut moving: FxHashSet<GroupKey> = changed.into_iter().collect();
        let mut found = Vec::new();
        for level in 0..LEVELS {
            let numbered: Vec<(u32, &GroupKey)> =
                moving.iter().map(|key| (self.at(level, key), key)).collect();
            // Those that are gone by now are in no level, and may have met there.
            let mut met = FxHashMap::<u32, usize>::default();
            numbered.iter().for_each(|(number, _)| *met.entry(*number).or_default() += 1);
            let mut next = FxHashSet::default();
            for (number, key) in numbered {
                let mates = self.levels[level as usize].get(&number).map_or(&[][..], Vec::as_slice);
                // One who was alone and isn't, or the other way round, changes its level; where there are more, they have.
                let mut staying = mates.iter().filter(|mate| !moving.contains(*mate));
                if let (Some(other), None) = (staying.next(), staying.next())
                    && next.insert(other.clone())
                {
                    found.push(other.clone());
                }
                if mates.iter().any(|mate| mate != key) || met[&number] > 1 {
                    next.insert(key.clone());
                }
            }
            moving = next;
        }
        if !moving.is_empty() {
            found.extend(self.last.keys().cloned());
        }
        found
    }

    fn at(&self, level: u32, key: &GroupKey) -> u32 {
        let hash = key.hash(level);
        let (first, below) = numbers_of(level);
        (hash ^ (hash >> 32)) as u32 & below & self.bits | first
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
    fn narrow(bits: u32) -> GroupIndex {
        GroupIndex { bits, ..GroupIndex::default() }
    }

    fn numbers(index: &GroupIndex, keys: &BTreeSet<u16>) -> BTreeMap<u16, u32> {
        keys.iter().map(|number| (*number, index.number(&key(*number)))).collect()
    }

    proptest! {
        #[test]
        fn numbers_are_a_function_of_the_groups_and_each_ones_own(
            // Several at once: a service comes with all of its ports.
            history in proptest::collection::vec(
                proptest::collection::vec((0..40_u16, any::<bool>()), 1..4), 0..60,
            ),
            bits in prop_oneof![Just(0x1f), Just(0x7), Just(0x1)],
        ) {
            let mut index = narrow(bits);
            let mut there = BTreeSet::new();
            for changes in history {
                let before = numbers(&index, &there);
                for (number, comes) in &changes {
                    if *comes {
                        index.insert(key(*number));
                        there.insert(*number);
                    } else {
                        index.remove(&key(*number));
                        there.remove(number);
                    }
                }
                let changed: BTreeSet<u16> = changes.iter().map(|(number, _)| *number).collect();
                let after = numbers(&index, &there);
                prop_assert_eq!(after.values().collect::<BTreeSet<_>>().len(), there.len());
                prop_assert!(after.values().all(|number| number & !GROUP == 0));
                // Whoever got another number is named.
                let named = index.neighbours(changed.iter().map(|number| key(*number)).collect());
                for (other, number_before) in &before {
                    if !changed.contains(other) && after.get(other).is_some_and(|now| now != number_before) {
                        prop_assert!(named.contains(&key(*other)), "{other}");
                    }
                }
            }
            let mut fresh = narrow(bits);
            for number in there.iter().rev() {
                fresh.insert(key(*number));
            }
            prop_assert_eq!(numbers(&fresh, &there), numbers(&index, &there));
        }
    }

    /// As many as 30,000 services with three ports in two families have.
    #[test]
    fn who_comes_among_many_concerns_few() {
        let mut index = GroupIndex::default();
        let all = |service: u16| {
            let ports = (1..=3).flat_map(|port| Family::ALL.map(|family| (port, family)));
            ports.map(move |(port, family)| GroupKey {
                port: Port::new(port).unwrap(),
                family,
                ..key(service)
            })
        };
        (0..30_000).flat_map(all).for_each(|key| index.insert(key));
        let crowded: usize = index.levels[1].values().map(Vec::len).sum();
        let later: usize = index.levels[2..].iter().flat_map(FxHashMap::values).map(Vec::len).sum();
        println!("{crowded} in the second level, {later} after it");
        assert!(crowded > 1000 && later < crowded / 20 && index.last.is_empty(), "{crowded} {later}");
        let most = (0..30_000).map(|service| index.neighbours(all(service).collect()).len()).max();
        assert!(most < Some(20), "{most:?}");
    }
}
