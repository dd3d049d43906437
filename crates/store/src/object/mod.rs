//! Kubernetes-shaped objects, in YAML or JSON, to facts.
//!
//! What always holds: only the fields that Weft uses are decoded, and all others are passed over, so that an object of
//! any Kubernetes version is readable; what is decoded is checked, and an error names the field, the value and the mend.
//! Absent fields mean what the Kubernetes API says they mean.
//!
//! What is absent: files, clients, watches. The same code reads what a directory, an API server and etcd hold.

pub mod decode;
pub mod error;
pub(crate) mod flannel;
pub mod intern;
mod json;
mod locate;
mod network;
mod node;
mod pod;
pub(crate) mod raw;
mod service;
mod service_cidr;
mod slice;
pub mod text;
mod tree;
mod yaml;

pub(crate) use decode::decode_node;
pub use decode::{Decoded, ObjectId, Outcome, Sink, UnknownKind, decode_text, decode_value};
pub use error::ObjectError;
pub(crate) use error::path_of;
pub use intern::Interner;
pub use json::decode_json;
pub(crate) use json::tree as json_tree;
pub use text::{Document, decode_yaml, documents};

/// Objects in one file or value at most; what holds more is not read.
pub const MOST_OBJECTS: usize = 250_000;

/// Annotation of a Pod: the network that it is on.
pub const NETWORK_ANNOTATION: &str = "weft.dev/network";
/// Annotation of a Node: its addresses with the prefix lengths of their links, joined by commas.
pub const ADDRESSES_ANNOTATION: &str = "weft.dev/addresses";
/// Annotation of a Node: MAC address of its tunnel end.
pub const VTEP_MAC_ANNOTATION: &str = "weft.dev/vtep-mac";
/// Annotation of a Node: blocks in networks other than the ordinary one, as `NETWORK=CIDR` joined by commas.
pub const POD_CIDRS_ANNOTATION: &str = "weft.dev/pod-cidrs";
