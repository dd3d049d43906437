//! Taking over what another network made: its links and routes get our mark in place, and go on working meanwhile.
//!
//! What always holds: only what the caller names is touched. A pod's host end that was taken has no alias, and so counts as
//! unfinished: the row that describes it makes the rest, at once or after a crash. What it doesn't do: decide what is whose.

use std::net::IpAddr;
use std::os::fd::AsFd;

use weft_model::{Cidr, Family, IfName, Mac};
use weft_plan::kernel::{LINK_GROUP, MAIN_TABLE, ROUTE_PROTOCOL};

use super::LinuxKernel;
use crate::KernelError;
use crate::link::request::{Request, find, send};
use crate::link::state::LinkState;
use crate::link::{netns, pod_end};
use crate::netlink::{Message, Received, headers, number};
use crate::overlay::vxlan::Device;
use crate::route::{ONLINK, ROUTE_FIXED, list_all_routes};

/// Both ends of a pod's veth pair, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerPod {
    /// The host end.
    pub host: IfName,
    /// The link that the host end is a port of.
    pub bridge: Option<IfName>,
    /// MAC of the pod's end.
    pub mac: Mac,
    /// MTU of the pod's end, in bytes.
    pub mtu: u32,
    /// Addresses of the pod's end but link-local ones, with their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A VXLAN device of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerTunnel {
    /// Its name.
    pub name: IfName,
    /// Its network identifier.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Its MAC.
    pub mac: Option<Mac>,
}

impl LinuxKernel {
    /// Looks at a pod's interface from inside its namespace; `None` where it has none of that name whose other end is here.
    ///
    /// # Errors
    /// [`KernelError::Namespace`] where the namespace is gone; otherwise where the kernel can't be asked.
    pub fn former_pod(&mut self, netns: &str, ifname: IfName) -> Result<Option<FormerPod>, KernelError> {
        let namespace = netns::open(ifname, netns)?;
        let mut inside = netns::socket(namespace.as_fd(), ifname)?;
        let Some(end) = find(&mut inside, ifname)?.filter(|end| end.kind == "veth") else { return Ok(None) };
        let links = self.all_links()?;
        let other = |link: &&LinkState| {
            link.kind == "veth" && end.peer == Some(link.index) && link.peer == Some(end.index)
        };
        let (Some(host), Some(mac)) = (links.iter().find(other), end.mac) else { return Ok(None) };
        let bridge = links.iter().find(|link| host.master == Some(link.index)).map(|link| link.name);
        let mut addresses = pod_end::addresses(&mut inside, end.index)?;
        addresses.retain(|(address, _)| !pod_end::is_link_local(*address));
        Ok(Some(FormerPod { host: host.name, bridge, mac, mtu: end.mtu, addresses }))
    }

    /// The ports of a bridge; `None` where there is no bridge of that name.
    ///
    /// # Errors
    /// Where links can't be listed.
    pub fn bridge_ports(&mut self, bridge: IfName) -> Result<Option<Vec<IfName>>, KernelError> {
        let links = self.all_links()?;
        let Some(bridge) = links.iter().find(|link| link.name == bridge && link.kind == "bridge") else {
            return Ok(None);
        };
        let ports = links.iter().filter(|link| link.master == Some(bridge.index));
        Ok(Some(ports.map(|link| link.name).collect()))
    }

    /// VXLAN devices that are not ours.
    ///
    /// # Errors
    /// Where links can't be listed.
    pub fn former_tunnels(&mut self) -> Result<Vec<FormerTunnel>, KernelError> {
        let links = self.all_links()?;
        let foreign = links.into_iter().filter(|link| !link.is_ours());
        Ok(foreign
            .filter_map(|link| {
                let vxlan = Device::read(&link)?;
                Some(FormerTunnel { name: link.name, vni: vxlan.vni, port: vxlan.port, mac: link.mac })
            })
            .collect())
    }

    /// Makes somebody's link ours: `old` leaves its bridge, and is called `new`. One that is gone, or was taken before, is
    /// no error.
    ///
    /// # Errors
    /// Where the kernel refuses; a refused link is as it was.
    pub fn take_link(&mut self, old: IfName, new: IfName) -> Result<(), KernelError> {
        let Some(state) = find(&mut self.rtnl, old)? else { return Ok(()) };
        let take = || {
            let message = Message::new(libc::RTM_SETLINK, 0, &headers::link(state.index, 0, 0))
                .text(libc::IFLA_IFNAME, new.as_str())
                .u32(libc::IFLA_GROUP, LINK_GROUP)
                .attr(libc::IFLA_IFALIAS, b"");
            let message = match state.master {
                Some(_) => message.u32(libc::IFLA_MASTER, 0),
                None => message,
            };
            Request::new(message, "take over", format!("link {old} as {new}"))
        };
        match send(&mut self.rtnl, &[take()]) {
            // Before Linux 6.2 a link that is up keeps its name. All in one datagram, so that nobody sees it down for long.
            Err(error) if error.errno() == Some(libc::EBUSY) => {
                let up = libc::IFF_UP as u32;
                let flags = |flags: u32| {
                    let message = Message::new(libc::RTM_SETLINK, 0, &headers::link(state.index, flags, up));
                    Request::new(message, "take down or up", format!("link {old}"))
                };
                send(&mut self.rtnl, &[flags(0), take(), flags(up)]).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Removes a bridge without ports.
    ///
    /// # Errors
    /// Where the kernel refuses; a bridge that is gone is no error.
    pub fn remove_bridge(&mut self, bridge: IfName) -> Result<(), KernelError> {
        let Some(state) = find(&mut self.rtnl, bridge)?.filter(|link| link.kind == "bridge") else {
            return Ok(());
        };
        let message = Message::new(libc::RTM_DELLINK, 0, &headers::link(state.index, 0, 0));
        let request = Request::new(message, "remove", format!("bridge {bridge}")).tolerate(&[libc::ENODEV]);
        send(&mut self.rtnl, &[request]).map(drop)
    }

    /// Makes others' routes by a gateway ours, where their destination lies in one of `blocks`: each is replaced by itself,
    /// so that no packet finds it missing. Tells the destination of each that was taken.
    ///
    /// # Errors
    /// Where the kernel refuses one: those that were told are ours.
    pub fn take_routes(&mut self, blocks: &[Cidr], mut taken: impl FnMut(Cidr)) -> Result<(), KernelError> {
        for family in Family::ALL {
            let found = self.rtnl.list("routes", &list_all_routes(family), |route| as_ours(route, blocks))?;
            for (destination, message) in found {
                let request = Request::new(message, "take over", format!("the route to {destination}"));
                send(&mut self.rtnl, &[request])?;
                taken(destination);
            }
        }
        Ok(())
    }
}

/// The request that makes a route ours, if it is somebody's to a block among these.
fn as_ours(message: &Received<'_>, blocks: &[Cidr]) -> Option<(Cidr, Message)> {
    let body = message.body.get(..ROUTE_FIXED)?;
    let attributes = message.attributes(ROUTE_FIXED);
    let flags = number(body, 8)?;
    let by_person_or_program = !matches!(body[5], ROUTE_PROTOCOL | libc::RTPROT_KERNEL);
    let plain = body[7] == libc::RTN_UNICAST
        && flags & libc::RTM_F_CLONED == 0
        && attributes.u32(libc::RTA_TABLE) == Some(MAIN_TABLE)
        && attributes.get(libc::RTA_MULTIPATH).is_none();
    attributes.get(libc::RTA_GATEWAY)?;
    let address = attributes.address(libc::RTA_DST)?;
    let destination = Cidr::new(ipnet::IpNet::new(address, body[1]).ok()?).ok()?;
    let inside = blocks.iter().any(|block| block.net().contains(&destination.net()));
    if !by_person_or_program || !plain || !inside {
        return None;
    }
    let header = headers::Route {
        family: body[0],
        destination_len: body[1],
        source_len: 0,
        table: MAIN_TABLE,
        protocol: ROUTE_PROTOCOL,
        scope: body[6],
        kind: body[7],
        flags: flags & ONLINK,
    };
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut ours = Message::new(libc::RTM_NEWROUTE, flags, &header.bytes());
    let kept = [
        libc::RTA_DST,
        libc::RTA_GATEWAY,
        libc::RTA_OIF,
        libc::RTA_PREFSRC,
        libc::RTA_PRIORITY,
        libc::RTA_METRICS,
    ];
    for attribute in kept {
        if let Some(value) = attributes.get(attribute) {
            ours = ours.attr(attribute, value);
        }
    }
    Some((destination, ours))
}
