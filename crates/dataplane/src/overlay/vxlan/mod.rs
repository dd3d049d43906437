//! VXLAN (RFC 7348): a device without learning and without multicast; who is where is written by us.
//!
//! The UDP checksum is on, as the kernel makes such a device, over both families; RFC 7348 asks for zero over IPv4 and takes either.
//! Checksum offload of the underlay is left as the driver has it: whether a card corrupts it shows only in packets
//! between two nodes.

use std::net::IpAddr;

use weft_model::{IfName, Mac, Port, Vni};
use weft_plan::VxlanLink;
use weft_plan::kernel::LINK_GROUP;

use super::{Fitness, Overlay};
use crate::link::request::Request;
use crate::link::state::LinkState;
use crate::netlink::{Message, headers};

const KIND: &str = "vxlan";

/// `IFLA_VXLAN_*` of `linux/if_link.h`.
mod a {
    pub(super) const ID: u16 = 1;
    pub(super) const LOCAL: u16 = 4;
    pub(super) const LEARNING: u16 = 7;
    pub(super) const PORT: u16 = 15;
    pub(super) const LOCAL6: u16 = 17;
}

/// A device's own attributes, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    local: Option<IpAddr>,
    learning: u8,
}

impl Device {
    /// `None` for links of other kinds.
    pub(crate) fn read(state: &LinkState) -> Option<Self> {
        let data = state.data(KIND)?;
        Some(Self {
            vni: data.u32(a::ID)?,
            port: data.be16(a::PORT)?,
            local: data.address(a::LOCAL).or_else(|| data.address(a::LOCAL6)),
            learning: data.u8(a::LEARNING).unwrap_or(0),
        })
    }
}

impl Overlay for VxlanLink {
    fn mac(&self) -> Option<Mac> {
        Some(self.mac)
    }

    fn create(&self, name: IfName) -> Request {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let message = Message::new(libc::RTM_NEWLINK, flags, &headers::link(0, 0, 0))
            .text(libc::IFLA_IFNAME, name.as_str())
            .u32(libc::IFLA_GROUP, LINK_GROUP)
            .u32(libc::IFLA_MTU, self.mtu)
            .attr(libc::IFLA_ADDRESS, &self.mac.0);
        let message = with_data(message, |data| {
            let port = self.port.get().to_be_bytes();
            changeable(self, data).attr(a::PORT, &port)
        });
        Request::new(message, "create", format!("link {name}"))
    }

    fn change(&self, state: &LinkState) -> Request {
        let message = Message::new(libc::RTM_NEWLINK, 0, &headers::link(state.index, 0, 0));
        let message = with_data(message, |data| changeable(self, data));
        Request::new(message, "change", format!("link {}", state.name))
    }

    fn fitness(&self, state: &LinkState) -> Fitness {
        let Some(now) = Device::read(state) else {
            return Fitness::Useless;
        };
        let same_family = now.local.is_some_and(|local| local.is_ipv4() == self.local.is_ipv4());
        if now.vni != self.vni.get() || now.port != self.port.get() || !same_family {
            Fitness::Useless
        } else if now.local == Some(self.local) && now.learning == 0 {
            Fitness::Right
        } else {
            Fitness::Changeable
        }
    }

    fn damage(&self, state: &LinkState) -> Option<&'static str> {
        Device::read(state).is_some_and(|now| now.learning != 0).then_some("it learns addresses")
    }
}

/// Adds the device's own attributes.
fn with_data(message: Message, data: impl FnOnce(Message) -> Message) -> Message {
    message.nest(libc::IFLA_LINKINFO, |info| {
        info.attr(libc::IFLA_INFO_KIND, KIND.as_bytes()).nest(libc::IFLA_INFO_DATA, data)
    })
}

/// What a standing device takes: the port is not among it, not even the one that it has.
fn changeable(vxlan: &VxlanLink, data: Message) -> Message {
    let local = match vxlan.local {
        IpAddr::V4(_) => a::LOCAL,
        IpAddr::V6(_) => a::LOCAL6,
    };
    data.u32(a::ID, vxlan.vni.get()).address(local, vxlan.local).u8(a::LEARNING, 0)
}

/// A VXLAN device as a row; `None` for links of other kinds and for devices that we would not make.
pub(super) fn read(state: &LinkState) -> Option<VxlanLink> {
    let now = Device::read(state)?;
    Some(VxlanLink {
        vni: Vni::new(now.vni).ok()?,
        port: Port::new(u32::from(now.port)).ok()?,
        local: now.local?,
        mac: state.mac?,
        mtu: state.mtu,
    })
}
