//! Cluster facts in Weft's own checked types.
//!
//! A *fact* is something that is true of the cluster or of this node: a node exists, a pod has an address, a
//! service selects pods. Facts come from a store (`weft-store`), from CNI calls and from the host itself; they are
//! the only input of `weft-compile`.
//!
//! What always holds: a value of one of these types is valid. Names, prefixes, ports and identifiers are checked
//! once, where they enter, by the constructors here.
//!
//! What is absent: I/O, clocks, async, and every client library's types.

pub mod attachment;
pub mod endpoints;
pub mod fact;
pub mod host;
pub mod labels;
pub mod name;
pub mod namespace;
pub mod net;
pub mod network;
pub mod node;
pub mod pod;
mod port_range;
pub mod service;
pub mod service_cidr;
pub mod table;
pub mod time;

pub use attachment::{Attachment, AttachmentId, HostPort, PodIdentity};
pub use endpoints::{Endpoint, EndpointPort, EndpointSlice, SliceSource};
pub use fact::{Change, Fact, FactKey, Warning};
pub use host::{Host, HostLink};
pub use labels::{Labels, Requirement, Selector};
pub use name::{InvalidName, NamespaceName, NetworkName, NodeName, ObjectKey, ObjectName};
pub use namespace::Namespace;
pub use net::{Cidr, Family, IfName, InvalidNet, Mac, Port, Protocol, Vni, machine_address};
pub use network::{Network, Overlay, Shape};
pub use node::{Flannel, FlannelBackend, Node, NodeAddress, NodeCidr};
pub use pod::{ContainerPort, Pod, PodIps};
pub use port_range::PortRange;
pub use service::{
    IngressMode, LoadBalancerAddress, Service, ServiceKind, ServicePort, TargetPort, TrafficDistribution,
    TrafficPolicy,
};
pub use service_cidr::ServiceCidr;
pub use table::{Hashed, Keyed, Slot, Table};
