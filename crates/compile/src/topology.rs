//! Where this node stands among the others: its own links and addresses, and the way to each peer.
//!
//! What always holds: two nodes decide alike about the way between them, because each decides by what both have
//! published.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;
use weft_model::{
    Cidr, Fact, FactKey, Family, HostLink, IfName, Mac, Network, NetworkName, Node, NodeAddress, Overlay,
    Port, Protocol, Vni,
};
use weft_plan::kernel::TUNNEL_LINK_PREFIX;

use crate::engine::Context;
use crate::facts::Transition;

/// Bytes that VXLAN adds to an inner packet over IPv4: IP 20, UDP 8, VXLAN 8, Ethernet 14 (RFC 7348 §5).
const VXLAN_OVERHEAD_V4: u32 = 50;
/// The same over IPv6.
const VXLAN_OVERHEAD_V6: u32 = 70;
/// The uplink's MTU where no uplink is known yet.
const FALLBACK_MTU: u32 = 1500;
/// IPv6's smallest allowed MTU (RFC 8200 §5); no link of ours goes below it.
const SMALLEST_MTU: u32 = 1280;

/// The ordinary network where nobody has described it.
static UNDESCRIBED: LazyLock<Network> = LazyLock::new(|| Network::named(NetworkName::ordinary()));

/// How packets get to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the peer's address on a link that we share.
    Direct {
        /// The peer's address.
        via: IpAddr,
        /// Our link.
        link: IfName,
    },
    /// Through the tunnel to this address of the peer.
    Tunnel {
        /// The peer's underlay address.
        underlay: IpAddr,
    },
    /// Not at all, and why.
    None(&'static str),
}

impl<'a> Context<'a> {
    /// The fact of this node, once the store has it.
    pub fn own_node(&self) -> Option<&'a Node> {
        self.facts.node(&self.settings.node)
    }

    /// This node's address of a family: as published, else as the kernel has it.
    pub fn own_address(&self, family: Family) -> Option<IpAddr> {
        self.own_node()
            .and_then(|node| node.address(family))
            .map(|address| address.ip)
            .or_else(|| self.facts.host().address(family).map(|net| net.addr()))
    }

    /// The address that packets of this node itself should have towards pods: its own one, while the kernel has it. It
    /// refuses a route by any other, so that pods would be lost along with the address.
    pub fn route_source(&self, family: Family) -> Option<IpAddr> {
        let host = self.facts.host();
        let own = self.own_address(family).filter(|own| host.has(*own));
        own.or_else(|| host.address(family).map(|net| net.addr()))
    }

    /// An address of this machine itself that lies in `block`: no pod may have addresses of such a block.
    pub fn own_address_in(&self, block: Cidr) -> Option<IpAddr> {
        let host = self.facts.host().nets().map(|net| net.addr());
        let published =
            self.own_node().into_iter().flat_map(|node| &node.addresses).map(|address| address.ip);
        published.chain(host).find(|address| block.contains(*address))
    }

    /// The link that this node's preferred address is on.
    pub fn uplink(&self) -> Option<&'a HostLink> {
        let host = self.facts.host();
        let underlay = self.own_underlay().and_then(|address| host.link_of(address));
        underlay
            .or_else(|| Family::ALL.into_iter().find_map(|family| host.link_of(self.own_address(family)?)))
            .or_else(|| host.links.first())
    }

    /// The underlay address that tunnels of this node use: IPv4 where it has said one, and in any case of a family in which others know it.
    pub fn own_underlay(&self) -> Option<IpAddr> {
        let said =
            self.own_node().and_then(|node| Family::ALL.into_iter().find_map(|family| node.address(family)));
        let own = said.map(|address| address.ip);
        own.or_else(|| Family::ALL.into_iter().find_map(|family| self.own_address(family)))
    }

    /// Networks that exist here: the ordinary one in any case, and then all others that are described, by name. Where two want
    /// one thing, the first has it, so that no newcomer takes it from the one that is always there.
    pub fn networks(&self) -> Vec<&'a Network> {
        let ordinary = self.facts.network(&UNDESCRIBED.name).unwrap_or(&UNDESCRIBED);
        let others = self.facts.networks().filter(|network| network.name != ordinary.name);
        std::iter::once(ordinary).chain(others).collect()
    }

    /// One of [`Context::networks`] by its name.
    pub fn network(&self, name: &NetworkName) -> Option<&'a Network> {
        self.facts.network(name).or_else(|| (*name == UNDESCRIBED.name).then_some(&*UNDESCRIBED))
    }

    /// The network whose tunnel has this VNI here: the first of [`Context::networks`] that wants it. Others of that VNI have none,
    /// and no way but to nodes on the same link.
    pub fn tunnel_of(&self, vni: Vni) -> Option<&'a Network> {
        let ordinary = self.network(&UNDESCRIBED.name);
        let has_it = |network: &&Network| network.vni == vni && network.tunnel_port().is_some();
        ordinary.into_iter().chain(self.facts.networks()).find(has_it)
    }

    /// True where this network's packets have a tunnel here.
    pub fn has_tunnel(&self, network: &Network) -> bool {
        self.tunnel_of(network.vni).is_some_and(|holder| holder.name == network.name)
    }

    /// The network whose tunnel has this port of the node.
    pub fn tunnel_at(&self, protocol: Protocol, port: Port) -> Option<&'a Network> {
        let mut networks = self.networks().into_iter();
        networks.find(|network| network.tunnel_port() == Some((protocol, port)) && self.has_tunnel(network))
    }

    /// Blocks that services' virtual addresses come from: those of the networks, and those of ServiceCIDR objects. In order,
    /// each once; one may lie inside another.
    pub fn service_cidrs(&self) -> Vec<Cidr> {
        let networks = self.facts.networks().flat_map(|network| &network.service_cidrs);
        let objects = self.facts.service_cidrs().flat_map(|object| &object.cidrs);
        let mut blocks: Vec<Cidr> = networks.chain(objects).copied().collect();
        blocks.sort();
        blocks.dedup();
        blocks
    }

    /// What of a block of pods is services': no pod gets an address there. Nothing where all of it is.
    pub fn services_in(&self, block: Cidr) -> Vec<Cidr> {
        let mut services = aggregate(self.service_cidrs());
        services.retain(|services| *services != block && block.net().contains(&services.net()));
        services
    }

    /// Largest packet that the network's pods may send, in bytes: as configured, else the uplink's less the tunnel's
    /// overhead.
    pub fn pod_mtu(&self, network: &Network) -> u32 {
        network.mtu.unwrap_or_else(|| self.tunnel_mtu(network)).max(SMALLEST_MTU)
    }

    /// Largest inner packet of the network's tunnel, in bytes; the uplink's MTU where there is no tunnel.
    pub fn tunnel_mtu(&self, network: &Network) -> u32 {
        let uplink = self.uplink().map_or(FALLBACK_MTU, |link| link.mtu);
        let overhead = match (network.overlay, self.own_underlay()) {
            (Overlay::HostGw, _) => 0,
            (_, Some(IpAddr::V6(_))) => VXLAN_OVERHEAD_V6,
            _ => VXLAN_OVERHEAD_V4,
        };
        uplink.saturating_sub(overhead).max(SMALLEST_MTU)
    }

    /// MAC and address of this node's second tunnel end, where nodes of flannel's send IPv6 to one.
    pub fn second_end(&self) -> Option<(Mac, IpAddr)> {
        let mac = self.own_node()?.vtep6_mac?;
        let is_first = self.own_underlay().is_some_and(|first| first.is_ipv6());
        self.own_address(Family::V6).filter(|_| !is_first).map(|address| (mac, address))
    }

    /// Largest inner packet of the second tunnel end, which is over IPv6 where the first isn't.
    pub fn second_end_mtu(&self, network: &Network) -> u32 {
        let more = VXLAN_OVERHEAD_V6 - VXLAN_OVERHEAD_V4;
        self.tunnel_mtu(network).saturating_sub(more).max(SMALLEST_MTU)
    }

    /// The way to `peer` for pods' addresses of a family.
    pub fn way(&self, peer: &Node, network: &Network, family: Family) -> Way {
        let direct = self.direct(peer, network, family);
        let way = match (network.overlay, direct) {
            (Overlay::Auto | Overlay::HostGw, Some(way)) => way,
            (Overlay::HostGw, None) => Way::None(
                "it has no address of this family on a link that we share; use overlay auto or vxlan",
            ),
            _ => match self.tunnel_of(network.vni) {
                Some(holder) if holder.name == network.name => self.tunnel(peer),
                Some(_) => Way::None(
                    "another network has its network's VNI, and the tunnel with it; give this network one of its own in spec.vni",
                ),
                None => Way::None("nobody has described its network"),
            },
        };
        match way {
            Way::Direct { via: address, .. } | Way::Tunnel { underlay: address } if self.is_own(address) => {
                Way::None(
                    "the address by which peers should reach it is this node's own; where that is this machine's former name, forget it \
                     (`weft forget` and that name); else give one of the two another address, or name `addresses` in its configuration",
                )
            }
            way => way,
        }
    }

    /// True for an address of this node: published, or the kernel's.
    fn is_own(&self, address: IpAddr) -> bool {
        let published = self.own_node().into_iter().flat_map(|node| &node.addresses);
        published.map(|own| own.ip).any(|own| own == address) || self.facts.host().has(address)
    }

    fn direct(&self, peer: &Node, network: &Network, family: Family) -> Option<Way> {
        let own = self.own_node().and_then(|node| node.address(family))?;
        let theirs = peer.address(family)?;
        let assumed = network.overlay == Overlay::HostGw;
        if !share_a_link(own, theirs, assumed) {
            return None;
        }
        let link = self
            .facts
            .host()
            .link_of(own.ip)
            .or_else(|| Some(self.facts.host().link_towards(theirs.ip)?.0))?;
        Some(Way::Direct { via: theirs.ip, link: link.name })
    }

    fn tunnel(&self, peer: &Node) -> Way {
        let (Some(_), Some(own)) = (self.own_node(), self.own_underlay()) else {
            return Way::None("this node itself is not in the store yet, or has no address");
        };
        match peer.address(Family::of(own)) {
            Some(address) => Way::Tunnel { underlay: address.ip },
            None => Way::None("it has no address of the family that this node's tunnel uses"),
        }
    }
}

/// True where both addresses lie in one subnet by both nodes' own word. A node that hasn't said its prefix is taken to
/// share the link only where the overlay demands it (`assumed`).
fn share_a_link(own: NodeAddress, theirs: NodeAddress, assumed: bool) -> bool {
    let subnet = |address: NodeAddress| Some(IpNet::new(address.ip, address.prefix?).ok()?.trunc());
    match (subnet(own), subnet(theirs)) {
        (Some(a), Some(b)) => a == b,
        (Some(a), None) => assumed && a.contains(&theirs.ip),
        (None, Some(b)) => assumed && b.contains(&own.ip),
        (None, None) => assumed,
    }
}

/// The tunnel link of a network with this VNI: `weftx` and the VNI, at most 13 bytes.
pub fn tunnel_link(vni: Vni) -> IfName {
    let name = format!("{TUNNEL_LINK_PREFIX}{}", vni.get());
    // A VNI has at most eight digits, so the name is valid.
    IfName::new(&name).unwrap_or_else(|_| IfName::loopback())
}

/// The second one, which only takes packets: `weftx`, the VNI and `v6`, at most 15 bytes.
pub fn second_tunnel_link(vni: Vni) -> IfName {
    let name = format!("{TUNNEL_LINK_PREFIX}{}v6", vni.get());
    IfName::new(&name).unwrap_or_else(|_| IfName::loopback())
}

/// The link-local address that a tunnel end has by its MAC (modified EUI-64, RFC 4291 appendix A): a next hop for IPv6 that
/// needs no exchange.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// Blocks with what is inside another one left out and neighbours joined: interval sets take no overlaps.
pub fn aggregate(cidrs: impl IntoIterator<Item = Cidr>) -> Vec<Cidr> {
    let nets: Vec<IpNet> = cidrs.into_iter().map(|cidr| cidr.net()).collect();
    IpNet::aggregate(&nets).into_iter().filter_map(|net| Cidr::new(net).ok()).collect()
}

impl Transition {
    /// The network that it is about, as it was and as it is: the ordinary one is there also where nobody describes it.
    pub fn network(&self) -> Option<[Option<&Network>; 2]> {
        let FactKey::Network(name) = &self.key else { return None };
        let undescribed = (*name == UNDESCRIBED.name).then_some(&*UNDESCRIBED);
        Some([&self.before, &self.after].map(|state| match state {
            Some(Fact::Network(network)) => Some(network),
            _ => undescribed,
        }))
    }

    /// Where a tunnel may have come to, or gone from: also that of another network with its VNI, of which one has a tunnel.
    pub fn tunnel_ports(&self, context: &Context<'_>) -> Vec<(Protocol, Port)> {
        let Some(states) = self.network() else { return Vec::new() };
        let [before, after] = states.map(|state| state.map(|network| (network.vni, network.tunnel_port())));
        if before == after {
            return Vec::new();
        }
        let vnis: Vec<Vni> = before.iter().chain(&after).map(|(vni, _)| *vni).collect();
        let beside = context.networks().into_iter().filter(|network| vnis.contains(&network.vni));
        let own = before.iter().chain(&after).filter_map(|(_, port)| *port);
        let mut ports: Vec<_> = own.chain(beside.filter_map(Network::tunnel_port)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Blocks that came to services' or left them, by this fact.
    pub fn changed_service_cidrs(&self) -> Vec<Cidr> {
        let of = |fact: &Option<Fact>| match fact {
            Some(Fact::Network(network)) => network.service_cidrs.clone(),
            Some(Fact::ServiceCidr(object)) => object.cidrs.clone(),
            _ => Vec::new(),
        };
        let (before, after) = (of(&self.before), of(&self.after));
        let gone = before.iter().filter(|block| !after.contains(block));
        gone.chain(after.iter().filter(|block| !before.contains(block))).copied().collect()
    }

    /// True where it is about this machine, this node's own fact, a network or its services' addresses: what there is one of
    /// on a node may depend on any of them.
    pub fn concerns_this_node(&self, context: &Context<'_>) -> bool {
        self.is_of_this_node(context) || matches!(self.key, FactKey::Network(_) | FactKey::ServiceCidr(_))
    }

    /// True where it is about this machine or this node's own fact: what each pod and peer has may depend on it, in every
    /// network.
    pub fn is_of_this_node(&self, context: &Context<'_>) -> bool {
        match &self.key {
            FactKey::Host => true,
            FactKey::Node(name) => *name == context.settings.node,
            _ => false,
        }
    }
}
