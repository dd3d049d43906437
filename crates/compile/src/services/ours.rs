//! Which services this proxy serves, which of several that want one place has it, and at which of the node's addresses node ports
//! are found.

use std::net::IpAddr;

use weft_model::{ObjectKey, Port, Service, ServiceKind};

use super::cluster_addresses::taken;
use super::published::Place;
use crate::engine::Context;
use crate::settings::ServiceSettings;

/// Names another proxy that serves it (`service.kubernetes.io/service-proxy-name`).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Nobody serves it.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// True where this proxy is the one that serves it.
pub fn is_ours(service: &Service, settings: &ServiceSettings) -> bool {
    !service.headless
        && !matches!(service.kind, ServiceKind::ExternalName(_))
        && service.labels.get(HEADLESS).is_none()
        && service.labels.get(PROXY_NAME) == settings.proxy_name.as_deref()
}

/// Why a service may not have this port at the node's own addresses, in words.
pub fn out_of_range(port: Port, settings: &ServiceSettings) -> Option<String> {
    let range = settings.node_ports.filter(|range| !range.contains(port))?;
    Some(format!(
        "lies outside of {range}, the ports of the node that services may have: it is left out; write one of these, or widen \
         services.nodePortRange in the agents' configuration"
    ))
}

/// Whose a place is, of those who want it.
pub fn holder<'a>(place: Place, settings: &ServiceSettings, context: &Context<'a>) -> Option<&'a ObjectKey> {
    let ours = |key: &&ObjectKey| context.facts.service(key).is_some_and(|found| is_ours(found, settings));
    let published = context.facts.published();
    let virtual_address = place.address.filter(|_| published.is_virtual(place));
    // What can't be a cluster address is no reason to keep others away who have it as an external one.
    match virtual_address.is_some_and(|ip| taken(ip, context).is_some()) {
        true => published.wanting_outside(place).find(ours),
        false => published.wanting(place).find(ours),
    }
}

/// This machine's addresses at which node ports are served: all, or those in the configured blocks. In no order; one that
/// is on two links comes twice.
pub fn node_port_addresses<'a>(
    settings: &'a ServiceSettings,
    context: &Context<'a>,
) -> impl Iterator<Item = IpAddr> + 'a {
    context.facts.host().addresses().filter(|address| has_node_ports(*address, settings))
}

/// Whether node ports are served at an address, if it is this machine's own.
pub fn has_node_ports(address: IpAddr, settings: &ServiceSettings) -> bool {
    let blocks = &settings.node_port_addresses;
    blocks.is_empty() || blocks.iter().any(|block| block.contains(address))
}
