//! At which addresses and ports a service is found, and whose packets may use which endpoints there.

use std::net::IpAddr;

use weft_model::net::is_special;
use weft_model::{Cidr, Family, ObjectKey, Port, Protocol, Service, ServicePort, TrafficPolicy};
use weft_plan::Atom;

use crate::engine::Context;
use crate::services::cluster_addresses::{remarks, taken};
use crate::services::published::{Place, outside_addresses};
use crate::services::sources::SourceList;
use crate::services::{holder, is_ours, node_port_addresses, out_of_range};
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
    /// The mark of the list of those who may use it; nothing where everybody may.
    pub sources: Option<u32>,
}

impl Frontend {
    /// How packets to it are found in maps.
    pub fn key(&self) -> [Atom; 3] {
        let Self { address, protocol, port, .. } = self;
        [Atom::from(*address), Atom::Proto(protocol.number()), Atom::Port(port.get())]
    }
}

/// The cluster addresses of a family that lead to the service.
pub fn cluster_addresses<'a>(
    service: &'a Service,
    family: Family,
    context: &Context<'a>,
) -> impl Iterator<Item = IpAddr> + use<'a> {
    let context = *context;
    let leads = move |ip: &IpAddr| Family::of(*ip) == family && taken(*ip, &context).is_none();
    service.cluster_ips.iter().copied().filter(leads)
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
        sources: None,
    };
    // What is inside may use all endpoints whatever the policy for outside says: it would have come by any node.
    let external = |address, number| at(address, number, TrafficPolicy::Cluster, service.external_policy);
    let protocol = port.protocol;
    let has = |place| holder(place, settings, context).is_none_or(|holder| *holder == service.key);
    let reached = |ip: IpAddr, number| has(Place { address: Some(ip), protocol, port: number });
    let cluster = cluster_addresses(service, family, context).filter(|ip| reached(*ip, port.port));
    let mut found: Vec<Frontend> =
        cluster.map(|ip| at(ip, port.port, service.internal_policy, service.internal_policy)).collect();
    let outside = outside_addresses(service).filter(of_family).filter(|ip| reached(*ip, port.port));
    let others = others_block(service, context);
    let free = |ip: &IpAddr| {
        others(*ip).is_none()
            && node_port_at(*ip, service, port, settings, context).is_none()
            && own_server_at(*ip, port, context).is_none()
    };
    let list = SourceList::of(service, family).map(|list| context.facts.sources().mark(&list));
    found.extend(outside.filter(free).map(|ip| Frontend {
        sources: list.filter(|_| is_balancers(service, ip)),
        ..external(ip, port.port)
    }));
    if let Some(number) = port.node_port
        && has(Place::of_node(protocol, number))
        && own_server(protocol, number, context).is_none()
        && out_of_range(number, settings).is_none()
    {
        let own = node_port_addresses(settings, context).filter(of_family);
        found.extend(own.map(|ip| external(ip, number)));
    }
    found.retain(|frontend| !is_special(frontend.address));
    found.sort_by_key(|frontend| (frontend.address, frontend.port, frontend.inside, frontend.outside));
    found.dedup_by_key(|frontend| (frontend.address, frontend.port));
    found
}

/// Whose node port one of the node's own addresses and a service's port make up, where it isn't the port's own: who asks for
/// any address gets what is nobody's, and a node port is given by the API server.
fn node_port_at<'a>(
    ip: IpAddr,
    service: &Service,
    port: &ServicePort,
    settings: &'a ServiceSettings,
    context: &Context<'a>,
) -> Option<&'a ObjectKey> {
    let is_served = out_of_range(port.port, settings).is_none();
    if !is_served || !node_port_addresses(settings, context).any(|own| own == ip) {
        return None;
    }
    let place = Place::of_node(port.protocol, port.port);
    let has = |key: &&ObjectKey| {
        let found = context.facts.service(key).filter(|found| found.families.contains(&Family::of(ip)));
        found.is_some_and(|found| is_ours(found, settings) && **key != service.key)
    };
    let others = context.facts.published().wanting(place).find(has);
    let own = |other: &&ServicePort| {
        other.protocol == port.protocol && other.node_port == Some(port.port) && other.port != port.port
    };
    others.or_else(|| {
        let mut all = context.facts.published().wanting(place);
        all.find(|key| **key == service.key).filter(|_| service.ports.iter().any(|other| own(&other)))
    })
}

/// Who of this node's own takes packets at a port of the node's addresses, in words: services that had it would get what
/// peers and load balancers send to the node itself.
fn own_server(protocol: Protocol, port: Port, context: &Context<'_>) -> Option<String> {
    if context.settings.open_ports.contains(&(protocol, port)) {
        return Some("the node's own agent".to_owned());
    }
    let network = context.tunnel_at(protocol, port)?;
    Some(format!("the tunnel of network {}", network.name))
}

/// True for ports by which machines are looked after, SSH's above all. What services are mostly published for is not one of them.
fn may_be_a_servers(port: Port) -> bool {
    const FIRST_UNPRIVILEGED: u16 = 1024;
    port.get() < FIRST_UNPRIVILEGED && ![80, 443].contains(&port.get())
}

/// [`own_server`], of a service's port at an address that may be the node's.
fn own_server_at(ip: IpAddr, port: &ServicePort, context: &Context<'_>) -> Option<String> {
    let is_own = context.facts.host().addresses().any(|own| own == ip);
    is_own.then(|| own_server(port.protocol, port.port, context)).flatten()
}

/// The block of services that an address lies in, where it isn't the service's own cluster address: somebody else's, or
/// nobody's yet.
fn others_block(service: &Service, context: &Context<'_>) -> impl Fn(IpAddr) -> Option<Cidr> {
    let blocks =
        if outside_addresses(service).next().is_some() { context.service_cidrs() } else { Vec::new() };
    move |ip| {
        let block = blocks.iter().find(|block| block.contains(ip)).copied();
        block.filter(|_| !service.cluster_ips.contains(&ip))
    }
}

fn is_balancers(service: &Service, address: IpAddr) -> bool {
    service.load_balancer.iter().any(|balancer| balancer.ip == address)
}

/// What a service asks for and doesn't get, in words for its warnings.
pub fn refused(service: &Service, settings: &ServiceSettings, context: &Context<'_>) -> Vec<String> {
    let others = others_block(service, context);
    let mut texts: Vec<String> = outside_addresses(service)
        .filter_map(|ip| others(ip).map(|block| (ip, block)))
        .map(|(ip, block)| {
            format!("its address {ip} is in {block}, a block of services' own addresses: nobody is led there")
        })
        .collect();
    for (ip, port) in
        outside_addresses(service).flat_map(|ip| service.ports.iter().map(move |port| (ip, port)))
    {
        if let Some(holder) = node_port_at(ip, service, port, settings, context) {
            let (number, protocol) = (port.port, port.protocol);
            texts.push(format!(
                "its address {ip} is this node's own, where port {number}/{protocol} is the node port of service {holder}: it is \
                 left out there"
            ));
        }
    }
    texts.extend(remarks(service, context));
    texts.extend(refused_for_own(service, settings, context));
    for place in Place::all_of(service) {
        let Some(holder) = holder(place, settings, context).filter(|holder| **holder != service.key) else {
            continue;
        };
        let Place { address, protocol, port } = place;
        // A health port is the matter of those who answer there.
        let is_node_port = |own: &ServicePort| own.protocol == protocol && own.node_port == Some(port);
        let is_asked = match address {
            Some(ip) => {
                let by_right =
                    outside_addresses(service).any(|own| own == ip) || taken(ip, context).is_none();
                by_right && others(ip).is_none()
            }
            None => service.ports.iter().any(is_node_port) && out_of_range(port, settings).is_none(),
        };
        if !is_asked {
            continue;
        }
        let name = address.map_or_else(|| "node port".to_owned(), |ip| format!("{ip} port"));
        texts.push(format!(
            "{name} {port}/{protocol} is given to service {holder} already; it is left out until that goes"
        ));
    }
    texts.sort();
    texts.dedup();
    texts
}

/// What a service doesn't get because the node itself has it, or may have; and what the node no longer gets.
fn refused_for_own(service: &Service, settings: &ServiceSettings, context: &Context<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = port.protocol;
        if let Some(number) = port.node_port
            && let Some(why) = out_of_range(number, settings)
        {
            texts.push(format!("spec.ports[{index}].nodePort: {number} {why}"));
        } else if let Some(number) = port.node_port
            && let Some(server) = own_server(protocol, number, context)
        {
            texts.push(format!(
                "its node port {number}/{protocol} is where {server} is asked: it is left out; give the service another"
            ));
        }
        for ip in outside_addresses(service) {
            if let Some(server) = own_server_at(ip, port, context) {
                let number = port.port;
                texts.push(format!(
                    "its address {ip} is this node's own, where {server} is asked at port {number}/{protocol}: it is left out there"
                ));
            } else if may_be_a_servers(port.port) && context.facts.host().addresses().any(|own| own == ip) {
                let number = port.port;
                texts.push(format!(
                    "its address {ip} is this node's own: a server of the node's at port {number}/{protocol} there is reached by nobody \
                     now, the service is; give the service another address or port if that is not meant"
                ));
            }
        }
    }
    texts
}
