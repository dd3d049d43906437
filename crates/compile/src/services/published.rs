//! Which services want one place that is reached from outside: an external or balancer's address with a port, or a node port.
//!
//! An API server gives a cluster address to one service and a node port too, but anybody may write any external address into
//! a service. What always holds: a place is one service's, the first by name that is this proxy's, with all that it says of
//! it: policies, source ranges, affinity. Cluster addresses aren't here: [`crate::rules::services`] keeps everybody else out of
//! their blocks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{IngressMode, ObjectKey, Port, Protocol, Service};

/// Something that one service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// An address; without one, each of the node's own: a node port.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: Port,
}

impl Place {
    /// All that a service wants.
    pub fn all_of(service: &Service) -> impl Iterator<Item = Place> + '_ {
        service.ports.iter().flat_map(move |port| {
            let at = |address, number| Place { address, protocol: port.protocol, port: number };
            let addresses = outside_addresses(service).map(move |ip| at(Some(ip), port.port));
            addresses.chain(port.node_port.map(|number| at(None, number)))
        })
    }
}

/// A service's external addresses and those of its balancer that packets still have when they come to a node.
pub fn outside_addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let balancer = service.load_balancer.iter().filter(|a| a.mode == IngressMode::Vip).map(|a| a.ip);
    service.external_ips.iter().copied().chain(balancer)
}

/// Who wants what.
#[derive(Debug, Clone, Default)]
pub struct PublishedIndex {
    by_place: FxHashMap<Place, BTreeSet<ObjectKey>>,
}

impl PublishedIndex {
    /// Takes in a service.
    pub fn insert(&mut self, service: &Service) {
        for place in Place::all_of(service) {
            self.by_place.entry(place).or_default().insert(service.key.clone());
        }
    }

    /// Leaves one out again, as it was taken in.
    pub fn remove(&mut self, service: &Service) {
        for place in Place::all_of(service) {
            if let Some(keys) = self.by_place.get_mut(&place) {
                keys.remove(&service.key);
                if keys.is_empty() {
                    self.by_place.remove(&place);
                }
            }
        }
    }

    /// The services that want a place, by name.
    pub fn wanting(&self, place: Place) -> impl Iterator<Item = &ObjectKey> {
        self.by_place.get(&place).into_iter().flatten()
    }
}
