//! The pod's end of a veth pair, inside the pod's namespace.
//!
//! A pod owns its namespace and may rearrange it; Weft sets this end up once, follows MTU changes, and compares it only when
//! a runtime asks (CNI CHECK).

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use weft_model::{Family, IfName};
use weft_plan::PodLink;
use weft_plan::kernel::{GATEWAY_V4, GATEWAY_V6, HOST_END_MAC};

use super::request::{OwnAddresses, Request, change, send, settings, up};
use super::state::{Conf, LinkState};
use super::{netns, pod_routes};
use crate::KernelError;
use crate::netlink::{Message, Received, Rtnl, headers, number};
use crate::route::af;

/// The loopback link's index, in every namespace.
const LOOPBACK: u32 = 1;
/// Length of `struct ifaddrmsg`.
const ADDRESS_FIXED: usize = 8;
/// It is so already.
pub(super) const EXISTS: &[i32] = &[libc::EEXIST];

/// Sets up a fresh end: loopback, addresses, link, neighbours, routes.
pub(crate) fn configure(
    rtnl: &mut Rtnl,
    namespace: BorrowedFd<'_>,
    pod: &PodLink,
    index: u32,
) -> Result<(), KernelError> {
    let requests = requests(pod, index);
    match send(rtnl, &requests) {
        // Some runtimes start namespaces with IPv6 switched off.
        Err(error) if error.errno() == Some(libc::EACCES) && super::host_end::has_ipv6(pod) => {
            enable_ipv6(namespace, pod.attachment.ifname)?;
            send(rtnl, &requests).map(drop)
        }
        other => other.map(drop),
    }
}

/// Makes an existing end right: MAC, MTU, no addresses beside the wanted, and all that [`configure`] does.
pub(crate) fn repair(
    rtnl: &mut Rtnl,
    namespace: BorrowedFd<'_>,
    pod: &PodLink,
    state: &LinkState,
) -> Result<(), KernelError> {
    let mut requests = Vec::new();
    if state.mac != Some(pod.pod_mac) {
        let message = change(state.index).attr(libc::IFLA_ADDRESS, &pod.pod_mac.0);
        requests.push(Request::new(message, "set the MAC of", object(pod)));
    }
    if state.mtu != pod.mtu {
        let message = change(state.index).u32(libc::IFLA_MTU, pod.mtu);
        requests.push(Request::new(message, "set the MTU of", object(pod)));
    }
    let present = addresses(rtnl, state.index)?;
    for (address, prefix) in present {
        if !pod.addresses.contains(&address) && !is_link_local(address) {
            requests.push(address_request(pod, libc::RTM_DELADDR, 0, state.index, address, prefix));
        }
    }
    send(rtnl, &requests)?;
    configure(rtnl, namespace, pod, state.index)
}

/// Addresses of a link in the socket's namespace, with their prefixes.
pub(crate) fn addresses(rtnl: &mut Rtnl, index: u32) -> Result<Vec<(IpAddr, u8)>, KernelError> {
    let request = Message::new(libc::RTM_GETADDR, 0, &headers::address(0, 0, 0, 0, index));
    let read = |message: &Received<'_>| {
        let attributes = message.attributes(ADDRESS_FIXED);
        let address =
            attributes.address(libc::IFA_LOCAL).or_else(|| attributes.address(libc::IFA_ADDRESS))?;
        (number(message.body, 4)? == index).then(|| (address, message.body[1]))
    };
    Ok(rtnl.list("addresses", &request, read)?)
}

/// True when the namespace takes packets for the address: the kernel makes an IPv6 address its own a moment after it
/// was added, in a thread of its own.
pub(crate) fn is_local(rtnl: &mut Rtnl, address: IpAddr) -> Result<bool, KernelError> {
    let mut header = [0; 12];
    header[0] = af(Family::of(address));
    header[1] = Family::of(address).bits();
    let message = Message::new(libc::RTM_GETROUTE, 0, &header).address(libc::RTA_DST, address);
    let reply = rtnl.ask(message)?;
    Ok(reply.object.is_some_and(|(_, body)| body.get(7) == Some(&libc::RTN_LOCAL)))
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Switches IPv6 on for a link of the namespace.
fn enable_ipv6(namespace: BorrowedFd<'_>, link: IfName) -> Result<(), KernelError> {
    netns::within(namespace, link, || crate::sysctl::enable_ipv6(link))?
}

pub(super) fn object(pod: &PodLink) -> String {
    format!("link {} of {}", pod.attachment.ifname, pod.attachment.container)
}

fn requests(pod: &PodLink, index: u32) -> Vec<Request> {
    let mut requests = vec![
        up(LOOPBACK, IfName::loopback()),
        // A changed MAC is announced, so that the host's neighbour follows at once.
        settings(index, pod.attachment.ifname, &[(Conf::ArpNotify, 1)], OwnAddresses::Kernel),
    ];
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    for address in &pod.addresses {
        let prefix = Family::of(*address).bits();
        requests
            .push(address_request(pod, libc::RTM_NEWADDR, flags, index, *address, prefix).tolerate(EXISTS));
    }
    requests.push(up(index, pod.attachment.ifname));
    for family in Family::ALL {
        if pod.addresses.iter().any(|a| Family::of(*a) == family) {
            requests.push(gateway_neighbour(pod, index, family));
            requests.extend(pod_routes::requests(pod, index, family));
        }
    }
    requests
}

pub(super) fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(GATEWAY_V4),
        Family::V6 => IpAddr::V6(GATEWAY_V6),
    }
}

pub(super) fn address_request(
    pod: &PodLink,
    kind: u16,
    flags: i32,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Request {
    let nodad = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let scope = libc::RT_SCOPE_UNIVERSE;
    let header = headers::address(af(Family::of(address)), prefix, nodad, scope, index);
    let message = Message::new(kind, flags, &header).address(libc::IFA_LOCAL, address);
    let action = if kind == libc::RTM_NEWADDR { "add" } else { "remove" };
    Request::new(message, action, format!("address {address} on {}", object(pod)))
}

fn gateway_neighbour(pod: &PodLink, index: u32, family: Family) -> Request {
    let header = headers::neighbour(af(family), index, libc::NUD_PERMANENT, 0);
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let message = Message::new(libc::RTM_NEWNEIGH, flags, &header)
        .address(libc::NDA_DST, gateway(family))
        .attr(libc::NDA_LLADDR, &HOST_END_MAC.0);
    Request::new(message, "add", format!("the gateway's neighbour on {}", object(pod)))
}
