//! The other nodes: the way to each one's blocks, and every node's own addresses.

use std::net::IpAddr;

use weft_model::{Cidr, Fact, FactKey, Family, Network, NetworkName, Node, Vni};
use weft_plan::kernel::MAIN_TABLE;
use weft_plan::{Atom, KernelKey, KernelRow, Route, RouteKey, RouteKind, SetSpec};

use super::overlay::{self, Peer};
use super::table::{Pair, address_type};
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::topology::Way;

/// Addresses of all nodes, this one included: they see pods' own addresses, and pods see theirs.
pub const NODES: Pair = Pair { v4: "node4", v6: "node6" };

/// See the module. A network is a piece of work of its own for each node that has blocks in it, so that a change of one network
/// leaves the others alone.
pub struct PeersRule;

impl Rule for PeersRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if let FactKey::Node(name) = &transition.key {
            dirty(RuleKey::Fact(transition.key.clone()));
            for network in moved(transition) {
                dirty(RuleKey::NodeIn(name.clone(), network.clone()));
            }
        }
        let here = transition.is_of_this_node(context);
        let vnis = vnis(transition);
        let concerned = |network: &NetworkName| match &transition.key {
            FactKey::Network(changed) if changed == network => true,
            // Of one VNI only one network has a tunnel: another one's may come or go with this change.
            FactKey::Network(_) => context.network(network).is_some_and(|other| vnis.contains(&other.vni)),
            _ => here,
        };
        if !here && !matches!(transition.key, FactKey::Network(_)) {
            return;
        }
        for node in context.facts.nodes() {
            for block in node.pod_cidrs.iter().filter(|block| concerned(&block.network)) {
                // Whether a tunnel leads there is said for all networks at once.
                dirty(RuleKey::Fact(FactKey::Node(node.name.clone())));
                dirty(RuleKey::NodeIn(node.name.clone(), block.network.clone()));
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
                let Some(node) = context.facts.node(name) else { return };
                for address in &node.addresses {
                    out.member(NODES.of(Family::of(address.ip)), [Atom::from(address.ip)], origin);
                }
                if let Some(underlay) = tunnelled(node, context).filter(|_| *name != context.settings.node) {
                    overlay::admit(underlay, origin, out);
                    let second = node.address(Family::V6).filter(|_| context.second_end().is_some());
                    if let Some(address) = second {
                        overlay::admit(address.ip, origin, out);
                    }
                }
            }
            RuleKey::NodeIn(name, network) if *name != context.settings.node => {
                let Some(node) = context.facts.node(name) else { return };
                let origin = FactKey::Node(name.clone());
                match context.network(network) {
                    Some(network) => peer(node, network, &origin, context, out),
                    None => undescribed(node, network, &origin, out),
                }
            }
            _ => {}
        }
    }
}

/// The VNIs that a network had before the change, and has after it.
fn vnis(transition: &Transition) -> Vec<Vni> {
    let FactKey::Network(name) = &transition.key else { return Vec::new() };
    // The ordinary network is there also where nobody describes it.
    let undescribed = Network::named(name.clone()).vni;
    let of = |state: &Option<Fact>| match state {
        Some(Fact::Network(network)) => network.vni,
        _ => undescribed,
    };
    vec![of(&transition.before), of(&transition.after)]
}

/// The networks in which the way to a peer may be another one now.
fn moved(transition: &Transition) -> impl Iterator<Item = &NetworkName> {
    let (before, after) = (node_of(&transition.before), node_of(&transition.after));
    let is_where_it_was = match (before, after) {
        (Some(before), Some(after)) => {
            let has_shared =
                |node: &Node| node.pod_cidrs.iter().any(|own| holder(node, own.cidr) != Some(&own.network));
            before.addresses == after.addresses
                && before.vtep_mac() == after.vtep_mac()
                && !has_shared(before)
                && !has_shared(after)
        }
        _ => false,
    };
    let networks =
        before.into_iter().chain(after).flat_map(|node| &node.pod_cidrs).map(|block| &block.network);
    networks.filter(move |network| !is_where_it_was || !blocks(before, network).eq(blocks(after, network)))
}

fn blocks<'a>(node: Option<&'a Node>, network: &'a NetworkName) -> impl Iterator<Item = Cidr> + 'a {
    node.into_iter().flat_map(move |node| node.cidrs(network))
}

fn node_of(state: &Option<Fact>) -> Option<&Node> {
    match state {
        Some(Fact::Node(node)) => Some(node),
        _ => None,
    }
}

/// The address from which a peer's tunnel packets come, whatever their network; nothing where no tunnel leads there.
fn tunnelled(node: &Node, context: &Context<'_>) -> Option<IpAddr> {
    let mut sound = node.pod_cidrs.iter().filter(|block| {
        holder(node, block.cidr) == Some(&block.network) && clash(node, block.cidr, context).is_none()
    });
    sound.find_map(|block| match context.way(node, context.network(&block.network)?, block.cidr.family()) {
        Way::Tunnel { underlay } => Some(underlay),
        Way::Direct { .. } | Way::None(_) => None,
    })
}

/// The network that has a block which a node names in several: the ordinary one, or else the first by name.
fn holder(node: &Node, block: Cidr) -> Option<&NetworkName> {
    let named = node.pod_cidrs.iter().filter(|own| own.cidr == block).map(|own| &own.network);
    named.min_by_key(|network| (**network != NetworkName::ordinary(), *network))
}

fn undescribed(node: &Node, network: &NetworkName, origin: &FactKey, out: &mut Output) {
    for block in node.cidrs(network) {
        out.warn(
            origin,
            format!(
                "its block {block} is left out, as nobody has described the network {network} that it is of: describe it as a \
                 Network, or take the block out of the node's weft.dev/pod-cidrs"
            ),
        );
    }
}

fn peer(node: &Node, network: &Network, origin: &FactKey, context: &Context<'_>, out: &mut Output) {
    let to = Peer { node, network, origin };
    let mut tunnelled: Vec<Family> = Vec::new();
    let mut through = None;
    for block in node.cidrs(&network.name) {
        if let Some(why) = clash(node, block, context) {
            out.warn(origin, why);
            continue;
        }
        if let Some(other) = holder(node, block).filter(|holder| **holder != network.name) {
            out.warn(
                origin,
                format!(
                    "its block {block} is of the networks {other} and {}: it counts as the first one's",
                    network.name
                ),
            );
            continue;
        }
        let family = block.family();
        let source = context.route_source(family);
        match context.way(node, network, family) {
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
            Way::Tunnel { underlay } => {
                if let Some(tunnel) = overlay::of(network) {
                    tunnel.block(&to, block, source, out);
                    tunnelled.push(family);
                    through = Some((tunnel, underlay));
                }
            }
            Way::None(why) => {
                out.warn(origin, format!("no way to its pods' block {block}: {why}"));
                close(block, origin, out);
            }
        }
    }
    if let Some((tunnel, underlay)) = through {
        tunnelled.dedup();
        tunnel.peer(&to, underlay, &tunnelled, out);
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
