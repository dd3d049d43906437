//! The nodes of a view, and what lies between them.

use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{FactKey, Host, IfName, NodeName};
use weft_plan::{Link, Plan, PodLink};

use super::index::Index;
use super::packet::Start;

/// One node, as the oracle needs it.
#[derive(Debug, Clone)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: NodeName,
    /// What Weft makes of it.
    pub plan: &'a Plan,
    /// The machine's own links and addresses. Where another machine's are not known, a link with the address that its node
    /// publishes is enough.
    pub host: &'a Host,
}

/// Some or all nodes of a cluster, ready for packets. A node that is left out is outside.
#[derive(Debug)]
pub struct World<'a> {
    pub(super) nodes: Vec<Inhabitant<'a>>,
    by_name: FxHashMap<NodeName, usize>,
    owners: FxHashMap<IpAddr, (usize, IfName)>,
    pods: FxHashMap<IpAddr, (usize, IfName)>,
}

/// One node with its index.
#[derive(Debug)]
pub(super) struct Inhabitant<'a> {
    pub name: NodeName,
    pub index: Index<'a>,
}

/// A pod's interface, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace {
    /// Its node.
    pub node: NodeName,
    /// The host end of its link.
    pub link: IfName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The link's alias for people, without Weft's prefix: `default/web-0`.
    pub name: String,
    /// The fact behind the link.
    pub origin: FactKey,
}

impl PodPlace {
    /// Packets that this pod sends.
    pub fn start(&self) -> Start {
        Start::Pod { node: self.node.clone(), link: self.link }
    }
}

impl<'a> World<'a> {
    /// Indexes every node's plan once. Where two nodes claim an address, the first one has it.
    pub fn new(nodes: impl IntoIterator<Item = NodeView<'a>>) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            by_name: FxHashMap::default(),
            owners: FxHashMap::default(),
            pods: FxHashMap::default(),
        };
        for (at, view) in nodes.into_iter().enumerate() {
            let index = Index::new(view.plan, view.host);
            for link in &view.host.links {
                for net in &link.addresses {
                    world.owners.entry(net.addr()).or_insert((at, link.name));
                }
            }
            for (name, _, pod, _) in &index.pods {
                for address in &pod.addresses {
                    world.pods.entry(*address).or_insert((at, *name));
                }
            }
            world.by_name.entry(view.name.clone()).or_insert(at);
            world.nodes.push(Inhabitant { name: view.name, index });
        }
        world
    }

    /// All pods' interfaces, by node and link.
    pub fn pods(&self) -> impl Iterator<Item = PodPlace> + '_ {
        self.nodes.iter().flat_map(|node| {
            node.index.pods.iter().map(|(link, row, pod, origin)| place(&node.name, *link, row, pod, origin))
        })
    }

    /// The pod that has an address.
    pub fn pod_at(&self, address: IpAddr) -> Option<PodPlace> {
        let (at, link) = self.pods.get(&address)?;
        let node = &self.nodes[*at];
        let (_, row, pod, origin) = node.index.pod(*link)?;
        Some(place(&node.name, *link, row, pod, origin))
    }

    /// The node that has an address on a link of its own.
    pub fn node_at(&self, address: IpAddr) -> Option<&NodeName> {
        self.owners.get(&address).map(|(at, _)| &self.nodes[*at].name)
    }

    /// The position of a node.
    pub(super) fn position(&self, name: &NodeName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The node that has an address on a link of its own, and the link.
    pub(super) fn owner(&self, address: IpAddr) -> Option<(usize, IfName)> {
        self.owners.get(&address).copied()
    }
}

/// A link's alias as people say it.
pub(super) fn spoken(link: &Link) -> String {
    link.alias.strip_prefix("weft:").unwrap_or(&link.alias).to_owned()
}

fn place(node: &NodeName, link: IfName, row: &Link, pod: &PodLink, origin: &FactKey) -> PodPlace {
    PodPlace {
        node: node.clone(),
        link,
        addresses: pod.addresses.clone(),
        name: spoken(row),
        origin: origin.clone(),
    }
}
