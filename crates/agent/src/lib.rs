//! The agent: what runs on a node.
//!
//! One thread, the [`core`], knows everything. Around it: the [`kernel_thread`] makes the kernel equal
//! the plan, the [`publisher`] tells the store about this node, the [`api`] serves the CNI plugin and the command line
//! ([`routes`]), the DNS server answers names, and [`health`] answers load
//! balancers. [`run`] wires them.
//!
//! What always holds: an agent that is killed at any moment leaves the network working, and the next one takes up
//! where it was ([`records`]).

pub mod addresses;
pub mod api;
mod background;
pub mod cluster_dns;
pub mod config;
pub mod conflist;
pub mod core;
pub mod crash;
mod dns;
pub mod explain;
pub mod fact_log;
pub mod health;
pub mod kernel_thread;
pub mod late_store;
pub mod machine;
pub mod memory;
pub mod message;
pub mod migrate;
mod others;
pub mod overlaps;
mod preview;
pub mod publisher;
pub mod records;
pub mod routes;
pub mod run;
mod servers;
pub mod status;
pub mod trial;

pub use config::{AgentConfig, ConfigError};
pub use run::{Agent, RunError};
/// The agent's version.
pub use weft_cni::VERSION;
