//! Which cluster addresses lead to their services: not those that are a node's or pods'.
//!
//! An API server takes cluster addresses from blocks of its own. In a folder or in etcd people write them, and one rule holds for all:
//! no service takes a node's address as its cluster address, and with it the node's servers, sshd's above all; nor an address of
//! pods, which would then be reached by nobody. What lies beside all blocks of services is served, with a warning. In a block of services
//! an address by itself, with no network around it, is a service's whoever says that it is theirs: a slip in one node's configuration
//! takes no service from the cluster. Not where the node is registered with it: that a kubelet or a cloud says.
//!
//! What is absent: external addresses and those of balancers. These may well be a node's ([`crate::rules::services`]).

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustc_hash::FxHashSet;
use weft_model::{Cidr, Fact, FactKey, Family, Host, NetworkName, Node, NodeAddress, NodeName, Service};

use crate::engine::Context;
use crate::facts::Transition;

/// Links on which others keep services' addresses so that the kernel takes them for its own: kube-proxy's ipvs mode, kube-router, and
/// NodeLocal DNSCache.
const VIRTUAL_LINKS: [&str; 3] = ["kube-ipvs0", "kube-dummy-if", "nodelocaldns"];

/// Why an address can't be a service's cluster address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<'a> {
    /// The node has it itself.
    Node(&'a NodeName),
    /// It lies in a node's block of pods.
    Share(Cidr, &'a NodeName),
    /// It lies in a block from which nodes' blocks are cut.
    Network(Cidr, &'a NetworkName),
}

/// Who has an address, so that no service is found there by it as its cluster address. Of a block of services and one of pods that both hold it,
/// the smaller counts.
pub fn taken<'a>(ip: IpAddr, context: &Context<'a>) -> Option<Taken<'a>> {
    let facts = context.facts;
    let blocks = blocks(context).filter(|block| block.family() == Family::of(ip));
    let (is_declared, home) = blocks.fold((false, None), |(_, home), block| {
        let home = if block.contains(ip) { home.max(Some(block.prefix())) } else { home };
        (true, home)
    });
    let is_real = |how: Held| match how {
        Held::Surely => true,
        Held::Single => home.is_none(),
    };
    let is_its = |node: &&Node| published(node).any(|(own, how)| own == ip && is_real(how));
    if let Some(node) = facts.nodes_at(ip).filter(is_its).map(|node| &node.name).min() {
        return Some(Taken::Node(node));
    }
    if held(facts.host()).any(|(own, how)| own == ip && is_real(how)) {
        return Some(Taken::Node(&context.settings.node));
    }
    let share = facts.pods_block_around(ip);
    if let Some((block, node)) = share.filter(|(block, _)| home.is_none_or(|home| home <= block.prefix())) {
        return Some(Taken::Share(block, node));
    }
    // Where nobody has said which blocks are services', a part of these may be: controllers spare it when they cut nodes' blocks.
    if !is_declared || home.is_some() {
        return None;
    }
    facts.networks().find_map(|network| {
        let block = network.pod_cidrs.iter().find(|block| block.contains(ip))?;
        Some(Taken::Network(*block, &network.name))
    })
}

/// What is wrong with a service's cluster addresses, in words for its warnings.
pub fn remarks(service: &Service, context: &Context<'_>) -> Vec<String> {
    const MEND: &str = "give the service an address of services' blocks (serviceCIDRs of a Network)";
    if service.cluster_ips.is_empty() {
        let text = "spec.clusterIP: there is none, and nobody here gives one out: the service's name has no address; write an address of \
                    services' blocks (serviceCIDRs of a Network), or None for a service that leads to its endpoints by name";
        return vec![text.to_owned()];
    }
    let remark = |(at, ip): (usize, &IpAddr)| {
        let field = if at == 0 { "clusterIP".to_owned() } else { format!("clusterIPs[{at}]") };
        let why = match taken(*ip, context) {
            Some(Taken::Node(node)) => {
                format!("is an address of node {node}, whose own servers are asked there")
            }
            Some(Taken::Share(block, node)) => format!("lies in {block}, node {node}'s block of pods"),
            Some(Taken::Network(block, network)) => {
                format!("lies in {block}, pods' block of network {network}")
            }
            None if is_stray(*ip, context) => {
                let text = "lies in no block of services: it leads to the service, and counts as an address outside the cluster";
                return Some(format!("spec.{field}: {ip} {text}; {MEND}, or add a block to these"));
            }
            None => {
                // All of them say it by itself, and it lies in a block of services.
                let node = context.facts.nodes_at(*ip).map(|node| &node.name).min()?;
                return Some(format!(
                    "spec.{field}: {ip} is given as an address of node {node}, too: in a block of services it counts as the service's, and \
                     the node isn't reached there; correct the node's addresses"
                ));
            }
        };
        Some(format!("spec.{field}: {ip} {why}: it doesn't lead to the service; {MEND}"))
    };
    service.cluster_ips.iter().enumerate().filter_map(remark).collect()
}

/// A node's addresses, as it or somebody else makes them known.
fn published(node: &Node) -> impl Iterator<Item = (IpAddr, Held)> + '_ {
    let how = |address: &NodeAddress| match address.prefix {
        Some(length) if length < Family::of(address.ip).bits() => Held::Surely,
        _ if node.registered.contains(&address.ip) => Held::Surely,
        Some(_) | None => Held::Single,
    };
    node.addresses.iter().map(move |address| (address.ip, how(address)))
}

/// Blocks in which cluster addresses may be led otherwise, or be remarked on otherwise, after a change.
pub fn moved(transition: &Transition, context: &Context<'_>) -> Vec<Cidr> {
    let (before, after) = (&transition.before, &transition.after);
    match &transition.key {
        FactKey::Node(_) => {
            let of = |fact: &Option<Fact>| match fact {
                Some(Fact::Node(node)) => places(node),
                _ => Vec::new(),
            };
            differing(&of(before), &of(after)).into_iter().map(|(block, _)| block).collect()
        }
        FactKey::Host => {
            let of = |fact: &Option<Fact>| match fact {
                Some(Fact::Host(host)) => held(host).collect(),
                _ => Vec::new(),
            };
            differing(&of(before), &of(after)).into_iter().map(|(ip, _)| Cidr::host(ip)).collect()
        }
        FactKey::Network(_) | FactKey::ServiceCidr(_) => {
            let pods = |fact: &Option<Fact>| match fact {
                Some(Fact::Network(network)) => network.pod_cidrs.clone(),
                _ => Vec::new(),
            };
            let mut moved = differing(&pods(before), &pods(after));
            let services = transition.changed_service_cidrs();
            // The first block of a family, and its last one, are every address's matter.
            for family in Family::ALL {
                let of_family = |block: &Cidr| block.family() == family;
                if services.iter().any(of_family)
                    && blocks(context).filter(of_family).all(|block| services.contains(&block))
                {
                    moved.push(whole(family));
                }
            }
            moved.extend(services);
            moved
        }
        _ => Vec::new(),
    }
}

/// How a machine has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Held {
    /// With the network of a link, or as the one that it is registered with, whatever the link says: DHCPv6 and clouds give single addresses.
    Surely,
    /// By itself, or on no link that is known, and nobody else says so. In a block of services it is a virtual one, whoever put it there.
    Single,
}

/// The machine's own addresses. Links that are there for services have none, and thousands of theirs are not gone through.
fn held(host: &Host) -> impl Iterator<Item = (IpAddr, Held)> + '_ {
    let real = host.links.iter().filter(|link| !VIRTUAL_LINKS.contains(&link.name.as_str()));
    let on_links = real.flat_map(|link| &link.addresses).map(|net| {
        let is_single = net.prefix_len() == net.max_prefix_len();
        (net.addr(), if is_single { Held::Single } else { Held::Surely })
    });
    on_links.chain(host.loopback.iter().map(|ip| (*ip, Held::Single)))
}

/// All that is a node's, as blocks; addresses with how it has them.
fn places(node: &Node) -> Vec<(Cidr, Option<Held>)> {
    let addresses = published(node).map(|(ip, how)| (Cidr::host(ip), Some(how)));
    addresses.chain(node.pod_cidrs.iter().map(|own| (own.cidr, None))).collect()
}

fn differing<T: Hash + Eq + Copy>(before: &[T], after: &[T]) -> Vec<T> {
    let [before, after] = [before, after].map(|all| all.iter().copied().collect::<FxHashSet<T>>());
    before.symmetric_difference(&after).copied().collect()
}

/// Blocks that services' addresses come from, in no order, some more than once.
fn blocks<'a>(context: &Context<'a>) -> impl Iterator<Item = Cidr> + use<'a> {
    let networks = context.facts.networks().flat_map(|network| &network.service_cidrs);
    networks.chain(context.facts.service_cidrs().flat_map(|object| &object.cidrs)).copied()
}

/// True where there are blocks of services, and none of them holds the address.
fn is_stray(ip: IpAddr, context: &Context<'_>) -> bool {
    let mut of_family = blocks(context).filter(|block| block.family() == Family::of(ip)).peekable();
    of_family.peek().is_some() && !of_family.any(|block| block.contains(ip))
}

fn whole(family: Family) -> Cidr {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    Cidr::around(any, 0)
}
