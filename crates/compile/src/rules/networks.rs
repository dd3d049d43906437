//! What can't be meant by the networks' descriptions: warnings, and no rows.
//!
//! What always holds: a network whose blocks overlap those of an earlier one (the ordinary one is first, the others follow by name) is
//! named, whoever of the two was there first. Nodes claim no more blocks of it; those that they have stay.
//!
//! What is absent: blocks of services that hold what isn't theirs ([`super::services`]), and nodes' own blocks that clash
//! ([`super::peers`]).

use std::fmt;

use ipnet::IpNet;
use weft_model::{Cidr, FactKey, Network};

use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// See the module.
pub struct NetworksRule;

impl Rule for NetworksRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if matches!(transition.key, FactKey::Network(_)) || transition.is_of_this_node(context) {
            dirty(RuleKey::Constant);
        }
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let networks = context.networks();
        for network in &networks {
            if let Some(overlap) = overlap(network, &networks) {
                let text = format!(
                    "{overlap}: nodes get no more blocks of network {}, and keep those that they have; give one of the two networks another",
                    network.name
                );
                out.warn(&FactKey::Network(network.name.clone()), text);
            }
            hold_links(network, context, out);
        }
        undescribed(context, out);
    }
}

/// Says which networks of this machine's links lie in a network's blocks: what is there is taken for pods. Those that lie in this node's own
/// part are another matter: a bridge that pods moved in from, or a clash of which the node itself tells.
fn hold_links(network: &Network, context: &Context<'_>, out: &mut Output) {
    let own: Vec<Cidr> = context.own_node().into_iter().flat_map(|node| node.cidrs(&network.name)).collect();
    let is_around = |block: &Cidr, net: &IpNet| block.net().contains(net);
    for link in &context.facts.host().links {
        let nets =
            link.addresses.iter().filter(|net| net.prefix_len() < net.max_prefix_len()).map(IpNet::trunc);
        for net in nets.filter(|net| !own.iter().any(|own| is_around(own, net))) {
            let around = network.pod_cidrs.iter().enumerate().find(|(_, block)| is_around(block, &net));
            let Some((at, block)) = around else { continue };
            let text = format!(
                "spec.podCIDRs[{at}]: {block} holds {net}, the network of link {} of node {}: machines there are taken for pods, so that \
                 pods don't reach them with the node's address; give network {} a block that no link has",
                link.name, context.settings.node, network.name
            );
            out.warn(&FactKey::Network(network.name.clone()), text);
        }
    }
}

/// Says which blocks this node has of networks that nobody has described, any more. Of other nodes' blocks their ways tell.
fn undescribed(context: &Context<'_>, out: &mut Output) {
    let blocks = context.own_node().into_iter().flat_map(|node| &node.pod_cidrs);
    for block in blocks.filter(|block| context.network(&block.network).is_none()) {
        let (node, network, cidr) = (&context.settings.node, &block.network, block.cidr);
        let text = format!(
            "its block {cidr} is of network {network}, which nobody has described: other nodes have no way there; describe it as a \
             Network, or have the node forget the block: end its pods of that network, stop its agent, `weft forget {node}`, start it again"
        );
        out.warn(&FactKey::Node(node.clone()), text);
    }
}

/// A network's block that overlaps one of an earlier network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap<'a> {
    /// Which of the network's `podCIDRs`.
    at: usize,
    block: Cidr,
    /// The earlier network.
    holder: &'a Network,
    theirs: Cidr,
}

/// The first block by which a network gets in the way of an earlier one; `networks` are all, in their order
/// ([`Context::networks`]).
pub fn overlap<'a>(network: &Network, networks: &[&'a Network]) -> Option<Overlap<'a>> {
    let earlier = || networks.iter().take_while(|other| other.name != network.name);
    network.pod_cidrs.iter().enumerate().find_map(|(at, block)| {
        earlier().find_map(|holder| {
            let theirs = *holder.pod_cidrs.iter().find(|theirs| theirs.overlaps(block))?;
            Some(Overlap { at, block: *block, holder, theirs })
        })
    })
}

impl fmt::Display for Overlap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, block, holder, theirs } = self;
        let how = match theirs.net() {
            net if net == block.net() => "is",
            net if net.contains(&block.net()) => "lies in",
            _ => "holds",
        };
        write!(f, "spec.podCIDRs[{at}]: {block} {how} {theirs} of network {}", holder.name)
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Change, Fact, Host, HostLink, IfName, NetworkName, Node, NodeCidr, NodeName};
    use weft_plan::Plan;

    use super::*;
    use crate::engine::Compiler;
    use crate::settings::Settings;

    fn network(name: &str, blocks: &[&str]) -> Fact {
        let pod_cidrs = blocks.iter().map(|block| block.parse().unwrap()).collect();
        Fact::Network(Network { pod_cidrs, ..Network::named(NetworkName::new(name).unwrap()) })
    }

    /// What is said after each of these facts.
    fn warnings(facts: Vec<Fact>) -> Vec<String> {
        let mut compiler =
            Compiler::with_rules(Settings::new(NodeName::new("n1").unwrap()), vec![Box::new(NetworksRule)]);
        let mut plan = Plan::default();
        let mut after = |fact| {
            compiler.apply(Change::set(fact));
            compiler.flush(&mut plan);
            let said = plan.warnings.iter().map(|warning| format!("{}: {}", warning.object, warning.text));
            said.collect::<Vec<_>>().join("\n")
        };
        facts.into_iter().map(&mut after).collect()
    }

    #[test]
    fn a_network_in_the_way_of_an_earlier_one_is_named() {
        let check = |theirs: &[&str], own: &[&str], expected: &str| {
            let said = warnings(vec![network("red", own), network("default", theirs)]);
            let expected = match expected {
                "" => String::new(),
                overlap => format!(
                    "network red: {overlap} of network default: nodes get no more blocks of network red, and keep those that they \
                     have; give one of the two networks another"
                ),
            };
            assert_eq!(said, ["".to_owned(), expected]);
        };
        check(&["10.244.0.0/16"], &["10.245.0.0/16", "fd00::/48"], "");
        check(
            &["10.244.0.0/16"],
            &["10.244.1.0/24"],
            "spec.podCIDRs[0]: 10.244.1.0/24 lies in 10.244.0.0/16",
        );
        check(&["10.244.0.0/16"], &["10.244.0.0/16"], "spec.podCIDRs[0]: 10.244.0.0/16 is 10.244.0.0/16");
        check(
            &["10.9.0.0/16", "fd00:1::/64"],
            &["10.8.0.0/16", "fd00::/16"],
            "spec.podCIDRs[1]: fd00::/16 holds fd00:1::/64",
        );
        check(&["::/1"], &["0.0.0.0/1"], "");
    }

    fn host(addresses: &[&str]) -> Fact {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let name = IfName::new("eth0").unwrap();
        let link = HostLink { name, router_advertisements: false, mtu: 1500, addresses };
        Fact::Host(Host { links: vec![link], ..Host::default() })
    }

    fn node(network: &str, cidr: &str) -> Fact {
        let mut node = Node::named(NodeName::new("n1").unwrap());
        let network = NetworkName::new(network).unwrap();
        node.pod_cidrs.push(NodeCidr { network, cidr: cidr.parse().unwrap() });
        Fact::Node(node)
    }

    #[test]
    fn a_link_in_the_blocks_of_pods_is_named() {
        let check = |blocks: &[&str], addresses: &[&str], is_named: bool| {
            let facts = vec![network("default", blocks), node("default", "192.168.9.0/24"), host(addresses)];
            let said = warnings(facts).pop().unwrap();
            assert_eq!(!said.is_empty(), is_named, "{blocks:?} {addresses:?}: {said}");
            said
        };
        let said = check(&["fd00::/16", "192.168.0.0/16"], &["192.168.77.11/24"], true);
        insta::assert_snapshot!(said, @"network default: spec.podCIDRs[1]: 192.168.0.0/16 holds 192.168.77.0/24, the network of link eth0 of node n1: machines there are taken for pods, so that pods don't reach them with the node's address; give network default a block that no link has");
        check(&["10.244.0.0/16"], &["192.168.77.11/24"], false);
        // An address by itself is the node's, which pods reach; and a bridge in the node's own block is one that pods moved in from.
        check(&["192.168.0.0/16"], &["192.168.77.11/32"], false);
        check(&["192.168.0.0/16"], &["192.168.9.1/24"], false);
    }

    #[test]
    fn a_block_of_a_network_that_went_is_named() {
        let said = warnings(vec![node("red", "10.9.0.0/24"), network("red", &["10.9.0.0/16"])]);
        insta::assert_snapshot!(said[0], @"node n1: its block 10.9.0.0/24 is of network red, which nobody has described: other nodes have no way there; describe it as a Network, or have the node forget the block: end its pods of that network, stop its agent, `weft forget n1`, start it again");
        assert_eq!(said[1], "");
    }

    /// The ordinary network first, then by name, whoever came first.
    #[test]
    fn the_order_of_networks_says_who_is_in_the_way() {
        let block = &["10.244.0.0/16"][..];
        let said = warnings(vec![
            network("a", block),
            network("c", block),
            network("b", block),
            network("default", block),
        ]);
        let named = |text: &String| {
            text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(named(&said[1]), ["network c"]);
        assert_eq!(named(&said[2]), ["network b", "network c"]);
        assert_eq!(named(&said[3]), ["network a", "network b", "network c"]);
        let last = said[3].lines().last().unwrap();
        assert!(last.contains("of network default"), "{last}");
    }
}
