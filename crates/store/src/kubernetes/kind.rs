//! The kinds that are watched, and what is asked for of each.
//!
//! What always holds: nothing is asked for that the plan has no use for. Pods of other nodes are most of a large cluster,
//! and a node needs none of them to lead packets: those go by nodes' blocks and by endpoint slices.

use weft_model::{Fact, FactKey, NamespaceName, NodeName, ObjectKey, ObjectName, Pod};

use super::PodScope;
use crate::object::ObjectId;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Namespace,
    Service,
    ServiceCidr,
    EndpointSlice,
    Pod,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Node, Kind::Namespace, Kind::Service, Kind::ServiceCidr, Kind::EndpointSlice, Kind::Pod];

    /// Group, version and kind, as objects bear them.
    pub fn id(self) -> ObjectId {
        let (api_version, kind) = match self {
            Kind::Node => ("v1", "Node"),
            Kind::Namespace => ("v1", "Namespace"),
            Kind::Service => ("v1", "Service"),
            Kind::ServiceCidr => ("networking.k8s.io/v1", "ServiceCIDR"),
            Kind::EndpointSlice => ("discovery.k8s.io/v1", "EndpointSlice"),
            Kind::Pod => ("v1", "Pod"),
        };
        ObjectId { api_version: api_version.into(), kind: kind.into() }
    }

    /// The resource's name, as a person knows it.
    pub fn resource(self) -> &'static str {
        match self {
            Kind::Node => "nodes",
            Kind::Namespace => "namespaces",
            Kind::Service => "services",
            Kind::ServiceCidr => "servicecidrs",
            Kind::EndpointSlice => "endpointslices",
            Kind::Pod => "pods",
        }
    }

    /// The path of all of them.
    pub fn path(self) -> String {
        let group = match self {
            Kind::ServiceCidr => "apis/networking.k8s.io/v1",
            Kind::EndpointSlice => "apis/discovery.k8s.io/v1",
            _ => "api/v1",
        };
        format!("/{group}/{}", self.resource())
    }

    /// Which of them, as a query that may be empty and begins with `&` otherwise. A pod that has ended for good has no
    /// address, and one without a node has none yet.
    pub fn selection(self, node: &NodeName, scope: PodScope) -> String {
        match (self, scope) {
            (Kind::Pod, PodScope::Own) => format!("&fieldSelector=spec.nodeName%3D{node}"),
            (Kind::Pod, PodScope::All) => {
                "&fieldSelector=spec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed"
                    .into()
            }
            _ => String::new(),
        }
    }

    /// The form of the answers. Of a namespace only the metadata is of use.
    pub fn accept(self) -> &'static str {
        match self {
            Kind::Namespace => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
            _ => "application/json",
        }
    }

    /// True where a large cluster has so many that their list is worth a connection.
    pub fn is_long(self, scope: PodScope) -> bool {
        match self {
            Kind::Node | Kind::Service | Kind::EndpointSlice => true,
            Kind::Pod => scope == PodScope::All,
            Kind::Namespace | Kind::ServiceCidr => false,
        }
    }

    /// The form of lists.
    pub fn accept_list(self) -> &'static str {
        match self {
            Kind::Namespace => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
            _ => "application/json",
        }
    }

    /// True where a server may not know the kind: ServiceCIDRs came with Kubernetes 1.33.
    pub fn is_optional(self) -> bool {
        self == Kind::ServiceCidr
    }

    /// The key of an object by its name, where that is one.
    pub fn key(self, namespace: &str, name: &str) -> Option<FactKey> {
        let namespaced = || ObjectKey::new(namespace, name).ok();
        match self {
            Kind::Node => NodeName::new(name).ok().map(FactKey::Node),
            Kind::Namespace => NamespaceName::new(name).ok().map(FactKey::Namespace),
            Kind::Service => namespaced().map(FactKey::Service),
            Kind::ServiceCidr => ObjectName::new(name).ok().map(FactKey::ServiceCidr),
            Kind::EndpointSlice => namespaced().map(FactKey::EndpointSlice),
            Kind::Pod => namespaced().map(FactKey::Pod),
        }
    }
}

/// Takes away of a fact what only this node's own objects are asked for, and what the cluster does by itself.
pub(super) fn pruned(fact: Fact, node: &NodeName) -> Fact {
    match fact {
        // The cluster's controller writes the slices. Where it hasn't yet, the pods that this node sees are not all.
        Fact::Service(mut service) => {
            service.selector = None;
            Fact::Service(service)
        }
        Fact::Pod(pod) if pod.node.as_ref() != Some(node) => Fact::Pod(of_another_node(pod)),
        fact => fact,
    }
}

/// What is of use of a pod elsewhere: whose addresses are these?
fn of_another_node(pod: Pod) -> Pod {
    let bare = Pod::named(pod.key);
    let Pod { node, network, labels, ips, host_network, terminating, finished, .. } = pod;
    Pod { node, network, labels, ips, host_network, terminating, finished, ..bare }
}

#[cfg(test)]
mod tests {
    use weft_model::Node;

    use super::*;

    /// By these others know that an address without a network around it is a machine's.
    #[test]
    fn another_nodes_registered_addresses_are_kept() {
        let mut other = Node::named(NodeName::new("n2").unwrap());
        other.registered.push("10.100.0.21".parse().unwrap());
        let fact = Fact::Node(other);
        assert_eq!(pruned(fact.clone(), &NodeName::new("n1").unwrap()), fact);
    }

    #[test]
    fn only_what_is_needed_is_asked_for() {
        let node = NodeName::new("n1").unwrap();
        let asked = |scope| {
            Kind::ALL.map(|kind| format!("{}?watch=true{}", kind.path(), kind.selection(&node, scope)))
        };
        assert_eq!(
            asked(PodScope::Own),
            [
                "/api/v1/nodes?watch=true",
                "/api/v1/namespaces?watch=true",
                "/api/v1/services?watch=true",
                "/apis/networking.k8s.io/v1/servicecidrs?watch=true",
                "/apis/discovery.k8s.io/v1/endpointslices?watch=true",
                "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1",
            ]
        );
        assert!(
            asked(PodScope::All)[5]
                .ends_with("spec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed")
        );
    }
}
