//! Networks: a named set of pods with addresses, a way between nodes, and a shape at the edge.

use serde::{Deserialize, Serialize};

use crate::net::fnv1a;
use crate::{Cidr, NetworkName, Port, Protocol, Vni};

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
    /// The VNI of the ordinary network, out of the way of other tools' customary 1. Others' follow from their names.
    pub const DEFAULT_VNI: u32 = 9338;

    /// The network that exists where nobody has described one.
    pub fn ordinary() -> Self {
        Self::named(NetworkName::ordinary())
    }

    /// A network of this name with every setting at its default.
    pub fn named(name: NetworkName) -> Self {
        let (Ok(vni), Ok(vxlan_port)) = (Vni::new(Self::usual_vni(&name)), Port::new(Self::VXLAN_PORT))
        else {
            unreachable!("both are in range; the tests below would fail otherwise")
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

    /// Where nodes take packets of this network's tunnel, which nothing else of theirs may have; nothing without a tunnel.
    pub fn tunnel_port(&self) -> Option<(Protocol, Port)> {
        match self.overlay {
            Overlay::Auto | Overlay::Vxlan => Some((Protocol::Udp, self.vxlan_port)),
            Overlay::HostGw => None,
        }
    }

    /// The VNI of a network that has none by its description: every node must come to the same one, and no two networks should.
    fn usual_vni(name: &NetworkName) -> u32 {
        if *name == NetworkName::ordinary() {
            return Self::DEFAULT_VNI;
        }
        // 1 << 16 to 1 << 24: clear of what people and other tools choose.
        let span = (1 << 24) - (1 << 16);
        (1 << 16) + (fnv1a(name.as_str().as_bytes()) % span) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Network::ordinary().vni.get(), Network::DEFAULT_VNI);
    }

    #[test]
    fn a_network_without_a_tunnel_has_no_port_of_one() {
        let check = |overlay, expected: Option<u32>| {
            let network = Network { overlay, ..Network::ordinary() };
            let found = network.tunnel_port().map(|(protocol, port)| (protocol, u32::from(port.get())));
            assert_eq!(found, expected.map(|port| (Protocol::Udp, port)), "{overlay:?}");
        };
        check(Overlay::Auto, Some(4789));
        check(Overlay::Vxlan, Some(4789));
        check(Overlay::HostGw, None);
    }

    /// Part of the format: nodes of different versions must agree.
    #[test]
    fn a_network_that_says_nothing_has_a_vni_of_its_own() {
        let check = |name: &str, expected: u32| {
            assert_eq!(Network::named(NetworkName::new(name).unwrap()).vni.get(), expected, "{name}");
        };
        check("default", 9338);
        check("blue", 11_225_234);
        check("green", 11_053_728);
    }
}
