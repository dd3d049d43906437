//! What the kernel says of this machine's own links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_model::{Family, Host, HostLink};

use crate::KernelError;
use crate::link::state::{self, LinkState};
use crate::netlink::{Message, Received, Rtnl, headers, number};
use crate::route::{ROUTE_FIXED, af};
use crate::sysctl;

/// Length of `struct ifaddrmsg`.
const ADDRESS_FIXED: usize = 8;
/// Addresses that nobody has, to ask which way everything else goes: of class E, and of the 6bone that was given back.
const NOWHERE_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
const NOWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 1);
/// A default route has at most this prefix: 2000::/3 is one too.
const DEFAULT_PREFIX: u8 = 3;

/// This machine's links with global addresses, without loopback and without Weft's own; the one with the default route
/// comes first, the others in the kernel's order. Cost is that of links and addresses, not of routes.
///
/// # Errors
/// When the kernel can't be asked.
pub fn observe_host() -> Result<Host, KernelError> {
    let mut rtnl = Rtnl::open()?;
    let links = rtnl.list("links", &state::list(), state::read)?;
    let addresses = global_addresses(&mut rtnl)?;
    let (lo, mut links): (Vec<_>, Vec<_>) =
        links.into_iter().partition(|link| link.flags & libc::IFF_LOOPBACK as u32 != 0);
    let on_lo = addresses.iter().filter(|(index, _)| lo.iter().any(|link| link.index == *index));
    let loopback = on_lo.map(|(_, net)| net.addr()).collect();
    links.retain(|link| !link.is_ours());
    let first = match default_link(&mut rtnl, NOWHERE_V4.into())? {
        Some(index) => Some(index),
        None => default_link(&mut rtnl, NOWHERE_V6.into())?,
    };
    links.sort_by_key(|link| Some(link.index) != first);
    let with_addresses = |link: LinkState| {
        let of_link = addresses.iter().filter(|(index, _)| *index == link.index);
        let addresses: Vec<IpNet> = of_link.map(|(_, net)| *net).collect();
        let accept_ra = sysctl::read(&format!("net/ipv6/conf/{}/accept_ra", link.name));
        // A kernel without IPv6 has no such file, and takes none.
        let router_advertisements = accept_ra.is_ok_and(|value| value != "0");
        let (name, mtu) = (link.name, link.mtu);
        (!addresses.is_empty()).then_some(HostLink { name, mtu, router_advertisements, addresses })
    };
    Ok(Host { links: links.into_iter().filter_map(with_addresses).collect(), loopback })
}

/// Global addresses by link index; IPv6 privacy addresses, which come and go, are left out.
fn global_addresses(rtnl: &mut Rtnl) -> Result<Vec<(u32, IpNet)>, KernelError> {
    let request = Message::new(libc::RTM_GETADDR, 0, &headers::address(0, 0, 0, 0, 0));
    let read = |message: &Received<'_>| {
        let attributes = message.attributes(ADDRESS_FIXED);
        let &[family, prefix, flags, scope, ..] = message.body else {
            return None;
        };
        let temporary = i32::from(family) == libc::AF_INET6 && u32::from(flags) & libc::IFA_F_TEMPORARY != 0;
        let address =
            attributes.address(libc::IFA_LOCAL).or_else(|| attributes.address(libc::IFA_ADDRESS))?;
        let index = number(message.body, 4)?;
        let net = IpNet::new(address, prefix).ok()?;
        (scope == libc::RT_SCOPE_UNIVERSE && !temporary).then_some((index, net))
    };
    Ok(rtnl.list("addresses", &request, read)?)
}

/// Index of the link that the default route leads to; `None` without such a route.
fn default_link(rtnl: &mut Rtnl, nowhere: IpAddr) -> Result<Option<u32>, KernelError> {
    let family = Family::of(nowhere);
    let header = headers::Route {
        family: af(family),
        destination_len: family.bits(),
        source_len: 0,
        table: 0,
        protocol: 0,
        scope: 0,
        kind: 0,
        // Answer with the route that matches, not with what it makes of this destination.
        flags: libc::RTM_F_FIB_MATCH,
    };
    let request = Message::new(libc::RTM_GETROUTE, 0, &header.bytes()).address(libc::RTA_DST, nowhere);
    let reply = rtnl.ask(request)?;
    // Refused means that no route leads there.
    let Some((_, body)) = reply.object else {
        return Ok(None);
    };
    let prefix = body.get(1).copied().unwrap_or(u8::MAX);
    let attributes = crate::netlink::Attributes::new(body.get(ROUTE_FIXED..).unwrap_or_default());
    Ok(attributes.u32(libc::RTA_OIF).filter(|_| prefix <= DEFAULT_PREFIX))
}
