//! The other nodes: the way to each one's blocks, and every node's own addresses.

use weft_model::{Cidr, FactKey, Family, Node};
use weft_plan::kernel::MAIN_TABLE;
use weft_plan::{Atom, KernelKey, KernelRow, Route, RouteKey, RouteKind, SetSpec};

use super::overlay::vxlan;
use super::table::{Pair, address_type};
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::topology::Way;

/// Addresses of all nodes, this one included: they see pods' own addresses, and pods see theirs.
pub const NODES: Pair = Pair { v4: "node4", v6: "node6" };

/// See the module.
pub struct PeersRule;

impl Rule for PeersRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if let FactKey::Node(_) = &transition.key {
            dirty(RuleKey::Fact(transition.key.clone()));
        }
        if transition.concerns_this_node(context) {
            for node in context.facts.nodes() {
                dirty(RuleKey::Fact(FactKey::Node(node.name.clone())));
            }
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        match key {
            RuleKey::Constant => {
                let origin = FactKey::Node(context.settings.node.clone());
                for family in Family::ALL {
                    let spec = SetSpec::set(&[address_type(family)], "addresses of the cluster's nodes");
                    out.table_set(NODES.of(family), spec, &origin);
                }
            }
            RuleKey::Fact(origin @ FactKey::Node(name)) => {
                let Some(node) = context.facts.node(name) else {
                    return;
                };
                for address in &node.addresses {
                    out.member(NODES.of(Family::of(address.ip)), [Atom::from(address.ip)], origin);
                }
                if *name != context.settings.node {
                    peer(node, origin, context, out);
                }
            }
            RuleKey::Fact(_) | RuleKey::Address(_) | RuleKey::Sources(_) => {}
        }
    }
}

fn peer(node: &Node, origin: &FactKey, context: &Context<'_>, out: &mut Output) {
    let networks = context.networks();
    for block in node.pod_cidrs.iter().filter(|block| networks.iter().all(|n| n.name != block.network)) {
        out.warn(
            origin,
            format!(
                "its block {} is left out, as nobody has described the network {} that it is of: describe it as a Network, or \
                 take the block out of the node's weft.dev/pod-cidrs",
                block.cidr, block.network
            ),
        );
    }
    for network in networks {
        let mut tunnelled: Vec<Family> = Vec::new();
        let mut underlay = None;
        for block in node.cidrs(&network.name) {
            if let Some(why) = clash(node, block, context) {
                out.warn(origin, why);
                continue;
            }
            let family = block.family();
            let source = context.route_source(family);
            match context.way(node, &network, family) {
                Way::Direct { via, link } => {
                    let route = Route {
                        kind: RouteKind::Unicast,
                        link: Some(link),
                        via: Some(via),
                        onlink: false,
                        source,
                    };
                    out.kernel(route_key(block), KernelRow::Route(route), origin);
                }
                Way::Tunnel { underlay: address } => {
                    underlay = Some(address);
                    tunnelled.push(family);
                    vxlan::block(node, &network, block, source, origin, out);
                }
                Way::None(why) => {
                    out.warn(origin, format!("no way to its pods' block {block}: {why}"));
                    close(block, origin, out);
                }
            }
        }
        if let Some(underlay) = underlay {
            tunnelled.dedup();
            vxlan::peer(node, &network, underlay, &tunnelled, origin, out);
        }
    }
}

fn route_key(block: Cidr) -> KernelKey {
    KernelKey::Route(RouteKey { table: MAIN_TABLE, destination: block, metric: 0 })
}

/// What can't be reached is said to be unreachable, instead of being sent to the default route.
fn close(block: Cidr, origin: &FactKey, out: &mut Output) {
    let route = Route { kind: RouteKind::Unreachable, link: None, via: None, onlink: false, source: None };
    out.kernel(route_key(block), KernelRow::Route(route), origin);
}

/// Why a peer's block is left out: it would take this node's pods away, or an address without which nobody is reached.
fn clash(node: &Node, block: Cidr, context: &Context<'_>) -> Option<String> {
    let own = context.own_node()?;
    if let Some(ours) = own.pod_cidrs.iter().find(|c| c.cidr.overlaps(&block)) {
        return Some(format!(
            "its block {block} overlaps {} of this node ({}): give one of {} and {} another",
            ours.cidr, own.name, node.name, own.name
        ));
    }
    let theirs = node.addresses.iter().map(|address| address.ip).find(|address| block.contains(*address));
    let (address, whose) = theirs
        .map(|address| (address, &node.name))
        .or_else(|| Some((context.own_address_in(block)?, &own.name)))?;
    Some(format!(
        "its block {block} holds the address {address} of node {whose} itself: give {} another",
        node.name
    ))
}
