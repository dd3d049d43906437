//! What every node has: forwarding on, its own blocks closed against loops, and firewalls open for its servers.

use weft_model::{Cidr, FactKey, Family, NodeCidr};
use weft_plan::kernel::{MAIN_TABLE, Opening};
use weft_plan::{KernelKey, KernelRow, Route, RouteKey, RouteKind};

use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::topology::aggregate;

/// Metric of the route that closes a block: behind anything that somebody else may have for it.
const CLOSING_METRIC: u32 = 9338;

/// See the module.
pub struct NodeRule;

impl Rule for NodeRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if transition.concerns_this_node(context) {
            dirty(RuleKey::Constant);
        }
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let origin = FactKey::Node(context.settings.node.clone());
        let mut sysctl = |path: &str, value: &str| {
            out.kernel(KernelKey::Sysctl(path.into()), KernelRow::Sysctl(value.into()), &origin);
        };
        sysctl("net/ipv4/ip_forward", "1");
        let cidrs = context.own_node().map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        if cidrs.iter().any(|c| c.cidr.family() == Family::V6) {
            sysctl("net/ipv6/conf/all/forwarding", "1");
            // A host that forwards ignores router advertisements, and loses its own default route when the last one expires.
            for link in context.facts.host().links.iter().filter(|link| link.router_advertisements) {
                sysctl(&format!("net/ipv6/conf/{}/accept_ra", link.name), "2");
            }
        }
        for (protocol, port) in &context.settings.open_ports {
            out.kernel(KernelKey::Opening(Opening::Input(*protocol, *port)), KernelRow::Opening, &origin);
        }
        for block in forwarded(&cidrs, context) {
            out.kernel(KernelKey::Opening(Opening::Forward(block)), KernelRow::Opening, &origin);
        }
        for block in &cidrs {
            let key = RouteKey { table: MAIN_TABLE, destination: block.cidr, metric: CLOSING_METRIC };
            let route =
                Route { kind: RouteKind::Unreachable, link: None, via: None, onlink: false, source: None };
            out.kernel(KernelKey::Route(key), KernelRow::Route(route), &origin);
        }
        for block in &cidrs {
            if let Some(address) = context.own_address_in(block.cidr) {
                out.warn(
                    &origin,
                    format!(
                        "its block {} holds its own address {address}: no pod gets an address of it. Where that is the bridge of a \
                         network that pods moved in from, `weft migrate` does the rest; else give the node, or network {}, other blocks",
                        block.cidr, block.network
                    ),
                );
            }
        }
        for block in &cidrs {
            let network = context.facts.network_or_default(&block.network);
            let whole = network.pod_cidrs.iter().filter(|whole| whole.family() == block.cidr.family());
            let mut whole = whole.peekable();
            if whole.peek().is_some() && !whole.any(|whole| whole.net().contains(&block.cidr.net())) {
                out.warn(
                    &origin,
                    format!(
                        "its block {} lies outside the podCIDRs of network {}. Pods keep it, and new ones get addresses of \
                         it: to move, drain the node, stop its agent, `weft forget` it, and start it again",
                        block.cidr, block.network
                    ),
                );
            }
        }
        if context.own_node().is_some_and(|node| node.pod_cidrs.is_empty()) {
            out.warn(
                &origin,
                "it has no pod CIDR: give the node spec.podCIDRs, or its network podCIDRs to cut them from",
            );
        }
    }
}

/// Blocks whose packets must pass where others drop what is forwarded: this node's own; and all of the networks' where there are
/// services, since a port of this node, or a balancer's address, leads to pods of other nodes too.
fn forwarded(own: &[NodeCidr], context: &Context<'_>) -> Vec<Cidr> {
    let networks = context.facts.networks().filter(|_| context.settings.services.is_some());
    aggregate(
        own.iter()
            .map(|block| block.cidr)
            .chain(networks.flat_map(|network| network.pod_cidrs.iter().copied())),
    )
}
