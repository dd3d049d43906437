//! What another network left at a pod's end: the ways and addresses by which the pod reached a bridge.
//!
//! What always holds: the pod has its address all the time, and one way out or the other. Connections know nothing of it.

use std::net::IpAddr;

use weft_model::Family;
use weft_plan::PodLink;
use weft_plan::kernel::MAIN_TABLE;

use super::pod_end::{address_request, addresses, gateway, object};
use super::pod_routes;
use super::request::{Request, send};
use crate::KernelError;
use crate::netlink::{Message, Received, Rtnl, headers};
use crate::route::{ROUTE_FIXED, af, list_all_routes};

/// `IFA_FLAGS` and `IFA_F_NOPREFIXROUTE` of `linux/if_addr.h`.
const IFA_FLAGS: u16 = 8;
const NO_PREFIX_ROUTE: u32 = 0x200;

/// Leaves of the link's ways out those by our gateway alone, and of the pod's addresses no subnet: nobody is a neighbour but
/// the host end. Ways without a gateway, which somebody made inside the pod, stay.
pub(super) fn clear(rtnl: &mut Rtnl, pod: &PodLink, index: u32) -> Result<(), KernelError> {
    let mut requests = Vec::new();
    for family in Family::ALL {
        if pod.addresses.iter().any(|address| Family::of(*address) == family) {
            requests.extend(pod_routes::lead_out(pod, index, family));
            let removals =
                rtnl.list("routes", &list_all_routes(family), |route| removal(route, index, family))?;
            for message in removals {
                requests.push(
                    Request::new(message, "remove", format!("a former route on {}", object(pod)))
                        .tolerate(&[libc::ESRCH]),
                );
            }
        }
    }
    for (address, prefix) in addresses(rtnl, index)? {
        if pod.addresses.contains(&address) && prefix != Family::of(address).bits() {
            requests.push(without_subnet(pod, index, address, prefix));
        }
    }
    send(rtnl, &requests).map(drop)
}

/// An IPv4 address stands a second time, alone; an IPv6 address can't, and gives up the route to its subnet.
fn without_subnet(pod: &PodLink, index: u32, address: IpAddr, prefix: u8) -> Request {
    match address {
        IpAddr::V4(_) => {
            let mut request = address_request(pod, libc::RTM_DELADDR, 0, index, address, prefix)
                .tolerate(&[libc::EADDRNOTAVAIL]);
            // Without it the kernel takes away the first of the two, whichever that is.
            request.message = request.message.address(libc::IFA_ADDRESS, address);
            request
        }
        IpAddr::V6(_) => {
            let mut request =
                address_request(pod, libc::RTM_NEWADDR, libc::NLM_F_REPLACE, index, address, prefix);
            request.message = request.message.u32(IFA_FLAGS, NO_PREFIX_ROUTE | libc::IFA_F_NODAD);
            request
        }
    }
}

/// A request that removes the route, if it is the link's and by another gateway than ours.
fn removal(message: &Received<'_>, index: u32, family: Family) -> Option<Message> {
    let body = message.body.get(..ROUTE_FIXED)?;
    let attributes = message.attributes(ROUTE_FIXED);
    let via = attributes.address(libc::RTA_GATEWAY)?;
    let of_link = attributes.u32(libc::RTA_OIF) == Some(index)
        && attributes.u32(libc::RTA_TABLE) == Some(MAIN_TABLE)
        && body[0] == af(family);
    if !of_link || via == gateway(family) {
        return None;
    }
    let header = headers::Route {
        family: body[0],
        destination_len: body[1],
        source_len: 0,
        table: MAIN_TABLE,
        protocol: 0,
        scope: libc::RT_SCOPE_NOWHERE,
        kind: libc::RTN_UNSPEC,
        flags: 0,
    };
    let mut removal = Message::new(libc::RTM_DELROUTE, 0, &header.bytes())
        .u32(libc::RTA_OIF, index)
        .address(libc::RTA_GATEWAY, via);
    for attribute in [libc::RTA_DST, libc::RTA_PRIORITY] {
        if let Some(value) = attributes.get(attribute) {
            removal = removal.attr(attribute, value);
        }
    }
    Some(removal)
}
