//! Asking the node's resolvers.
//!
//! What always holds: a client hears from us before it gives up, whatever resolvers do; a resolver's message counts only
//! with the id, port, question and case that were drawn for this one request; none of our own addresses is ever asked.

mod address;
mod exchange;
mod forwarder;
mod pending;
mod resolv_conf;
mod upstream;

pub use address::{NoAddress, ResolverAddress};
pub use forwarder::{ForwardError, Forwarder, Limits};
pub use resolv_conf::UpstreamSource;
