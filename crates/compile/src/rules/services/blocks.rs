//! Blocks of virtual addresses: what of them is closed to whatever no service has, and who lives there all the same.
//!
//! What always holds: no node's address and no node's block of pods that lies in a block of services is closed, whoever wrote it there.
//! A slip of the pen must cut nobody off; it is warned of, with the block and the node. A block of services inside a node's block of pods
//! stays services': it is closed, so that what no service has isn't sent around by routes to pods, and no pod gets an address there (the agent's pool).
//! That is warned of as well.
//!
//! What is absent: which service has which address ([`super::addresses`]).

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{Cidr, Fact, FactKey, IfName, Node};
use weft_plan::kernel::MAIN_TABLE;
use weft_plan::{KernelKey, KernelRow, Route, RouteKey, RouteKind};

use crate::engine::{Context, Output};
use crate::facts::Transition;
use crate::topology::aggregate;

/// A part of a block of services that is a node's.
struct Lodger<'a> {
    node: &'a Node,
    /// Its part: an address of the node's, or a block of its pods.
    part: Cidr,
    /// The block of services.
    block: Cidr,
}

/// What is closed, in as few blocks as say it. A block that holds this node's own address is left out as a whole: by closing it the
/// node would cut itself off from its neighbours and the store, and nobody could tell it better any more. Services there are
/// served all the same.
pub fn closed(context: &Context<'_>) -> Vec<Cidr> {
    let blocks = aggregate(foreign(context));
    let parts: Vec<Cidr> = lodgers(&blocks, context).map(|lodger| lodger.part).collect();
    blocks.into_iter().flat_map(|block| without(block, &parts)).collect()
}

/// True where a change of a node is one of who lives in blocks of services.
pub fn moves_a_lodger(transition: &Transition, context: &Context<'_>) -> bool {
    let FactKey::Node(_) = transition.key else { return false };
    // As they are closed: two that lie side by side are one.
    let blocks = aggregate(context.service_cidrs());
    let parts = |fact: &Option<Fact>| match fact {
        Some(Fact::Node(node)) => lodgings(node, &blocks).map(|(part, _)| part).collect(),
        _ => Vec::new(),
    };
    let hosted = |fact: &Option<Fact>| match fact {
        Some(Fact::Node(node)) => hosted(node, &blocks).collect(),
        _ => Vec::new(),
    };
    parts(&transition.before) != parts(&transition.after)
        || hosted(&transition.before) != hosted(&transition.after)
}

/// Says who is in a block of services, which is services' own: machines and pods there are not reached through this node, but
/// for nodes and nodes' pods.
pub fn warn(context: &Context<'_>, origin: &FactKey, out: &mut Output) {
    for block in context.service_cidrs() {
        if let Some(address) = own_address_in(block, context) {
            let text = format!(
                "its own address {address} lies in {block}, a block of services: here it is treated as none, and packets to addresses \
                 that no service has leave this node untranslated; give services another block"
            );
            out.warn(origin, text);
        }
    }
    let blocks = foreign(context);
    let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    for link in &context.facts.host().links {
        for net in link.addresses.iter().filter(|net| !single(net)).map(IpNet::trunc) {
            if let Some(block) = blocks.iter().find(|block| block.net().contains(&net)) {
                out.warn(
                    origin,
                    format!(
                        "the network {net} of its link {} lies in {block}, a block of services: new connections of pods and \
                         others to machines there through this node are dropped; give services another block",
                        link.name
                    ),
                );
            }
        }
    }
    for Lodger { node, part, block } in lodgers(&blocks, context) {
        let what = match node.addresses.iter().find(|address| part == Cidr::host(address.ip)) {
            Some(address) => format!("its address {}", address.ip),
            None => format!("its block {part}"),
        };
        let text = format!(
            "{what} lies in {block}, a block of services: it stays reached, and packets there to addresses that no service has are \
             not dropped; give one of them another block"
        );
        out.warn(&FactKey::Node(node.name.clone()), text);
    }
    let joined = aggregate(blocks);
    for node in context.facts.nodes() {
        for (services, block) in hosted(node, &joined) {
            let text = format!(
                "its block {block} holds {services}, a block of services, which stays theirs: pods get no addresses there, and one that has \
                 one is not reached; give one of them another block"
            );
            out.warn(&FactKey::Node(node.name.clone()), text);
        }
    }
}

/// The node's own packets to virtual addresses have its address from the start, also where there is no default route: the
/// kernel asks for a route before anything is translated.
pub fn give_source(block: Cidr, context: &Context<'_>, origin: &FactKey, out: &mut Output) {
    let Some(source) = context.route_source(block.family()) else {
        return;
    };
    let key = RouteKey { table: MAIN_TABLE, destination: block, metric: 0 };
    let route = Route {
        kind: RouteKind::Unicast,
        link: Some(IfName::loopback()),
        via: None,
        onlink: false,
        source: Some(source),
    };
    out.kernel(KernelKey::Route(key), KernelRow::Route(route), origin);
}

/// Blocks of services that don't hold this node's own address.
fn foreign(context: &Context<'_>) -> Vec<Cidr> {
    let blocks = context.service_cidrs().into_iter();
    blocks.filter(|block| own_address_in(*block, context).is_none()).collect()
}

/// The address by which peers reach this node, if the block holds it. Others of its addresses may well be services', as those
/// that kube-proxy gives to a link of its own.
fn own_address_in(block: Cidr, context: &Context<'_>) -> Option<IpAddr> {
    context.own_address(block.family()).filter(|address| block.contains(*address))
}

fn lodgers<'a>(blocks: &'a [Cidr], context: &Context<'a>) -> impl Iterator<Item = Lodger<'a>> {
    let nodes = context.facts.nodes();
    nodes.flat_map(|node| lodgings(node, blocks).map(move |(part, block)| Lodger { node, part, block }))
}

/// A node's addresses and blocks that lie in a block of services, with that block.
fn lodgings<'a>(node: &'a Node, blocks: &'a [Cidr]) -> impl Iterator<Item = (Cidr, Cidr)> + 'a {
    let addresses = node.addresses.iter().map(|address| Cidr::host(address.ip));
    let parts = addresses.chain(node.pod_cidrs.iter().map(|own| own.cidr));
    parts.filter_map(|part| {
        let block = blocks.iter().find(|block| block.net().contains(&part.net()))?;
        Some((part, *block))
    })
}

/// Blocks of services that lie inside a node's blocks of pods, with these.
fn hosted<'a>(node: &'a Node, blocks: &'a [Cidr]) -> impl Iterator<Item = (Cidr, Cidr)> + 'a {
    let own = node.pod_cidrs.iter().map(|own| own.cidr);
    own.flat_map(|own| {
        let inside =
            blocks.iter().filter(move |services| own.net().contains(&services.net()) && own != **services);
        inside.map(move |services| (*services, own))
    })
}

/// A block without parts of it, as blocks.
fn without(block: Cidr, parts: &[Cidr]) -> Vec<Cidr> {
    let inside: Vec<Cidr> = parts.iter().copied().filter(|part| part.overlaps(&block)).collect();
    if inside.is_empty() {
        return vec![block];
    }
    if inside.iter().any(|part| part.net().contains(&block.net())) {
        return Vec::new();
    }
    let halves = block.net().subnets(block.prefix() + 1).into_iter().flatten();
    halves.filter_map(|half| Cidr::new(half).ok()).flat_map(|half| without(half, &inside)).collect()
}

#[cfg(test)]
mod tests {
    use weft_model::{NetworkName, NodeCidr, NodeName};

    use super::super::tests::Bench;
    use super::*;

    #[test]
    fn a_part_leaves_all_others() {
        let check = |block: &str, parts: &[&str], expected: &str| {
            let parts: Vec<Cidr> = parts.iter().map(|part| part.parse().unwrap()).collect();
            let left = without(block.parse().unwrap(), &parts);
            let left: Vec<String> = left.iter().map(ToString::to_string).collect();
            assert_eq!(left.join(" "), expected);
        };
        check("10.96.0.0/16", &[], "10.96.0.0/16");
        check("10.96.0.0/16", &["10.97.0.0/16"], "10.96.0.0/16");
        check("10.96.0.0/16", &["10.96.0.0/16"], "");
        check("10.96.0.0/16", &["10.0.0.0/8"], "");
        check("10.96.0.0/22", &["10.96.1.0/24"], "10.96.0.0/24 10.96.2.0/23");
        check("10.96.0.0/30", &["10.96.0.1/32", "10.96.0.2/32"], "10.96.0.0/32 10.96.0.3/32");
        check("fd00::/126", &["fd00::1/128"], "fd00::/128 fd00::2/127");
        check("0.0.0.0/0", &["128.0.0.0/1"], "0.0.0.0/1");
    }

    /// Whatever the routes to pods say, an address that no service has ends here.
    #[test]
    fn a_block_of_services_in_a_block_of_pods_stays_theirs() {
        let mut bench = Bench::new();
        let mut has = |block: &str| {
            let mut node = Node::named(NodeName::new("n1").unwrap());
            let network = NetworkName::ordinary();
            node.pod_cidrs.push(NodeCidr { network, cidr: block.parse().unwrap() });
            bench.set(Fact::Node(node));
            assert!(bench.1.to_string().contains("element service_range4 { 10.96.0.0/16"), "{}", bench.1);
            bench.warnings()
        };
        assert_eq!(has("10.244.0.0/24"), "");
        insta::assert_snapshot!(has("10.64.0.0/10"), @"node n1: its block 10.64.0.0/10 holds 10.96.0.0/16, a block of services, which stays theirs: pods get no addresses there, and one that has one is not reached; give one of them another block");
        assert_eq!(has("10.244.0.0/24"), "");
    }
}
