//! Weft's own plugin: hands each call to the node's agent, over its socket.
//!
//! Read in this order: [`config`], [`request`], [`wire`], `plugin`; [`client`] and [`tombstone`] are what these stand on, and
//! [`conflist`] is what brings runtimes here.

pub mod client;
pub mod config;
pub mod conflist;
mod plugin;
pub mod request;
pub mod tombstone;
pub mod wire;

pub use config::WeftConf;
pub use conflist::{ConflistSettings, conflist};
pub(crate) use plugin::serve;
pub use request::{Attach, Gc, Request};
