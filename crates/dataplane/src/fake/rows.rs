//! Small rows for tests: one line each, told apart by a number.

use std::net::{IpAddr, Ipv4Addr};

use weft_model::{AttachmentId, Cidr, IfName, Mac, Port, Vni};
use weft_plan::filter::{Element, SetSpec};
use weft_plan::kernel::{LinkKind, MAIN_TABLE};
use weft_plan::{
    Atom, Chain, Fdb, Ident, KernelKey, KernelRow, Link, Neighbour, PodLink, Route, RouteKey, RouteKind,
    Type, VxlanLink,
};

/// A row with its key.
pub type Row = (KernelKey, KernelRow);

/// The name of the tunnel that [`vxlan`] is, and that [`fdb`] and [`neighbour`] hang on.
pub fn tunnel() -> IfName {
    name("weftx9")
}

fn name(text: &str) -> IfName {
    // Names here are constants and short numbers, which are always valid.
    IfName::new(text).unwrap_or_else(|_| IfName::loopback())
}

fn pod_name(n: u8) -> IfName {
    name(&format!("weftp{n:09}"))
}

/// A sysctl that this crate's tests may change in a namespace: forwarding of IPv4.
pub fn sysctl(value: &str) -> Row {
    let key = KernelKey::Sysctl("net/ipv4/ip_forward".into());
    (key, KernelRow::Sysctl(value.into()))
}

/// A chain without rules.
pub fn chain(name: &str) -> Row {
    let chain = Chain { hook: None, rules: Vec::new() };
    (KernelKey::Chain(Ident::new(name)), KernelRow::Chain(Box::new(chain)))
}

/// The host end of pod `n`, whose address is 10.244.0.n.
pub fn pod(n: u8, mtu: u32) -> Row {
    let link = Link {
        kind: LinkKind::Pod(PodLink {
            attachment: AttachmentId { container: format!("c{n}").into(), ifname: name("eth0") },
            netns: format!("/run/netns/pod{n}").into(),
            pod_mac: Mac([2, 0, 0, 0, 1, n]),
            addresses: vec![IpAddr::from([10, 244, 0, n])],
            mtu,
        }),
        alias: format!("weft:default/pod-{n}").into(),
    };
    (KernelKey::Link(pod_name(n)), KernelRow::Link(Box::new(link)))
}

/// The route to pod `n`.
pub fn route(n: u8) -> Row {
    let key =
        RouteKey { table: MAIN_TABLE, destination: Cidr::host(IpAddr::from([10, 244, 0, n])), metric: 0 };
    let route =
        Route { kind: RouteKind::Unicast, link: Some(pod_name(n)), via: None, onlink: false, source: None };
    (KernelKey::Route(key), KernelRow::Route(route))
}

/// The route to peer `n`'s pods through the tunnel.
pub fn peer_route(n: u8) -> Row {
    let key = RouteKey {
        table: MAIN_TABLE,
        destination: Cidr::around(IpAddr::from([10, 244, n, 0]), 24),
        metric: 0,
    };
    let route = Route {
        kind: RouteKind::Unicast,
        link: Some(tunnel()),
        via: Some(IpAddr::from([10, 244, n, 0])),
        onlink: true,
        source: None,
    };
    (KernelKey::Route(key), KernelRow::Route(route))
}

/// The tunnel.
pub fn vxlan(port: u16, mtu: u32) -> Row {
    let link = Link {
        kind: LinkKind::Vxlan(VxlanLink {
            vni: number(Vni::new(9)),
            port: number(Port::new(u32::from(port))),
            local: IpAddr::V4(Ipv4Addr::LOCALHOST),
            mac: Mac([2, 0, 0, 0, 0, 0xff]),
            mtu,
        }),
        alias: "weft:default".into(),
    };
    (KernelKey::Link(tunnel()), KernelRow::Link(Box::new(link)))
}

fn number<T>(checked: Result<T, weft_model::InvalidNet>) -> T {
    match checked {
        Ok(value) => value,
        Err(error) => panic!("a test's row has {error}"),
    }
}

fn peer_mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// Where packets for peer `n`'s MAC go.
pub fn fdb(n: u8) -> Row {
    let destination = IpAddr::from([192, 0, 2, n]);
    (KernelKey::Fdb(tunnel(), peer_mac(n)), KernelRow::Fdb(Fdb { destination }))
}

/// Peer `n`'s MAC.
pub fn neighbour(n: u8) -> Row {
    let key = KernelKey::Neighbour(tunnel(), IpAddr::from([10, 244, n, 0]));
    (key, KernelRow::Neighbour(Neighbour { mac: peer_mac(n) }))
}

/// A set of ports.
pub fn set(name: &str) -> Row {
    let spec = SetSpec::set(&[Type::InetService], "ports of a test");
    (KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec)))
}

/// The same of a rank.
pub fn ranked_set(name: &str, rank: u8) -> Row {
    let spec = SetSpec::set(&[Type::InetService], "ports of a test").ranked(rank);
    (KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec)))
}

/// An element of such a set.
pub fn element(set: &str, port: u16) -> Row {
    (KernelKey::Element(Ident::new(set), [Atom::Port(port)].into()), KernelRow::Element(Element::member()))
}
