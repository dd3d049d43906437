//! The kernel's messages to rows: only what is ours comes out.

use rustc_hash::FxHashMap;
use weft_model::{Cidr, Family, IfName, Mac};
use weft_plan::kernel::ROUTE_PROTOCOL;
use weft_plan::{Fdb, KernelKey, KernelRow, Neighbour, PolicyRule, Route, RouteKey, RouteKind};

use super::render::{FRA_FWMASK, FRA_PRIORITY, FRA_PROTOCOL, FRA_SRC, FRA_TABLE, IPV6_METRIC, ONLINK, af};
use crate::netlink::{Attributes, Message, Received, headers, number};

/// Length of `struct rtmsg`.
pub(crate) const ROUTE_FIXED: usize = 12;
/// `struct fib_rule_hdr` and `struct ndmsg` are as long.
const FIXED: usize = ROUTE_FIXED;
type Names = FxHashMap<u32, IfName>;

/// The request that lists our routes of a family, in all tables; the kernel leaves others' out.
pub(crate) fn list_routes(family: Family) -> Message {
    let header = headers::Route {
        family: af(family),
        destination_len: 0,
        source_len: 0,
        table: 0,
        protocol: ROUTE_PROTOCOL,
        scope: 0,
        kind: 0,
        flags: 0,
    };
    Message::new(libc::RTM_GETROUTE, 0, &header.bytes())
}

/// The request that lists the routes of a family, whoever made them, in all tables.
pub(crate) fn list_all_routes(family: Family) -> Message {
    let mut header = [0; ROUTE_FIXED];
    header[0] = af(family);
    Message::new(libc::RTM_GETROUTE, 0, &header)
}

/// The request that lists the rules of a family.
pub(crate) fn list_rules(family: Family) -> Message {
    let mut header = [0; FIXED];
    header[0] = af(family);
    Message::new(libc::RTM_GETRULE, 0, &header)
}

/// The request that lists the neighbours of a family on a link.
pub(crate) fn list_neighbours(family: Family, link: u32) -> Message {
    Message::new(libc::RTM_GETNEIGH, 0, &headers::neighbour(af(family), 0, 0, 0)).u32(libc::NDA_IFINDEX, link)
}

/// The request that lists the forwarding entries of a link.
pub(crate) fn list_fdb(link: u32) -> Message {
    Message::new(libc::RTM_GETNEIGH, 0, &headers::neighbour(libc::AF_BRIDGE as u8, link, 0, 0))
}

/// Reads a route, if it is ours and of a kind that we make.
pub(crate) fn route(message: &Received<'_>, names: &Names) -> Option<(KernelKey, KernelRow)> {
    let header = message.body.get(..FIXED)?;
    let flags = number(header, 8)?;
    if header[5] != ROUTE_PROTOCOL || flags & libc::RTM_F_CLONED != 0 {
        return None;
    }
    let family = family(header[0])?;
    let attributes = message.attributes(FIXED);
    let metric = match (attributes.u32(libc::RTA_PRIORITY).unwrap_or(0), family) {
        (IPV6_METRIC, Family::V6) => 0,
        (metric, _) => metric,
    };
    let key = RouteKey {
        table: attributes.u32(libc::RTA_TABLE).unwrap_or(u32::from(header[4])),
        destination: destination(attributes, libc::RTA_DST, header[1], family)?,
        metric,
    };
    let kind = match header[7] {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_LOCAL => RouteKind::Local,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        _ => return None,
    };
    let link = attributes
        .u32(libc::RTA_OIF)
        .and_then(|index| names.get(&index).copied())
        // IPv6 hangs unreachable routes on the loopback link.
        .filter(|_| kind != RouteKind::Unreachable);
    let route = Route {
        kind,
        link,
        via: attributes.address(libc::RTA_GATEWAY),
        onlink: flags & ONLINK != 0,
        source: attributes.address(libc::RTA_PREFSRC),
    };
    Some((KernelKey::Route(key), KernelRow::Route(route)))
}

/// Reads a rule, if it is ours.
pub(crate) fn rule(message: &Received<'_>) -> Option<(KernelKey, KernelRow)> {
    let header = message.body.get(..FIXED)?;
    let attributes = message.attributes(FIXED);
    if attributes.u8(FRA_PROTOCOL) != Some(ROUTE_PROTOCOL) {
        return None;
    }
    let rule = PolicyRule {
        from: destination(attributes, FRA_SRC, header[2], family(header[0])?)?,
        table: attributes.u32(FRA_TABLE).unwrap_or(u32::from(header[4])),
        priority: attributes.u32(FRA_PRIORITY).unwrap_or(0),
        unless_mark: attributes.u32(FRA_FWMASK).unwrap_or(0),
    };
    Some((KernelKey::Rule(rule), KernelRow::Rule))
}

/// Reads a permanent neighbour of a link.
pub(crate) fn neighbour(message: &Received<'_>, link: u32, name: IfName) -> Option<(KernelKey, KernelRow)> {
    let (header, attributes) = neighbour_parts(message, link)?;
    family(header[0])?;
    let address = attributes.address(libc::NDA_DST)?;
    let mac = attributes.mac(libc::NDA_LLADDR)?;
    Some((KernelKey::Neighbour(name, address), KernelRow::Neighbour(Neighbour { mac })))
}

/// Reads a permanent forwarding entry of a tunnel; the all-zero one, which means "anybody", is none of ours.
pub(crate) fn fdb(message: &Received<'_>, link: u32, name: IfName) -> Option<(KernelKey, KernelRow)> {
    let (_, attributes) = neighbour_parts(message, link)?;
    let destination = attributes.address(libc::NDA_DST)?;
    let mac = attributes.mac(libc::NDA_LLADDR).filter(|mac| *mac != Mac([0; 6]))?;
    Some((KernelKey::Fdb(name, mac), KernelRow::Fdb(Fdb { destination })))
}

fn neighbour_parts<'a>(message: &Received<'a>, link: u32) -> Option<(&'a [u8], Attributes<'a>)> {
    let header = message.body.get(..FIXED)?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    (number(header, 4)? == link && state & libc::NUD_PERMANENT != 0)
        .then(|| (header, message.attributes(FIXED)))
}

fn family(number: u8) -> Option<Family> {
    Family::ALL.into_iter().find(|f| af(*f) == number)
}

fn destination(attributes: Attributes<'_>, kind: u16, prefix: u8, family: Family) -> Option<Cidr> {
    let any = match family {
        Family::V4 => std::net::IpAddr::from([0; 4]),
        Family::V6 => std::net::IpAddr::from([0; 16]),
    };
    let address = attributes.address(kind).unwrap_or(any);
    Some(Cidr::around(address, prefix))
}
