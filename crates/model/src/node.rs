//! Nodes: machines that run pods.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Cidr, Family, Keyed, Labels, Mac, NetworkName, NodeName, Vni};

/// One of a node's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length of the link that it is on, where the node has said it.
    pub prefix: Option<u8>,
}

/// A block of pod addresses that a node owns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeCidr {
    /// The network whose pods have these addresses.
    pub network: NetworkName,
    /// The block.
    pub cidr: Cidr,
}

/// What flannel says of a node whose network it still is, while a cluster moves in from it node by node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flannel {
    /// How it reaches other nodes.
    pub backend: FlannelBackend,
    /// The families in which it knows the node's address.
    pub families: Vec<Family>,
}

/// One of flannel's ways between nodes that Weft knows too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FlannelBackend {
    /// A tunnel, with its network identifier; old versions don't say it.
    Vxlan(Option<Vni>),
    /// Nodes are each other's next hops.
    HostGw,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Labels; `topology.kubernetes.io/zone` among them.
    pub labels: Labels,
    /// Its addresses in order of preference; the first of a family is the one that peers use.
    pub addresses: Vec<NodeAddress>,
    /// Addresses by which its registration knows it (`status.addresses` of type `InternalIP`): a kubelet's `--node-ip`. What the node says
    /// itself stands in [`Node::addresses`]; they are for the node's own choice, and say that what it publishes is a machine's address, no slip.
    #[serde(default)]
    pub registered: Vec<IpAddr>,
    /// The blocks that its pods' addresses come from.
    pub pod_cidrs: Vec<NodeCidr>,
    /// MAC of its tunnel end, where it isn't the one that [`Node::vtep_mac`] derives.
    pub published_vtep_mac: Option<Mac>,
    /// MAC of a second tunnel end that it has for IPv6: nodes of flannel's have one for each family, and send by both. Nodes of Weft's send by
    /// the first alone.
    #[serde(default)]
    pub vtep6_mac: Option<Mac>,
    /// It is about to be removed from the cluster, or is being removed: nobody should send to it what could go elsewhere.
    #[serde(default)]
    pub leaving: bool,
    /// What flannel says of it, where it hasn't moved in yet.
    #[serde(default)]
    pub flannel: Option<Flannel>,
}

impl Keyed for Node {
    type Key = NodeName;
    fn key(&self) -> &NodeName {
        &self.name
    }
}

impl Node {
    /// A node of which only the name is known.
    pub fn named(name: NodeName) -> Self {
        Self {
            name,
            labels: Labels::default(),
            addresses: Vec::new(),
            registered: Vec::new(),
            pod_cidrs: Vec::new(),
            published_vtep_mac: None,
            vtep6_mac: None,
            leaving: false,
            flannel: None,
        }
    }

    /// The address that peers use in a family.
    pub fn address(&self, family: Family) -> Option<NodeAddress> {
        self.addresses.iter().copied().find(|a| Family::of(a.ip) == family)
    }

    /// MAC address of its tunnel end: published, or derived from the name alike on every node.
    pub fn vtep_mac(&self) -> Mac {
        self.published_vtep_mac.unwrap_or_else(|| Mac::derived(&format!("weft vtep {}", self.name)))
    }

    /// Its blocks in `network`.
    pub fn cidrs<'a>(&'a self, network: &'a NetworkName) -> impl Iterator<Item = Cidr> + 'a {
        self.pod_cidrs.iter().filter(move |c| c.network == *network).map(|c| c.cidr)
    }

    /// The topology zone that it lies in (`topology.kubernetes.io/zone`).
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone")
    }
}
