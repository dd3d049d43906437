//! Where a network ends: what is the cluster, what is outside, and what happens in between.
//!
//! *Flat* networks pass as they are. *Island* pods get their node's address on the way out. *Isolated* pods get no way out,
//! and nobody outside a way in, but from nodes and by ports that somebody published: mapped ports, and services' at addresses that
//! are reached from outside. A neighbour that sends the services' own block to a node is nobody special: which addresses those
//! are is the cluster's business, and so the way in by them ends at the node where it begins.

use weft_model::{Cidr, Fact, FactKey, Family, Network, NodeCidr, Shape};
use weft_plan::filter::{Comparison, ConntrackState, ConntrackStatus, HookKind, Reject, Value};
use weft_plan::{Field, SetSpec, Statement, Verdict};

use super::peers::NODES;
use super::table::{Pair, address_type, filter, in_set, nat, not_in_set};
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::topology::aggregate;

/// Blocks of the cluster: pods and services.
pub const CLUSTER: Pair = Pair { v4: "cluster4", v6: "cluster6" };
/// Destinations outside the cluster that see pods' own addresses.
pub const DIRECT: Pair = Pair { v4: "no_masquerade4", v6: "no_masquerade6" };
/// This node's blocks of island networks.
pub const ISLAND: Pair = Pair { v4: "island4", v6: "island6" };
/// Blocks of isolated networks: also those of other nodes, where this one would speak for whoever asks it.
pub const ISOLATED: Pair = Pair { v4: "isolated4", v6: "isolated6" };

/// See the module.
pub struct EdgeRule;

impl Rule for EdgeRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        // A peer inside its networks' own blocks changes nothing here, which is the ordinary case.
        let stray = |fact: &Fact| match fact {
            Fact::Node(node) => node.pod_cidrs.iter().any(|block| !covered(block, context)),
            _ => false,
        };
        let concerned = match transition.network() {
            Some([before, after]) => before.map(ends) != after.map(ends),
            None => transition.concerns_this_node(context) || transition.states().any(stray),
        };
        if concerned {
            dirty(RuleKey::Constant);
        }
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let origin = FactKey::Node(context.settings.node.clone());
        let networks = context.networks();
        let island: Vec<Cidr> = context
            .own_node()
            .map(|node| {
                let island = networks.iter().filter(|n| n.shape == Shape::Island);
                island.flat_map(|n| node.cidrs(&n.name)).collect()
            })
            .unwrap_or_default();
        let isolated_blocks = isolated_blocks(&networks, context);
        let sets = [
            (CLUSTER, "blocks of the cluster's pods and services", cluster(&networks, context)),
            (DIRECT, "outside, yet reached with pods' own addresses", direct(&networks)),
            (ISLAND, "pods here that leave the cluster with the node's address", island),
            (ISOLATED, "pods that don't leave the cluster", isolated_blocks),
        ];
        for (pair, comment, blocks) in sets {
            for family in Family::ALL {
                out.table_set(pair.of(family), SetSpec::intervals(address_type(family), comment), &origin);
            }
            for block in aggregate(blocks) {
                out.block(pair.of(block.family()), block, &origin);
            }
        }
        out.base_chain("edge", nat(HookKind::Postrouting, 95), masquerade(), &origin);
        if networks.iter().any(|n| n.shape == Shape::Isolated) {
            out.base_chain("isolated", filter(HookKind::Forward, -5), isolated(), &origin);
        }
    }
}

/// What of a network decides where it ends.
fn ends(network: &Network) -> (Shape, [&[Cidr]; 3]) {
    (network.shape, [&network.pod_cidrs, &network.service_cidrs, &network.no_masquerade])
}

/// True for a node's block inside of those that its network is described with.
fn covered(block: &NodeCidr, context: &Context<'_>) -> bool {
    let network = context.facts.network(&block.network);
    network.is_some_and(|n| n.pod_cidrs.iter().any(|whole| whole.net().contains(&block.cidr.net())))
}

/// All blocks of pods and services: as they are described, and nodes' blocks beside these. Not those of a peer in a network that
/// nobody has described: there is no way to them.
fn cluster(networks: &[&Network], context: &Context<'_>) -> Vec<Cidr> {
    let pods = networks.iter().flat_map(|n| n.pod_cidrs.iter().copied());
    let of_nodes = context.facts.nodes().flat_map(|node| {
        let is_own = node.name == context.settings.node;
        let strays = node.pod_cidrs.iter().filter(|block| !covered(block, context));
        strays.filter(move |block| is_own || context.network(&block.network).is_some())
    });
    pods.chain(context.service_cidrs()).chain(of_nodes.map(|block| block.cidr)).collect()
}

/// As they are described, and nodes' blocks beside these.
fn isolated_blocks(networks: &[&Network], context: &Context<'_>) -> Vec<Cidr> {
    let whole = networks.iter().filter(|n| n.shape == Shape::Isolated).flat_map(|n| &n.pod_cidrs);
    let is_isolated = |name| context.network(name).is_some_and(|n| n.shape == Shape::Isolated);
    let of_nodes = context.facts.nodes().flat_map(|node| &node.pod_cidrs);
    let strays = of_nodes.filter(|block| is_isolated(&block.network) && !covered(block, context));
    whole.copied().chain(strays.map(|block| block.cidr)).collect()
}

fn direct(networks: &[&Network]) -> Vec<Cidr> {
    networks.iter().flat_map(|n| &n.no_masquerade).copied().collect()
}

fn masquerade() -> Vec<weft_plan::Rule> {
    Family::ALL
        .into_iter()
        .map(|family| {
            weft_plan::Rule::new(
                "pods leave the cluster with the node's address",
                [
                    // First what most connections end with.
                    not_in_set([Field::Daddr(family)], CLUSTER.of(family)),
                    in_set([Field::Saddr(family)], ISLAND.of(family)),
                    not_in_set([Field::Daddr(family)], NODES.of(family)),
                    not_in_set([Field::Daddr(family)], DIRECT.of(family)),
                    Statement::Masquerade,
                ],
            )
        })
        .collect()
}

fn isolated() -> Vec<weft_plan::Rule> {
    let established =
        Statement::Match(Field::CtState, Comparison::Is, Value::State(ConntrackState::EstablishedOrRelated));
    let published = |family| {
        [
            Statement::Match(Field::CtStatus, Comparison::Is, Value::Status(ConntrackStatus::Dnat)),
            not_in_set([Field::CtOriginalDaddr(family)], CLUSTER.of(family)),
            Statement::Verdict(Verdict::Accept),
        ]
    };
    let mut rules = vec![weft_plan::Rule::new(
        "what was let through goes on",
        [established, Statement::Verdict(Verdict::Accept)],
    )];
    for family in Family::ALL {
        rules.push(weft_plan::Rule::new(
            "isolated pods don't leave the cluster",
            [
                in_set([Field::Saddr(family)], ISOLATED.of(family)),
                not_in_set([Field::Daddr(family)], CLUSTER.of(family)),
                not_in_set([Field::Daddr(family)], NODES.of(family)),
                Statement::Counter,
                Statement::Reject(Reject::AdminProhibited),
            ],
        ));
    }
    for family in Family::ALL {
        rules.push(weft_plan::Rule::new("a published port lets it in", published(family)));
    }
    for family in Family::ALL {
        rules.push(weft_plan::Rule::new(
            "nobody outside reaches isolated pods",
            [
                in_set([Field::Daddr(family)], ISOLATED.of(family)),
                not_in_set([Field::Saddr(family)], CLUSTER.of(family)),
                not_in_set([Field::Saddr(family)], NODES.of(family)),
                Statement::Counter,
                Statement::Verdict(Verdict::Drop),
            ],
        ));
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use weft_model::{Change, NetworkName, Node, NodeName};
    use weft_plan::Plan;

    use super::*;
    use crate::engine::Compiler;
    use crate::settings::Settings;

    /// Counts how often it is all done again.
    struct Counted(Arc<AtomicUsize>);

    impl Rule for Counted {
        fn affected(
            &mut self,
            transition: &Transition,
            context: &Context<'_>,
            dirty: &mut dyn FnMut(RuleKey),
        ) {
            EdgeRule.affected(transition, context, dirty);
        }

        fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
            self.0.fetch_add(1, Ordering::Relaxed);
            EdgeRule.rows(key, context, out);
        }
    }

    fn blue(change: impl FnOnce(&mut Network)) -> Fact {
        let mut network = Network::named(NetworkName::new("blue").unwrap());
        change(&mut network);
        Fact::Network(network)
    }

    fn node(name: &str, network: &str, cidr: &str) -> Fact {
        let mut node = Node::named(NodeName::new(name).unwrap());
        let network = NetworkName::new(network).unwrap();
        node.pod_cidrs.push(NodeCidr { network, cidr: cidr.parse().unwrap() });
        Fact::Node(node)
    }

    #[test]
    fn only_what_moves_the_edge_is_looked_at() {
        let count = Arc::new(AtomicUsize::new(0));
        let settings = Settings::new(NodeName::new("n1").unwrap());
        let mut compiler = Compiler::with_rules(settings, vec![Box::new(Counted(Arc::clone(&count)))]);
        let mut plan = Plan::default();
        let mut check = |fact: Fact, expected: usize, isolated: &[&str]| {
            compiler.apply(Change::set(fact));
            count.store(0, Ordering::Relaxed);
            compiler.flush(&mut plan);
            assert_eq!(count.load(Ordering::Relaxed), expected);
            let text = plan.to_string();
            let lines = text.lines().filter_map(|line| line.strip_prefix("element isolated4 { "));
            assert_eq!(lines.map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), isolated);
        };
        let whole = vec!["10.244.0.0/16".parse().unwrap()];
        check(Fact::Network(Network { pod_cidrs: whole, ..Network::ordinary() }), 1, &[]);
        check(node("n2", "default", "10.244.2.0/24"), 0, &[]);
        check(blue(|_| {}), 1, &[]);
        check(blue(|network| network.mtu = Some(1400)), 0, &[]);
        // Inside of another network's blocks it is still its own network's.
        check(node("n3", "blue", "10.244.3.0/24"), 1, &[]);
        check(blue(|network| network.shape = Shape::Isolated), 1, &["10.244.3.0/24"]);
    }
}
