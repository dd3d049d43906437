//! The CNI protocol, and the thin plugin that a container runtime calls.
//!
//! The plugin reads a request, opens the container's network namespace, and hands both to the agent over a unix
//! socket; the agent does the work. This library is both ends of that: it parses requests, renders results, and
//! speaks the socket's protocol, so that plugin and agent can't disagree.
//!
//! What always holds: parsing and rendering are pure and total. Any bytes give a value or a [`CniError`], never a
//! panic. An answer is in the version of the configuration that asked.
//!
//! Two halves. The protocol is any plugin's: it knows what every configuration and call has, and nobody's own fields. Each plugin
//! has a folder with its own view of these, and a line in [`plugin`]; there is one, [`weft`].
//!
//! What is absent: addresses, links, routes and rules. Nothing here changes the network.
//!
//! Read in this order: [`version`], [`error`], [`config`], [`request`], [`result`], [`plugin`]; then [`weft`].

pub mod args;
pub mod config;
pub mod error;
mod field;
pub mod netns;
pub mod plugin;
pub mod prefix;
pub mod request;
pub mod result;
pub mod runtime_config;
pub mod version;
pub mod weft;

/// The version of whatever is built with this library: the package's, or what whoever builds says by `WEFT_VERSION`, so that two
/// builds can be told apart.
pub const VERSION: &str = match option_env!("WEFT_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

pub use args::{CniArgs, PodArgs};
pub use config::NetConf;
pub use error::{CniError, Code};
pub use prefix::IpPrefix;
pub use request::{AttachmentRef, Verb};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use runtime_config::{HostPortProtocol, PortMapping, Wishes};
pub use version::Version;
pub use weft::wire::Call;
pub use weft::{ConflistSettings, client, conflist, tombstone, wire};
