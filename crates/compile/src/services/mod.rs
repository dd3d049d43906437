//! What services lead to, before any row is made of it: which are ours, who has a place that several want, marks and their
//! classes, groups of endpoints, lists of sources, and who may be used.

pub mod affinity;
pub mod cluster_addresses;
pub mod eligible;
pub mod groups;
pub mod marks;
pub mod ours;
pub mod published;
pub mod sources;

pub use affinity::kept_seconds;
pub use ours::{has_node_ports, holder, is_ours, node_port_addresses, out_of_range};
