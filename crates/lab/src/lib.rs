//! Clusters of network namespaces for the demo, the tests and the benchmarks.
//!
//! A *lab* is a set of *machines* (nodes, a router, a host on the internet, a client), each a set of namespaces
//! with its own network, files and processes, cabled as a [`Topology`] says. A [`runtime::Runtime`] connects *pods*
//! on them through CNI plugins as a container runtime does.
//!
//! Only [`weft`] knows how Weft's own programs are started and asked.
//!
//! What always holds: a lab needs no more than root or a user namespace ([`sandbox`]), never touches the real
//! machine's network, and leaves nothing ([`leftovers`]).
//!

pub mod api_server;
mod directory;
mod error;
mod exec;
pub mod kube_proxy;
pub mod kubernetes;
pub mod lab;
pub mod leftovers;
pub mod load;
pub mod machine;
pub mod manifest;
pub mod matrix;
pub mod pod;
pub mod probe;
pub mod resolve;
pub mod runtime;
pub mod sandbox;
pub mod serve;
pub mod tool;
pub mod topology;
pub mod weft;
pub mod witness;

pub use error::LabError;
pub use exec::exec_main;
pub use lab::Lab;
pub use leftovers::Leftovers;
pub use machine::{Machine, Net, Process};
pub use pod::{Pod, PodSpec};
pub use tool::Tool;
pub use topology::Topology;
