//! The facts of the cluster as one node knows them: keyed tables, and the few indices that rules need.
//!
//! What always holds: an index says exactly what its table says. Only [`Facts::apply`] writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{
    Attachment, AttachmentId, Change, Cidr, EndpointSlice, Fact, FactKey, Family, Host, Labels, Namespace,
    NamespaceName, Network, NetworkName, Node, NodeName, ObjectKey, ObjectName, Pod, Selector, Service,
    ServiceCidr, Slot, Table,
};

use self::labels::{PodLabels, ServiceSelectors, Slots, link, unlink};
use self::places::{NodePlaces, ServicePlaces};
use crate::services::groups::{GroupIndex, GroupKey};
use crate::services::published::PublishedIndex;
use crate::services::sources::SourceIndex;

mod labels;
mod places;

/// What a change did: the fact before and after it. Equal ones never reach a rule.
#[derive(Debug, Clone)]
pub struct Transition {
    /// Which fact.
    pub key: FactKey,
    /// What it was.
    pub before: Option<Fact>,
    /// What it is.
    pub after: Option<Fact>,
}

impl Transition {
    /// Both states that exist.
    pub fn states(&self) -> impl Iterator<Item = &Fact> {
        self.before.iter().chain(&self.after)
    }
}

/// All facts.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    host: Host,
    networks: BTreeMap<NetworkName, Network>,
    nodes: Table<Node>,
    namespaces: BTreeMap<NamespaceName, Namespace>,
    pods: Table<Pod>,
    services: Table<Service>,
    slices: Table<EndpointSlice>,
    service_cidrs: BTreeMap<ObjectName, ServiceCidr>,
    attachments: FxHashMap<AttachmentId, Attachment>,
    places: NodePlaces,
    virtuals: ServicePlaces,
    pods_by_label: PodLabels,
    services_by_label: ServiceSelectors,
    slices_of: FxHashMap<ObjectKey, Slots>,
    /// Services and pods in each namespace.
    population: FxHashMap<NamespaceName, usize>,
    /// Pods in their node's network whose addresses nobody has written.
    on_host: FxHashMap<NodeName, BTreeSet<ObjectKey>>,
    groups: GroupIndex,
    published: PublishedIndex,
    sources: SourceIndex,
    /// Services that prefer endpoints near by.
    choosy: BTreeSet<ObjectKey>,
    /// Services by the seconds for which their clients keep an endpoint.
    affinity_timeouts: BTreeMap<u32, usize>,
}

impl Facts {
    /// This machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// True where anything is known of this key.
    pub fn has(&self, key: &FactKey) -> bool {
        !self.holds(key, self.slot(key), None)
    }

    /// Everything that stores tell of: all but this machine and its attachments. In no order.
    pub fn told(&self) -> impl Iterator<Item = Fact> + '_ {
        let networks = self.networks.values().cloned().map(Fact::Network);
        let namespaces = self.namespaces.values().cloned().map(Fact::Namespace);
        let service_cidrs = self.service_cidrs.values().cloned().map(Fact::ServiceCidr);
        let nodes = self.nodes.iter().cloned().map(Fact::Node);
        let pods = self.pods.iter().cloned().map(Fact::Pod);
        let services = self.services.iter().cloned().map(Fact::Service);
        let slices = self.slices.iter().cloned().map(Fact::EndpointSlice);
        networks.chain(namespaces).chain(service_cidrs).chain(nodes).chain(pods).chain(services).chain(slices)
    }

    /// A network by name; the ordinary one always exists.
    pub fn network(&self, name: &NetworkName) -> Option<&Network> {
        self.networks.get(name)
    }

    /// All networks, by name. Without any fact this is empty: use [`Facts::network_or_default`] for the ordinary one.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// The network of this name, or one with every setting at its default where nobody has described it.
    pub fn network_or_default(&self, name: &NetworkName) -> Network {
        self.networks.get(name).cloned().unwrap_or_else(|| Network::named(name.clone()))
    }

    /// A node by name.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// The nodes that say an address is their own, in no order.
    pub fn nodes_at(&self, address: IpAddr) -> impl Iterator<Item = &Node> {
        self.places.at(address).filter_map(|slot| self.nodes.at(slot))
    }

    /// The smallest of nodes' blocks of pods that holds an address, and whose it is; of several nodes the first by name.
    pub fn pods_block_around(&self, address: IpAddr) -> Option<(Cidr, &NodeName)> {
        let (block, nodes) = self.places.around(address)?;
        let first = nodes.filter_map(|slot| self.nodes.at(slot)).map(|node| &node.name).min()?;
        Some((block, first))
    }

    /// All namespaces that have a fact of their own, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// True where the namespace has a fact of its own.
    pub fn has_namespace(&self, name: &NamespaceName) -> bool {
        self.namespaces.contains_key(name)
    }

    /// True for a namespace with a fact of its own, and for one that holds a service or a pod.
    pub fn namespace_exists(&self, name: &NamespaceName) -> bool {
        self.namespaces.contains_key(name) || self.population.contains_key(name)
    }

    /// A pod by key.
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// All pods, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter()
    }

    /// A service by key.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter()
    }

    /// Services with a cluster address in a block, in the order of addresses; one with several comes as often.
    pub fn services_within(&self, block: Cidr) -> impl Iterator<Item = &Service> {
        self.virtuals.within(block).filter_map(|slot| self.services.at(slot))
    }

    /// Numbers of services' groups of endpoints.
    pub fn groups(&self) -> &GroupIndex {
        &self.groups
    }

    /// Who wants which external address, or node port.
    pub fn published(&self) -> &PublishedIndex {
        &self.published
    }

    /// Lists of sources that may use balancers' addresses.
    pub fn sources(&self) -> &SourceIndex {
        &self.sources
    }

    /// Services that prefer endpoints near by, by name.
    pub fn choosy_services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.choosy.iter()
    }

    /// Every time, in seconds, for which some service's clients keep their endpoint.
    pub fn affinity_timeouts(&self) -> impl Iterator<Item = u32> + '_ {
        self.affinity_timeouts.keys().copied()
    }

    /// Blocks of virtual addresses that have an object of their own, by its name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    /// A slice by key.
    pub fn slice(&self, key: &ObjectKey) -> Option<&EndpointSlice> {
        self.slices.get(key)
    }

    /// Slices that name a service, by name.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> + use<'_> {
        let slots = self.slices_of.get(service).into_iter().flat_map(Slots::iter);
        let mut slices: Vec<&EndpointSlice> = slots.filter_map(|slot| self.slices.at(slot)).collect();
        slices.sort_by(|a, b| a.key.name.cmp(&b.key.name));
        slices.into_iter()
    }

    /// True where a slice names the service.
    pub fn has_slices(&self, service: &ObjectKey) -> bool {
        self.slices_of.contains_key(service)
    }

    /// An attachment by id.
    pub fn attachment(&self, id: &AttachmentId) -> Option<&Attachment> {
        self.attachments.get(id)
    }

    /// All attachments of this node, in no order.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// Pods that a service's selector selects, by name.
    pub fn selected_by(&self, service: &Service) -> Vec<&Pod> {
        let Some(labels) = &service.selector else { return Vec::new() };
        let slots = self.pods_by_label.having(&service.key.namespace, labels);
        let mut pods: Vec<&Pod> = slots.filter_map(|slot| self.pods.at(slot)).collect();
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        pods
    }

    /// Services whose selector selects a pod with these labels, by name.
    pub fn services_selecting(&self, namespace: &NamespaceName, labels: &Labels) -> Vec<&Service> {
        let selects = |service: &&Service| {
            service.selector.as_ref().is_some_and(|s| Selector::equalities(s).matches(labels))
        };
        let slots = self.services_by_label.candidates(namespace, labels);
        let mut found: Vec<&Service> =
            slots.filter_map(|slot| self.services.at(slot)).filter(selects).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// A pod's addresses; for one in its node's network whose own nobody has written, the node's.
    pub fn addresses_of(&self, pod: &Pod) -> Vec<IpAddr> {
        match node_to_ask(pod) {
            Some(name) => {
                let node = self.nodes.get(name);
                Family::ALL.into_iter().filter_map(|family| Some(node?.address(family)?.ip)).collect()
            }
            None => pod.ips.to_vec(),
        }
    }

    /// Pods whose addresses are those of this node.
    pub fn pods_on_host(&self, node: &NodeName) -> impl Iterator<Item = &Pod> {
        self.on_host.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    /// True where any attachment of this node has `address`.
    pub fn is_local_pod(&self, address: IpAddr) -> bool {
        self.attachments.values().any(|a| a.addresses.contains(&address))
    }

    /// Takes a change; returns what it did, or nothing where it said what was already known.
    pub fn apply(&mut self, change: Change) -> Option<Transition> {
        let key = change.key();
        let after = match change {
            Change::Set(fact) => Some(*fact),
            Change::Remove(_) => None,
        };
        let slot = self.slot(&key);
        if self.holds(&key, slot, after.as_ref()) {
            return None;
        }
        let before = self.take(&key, slot);
        if let (Some(fact), Some(slot)) = (&before, slot) {
            self.unindex(fact, slot);
        }
        if let Some(fact) = &after
            && let Some(slot) = self.put(fact.clone())
        {
            self.index(fact, slot);
        }
        Some(Transition { key, before, after })
    }

    /// True where `fact` is what is known of `key`, whose slot this is.
    fn holds(&self, key: &FactKey, slot: Option<Slot>, fact: Option<&Fact>) -> bool {
        let Some(fact) = fact else {
            return match key {
                FactKey::Host => self.host == Host::default(),
                FactKey::Network(name) => !self.networks.contains_key(name),
                FactKey::Namespace(name) => !self.namespaces.contains_key(name),
                FactKey::ServiceCidr(name) => !self.service_cidrs.contains_key(name),
                FactKey::Attachment(id) => !self.attachments.contains_key(id),
                _ => slot.is_none(),
            };
        };
        match fact {
            Fact::Host(host) => self.host == *host,
            Fact::Network(network) => self.networks.get(&network.name) == Some(network),
            Fact::Node(node) => slot.and_then(|slot| self.nodes.at(slot)) == Some(node),
            Fact::Namespace(namespace) => self.namespaces.get(&namespace.name) == Some(namespace),
            Fact::Pod(pod) => slot.and_then(|slot| self.pods.at(slot)) == Some(pod),
            Fact::Service(service) => slot.and_then(|slot| self.services.at(slot)) == Some(service),
            Fact::EndpointSlice(slice) => slot.and_then(|slot| self.slices.at(slot)) == Some(slice),
            Fact::ServiceCidr(blocks) => self.service_cidrs.get(&blocks.name) == Some(blocks),
            Fact::Attachment(attachment) => self.attachments.get(&attachment.id) == Some(attachment),
        }
    }

    /// Where a fact is, for the kinds that indices point to.
    fn slot(&self, key: &FactKey) -> Option<Slot> {
        match key {
            FactKey::Node(name) => self.nodes.slot(name),
            FactKey::Pod(key) => self.pods.slot(key),
            FactKey::Service(key) => self.services.slot(key),
            FactKey::EndpointSlice(key) => self.slices.slot(key),
            FactKey::Host
            | FactKey::Network(_)
            | FactKey::Namespace(_)
            | FactKey::ServiceCidr(_)
            | FactKey::Attachment(_) => None,
        }
    }

    fn take(&mut self, key: &FactKey, slot: Option<Slot>) -> Option<Fact> {
        match key {
            FactKey::Host => {
                let host = std::mem::take(&mut self.host);
                (host != Host::default()).then_some(Fact::Host(host))
            }
            FactKey::Network(name) => self.networks.remove(name).map(Fact::Network),
            FactKey::Node(_) => self.nodes.remove_at(slot?).map(Fact::Node),
            FactKey::Namespace(name) => self.namespaces.remove(name).map(Fact::Namespace),
            FactKey::Pod(_) => self.pods.remove_at(slot?).map(Fact::Pod),
            FactKey::Service(_) => self.services.remove_at(slot?).map(Fact::Service),
            FactKey::EndpointSlice(_) => self.slices.remove_at(slot?).map(Fact::EndpointSlice),
            FactKey::ServiceCidr(name) => self.service_cidrs.remove(name).map(Fact::ServiceCidr),
            FactKey::Attachment(id) => self.attachments.remove(id).map(Fact::Attachment),
        }
    }

    /// Puts a fact where none is; returns its slot, for the kinds that indices point to.
    fn put(&mut self, fact: Fact) -> Option<Slot> {
        match fact {
            Fact::Host(host) => self.host = host,
            Fact::Network(network) => drop(self.networks.insert(network.name.clone(), network)),
            Fact::Node(node) => return Some(self.nodes.insert(node).0),
            Fact::Namespace(namespace) => drop(self.namespaces.insert(namespace.name.clone(), namespace)),
            Fact::Pod(pod) => return Some(self.pods.insert(pod).0),
            Fact::Service(service) => return Some(self.services.insert(service).0),
            Fact::EndpointSlice(slice) => return Some(self.slices.insert(slice).0),
            Fact::ServiceCidr(blocks) => drop(self.service_cidrs.insert(blocks.name.clone(), blocks)),
            Fact::Attachment(attachment) => drop(self.attachments.insert(attachment.id.clone(), attachment)),
        }
        None
    }

    fn index(&mut self, fact: &Fact, slot: Slot) {
        match fact {
            Fact::Node(node) => self.places.insert(node, slot),
            Fact::Pod(pod) => {
                self.settle(&pod.key.namespace);
                self.pods_by_label.insert(&pod.key.namespace, &pod.labels, slot);
                if let Some(node) = node_to_ask(pod) {
                    self.on_host.entry(node.clone()).or_default().insert(pod.key.clone());
                }
            }
            Fact::Service(service) => {
                self.settle(&service.key.namespace);
                if let Some(selector) = &service.selector {
                    self.services_by_label.insert(&service.key.namespace, selector, slot);
                }
                self.virtuals.insert(service, slot);
                GroupKey::all_of(service).for_each(|group| self.groups.insert(group));
                self.published.insert(service);
                self.sources.insert(service);
                if service.distribution.is_some() {
                    self.choosy.insert(service.key.clone());
                }
                if let Some(seconds) = service.affinity_seconds {
                    *self.affinity_timeouts.entry(seconds).or_default() += 1;
                }
            }
            Fact::EndpointSlice(slice) => {
                if let Some(service) = slice.service_key() {
                    link(&mut self.slices_of, service, slot);
                }
            }
            _ => {}
        }
    }

    fn settle(&mut self, namespace: &NamespaceName) {
        *self.population.entry(namespace.clone()).or_default() += 1;
    }

    fn leave(&mut self, namespace: &NamespaceName) {
        if let Some(count) = self.population.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.population.remove(namespace);
            }
        }
    }

    fn unindex(&mut self, fact: &Fact, slot: Slot) {
        match fact {
            Fact::Node(node) => self.places.remove(node, slot),
            Fact::Pod(pod) => {
                self.leave(&pod.key.namespace);
                self.pods_by_label.remove(&pod.key.namespace, &pod.labels, slot);
                if let Some(node) = node_to_ask(pod)
                    && let Some(keys) = self.on_host.get_mut(node)
                {
                    keys.remove(&pod.key);
                    if keys.is_empty() {
                        self.on_host.remove(node);
                    }
                }
            }
            Fact::Service(service) => {
                self.leave(&service.key.namespace);
                if let Some(selector) = &service.selector {
                    self.services_by_label.remove(&service.key.namespace, selector, slot);
                }
                self.virtuals.remove(service, slot);
                GroupKey::all_of(service).for_each(|group| self.groups.remove(&group));
                self.published.remove(service);
                self.sources.remove(service);
                self.choosy.remove(&service.key);
                if let Some(seconds) = service.affinity_seconds
                    && let Some(count) = self.affinity_timeouts.get_mut(&seconds)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.affinity_timeouts.remove(&seconds);
                    }
                }
            }
            Fact::EndpointSlice(slice) => {
                if let Some(service) = slice.service_key() {
                    unlink(&mut self.slices_of, &service, slot);
                }
            }
            _ => {}
        }
    }
}

/// The node that has a pod's addresses, where the pod itself doesn't say them.
fn node_to_ask(pod: &Pod) -> Option<&NodeName> {
    pod.node.as_ref().filter(|_| pod.host_network && pod.ips.is_empty())
}
