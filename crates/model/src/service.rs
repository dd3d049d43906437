//! Services: names and virtual addresses for sets of pods.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Cidr, Family, Keyed, Labels, ObjectKey, Port, Protocol};

/// What a service offers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceKind {
    /// Virtual addresses inside the cluster; none of them for a headless service.
    ClusterIp,
    /// Also a port on nodes.
    NodePort,
    /// Also an address from outside.
    LoadBalancer,
    /// An alias for a name elsewhere.
    ExternalName(Arc<str>),
}

/// Where a service's port leads in a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetPort {
    /// This port.
    Number(Port),
    /// The pod's port of this name.
    Name(Arc<str>),
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where the service has only one.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the virtual address.
    pub port: Port,
    /// The port in the pod.
    pub target: TargetPort,
    /// The port on nodes.
    pub node_port: Option<Port>,
}

/// Which endpoints traffic may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any.
    #[default]
    Cluster,
    /// Those on the node where the packet is.
    Local,
}

/// Which endpoints are preferred (`spec.trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// Those in the same zone (`PreferClose`, `PreferSameZone`).
    SameZone,
    /// Those on the same node (`PreferSameNode`).
    SameNode,
}

/// How a load balancer hands packets on (`status.loadBalancer.ingress[].ipMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IngressMode {
    /// With its own address as destination: nodes answer for it.
    #[default]
    Vip,
    /// Through a proxy: nodes must not answer for it.
    Proxy,
}

/// An address of a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LoadBalancerAddress {
    /// The address.
    pub ip: IpAddr,
    /// How it hands packets on.
    pub mode: IngressMode,
}

/// What is known of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its labels: `service.kubernetes.io/service-proxy-name` and `…/headless` among them.
    pub labels: Labels,
    /// What it offers.
    pub kind: ServiceKind,
    /// `clusterIP: None`: a name for each endpoint, no virtual address.
    pub headless: bool,
    /// Virtual addresses, at most one a family, the primary first.
    pub cluster_ips: Vec<IpAddr>,
    /// Families that it serves, the primary first.
    pub families: Vec<Family>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Pods that it leads to; `None` where somebody else writes its endpoints.
    pub selector: Option<Labels>,
    /// Further addresses that nodes answer for.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer.
    pub load_balancer: Vec<LoadBalancerAddress>,
    /// Sources that may use the load balancer's addresses; empty means all.
    pub source_ranges: Vec<Cidr>,
    /// Seconds for which a client keeps its endpoint (`sessionAffinity: ClientIP`).
    pub affinity_seconds: Option<u32>,
    /// Endpoints that traffic from inside may use.
    pub internal_policy: TrafficPolicy,
    /// Endpoints that traffic from outside may use.
    pub external_policy: TrafficPolicy,
    /// Port on which nodes say whether they have an endpoint.
    pub health_check_node_port: Option<Port>,
    /// Endpoints count before they are ready.
    pub publish_not_ready: bool,
    /// Preferred endpoints.
    pub distribution: Option<TrafficDistribution>,
}

impl Keyed for Service {
    type Key = ObjectKey;
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Service {
    /// A ClusterIP service without an address, a port or a selector.
    pub fn named(key: ObjectKey) -> Self {
        Self {
            key,
            labels: Labels::default(),
            kind: ServiceKind::ClusterIp,
            headless: false,
            cluster_ips: Vec::new(),
            families: vec![Family::V4],
            ports: Vec::new(),
            selector: None,
            external_ips: Vec::new(),
            load_balancer: Vec::new(),
            source_ranges: Vec::new(),
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            publish_not_ready: false,
            distribution: None,
        }
    }
}
