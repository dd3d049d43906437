//! Rows to rtnetlink requests.

use std::net::IpAddr;

use weft_model::{Family, Mac};
use weft_plan::kernel::ROUTE_PROTOCOL;
use weft_plan::{Fdb, KernelKey, KernelRow, Neighbour, PolicyRule, Route, RouteKey, RouteKind};

use crate::netlink::{Message, headers};

/// `FR_ACT_TO_TBL`: a rule's action is to look into a table.
const FR_ACT_TO_TBL: u8 = 1;
/// `FRA_*` of `linux/fib_rules.h`.
pub(super) const FRA_SRC: u16 = 2;
pub(super) const FRA_PRIORITY: u16 = 6;
pub(super) const FRA_TABLE: u16 = 15;
const FRA_FWMARK: u16 = 10;
pub(super) const FRA_FWMASK: u16 = 16;
pub(super) const FRA_PROTOCOL: u16 = 21;
/// `RTNH_F_ONLINK`.
pub(crate) const ONLINK: u32 = 4;
/// `IP6_RT_PRIO_USER`: what the kernel makes of metric 0.
pub(super) const IPV6_METRIC: u32 = 1024;

/// Whether the kernel holds our object already, so that replacing it replaces nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Not as far as we know: creation fails where anything stands.
    Absent,
    /// It is ours.
    Ours,
}

pub(crate) fn af(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// The request that makes a row; `link` is the index of the link that the row names. `None` for rows of other kinds.
pub(crate) fn set(key: &KernelKey, row: &KernelRow, link: u32, presence: Presence) -> Option<Message> {
    Some(match (key, row) {
        (KernelKey::Route(key), KernelRow::Route(route)) => set_route(key, route, link, presence),
        (KernelKey::Rule(rule), KernelRow::Rule) => {
            rule_message(libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, rule)
        }
        (KernelKey::Neighbour(_, address), KernelRow::Neighbour(Neighbour { mac })) => {
            let state = libc::NUD_PERMANENT;
            neighbour_message(libc::RTM_NEWNEIGH, *address, link, state).attr(libc::NDA_LLADDR, &mac.0)
        }
        (KernelKey::Fdb(_, mac), KernelRow::Fdb(Fdb { destination })) => {
            fdb_message(libc::RTM_NEWNEIGH, *mac, link).address(libc::NDA_DST, *destination)
        }
        _ => return None,
    })
}

/// The request that removes our object; `None` for keys of other kinds.
pub(crate) fn remove(key: &KernelKey, link: u32) -> Option<Message> {
    Some(match key {
        KernelKey::Route(key) => remove_route(key),
        KernelKey::Rule(rule) => rule_message(libc::RTM_DELRULE, 0, rule),
        KernelKey::Neighbour(_, address) => neighbour_message(libc::RTM_DELNEIGH, *address, link, 0),
        KernelKey::Fdb(_, mac) => fdb_message(libc::RTM_DELNEIGH, *mac, link),
        _ => return None,
    })
}

/// True for the refusals of a removal that mean that the object is not there.
pub(crate) fn removal_done(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL)
}

fn set_route(key: &RouteKey, route: &Route, link: u32, presence: Presence) -> Message {
    let family = key.destination.family();
    let (kind, scope) = match (route.kind, family, route.via) {
        (RouteKind::Local, _, _) => (libc::RTN_LOCAL, libc::RT_SCOPE_HOST),
        (RouteKind::Unreachable, _, _) => (libc::RTN_UNREACHABLE, libc::RT_SCOPE_UNIVERSE),
        (RouteKind::Unicast, Family::V4, None) => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK),
        (RouteKind::Unicast, _, _) => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE),
    };
    let header = headers::Route {
        family: af(family),
        destination_len: key.destination.prefix(),
        source_len: 0,
        table: key.table,
        protocol: ROUTE_PROTOCOL,
        scope,
        kind,
        flags: if route.onlink { ONLINK } else { 0 },
    };
    let flags = match presence {
        Presence::Absent => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        Presence::Ours => libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
    };
    let mut message = route_message(libc::RTM_NEWROUTE, flags, &header, key);
    if route.link.is_some() {
        message = message.u32(libc::RTA_OIF, link);
    }
    if let Some(via) = route.via {
        message = message.address(libc::RTA_GATEWAY, via);
    }
    if let Some(source) = route.source {
        message = message.address(libc::RTA_PREFSRC, source);
    }
    message
}

/// Our protocol is in the request: a foreign route with the same destination is not removed.
fn remove_route(key: &RouteKey) -> Message {
    let header = headers::Route {
        family: af(key.destination.family()),
        destination_len: key.destination.prefix(),
        source_len: 0,
        table: key.table,
        protocol: ROUTE_PROTOCOL,
        scope: libc::RT_SCOPE_NOWHERE,
        kind: libc::RTN_UNSPEC,
        flags: 0,
    };
    route_message(libc::RTM_DELROUTE, 0, &header, key)
}

fn route_message(kind: u16, flags: i32, header: &headers::Route, key: &RouteKey) -> Message {
    let metric = match (key.metric, key.destination.family()) {
        (0, Family::V6) => IPV6_METRIC,
        (metric, _) => metric,
    };
    Message::new(kind, flags, &header.bytes())
        .address(libc::RTA_DST, key.destination.first())
        .u32(libc::RTA_TABLE, key.table)
        .u32(libc::RTA_PRIORITY, metric)
}

fn rule_message(kind: u16, flags: i32, rule: &PolicyRule) -> Message {
    let header = headers::Route {
        family: af(rule.from.family()),
        destination_len: 0,
        source_len: rule.from.prefix(),
        table: rule.table,
        // `res1` and `res2` of `struct fib_rule_hdr`.
        protocol: 0,
        scope: 0,
        kind: FR_ACT_TO_TBL,
        flags: 0,
    };
    let message = Message::new(kind, flags, &header.bytes());
    let message = if rule.from.prefix() == 0 { message } else { message.address(FRA_SRC, rule.from.first()) };
    // Mark 0 under a mask: none of its bits.
    let message = match rule.unless_mark {
        0 => message,
        mask => message.u32(FRA_FWMARK, 0).u32(FRA_FWMASK, mask),
    };
    message.u32(FRA_PRIORITY, rule.priority).u32(FRA_TABLE, rule.table).u8(FRA_PROTOCOL, ROUTE_PROTOCOL)
}

fn neighbour_message(kind: u16, address: IpAddr, link: u32, state: u16) -> Message {
    let family = af(Family::of(address));
    Message::new(kind, creation(kind), &headers::neighbour(family, link, state, 0))
        .address(libc::NDA_DST, address)
}

fn fdb_message(kind: u16, mac: Mac, link: u32) -> Message {
    let family = libc::AF_BRIDGE as u8;
    let header = headers::neighbour(family, link, libc::NUD_PERMANENT, libc::NTF_SELF);
    Message::new(kind, creation(kind), &header).attr(libc::NDA_LLADDR, &mac.0)
}

fn creation(kind: u16) -> i32 {
    if kind == libc::RTM_NEWNEIGH { libc::NLM_F_CREATE | libc::NLM_F_REPLACE } else { 0 }
}
