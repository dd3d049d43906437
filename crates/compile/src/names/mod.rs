//! Names of services, pods and addresses, as the Kubernetes DNS specification 1.1.0 has them.
//!
//! - [`zone`]: the cluster's zone itself;
//! - [`namespace`]: that namespaces exist, and pods' names where they are computed;
//! - [`service`]: services, their ports and endpoints;
//! - [`pod`]: pods' names where they are checked;
//! - [`reverse`]: addresses' names, and the zones that they lie in.
//!
//! What always holds: each name is the business of one piece of work, so none is contested. Every name between a name
//! and its zone has a row too (RFC 8020), but in reverse zones, whose inner names are computed.
//!
//! What is absent: messages, types of records that Kubernetes doesn't know, and whatever a node asks elsewhere.

pub mod address;
pub mod namespace;
pub mod pod;
pub mod reverse;
pub mod service;
pub mod zone;

use crate::engine::Rule;

/// Every rule about names. They give nothing on a node without a DNS server.
pub fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(zone::ZoneRule),
        Box::new(namespace::NamespaceRule),
        Box::new(service::ServiceRule),
        Box::new(pod::PodRule),
        Box::new(reverse::ReverseRule::default()),
    ]
}

#[cfg(test)]
mod tests;
