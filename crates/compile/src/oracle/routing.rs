//! The routing decision of one node: policy rules, tables, longest prefix, metric; source addresses; what the kernel refuses
//! before it asks (martians, reverse path).

use std::net::{IpAddr, Ipv4Addr};

use weft_model::{FactKey, Family, IfName};
use weft_plan::kernel::{LOCAL_TABLE, LinkKind};
use weft_plan::{KernelKey, KernelRow, Link, PodLink, RouteKind, VxlanLink, text};

use super::index::{Candidate, HOST, Index};

/// What a link of a node is.
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkSort<'a> {
    Loopback,
    Pod(&'a Link, &'a PodLink, &'a FactKey),
    Tunnel(&'a VxlanLink, &'a FactKey),
    Own,
    Missing,
}

/// How a link checks that a source address belongs behind it (`rp_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReversePath {
    Off,
    Strict,
    Loose,
}

impl<'a> Index<'a> {
    /// The route for a packet (`ip rule`, then `ip route`). `None` for a source that is not chosen yet.
    pub fn resolve(&self, source: Option<IpAddr>, destination: IpAddr, mark: u32) -> Option<&Candidate<'a>> {
        self.choices()
            .iter()
            .filter(|choice| choice.unless_mark & mark == 0)
            .filter(|choice| match (choice.from, source) {
                (None, _) => true,
                (Some(from), Some(source)) => from.contains(source),
                (Some(from), None) => from.prefix() == 0 && from.family() == Family::of(destination),
            })
            .find_map(|choice| self.in_table(choice.table, destination))
    }

    /// Whether `fib daddr type` is `local`.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.in_table(LOCAL_TABLE, address).is_some_and(|c| c.route.kind == RouteKind::Local)
    }

    /// What a link is.
    pub fn link(&self, name: IfName) -> LinkSort<'a> {
        if name == IfName::loopback() {
            return LinkSort::Loopback;
        }
        match self.plan.kernel.entry(&KernelKey::Link(name)) {
            Some(entry) => match &entry.value {
                KernelRow::Link(link) => match &link.kind {
                    LinkKind::Pod(pod) => LinkSort::Pod(link, pod, &entry.origin),
                    LinkKind::Vxlan(vxlan) => LinkSort::Tunnel(vxlan, &entry.origin),
                },
                _ => LinkSort::Missing,
            },
            None if self.host.links.iter().any(|link| link.name == name) => LinkSort::Own,
            None => LinkSort::Missing,
        }
    }

    /// The pod whose host end has this name.
    pub fn pod(&self, name: IfName) -> Option<(IfName, &'a Link, &'a PodLink, &'a FactKey)> {
        match self.link(name) {
            LinkSort::Pod(link, pod, origin) => Some((name, link, pod, origin)),
            _ => None,
        }
    }

    /// The address that the kernel takes for packets by a link (`inet_select_addr`): in the next hop's subnet, else the link's
    /// first, else the host's first.
    pub fn address_towards(&self, link: IfName, next_hop: IpAddr) -> Option<IpAddr> {
        let family = Family::of(next_hop);
        let on_link: Vec<_> = self
            .host
            .links
            .iter()
            .filter(|l| l.name == link)
            .flat_map(|l| &l.addresses)
            .filter(|net| Family::of(net.addr()) == family)
            .collect();
        let near = on_link.iter().find(|net| net.contains(&next_hop)).or(on_link.first());
        near.map(|net| net.addr()).or_else(|| self.host.address(family).map(|net| net.addr()))
    }

    /// The source that this node's own packets get. Where there is no way, any: the route says why it goes no further.
    pub fn own_source(&self, destination: IpAddr) -> Option<IpAddr> {
        let any = || self.host.address(Family::of(destination)).map(|net| net.addr());
        let Some(Candidate { route, .. }) = self.resolve(None, destination, 0) else {
            return any();
        };
        match (route.kind, route.link) {
            (RouteKind::Local, _) => Some(destination),
            (RouteKind::Unicast, Some(link)) => {
                let towards = route.via.filter(|via| Family::of(*via) == Family::of(destination));
                route.source.or_else(|| self.address_towards(link, towards.unwrap_or(destination)))
            }
            _ => any(),
        }
    }

    /// Whether packets of a family are forwarded at all, by the plan's word.
    pub fn forwards(&self, family: Family) -> bool {
        let paths: &[&str] = match family {
            Family::V4 => &["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"],
            Family::V6 => &["net/ipv6/conf/all/forwarding"],
        };
        paths.iter().any(|path| self.sysctl(path).is_some_and(|value| value != "0"))
    }

    /// Whether 127/8 may come and go by a link. Pods' links have it on, as they are made.
    pub fn routes_loopback(&self, link: IfName) -> bool {
        let on = |scope: &str| self.sysctl(&format!("net/ipv4/conf/{scope}/route_localnet")) == Some("1");
        matches!(self.link(link), LinkSort::Loopback | LinkSort::Pod(..)) || on("all") || on(link.as_str())
    }

    fn reverse_path(&self, link: IfName) -> ReversePath {
        let read = |scope: &str| {
            self.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"))
                .and_then(|value| value.parse::<u8>().ok())
        };
        match read("all").max(read(link.as_str())) {
            Some(1) => ReversePath::Strict,
            Some(2..) => ReversePath::Loose,
            _ => ReversePath::Off,
        }
    }

    /// Whether packets with this node's own addresses may come in by a link. Pods' links are made so, and without a reverse
    /// path check: the packet filter knows each pod's sources better.
    fn accepts_local(&self, link: IfName) -> bool {
        let on = |scope: &str| self.sysctl(&format!("net/ipv4/conf/{scope}/accept_local")) == Some("1");
        matches!(self.link(link), LinkSort::Pod(..)) || on("all") || on(link.as_str())
    }

    /// Whether a link has an IPv4 address of its own: the machine's links do, those of the plan never.
    fn has_address(&self, link: IfName) -> bool {
        self.host.links.iter().any(|l| l.name == link && l.addresses.iter().any(|net| net.addr().is_ipv4()))
    }

    /// Why the kernel refuses a packet that came in by `link` before it looks for a way on
    /// (`ip_route_input_slow`, `fib_validate_source`); nothing where it doesn't.
    pub fn refuses(&self, link: IfName, source: IpAddr, destination: IpAddr) -> Option<String> {
        if destination.is_multicast() || destination == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Some(format!("{destination} is multicast or broadcast, which isn't followed here"));
        }
        if source.is_multicast() || (source.is_unspecified() && Family::of(source) == Family::V6) {
            return Some(format!("{source} can't be a source"));
        }
        if source.is_ipv6() {
            return (source.is_loopback() || destination.is_loopback())
                .then(|| format!("::1 doesn't come in by {link}"));
        }
        if (source.is_loopback() || destination.is_loopback()) && !self.routes_loopback(link) {
            return Some(format!("127.0.0.0/8 doesn't come in by {link} (route_localnet is off)"));
        }
        // The way back is looked up without the mark (`src_valid_mark` is off unless somebody turns it on).
        let back = self.resolve(Some(destination), source, 0);
        let back = back.filter(|candidate| candidate.route.kind != RouteKind::Unreachable);
        let elsewhere = |c: &Candidate<'_>| c.route.link != Some(link);
        match (back, self.reverse_path(link)) {
            (Some(c), _) if c.route.kind == RouteKind::Local => (!source.is_loopback()
                && !self.accepts_local(link))
            .then(|| format!("source {source} is this node's own address (martian source)")),
            (None, ReversePath::Strict | ReversePath::Loose) => {
                Some(format!("no route back to source {source} (rp_filter of {link})"))
            }
            (Some(c), ReversePath::Strict) if elsewhere(c) => {
                Some(format!("the route back to source {source} is not by {link} (rp_filter)"))
            }
            // A link without an IPv4 address of its own is held to more than "loose" says (`no_addr` there).
            (Some(c), ReversePath::Loose) if elsewhere(c) && !self.has_address(link) => Some(format!(
                "the route back to source {source} is not by {link}, which has no address (rp_filter)"
            )),
            _ => None,
        }
    }
}

/// A route as `ip route` writes it. The host's own default route has no gateway that is known.
pub(super) fn line(candidate: &Candidate<'_>) -> String {
    let key = &candidate.key;
    let assumed = *candidate.origin == HOST && key.destination.prefix() == 0;
    if assumed {
        let link = candidate.route.link.map(|link| link.to_string()).unwrap_or_default();
        return format!("default dev {link} (the host's own)");
    }
    let line = text::kernel_row(&KernelKey::Route(*key), &KernelRow::Route(candidate.route));
    line.strip_prefix("route ").map(str::to_owned).unwrap_or(line)
}
