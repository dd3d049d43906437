//! Services, with the defaults that the API server would fill in.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{
    Cidr, Family, IngressMode, LoadBalancerAddress, Port, Service, ServiceKind, ServicePort, TargetPort,
    TrafficDistribution, TrafficPolicy,
};

use super::decode::{ip, key_of, protocol};
use super::raw::{NumberOrName, Object, ServiceSpec, ServiceStatus};
use super::{Interner, ObjectError};

/// How long a service's name may be, as a label of DNS (RFC 1035) and for API servers.
const LONGEST_NAME: usize = 63;
/// Seconds for which `sessionAffinity: ClientIP` holds where nothing is said (Kubernetes API reference).
const AFFINITY_SECONDS: u32 = 10_800;

pub(super) fn service(
    raw: &Object<ServiceSpec, ServiceStatus>,
    names: &mut Interner,
) -> Result<Service, ObjectError> {
    let spec = &raw.spec;
    let mut service = Service::named(key_of(&raw.metadata, names)?);
    if service.key.name.as_str().len() > LONGEST_NAME {
        let reason = format!("a service's name has at most {LONGEST_NAME} characters; give it a shorter one");
        return Err(ObjectError::at("metadata.name", reason));
    }
    service.labels = names.labels(&*raw.metadata.labels);
    service.kind = match spec.r#type.as_str() {
        "" | "ClusterIP" => ServiceKind::ClusterIp,
        "NodePort" => ServiceKind::NodePort,
        "LoadBalancer" => ServiceKind::LoadBalancer,
        "ExternalName" => ServiceKind::ExternalName(spec.external_name.trim_end_matches('.').into()),
        other => {
            let reason =
                format!("{other:?} is unknown; use ClusterIP, NodePort, LoadBalancer or ExternalName");
            return Err(ObjectError::at("spec.type", reason));
        }
    };
    if matches!(&service.kind, ServiceKind::ExternalName(name) if name.is_empty()) {
        return Err(ObjectError::at(
            "spec.externalName",
            "it is empty; give the name that the service stands for",
        ));
    }
    let is_alias = matches!(service.kind, ServiceKind::ExternalName(_));
    service.headless = spec.cluster_ip == "None" || spec.cluster_ips.first().is_some_and(|ip| ip == "None");
    if !service.headless && !is_alias {
        service.cluster_ips = cluster_ips(spec)?;
    }
    service.families = families(spec, &service)?;
    service.ports = ports(spec, names)?;
    if !spec.selector.is_empty() && !is_alias {
        service.selector = Some(names.labels(&*spec.selector));
    }
    service.external_ips = parsed("spec.externalIPs", &spec.external_ips, ip)?;
    service.source_ranges =
        parsed("spec.loadBalancerSourceRanges", &spec.load_balancer_source_ranges, sources)?;
    service.load_balancer = load_balancer(&raw.status)?;
    service.affinity_seconds = affinity(spec)?;
    service.internal_policy = policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy)?;
    service.external_policy = policy("spec.externalTrafficPolicy", &spec.external_traffic_policy)?;
    service.health_check_node_port = optional_port("spec.healthCheckNodePort", spec.health_check_node_port)?;
    service.publish_not_ready = spec.publish_not_ready_addresses;
    // Values that this version doesn't know are hints that it can't follow, and no errors.
    service.distribution = match spec.traffic_distribution.as_str() {
        "PreferClose" | "PreferSameZone" => Some(TrafficDistribution::SameZone),
        "PreferSameNode" => Some(TrafficDistribution::SameNode),
        _ => None,
    };
    Ok(service)
}

/// A block of sources as API servers take it: with spaces around it, zeros before numbers, and bits below the prefix, which
/// mean nothing. IPv4 inside IPv6 is IPv4; a block of it that reaches beyond is nobody's, so that the entry lets nobody in and the
/// service stays closed.
fn sources(text: &str) -> Result<Cidr, String> {
    let text = text.trim();
    let block = text.split_once('/').and_then(|(address, prefix)| {
        let address = address.parse().ok().or_else(|| ip(address).ok())?;
        let prefix = prefix.parse().ok().filter(|prefix| IpNet::new(address, *prefix).is_ok())?;
        let (address, prefix) = match address.to_canonical() {
            inner if inner == address => (address, prefix),
            inner if prefix >= 96 => (inner, prefix - 96),
            _ => (address, 128),
        };
        Cidr::new(IpNet::new(address, prefix).ok()?.trunc()).ok()
    });
    block.ok_or_else(|| format!("{text:?} is no block of addresses; write it as 10.0.0.0/8 or fd00::/8"))
}

fn parsed<T>(
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ObjectError> {
    let one =
        |(i, text): (usize, &String)| parse(text).map_err(|e| ObjectError::at(format!("{field}[{i}]"), e));
    texts.iter().enumerate().map(one).collect()
}

fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, ObjectError> {
    let ips: Vec<IpAddr> = if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
        vec![ip(&spec.cluster_ip).map_err(|e| ObjectError::at("spec.clusterIP", e))?]
    } else {
        parsed("spec.clusterIPs", &spec.cluster_ips, ip)?
    };
    match ips[..] {
        [a, b] if a.is_ipv4() == b.is_ipv4() => Err(ObjectError::at(
            "spec.clusterIPs",
            format!("{a} and {b} are of one family; give one of each"),
        )),
        [_, _, _, ..] => {
            Err(ObjectError::at("spec.clusterIPs", "there are more than two; give one of each family"))
        }
        _ => Ok(ips),
    }
}

/// `ipFamilies`; otherwise those of the addresses; otherwise what the policy asks for. A headless service that says
/// nothing serves both, since here nobody knows the cluster's own choice.
fn families(spec: &ServiceSpec, service: &Service) -> Result<Vec<Family>, ObjectError> {
    if !spec.ip_families.is_empty() {
        return parsed("spec.ipFamilies", &spec.ip_families, |text| match text {
            "IPv4" => Ok(Family::V4),
            "IPv6" => Ok(Family::V6),
            other => Err(format!("{other:?} is unknown; use IPv4 or IPv6")),
        });
    }
    if !service.cluster_ips.is_empty() {
        return Ok(service.cluster_ips.iter().copied().map(Family::of).collect());
    }
    let is_dual = matches!(spec.ip_family_policy.as_str(), "PreferDualStack" | "RequireDualStack")
        || (service.headless && spec.ip_family_policy.is_empty());
    Ok(if is_dual { Family::ALL.to_vec() } else { vec![Family::V4] })
}

fn ports(spec: &ServiceSpec, names: &mut Interner) -> Result<Vec<ServicePort>, ObjectError> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(spec.ports.len());
    for (i, raw) in spec.ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        let port = Port::new(raw.port).map_err(|e| ObjectError::at(field("port"), e))?;
        let target = match &raw.target_port {
            None => TargetPort::Number(port),
            Some(NumberOrName::Name(name)) if name.is_empty() => TargetPort::Number(port),
            Some(NumberOrName::Name(name)) => TargetPort::Name(names.string(name)),
            // The API server stores 0 where nothing was given.
            Some(NumberOrName::Number(0)) => TargetPort::Number(port),
            Some(NumberOrName::Number(number)) => {
                TargetPort::Number(Port::new(*number).map_err(|e| ObjectError::at(field("targetPort"), e))?)
            }
        };
        let node_port = optional_port(&field("nodePort"), raw.node_port)?;
        let protocol = protocol(&raw.protocol).map_err(|e| ObjectError::at(field("protocol"), e))?;
        if ports.iter().any(|p| *p.name == *raw.name) {
            let reason = match raw.name.as_str() {
                "" => "it has no name; every port of a service with several needs one".to_owned(),
                name => format!("{name:?} is another port's name already"),
            };
            return Err(ObjectError::at(field("name"), reason));
        }
        let same = |p: &&ServicePort| p.protocol == protocol;
        if ports.iter().filter(same).any(|p| p.port == port) {
            let reason = format!("{port}/{protocol} is another port's already; give each its own");
            return Err(ObjectError::at(field("port"), reason));
        }
        if let Some(number) =
            node_port.filter(|_| ports.iter().filter(same).any(|p| p.node_port == node_port))
        {
            let reason =
                format!("{number}/{protocol} is another port's node port already; give each its own");
            return Err(ObjectError::at(field("nodePort"), reason));
        }
        ports.push(ServicePort { name: names.string(&raw.name), protocol, port, target, node_port });
    }
    Ok(ports)
}

fn optional_port(field: &str, number: u32) -> Result<Option<Port>, ObjectError> {
    match number {
        0 => Ok(None),
        number => Port::new(number).map(Some).map_err(|e| ObjectError::at(field, e)),
    }
}

fn load_balancer(status: &ServiceStatus) -> Result<Vec<LoadBalancerAddress>, ObjectError> {
    let named = status.load_balancer.ingress.iter().enumerate().filter(|(_, i)| !i.ip.is_empty());
    named
        .map(|(i, ingress)| {
            let ip = ip(&ingress.ip)
                .map_err(|e| ObjectError::at(format!("status.loadBalancer.ingress[{i}].ip"), e))?;
            let mode = if ingress.ip_mode == "Proxy" { IngressMode::Proxy } else { IngressMode::Vip };
            Ok(LoadBalancerAddress { ip, mode })
        })
        .collect()
}

fn affinity(spec: &ServiceSpec) -> Result<Option<u32>, ObjectError> {
    match spec.session_affinity.as_str() {
        "" | "None" => Ok(None),
        "ClientIP" => {
            let seconds = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(AFFINITY_SECONDS);
            if (1..=86_400).contains(&seconds) {
                return Ok(Some(seconds));
            }
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            Err(ObjectError::at(field, format!("{seconds} is out of range; it must be 1 to 86400")))
        }
        other => Err(ObjectError::at(
            "spec.sessionAffinity",
            format!("{other:?} is unknown; use None or ClientIP"),
        )),
    }
}

fn policy(field: &str, text: &str) -> Result<TrafficPolicy, ObjectError> {
    match text {
        "" | "Cluster" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        other => Err(ObjectError::at(field, format!("{other:?} is unknown; use Cluster or Local"))),
    }
}
