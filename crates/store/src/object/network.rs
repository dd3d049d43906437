//! Networks: our own kind, `apiVersion: weft.dev/v1`, `kind: Network`.

use weft_model::{Cidr, Family, Network, NetworkName, Overlay, Port, Shape, Vni};

use super::ObjectError;
use super::raw::{Meta, NetworkSpec};

/// The port of the nodes' DNS servers, of which a tunnel would take the UDP part.
const DNS_PORT: u32 = 53;

pub(super) fn network(meta: &Meta, spec: &NetworkSpec) -> Result<Network, ObjectError> {
    let name = NetworkName::new(&meta.name).map_err(|e| ObjectError::at("metadata.name", e))?;
    let mut network = Network::named(name);
    network.pod_cidrs = cidrs("spec.podCIDRs", &spec.pod_cidrs)?;
    for (i, block) in network.pod_cidrs.iter().enumerate() {
        block.for_pods().map_err(|e| ObjectError::at(format!("spec.podCIDRs[{i}]"), e))?;
    }
    for family in Family::ALL {
        let blocks: Vec<&Cidr> = network.pod_cidrs.iter().filter(|c| c.family() == family).collect();
        if let [first, second, ..] = blocks[..] {
            let reason = format!("{first} and {second} are both {family}; give one block of each family");
            return Err(ObjectError::at("spec.podCIDRs", reason));
        }
    }
    network.service_cidrs = cidrs("spec.serviceCIDRs", &spec.service_cidrs)?;
    network.no_masquerade = cidrs("spec.noMasquerade", &spec.no_masquerade)?;
    let blocks = network.pod_cidrs.clone();
    let share =
        |field, given: Option<u8>, family, usual: u8| node_prefix(field, given, family, usual, &blocks);
    network.node_prefix_v4 =
        share("spec.nodePrefixV4", spec.node_prefix_v4, Family::V4, network.node_prefix_v4)?;
    network.node_prefix_v6 =
        share("spec.nodePrefixV6", spec.node_prefix_v6, Family::V6, network.node_prefix_v6)?;
    network.shape = match spec.shape.as_str() {
        "" => Shape::default(),
        "flat" => Shape::Flat,
        "island" => Shape::Island,
        "isolated" => Shape::Isolated,
        other => return Err(choice("spec.shape", other, "flat, island or isolated")),
    };
    network.overlay = match spec.overlay.as_str() {
        "" => Overlay::default(),
        "auto" => Overlay::Auto,
        "vxlan" => Overlay::Vxlan,
        "host-gw" => Overlay::HostGw,
        other => return Err(choice("spec.overlay", other, "auto, vxlan or host-gw")),
    };
    if let Some(vni) = spec.vni {
        network.vni = Vni::new(vni).map_err(|e| ObjectError::at("spec.vni", e))?;
    }
    if let Some(port) = spec.vxlan_port {
        if port == DNS_PORT {
            let reason =
                format!("{DNS_PORT} is where every node answers names; give the tunnel another port");
            return Err(ObjectError::at("spec.vxlanPort", reason));
        }
        network.vxlan_port = Port::new(port).map_err(|e| ObjectError::at("spec.vxlanPort", e))?;
    }
    // RFC 8200 §5: no link that carries IPv6 may be smaller.
    if let Some(mtu) = spec.mtu.filter(|m| !(1280..=65_535).contains(m)) {
        return Err(ObjectError::at("spec.mtu", format!("{mtu} is no usable MTU; it must be 1280 to 65535")));
    }
    network.mtu = spec.mtu;
    Ok(network)
}

/// Blocks as text, checked one by one.
pub(super) fn cidrs(field: &str, texts: &[String]) -> Result<Vec<Cidr>, ObjectError> {
    let parse =
        |(i, text): (usize, &String)| text.parse().map_err(|e| ObjectError::at(format!("{field}[{i}]"), e));
    texts.iter().enumerate().map(parse).collect()
}

/// The given prefix of a node's share, or the usual one, moved where the block is too small for it.
fn node_prefix(
    field: &str,
    given: Option<u8>,
    family: Family,
    usual: u8,
    blocks: &[Cidr],
) -> Result<u8, ObjectError> {
    let block = blocks.iter().find(|c| c.family() == family);
    let least = block.map_or(0, Cidr::prefix);
    // A share of one or two addresses serves no pods.
    let most = family.bits() - 2;
    match given {
        Some(prefix) if (least..=most).contains(&prefix) => Ok(prefix),
        Some(prefix) => {
            let within = block.map_or(String::new(), |b| format!(" inside {b}"));
            Err(ObjectError::at(field, format!("{prefix} is no share{within}; it must be {least} to {most}")))
        }
        None => Ok(usual.max(least)),
    }
}

fn choice(field: &str, value: &str, choices: &str) -> ObjectError {
    ObjectError::at(field, format!("{value:?} is unknown; use {choices}"))
}
