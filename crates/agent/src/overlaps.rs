//! What nodes say of themselves and can't all be true: blocks inside one another, and addresses that two of them have.
//!
//! The plan is defined all the same: the longer prefix gets the packets, and of equal blocks one node's is left out (which the
//! plan itself warns of). Nothing here changes it. Each look costs a sort of all blocks, so it is for people's questions only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_model::{Cidr, NetworkName, Node, NodeName};

/// A block, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Owned<'a> {
    first: IpAddr,
    prefix: u8,
    cidr: Cidr,
    node: &'a NodeName,
    network: &'a NetworkName,
}

/// A sentence for each block that lies in a block of somebody else, and for each address that two nodes have. What concerns
/// `own` and one of its peers is left out: the plan warns of that.
pub fn overlaps(nodes: &[&Node], own: &NodeName) -> Vec<String> {
    let mut found = nested(nodes, own);
    let mut holders: BTreeMap<IpAddr, Vec<&NodeName>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.name != *own) {
        for address in &node.addresses {
            holders.entry(address.ip).or_default().push(&node.name);
        }
    }
    for (address, mut names) in holders {
        names.sort();
        names.dedup();
        if let [first, second, ..] = names.as_slice() {
            found.push(format!(
                "node {second}: its address {address} is node {first}'s too: give one of them another, or name `addresses` \
                 in its configuration; where one is the other's former name, `weft forget` it"
            ));
        }
    }
    found
}

fn nested(nodes: &[&Node], own: &NodeName) -> Vec<String> {
    let mut blocks: Vec<Owned<'_>> = nodes
        .iter()
        .flat_map(|node| {
            node.pod_cidrs.iter().map(|block| Owned {
                first: block.cidr.first(),
                prefix: block.cidr.prefix(),
                cidr: block.cidr,
                node: &node.name,
                network: &block.network,
            })
        })
        .collect();
    // What holds others comes before them, so that the open ones are a stack.
    blocks.sort();
    let mut open: Vec<Owned<'_>> = Vec::new();
    let mut found = Vec::new();
    for block in blocks {
        while open.last().is_some_and(|outer| !outer.cidr.contains(block.first)) {
            open.pop();
        }
        if let Some(outer) = open.last() {
            let same_node = outer.node == block.node;
            let told_by_plan =
                !same_node && (outer.node == own || block.node == own || outer.cidr == block.cidr);
            let same_pool = same_node && outer.network == block.network;
            if !(told_by_plan || same_pool) {
                found.push(format!(
                    "node {}: its block {} of network {} lies in {} of network {}, node {}: give one of them another",
                    block.node, block.cidr, block.network, outer.cidr, outer.network, outer.node
                ));
            }
        }
        open.push(block);
    }
    found
}

#[cfg(test)]
mod tests {
    use weft_model::{NodeAddress, NodeCidr};

    use super::*;

    /// Nodes as `name address network=block …`.
    fn check(nodes: &[&str], expected: &[&str]) {
        let nodes: Vec<Node> = nodes
            .iter()
            .map(|line| {
                let mut words = line.split(' ');
                let mut node = Node::named(NodeName::new(words.next().unwrap()).unwrap());
                let ip = words.next().unwrap().parse().unwrap();
                node.addresses.push(NodeAddress { ip, prefix: None });
                node.pod_cidrs.extend(words.map(|word| {
                    let (network, cidr) = word.split_once('=').unwrap();
                    NodeCidr { network: NetworkName::new(network).unwrap(), cidr: cidr.parse().unwrap() }
                }));
                node
            })
            .collect();
        let found = overlaps(&nodes.iter().collect::<Vec<_>>(), &NodeName::new("n1").unwrap());
        let short: Vec<&str> = found.iter().map(|text| text.split_once(": give").unwrap().0).collect();
        assert_eq!(short, expected, "{nodes:?}");
    }

    #[test]
    fn what_cannot_all_be_true_is_named() {
        check(&["n1 192.0.2.1 default=10.0.1.0/24", "n2 192.0.2.2 default=10.0.2.0/24"], &[]);
        check(
            &[
                "n2 192.0.2.2 default=10.0.0.0/16",
                "n3 192.0.2.3 default=10.0.3.0/24",
                "n4 192.0.2.3 default=10.0.3.64/26 default=10.1.0.0/24",
            ],
            &[
                "node n3: its block 10.0.3.0/24 of network default lies in 10.0.0.0/16 of network default, node n2",
                "node n4: its block 10.0.3.64/26 of network default lies in 10.0.3.0/24 of network default, node n3",
                "node n4: its address 192.0.2.3 is node n3's too",
            ],
        );
        // Two networks of one node, this one's too.
        check(
            &["n1 192.0.2.1 blue=10.0.1.0/24 default=10.0.1.0/24"],
            &[
                "node n1: its block 10.0.1.0/24 of network default lies in 10.0.1.0/24 of network blue, node n1",
            ],
        );
        // The plan warns of these, and of one address of this node and a peer.
        check(&["n1 192.0.2.1 default=10.0.1.0/24", "n2 192.0.2.1 default=10.0.0.0/16"], &[]);
        check(&["n2 192.0.2.2 default=10.0.1.0/24", "n3 192.0.2.3 default=10.0.1.0/24"], &[]);
    }
}
