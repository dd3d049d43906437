//! At which addresses and ports a service is found, and whose packets may use which endpoints there.

use std::net::IpAddr;

use weft_model::{Family, IngressMode, Port, Protocol, Service, ServiceKind, ServicePort, TrafficPolicy};

use crate::engine::Context;
use crate::settings::ServiceSettings;

/// Names another proxy that serves it (`service.kubernetes.io/service-proxy-name`).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Nobody serves it.
const HEADLESS: &str = "service.kubernetes.io/headless";

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

/// True where this proxy is the one that serves it.
pub fn is_ours(service: &Service, settings: &ServiceSettings) -> bool {
    !service.headless
        && !matches!(service.kind, ServiceKind::ExternalName(_))
        && service.labels.get(HEADLESS).is_none()
        && service.labels.get(PROXY_NAME) == settings.proxy_name.as_deref()
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
        let own = node_addresses(settings, context).into_iter().filter(of_family);
        found.extend(own.map(|ip| external(ip, number)));
    }
    found.sort_by_key(|frontend| (frontend.address, frontend.port, frontend.inside, frontend.outside));
    found.dedup_by_key(|frontend| (frontend.address, frontend.port));
    found
}

/// This machine's addresses at which node ports are served: all, or those in the configured blocks.
fn node_addresses(settings: &ServiceSettings, context: &Context<'_>) -> Vec<IpAddr> {
    let host = context.facts.host();
    let links = host.links.iter().flat_map(|link| &link.addresses).map(ipnet::IpNet::addr);
    let blocks = &settings.node_port_addresses;
    let chosen = |address: &IpAddr| blocks.is_empty() || blocks.iter().any(|block| block.contains(*address));
    links.chain(host.loopback.iter().copied()).filter(chosen).collect()
}
