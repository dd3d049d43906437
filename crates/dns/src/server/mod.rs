//! The sockets: requests in, replies out, on a thread of its own.
//!
//! What always holds: names of our zones are answered in the loop that received them; only forwarded requests become
//! tasks, and their number is limited. A server that is stopped empties its sockets first, so that another one that
//! listens at the same addresses (SO_REUSEPORT) takes over without a loss.

mod clients;
mod config;
mod counters;
mod handle;
mod service;
mod socket;
mod tcp;
mod udp;

pub use config::Config;
pub use counters::Counters;
pub use handle::{DnsError, Handle, serve};
