//! Pods, as far as the network cares.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::{Keyed, Labels, NetworkName, NodeName, ObjectKey, Port, Protocol};

/// A port that a container declares; services refer to it by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerPort {
    /// Its name, unique in the pod.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: Port,
}

/// Addresses of a pod, at most one a family. A big cluster has so many of them that they lie in the pod itself.
pub type PodIps = ArrayVec<IpAddr, 2>;

/// What is known of a pod anywhere in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its uid, which tells a pod from a later one of the same name.
    pub uid: Option<Arc<str>>,
    /// The node that it is bound to.
    pub node: Option<NodeName>,
    /// The network that it is on.
    pub network: NetworkName,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, the preferred first; empty until it has a network.
    pub ips: PodIps,
    /// True for a pod that shares its node's network.
    pub host_network: bool,
    /// True while its Ready condition is.
    pub ready: bool,
    /// True from the moment its deletion was asked for.
    pub terminating: bool,
    /// True once all its containers have ended for good.
    pub finished: bool,
    /// `spec.hostname`.
    pub hostname: Option<Arc<str>>,
    /// `spec.subdomain`: the headless service under which its hostname appears.
    pub subdomain: Option<Arc<str>>,
    /// Ports that have a name.
    pub named_ports: Box<[ContainerPort]>,
    /// Ports of its node that lead to it.
    #[serde(default)]
    pub host_ports: Box<[crate::HostPort]>,
}

impl Keyed for Pod {
    type Key = ObjectKey;
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Pod {
    /// A pod of which only the name is known: no address, not ready.
    pub fn named(key: ObjectKey) -> Self {
        Self {
            key,
            uid: None,
            node: None,
            network: NetworkName::ordinary(),
            labels: Labels::default(),
            ips: PodIps::new(),
            host_network: false,
            ready: false,
            terminating: false,
            finished: false,
            hostname: None,
            subdomain: None,
            named_ports: Box::default(),
            host_ports: Box::default(),
        }
    }
}
