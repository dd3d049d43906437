//! The machine that this node is, as its kernel shows it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Family, IfName};

/// A link of the host that is not Weft's own and has an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostLink {
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// It takes IPv6 router advertisements (`accept_ra` is not 0).
    #[serde(default)]
    pub router_advertisements: bool,
    /// Its global addresses with the prefix of the link they are on, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// What the kernel says of this machine's own links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Host {
    /// Links with addresses, loopback left out, the one with the default route first.
    pub links: Vec<HostLink>,
    /// Global addresses on the loopback link: a router's, as a rule.
    #[serde(default)]
    pub loopback: Vec<IpAddr>,
}

impl Host {
    /// The link whose subnet holds `address`, and this host's own address on it.
    pub fn link_towards(&self, address: IpAddr) -> Option<(&HostLink, IpNet)> {
        self.links
            .iter()
            .find_map(|link| link.addresses.iter().find(|net| net.contains(&address)).map(|net| (link, *net)))
    }

    /// The link that has `address` as its own.
    pub fn link_of(&self, address: IpAddr) -> Option<&HostLink> {
        self.links.iter().find(|link| link.addresses.iter().any(|net| net.addr() == address))
    }

    /// True where this machine has `address` now.
    pub fn has(&self, address: IpAddr) -> bool {
        self.loopback.contains(&address) || self.link_of(address).is_some()
    }

    /// The addresses of its links with the prefixes of these, the link with the default route first; loopback's aren't there.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.links.iter().flat_map(|link| &link.addresses).copied()
    }

    /// All addresses, loopback's last. One that is on two links comes twice.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.nets().map(|net| net.addr()).chain(self.loopback.iter().copied())
    }

    /// The first address of a family: what peers should use.
    pub fn address(&self, family: Family) -> Option<IpNet> {
        self.nets().find(|net| Family::of(net.addr()) == family)
    }
}
