//! What services lead to, before any row is made of it: which are ours, marks and their classes, groups of endpoints, and
//! who may be used.

pub mod eligible;
pub mod groups;
pub mod marks;
pub mod ours;

pub use ours::{is_ours, node_port_addresses};
