//! What one node's configuration says to `compile`: fixed for the life of a compiler.

use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{Cidr, NodeName, Port, PortRange, Protocol};
use weft_plan::DnsName;

/// How `10-1-2-3.NAMESPACE.pod.ZONE` is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodNames {
    /// They don't exist.
    Disabled,
    /// Any address in an existing namespace, unchecked.
    #[default]
    Insecure,
    /// Only addresses of pods that exist in the namespace.
    Verified,
}

/// The DNS part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// The zone that holds the cluster's names.
    pub zone: DnsName,
    /// Addresses that the node's server answers at: link-local ones and the cluster's DNS address. Pods reach them
    /// without connection tracking. Empty where the node has no server.
    pub addresses: Vec<IpAddr>,
    /// How pods' names are answered.
    pub pod_names: PodNames,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { zone: DnsName::new("cluster.local"), addresses: Vec::new(), pod_names: PodNames::default() }
    }
}

/// The services part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Services with this `service.kubernetes.io/service-proxy-name` are ours; without a name, those without the label.
    pub proxy_name: Option<Arc<str>>,
    /// Blocks in which the node's addresses must be to serve node ports; empty means all of them.
    pub node_port_addresses: Vec<Cidr>,
    /// The ports that services may have at the node's own addresses, node ports and health ports; without one, whatever they say: then
    /// somebody else has seen to it.
    pub node_ports: Option<PortRange>,
}

/// Everything that isn't a fact of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The node that the plan is for.
    pub node: NodeName,
    /// Names.
    pub dns: DnsSettings,
    /// Services; `None` where another program serves them.
    pub services: Option<ServiceSettings>,
    /// Ports of this node's own servers that pods and peers must reach through a closed INPUT firewall, beside those
    /// of DNS and the overlay.
    pub open_ports: Vec<(Protocol, Port)>,
}

impl Settings {
    /// Settings of a node that serves services but no names.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            dns: DnsSettings::default(),
            services: Some(ServiceSettings::default()),
            open_ports: Vec::new(),
        }
    }
}
