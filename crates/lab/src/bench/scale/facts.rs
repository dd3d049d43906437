//! A made-up cluster: nodes in subnets of 250, 30 pods a node, services with and without selectors. Pure.
//!
//! Text that objects have in common is shared, as the store's reader shares it.
//!
//! The node that is looked at is number 0; its own subnet's nodes are direct peers, the others are behind tunnels.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use weft_model::{
    Attachment, AttachmentId, Cidr, Endpoint, EndpointPort, EndpointSlice, Fact, Family, IfName, Labels, Mac,
    Namespace, NamespaceName, Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName, ObjectKey,
    ObjectName, Pod, PodIdentity, Port, Protocol, Service, ServicePort, SliceSource, TargetPort,
};
use weft_store::object::Interner;

/// Pods on each node.
pub const PODS_A_NODE: usize = 30;
/// Nodes in each subnet.
const NODES_A_SUBNET: usize = 250;
/// Pods that a service's selector finds, and endpoints of a service without one.
const PODS_A_SERVICE: usize = 150;
/// Of so many services one has endpoints that somebody else writes.
const WRITTEN: usize = 10;
const ENDPOINTS: usize = 50;
const NAMESPACES: usize = 100;

/// How big the cluster is.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// Number of nodes, at most 5,000.
    pub nodes: usize,
}

/// Which of its two addresses a node has, which of two applications a pod belongs to, whether an endpoint is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    First,
    Second,
}

impl Cluster {
    /// Number of pods.
    pub fn pods(self) -> usize {
        self.nodes * PODS_A_NODE
    }

    /// Number of services; each namespace has its share.
    pub fn services(self) -> usize {
        self.pods().div_ceil(PODS_A_SERVICE)
    }

    /// Number of endpoint slices.
    pub fn slices(self) -> usize {
        self.services().div_ceil(WRITTEN)
    }

    /// All facts but those of the host, one after the other.
    pub fn facts(self) -> impl Iterator<Item = Result<Fact>> {
        let mut names = Interner::default();
        let namespaces = (0..NAMESPACES).map(|n| Ok(Fact::Namespace(Namespace::named(namespace(n)?))));
        let nodes = (0..self.nodes).map(|n| node(n, State::First));
        let pods = (0..self.pods()).map(move |n| self.pod(n, State::First, &mut names));
        let services = (0..self.services()).map(service);
        let slices = (0..self.slices()).map(move |n| self.slice(n, State::First));
        let attachments = (0..PODS_A_NODE).map(attachment);
        std::iter::once(network())
            .chain(namespaces)
            .chain(nodes)
            .chain(pods)
            .chain(services)
            .chain(slices)
            .chain(attachments)
    }

    /// A pod; pods are dealt out to applications, and applications to namespaces.
    pub fn pod(self, number: usize, state: State, names: &mut Interner) -> Result<Fact> {
        let application = number % self.services();
        let mut key = pod_key(number, self.services())?;
        key.namespace = names.namespace(key.namespace.as_str())?;
        let mut pod = Pod::named(key);
        let app = match state {
            State::First => format!("app-{application}"),
            State::Second => "somewhere-else".into(),
        };
        let labels = [
            ("app", app),
            ("tier", ["front", "back"][number % 2].to_owned()),
            ("pod-template-hash", format!("{:08x}", application * 7919)),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value));
        pod.labels = names.labels(labels.iter().map(|(key, value)| (key, value)));
        pod.node = Some(names.node(node_name(number / PODS_A_NODE)?.as_str())?);
        pod.ips = pod_ips(number).into();
        pod.ready = true;
        Ok(Fact::Pod(pod))
    }

    /// A slice of a service without a selector. In its second state its first endpoint isn't ready.
    pub fn slice(self, number: usize, state: State) -> Result<Fact> {
        let service = service_key(number * WRITTEN)?;
        let endpoint = |at: usize| -> Result<Endpoint> {
            let ready = at > 0 || state == State::First;
            let pod = (number * ENDPOINTS + at) % self.pods();
            Ok(Endpoint {
                addresses: vec![pod_ips(pod)[0]],
                ready,
                serving: ready,
                terminating: false,
                hostname: None,
                node: Some(node_name(pod / PODS_A_NODE)?),
                zone: None,
                hint_zones: Vec::new(),
                hint_nodes: Vec::new(),
                pod: None,
            })
        };
        Ok(Fact::EndpointSlice(EndpointSlice {
            key: ObjectKey {
                namespace: service.namespace.clone(),
                name: ObjectName::new(&format!("{}-x", service.name))?,
            },
            service: Some(service.name),
            source: SliceSource::EndpointSlice,
            family: Family::V4,
            ports: [EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Some(Port::new(8080)?),
            }]
            .into(),
            endpoints: (0..ENDPOINTS).map(endpoint).collect::<Result<_>>()?,
        }))
    }
}

fn byte(number: usize) -> Result<u8> {
    u8::try_from(number).context("the made-up cluster has at most 5,000 nodes")
}

fn word(number: usize) -> Result<u16> {
    u16::try_from(number).context("the made-up cluster has at most 5,000 nodes")
}

fn network() -> Result<Fact> {
    let mut network = Network::ordinary();
    network.pod_cidrs = vec!["10.0.0.0/11".parse()?, "fd00:10::/48".parse()?];
    network.service_cidrs = vec!["10.96.0.0/12".parse()?];
    Ok(Fact::Network(network))
}

fn namespace(number: usize) -> Result<NamespaceName> {
    Ok(NamespaceName::new(&format!("team-{}", number % NAMESPACES))?)
}

/// The name of a node; number 0 is the one that is looked at.
pub fn node_name(number: usize) -> Result<NodeName> {
    Ok(NodeName::new(&format!("node-{number:04}"))?)
}

/// A node's addresses: 172.16.S.H, or 172.24.S.H in its second state; 2001:db8:S::H.
pub fn node_ips(number: usize, state: State) -> Result<[IpAddr; 2]> {
    let (subnet, host) = (number / NODES_A_SUBNET, number % NODES_A_SUBNET + 1);
    let second = if state == State::First { 16 } else { 24 };
    let v6 = [0x2001, 0xdb8, word(subnet)?, 0, 0, 0, 0, word(host)?];
    Ok([Ipv4Addr::new(172, second, byte(subnet)?, byte(host)?).into(), v6.into()])
}

/// A node.
pub fn node(number: usize, state: State) -> Result<Fact> {
    let mut node = Node::named(node_name(number)?);
    let [v4, v6] = node_ips(number, state)?;
    node.addresses = vec![NodeAddress { ip: v4, prefix: Some(24) }, NodeAddress { ip: v6, prefix: Some(64) }];
    let [high, low] = word(number)?.to_be_bytes();
    let blocks: [Cidr; 2] =
        [format!("10.{high}.{low}.0/24").parse()?, format!("fd00:10:0:{number:x}::/64").parse()?];
    node.pod_cidrs = blocks.map(|cidr| NodeCidr { network: NetworkName::ordinary(), cidr }).to_vec();
    Ok(Fact::Node(node))
}

fn pod_ips(number: usize) -> [IpAddr; 2] {
    // Nodes are fewer than 2^16, pods on each fewer than 2^8.
    let (node, host) = ((number / PODS_A_NODE) as u16, (number % PODS_A_NODE) as u8 + 1);
    let [high, low] = node.to_be_bytes();
    [[10, high, low, host].into(), [0xfd00, 0x10, 0, node, 0, 0, 0, u16::from(host)].into()]
}

fn pod_key(number: usize, services: usize) -> Result<ObjectKey> {
    let application = number % services;
    Ok(ObjectKey {
        namespace: namespace(application)?,
        name: ObjectName::new(&format!("app-{application}-{number:06}"))?,
    })
}

fn service_key(number: usize) -> Result<ObjectKey> {
    Ok(ObjectKey { namespace: namespace(number)?, name: ObjectName::new(&format!("svc-{number}"))? })
}

fn service(number: usize) -> Result<Fact> {
    let mut service = Service::named(service_key(number)?);
    let [high, low] = word(number + 1)?.to_be_bytes();
    service.cluster_ips = vec![[10, 96, high, low].into()];
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: Port::new(80)?,
        target: TargetPort::Number(Port::new(8080)?),
        node_port: None,
    }];
    if !number.is_multiple_of(WRITTEN) {
        let labels: Labels = [("app", format!("app-{number}"))].into_iter().collect();
        service.selector = Some(labels);
        // Every other one has a name for each of its pods.
        service.headless = number.is_multiple_of(2);
        if service.headless {
            service.cluster_ips.clear();
        }
    }
    Ok(Fact::Service(service))
}

/// The id of a pod's interface on the node that is looked at.
pub fn attachment_id(number: usize) -> Result<AttachmentId> {
    Ok(AttachmentId { container: format!("container{number:02}").into(), ifname: IfName::new("eth0")? })
}

fn attachment(number: usize) -> Result<Fact> {
    let id = attachment_id(number)?;
    let key = ObjectKey::new("team-0", &format!("local-{number}"))?;
    Ok(Fact::Attachment(Attachment {
        network: NetworkName::ordinary(),
        pod: Some(PodIdentity { key, uid: None }),
        addresses: pod_ips(number).to_vec(),
        mac: Mac::derived(&id.container),
        mtu: None,
        host_ports: Vec::new(),
        // Any path: the descriptor that was handed over is used.
        netns: format!("/run/netns/local-{number}"),
        id,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_things_share_a_name_or_an_address() {
        let cluster = Cluster { nodes: 300 };
        let (mut keys, mut addresses, mut facts) = (HashSet::new(), HashSet::new(), 0);
        for fact in cluster.facts() {
            let fact = fact.expect("a valid fact");
            facts += 1;
            assert!(keys.insert(fact.key()), "{}", fact.key());
            let own = match &fact {
                Fact::Node(node) => node.addresses.iter().map(|a| a.ip).collect(),
                Fact::Pod(pod) => pod.ips.to_vec(),
                Fact::Service(service) => service.cluster_ips.clone(),
                _ => Vec::new(),
            };
            for address in own {
                assert!(addresses.insert(address), "{address} of {}", fact.key());
            }
        }
        assert_eq!(facts, 1 + NAMESPACES + 300 + 9000 + 60 + 6 + PODS_A_NODE);
    }

    #[test]
    fn the_second_state_differs() {
        let (cluster, names) = (Cluster { nodes: 100 }, &mut Interner::default());
        for (first, second) in [
            (node(7, State::First), node(7, State::Second)),
            (cluster.pod(7, State::First, names), cluster.pod(7, State::Second, names)),
            (cluster.slice(1, State::First), cluster.slice(1, State::Second)),
        ] {
            let (first, second) = (first.expect("a fact"), second.expect("a fact"));
            assert_eq!(first.key(), second.key());
            assert_ne!(first, second);
        }
    }
}
