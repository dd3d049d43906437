//! The agent's local API: HTTP/1.1 with JSON over a unix socket, for the CNI plugin and the command line.
//!
//! This is transport only. A request becomes an [`ApiRequest`] and goes to the one [`Handler`], which decides what
//! paths there are. `docs/interfaces/attachment.md` describes what is said.
//!
//! What always holds: only root and the agent's own user are served. One agent holds a run folder at a time. Bodies,
//! descriptors, connections and waiting all have limits, so no client can keep the agent from others. The handler
//! runs on its own threads and may block.
//!
//! What is absent: the network, plans, leases.

pub mod client;
mod descriptors;
mod exchange;
mod run_dir;
mod server;

#[cfg(test)]
mod tests;

pub use exchange::{ApiRequest, ApiResponse, HandedOn, Handler};
pub use run_dir::{RunDir, RunDirError, Turn, hold_state, is_awaited};
pub use server::{ApiServer, Limits, StartError};
