//! Where nodes and services are: whose an address or a block of pods is, and which services have cluster addresses in a block.
//!
//! What always holds: a question costs what it finds, whatever the number of nodes and services. Two nodes may say the same of
//! themselves; both are found then.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{Cidr, Family, Node, Service, Slot};

use super::labels::{Slots, link, unlink};

/// Nodes by what they say is theirs.
#[derive(Debug, Clone, Default)]
pub(super) struct NodePlaces {
    addresses: FxHashMap<IpAddr, Slots>,
    blocks: FxHashMap<Cidr, Slots>,
    /// Prefix lengths of those blocks, each with their number.
    lengths: BTreeMap<(Family, u8), usize>,
}

impl NodePlaces {
    pub(super) fn insert(&mut self, node: &Node, slot: Slot) {
        for address in &node.addresses {
            link(&mut self.addresses, address.ip, slot);
        }
        for block in node.pod_cidrs.iter().map(|own| own.cidr) {
            if !self.blocks.contains_key(&block) {
                *self.lengths.entry((block.family(), block.prefix())).or_default() += 1;
            }
            link(&mut self.blocks, block, slot);
        }
    }

    pub(super) fn remove(&mut self, node: &Node, slot: Slot) {
        for address in &node.addresses {
            unlink(&mut self.addresses, &address.ip, slot);
        }
        for block in node.pod_cidrs.iter().map(|own| own.cidr) {
            let was_there = self.blocks.contains_key(&block);
            unlink(&mut self.blocks, &block, slot);
            let length = (block.family(), block.prefix());
            if was_there
                && !self.blocks.contains_key(&block)
                && let Some(count) = self.lengths.get_mut(&length)
            {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
        }
    }

    /// The nodes that have an address themselves.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = Slot> + '_ {
        self.addresses.get(&address).into_iter().flat_map(Slots::iter)
    }

    /// The smallest block of pods that holds an address, and the nodes that have it.
    pub(super) fn around(&self, address: IpAddr) -> Option<(Cidr, impl Iterator<Item = Slot> + '_)> {
        let family = Family::of(address);
        let lengths = self.lengths.range((family, 0)..=(family, family.bits())).rev();
        lengths.map(|((_, length), _)| Cidr::around(address, *length)).find_map(|block| {
            let nodes = self.blocks.get(&block)?;
            Some((block, nodes.iter()))
        })
    }
}

/// Services by their cluster addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct ServicePlaces(BTreeMap<IpAddr, Slots>);

impl ServicePlaces {
    pub(super) fn insert(&mut self, service: &Service, slot: Slot) {
        for ip in &service.cluster_ips {
            self.0.entry(*ip).and_modify(|slots| slots.insert(slot)).or_insert(Slots::One(slot));
        }
    }

    pub(super) fn remove(&mut self, service: &Service, slot: Slot) {
        for ip in &service.cluster_ips {
            if self.0.get_mut(ip).is_some_and(|slots| slots.remove(slot)) {
                self.0.remove(ip);
            }
        }
    }

    /// The services with an address in a block; one with several comes as often.
    pub(super) fn within(&self, block: Cidr) -> impl Iterator<Item = Slot> + '_ {
        self.0.range(block.first()..=block.net().broadcast()).flat_map(|(_, slots)| slots.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_model::{Change, Fact, FactKey, NetworkName, NodeAddress, NodeCidr, NodeName, ObjectKey};

    use super::*;
    use crate::Facts;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// What a node or service says of itself, or that it is gone.
    fn change() -> impl Strategy<Value = Change> {
        let node = (0..3_u8, prop::collection::vec((0..16_u8, 28..=32_u8), 0..4), any::<bool>());
        let node = node.prop_map(|(at, places, is_there)| {
            let mut node = Node::named(NodeName::new(&format!("n{at}")).unwrap());
            for (last, length) in places {
                node.addresses.push(NodeAddress { ip: address(last), prefix: None });
                let cidr = Cidr::around(address(last), length);
                node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr });
            }
            let fact = Fact::Node(node);
            if is_there { Change::set(fact) } else { Change::Remove(fact.key()) }
        });
        let service = (0..3_u8, prop::collection::vec(0..16_u8, 0..3), any::<bool>());
        let service = service.prop_map(|(at, addresses, is_there)| {
            let mut service = Service::named(ObjectKey::new("shop", &format!("s{at}")).unwrap());
            service.cluster_ips = addresses.into_iter().map(address).collect();
            let fact = Fact::Service(service);
            if is_there { Change::set(fact) } else { Change::Remove(fact.key()) }
        });
        prop_oneof![node, service]
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_look_at_all_finds(changes in prop::collection::vec(change(), 0..30)) {
            let mut facts = Facts::default();
            for change in changes {
                facts.apply(change);
            }
            for ip in (0..16).map(address) {
                let having = |node: &&Node| node.addresses.iter().any(|own| own.ip == ip);
                let mut found: Vec<_> = facts.nodes_at(ip).map(|node| &node.name).collect();
                found.sort();
                let mut expected: Vec<_> = facts.nodes().filter(having).map(|node| &node.name).collect();
                expected.sort();
                prop_assert_eq!(found, expected);
                let blocks = facts.nodes().flat_map(|node| node.pod_cidrs.iter().map(|own| (own.cidr, &node.name)));
                let around = blocks.filter(|(block, _)| block.contains(ip));
                let expected = around.min_by_key(|(block, name)| (u8::MAX - block.prefix(), *name));
                prop_assert_eq!(facts.pods_block_around(ip), expected);
            }
            for length in 28..=32 {
                let block = Cidr::around(address(5), length);
                let mut found: Vec<_> = facts.services_within(block).map(|service| &service.key).collect();
                found.sort();
                found.dedup();
                let inside = |service: &&Service| service.cluster_ips.iter().any(|ip| block.contains(*ip));
                let mut expected: Vec<_> = facts.services().filter(inside).map(|service| &service.key).collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            let keys: Vec<FactKey> = facts.nodes().map(|node| FactKey::Node(node.name.clone())).collect();
            keys.into_iter().for_each(|key| drop(facts.apply(Change::Remove(key))));
            prop_assert!(facts.places.addresses.is_empty() && facts.places.lengths.is_empty());
        }
    }
}
