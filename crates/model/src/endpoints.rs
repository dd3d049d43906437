//! Endpoint slices: where a service leads to.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Family, Keyed, NodeName, ObjectKey, ObjectName, Port, Protocol};

/// What wrote a slice, which decides whether another one hides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SliceSource {
    /// A `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// A v1 Endpoints object; hidden by any EndpointSlice of the same service.
    Endpoints,
    /// Derived by Weft from the service's selector; hidden by both.
    Selector,
}

/// A port of every endpoint in a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The service port's name; empty where it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port; `None` stands for all ports.
    pub port: Option<Port>,
}

/// One place that a service leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its addresses: interchangeable, one family, in practice one.
    pub addresses: Vec<IpAddr>,
    /// It takes new connections. An absent condition counts as true.
    pub ready: bool,
    /// It answers, ready or on its way out.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
    /// Its name under the service.
    pub hostname: Option<Arc<str>>,
    /// The node that it is on.
    pub node: Option<NodeName>,
    /// The zone that it is in.
    pub zone: Option<Arc<str>>,
    /// Zones that should use it (`hints.forZones`).
    pub hint_zones: Vec<Arc<str>>,
    /// Nodes that should use it (`hints.forNodes`).
    pub hint_nodes: Vec<NodeName>,
    /// The pod behind it.
    pub pod: Option<ObjectKey>,
}

/// A part of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The service, by the label `kubernetes.io/service-name`.
    pub service: Option<ObjectName>,
    /// What wrote it.
    pub source: SliceSource,
    /// The family of its addresses.
    pub family: Family,
    /// Ports of every endpoint. Shared, as endpoints are: for the log, and to tell what was from what is, a fact is copied as it comes.
    pub ports: Arc<[EndpointPort]>,
    /// The endpoints.
    pub endpoints: Arc<[Endpoint]>,
}

impl Keyed for EndpointSlice {
    type Key = ObjectKey;
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl EndpointSlice {
    /// Namespace and name of the service that it belongs to.
    pub fn service_key(&self) -> Option<ObjectKey> {
        let name = self.service.clone()?;
        Some(ObjectKey { namespace: self.key.namespace.clone(), name })
    }
}
