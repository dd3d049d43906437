//! A generated cluster in facts, compiled; packets of its clients; and ends of packets in the model's words.

use std::net::IpAddr;

use weft_model::{
    Attachment, AttachmentId, ContainerPort, Endpoint, EndpointPort, EndpointSlice, Fact, Family, Host,
    Labels, LoadBalancerAddress, Mac, Network, NetworkName, ObjectKey, Pod, Port, Service, ServiceKind,
    ServicePort, SliceSource, TargetPort,
};
use weft_plan::Plan;

use super::super::cluster_services::{address, host, name, node};
use super::super::rows::{from_node, from_outside, from_pod, ip, link};
use super::model::{Backend, Client, Door, End, Offer, Ranges, Seen, Source, Spot, State};
use super::{NODES, PODS, spots};
use crate::oracle::{Conversation, NodeView, Outcome, Packet, Start, World};
use crate::{Settings, compile};

/// The plans of all nodes.
pub struct Compiled {
    plans: Vec<Plan>,
    hosts: Vec<Host>,
}

impl Compiled {
    pub fn of(offers: &[Offer]) -> Self {
        let network = Network {
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            ..Network::ordinary()
        };
        let mut facts = vec![Fact::Network(network)];
        facts.extend((0..NODES).map(|at| Fact::Node(node(at))));
        for offer in offers {
            facts.push(Fact::Service(service(offer)));
            match offer.source {
                Source::Slices => facts.extend(slices(offer).into_iter().map(Fact::EndpointSlice)),
                Source::Selector { .. } => {
                    facts.extend(offer.backends.iter().map(|b| Fact::Pod(pod(offer, b))));
                }
            }
        }
        let plan = |at: usize| {
            let own = (0..PODS).map(|pod| attachment(Spot { node: at, pod: Some(pod) }));
            let own = [Fact::Host(host(at))].into_iter().chain(own);
            let plan = compile(Settings::new(name(at)), own.chain(facts.clone()));
            assert_eq!(plan.check(), Vec::<String>::new());
            plan
        };
        Self { plans: (0..NODES).map(plan).collect(), hosts: (0..NODES).map(host).collect() }
    }

    pub fn world(&self) -> World<'_> {
        let nodes = self.plans.iter().zip(&self.hosts).enumerate();
        World::new(nodes.map(|(at, (plan, host))| NodeView { name: name(at), plan, host }))
    }
}

fn pod_name(spot: Spot) -> String {
    format!("p{}-{}", spot.node, spot.pod.unwrap_or(9))
}

fn address_of(spot: Spot, family: Family) -> IpAddr {
    let Spot { node, pod } = spot;
    match (pod, family) {
        (None, _) => address(node, family),
        (Some(pod), Family::V4) => ip(&format!("10.244.{node}.{}", pod + 2)),
        (Some(pod), Family::V6) => ip(&format!("fd00:244:0:{node}::{}", pod + 2)),
    }
}

fn attachment(spot: Spot) -> Fact {
    let name = pod_name(spot);
    Fact::Attachment(Attachment {
        id: AttachmentId { container: name.as_str().into(), ifname: link("eth0") },
        network: NetworkName::ordinary(),
        pod: None,
        addresses: Family::ALL.map(|family| address_of(spot, family)).to_vec(),
        mac: Mac::derived(&name),
        mtu: None,
        host_ports: Vec::new(),
        netns: String::new(),
    })
}

/// The address of a door, and the port behind which the service's first port is.
fn door(offer: &Offer, door: Door, family: Family) -> (IpAddr, u16) {
    let number = offer.number + 10;
    let pick = |v4: String, v6: String| ip(if family == Family::V4 { &v4 } else { &v6 });
    match door {
        Door::Cluster => (pick(format!("10.96.0.{number}"), format!("fd00:96::{number}")), 80),
        Door::Closed => (pick(format!("10.96.0.{number}"), format!("fd00:96::{number}")), 180),
        Door::External => (pick(format!("198.51.100.{number}"), format!("2001:db8:e::{number}")), 80),
        Door::Balancer => (pick(format!("198.51.100.1{number}"), format!("2001:db8:e::1{number}")), 80),
        Door::NodePort(node) => (address(node, family), 30000 + 100 * offer.number as u16),
    }
}

/// The two slices' ports for the service's port with this index.
fn target(slice: usize, port: usize) -> Port {
    Port::new([8080, 9090][slice] + port as u32).unwrap()
}

fn service(offer: &Offer) -> Service {
    let mut service = Service::named(ObjectKey::new("default", &format!("s{}", offer.number)).unwrap());
    let at = |way: Door| offer.families.iter().map(move |family| door(offer, way, *family).0);
    service.families = offer.families.clone();
    service.cluster_ips = at(Door::Cluster).collect();
    service.ports = (offer.ports.iter().enumerate())
        .map(|(index, protocol)| {
            let node_port = door(offer, Door::NodePort(0), Family::V4).1 as u32 + index as u32;
            ServicePort {
                name: format!("port-{index}").into(),
                protocol: *protocol,
                port: Port::new(80 + index as u32).unwrap(),
                target: TargetPort::Name(format!("target-{index}").into()),
                node_port: offer.node_port.then(|| Port::new(node_port).unwrap()),
            }
        })
        .collect();
    service.kind = ServiceKind::LoadBalancer;
    if offer.external {
        service.external_ips = at(Door::External).collect();
    }
    if let Some(mode) = offer.balancer {
        service.load_balancer = at(Door::Balancer).map(|ip| LoadBalancerAddress { ip, mode }).collect();
    }
    let ranges: &[&str] = match offer.ranges {
        None => &[],
        Some(Ranges::Outside) => &["192.0.2.77/32", "203.0.113.0/24", "2001:db8:ffff::/64"],
        Some(Ranges::Pods) => &["10.244.0.0/16", "fd00:244::/49", "fd00:244:0:8000::/49"],
    };
    service.source_ranges = ranges.iter().map(|block| block.parse().unwrap()).collect();
    service.internal_policy = offer.internal_policy;
    service.external_policy = offer.external_policy;
    service.affinity_seconds = offer.affinity.then_some(10_800);
    if !offer.is_ours {
        service.labels = [("service.kubernetes.io/service-proxy-name", "other")].into_iter().collect();
    }
    if let Source::Selector { publish_not_ready, distribution } = offer.source {
        service.selector = Some(labels(offer));
        service.publish_not_ready = publish_not_ready;
        service.distribution = distribution;
    }
    service
}

fn labels(offer: &Offer) -> Labels {
    [("app".to_owned(), format!("s{}", offer.number))].into_iter().collect()
}

fn slices(offer: &Offer) -> Vec<EndpointSlice> {
    let slice = |family: Family, number: usize| EndpointSlice {
        key: ObjectKey::new("default", &format!("s{}-{family:?}-{number}", offer.number).to_lowercase())
            .unwrap(),
        service: Some(service(offer).key.name),
        source: SliceSource::EndpointSlice,
        family,
        ports: (offer.ports.iter().enumerate())
            .map(|(index, protocol)| EndpointPort {
                name: format!("port-{index}").into(),
                protocol: *protocol,
                port: Some(target(number, index)),
            })
            .collect(),
        endpoints: offer.backends.iter().filter(|b| b.slice == number).map(|b| endpoint(b, family)).collect(),
    };
    offer.families.iter().flat_map(|family| [slice(*family, 0), slice(*family, 1)]).collect()
}

fn endpoint(backend: &Backend, family: Family) -> Endpoint {
    Endpoint {
        addresses: vec![address_of(backend.spot, family)],
        ready: backend.state == State::Ready,
        serving: matches!(backend.state, State::Ready | State::Draining),
        terminating: matches!(backend.state, State::Draining | State::Dying),
        hostname: None,
        node: Some(name(backend.spot.node)),
        zone: None,
        hint_zones: backend.zones.iter().map(|zone| zone.to_string().into()).collect(),
        hint_nodes: backend.nodes.iter().map(|node| name(*node)).collect(),
        pod: None,
    }
}

fn pod(offer: &Offer, backend: &Backend) -> Pod {
    let Backend { spot, state, slice, .. } = *backend;
    let key = ObjectKey::new("default", &format!("s{}-{}", offer.number, pod_name(spot))).unwrap();
    let mut pod = Pod::named(key);
    pod.node = Some(name(spot.node));
    pod.labels = labels(offer);
    pod.host_network = spot.pod.is_none();
    if !pod.host_network {
        pod.ips = Family::ALL.map(|family| address_of(spot, family)).into();
    }
    pod.ready = matches!(state, State::Ready | State::Draining);
    pod.terminating = matches!(state, State::Draining | State::Dying);
    pod.named_ports = (offer.ports.iter().enumerate())
        .map(|(index, protocol)| ContainerPort {
            name: format!("target-{index}").into(),
            protocol: *protocol,
            port: target(slice, index),
        })
        .collect();
    pod
}

/// A client's packet to a door; nothing where the service has no such door.
pub fn packet(
    offer: &Offer,
    port: usize,
    client: Client,
    way: Door,
    family: Family,
) -> Option<(Start, Packet)> {
    let exists = match way {
        Door::Cluster | Door::Closed => true,
        Door::External => offer.external,
        Door::Balancer => offer.balancer.is_some(),
        Door::NodePort(_) => offer.node_port,
    };
    exists.then_some(())?;
    let (address, first) = door(offer, way, family);
    let packet = Packet::to(offer.ports[port], address, first + port as u16);
    Some(match client {
        Client::Pod(spot) => {
            let from = address_of(spot, family);
            (from_pod(name(spot.node).as_str(), &pod_name(spot)), packet.from(from))
        }
        Client::Node(node) => (from_node(name(node).as_str()), packet),
        Client::Outside(node) => {
            let from = if family == Family::V4 { "203.0.113.9" } else { "2001:db8:ffff::9" };
            (from_outside(name(node).as_str()), packet.from(ip(from)))
        }
    })
}

/// What the model would call it.
pub fn end(conversation: &Conversation, packet: Packet) -> End {
    match &conversation.forward.outcome {
        Outcome::Delivered { seen, .. }
            if (seen.destination, seen.dport) == (packet.destination, packet.dport) =>
        {
            End::Untouched
        }
        Outcome::Delivered { seen, .. } => {
            assert!(conversation.works(), "{conversation}");
            let at = |address: IpAddr| {
                let hers =
                    |spot: &Spot| Family::ALL.iter().any(|family| address_of(*spot, *family) == address);
                spots().into_iter().find(hers)
            };
            let Some(spot) = at(seen.destination) else { panic!("nobody's: {conversation}") };
            let slice = usize::from(seen.dport >= 9090);
            End::At(spot, slice, at(seen.source).map_or(Seen::Outside, Seen::Spot))
        }
        Outcome::Rejected { .. } => End::Refused,
        Outcome::Dropped { .. } => End::Dropped,
        other => panic!("{other}: {conversation}"),
    }
}
