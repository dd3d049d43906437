//! The CNI protocol, and the thin plugin that a container runtime calls.
//!
//! The plugin reads a request, opens the container's network namespace, and hands both to the agent over a unix
//! socket; the agent does the work. This library is both ends of that: it parses requests, renders results, and
//! speaks the socket's protocol, so that plugin and agent can't disagree.
//!
//! What always holds: parsing and rendering are pure and total. Any bytes give a value or a [`CniError`], never a
//! panic. An answer is in the version of the configuration that asked.
//!
//! What is absent: addresses, links, routes and rules. Nothing here changes the network.
//!
//! Read in this order: [`version`], [`error`], [`config`], [`request`], [`result`], [`wire`], [`plugin`].

pub mod args;
pub mod client;
pub mod config;
pub mod conflist;
pub mod error;
mod field;
pub mod netns;
pub mod plugin;
pub mod prefix;
pub mod request;
pub mod result;
pub mod runtime_config;
pub mod tombstone;
pub mod version;
pub mod wire;

pub use args::{CniArgs, PodArgs};
pub use config::NetConf;
pub use conflist::{ConflistSettings, conflist};
pub use error::{CniError, Code};
pub use prefix::IpPrefix;
pub use request::{Attach, AttachmentRef, Command, Gc, Request};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use runtime_config::{HostPortProtocol, PortMapping, Wishes};
pub use version::Version;
pub use wire::{Call, Verb};
