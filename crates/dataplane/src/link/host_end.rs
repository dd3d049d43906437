//! The host end of a pod's veth pair: what it must be, the requests that make it so, and what is wrong with one.

use std::net::IpAddr;

use weft_model::{Family, IfName};
use weft_plan::PodLink;
use weft_plan::kernel::{GATEWAY_V6, HOST_END_MAC, LINK_GROUP};

use super::request::{ADDR_GEN_NONE, OwnAddresses, Request, change, no_own_addresses, own, settings, up};
use super::state::{Conf, DOOMED_GROUPS, LinkState};
use crate::netlink::{Message, headers};
use crate::route::af;

/// `VETH_INFO_PEER`.
const VETH_INFO_PEER: u16 = 1;
/// The table of IPv4 neighbours, as the kernel calls it.
const ARP_TABLE: &str = "arp_cache";
/// `NDTA_*` and `NDTPA_*` of `linux/neighbour.h`.
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_PROXY_DELAY: u16 = 13;
/// Queues of each end, each way. Where nothing is said the kernel makes one a processor, with files in `/sys` and notices to udev,
/// and takes all but the first out of use again: for that it waits until every processor has let go of them, once for each end and
/// with the lock held that all links share. One is in use either way. What that gives up: `ethtool -L` can't raise their number
/// later, as it could within the number made. It would matter to who redirects to a pod's link by XDP, with a queue for each
/// processor that sends, and for GRO at a pod's end on many processors (`ethtool -K eth0 gro on`), which works a queue at a time.
const QUEUES: u32 = 1;
/// Length of `struct ndtmsg`.
const NDT_FIXED: usize = 4;

/// IPv4 settings of a host end. It answers ARP for the gateway; sources are for the packet filter to judge, which knows
/// them exactly, and not for the routing tables as well (no reverse path check, and local sources accepted, which spares
/// the second look-up of every packet); a packet to 127.0.0.1 that was translated may come here; a pod is never told to go
/// another way.
pub(crate) const CONF: [(Conf, u32); 5] = [
    (Conf::ProxyArp, 1),
    (Conf::RpFilter, 0),
    (Conf::AcceptLocal, 1),
    (Conf::RouteLocalnet, 1),
    (Conf::SendRedirects, 0),
];

/// Makes the pair, the pod's end at once in the namespace `fd`, both down.
pub(crate) fn create(name: IfName, pod: &PodLink, fd: i32) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let message = Message::new(libc::RTM_NEWLINK, flags, &headers::link(0, 0, 0))
        .text(libc::IFLA_IFNAME, name.as_str())
        .u32(libc::IFLA_GROUP, LINK_GROUP)
        .u32(libc::IFLA_MTU, pod.mtu)
        .u32(libc::IFLA_NUM_TX_QUEUES, QUEUES)
        .u32(libc::IFLA_NUM_RX_QUEUES, QUEUES)
        .attr(libc::IFLA_ADDRESS, &HOST_END_MAC.0)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.attr(libc::IFLA_INFO_KIND, b"veth").nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&headers::link(0, 0, 0))
                        .text(libc::IFLA_IFNAME, pod.attachment.ifname.as_str())
                        .u32(libc::IFLA_MTU, pod.mtu)
                        .u32(libc::IFLA_NUM_TX_QUEUES, QUEUES)
                        .u32(libc::IFLA_NUM_RX_QUEUES, QUEUES)
                        .attr(libc::IFLA_ADDRESS, &pod.pod_mac.0)
                        .attr(libc::IFLA_NET_NS_FD, &fd.to_ne_bytes())
                })
            })
        });
    Request::new(message, "create", format!("link {name}"))
}

/// Settings, the gateway's IPv6 address, and up: right for a fresh host end and for an old one.
pub(crate) fn configure(state: &LinkState, pod: &PodLink) -> Vec<Request> {
    let (index, name) = (state.index, state.name);
    let mut requests = Vec::with_capacity(6);
    if state.group != LINK_GROUP {
        requests.push(own(index, name));
    }
    if state.mac != Some(HOST_END_MAC) {
        let message = change(index).attr(libc::IFLA_ADDRESS, &HOST_END_MAC.0);
        requests.push(Request::new(message, "set the MAC of", format!("link {name}")));
    }
    requests.push(settings(index, name, &CONF, no_own_addresses()));
    requests.push(no_proxy_delay(index, name));
    if has_ipv6(pod) {
        requests.push(gateway_v6(index, name));
    }
    requests.push(up(index, name));
    requests
}

/// Sets the MTU of the host end.
pub(crate) fn mtu(state: &LinkState, bytes: u32) -> Request {
    let message = change(state.index).u32(libc::IFLA_MTU, bytes);
    Request::new(message, "set the MTU of", format!("link {}", state.name))
}

/// How a neighbour entry that stands already is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seed {
    /// It stays: the kernel may have learned better.
    IfAbsent,
    /// It goes: we know that the MAC changed.
    Anyway,
}

/// The pod's addresses as *stale* neighbours: used at once, verified by the kernel with the first packets, and
/// followed by it when the pod takes its link down or changes its MAC.
pub(crate) fn seed_neighbours(state: &LinkState, pod: &PodLink, seed: Seed) -> Vec<Request> {
    let flags = libc::NLM_F_CREATE
        | match seed {
            Seed::IfAbsent => libc::NLM_F_EXCL,
            Seed::Anyway => libc::NLM_F_REPLACE,
        };
    let request = |address: &IpAddr| {
        let header = headers::neighbour(af(Family::of(*address)), state.index, libc::NUD_STALE, 0);
        let message = Message::new(libc::RTM_NEWNEIGH, flags, &header)
            .address(libc::NDA_DST, *address)
            .attr(libc::NDA_LLADDR, &pod.pod_mac.0);
        Request::new(message, "add", format!("neighbour {address} dev {}", state.name))
            .tolerate(&[libc::EEXIST])
    };
    pod.addresses.iter().map(request).collect()
}

/// What is wrong with a host end beside MTU and alias, which a row says; `addressed` where it has the gateway's address.
pub(crate) fn damage(state: &LinkState, pod: &PodLink, gateway: Gateway) -> Option<String> {
    let mut faults = Vec::new();
    if DOOMED_GROUPS.contains(&state.group) {
        faults.push("its removal was broken off".to_owned());
    }
    if !state.is_up() {
        faults.push("it is down".into());
    }
    if state.mac != Some(HOST_END_MAC) {
        faults.push(format!("its MAC is not {HOST_END_MAC}"));
    }
    for (setting, value) in CONF {
        if state.conf(setting).is_some_and(|now| now != value) {
            faults.push(format!("{} is not {value}", setting.name()));
        }
    }
    if no_own_addresses() == OwnAddresses::None
        && state.addr_gen_mode().is_some_and(|mode| mode != ADDR_GEN_NONE)
    {
        faults.push("the kernel makes link-local addresses for it".into());
    }
    if has_ipv6(pod) && gateway == Gateway::Missing {
        faults.push(format!("the address {GATEWAY_V6} is missing"));
    }
    (!faults.is_empty()).then(|| faults.join(", "))
}

/// Whether a host end has the gateway's IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gateway {
    /// It has.
    Present,
    /// It has not.
    Missing,
}

pub(crate) fn has_ipv6(pod: &PodLink) -> bool {
    pod.addresses.iter().any(IpAddr::is_ipv6)
}

/// Answers to ARP for the gateway come at once: by default the kernel waits up to 0.8 s for a better answer.
fn no_proxy_delay(index: u32, name: IfName) -> Request {
    let mut header = [0; NDT_FIXED];
    header[0] = libc::AF_INET as u8;
    let message = Message::new(libc::RTM_SETNEIGHTBL, libc::NLM_F_REPLACE, &header)
        .text(NDTA_NAME, ARP_TABLE)
        .nest(NDTA_PARMS, |parameters| {
            parameters.u32(NDTPA_IFINDEX, index).attr(NDTPA_PROXY_DELAY, &0_u64.to_ne_bytes())
        });
    Request::new(message, "set the ARP proxy delay of", format!("link {name}"))
}

fn gateway_v6(index: u32, name: IfName) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let nodad = libc::IFA_F_NODAD as u8;
    let header = headers::address(libc::AF_INET6 as u8, 64, nodad, libc::RT_SCOPE_LINK, index);
    let message =
        Message::new(libc::RTM_NEWADDR, flags, &header).address(libc::IFA_LOCAL, IpAddr::V6(GATEWAY_V6));
    Request::new(message, "add", format!("address {GATEWAY_V6} dev {name}")).tolerate(&[libc::EEXIST])
}
