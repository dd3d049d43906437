//! Other nodes in an explanation: which a question needs, and their plans as far as this node can tell.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use weft_compile::endpoints::slices;
use weft_compile::services::is_ours;
use weft_compile::{Compiler, Facts, Settings};
use weft_model::{
    Attachment, AttachmentId, Change, Fact, Family, Host, HostLink, IfName, Mac, Node, NodeName, PodIdentity,
    Service,
};
use weft_plan::Plan;

use super::{Known, Query, Target, addresses_of, pod_key};

/// A node other than this one.
pub struct Peer {
    pub name: NodeName,
    pub compiler: Compiler,
    pub plan: Plan,
    pub host: Host,
}

/// With more nodes than this, only those that a question needs are looked at.
const ALL_UP_TO: usize = 16;
/// Of the endpoints of services so many nodes are looked at; a packet to another one's leaves the view.
const MOST_OF_ENDPOINTS: usize = 64;

/// The peers that these questions need.
pub fn peers(known: &Known, queries: &[Query]) -> Vec<Peer> {
    let services = services(known, queries);
    let nodes = involved(known, queries, &services);
    nodes.into_iter().map(|node| Peer::of(&known.settings, &known.facts, node, &services)).collect()
}

/// Services that a question's packet can meet, at an address of theirs or at a node's port.
fn services<'a>(known: &'a Known, queries: &[Query]) -> Vec<&'a Service> {
    let Some(settings) = &known.settings.services else { return Vec::new() };
    let mut targets: Vec<(u16, Vec<IpAddr>)> = Vec::new();
    for target in queries.iter().filter_map(|query| Target::from_str(&query.to).ok()) {
        if let Some((_, port)) = target.port {
            targets.push((port.get(), addresses_of(known, &target.place)));
        }
    }
    let is_met = |service: &&Service| {
        let balancer = service.load_balancer.iter().map(|address| &address.ip);
        let own = || service.cluster_ips.iter().chain(&service.external_ips).chain(balancer.clone());
        targets.iter().any(|(number, addresses)| {
            service.ports.iter().any(|port| {
                port.node_port.is_some_and(|port| port.get() == *number)
                    || (port.port.get() == *number && own().any(|ip| addresses.contains(ip)))
            })
        })
    };
    known.facts.services().filter(|service| is_ours(service, settings)).filter(is_met).collect()
}

/// Nodes other than this one that a question names, its pods or endpoints are on, or its addresses belong to. With few
/// nodes, all.
fn involved<'a>(known: &'a Known, queries: &[Query], services: &[&Service]) -> Vec<&'a Node> {
    let facts = &known.facts;
    let others = || facts.nodes().filter(|node| node.name != known.node);
    let mut found: BTreeMap<&NodeName, &Node> = BTreeMap::new();
    if others().count() <= ALL_UP_TO {
        found.extend(others().map(|node| (&node.name, node)));
    } else {
        let ends = queries.iter().flat_map(|query| {
            let target = Target::from_str(&query.to).map(|target| target.place).ok();
            [Some(query.from.clone()), target].into_iter().flatten()
        });
        for end in ends {
            let pod_node = pod_key(&end).and_then(|key| facts.pod(&key)?.node.clone());
            let addresses = addresses_of(known, &end);
            let owns = |node: &Node| {
                addresses.iter().any(|ip| {
                    node.addresses.iter().any(|a| a.ip == *ip)
                        || node.pod_cidrs.iter().any(|b| b.cidr.contains(*ip))
                })
            };
            found.extend(
                others()
                    .filter(|node| {
                        node.name.as_str() == end || pod_node.as_ref() == Some(&node.name) || owns(node)
                    })
                    .map(|node| (&node.name, node)),
            );
        }
        let endpoints = services.iter().flat_map(|service| slices(facts, service));
        let named: Vec<NodeName> = endpoints
            .flat_map(|slice| slice.endpoints.iter().filter_map(|e| e.node.clone()).collect::<Vec<_>>())
            .collect();
        let hosts = named.iter().filter(|name| **name != known.node).filter_map(|name| facts.node(name));
        found.extend(hosts.take(MOST_OF_ENDPOINTS).map(|node| (&node.name, node)));
    }
    found.into_values().collect()
}

impl Peer {
    /// A peer's plan from what this node knows: its own links and pods, and these services.
    fn of(own: &Settings, facts: &Facts, node: &Node, services: &[&Service]) -> Self {
        let settings = Settings { node: node.name.clone(), ..own.clone() };
        let mut compiler = Compiler::new(settings);
        let host = peer_host(node);
        let mut set = |fact: Fact| {
            compiler.apply(Change::set(fact));
        };
        facts.networks().cloned().map(Fact::Network).for_each(&mut set);
        facts.service_cidrs().cloned().map(Fact::ServiceCidr).for_each(&mut set);
        facts.nodes().cloned().map(Fact::Node).for_each(&mut set);
        set(Fact::Host(host.clone()));
        let its_pods = facts.pods().filter(|pod| pod.node.as_ref() == Some(&node.name) && !pod.host_network);
        for pod in its_pods.filter(|pod| !pod.ips.is_empty() && !pod.finished) {
            set(Fact::Attachment(guessed_attachment(pod)));
        }
        for service in services {
            set(Fact::Service((*service).clone()));
            facts.slices_of(&service.key).cloned().map(Fact::EndpointSlice).for_each(&mut set);
            if !facts.has_slices(&service.key) {
                facts.selected_by(service).into_iter().cloned().map(Fact::Pod).for_each(&mut set);
            }
        }
        let mut plan = Plan::default();
        compiler.flush(&mut plan);
        Self { name: node.name.clone(), compiler, plan, host }
    }
}

pub fn guessed_attachment(pod: &weft_model::Pod) -> Attachment {
    let container = format!("{}.{}", pod.key.namespace, pod.key.name);
    // `eth0` is a valid name, so the fallback is never taken.
    let ifname = IfName::new("eth0").unwrap_or_else(|_| IfName::loopback());
    Attachment {
        mac: Mac::derived(&container),
        id: AttachmentId { container: container.into(), ifname },
        network: pod.network.clone(),
        pod: Some(PodIdentity { key: pod.key.clone(), uid: pod.uid.clone() }),
        addresses: pod.ips.to_vec(),
        mtu: None,
        host_ports: pod.host_ports.to_vec(),
        netns: String::new(),
    }
}

/// A peer's links as far as its published addresses tell.
pub fn peer_host(node: &Node) -> Host {
    let full = |address: &weft_model::NodeAddress| {
        let bits = address.prefix.unwrap_or_else(|| Family::of(address.ip).bits());
        IpNet::new(address.ip, bits).unwrap_or_else(|_| IpNet::from(address.ip))
    };
    let addresses: Vec<IpNet> = node.addresses.iter().map(full).collect();
    let name = IfName::new("uplink").unwrap_or_else(|_| IfName::loopback());
    Host {
        links: vec![HostLink { name, mtu: 1500, router_advertisements: false, addresses }],
        ..Host::default()
    }
}
