//! VXLAN (RFC 7348): one link a network; a permanent neighbour and forwarding entry a peer, nothing learned or flooded.
//!
//! Packets between a pod and another node's own addresses go through the tunnel too, in both directions, so that a network
//! that drops foreign source addresses doesn't matter: what leaves the pods' blocks looks at [`POD_TABLE`] first.

use std::net::IpAddr;

use weft_model::{Cidr, FactKey, Family, IfName, Network, NetworkName, Node, Protocol};
use weft_plan::filter::{Comparison, ConntrackStatus, HookKind, Value};
use weft_plan::kernel::{LinkKind, MAIN_TABLE, Opening, POD_LINK_PREFIX, POD_TABLE, PolicyRule, VxlanLink};
use weft_plan::{
    Atom, Fdb, Field, Ident, KernelKey, KernelRow, Link, Neighbour, Route, RouteKey, RouteKind, SetSpec,
    Statement, Type, Verdict, marks,
};

use crate::engine::{Context, Output};
use crate::rules::overlay::{PEERS, Peer, Tunnel};
use crate::rules::table::{address_type, filter, in_set, not_in_set};
use crate::topology::{link_local, second_tunnel_link, tunnel_link};

/// (protocol . port) of each network's tunnel.
const PORTS: &str = "tunnel_ports";

/// The chain for what may be a tunnel's packet.
const PACKETS: &str = "tunnel_packets";

/// Tables of further networks: this bit and the VNI, which has 24.
const FURTHER_TABLES: u32 = 1 << 24;
/// Priority of the policy rules, before the main table's 32766.
const RULE_PRIORITY: u32 = 9338;

/// See the module.
pub struct Vxlan;

impl Tunnel for Vxlan {
    fn own_end(&self, network: &Network, origin: &FactKey, context: &Context<'_>, out: &mut Output) {
        own_end(network, origin, context, out);
    }

    fn block(&self, to: &Peer<'_>, block: Cidr, source: Option<IpAddr>, out: &mut Output) {
        let link = tunnel_link(to.network.vni);
        let via = next_hop(to.node, block.family(), block);
        neighbour(link, via, to, out);
        let key = RouteKey { table: MAIN_TABLE, destination: block, metric: 0 };
        let route =
            Route { kind: RouteKind::Unicast, link: Some(link), via: Some(via), onlink: true, source };
        out.kernel(KernelKey::Route(key), KernelRow::Route(route), to.origin);
    }

    fn peer(&self, to: &Peer<'_>, underlay: IpAddr, families: &[Family], out: &mut Output) {
        let link = tunnel_link(to.network.vni);
        let fdb = Fdb { destination: underlay };
        out.kernel(KernelKey::Fdb(link, to.node.vtep_mac()), KernelRow::Fdb(fdb), to.origin);
        for family in families {
            let Some(address) = to.node.address(*family) else { continue };
            let via = next_hop(to.node, *family, Cidr::host(address.ip));
            neighbour(link, via, to, out);
            let key =
                RouteKey { table: pod_table(to.network), destination: Cidr::host(address.ip), metric: 0 };
            // An address can't be its own next hop; IPv6 has the tunnel end's link-local one.
            let via = (via != address.ip).then_some(via);
            let route = Route {
                kind: RouteKind::Unicast,
                link: Some(link),
                via,
                onlink: via.is_some(),
                source: None,
            };
            out.kernel(KernelKey::Route(key), KernelRow::Route(route), to.origin);
        }
    }
}

fn own_end(network: &Network, origin: &FactKey, context: &Context<'_>, out: &mut Output) {
    let (Some(node), Some(local)) = (context.own_node(), context.own_underlay()) else {
        return;
    };
    let name = tunnel_link(network.vni);
    let kind = LinkKind::Vxlan(VxlanLink {
        vni: network.vni,
        port: network.vxlan_port,
        local,
        mac: node.vtep_mac(),
        mtu: context.tunnel_mtu(network),
    });
    let alias: Box<str> = format!("weft:network {}", network.name).into();
    if let Some((mac, local)) = context.second_end().filter(|_| network.name == NetworkName::ordinary()) {
        let mtu = context.second_end_mtu(network);
        let second = VxlanLink { vni: network.vni, port: network.vxlan_port, local, mac, mtu };
        let link = Link { kind: LinkKind::Vxlan(second), alias: alias.clone() };
        out.kernel(KernelKey::Link(second_tunnel_link(network.vni)), KernelRow::Link(Box::new(link)), origin);
    }
    out.kernel(KernelKey::Link(name), KernelRow::Link(Box::new(Link { kind, alias })), origin);
    // Nodes' own addresses come in by the tunnel while the way back to them is the uplink: loose, or they are dropped.
    let path = format!("net/ipv4/conf/{name}/rp_filter");
    out.kernel(KernelKey::Sysctl(path.into()), KernelRow::Sysctl("2".into()), origin);
    let opening = Opening::Input(Protocol::Udp, network.vxlan_port);
    out.kernel(KernelKey::Opening(opening), KernelRow::Opening, origin);
    for cidr in node.cidrs(&network.name) {
        let rule = PolicyRule {
            from: cidr,
            table: pod_table(network),
            priority: RULE_PRIORITY,
            unless_mark: marks::ANSWER,
        };
        out.kernel(KernelKey::Rule(rule), KernelRow::Rule, origin);
    }
    admit_peers_only(network, local, origin, out);
    send_answers_back(origin, out);
}

/// What came to a pod by a port of this node came by the uplink, and its answers go that way: by the tunnel, firewalls on
/// the way and the peer's own reverse path filter would see half of a connection.
fn send_answers_back(origin: &FactKey, out: &mut Output) {
    let rule = weft_plan::Rule::new(
        "answers of translated connections go back as they came",
        [
            Statement::Match(Field::Iifname, Comparison::Is, Value::LinkPrefix(POD_LINK_PREFIX.into())),
            Statement::Match(Field::CtDirection, Comparison::Is, Value::Reply),
            Statement::Match(Field::CtStatus, Comparison::Is, Value::Status(ConntrackStatus::Dnat)),
            Statement::SetMarkBits(marks::ANSWER),
        ],
    );
    out.base_chain("answers", filter(HookKind::Prerouting, -150), vec![rule], origin);
}

/// Tunnel packets are taken from nodes only, and pass without connection tracking on both ends: a tunnel's source port is a
/// hash of the connection inside, so that each of these would cost a second entry, which no answer ever finds.
///
/// Every packet of the node passes here: what is not UDP is done with after one comparison, and a look-up comes before the
/// routing tables.
fn admit_peers_only(network: &Network, local: IpAddr, origin: &FactKey, out: &mut Output) {
    // One chain for all networks, whose ports are elements.
    let ports = Ident::new(PORTS);
    let spec = SetSpec::set(&[Type::InetProto, Type::InetService], "ports of tunnels");
    out.table_set(ports.clone(), spec, origin);
    let port = [Atom::Proto(Protocol::Udp.number()), Atom::Port(network.vxlan_port.get())];
    out.member(ports.clone(), port, origin);
    let udp = || Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(Protocol::Udp.number()));
    let to_tunnel = || in_set([Field::L4Proto, Field::Dport], ports.clone());
    let is_own = |field| Statement::Match(field, Comparison::Is, Value::Address(local));
    let family = Family::of(local);
    // Masqueraded on its way to an address that a peer doesn't publish, it would pass for its node's own.
    let from_pod =
        Statement::Match(Field::Iifname, Comparison::Is, Value::LinkPrefix(POD_LINK_PREFIX.into()));
    let refused = [Statement::Counter, Statement::Verdict(Verdict::Drop)];
    let mut rules = vec![
        weft_plan::Rule::new(
            "pods send no tunnel packets",
            [from_pod, to_tunnel()].into_iter().chain(refused.clone()),
        ),
        weft_plan::Rule::new(
            "tunnels without connection tracking",
            [
                is_own(Field::Daddr(family)),
                in_set([Field::Saddr(family)], PEERS.of(family)),
                to_tunnel(),
                Statement::Notrack,
                Statement::Verdict(Verdict::Accept),
            ],
        ),
    ];
    for family in Family::ALL {
        let spec = SetSpec::set(&[address_type(family)], "nodes whose tunnel packets are taken");
        out.table_set(PEERS.of(family), spec, origin);
        let stranger = not_in_set([Field::Saddr(family)], PEERS.of(family));
        let to_node = Statement::Match(Field::FibDaddrType, Comparison::Is, Value::Local);
        rules.push(weft_plan::Rule::new(
            "tunnel packets from nodes only",
            [stranger, to_tunnel(), to_node].into_iter().chain(refused.clone()),
        ));
    }
    let chain = Ident::new(PACKETS);
    out.chain(chain.clone(), rules, origin);
    let look = weft_plan::Rule::new("tunnels are UDP", [udp(), Statement::Verdict(Verdict::Goto(chain))]);
    out.base_chain("tunnel_peers", filter(HookKind::Prerouting, -305), vec![look], origin);
    let sent = weft_plan::Rule::new(
        "tunnels without connection tracking",
        [udp(), is_own(Field::Saddr(family)), to_tunnel(), Statement::Notrack],
    );
    out.base_chain("tunnel_peers_out", filter(HookKind::Output, -305), vec![sent], origin);
    // A masquerade may choose the tunnel's port, and would for the life of the connection. What is dropped here is tracked no
    // further, so that the next packet gets another. Tunnel packets have ports of clients.
    let answers = in_set([Field::L4Proto, Field::Sport], ports);
    let own = Statement::Match(Field::FibSaddrType, Comparison::Is, Value::Local);
    let kept = weft_plan::Rule::new(
        "answers would be taken for tunnel packets",
        [udp(), answers, own].into_iter().chain(refused),
    );
    out.base_chain("tunnel_port_kept", filter(HookKind::Postrouting, 110), vec![kept], origin);
}

/// The table that a network's pods look at first: each network reaches nodes by a tunnel of its own.
fn pod_table(network: &Network) -> u32 {
    if network.name == NetworkName::ordinary() { POD_TABLE } else { FURTHER_TABLES | network.vni.get() }
}

/// The next hop of a family by which `peer` is found behind the tunnel.
fn next_hop(peer: &Node, family: Family, block: Cidr) -> IpAddr {
    match family {
        Family::V4 => peer.address(Family::V4).map_or(block.first(), |address| address.ip),
        Family::V6 => IpAddr::V6(link_local(peer.vtep_mac())),
    }
}

fn neighbour(link: IfName, address: IpAddr, to: &Peer<'_>, out: &mut Output) {
    let row = KernelRow::Neighbour(Neighbour { mac: to.node.vtep_mac() });
    out.kernel(KernelKey::Neighbour(link, address), row, to.origin);
}
