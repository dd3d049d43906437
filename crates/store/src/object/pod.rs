//! Pods.

use weft_model::{ContainerPort, HostPort, NetworkName, ObjectKey, Pod, PodIps, Port, Protocol};

use super::decode::{ip, key_of, protocol};
use super::error::keyed;
use super::raw::{self, Object, PodSpec, PodStatus};
use super::{Interner, NETWORK_ANNOTATION, ObjectError};

/// The pod, and its Ready condition where it has conditions at all.
pub(super) fn pod(
    raw: &Object<PodSpec, PodStatus>,
    names: &mut Interner,
) -> Result<(Pod, Option<bool>), ObjectError> {
    let key: ObjectKey = key_of(&raw.metadata, names)?;
    let mut pod = Pod::named(key);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    pod.uid = some(&raw.metadata.uid).map(Into::into);
    if !raw.spec.node_name.is_empty() {
        pod.node = Some(names.node(&raw.spec.node_name).map_err(|e| ObjectError::at("spec.nodeName", e))?);
    }
    if let Some(network) = raw.metadata.annotations.get(NETWORK_ANNOTATION) {
        pod.network = NetworkName::new(network)
            .map_err(|e| ObjectError::at(keyed("metadata.annotations", NETWORK_ANNOTATION), e))?;
    }
    pod.labels = names.labels(&*raw.metadata.labels);
    pod.ips = addresses(&raw.status)?;
    pod.host_network = raw.spec.host_network;
    pod.terminating = raw.metadata.deletion_timestamp.is_some();
    pod.finished = matches!(raw.status.phase.as_str(), "Succeeded" | "Failed");
    pod.hostname = some(&raw.spec.hostname).map(|h| names.string(&h));
    pod.subdomain = some(&raw.spec.subdomain).map(|s| names.string(&s));
    pod.named_ports = named_ports(&raw.spec, names)?;
    pod.host_ports = host_ports(&raw.spec)?;
    let ready = raw
        .status
        .conditions
        .as_ref()
        .filter(|conditions| !conditions.is_empty())
        .map(|conditions| conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True"));
    pod.ready = ready.unwrap_or(false);
    Ok((pod, ready))
}

/// `podIPs`, or the older `podIP`; at most one a family.
fn addresses(status: &PodStatus) -> Result<PodIps, ObjectError> {
    let listed = status.pod_ips.iter().enumerate().map(|(i, ip)| (format!("status.podIPs[{i}].ip"), &ip.ip));
    let single = (status.pod_ips.is_empty() && !status.pod_ip.is_empty())
        .then(|| ("status.podIP".to_owned(), &status.pod_ip));
    let mut ips = PodIps::new();
    for (field, text) in listed.chain(single) {
        let ip = ip(text).map_err(|e| ObjectError::at(&field, e))?;
        let is_second = ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4());
        if is_second || ips.try_push(ip).is_err() {
            return Err(ObjectError::at(
                field,
                format!("{ip} is a second address of its family; a pod has one"),
            ));
        }
    }
    Ok(ips)
}

/// A container's port, and where it stands.
type PortAt<'a> = (String, &'a raw::ContainerPort);

/// Ports of containers, and of init containers that stay (`restartPolicy: Always`).
fn ports(spec: &PodSpec) -> impl Iterator<Item = PortAt<'_>> {
    let lasting = |(_, c): &(usize, &raw::Container)| c.restart_policy == "Always";
    let containers = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    let sidecars = spec.init_containers.iter().enumerate().filter(lasting);
    let sidecars = sidecars.map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    containers.chain(sidecars).flat_map(|(path, container)| {
        let of_container = container.ports.iter().enumerate();
        of_container.map(move |(i, port)| (format!("{path}.ports[{i}]"), port))
    })
}

fn named_ports(spec: &PodSpec, names: &mut Interner) -> Result<Box<[ContainerPort]>, ObjectError> {
    let mut named = Vec::new();
    for (path, port) in ports(spec).filter(|(_, port)| !port.name.is_empty()) {
        let (protocol, container_port) = target(&path, port)?;
        named.push(ContainerPort { name: names.string(&port.name), protocol, port: container_port });
    }
    Ok(named.into())
}

/// Ports of the node that lead to the pod. One on its node's network has none: there they are the node's own.
fn host_ports(spec: &PodSpec) -> Result<Box<[HostPort]>, ObjectError> {
    let mut mapped = Vec::new();
    for (path, port) in ports(spec).filter(|(_, port)| port.host_port != 0 && !spec.host_network) {
        let (protocol, container_port) = target(&path, port)?;
        let host_ip = match port.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                ObjectError::at(format!("{path}.hostIP"), format!("{text:?} is no IP address"))
            })?),
        };
        let host_port =
            Port::new(port.host_port).map_err(|e| ObjectError::at(format!("{path}.hostPort"), e))?;
        mapped.push(HostPort { host_ip, host_port, container_port, protocol });
    }
    Ok(mapped.into())
}

fn target(path: &str, port: &raw::ContainerPort) -> Result<(Protocol, Port), ObjectError> {
    let protocol = protocol(&port.protocol).map_err(|e| ObjectError::at(format!("{path}.protocol"), e))?;
    let port =
        Port::new(port.container_port).map_err(|e| ObjectError::at(format!("{path}.containerPort"), e))?;
    Ok((protocol, port))
}
