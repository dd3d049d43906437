//! What a walk looks up in a node's kernel: the rows on which a step rests, those that it doesn't find included.
//!
//! With it, whoever knows in which rows a kernel differs from its plan can say which steps of a walk that touches. It holds no rows
//! itself, and asks no kernel.

use std::net::IpAddr;

use weft_model::{IfName, Mac};
use weft_plan::kernel::Opening;
use weft_plan::{Atom, Ident, KernelKey};

use super::index::holds;
use super::packet::{Headers, Transport};

/// One look into the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// The rules of a chain.
    Chain(Ident),
    /// What a set has for a packet's fields.
    Element(Ident, Vec<Atom>),
    /// The way to a destination.
    Route {
        /// The source, which chooses the tables.
        source: IpAddr,
        /// The destination.
        destination: IpAddr,
    },
    /// A link.
    Link(IfName),
    /// Who has a next hop's address.
    Neighbour(IfName, IpAddr),
    /// Where a tunnel's MAC is.
    Fdb(IfName, Mac),
    /// Whether a packet may come in by a link.
    Arrive(IfName),
    /// Whether it may pass through.
    Forward(Headers),
    /// Whether it may come in to the node itself.
    Deliver(Headers),
}

impl LookUp {
    /// Whether the row at `key` has a part in the answer, or would have if there were one.
    pub fn is_about(&self, key: &KernelKey) -> bool {
        match (self, key) {
            (LookUp::Chain(name), KernelKey::Chain(other)) => name == other,
            (LookUp::Element(set, _), KernelKey::Set(other)) => set == other,
            (LookUp::Element(set, fields), KernelKey::Element(other, key)) => {
                set == other
                    && key.len() == fields.len()
                    && key.iter().zip(fields).all(|(part, value)| holds(&part, value))
            }
            (LookUp::Route { destination, .. }, KernelKey::Route(key)) => {
                key.destination.contains(*destination)
            }
            (LookUp::Route { source, .. }, KernelKey::Rule(rule)) => rule.from.contains(*source),
            (LookUp::Link(name), KernelKey::Link(other)) => name == other,
            (LookUp::Neighbour(link, address), KernelKey::Neighbour(on, other)) => {
                (link, address) == (on, other)
            }
            (LookUp::Fdb(link, mac), KernelKey::Fdb(on, other)) => (link, mac) == (on, other),
            (LookUp::Arrive(link), KernelKey::Sysctl(path)) => is_of_arrivals(path, *link),
            (LookUp::Forward(headers), KernelKey::Sysctl(path)) => is_of_forwarding(path, headers),
            (LookUp::Forward(headers), KernelKey::Opening(Opening::Forward(block))) => {
                block.contains(headers.source) || block.contains(headers.destination)
            }
            (LookUp::Deliver(headers), KernelKey::Opening(Opening::Input(protocol, port))) => {
                headers.transport == Transport::Ports(*protocol) && headers.dport == port.get()
            }
            _ => false,
        }
    }
}

/// Settings of a link, or of all, that decide whether a packet may come in by it.
fn is_of_arrivals(path: &str, link: IfName) -> bool {
    let Some((scope, name)) = path.strip_prefix("net/ipv4/conf/").and_then(|rest| rest.rsplit_once('/'))
    else {
        return false;
    };
    (scope == "all" || scope == link.as_str())
        && ["rp_filter", "accept_local", "route_localnet"].contains(&name)
}

fn is_of_forwarding(path: &str, headers: &Headers) -> bool {
    match headers.destination {
        IpAddr::V4(_) => ["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"].contains(&path),
        IpAddr::V6(_) => path == "net/ipv6/conf/all/forwarding",
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Port, Protocol};
    use weft_plan::RouteKey;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_row_has_a_part_in_what_asks_for_it_or_would_find_it() {
        let check = |look_up: &LookUp, key: KernelKey, expected: bool| {
            assert_eq!(look_up.is_about(&key), expected, "{look_up:?} {key:?}");
        };
        let route = |text: &str| {
            KernelKey::Route(RouteKey { table: 254, destination: text.parse().unwrap(), metric: 0 })
        };
        let way = LookUp::Route { source: ip("10.1.0.2"), destination: ip("10.2.0.5") };
        check(&way, route("10.2.0.0/24"), true);
        check(&way, route("10.2.0.5/32"), true);
        check(&way, route("10.3.0.0/24"), false);

        let (pods, ports) = (Ident::new("pods4"), Ident::new("ports"));
        let found = LookUp::Element(pods.clone(), vec![Atom::V4([10, 1, 0, 2].into())]);
        let element = |set: &Ident, atom: Atom| KernelKey::Element(set.clone(), vec![atom].into());
        check(&found, element(&pods, Atom::V4([10, 1, 0, 2].into())), true);
        check(&found, element(&pods, Atom::V4([10, 1, 0, 3].into())), false);
        check(&found, element(&pods, Atom::Net("10.1.0.0/16".parse().unwrap())), true);
        check(&found, element(&ports, Atom::V4([10, 1, 0, 2].into())), false);
        check(&found, KernelKey::Set(pods), true);
        check(&found, KernelKey::Set(ports), false);

        let headers = Headers {
            source: ip("10.1.0.2"),
            destination: ip("192.0.2.1"),
            transport: Transport::Ports(Protocol::Udp),
            sport: 4000,
            dport: 53,
        };
        let opening = |port| Opening::Input(Protocol::Udp, Port::new(port).unwrap());
        check(&LookUp::Deliver(headers), KernelKey::Opening(opening(53)), true);
        check(&LookUp::Deliver(headers), KernelKey::Opening(opening(54)), false);
        let block = |text: &str| KernelKey::Opening(Opening::Forward(text.parse().unwrap()));
        check(&LookUp::Forward(headers), block("10.1.0.0/16"), true);
        check(&LookUp::Forward(headers), block("fd42::/48"), false);
        check(&LookUp::Forward(headers), KernelKey::Sysctl("net/ipv4/ip_forward".into()), true);
        check(&LookUp::Forward(headers), KernelKey::Sysctl("net/ipv6/conf/all/forwarding".into()), false);

        let arrive = LookUp::Arrive(IfName::new("eth0").unwrap());
        check(&arrive, KernelKey::Sysctl("net/ipv4/conf/eth0/rp_filter".into()), true);
        check(&arrive, KernelKey::Sysctl("net/ipv4/conf/eth1/rp_filter".into()), false);
        check(&arrive, KernelKey::Sysctl("net/ipv4/ip_forward".into()), false);
    }
}
