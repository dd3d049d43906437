//! Networks: a named set of pods with addresses, a way between nodes, and a shape at the edge.

use serde::{Deserialize, Serialize};

use crate::{Cidr, NetworkName, Port, Vni};

/// How pods of this network meet the world outside the cluster (the design's three architectures).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Pod addresses are routable outside: nothing is masqueraded.
    Flat,
    /// Pods reach the outside with their node's address.
    #[default]
    Island,
    /// No way out, and no way in but port mappings and the node itself.
    Isolated,
}

/// How packets get from node to node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// Direct where two nodes share a link, VXLAN elsewhere.
    #[default]
    Auto,
    /// VXLAN between all nodes (RFC 7348).
    Vxlan,
    /// A route by the peer's address; all nodes share a link.
    HostGw,
}

/// One network of the cluster, as everybody in the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Network {
    /// Its name; the ordinary one is `default`.
    pub name: NetworkName,
    /// Blocks that nodes' pod CIDRs are cut from, at most one a family; empty where somebody else gives them out.
    pub pod_cidrs: Vec<Cidr>,
    /// Prefix length of a node's share of an IPv4 block, in bits.
    pub node_prefix_v4: u8,
    /// Prefix length of a node's share of an IPv6 block, in bits.
    pub node_prefix_v6: u8,
    /// Blocks that services' virtual addresses come from.
    pub service_cidrs: Vec<Cidr>,
    /// How the network meets the outside.
    pub shape: Shape,
    /// The way between nodes.
    pub overlay: Overlay,
    /// VXLAN's network identifier.
    pub vni: Vni,
    /// VXLAN's UDP port.
    pub vxlan_port: Port,
    /// Destinations outside the cluster that still see pods' own addresses.
    pub no_masquerade: Vec<Cidr>,
    /// MTU of pods' links, in bytes; otherwise it follows the uplink and the tunnel.
    pub mtu: Option<u32>,
}

impl Network {
    /// Port that IANA gave to VXLAN (RFC 7348 §5).
    pub const VXLAN_PORT: u32 = 4789;
    /// The VNI of the ordinary network, out of the way of other tools' customary 1.
    pub const DEFAULT_VNI: u32 = 9338;

    /// The network that exists where nobody has described one.
    pub fn ordinary() -> Self {
        Self::named(NetworkName::ordinary())
    }

    /// A network of this name with every setting at its default.
    pub fn named(name: NetworkName) -> Self {
        // Both constants are in range; the tests below would fail otherwise.
        let (Ok(vni), Ok(vxlan_port)) = (Vni::new(Self::DEFAULT_VNI), Port::new(Self::VXLAN_PORT)) else {
            unreachable!("constants in range")
        };
        Self {
            name,
            pod_cidrs: Vec::new(),
            node_prefix_v4: 24,
            node_prefix_v6: 64,
            service_cidrs: Vec::new(),
            shape: Shape::default(),
            overlay: Overlay::default(),
            vni,
            vxlan_port,
            no_masquerade: Vec::new(),
            mtu: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn defaults_are_valid() {
        assert_eq!(super::Network::ordinary().vni.get(), super::Network::DEFAULT_VNI);
    }
}
