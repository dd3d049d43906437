//! Which services want one place: a cluster, external or balancer's address with a port, or a port of the node's own, be it a
//! node port or the one where load balancers ask after the service.
//!
//! An API server gives a cluster address to one service and a node port too, a folder of manifests doesn't, and anybody may
//! write any external address into a service. What always holds: a place is one service's, with all that it says of it: policies,
//! source ranges, affinity. It is the first by name of this proxy's, of those whose cluster address it is and may be
//! ([`super::cluster_addresses`]); else of all. At
//! a node's own address a node port comes before whoever has that address as an external one ([`crate::rules::services`]).

use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{IngressMode, ObjectKey, Port, Protocol, Service, ServiceKind, TrafficPolicy};

/// Something that one service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// An address; without one, each of the node's own: a node or health port.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: Port,
}

impl Place {
    /// A port at each of the node's own addresses.
    pub fn of_node(protocol: Protocol, port: Port) -> Self {
        Self { address: None, protocol, port }
    }

    /// All that a service wants.
    pub fn all_of(service: &Service) -> impl Iterator<Item = Place> + '_ {
        claims(service).map(|(_, place)| place)
    }
}

/// By which right a service wants a place; the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    /// It is its cluster address.
    Cluster,
    /// It says so.
    Outside,
}

fn claims(service: &Service) -> impl Iterator<Item = (Right, Place)> + '_ {
    let of_ports = service.ports.iter().flat_map(move |port| {
        let at = |address, number| Place { address, protocol: port.protocol, port: number };
        let cluster = service.cluster_ips.iter().map(move |ip| (Right::Cluster, at(Some(*ip), port.port)));
        let outside = outside_addresses(service).map(move |ip| (Right::Outside, at(Some(ip), port.port)));
        let node_port = port.node_port.map(|number| (Right::Outside, at(None, number)));
        cluster.chain(outside).chain(node_port)
    });
    let health = health_port(service).map(|port| (Right::Outside, Place::of_node(Protocol::Tcp, port)));
    of_ports.chain(health)
}

/// The port at which load balancers ask after a service, if they do: for others than these every node is as good.
pub fn health_port(service: &Service) -> Option<Port> {
    let asked = service.kind == ServiceKind::LoadBalancer && service.external_policy == TrafficPolicy::Local;
    service.health_check_node_port.filter(|_| asked)
}

/// A service's external addresses and those of its balancer that packets still have when they come to a node.
pub fn outside_addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let balancer = service.load_balancer.iter().filter(|a| a.mode == IngressMode::Vip).map(|a| a.ip);
    service.external_ips.iter().copied().chain(balancer)
}

/// Who wants what.
#[derive(Debug, Clone, Default)]
pub struct PublishedIndex {
    /// Sorted; nearly always one.
    by_place: FxHashMap<Place, Vec<(Right, ObjectKey)>>,
}

impl PublishedIndex {
    /// Takes in a service.
    pub fn insert(&mut self, service: &Service) {
        for (right, place) in claims(service) {
            let wanting = self.by_place.entry(place).or_insert_with(|| Vec::with_capacity(1));
            let claim = (right, service.key.clone());
            if let Err(at) = wanting.binary_search(&claim) {
                wanting.insert(at, claim);
            }
        }
    }

    /// Leaves one out again, as it was taken in.
    pub fn remove(&mut self, service: &Service) {
        for place in Place::all_of(service) {
            if let Some(wanting) = self.by_place.get_mut(&place) {
                wanting.retain(|(_, key)| *key != service.key);
                if wanting.is_empty() {
                    self.by_place.remove(&place);
                }
            }
        }
    }

    /// True where a service has the place's address as its cluster address.
    pub fn is_virtual(&self, place: Place) -> bool {
        let first = self.by_place.get(&place).and_then(|wanting| wanting.first());
        first.is_some_and(|(right, _)| *right == Right::Cluster)
    }

    /// [`PublishedIndex::wanting`], without those whose cluster address it is.
    pub fn wanting_outside(&self, place: Place) -> impl Iterator<Item = &ObjectKey> {
        let all = self.by_place.get(&place).into_iter().flatten();
        all.filter(|(right, _)| *right == Right::Outside).map(|(_, key)| key)
    }

    /// The services that want a place, in the order in which they get it.
    pub fn wanting(&self, place: Place) -> impl Iterator<Item = &ObjectKey> {
        self.by_place.get(&place).into_iter().flatten().map(|(_, key)| key)
    }
}
