//! Rows of the kernel: links, routes, neighbours, sysctls, and the packet filter's parts.
//!
//! A key says *which* object, a row what it should be. Observation of the kernel yields the same types, so that the
//! difference of two tables is the work to do.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_model::{AttachmentId, Cidr, IfName, Mac, Port, Protocol, Vni};

use crate::filter::{Atoms, Chain, Element, Ident, SetSpec};

/// The IPv4 next hop of every pod: the host end answers for it by proxy ARP.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 next hop of every pod: an address of every host end.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// MAC address of every host end: each is alone with its pod, so one address serves all.
pub const HOST_END_MAC: Mac = Mac([0x02, 0x77, 0x65, 0x66, 0x74, 0x01]);
/// Names of pods' host ends begin so.
pub const POD_LINK_PREFIX: &str = "weftp";
/// Names of tunnel links begin so; the VNI follows.
pub const TUNNEL_LINK_PREFIX: &str = "weftx";
/// Group number of every link that Weft makes.
pub const LINK_GROUP: u32 = 9338;
/// `rtm_protocol` of every route and rule that Weft makes; below 186 nothing else claims it (`rt_protos`).
pub const ROUTE_PROTOCOL: u8 = 93;
/// The routing table for what pods send to nodes through a tunnel.
pub const POD_TABLE: u32 = 9338;
/// The kernel's main table.
pub const MAIN_TABLE: u32 = 254;
/// The kernel's table of local addresses.
pub const LOCAL_TABLE: u32 = 255;

/// What identifies a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The routing table.
    pub table: u32,
    /// The destination.
    pub destination: Cidr,
    /// Its metric; 0 is the kernel's default (1024 for IPv6).
    pub metric: u32,
}

/// A policy rule: packets from these sources look at that table before the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRule {
    /// Sources.
    pub from: Cidr,
    /// The table.
    pub table: u32,
    /// Its place among the rules; the main table's is 32766.
    pub priority: u32,
    /// Packets whose mark has any of these bits pass it by; 0 for a rule that marks don't matter to.
    pub unless_mark: u32,
}

/// What other firewalls on this host must let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opening {
    /// Forwarded packets from and to these addresses.
    Forward(Cidr),
    /// Packets to this port of the host.
    Input(Protocol, Port),
}

/// Which kernel object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelKey {
    /// A file below `/proc/sys`, such as `net/ipv4/ip_forward`.
    Sysctl(Box<str>),
    /// A link.
    Link(IfName),
    /// A route.
    Route(RouteKey),
    /// A policy rule.
    Rule(PolicyRule),
    /// A permanent neighbour.
    Neighbour(IfName, IpAddr),
    /// A permanent forwarding entry of a tunnel link.
    Fdb(IfName, Mac),
    /// What foreign firewalls must let through.
    Opening(Opening),
    /// A set or map of the packet filter.
    Set(Ident),
    /// A chain of the packet filter.
    Chain(Ident),
    /// An element of a set or map.
    Element(Ident, Atoms),
}

/// The host end of a pod's interface, and the pod's end with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// Whose it is.
    pub attachment: AttachmentId,
    /// Path of the pod's network namespace, for when the descriptor that ADD brought is gone.
    pub netns: Box<str>,
    /// MAC of the pod's end.
    pub pod_mac: Mac,
    /// The pod's addresses: /32 or /128 on its end, default routes by [`GATEWAY_V4`] and [`GATEWAY_V6`].
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
}

/// A VXLAN tunnel end (RFC 7348); learning off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanLink {
    /// Network identifier.
    pub vni: Vni,
    /// UDP port, both source of truth for what we listen on and what we send to.
    pub port: Port,
    /// The underlay address that packets leave with.
    pub local: IpAddr,
    /// MAC address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
}

/// A link that Weft makes. It is always up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Text for people, at most 255 bytes (`ip link` shows it as alias): `weft:default/web-0`.
    pub alias: Box<str>,
}

/// Kinds of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A pod's host end.
    Pod(PodLink),
    /// A VXLAN tunnel end.
    Vxlan(VxlanLink),
}

impl LinkKind {
    /// Its MTU in bytes; of a pod's link that of both ends.
    pub fn mtu(&self) -> u32 {
        match self {
            LinkKind::Pod(pod) => pod.mtu,
            LinkKind::Vxlan(vxlan) => vxlan.mtu,
        }
    }

    /// The pod's link that it is; nothing for a tunnel, of whichever overlay.
    pub fn as_pod(&self) -> Option<&PodLink> {
        match self {
            LinkKind::Pod(pod) => Some(pod),
            LinkKind::Vxlan(_) => None,
        }
    }
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends on.
    Unicast,
    /// Delivers here.
    Local,
    /// Answers "no such host" at once, so that unused addresses of our own block don't loop by the default route.
    Unreachable,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What it does.
    pub kind: RouteKind,
    /// The link that it leaves by; `None` for unreachable ones.
    pub link: Option<IfName>,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// The next hop need not lie in a subnet of the link (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// Source address that this host's own packets get.
    pub source: Option<IpAddr>,
}

/// A permanent neighbour entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Where it is.
    pub mac: Mac,
}

/// A permanent forwarding entry of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fdb {
    /// The underlay address of the node that has the MAC.
    pub destination: IpAddr,
}

/// What a kernel object should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelRow {
    /// The file's content, without the newline.
    Sysctl(Box<str>),
    /// A link.
    Link(Box<Link>),
    /// A route.
    Route(Route),
    /// A policy rule; its key says all.
    Rule,
    /// A neighbour.
    Neighbour(Neighbour),
    /// A forwarding entry.
    Fdb(Fdb),
    /// A firewall opening; its key says all.
    Opening,
    /// A set or map.
    Set(Box<SetSpec>),
    /// A chain.
    Chain(Box<Chain>),
    /// An element.
    Element(Element),
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opening::Forward(cidr) => write!(f, "forward from and to {cidr}"),
            Opening::Input(protocol, port) => write!(f, "input {protocol} dport {port}"),
        }
    }
}
