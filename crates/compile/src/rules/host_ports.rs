//! Port mappings: a port of this node that leads to a pod.
//!
//! From outside, from a pod, and from the node itself, its IPv4 loopback included (`route_localnet` on pods' links). IPv6 has
//! no such thing for `::1`: the kernel never routes a loopback source off the machine, so it is left alone.

use std::net::{IpAddr, Ipv6Addr};

use weft_model::{Attachment, FactKey, Family, HostPort};
use weft_plan::filter::{Comparison, Flush, HookKind, NatTarget, Value};
use weft_plan::{Atom, Field, Ident, SetSpec, Statement, Type, Verdict};

use super::edge::CLUSTER;
use super::table::{Pair, address_type, nat, not_in_set};
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// (protocol . port) at any address of the node → (pod address . port).
pub const ANY: Pair = Pair { v4: "host_port4", v6: "host_port6" };
/// (address . protocol . port) → (pod address . port).
pub const AT: Pair = Pair { v4: "host_port_at4", v6: "host_port_at6" };

/// After services (−105): a port mapped at all of the node's addresses doesn't take a balancer's address that the node has,
/// nor a node port. Before the destination translation of others (−100).
const PRIORITY: i32 = -104;

/// The chain that both hooks go on to with what is addressed to the node.
const MAPPINGS: &str = "port_mappings";

/// See the module.
pub struct HostPortsRule;

impl Rule for HostPortsRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        match &transition.key {
            FactKey::Attachment(_) => dirty(RuleKey::Fact(transition.key.clone())),
            // Its tunnel may have taken a mapped port, or let it go; the node may have got an address, or lost it.
            FactKey::Network(_) | FactKey::Host => {
                let mapped = context.facts.attachments().filter(|a| !a.host_ports.is_empty());
                mapped.for_each(|a| dirty(RuleKey::Fact(FactKey::Attachment(a.id.clone()))));
            }
            _ => {}
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        match key {
            RuleKey::Constant => constant(&FactKey::Node(context.settings.node.clone()), out),
            RuleKey::Fact(origin @ FactKey::Attachment(id)) => {
                if let Some(attachment) = context.facts.attachment(id) {
                    mappings(attachment, origin, context, out);
                }
            }
            _ => {}
        }
    }
}

fn constant(origin: &FactKey, out: &mut Output) {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let address = address_type(family);
        let target = [address, Type::InetService];
        let any = SetSpec::map(
            &[Type::InetProto, Type::InetService],
            &target,
            "ports of the node that lead to pods",
        );
        out.table_set(ANY.of(family), any.flushing(Flush::Led), origin);
        let at = SetSpec::map(
            &[address, Type::InetProto, Type::InetService],
            &target,
            "ports of one address that lead to pods",
        );
        out.table_set(AT.of(family), at.flushing(Flush::Led), origin);
        rules.extend(translations(family));
    }
    let chain = Ident::new(MAPPINGS);
    out.chain(chain.clone(), rules, origin);
    // The routing tables are asked once a connection instead of once a rule: most connections lead elsewhere. The cluster's
    // own addresses can be local as well: that of its DNS server is, and what isn't served there is nobody's.
    let on = Family::ALL.map(|family| {
        let to_node = Statement::Match(Field::FibDaddrType, Comparison::Is, Value::Local);
        let of_the_node = not_in_set([Field::Daddr(family)], CLUSTER.of(family));
        weft_plan::Rule::new(
            "to this node",
            [of_the_node, to_node, Statement::Verdict(Verdict::Goto(chain.clone()))],
        )
    });
    out.base_chain("host_ports", nat(HookKind::Prerouting, PRIORITY), on.to_vec(), origin);
    out.base_chain("host_ports_out", nat(HookKind::Output, PRIORITY), on.to_vec(), origin);
}

fn translations(family: Family) -> [weft_plan::Rule; 2] {
    let loopback = Value::Address(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let outside = Statement::Match(Field::Daddr(family), Comparison::IsNot, loopback);
    let guard = (family == Family::V6).then_some(outside);
    let lookup = |key: Vec<Field>, pair: Pair| {
        let to = NatTarget::AddressPortFrom { family, key, map: pair.of(family) };
        let statements: Vec<Statement> = guard.iter().cloned().chain([Statement::Dnat(to)]).collect();
        weft_plan::Rule::new("port mappings", statements)
    };
    [
        lookup(vec![Field::Daddr(family), Field::L4Proto, Field::Dport], AT),
        lookup(vec![Field::L4Proto, Field::Dport], ANY),
    ]
}

fn mappings(attachment: &Attachment, origin: &FactKey, context: &Context<'_>, out: &mut Output) {
    for port in &attachment.host_ports {
        // An ADD is refused beforehand; here the tunnel came to the port later. Both can't be, and without the tunnel the node
        // would be cut off, with all that peers send through it handed to the pod.
        if let Some(network) = context.tunnel_at(port.protocol, port.host_port) {
            out.warn(
                origin,
                format!(
                    "its host port {}/udp is left out, as the tunnel of network {} has the port now: give the pod another, \
                     or the network another vxlanPort",
                    port.host_port, network.name
                ),
            );
            continue;
        }
        let at = port.host_ip.filter(|ip| !ip.is_unspecified());
        if let Some(reason) = at.and_then(|ip| why_nothing_comes(ip, context)) {
            out.warn(
                origin,
                format!("its host port {}/{} leads nowhere now: {reason}", port.host_port, port.protocol),
            );
        }
        let families = served_families(port);
        for pod in attachment.addresses.iter().filter(|pod| families.contains(&Family::of(**pod))) {
            let family = Family::of(*pod);
            let protocol = Atom::Proto(port.protocol.number());
            let host_port = Atom::Port(port.host_port.get());
            let target = [Atom::from(*pod), Atom::Port(port.container_port.get())];
            match at {
                Some(ip) => out.entry(AT.of(family), [Atom::from(ip), protocol, host_port], target, origin),
                None => out.entry(ANY.of(family), [protocol, host_port], target, origin),
            }
        }
    }
}

/// Why no packet comes to a port of this one address. The mapping stands even so: an address may come later.
fn why_nothing_comes(ip: IpAddr, context: &Context<'_>) -> Option<String> {
    match ip {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(
            "the kernel lets nothing leave ::1; map the port at 127.0.0.1, or at an address of the node"
                .into(),
        ),
        IpAddr::V4(v4) if v4.is_loopback() => None,
        ip if context.facts.host().has(ip) => None,
        ip => Some(format!(
            "this node doesn't have its hostIP {ip}; give the node the address, or the pod another hostIP"
        )),
    }
}

/// Families that a mapping is for: that of its address, or both where it has none. `0.0.0.0` means IPv4, `::` IPv6.
fn served_families(port: &HostPort) -> Vec<Family> {
    port.host_ip.map_or_else(|| Family::ALL.to_vec(), |ip| vec![Family::of(ip)])
}
