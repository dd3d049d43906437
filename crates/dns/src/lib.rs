//! The DNS server of a node: names of the cluster from the plan, everything else from the node's resolvers.
//!
//! - [`wire`]: the message format;
//! - [`zones`]: finding names in the plan's rows;
//! - [`mod@answer`]: the pure function from request to reply;
//! - [`relay`]: what a resolver is asked, and what becomes of its reply; also pure;
//! - [`forward`]: the resolvers, their health, and asking them;
//! - [`server`]: the sockets.
//!
//! What always holds: one request costs no task, no allocation that outlives it, and no lock but a short read of the plan,
//! unless it must be forwarded. What is absent: services, pods, and a cache.

pub mod answer;
pub mod forward;
pub mod relay;
pub mod server;
pub mod wire;
pub mod zones;

pub use answer::{Answer, Chase, Transport, Via, answer};
pub use forward::UpstreamSource;
pub use server::{Config, Counters, DnsError, Handle, serve};
pub use zones::Zones;
