//! What all facts have in common: a key, a value, and a change of one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Attachment, AttachmentId, EndpointSlice, Host, Namespace, NamespaceName, Network, NetworkName, Node,
    NodeName, ObjectKey, ObjectName, Pod, Service, ServiceCidr,
};

/// What identifies a fact. Its text form is what a person would type to name the object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FactKey {
    /// This machine.
    Host,
    /// A network.
    Network(NetworkName),
    /// A node.
    Node(NodeName),
    /// A namespace.
    Namespace(NamespaceName),
    /// A pod.
    Pod(ObjectKey),
    /// A service.
    Service(ObjectKey),
    /// An endpoint slice.
    EndpointSlice(ObjectKey),
    /// Blocks of virtual addresses.
    ServiceCidr(ObjectName),
    /// An interface of a pod on this node.
    Attachment(AttachmentId),
}

impl fmt::Display for FactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FactKey::Host => write!(f, "host"),
            FactKey::Network(name) => write!(f, "network {name}"),
            FactKey::Node(name) => write!(f, "node {name}"),
            FactKey::Namespace(name) => write!(f, "namespace {name}"),
            FactKey::Pod(key) => write!(f, "pod {key}"),
            FactKey::Service(key) => write!(f, "service {key}"),
            FactKey::EndpointSlice(key) => write!(f, "endpointslice {key}"),
            FactKey::ServiceCidr(name) => write!(f, "servicecidr {name}"),
            FactKey::Attachment(id) => write!(f, "attachment {id}"),
        }
    }
}

/// A fact: what is true now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// This machine.
    Host(Host),
    /// A network.
    Network(Network),
    /// A node.
    Node(Node),
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
    /// A service.
    Service(Service),
    /// An endpoint slice.
    EndpointSlice(EndpointSlice),
    /// Blocks of virtual addresses.
    ServiceCidr(ServiceCidr),
    /// An interface of a pod on this node.
    Attachment(Attachment),
}

impl Fact {
    /// What identifies it.
    pub fn key(&self) -> FactKey {
        match self {
            Fact::Host(_) => FactKey::Host,
            Fact::Network(network) => FactKey::Network(network.name.clone()),
            Fact::Node(node) => FactKey::Node(node.name.clone()),
            Fact::Namespace(namespace) => FactKey::Namespace(namespace.name.clone()),
            Fact::Pod(pod) => FactKey::Pod(pod.key.clone()),
            Fact::Service(service) => FactKey::Service(service.key.clone()),
            Fact::EndpointSlice(slice) => FactKey::EndpointSlice(slice.key.clone()),
            Fact::ServiceCidr(blocks) => FactKey::ServiceCidr(blocks.name.clone()),
            Fact::Attachment(attachment) => FactKey::Attachment(attachment.id.clone()),
        }
    }
}

/// One step from what was true to what is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// This is true now, whatever was before.
    Set(Box<Fact>),
    /// Nothing of this key is true any more.
    Remove(FactKey),
}

impl Change {
    /// A change that makes `fact` true.
    pub fn set(fact: Fact) -> Self {
        Change::Set(Box::new(fact))
    }

    /// The key that it is about.
    pub fn key(&self) -> FactKey {
        match self {
            Change::Set(fact) => fact.key(),
            Change::Remove(key) => key.clone(),
        }
    }
}

/// Something that a person should know of an object: what is wrong, what follows, and the mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Warning {
    /// The object.
    pub object: FactKey,
    /// One or two sentences.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.text)
    }
}
