//! Nodes.

use std::net::IpAddr;

use weft_model::{Cidr, NetworkName, Node, NodeAddress, NodeCidr, NodeName, machine_address};

use super::error::keyed;
use super::flannel;
use super::raw::{NodeSpec, NodeStatus, Object};
use super::{ADDRESSES_ANNOTATION, Interner, ObjectError, POD_CIDRS_ANNOTATION, VTEP_MAC_ANNOTATION};

/// What the cluster autoscaler writes on a node that it is about to remove.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

pub(super) fn node(raw: &Object<NodeSpec, NodeStatus>, names: &mut Interner) -> Result<Node, ObjectError> {
    let name: NodeName = names.node(&raw.metadata.name).map_err(|e| ObjectError::at("metadata.name", e))?;
    let annotation = |key: &str| raw.metadata.annotations.get(key);
    let broken = |key: &str, reason: &dyn std::fmt::Display| {
        ObjectError::at(keyed("metadata.annotations", key), reason)
    };
    let mut node = Node::named(name);
    node.labels = names.labels(&*raw.metadata.labels);
    node.addresses = match annotation(ADDRESSES_ANNOTATION) {
        Some(text) => {
            // Its own word counts, whatever else stands there.
            node.registered = internal_addresses(&raw.status).unwrap_or_default();
            addresses(text).map_err(|e| broken(ADDRESSES_ANNOTATION, &e))?
        }
        None => {
            node.registered = internal_addresses(&raw.status)?;
            node.registered.iter().map(|ip| NodeAddress { ip: *ip, prefix: None }).collect()
        }
    };
    node.leaving = raw.metadata.deletion_timestamp.is_some()
        || raw.spec.taints.iter().any(|taint| taint.key == LEAVING_TAINT);
    node.pod_cidrs = ordinary_cidrs(&raw.spec)?;
    if let Some(text) = annotation(POD_CIDRS_ANNOTATION) {
        node.pod_cidrs.extend(named_cidrs(text).map_err(|e| broken(POD_CIDRS_ANNOTATION, &e))?);
    }
    if let Some(text) = annotation(VTEP_MAC_ANNOTATION) {
        node.published_vtep_mac = Some(text.trim().parse().map_err(|e| broken(VTEP_MAC_ANNOTATION, &e))?);
    }
    flannel::complete(&mut node, &annotation);
    Ok(node)
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// `192.0.2.1/24,2001:db8::1/64`; a prefix may be missing.
fn addresses(text: &str) -> Result<Vec<NodeAddress>, String> {
    parts(text)
        .map(|part| {
            let bad = || format!("{part:?} is no address; write ADDRESS/PREFIX, such as 192.0.2.1/24");
            let (ip, prefix) = match part.parse::<ipnet::IpNet>() {
                Ok(net) => (net.addr(), Some(net.prefix_len())),
                Err(_) => (part.parse().map_err(|_| bad())?, None),
            };
            Ok(NodeAddress { ip: machine_address(ip).map_err(|e| e.to_string())?, prefix })
        })
        .collect()
}

/// Addresses of type `InternalIP`: the others aren't how nodes reach each other.
fn internal_addresses(status: &NodeStatus) -> Result<Vec<IpAddr>, ObjectError> {
    let internal = status.addresses.iter().enumerate().filter(|(_, a)| a.r#type == "InternalIP");
    internal
        .map(|(i, a)| {
            let broken = |reason: String| ObjectError::at(format!("status.addresses[{i}].address"), reason);
            let ip = a.address.parse().map_err(|_| broken(format!("{:?} is no IP address", a.address)))?;
            machine_address(ip).map_err(|e| broken(e.to_string()))
        })
        .collect()
}

fn ordinary_cidrs(spec: &NodeSpec) -> Result<Vec<NodeCidr>, ObjectError> {
    let listed = spec.pod_cidrs.iter().enumerate().map(|(i, text)| (format!("spec.podCIDRs[{i}]"), text));
    // The older, single field is the list's first element, or stands alone.
    let single = (spec.pod_cidrs.is_empty() && !spec.pod_cidr.is_empty())
        .then(|| ("spec.podCIDR".to_owned(), &spec.pod_cidr));
    listed
        .chain(single)
        .map(|(field, text)| {
            let cidr = text.parse().and_then(Cidr::for_pods).map_err(|e| ObjectError::at(field, e))?;
            Ok(NodeCidr { network: NetworkName::ordinary(), cidr })
        })
        .collect()
}

/// `blue=10.9.0.0/24,blue=fd00:9::/64`.
fn named_cidrs(text: &str) -> Result<Vec<NodeCidr>, String> {
    parts(text)
        .map(|part| {
            let (network, cidr) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is no block; write NETWORK=CIDR"))?;
            Ok(NodeCidr {
                network: network.trim().parse().map_err(|e: weft_model::InvalidName| e.to_string())?,
                cidr: cidr.trim().parse().and_then(Cidr::for_pods).map_err(|e| e.to_string())?,
            })
        })
        .collect()
}
