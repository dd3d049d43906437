//! A link as the kernel describes it, and the requests for that description.
//!
//! What is absent: what the attributes of one kind mean; a tunnel's are read in its folder of `overlay/`.

use weft_model::{IfName, Mac};
use weft_plan::kernel::{LINK_GROUP, POD_LINK_PREFIX, TUNNEL_LINK_PREFIX};

use crate::netlink::{Attributes, Message, Received, headers, number};

/// Length of `struct ifinfomsg`.
const FIXED: usize = 16;
/// `RTEXT_FILTER_SKIP_STATS`: leave the counters out.
const SKIP_STATS: u32 = 1 << 3;
/// `IF_OPER_UP` of `linux/if.h`.
const IF_OPER_UP: u8 = 6;
/// `IFLA_INET_CONF`, inside `IFLA_AF_SPEC` → `AF_INET`.
pub(super) const INET_CONF: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE`, inside `IFLA_AF_SPEC` → `AF_INET6`.
pub(super) const INET6_ADDR_GEN_MODE: u16 = 8;
/// Groups that links on their way out are put into: nobody numbers groups so high by hand.
pub(crate) const DOOMED_GROUPS: std::ops::Range<u32> = 0x7765_0000..0x7766_0000;

/// IPv4 settings of a link (`linux/ip.h`, `IPV4_DEVCONF_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Conf {
    ProxyArp = 3,
    SendRedirects = 6,
    RpFilter = 8,
    ArpNotify = 22,
    AcceptLocal = 23,
    RouteLocalnet = 26,
}

impl Conf {
    /// Its file's name below `/proc/sys/net/ipv4/conf/LINK`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Conf::ProxyArp => "proxy_arp",
            Conf::SendRedirects => "send_redirects",
            Conf::RpFilter => "rp_filter",
            Conf::ArpNotify => "arp_notify",
            Conf::AcceptLocal => "accept_local",
            Conf::RouteLocalnet => "route_localnet",
        }
    }
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: IfName,
    pub(crate) kind: String,
    pub(crate) group: u32,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) alias: String,
    pub(crate) flags: u32,
    operstate: Option<u8>,
    /// `IFLA_LINK`: for a veth the index of its peer, in the peer's namespace.
    pub(crate) peer: Option<u32>,
    /// The bridge, or other link, that it is a port of.
    pub(crate) master: Option<u32>,
    /// Its kind's own attributes (`IFLA_INFO_DATA`), for whoever knows the kind.
    data: Box<[u8]>,
    addr_gen_mode: Option<u8>,
    conf: Vec<u32>,
}

impl LinkState {
    /// Reads an `RTM_NEWLINK`; `None` where the name is not one that Weft can handle.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body.get(FIXED..)?);
        let info = attributes.nested(libc::IFLA_LINKINFO);
        let spec = attributes.nested(libc::IFLA_AF_SPEC);
        let inet = spec.nested(libc::AF_INET as u16);
        let inet6 = spec.nested(libc::AF_INET6 as u16);
        let kind = info.text(libc::IFLA_INFO_KIND).unwrap_or_default();
        Some(Self {
            index: number(body, 4)?,
            name: IfName::new(attributes.text(libc::IFLA_IFNAME)?).ok()?,
            group: attributes.u32(libc::IFLA_GROUP).unwrap_or(0),
            mac: attributes.mac(libc::IFLA_ADDRESS),
            mtu: attributes.u32(libc::IFLA_MTU).unwrap_or(0),
            alias: attributes.text(libc::IFLA_IFALIAS).unwrap_or_default().to_owned(),
            flags: number(body, 8)?,
            operstate: attributes.u8(libc::IFLA_OPERSTATE),
            peer: attributes.u32(libc::IFLA_LINK),
            master: attributes.u32(libc::IFLA_MASTER),
            data: info.get(libc::IFLA_INFO_DATA).unwrap_or_default().into(),
            addr_gen_mode: inet6.u8(INET6_ADDR_GEN_MODE),
            conf: inet
                .get(INET_CONF)
                .map(|bytes| bytes.chunks_exact(4).filter_map(|c| number(c, 0)).collect())
                .unwrap_or_default(),
            kind: kind.to_owned(),
        })
    }

    /// True for a link that Weft made: by group and by name.
    pub(crate) fn is_ours(&self) -> bool {
        let name = self.name.as_str();
        (self.group == LINK_GROUP || DOOMED_GROUPS.contains(&self.group))
            && (name.starts_with(POD_LINK_PREFIX) || name.starts_with(TUNNEL_LINK_PREFIX))
    }

    /// The attributes of its own kind, where it is of that kind.
    pub(crate) fn data(&self, kind: &str) -> Option<Attributes<'_>> {
        (self.kind == kind).then(|| Attributes::new(&self.data))
    }

    /// True when it is administratively up.
    pub(crate) fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// True when the kernel has seen its carrier and takes packets for it: some time after both ends went up.
    pub(crate) fn carries(&self) -> bool {
        self.operstate == Some(IF_OPER_UP)
    }

    /// An IPv4 setting's value; `None` where the kernel doesn't say.
    pub(crate) fn conf(&self, setting: Conf) -> Option<u32> {
        self.conf.get(setting as usize - 1).copied()
    }

    /// `IN6_ADDR_GEN_MODE_*`; `None` without IPv6.
    pub(crate) fn addr_gen_mode(&self) -> Option<u8> {
        self.addr_gen_mode
    }
}

/// Asks for one link by name.
pub(crate) fn by_name(name: IfName) -> Message {
    Message::new(libc::RTM_GETLINK, 0, &headers::link(0, 0, 0))
        .u32(libc::IFLA_EXT_MASK, SKIP_STATS)
        .text(libc::IFLA_IFNAME, name.as_str())
}

/// Asks for all links.
pub(crate) fn list() -> Message {
    Message::new(libc::RTM_GETLINK, 0, &headers::link(0, 0, 0)).u32(libc::IFLA_EXT_MASK, SKIP_STATS)
}

/// Reads every link of a listing's message.
pub(crate) fn read(message: &Received<'_>) -> Option<LinkState> {
    (message.kind == libc::RTM_NEWLINK).then(|| LinkState::read(message.body)).flatten()
}
