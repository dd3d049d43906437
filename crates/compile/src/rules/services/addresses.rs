//! At which addresses and ports a service is found, and whose packets may use which endpoints there.

use std::net::IpAddr;

use weft_model::net::is_special;
use weft_model::{Family, IngressMode, Port, Protocol, Service, ServicePort, TrafficPolicy};
use weft_plan::Atom;

use crate::engine::Context;
use crate::services::node_port_addresses;
use crate::settings::ServiceSettings;

/// One way to a service's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frontend {
    /// The address that clients use.
    pub address: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port that they use.
    pub port: Port,
    /// Endpoints for packets from the cluster's pods and this node.
    pub inside: TrafficPolicy,
    /// Endpoints for everybody else's.
    pub outside: TrafficPolicy,
    /// Only some sources may use it.
    pub restricted: bool,
}

impl Frontend {
    /// How packets to it are found in maps.
    pub fn key(&self) -> [Atom; 3] {
        let Self { address, protocol, port, .. } = self;
        [Atom::from(*address), Atom::Proto(protocol.number()), Atom::Port(port.get())]
    }
}

/// Every way to one port in one family.
pub fn frontends(
    service: &Service,
    port: &ServicePort,
    family: Family,
    settings: &ServiceSettings,
    context: &Context<'_>,
) -> Vec<Frontend> {
    let of_family = |address: &IpAddr| Family::of(*address) == family;
    let at = |address, number, inside, outside| Frontend {
        address,
        protocol: port.protocol,
        port: number,
        inside,
        outside,
        restricted: false,
    };
    // What is inside may use all endpoints whatever the policy for outside says: it would have come by any node.
    let external = |address, number| at(address, number, TrafficPolicy::Cluster, service.external_policy);
    let cluster = service.cluster_ips.iter().copied().filter(of_family);
    let mut found: Vec<Frontend> =
        cluster.map(|ip| at(ip, port.port, service.internal_policy, service.internal_policy)).collect();
    found.extend(service.external_ips.iter().copied().filter(of_family).map(|ip| external(ip, port.port)));
    let balancer = service.load_balancer.iter().filter(|a| a.mode == IngressMode::Vip).map(|a| a.ip);
    found.extend(
        balancer
            .filter(of_family)
            .map(|ip| Frontend { restricted: !service.source_ranges.is_empty(), ..external(ip, port.port) }),
    );
    if let Some(number) = port.node_port {
        let own = node_port_addresses(settings, context).filter(of_family);
        found.extend(own.map(|ip| external(ip, number)));
    }
    found.retain(|frontend| !is_special(frontend.address));
    found.sort_by_key(|frontend| (frontend.address, frontend.port, frontend.inside, frontend.outside));
    found.dedup_by_key(|frontend| (frontend.address, frontend.port));
    found
}
