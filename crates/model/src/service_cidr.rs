//! Blocks of virtual addresses, as the cluster's administrators add and remove them one by one.

use serde::{Deserialize, Serialize};

use crate::{Cidr, ObjectName};

/// A `ServiceCIDR` object: blocks that services' virtual addresses come from, beside those of the networks. One on its
/// way out counts until it is gone, since services may still have addresses of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// Its name; it belongs to the cluster, not to a namespace.
    pub name: ObjectName,
    /// Its blocks, at most one a family.
    pub cidrs: Vec<Cidr>,
}
